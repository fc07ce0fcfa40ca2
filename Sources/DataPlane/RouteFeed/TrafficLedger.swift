// What of a replica's counts has been told to Redis, so that each request is told once and nothing is told without need.
// Pure; the command desk brings counts, tables and time.
import ProxyMachine
import Routing
import State

struct TrafficLedger {
  struct Flush {
    let at: Int
    let entries: [TrafficEntry]
  }
  private struct Name: Hashable {
    let instance: String
    let pool: String
  }
  private struct Line: Equatable {
    let generation: Int
    let state: InstanceState
    let active: Int
  }
  /// What has been put into a flush, by instance.
  private var counted: [Name: (requests: Int, errors: Int)] = [:]
  /// What Redis has, as far as is known.
  private var told: [String: Line] = [:]
  /// One that Redis may not have yet: it goes again as it is, which counts nothing twice.
  private(set) var pending: Flush?
  private var lastAt = 0

  /// What Redis is to be told now; nil when it knows everything.
  /// - Parameters:
  ///   - instances: those of the table that all workers route by; read before `report` was made.
  ///   - everything: also what has not changed, in case Redis has lost it.
  ///   - now: Unix milliseconds.
  mutating func flush(_ report: TrafficReport, _ instances: [InstanceRecord], everything: Bool, now: Int) -> Flush? {
    if let pending { return pending }
    var counts: [Name: InstanceTraffic] = [:]
    for traffic in report.instances { counts[Name(instance: traffic.instance, pool: traffic.pool)] = traffic }
    counted = counted.filter { counts[$0.key] != nil }
    var entries: [TrafficEntry] = []
    var lines: [String: Line] = [:]
    for instance in instances {
      let name = Name(instance: instance.id, pool: instance.pool)
      var entry = TrafficEntry(instance: instance.id, generation: instance.generation, state: instance.state)
      if let traffic = counts[name] {
        let before = counted[name] ?? (0, 0)
        // Less than before: its counters began anew.
        entry.requests = traffic.requests - (traffic.requests < before.requests ? 0 : before.requests)
        entry.errors = traffic.errors - (traffic.errors < before.errors ? 0 : before.errors)
        entry.active = max(0, traffic.active)
        counted[name] = (traffic.requests, traffic.errors)
      } else {
        // Not less than what is under way there.
        entry.active = max(0, report.otherActive)
      }
      let line = Line(generation: entry.generation, state: entry.state, active: entry.active)
      lines[instance.id] = line
      if everything || entry.requests > 0 || entry.errors > 0 || told[instance.id] != line { entries.append(entry) }
    }
    told = lines
    guard !entries.isEmpty else { return nil }
    // Another time for each, also when the clock was set back.
    lastAt = max(lastAt + 1, now)
    pending = Flush(at: lastAt, entries: entries)
    return pending
  }

  /// Redis has the last flush.
  mutating func confirmed() { pending = nil }

  /// Whether the leader may wait for this replica to let go of one of the instances. `inForce`: what all workers route
  /// by; `newest`: what they were told to.
  func isAwaited(_ newest: [InstanceRecord]) -> Bool {
    newest.contains { instance in
      guard instance.state == .draining || instance.state == .stopping else { return false }
      return told[instance.id] != Line(generation: instance.generation, state: instance.state, active: 0)
    }
  }
}
