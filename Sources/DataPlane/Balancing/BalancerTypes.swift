// What a worker and the balancer of a pool say to each other: settings and members in, members' figures out.
// The balancer itself is PoolBalancer.swift.

/// How a member is chosen. `ip_hash`, `header_hash` and `cookie_hash` are all `hash`: they differ in what the caller hashes.
package enum BalancingMethod: UInt8, CaseIterable, Sendable {
  case roundRobin, globalRoundRobin, leastConnections, powerOfTwo, random, hash, responseTime, resources
}

/// The methods that the routes of a pool use: only what they need is kept up to date.
package struct BalancingMethods: OptionSet, Sendable {
  package let rawValue: UInt16
  package init(rawValue: UInt16) { self.rawValue = rawValue }
  package init(_ method: BalancingMethod) { rawValue = 1 << UInt16(method.rawValue) }

  package static let all = BalancingMethods(rawValue: 1 << UInt16(BalancingMethod.allCases.count) - 1)
  func uses(_ method: BalancingMethod) -> Bool { rawValue & 1 << UInt16(method.rawValue) != 0 }
}

/// The knobs of a pool, as its record has them.
package struct BalancerSettings: Sendable, Equatable {
  /// How long a new or recovered member takes from a tenth of its weight to all of it; 0 = at once.
  package var slowStartMilliseconds = 0
  /// So many failures in a row eject a member; 0 = never.
  package var consecutiveFailures = 5
  /// So large a share of failures within the last ten seconds ejects a member; 0 = never.
  package var errorPercent = 0
  /// … but only when so many results came in that time.
  package var errorMinimumRequests = 20
  /// The first ejection lasts so long; each further one in a row twice as long as the one before it …
  package var ejectionBaseMilliseconds = 10_000
  /// … and none longer than this.
  package var ejectionMaximumMilliseconds = 300_000
  /// When fewer members than this share of those with a weight would be left, ejections are ignored; 0 = never.
  package var panicPercent = 50

  package init() {}
}

/// One instance of the pool that takes requests.
package struct BalancerMember: Sendable, Equatable {
  /// The instance's index in the worker's list. It names the member in every call, and must not be given to another
  /// instance while a turn on it is under way.
  package var place: Int32
  /// Hash of the instance's id (``StableHash``): the same on every replica, so that all agree on consistent hashing.
  package var key: UInt64
  /// Counts the instance's restarts: a member with a new generation starts anew, but stays where it is on the ring.
  package var generation: Int
  /// 0…256. With 0 it is never picked; sticky cookies and job ids still lead to it (``PoolBalancer/admits(_:now:)``).
  package var weight: Int

  package init(place: Int32, key: UInt64, generation: Int = 1, weight: Int = 1) {
    self.place = place
    self.key = key
    self.generation = generation
    self.weight = weight
  }
}

/// How a request ended, as far as it says something of the instance.
package enum Outcome: UInt8, Sendable {
  /// It was answered, and not with a 502, 503 or 504 of the instance's own.
  case success
  /// No connection, a reset, a timeout, a bad answer, a cut body, or a status that means "I cannot".
  case failure
  /// Nobody's fault, or the client's: it went away, sent nonsense, or was too slow.
  case neutral
}

/// One request's stay at a member: ``PoolBalancer/began(_:now:)`` makes it, the worker keeps it with the connection.
package struct Turn: Sendable, BitwiseCopyable {
  package internal(set) var place: Int32 = -1
  /// Failures in a row before this turn's answer ended the row; they count again when its body is cut.
  var failuresBefore: UInt16 = 0
  var flags: UInt16 = 0
  /// Of the member's circuit breaker; results of an earlier epoch say nothing any more.
  var epoch: UInt32 = 0

  /// No turn.
  package init() {}

  /// The request is the one that finds out whether an ejected instance is well again.
  package var isProbe: Bool { flags & Self.probe != 0 }

  static let probe: UInt16 = 1
  static let counts: UInt16 = 2
  static let answered: UInt16 = 4
  static let succeeded: UInt16 = 8
}

/// A member's figures for metrics and the admin page.
package struct MemberState: Sendable, Equatable {
  package enum Circuit: String, Sendable {
    /// Takes requests.
    case closed
    /// Ejected.
    case open
    /// The time of its ejection is over: the next request that comes to it is its probe, and decides.
    case halfOpen = "half_open"
  }
  package var place: Int32 = -1
  package var active = 0
  package var circuit = Circuit.closed
  /// When it may be probed, in the balancer's time; 0 unless `open`.
  package var ejectedUntil = 0
  /// Ejections in a row.
  package var ejections = 0
  package var consecutiveFailures = 0
  package var weight = 0
  /// What slow start leaves of its weight, in percent.
  package var rampPercent = 100
  /// Smoothed response time in microseconds; 0 = not measured yet.
  package var responseMicroseconds = 0
}

/// What a pool's balancer did since it was made.
package struct BalancerCounters: Sendable, Equatable {
  package var ejections: UInt64 = 0
  package var probes: UInt64 = 0
  package var recoveries: UInt64 = 0
  /// Picks while ejections were ignored.
  package var panicPicks: UInt64 = 0
  /// Picks that found no member.
  package var emptyPicks: UInt64 = 0
}
