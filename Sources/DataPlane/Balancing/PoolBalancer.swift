// Which instance gets the next request: the state of one worker for one pool. The worker calls pick, began, answered and
// ended for every request (PoolBalancer+Pick.swift, +Turns.swift), and update when the routing table or the pool's
// settings changed (+Members.swift).
//
// Time is in milliseconds of one monotonic clock, random numbers come from the caller. Nothing here allocates but update,
// and nothing costs more than O(log n): what is said of members is always kept in the form in which it will be asked for.

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
  package internal(set) var settings: BalancerSettings
  package internal(set) var counters = BalancerCounters()

  let seed: UInt64
  var methods: BalancingMethods = []
  /// As the last update named them.
  var listed: [BalancerMember] = []
  var members: [Member] = []
  var places = PlaceMap()

  /// Members with a weight: 0..<usableCount are those that may be picked, the others are ejected.
  var order: [Int32] = []
  var usableCount = 0
  package internal(set) var isPanicking = false
  /// All members with a weight have the same one, always: then there is no need of trees and heaps.
  var isEven = true
  /// Round robin among equals: the next position in `order`.
  var cursor = 0
  /// Round robin among unequals: key = virtual time at which a member is due (PoolBalancer+Heaps.swift).
  var rotation = MemberHeap()
  var rotationTime: UInt64 = 0
  /// Least connections: key = connections per weight, order = virtual time at which it is due among equals.
  var connections = MemberHeap()
  var connectionsTime: UInt64 = 0
  /// Weights of the usable, and of all that have one.
  var usableWeights = WeightTree()
  var allWeights = WeightTree()
  /// Members with a weight by key, the same order on each replica; and the sums of their weights up to each.
  var ranked: [Int32] = []
  var rankedSums: [UInt32] = []
  var ring = HashRing()
  /// Those that gave rise to the ring.
  var ringMembers: [UInt64] = []
  /// All that have not gone, by key.
  var byKey: [Int32] = []

  /// Ejected members by the end of their time.
  var expiries = MemberHeap()
  /// Half-open members with a weight that no request tries yet.
  var probes: [Int32] = []
  var picksSinceProbe = PoolBalancer.picksBetweenProbes
  var windows: [SlidingWindow] = []
  /// Members in slow start.
  var ramping: [Int32] = []
  var rampCursor = 0
  var lastEpoch: UInt32 = 0
  /// Of all members, for those without a figure of their own.
  var meanResponse: Float = 0

  /// - Parameter seed: differs from worker to worker, so that they do not all begin with the same member.
  package init(_ settings: BalancerSettings, seed: UInt64) {
    self.settings = settings
    self.seed = seed
    cursor = Int(truncatingIfNeeded: StableHash.mix(seed) >> 32)
  }

  /// At most every so many requests of a pool try a member that may be broken.
  static let picksBetweenProbes = 8

  // MARK: Besides

  /// An instance's load as the control plane publishes it, in percent; negative = unknown. For `resources`.
  package mutating func setLoad(_ place: Int32, cpu: Int, memory: Int) {
    guard let member = places.member(at: place) else { return }
    let load = max(cpu, memory)
    members[member].load = load < 0 ? Member.unknownLoad : UInt8(min(load, 100))
  }

  /// The place of the member with this key, or -1: for job ids and cookies, which name instances by key. O(log n).
  package func place(ofKey key: UInt64) -> Int32 {
    var lower = 0
    var upper = byKey.count
    while lower < upper {
      let middle = (lower + upper) / 2
      if members[Int(byKey[middle])].key < key { lower = middle + 1 } else { upper = middle }
    }
    guard lower < byKey.count else { return -1 }
    let member = Int(byKey[lower])
    return members[member].key == key ? members[member].place : -1
  }

  /// A member's figures; nil when it is none.
  package func state(of place: Int32) -> MemberState? {
    guard let index = places.member(at: place), !members[index].isGone else { return nil }
    let member = members[index]
    var state = MemberState()
    state.place = place
    state.active = Int(member.active)
    switch member.breaker.phase {
    case .closed: state.circuit = .closed
    case .open:
      state.circuit = .open
      state.ejectedUntil = member.breaker.until
    case .waiting, .probing: state.circuit = .halfOpen
    }
    state.ejections = Int(member.breaker.ejections)
    state.consecutiveFailures = Int(member.breaker.consecutiveFailures)
    state.weight = Int(member.weight)
    state.rampPercent = member.weight == 0 ? 100 : Int(member.effective) * 100 / Int(member.fullWeight)
    state.responseMicroseconds = member.response.isKnown ? Int(member.response.value(isIdle: false, now: 0)) : 0
    return state
  }

  /// Members with a weight, and how many of them are ejected (half-open ones count as ejected).
  package var memberCount: Int { order.count }
  package var ejectedCount: Int { order.count - usableCount }
}
