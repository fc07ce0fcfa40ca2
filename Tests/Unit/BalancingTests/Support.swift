// What tests of balancers share: pools of plain members and a worker that sends requests through one.
import Balancing
import TestSupport
import Testing

/// Members with these weights at places 0, 1, 2 …
func members(_ weights: [Int], generation: Int = 1) -> [BalancerMember] {
  weights.enumerated().map { place, weight in
    BalancerMember(
      place: Int32(place), key: StableHash.of("instance-\(place)"), generation: generation, weight: weight)
  }
}

func settings(_ change: (inout BalancerSettings) -> Void = { _ in }) -> BalancerSettings {
  var settings = BalancerSettings()
  change(&settings)
  return settings
}

/// A balancer with the clock and the random numbers of its worker. A class, so that `#expect` can look at it.
final class Pool {
  var balancer: PoolBalancer
  var now = 1_000_000
  var random: UInt64 = 88_172_645_463_325_252

  init(
    _ members: [BalancerMember], _ settings: BalancerSettings = BalancerSettings(), methods: BalancingMethods = .all,
    seed: UInt64 = 1
  ) {
    balancer = PoolBalancer(settings, seed: seed)
    balancer.update(members, methods: methods, now: now)
  }

  convenience init(weights: [Int], _ settings: BalancerSettings = BalancerSettings(), seed: UInt64 = 1) {
    self.init(BalancingTests.members(weights), settings, seed: seed)
  }

  func update(_ members: [BalancerMember], methods: BalancingMethods = .all) {
    balancer.update(members, methods: methods, now: now)
  }

  func pick(
    _ method: BalancingMethod = .roundRobin, hash: UInt64 = 0, avoiding: Int32 = -1, sequence: UInt64? = nil
  ) -> Int32 {
    balancer.pick(method, hash: hash, avoiding: avoiding, now: now, random: &random, sequence: sequence)
  }

  func began(_ place: Int32) -> Turn { balancer.began(place, now: now) }

  func answered(_ turn: inout Turn, _ outcome: Outcome, microseconds: Int = 1_000) {
    balancer.answered(&turn, outcome, microseconds: microseconds, now: now)
  }

  func ended(_ turn: inout Turn, _ outcome: Outcome, microseconds: Int = -1) {
    balancer.ended(&turn, outcome, microseconds: microseconds, now: now)
  }

  /// A whole request to this member.
  func request(at place: Int32, _ outcome: Outcome, microseconds: Int = -1) {
    var turn = began(place)
    ended(&turn, outcome, microseconds: microseconds)
  }

  /// A whole request to the member that the balancer picks.
  @discardableResult
  func request(
    _ method: BalancingMethod = .roundRobin, hash: UInt64 = 0, sequence: UInt64? = nil, _ outcome: Outcome = .success
  ) -> Int32 {
    let place = pick(method, hash: hash, sequence: sequence)
    if place >= 0 { request(at: place, outcome) }
    return place
  }

  /// Failures until the member is ejected.
  func eject(_ place: Int32) {
    for _ in 0..<balancer.settings.consecutiveFailures { request(at: place, .failure) }
  }

  func admits(_ place: Int32) -> Bool { balancer.admits(place, now: now) }
  func place(ofKey key: UInt64) -> Int32 { balancer.place(ofKey: key) }
  func isMember(_ place: Int32) -> Bool { balancer.state(of: place) != nil }
  var counters: BalancerCounters { balancer.counters }
  var ejectedCount: Int { balancer.ejectedCount }
  var isPanicking: Bool { balancer.isPanicking }
  var violation: String? { balancer.violation() }

  func state(_ place: Int32) -> MemberState { balancer.state(of: place)! }

  /// How many of these requests each member got; none is under way at the same time as another.
  func counts(_ requests: Int, _ method: BalancingMethod, members: Int) -> [Int] {
    var counts = [Int](repeating: 0, count: members)
    for number in 0..<requests {
      let place = request(method, hash: StableHash.mix(UInt64(number)), sequence: UInt64(number))
      if place >= 0 { counts[Int(place)] += 1 }
    }
    return counts
  }
}

extension SplitMix64 {
  mutating func below(_ bound: Int) -> Int { Int.random(in: 0..<bound, using: &self) }
  mutating func chance(_ percent: Int) -> Bool { below(100) < percent }
}
