// New and recovered members take their share little by little.
import Balancing
import Testing

@Suite struct SlowStartTests {
  static let slow = settings { $0.slowStartMilliseconds = 10_000 }

  /// Three old members and a new one.
  static func joined(_ method: BalancingMethod) -> Pool {
    let pool = Pool(weights: [1, 1, 1], slow)
    pool.now += 60_000
    pool.update(members([1, 1, 1, 1]))
    return pool
  }

  @Test(arguments: [BalancingMethod.roundRobin, .leastConnections, .random, .powerOfTwo, .globalRoundRobin, .hash])
  func aNewMemberGetsATenthAtFirstAndAllInTheEnd(method: BalancingMethod) {
    let pool = Self.joined(method)
    #expect(pool.state(3).rampPercent == 10)
    #expect(pool.state(0).rampPercent == 100)
    // Shares of 3.1 then; the ring is uneven by itself, so it is measured against its own full share below.
    let early = pool.counts(10_000, method, members: 4)[3]
    pool.now += 5_000
    _ = pool.pick(method)
    #expect((53...56).contains(pool.state(3).rampPercent))
    let middle = pool.counts(10_000, method, members: 4)[3]
    pool.now += 5_000
    _ = pool.pick(method)
    #expect(pool.state(3).rampPercent == 100)
    let late = pool.counts(10_000, method, members: 4)[3]
    #expect(late > 1_900 && late < 3_100)
    #expect(Double(early) < 0.2 * Double(late) && early > 100)
    #expect(Double(middle) > 0.45 * Double(late) && Double(middle) < 0.75 * Double(late))
  }

  @Test func aWholeNewPoolStartsAtOnce() {
    let pool = Pool(weights: [1, 1], Self.slow)
    #expect(pool.state(0).rampPercent == 100)
    pool.update([])
    pool.update(members([1, 1]))
    #expect(pool.state(1).rampPercent == 100)
  }

  @Test func aRestartedMemberStartsSlowly() {
    let pool = Pool(weights: [1, 1], Self.slow)
    var restarted = members([1, 1])
    restarted[1].generation = 2
    pool.update(restarted)
    #expect(pool.state(0).rampPercent == 100)
    #expect(pool.state(1).rampPercent == 10)
  }

  @Test func aChangeOfWeightKeepsTheRamp() {
    let pool = Self.joined(.roundRobin)
    pool.now += 5_000
    pool.update(members([1, 1, 1, 200]))
    #expect((54...56).contains(pool.state(3).rampPercent))
    pool.update(members([1, 1, 1, 0]))
    #expect(pool.state(3).rampPercent == 100)
    pool.update(members([1, 1, 1, 5]))
    #expect(pool.state(3).rampPercent == 100)
    #expect(pool.violation == nil)
  }

  @Test func slowStartThatIsTurnedOffEnds() {
    let pool = Self.joined(.roundRobin)
    pool.balancer.update(settings: BalancerSettings())
    #expect(pool.state(3).rampPercent == 100)
    #expect(pool.counts(400, .roundRobin, members: 4) == [100, 100, 100, 100])
    #expect(pool.violation == nil)
  }

  @Test func aRecoveredMemberStartsSlowly() {
    let pool = Pool(weights: [1, 1, 1], Self.slow)
    pool.eject(2)
    pool.now += 10_000
    #expect(pool.pick() == 2)
    pool.request(at: 2, .success)
    #expect(pool.state(2).circuit == .closed)
    #expect(pool.state(2).rampPercent == 10)
    #expect(pool.counts(2_100, .roundRobin, members: 3)[2] == 101, "26 of 538")
  }

  @Test func keysMoveToANewMemberOnceAndStay() {
    let pool = Self.joined(.hash)
    let keys = (0..<2_000).map { StableHash.mix($0) }
    var owners = keys.map { pool.pick(.hash, hash: $0) }
    for _ in 0..<50 {
      pool.now += 220
      let next = keys.map { pool.pick(.hash, hash: $0) }
      for (old, new) in zip(owners, next) where old != new { #expect(new == 3 && old != 3) }
      owners = next
    }
    #expect(owners == keys.map { Pool(weights: [1, 1, 1, 1]).pick(.hash, hash: $0) })
  }

  @Test func manyNewMembersCostAPickNothing() {
    // Ten thousand in slow start: all get there, four per pick.
    let pool = Pool(weights: [1], Self.slow)
    pool.update(members([Int](repeating: 1, count: 2_000)))
    pool.now += 20_000
    for _ in 0..<500 { _ = pool.pick() }
    #expect((0..<2_000).allSatisfy { pool.state($0).rampPercent == 100 })
    #expect(pool.violation == nil)
  }
}
