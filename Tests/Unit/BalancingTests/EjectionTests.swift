// The circuit breaker of a member as the pool sees it: who is ejected, for how long, who may try it, and panic.
import Balancing
import Testing

@Suite struct EjectionTests {
  @Test func failuresInARowEject() {
    let pool = Pool(weights: [1, 1, 1])
    for _ in 0..<4 { pool.request(at: 1, .failure) }
    pool.request(at: 1, .success)
    for _ in 0..<4 { pool.request(at: 1, .failure) }
    pool.request(at: 1, .neutral)
    #expect(pool.state(1).circuit == .closed)
    #expect(pool.state(1).consecutiveFailures == 4)
    pool.request(at: 1, .failure)
    #expect(pool.state(1).circuit == .open)
    #expect(pool.state(1).ejectedUntil == pool.now + 10_000)
    #expect(pool.ejectedCount == 1)
    #expect(!pool.admits(1))
    for method in BalancingMethod.allCases {
      #expect(pool.counts(300, method, members: 3)[1] == 0, "\(method)")
    }
  }

  @Test func theShareOfFailuresEjects() {
    let pool = Pool(
      weights: [1, 1, 1],
      settings {
        $0.consecutiveFailures = 0
        $0.errorPercent = 40
        $0.errorMinimumRequests = 10
      })
    for _ in 0..<9 { pool.request(at: 0, .failure) }
    #expect(pool.state(0).circuit == .closed, "too few")
    pool.now += 10_000
    // The old failures are forgotten by now.
    for number in 0..<30 {
      pool.request(at: 0, number % 3 == 2 ? .failure : .success)
      pool.now += 100
    }
    #expect(pool.state(0).circuit == .closed, "33 %")
    for _ in 0..<4 { pool.request(at: 0, .failure) }
    #expect(pool.state(0).circuit == .open, "14 of 34")
  }

  @Test func theCircuitBreakersWholeLife() {
    let pool = Pool(weights: [1, 1, 1])
    pool.eject(1)
    // Open, half-open and open again, each time for twice as long, up to the maximum.
    for time in [10_000, 20_000, 40_000, 80_000, 160_000, 300_000, 300_000] {
      #expect(pool.state(1).ejectedUntil == pool.now + time)
      pool.now += time - 1
      #expect((0..<20).allSatisfy { _ in pool.pick() != 1 })
      pool.now += 1
      #expect(pool.pick() == 1, "the next request is the probe")
      var probe = pool.began(1)
      #expect(probe.isProbe)
      #expect(pool.state(1).circuit == .halfOpen)
      #expect((0..<20).allSatisfy { _ in pool.pick() != 1 }, "one probe at a time")
      #expect(!pool.admits(1))
      pool.ended(&probe, .failure)
      #expect(pool.state(1).circuit == .open)
    }
    pool.now += 300_000
    #expect(pool.pick() == 1)
    var probe = pool.began(1)
    pool.answered(&probe, .success)
    #expect(pool.state(1).circuit == .closed, "its answer is enough, however long its body or tunnel takes")
    #expect(pool.state(1).active == 1)
    #expect(pool.counts(300, .roundRobin, members: 3) == [100, 100, 100])
    pool.ended(&probe, .success)
    // Ejected again soon: as if nothing had been in between.
    pool.eject(1)
    #expect(pool.state(1).ejectedUntil == pool.now + 300_000)
    pool.now += 300_000
    #expect(pool.admits(1))
    pool.request(at: 1, .success)
    // Well for as long as it was out: from the start.
    pool.now += 300_000
    pool.eject(1)
    #expect(pool.state(1).ejectedUntil == pool.now + 10_000)
    #expect(pool.counters.recoveries == 2)
    #expect(pool.counters.probes == 9)
    #expect(pool.counters.ejections == 3)
  }

  @Test func aProbeThatSaysNothingIsGivenBack() {
    let pool = Pool(weights: [1, 1, 1])
    pool.eject(0)
    pool.now += 10_000
    for _ in 0..<3 {
      // At most one request of eight.
      let picks = (0..<8).map { _ in pool.pick() }
      #expect(picks.count { $0 == 0 } == 1, "\(picks)")
      var probe = pool.began(0)
      pool.ended(&probe, .neutral)
      #expect(pool.state(0).circuit == .halfOpen)
      #expect(pool.violation == nil)
    }
    pool.request(at: 0, .success)
    #expect(pool.state(0).circuit == .closed)
  }

  @Test func aPickThatIsNotFollowedTakesNoProbe() {
    let pool = Pool(weights: [1, 1, 1])
    pool.eject(0)
    pool.now += 10_000
    #expect((0..<80).count { _ in pool.pick() == 0 } == 10)
  }

  @Test func aRetryIsNoProbe() {
    let pool = Pool(weights: [1, 1, 1])
    pool.eject(0)
    pool.now += 10_000
    for method in BalancingMethod.allCases {
      for number in 0..<100 {
        #expect(pool.pick(method, hash: StableHash.mix(UInt64(number)), avoiding: 1, sequence: UInt64(number)) == 2)
      }
    }
  }

  @Test func oldResultsSayNothingOfTheNewState() {
    let pool = Pool(weights: [1, 1, 1])
    var old = (0..<3).map { _ in pool.began(0) }
    pool.eject(0)
    pool.ended(&old[0], .success)
    #expect(pool.state(0).circuit == .open)
    pool.now += 10_000
    #expect(pool.pick() == 0)
    var probe = pool.began(0)
    pool.ended(&old[1], .failure)
    #expect(pool.state(0).circuit == .halfOpen)
    pool.ended(&probe, .success)
    pool.ended(&old[2], .failure)
    #expect(pool.state(0).circuit == .closed)
    #expect(pool.state(0).consecutiveFailures == 0)
    #expect(pool.state(0).active == 0)
  }

  @Test func aCutBodyIsAFailureAfterAll() {
    let pool = Pool(weights: [1, 1, 1])
    for _ in 0..<5 {
      #expect(pool.state(0).circuit == .closed)
      var turn = pool.began(0)
      pool.answered(&turn, .success)
      pool.ended(&turn, .failure)
    }
    #expect(pool.state(0).circuit == .open)
    // One that is answered badly counts once.
    for _ in 0..<4 {
      var turn = pool.began(1)
      pool.answered(&turn, .failure)
      pool.answered(&turn, .failure)
      pool.ended(&turn, .failure)
    }
    #expect(pool.state(1).consecutiveFailures == 4)
  }

  @Test func cutBodiesCountInTheShare() {
    let pool = Pool(
      weights: [1, 1, 1],
      settings {
        $0.consecutiveFailures = 0
        $0.errorPercent = 50
        $0.errorMinimumRequests = 10
      })
    for number in 0..<10 {
      #expect(pool.state(0).circuit == .closed)
      var turn = pool.began(0)
      pool.answered(&turn, .success)
      pool.ended(&turn, number < 5 ? .success : .failure)
    }
    #expect(pool.state(0).circuit == .open, "five of ten")
  }

  @Test(arguments: BalancingMethod.allCases)
  func panicIgnoresEjections(method: BalancingMethod) {
    for weights in [[1, 1, 1, 1], [2, 1, 1, 2]] {
      let pool = Pool(weights: weights)
      pool.eject(0)
      pool.eject(1)
      #expect(!pool.isPanicking, "half is left")
      #expect(pool.counts(200, method, members: 4)[0...1] == [0, 0])
      pool.eject(2)
      #expect(pool.isPanicking)
      #expect(pool.admits(0))
      #expect(pool.counts(400, method, members: 4).allSatisfy { $0 > 30 }, "\(method)")
      #expect(pool.counters.panicPicks == 400)
      // What comes of it does not touch the open circuits.
      #expect(pool.state(0).circuit == .open)
      pool.now += 10_000
      #expect(pool.admits(0) && pool.admits(1))
      for place in 0..<2 { pool.request(at: Int32(place), .success) }
      #expect(!pool.isPanicking)
      #expect(pool.violation == nil)
    }
  }

  @Test(arguments: BalancingMethod.allCases)
  func withoutPanicNobodyIsLeft(method: BalancingMethod) {
    let pool = Pool(weights: [1, 2, 1], settings { $0.panicPercent = 0 })
    for place in 0..<3 { pool.eject(Int32(place)) }
    #expect(pool.pick(method) == -1)
    pool.now += 10_000
    // Each of them gets one probe, at once; more requests get nobody.
    var probes: [Turn] = []
    for _ in 0..<3 {
      let place = pool.pick(method, hash: 1)
      #expect(place >= 0)
      guard place >= 0 else { return }
      probes.append(pool.began(place))
    }
    #expect(Set(probes.map(\.place)) == [0, 1, 2])
    #expect(probes.allSatisfy { $0.isProbe })
    #expect(pool.pick(method) == -1)
    let recovered = probes[1].place
    pool.ended(&probes[1], .success)
    #expect(pool.pick(method) == recovered)
  }

  @Test func theOnlyMemberIsAlwaysUsed() {
    let pool = Pool(weights: [1])
    pool.eject(0)
    #expect(pool.state(0).circuit == .open)
    #expect(pool.pick() == 0)
  }

  @Test func weightZeroIsOnlyReachedByName() {
    let pool = Pool(weights: [1, 0, 1])
    #expect(pool.admits(1))
    pool.eject(1)
    #expect(!pool.admits(1))
    #expect(pool.ejectedCount == 0)
    pool.now += 10_000
    #expect((0..<50).allSatisfy { _ in pool.pick() != 1 })
    #expect(pool.admits(1))
    var probe = pool.began(1)
    #expect(probe.isProbe)
    pool.ended(&probe, .neutral)
    pool.request(at: 1, .success)
    #expect(pool.state(1).circuit == .closed)
    #expect(pool.violation == nil)
  }

  @Test func membersThatStayKeepTheirState() {
    let pool = Pool(weights: [1, 1, 1, 1])
    pool.eject(0)
    var turns = [pool.began(1), pool.began(1), pool.began(2)]
    pool.request(at: 3, .failure)
    pool.request(at: 3, .success, microseconds: 700)
    pool.request(at: 3, .failure)
    // Two goes and comes back; the others stay, in another order and with one more.
    var next = members([1, 1, 1, 1, 1])
    next.remove(at: 2)
    pool.update(next.reversed())
    #expect(pool.state(0).circuit == .open)
    #expect(pool.state(1).active == 2)
    #expect(!pool.isMember(2))
    #expect(pool.state(3).consecutiveFailures == 1)
    #expect(pool.state(3).responseMicroseconds == 700)
    #expect(!pool.admits(2))
    pool.update(members([1, 1, 1, 1]))
    #expect(pool.state(2).active == 1, "its turn went on")
    for index in turns.indices { pool.ended(&turns[index], .success) }
    #expect((0..<4).allSatisfy { pool.state($0).active == 0 })
    #expect(pool.violation == nil)
  }

  @Test func anotherInstanceAtTheSamePlaceIsAnother() {
    let pool = Pool(weights: [1, 1, 1])
    var turn = pool.began(1)
    var next = members([1, 1, 1])
    next[1].key = 4_711
    pool.update(next)
    #expect(pool.state(1).active == 0)
    pool.ended(&turn, .failure)
    #expect(pool.state(1).active == 0)
    #expect(pool.state(1).consecutiveFailures == 0)
    #expect(pool.place(ofKey: 4_711) == 1)
    #expect(pool.place(ofKey: members([1, 1])[1].key) == -1)
  }

  @Test func aRestartClosesTheCircuit() {
    let pool = Pool(weights: [1, 1, 1])
    var turn = pool.began(0)
    pool.eject(0)
    pool.update(members([1, 1, 1], generation: 2))
    #expect(pool.state(0).circuit == .closed)
    #expect(pool.state(0).active == 1)
    pool.ended(&turn, .failure)
    #expect(pool.state(0).consecutiveFailures == 0, "that was the process before")
  }

  @Test func turnsAtNoMemberCountNowhere() {
    let pool = Pool(weights: [1])
    var turn = pool.began(9)
    pool.answered(&turn, .failure)
    pool.ended(&turn, .failure)
    var none = Turn()
    pool.ended(&none, .failure)
    var twice = pool.began(0)
    pool.ended(&twice, .success)
    pool.ended(&twice, .success)
    #expect(pool.state(0).active == 0)
  }
}
