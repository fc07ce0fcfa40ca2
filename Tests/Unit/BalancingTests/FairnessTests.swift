// How requests are spread over members that are all well: by weight, without bursts, and by what the method looks at.
import Balancing
import TestSupport
import Testing

@Suite struct FairnessTests {
  static let pools: [[Int]] = [
    [1], [1, 1], [1, 1, 1, 1, 1, 1, 1], [3, 1], [5, 3, 1], [256, 1, 1], [10, 10, 1, 7], [2, 0, 1],
  ]

  @Test(arguments: pools, [BalancingMethod.roundRobin, .leastConnections])
  func takingTurnsIsExactAtEveryMoment(weights: [Int], method: BalancingMethod) {
    let pool = Pool(weights: weights, seed: 7)
    var counts = [Int](repeating: 0, count: weights.count)
    for _ in 0..<3_000 {
      counts[Int(pool.request(method))] += 1
      // Whatever is compared, no two members are further apart than one turn of each.
      for a in weights.indices where weights[a] > 0 {
        for b in weights.indices where weights[b] > 0 {
          let difference = Double(counts[a]) / Double(weights[a]) - Double(counts[b]) / Double(weights[b])
          let bound = 1 / Double(weights[a]) + 1 / Double(weights[b])
          #expect(difference <= bound + 1e-9, "\(weights): \(counts)")
        }
      }
    }
    #expect(zip(weights, counts).allSatisfy { $0 > 0 || $1 == 0 }, "weight 0 is never picked")
  }

  @Test func heavyMembersComeWithoutBursts() {
    let pool = Pool(weights: [4, 1, 1, 1, 1])
    var inARow = 0
    for _ in 0..<1_000 {
      inARow = pool.request(.roundRobin) == 0 ? inARow + 1 : 0
      #expect(inARow <= 2, "half of the requests are the heavy one's: every other, not four in a row")
    }
  }

  @Test(arguments: pools, [BalancingMethod.powerOfTwo, .random, .resources])
  func randomChoicesFollowTheWeightsWhenIdle(weights: [Int], method: BalancingMethod) {
    let requests = 20_000
    let counts = Pool(weights: weights).counts(requests, method, members: weights.count)
    let total = weights.reduce(0, +)
    for (weight, count) in zip(weights, counts) {
      let share = Double(weight) / Double(total)
      let deviation = (Double(requests) * share * (1 - share)).squareRoot()
      #expect(abs(Double(count) - Double(requests) * share) <= 5 * deviation, "\(weights): \(counts)")
    }
  }

  @Test(arguments: pools)
  func globalRoundRobinIsEvenOverAllReplicas(weights: [Int]) {
    // Three replicas, each with its own blocks of the same sequence and its own seed.
    let replicas = [Pool(weights: weights, seed: 1), Pool(weights: weights, seed: 2), Pool(weights: weights, seed: 3)]
    let requests = 30 * 256
    var counts = [Int](repeating: 0, count: weights.count)
    for number in 0..<requests {
      counts[Int(replicas[number / 256 % 3].request(.globalRoundRobin, sequence: UInt64(number)))] += 1
    }
    let total = weights.reduce(0, +)
    for (weight, count) in zip(weights, counts) {
      let fair = Double(requests * weight) / Double(total)
      #expect(abs(Double(count) - fair) <= 12, "\(weights): \(counts)")
    }
  }

  @Test func globalRoundRobinCountsLocallyWithoutABlock() {
    #expect(Pool(weights: [1, 1, 1, 1]).counts(0, .globalRoundRobin, members: 4) == [0, 0, 0, 0])
    let pool = Pool(weights: [1, 1, 1, 1])
    var counts = [0, 0, 0, 0]
    for _ in 0..<400 { counts[Int(pool.request(.globalRoundRobin))] += 1 }
    #expect(counts == [100, 100, 100, 100])
  }

  @Test func workersBeginAtDifferentMembers() {
    let first = Set((0..<32).map { Pool(weights: [Int](repeating: 1, count: 16), seed: $0).pick() })
    #expect(first.count > 8)
    let weighted = Set((0..<32).map { Pool(weights: [2] + [Int](repeating: 1, count: 15), seed: $0).pick() })
    #expect(weighted.count > 8)
  }

  @Test(arguments: [[1, 1, 1], [4, 2, 1], [1, 100]])
  func leastConnectionsFillsByWeight(weights: [Int]) {
    let pool = Pool(weights: weights)
    var turns: [Turn] = []
    let held = 70 * weights.reduce(0, +)
    for _ in 0..<held {
      let place = pool.pick(.leastConnections)
      turns.append(pool.began(place))
    }
    for (place, weight) in weights.enumerated() {
      #expect(abs(pool.state(Int32(place)).active - 70 * weight) <= 1, "\(weights)")
    }
    // The one that gets rid of its own gets the next ones.
    for index in turns.indices where turns[index].place == 0 { pool.ended(&turns[index], .success) }
    for _ in 0..<60 * weights[0] {
      let place = pool.pick(.leastConnections)
      #expect(place == 0)
      turns.append(pool.began(place))
    }
  }

  @Test func theBetterOfTwoEvensOutLongRequests() {
    // Each request lasts as long as a thousand others take to come.
    func spread(_ method: BalancingMethod) -> Int {
      let pool = Pool(weights: [Int](repeating: 1, count: 100))
      var turns: [Turn] = []
      for number in 0..<20_000 {
        if number >= 1_000 { pool.ended(&turns[number - 1_000], .success) }
        turns.append(pool.began(pool.pick(method)))
      }
      let active = (0..<100).map { pool.state($0).active }
      return active.max()! - active.min()!
    }
    #expect(spread(.leastConnections) <= 2)
    #expect(spread(.powerOfTwo) <= 8)
    #expect(spread(.random) > 8)
  }

  @Test func responseTimeAvoidsTheSlow() {
    let pool = Pool(weights: [1, 1, 1, 1])
    var counts = [0, 0, 0, 0]
    for _ in 0..<4_000 {
      let place = pool.pick(.responseTime)
      counts[Int(place)] += 1
      var turn = pool.began(place)
      pool.answered(&turn, .success, microseconds: place == 2 ? 50_000 : 2_000 + Int(place))
      pool.ended(&turn, .success)
      pool.now += 1
    }
    #expect(counts[2] < 40, "\(counts)")
    #expect(pool.state(2).responseMicroseconds == 50_000)
    // It is tried again after a while.
    pool.now += 300_000
    let tries = (0..<200).count { _ in pool.pick(.responseTime) == 2 }
    #expect(tries > 10)
  }

  @Test func quickFailuresAreNoQuickAnswers() {
    let pool = Pool(weights: [1, 1], settings { $0.consecutiveFailures = 0 })
    for place in 0..<2 { pool.request(at: Int32(place), .success, microseconds: 5_000) }
    for _ in 0..<50 {
      pool.now += 100
      pool.request(at: 0, .failure, microseconds: 10)
    }
    #expect(pool.state(0).responseMicroseconds == 5_000)
    pool.request(at: 0, .failure, microseconds: 9_000)
    #expect(pool.state(0).responseMicroseconds == 9_000, "slow failures are slow")
  }

  @Test func aStuckMemberGetsNoMore() {
    let pool = Pool(weights: [1, 1, 1])
    for place in 0..<3 { pool.request(at: Int32(place), .success, microseconds: 1_000) }
    var stuck: [Turn] = []
    for _ in 0..<2_000 {
      pool.now += 10
      let place = pool.pick(.responseTime)
      var turn = pool.began(place)
      if place == 1 { stuck.append(turn) } else { pool.ended(&turn, .success, microseconds: 1_000) }
    }
    #expect(stuck.count <= 3)
  }

  @Test func resourcesPreferTheFreeMachine() {
    let pool = Pool(weights: [1, 1, 1])
    pool.balancer.setLoad(0, cpu: 95, memory: 20)
    pool.balancer.setLoad(1, cpu: 10, memory: 20)
    pool.balancer.setLoad(2, cpu: 20, memory: 90)
    var counts = pool.counts(3_000, .resources, members: 3)
    #expect(counts[0] < 50 && counts[1] > 1_800, "\(counts)")
    // Requests under way count, too: the free machine takes more of them, not all.
    var turns: [Turn] = []
    for _ in 0..<110 { turns.append(pool.began(pool.pick(.resources))) }
    counts = (0..<3).map { pool.state($0).active }
    #expect(counts[1] > 60 && counts[0] >= 3 && counts[2] >= 3, "\(counts)")
    // What is unknown counts as half full.
    pool.balancer.setLoad(1, cpu: -1, memory: -1)
    for index in turns.indices { pool.ended(&turns[index], .success) }
    pool.balancer.setLoad(0, cpu: 49, memory: 0)
    #expect(pool.counts(300, .resources, members: 3)[0] > 150)
  }

  @Test(arguments: BalancingMethod.allCases, [[1, 1, 1], [3, 1, 2]])
  func aRetryGoesElsewhere(method: BalancingMethod, weights: [Int]) {
    let pool = Pool(weights: weights)
    for number in 0..<300 {
      let hash = StableHash.mix(UInt64(number))
      let first = pool.pick(method, hash: hash, sequence: UInt64(number))
      var turn = pool.began(first)
      let second = pool.pick(method, hash: hash, avoiding: first, sequence: UInt64(number))
      #expect(second >= 0 && second != first)
      pool.ended(&turn, .neutral)
    }
    // A member that is none any more is avoided easily; the only one is not picked.
    #expect(pool.pick(method, avoiding: 77) >= 0)
    pool.update(members([1]))
    #expect(pool.pick(method, avoiding: 0) == -1)
    #expect(pool.pick(method) == 0)
    pool.update([])
    #expect(pool.pick(method) == -1)
    #expect(pool.counters.emptyPicks == 2)
  }

  @Test func whatUpdateWasNotToldOfIsRandom() {
    for weights in [[1, 1], [2, 1]] {
      let pool = Pool(members(weights), methods: BalancingMethods(.roundRobin))
      for method in BalancingMethod.allCases {
        #expect(Set((0..<64).map { _ in pool.pick(method) }) == [0, 1], "\(method)")
      }
    }
  }
}
