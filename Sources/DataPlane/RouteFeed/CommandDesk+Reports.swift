// What this replica has seen instances do wrong, told to the control plane with the heartbeat: at most once a second for
// each instance, and for so many of them. The control plane then checks those at once (docs/health.md).
package import Routing
package import State

/// What one instance did wrong since the last look, whether its pool wants to know or not.
package struct WitnessedFaults: Sendable, Equatable {
  package var instance: String
  package var pool: String
  package var counts: [InstanceFaultKind: Int]

  package init(instance: String, pool: String, counts: [InstanceFaultKind: Int]) {
    self.instance = instance
    self.pool = pool
    self.counts = counts
  }
}

package enum FaultReports {
  /// What of it is told, those that failed most first, and how many instances are left out because there are too many.
  package static func choose(
    _ seen: [WitnessedFaults], pools: [String: PoolRecord], limit: Int = Reports.perReplica
  ) -> (told: [InstanceFaults], dropped: Int) {
    var chosen: [(total: Int, faults: InstanceFaults)] = []
    for witnessed in seen {
      guard let pool = pools[witnessed.pool], pool.reportFailures > 0 else { continue }
      let counts = witnessed.counts.filter { kind, count in
        count > 0 && (kind != .serverError || pool.reportServerErrors)
      }
      let faults = InstanceFaults(instance: witnessed.instance, counts: counts)
      let total = faults.total
      if total >= pool.reportFailures { chosen.append((total, faults)) }
    }
    chosen.sort { ($1.total, $0.faults.instance) < ($0.total, $1.faults.instance) }
    return (chosen.prefix(limit).map(\.faults), max(0, chosen.count - limit))
  }
}

extension CommandDesk {
  /// What is to be told with this beat.
  func faultReport() -> Operation? {
    let seen = core.faults()
    guard !seen.isEmpty else { return nil }
    let (told, dropped) = FaultReports.choose(seen, pools: core.table?.pools ?? [:])
    core.count { $0.faultReportsDropped += dropped }
    guard !told.isEmpty else { return nil }
    return Operation(.report(told.count), reports.report(told)) { .count($0) }
  }
}
