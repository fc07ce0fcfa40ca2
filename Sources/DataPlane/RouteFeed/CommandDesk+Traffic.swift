// Tells Redis what this replica has sent to instances: with each heartbeat, and at once when it has let go of one that is on
// its way out. The leader does not stop an instance before every replica has said so.
import ProxyMachine
import Routing
import State

extension CommandDesk {
  /// How soon it is looked again whether the last request of an instance that drains is over.
  static let drainLookMilliseconds = 20
  /// Every so many beats everything is told, whether it changed or not.
  private static let beatsPerRefresh = 10

  struct TrafficState {
    var ledger = TrafficLedger()
    /// When the next report is due (monotonic).
    var due = 0
    var nextBeat = 0
    var beats = 0
    /// Redis has lost what it was told, or never was told.
    var tellsEverything = true
  }

  /// Redis did not know this replica, so nothing of what it was told is there.
  func tellAllTraffic() { traffic.tellsEverything = true }

  func reportTraffic() {
    let isBeat = monotonic >= traffic.nextBeat
    if isBeat {
      traffic.nextBeat = monotonic + Self.beatMilliseconds
      traffic.beats += 1
      if traffic.beats.isMultiple(of: Self.beatsPerRefresh) { traffic.tellsEverything = true }
    }
    guard let (inForce, newest) = core.tablesInForce() else {
      traffic.due = traffic.nextBeat
      return
    }
    // Counted after the look at the tables: what began by an older one is in the counts.
    let isAwaited = traffic.ledger.isAwaited(newest.instances)
    if isBeat || isAwaited {
      let report = core.traffic()
      flushTraffic(report, inForce.instances)
    }
    let isStillAwaited = traffic.ledger.pending == nil && traffic.ledger.isAwaited(newest.instances)
    traffic.due = isStillAwaited ? monotonic + Self.drainLookMilliseconds : traffic.nextBeat
  }

  private func flushTraffic(_ report: TrafficReport, _ instances: [InstanceRecord]) {
    // One that waits for Redis goes first; what came since follows with the next report.
    let everything = traffic.tellsEverything
    let wasPending = traffic.ledger.pending != nil
    guard let flush = traffic.ledger.flush(report, instances, everything: everything, now: now) else { return }
    if !wasPending { traffic.tellsEverything = false }
    perform([
      Operation(
        .flushTraffic, trafficKeys.flush(replica: core.replica, at: flush.at, entries: flush.entries))
    ])
  }
}
