// What the checks of one instance have said, what follows from it, and when the next one is due. Pure: times are monotonic
// milliseconds, and random numbers arguments. Used by the supervisor for each instance (Supervisor+Health.swift).

/// How one check ended.
package enum HealthVerdict: Sendable, Equatable {
  /// All is well up to this depth; what lies deeper was not looked at.
  case well(upTo: HealthDepth)
  /// It failed at this depth, and was well at those before.
  case ill(at: HealthDepth)
}

/// The checks so far.
package struct InstanceHealth: Sendable, Equatable {
  /// Failed checks in a row by depth.
  private var failed = [Int](repeating: 0, count: HealthDepth.allCases.count)
  /// Good checks in a row that went as deep as ``cause``.
  package private(set) var successes = 0
  /// The deepest depth that has failed as often as it may; nil = none, or nobody remembers it (an adopted instance).
  package private(set) var cause: HealthDepth?

  /// - Parameter cause: of one that is out of service already: how deep a check must go to bring it back.
  package init(cause: HealthDepth? = nil) { self.cause = cause }

  /// Failed checks in a row at the depth that failed most.
  package var failures: Int { failed.max() ?? 0 }
  package func failures(at depth: HealthDepth) -> Int { failed[depth.rawValue] }

  /// What follows from a check.
  package enum Finding: Sendable, Equatable {
    /// It has failed too often.
    case failed
    /// It has been well often enough again.
    case recovered
  }

  /// - Parameter isUnhealthy: whether it is out of service already.
  package mutating func checked(
    _ verdict: HealthVerdict, by policy: HealthPolicy, isUnhealthy: Bool, isSuspected: Bool = false
  ) -> Finding? {
    switch verdict {
    case .well(let depth):
      for index in 0...depth.rawValue { failed[index] = 0 }
      // A port that accepts says nothing of a server that did not answer.
      guard isUnhealthy, depth >= cause ?? .http else { return nil }
      successes += 1
      guard successes >= policy.successes else { return nil }
      cause = nil
      successes = 0
      return .recovered
    case .ill(let depth):
      for index in 0..<depth.rawValue { failed[index] = 0 }
      failed[depth.rawValue] += 1
      successes = 0
      guard isUnhealthy || failures(at: depth) >= policy.threshold(depth, isSuspected: isSuspected) else { return nil }
      cause = cause.map { max($0, depth) } ?? depth
      return isUnhealthy ? nil : .failed
    }
  }
}

/// When which check is due.
package struct HealthSchedule: Sendable, Equatable {
  /// By depth; `Int.max` = never.
  private var due: [Int]

  /// How soon a suspected instance is asked again.
  package static let hurryMilliseconds = 1_000

  /// All that is to be checked is due at once; what costs most within its interval, so that a leader that adopts many
  /// does not ask all of them at the same moment.
  package init(adoptedAt now: Int, by policy: HealthPolicy, hasBrowser: Bool, random: UInt64) {
    due = Self.intervals(policy, hasBrowser).map { $0 == 0 ? .max : now }
    let cdp = HealthDepth.cdp.rawValue
    if due[cdp] != .max { due[cdp] = now + Int(random % UInt64(max(1, policy.cdp.intervalMilliseconds))) }
  }

  /// It has just answered.
  package init(answeredAt now: Int, by policy: HealthPolicy, hasBrowser: Bool) {
    due = Self.intervals(policy, hasBrowser).map { $0 == 0 ? .max : now + $0 }
  }

  private static func intervals(_ policy: HealthPolicy, _ hasBrowser: Bool) -> [Int] {
    HealthDepth.allCases.map { $0 == .cdp && !hasBrowser ? 0 : policy[$0].intervalMilliseconds }
  }

  /// The deepest check that is ever made.
  package var deepest: HealthDepth { HealthDepth.allCases.last { due[$0.rawValue] != .max } ?? .http }

  /// How deep a check is due now; nil = none is.
  package func depth(at now: Int) -> HealthDepth? { HealthDepth.allCases.last { due[$0.rawValue] <= now } }

  /// When the next one is.
  package var next: Int { due.min() ?? .max }

  /// The deepest check at once: replicas say that something is wrong.
  package mutating func hurry(now: Int) {
    for index in due.indices where due[index] != .max { due[index] = min(due[index], now) }
  }

  /// A check as deep as `depth` has ended. While something is wrong it is asked again sooner than its interval: as often as
  /// HTTP is, or every second when replicas suspect it.
  package mutating func checked(
    _ verdict: HealthVerdict, depth: HealthDepth, cause: HealthDepth?, by policy: HealthPolicy, isSuspected: Bool,
    now: Int, random: UInt64
  ) {
    var isWrong = cause != nil
    if case .ill = verdict { isWrong = true }
    for each in HealthDepth.allCases where each <= depth && due[each.rawValue] != .max {
      var interval = policy[each].intervalMilliseconds
      if isWrong {
        interval = min(interval, policy.intervalMilliseconds)
        if isSuspected { interval = min(interval, Self.hurryMilliseconds) }
      }
      due[each.rawValue] = now + Self.spread(interval, random)
    }
  }

  /// Up to a fifth earlier or later, so that checks do not fall together.
  private static func spread(_ interval: Int, _ random: UInt64) -> Int {
    let fifth = interval / 5
    return interval - fifth + Int(random % UInt64(2 * fifth + 1))
  }
}

/// What replicas say of an instance. Their word alone takes nothing out of service: it brings the check forward and makes a
/// failed one count for more.
package struct Suspicion: Sendable, Equatable {
  /// For how long a report is believed.
  package static let lifeMilliseconds = 10_000
  private var until = Int.min
  private var hurriedAt = Int.min / 2

  package init() {}

  package func isAlive(at now: Int) -> Bool { now < until }

  /// Replicas report failures.
  /// - Returns: whether that is news, and whether to check at once; at most once a second, however many report.
  package mutating func reported(now: Int) -> (isNews: Bool, checks: Bool) {
    let isNews = !isAlive(at: now)
    until = now + Self.lifeMilliseconds
    let checks = now - hurriedAt >= HealthSchedule.hurryMilliseconds
    if checks { hurriedAt = now }
    return (isNews, checks)
  }

  /// A check found nothing wrong.
  package mutating func isRefuted() { until = .min }
}
