// Consistent hashing: who comes or goes moves only its own share, and shares follow the weights.
import Balancing
import TestSupport
import Testing

@Suite struct HashRingTests {
  static let keys = (0..<20_000).map { StableHash.mix(UInt64($0) &+ 0xABCD) }

  static func owners(_ pool: Pool) -> [Int32] { keys.map { pool.pick(.hash, hash: $0) } }

  @Test(arguments: [2, 3, 10, 100, 500]) func whoLeavesMovesOnlyItsShare(count: Int) {
    let all = members([Int](repeating: 1, count: count))
    let pool = Pool(all)
    let before = Self.owners(pool)
    let gone = count / 2
    var rest = all
    rest.remove(at: gone)
    pool.update(rest)
    let after = Self.owners(pool)
    for (old, new) in zip(before, after) { #expect(old == new || old == Int32(gone)) }
    #expect(!after.contains(Int32(gone)))
    // Who comes back takes exactly its old share; its neighbours got it, not one of them alone.
    if count == 10 { #expect(Set(zip(before, after).filter { $0 != $1 }.map(\.1)).count == 9) }
    pool.update(all)
    #expect(Self.owners(pool) == before)
    let share = Double(before.count { $0 == Int32(gone) }) / Double(before.count)
    #expect(share > 0.5 / Double(count) && share < 1.7 / Double(count))
  }

  @Test func allReplicasAgree() {
    let weights = [1, 2, 1, 3, 1, 1, 1, 1]
    let here = Pool(weights: weights, seed: 1)
    // Another order, other places, another seed, and other members before.
    let there = Pool(weights: [1, 1], seed: 2)
    let moved = members(weights).map { BalancerMember(place: 100 - $0.place, key: $0.key, weight: $0.weight) }
    there.update(moved.reversed())
    #expect(Self.owners(here) == Self.owners(there).map { 100 - $0 })
  }

  @Test func weightsAreShares() {
    let weights = [1, 2, 4, 8, 0]
    let owners = Self.owners(Pool(weights: weights))
    for (place, weight) in weights.enumerated() {
      let share = Double(owners.count { $0 == Int32(place) }) / Double(owners.count)
      #expect(abs(share - Double(weight) / 15) < 0.04, "\(place): \(share)")
    }
  }

  @Test func aHeavierMemberOnlyTakes() {
    let pool = Pool(weights: [1, 1, 1, 1])
    let before = Self.owners(pool)
    pool.update(members([1, 3, 1, 1]))
    let after = Self.owners(pool)
    for (old, new) in zip(before, after) { #expect(old == new || new == 1) }
    #expect(after.count { $0 == 1 } > before.count { $0 == 1 } * 3 / 2)
  }

  @Test func anEjectedMembersKeysGoToTheNextOnTheRing() {
    let pool = Pool(weights: [Int](repeating: 1, count: 10))
    let before = Self.owners(pool)
    pool.eject(4)
    let during = Self.owners(pool)
    for (old, new) in zip(before, during) { #expect(old == new && old != 4 || old == 4 && new != 4) }
    #expect(Set(zip(before, during).filter { $0.0 == 4 }.map(\.1)).count == 9, "spread over all others")
    // As if it had left.
    var rest = members([Int](repeating: 1, count: 10))
    rest.remove(at: 4)
    #expect(during == Self.owners(Pool(rest)))
    // Its own keys are its probes.
    pool.now += 10_000
    for (key, owner) in zip(Self.keys, before).prefix(1_000) { #expect(pool.pick(.hash, hash: key) == owner) }
    pool.request(at: 4, .success)
    #expect(Self.owners(pool) == before)
  }

  @Test func nearlyAllEjectedStillCostsLittleAndFindsOne() {
    let pool = Pool([BalancerMember](members([Int](repeating: 1, count: 3_000))), settings { $0.panicPercent = 0 })
    for place in 1..<3_000 { pool.eject(Int32(place)) }
    #expect(Self.owners(pool).allSatisfy { $0 == 0 })
  }

  @Test func manyPointsAreHalvedTogether() {
    let heavy = HashRing((0..<200).map { (StableHash.mix($0), 256) })
    #expect(heavy.pointCount == 200 * 256 * HashRing.pointsPerWeight / 4)
    let many = HashRing((0..<20_000).map { (StableHash.mix($0), 1) })
    #expect(many.pointCount == 20_000 * HashRing.pointsPerWeight / 2)
    #expect(HashRing((0..<3).map { (StableHash.mix($0), 0) }).pointCount == 0)
  }

  @Test func lookingFindsTheFirstPointAtOrAfter() {
    var random = SplitMix64(seed: SplitMix64.printedSeed(for: "points of a ring"))
    for count in [1, 2, 7, 300] {
      let ring = HashRing((0..<count).map { _ in (random.next(), 1) })
      // Once around: positions rise, and each point is found by what lies before it.
      for _ in 0..<2_000 {
        let hash = random.next()
        let index = ring.first(hash)
        let before = index == 0 ? ring.pointCount - 1 : index - 1
        #expect(ring.next(before) == index)
        // A hash is as far from its point as no other point lies between: looking a bit further finds the same or later.
        if hash < .max - (1 << 32) {
          let next = ring.first(hash + 1 << 32)
          #expect(next == index || next == ring.next(index))
        }
      }
    }
  }
}
