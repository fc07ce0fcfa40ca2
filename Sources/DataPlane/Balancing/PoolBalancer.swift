// Which instance gets the next request: the state of one worker for one pool. The worker calls pick, began, answered and
// ended for every request, and update when the routing table or the pool's settings changed.
//
// Time is in milliseconds of one monotonic clock, random numbers come from the caller.

/// A request's life:
/// ```
/// let place = balancer.pick(.leastConnections, now: now, random: &random)
/// guard place >= 0 else { … 503: no member takes requests … }
/// var turn = balancer.began(place, now: now)                 // at once after pick, before anything else is picked
/// balancer.answered(&turn, .success, microseconds: 1_200, now: now)   // the head of the answer, or 101, is there
/// balancer.ended(&turn, .success, now: now)                  // exactly once for every began; nothing more of it is under way
/// ```
/// `answered` is what closes the circuit of a probed member, so that a tunnel of hours does not hold it half-open. A
/// request that never got an answer is only `ended`: `.failure` or `.neutral`.
package struct PoolBalancer: ~Copyable {
  /// - Parameter seed: differs from worker to worker, so that they do not all begin with the same member.
  package init(_ settings: BalancerSettings, seed: UInt64) {
    self.settings = settings
  }

  package private(set) var settings: BalancerSettings
  package private(set) var counters = BalancerCounters()
  private var members: [BalancerMember] = []

  /// New knobs; ejections that are under way keep their time.
  package mutating func update(settings: BalancerSettings) { self.settings = settings }

  /// The members that take requests now. Those that stay keep their state; those with turns under way are remembered
  /// until these end, in case they come back. New ones start slowly, unless all are new. Costs O(n log n).
  package mutating func update(_ members: [BalancerMember], methods: BalancingMethods, now: Int) {
    self.members = members
  }

  // MARK: For each request

  /// The place of the member that gets the request, or -1 when none may: the pool is empty, or all members are ejected
  /// and the settings know no panic, or only `avoiding` is left.
  /// - Parameters:
  ///   - hash: of the client's address, header or cookie; for `hash` only (``StableHash``, ``ClientAddress``)
  ///   - avoiding: the place where the request has just failed, or -1; a pick with it is no probe either
  ///   - random: state of the caller's generator, never 0
  ///   - sequence: the request's number of a lent block; for `globalRoundRobin` only, nil = count locally
  package mutating func pick(
    _ method: BalancingMethod, hash: UInt64 = 0, avoiding: Int32 = -1, now: Int, random: inout UInt64,
    sequence: UInt64? = nil
  ) -> Int32 {
    members.first { $0.place != avoiding }?.place ?? -1
  }

  /// Whether a request that must go to this very instance (sticky cookie, job id) may: it is a member, of any weight, and
  /// is not ejected, or may be probed, or the pool panics. If not, the caller picks another or refuses.
  package mutating func admits(_ place: Int32, now: Int) -> Bool { members.contains { $0.place == place } }

  /// A request goes to the member. A place that is no member gives a turn that counts nowhere.
  package mutating func began(_ place: Int32, now: Int) -> Turn {
    var turn = Turn()
    turn.place = place
    return turn
  }

  /// The head of the instance's answer is there: counts for the circuit breaker and the response time. Once per turn.
  /// - Parameter microseconds: from sending the request to the answer's head; negative = not measured
  package mutating func answered(_ turn: inout Turn, _ outcome: Outcome, microseconds: Int, now: Int) {}

  /// The request is over. After `answered`, only `.failure` says something new (the body was cut).
  package mutating func ended(_ turn: inout Turn, _ outcome: Outcome, microseconds: Int = -1, now: Int) {
    turn = Turn()
  }

  // MARK: Besides

  /// An instance's load as the control plane publishes it, in percent; negative = unknown. For `resources`.
  package mutating func setLoad(_ place: Int32, cpu: Int, memory: Int) {}

  /// The place of the member with this key, or -1: for job ids and cookies, which name instances by key. O(log n).
  package func place(ofKey key: UInt64) -> Int32 { members.first { $0.key == key }?.place ?? -1 }

  /// A member's figures; nil when it is none.
  package func state(of place: Int32) -> MemberState? { nil }

  /// Members with a weight, and how many of them are ejected (half-open ones count as ejected).
  package var memberCount: Int { members.count }
  package var ejectedCount: Int { 0 }
  /// So many are ejected that ejections are ignored.
  package var isPanicking: Bool { false }
}
