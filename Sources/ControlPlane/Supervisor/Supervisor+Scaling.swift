// Carries out what the scaler wants: launches in turn over all pools within what hosts and this control plane can bear,
// the measuring of launches, and word of pools that would grow if they might.
import Domain
import Logging
import Posix
import Reconciler
import Routing
import Runtimes

/// A launch that the reconciler wants.
struct WantedLaunch: Sendable {
  var restart: Restart?
  /// The instance whose place it takes.
  var replaces: String?
  let reason: String
}

extension Supervisor {
  /// Launches that are under way; nil = of all pools.
  private func launching(_ pool: String? = nil) -> Int {
    instances.values.count { $0.record.state == .starting && $0.busy && (pool == nil || $0.record.pool == pool) }
  }

  /// How many more may begin.
  var launchBudget: Int { max(0, configuration.totalLaunches - launching()) }

  /// Whether this host, where processes run, has as many launches under way as it can bear.
  var hasItsLaunches: Bool {
    let here = instances.values.count {
      $0.record.state == .starting && $0.record.labels[InstanceRecord.hostLabel] == configuration.host
    }
    return here >= configuration.concurrentLaunches
  }

  /// Begins the launches of all pools, as many as may run at once.
  func launchInTurn(_ wanted: [String: [WantedLaunch]]) {
    var turns = LaunchTurns(
      wanted.map { LaunchTurns.Pool(name: $0, wanted: $1.count, running: launching($0)) }, budget: launchBudget)
    var left = wanted
    while let name = turns.next() {
      guard let spec = spec(of: name), let next = left[name]?.removeFirst() else { return }
      if !launch(spec, restart: next.restart, replacing: next.replaces, reason: next.reason) { turns.refuse(name) }
    }
  }

  /// An instance has become ready. One whose image had to be fetched first is measured from its start on: the next one
  /// will not have to wait for that.
  func measureLaunch(of entry: Managed, spec: PoolSpec) {
    guard let began = entry.launchBegan else { return }
    var milliseconds = (ContinuousClock.now - began).milliseconds
    if milliseconds > spec.launchTimeoutMilliseconds { milliseconds = Clock.unixMilliseconds - entry.record.startedAt }
    pools[spec.name, default: PoolMemory()].scaling.launches.took(milliseconds)
  }

  /// Says once when clients wait and `max` keeps the pool from growing, and once when that is over.
  func tellWhetherFull(_ decision: Decision, spec: PoolSpec, waiting: Int) async {
    guard pools[spec.name, default: PoolMemory()].isFull != decision.isFull else { return }
    pools[spec.name, default: PoolMemory()].isFull = decision.isFull
    if decision.isFull {
      logger.warning(
        "pool is full", metadata: ["pool": "\(spec.name)", "max": "\(spec.max)", "waiting": "\(waiting)"])
      await record("pool.full", spec.name, reason: "clients wait, and the pool has its \(spec.max) instances")
    } else {
      logger.info("pool is not full any more", metadata: ["pool": "\(spec.name)"])
      await record("pool.relieved", spec.name, reason: "nobody waits, or there is room for another instance")
    }
  }
}
