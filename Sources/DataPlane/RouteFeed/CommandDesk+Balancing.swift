// What workers need of the whole deployment to balance by: turns that no other worker has, how many replicas there are,
// and how busy instances are. All of it may be late or missing; workers then go on with what they had.
import ProxyMachine
import Routing
import State

extension CommandDesk {
  /// How often replicas are counted and loads are read; the leader measures loads every 5 s.
  static let readingMilliseconds = 2_000
  /// A replica that has not beaten for so long counts as gone; a second more than the leader allows, for clocks that differ.
  static let replicaLifeMilliseconds = 5_000

  /// What workers were told last, so that only changes wake them up.
  struct Told {
    var replicas = 1
    var loads: [String: InstanceLoad] = [:]
    /// When the next readings are due (monotonic).
    var nextReading = 0
  }

  func borrow(_ pool: String, _ worker: Int) -> Operation {
    Operation(.borrow(pool: pool, worker: worker), balancing.block(pool: pool)) { .block($0) }
  }

  func lend(_ block: Range<UInt64>?, of pool: String, to worker: Int) {
    let workers = core.workers
    guard let block, workers.indices.contains(worker) else { return }
    core.count { $0.blocks += 1 }
    workers[worker].lend(block: block, pool: pool)
  }

  /// What is to be read with this beat. Loads only when a route goes by them.
  func readings() -> [Operation] {
    guard monotonic >= told.nextReading else { return [] }
    told.nextReading = monotonic + Self.readingMilliseconds
    var operations = [
      Operation(.countReplicas, balancing.liveReplicas(since: now - Self.replicaLifeMilliseconds)) { .count($0) }
    ]
    if core.table?.routes.contains(where: { $0.strategy == .resources }) == true {
      operations.append(Operation(.readLoads, balancing.loads()) { .loads($0) })
    }
    return operations
  }

  func tell(replicas count: Int) {
    let count = max(1, count)
    core.count { $0.replicas = count }
    guard count != told.replicas else { return }
    told.replicas = count
    for worker in core.workers { worker.update(replicas: count) }
  }

  func tell(loads: [String: InstanceLoad]) {
    guard loads != told.loads else { return }
    told.loads = loads
    for worker in core.workers { worker.update(loads: loads) }
  }
}
