// From what processes have used so far to how busy their instance is now: the leader measures every few seconds, and the
// difference between two measurements is the load. Called by Supervisor+Upkeep.
package import Routing
package import Runtimes

package struct LoadMeter: Sendable {
  private struct Measurement {
    let cpuMilliseconds: Int
    let at: Int
  }
  private let memoryBytes: Int
  private var last: [String: Measurement] = [:]

  /// - Parameter memoryBytes: the host's, of which an instance without a limit of its own uses a share.
  package init(memoryBytes: Int) { self.memoryBytes = max(1, memoryBytes) }

  /// Takes all measurements of one moment (monotonic milliseconds) and gives the loads of those instances that were
  /// measured before; nil when nothing was. CPU is in percent of the instance's own limit, and without one of one
  /// processor, as most servers and browsers are slow when one of their threads is busy, and a share of a host with many
  /// processors would hardly tell instances apart.
  package mutating func loads(of figures: [String: ProcessFigures], at now: Int) -> [String: InstanceLoad]? {
    var loads: [String: InstanceLoad] = [:]
    for (id, figures) in figures {
      guard let before = last[id], now > before.at else { continue }
      // Processes that ended took their time with them, so the sum may have become less.
      let used = max(0, figures.cpuMilliseconds - before.cpuMilliseconds)
      let processors = figures.milliCPULimit.map { Double(max(1, $0)) / 1_000 } ?? 1
      let memory = figures.memoryLimitBytes.map { min($0, memoryBytes) } ?? memoryBytes
      loads[id] = InstanceLoad(
        cpuPercent: 100 * Double(used) / Double(now - before.at) / processors,
        memoryPercent: min(100, 100 * Double(figures.memoryBytes) / Double(max(1, memory))))
    }
    let isFirst = last.isEmpty
    // Those that are gone are forgotten.
    last = figures.mapValues { Measurement(cpuMilliseconds: $0.cpuMilliseconds, at: now) }
    return isFirst && loads.isEmpty ? nil : loads
  }
}
