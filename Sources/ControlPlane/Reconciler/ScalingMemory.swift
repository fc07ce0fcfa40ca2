// What the scaler remembers of a pool from look to look: since when it was too large, how long launches take, and how
// fast its slots are being taken. A value: the supervisor keeps it, and a new leader begins with an empty one.
import Domain
import Routing

package struct ScalingMemory: Sendable, Equatable {
  /// Since when there have been more instances than needed, Unix milliseconds.
  package var surplusSince: Int?
  package var launches = LaunchTime()
  package var demand = DemandMeter()

  package init() {}
}

/// How long launches of a pool take: a moving average that gives a quarter to the latest.
package struct LaunchTime: Sendable, Equatable {
  /// 0 = nothing is known yet.
  package private(set) var milliseconds = 0

  package init() {}

  /// An instance became ready so long after its launch had begun.
  package mutating func took(_ duration: Int) {
    let duration = Swift.max(1, duration)
    milliseconds = milliseconds == 0 ? duration : milliseconds + (duration - milliseconds) / 4
  }
}

/// How fast the free slots of a pool go: clients that take one less slots that come back. In a pool whose instances serve
/// one client and are replaced no slot comes back, and this is the rate of arrivals; in one that uses them again it is
/// nothing while as many come as go. Pools without slots count active requests instead.
package struct DemandMeter: Sendable, Equatable {
  /// What happened so long ago counts by less than half. Long enough that single clients are no trend, short enough that
  /// the end of a rush is seen before the delay of scaling down is over.
  static let windowMilliseconds = 30_000
  /// For active requests, which come and go within a look.
  static let smoothingMilliseconds = 5_000

  /// Slots per second; less than 0 while more come back than are taken.
  package private(set) var slotsPerSecond = 0.0
  /// Active requests of all instances, smoothed.
  package private(set) var active = 0.0
  private var free: [String: Int] = [:]
  private var lookedAt: Int?

  package init() {}

  /// Takes in what is to be seen now. A second look at the same moment changes nothing.
  mutating func look(at instances: [ObservedInstance], spec: PoolSpec, now: Int) {
    // A clock that was set back counts as no time at all.
    let elapsed = Double(Swift.max(0, now - (lookedAt ?? now)))
    let isFirst = lookedAt == nil
    lookedAt = now
    let taken: Double
    if spec.slots > 0 {
      taken = Double(slotsTaken(instances, of: spec.slots))
    } else {
      let total = Double(instances.reduce(0) { $0 + ($1.active ?? 0) })
      let before = active
      let smoothing = Double(Self.smoothingMilliseconds)
      active = isFirst ? total : (active * smoothing + total * elapsed) / (smoothing + elapsed)
      taken = isFirst ? 0 : active - before
    }
    // What was taken adds its share of the window, and all of it fades by the time that passed.
    let window = Double(Self.windowMilliseconds)
    slotsPerSecond = (slotsPerSecond * window + taken * 1_000) / (window + elapsed)
  }

  private mutating func slotsTaken(_ instances: [ObservedInstance], of slots: Int) -> Int {
    var taken = 0
    var next: [String: Int] = [:]
    for instance in instances {
      switch instance.state {
      case .starting:
        // When clients wait, all of its slots may be gone at the next look.
        next[instance.id] = slots
      case .ready:
        // A ready instance without free slots in the pool's list has served all its sessions: what it had was taken.
        let now = instance.freeSlots ?? 0
        if let before = free[instance.id] { taken += before - now }
        next[instance.id] = now
      case .unhealthy, .draining, .stopping: break
      }
    }
    free = next
    return taken
  }

  /// Slots that will be taken within that time if it goes on like this, rounded.
  package func slots(within milliseconds: Int) -> Int {
    let expected = slotsPerSecond * Double(milliseconds) / 1_000
    // A bound that no pool reaches, so that the number fits.
    return Int(Swift.min(Swift.max(0, expected), 1_000_000).rounded())
  }
}
