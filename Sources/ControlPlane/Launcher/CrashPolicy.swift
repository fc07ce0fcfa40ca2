// What `berth up` does when one of its children ends although nobody asked it to. Pure: Launcher asks, tests drive it.

/// How a process ended.
package enum Ending: Sendable, Equatable, CustomStringConvertible {
  case exited(status: Int32)
  case killed(signal: Int32)

  package var description: String {
    switch self {
    case .exited(let status): "exited with status \(status)"
    case .killed(let signal): "was killed by signal \(signal)"
    }
  }

  /// Reads a status of waitpid(2).
  package init(waitStatus: Int32) {
    let signal = waitStatus & 0x7f
    self = signal == 0 ? .exited(status: (waitStatus >> 8) & 0xff) : .killed(signal: signal)
  }

  /// A program that refuses its flags or its configuration (EX_USAGE and EX_CONFIG of sysexits) does so again.
  var isHopeless: Bool { self == .exited(status: 64) || self == .exited(status: 78) }
}

/// One child's crashes: an early restart first, then ever later ones, and an end to it when it cannot stay up.
package struct CrashPolicy: Sendable {
  package enum Decision: Sendable, Equatable {
    case restart(afterMilliseconds: Int)
    /// `crashes` in a row, each too soon after its start.
    case giveUp(crashes: Int)
  }

  /// A single crash is healed before most clients notice.
  package static let firstDelayMilliseconds = 200
  package static let longestDelayMilliseconds = 10_000
  /// A child that ran this long was well: what it died of is not what an earlier one died of.
  package static let stableAfterMilliseconds = 30_000
  /// Five starts take about three seconds of waiting: long enough for a port or a disk to come free, short enough for
  /// a person who watches.
  package static let fastCrashLimit = 5

  private var fastCrashes = 0

  package init() {}

  /// What to do about a child that ended `ranMilliseconds` after its start.
  package mutating func ended(_ ending: Ending, ranMilliseconds: Int) -> Decision {
    if ranMilliseconds >= Self.stableAfterMilliseconds { fastCrashes = 0 }
    fastCrashes += 1
    if ending.isHopeless || fastCrashes >= Self.fastCrashLimit { return .giveUp(crashes: fastCrashes) }
    let delay = Self.firstDelayMilliseconds << min(fastCrashes - 1, 10)
    return .restart(afterMilliseconds: min(delay, Self.longestDelayMilliseconds))
  }
}
