// The scaler's parts one by one: looking ahead, pools without slots, turns, and what is said about a full pool.
import Domain
import Reconciler
import Routing
import Testing

private func decide(
  _ spec: PoolSpec, _ instances: [ObservedInstance], waiting: Int = 0, now: Int = 1_000_000,
  memory: ScalingMemory = ScalingMemory()
) -> Decision {
  Reconciler.decide(
    spec: spec, observed: PoolObservation(instances: instances, waiting: waiting, memory: memory), launchBudget: 100,
    now: now)
}
private func reasons(_ decision: Decision) -> [String] {
  decision.actions.compactMap { if case .launch(_, let reason) = $0 { reason } else { nil } }
}
private func ready(_ id: String, leases: Int = 0, free: Int? = 1, active: Int? = nil) -> ObservedInstance {
  ObservedInstance(id: id, state: .ready, leases: leases, freeSlots: free, active: active)
}

@Suite struct LaunchTimeTests {
  @Test func theFirstCountsWholeAndLaterOnesAQuarter() {
    var time = LaunchTime()
    #expect(time.milliseconds == 0)
    time.took(1_000)
    #expect(time.milliseconds == 1_000)
    time.took(2_000)
    #expect(time.milliseconds == 1_250)
    time.took(250)
    #expect(time.milliseconds == 1_000)
    // A clock that was set back makes no launch take no time.
    time = LaunchTime()
    time.took(-5)
    #expect(time.milliseconds == 1)
  }
}

@Suite struct DemandTests {
  /// Looks every second while a client takes a fresh exclusive instance in each.
  private func memory(clientsPerSecond: Int, seconds: Int, launch: Int) -> ScalingMemory {
    var memory = ScalingMemory()
    memory.launches.took(launch)
    let spec = pool { $0.max = 1_000 }
    for second in 0...seconds {
      let fresh = { (second: Int) in (0..<clientsPerSecond).map { "i\(second)-\($0)" } }
      let instances = fresh(second - 1).map { ready($0, leases: 1, free: nil) } + fresh(second).map { ready($0) }
      memory = decide(spec, instances, now: 1_000_000 + second * 1_000, memory: memory).memory
    }
    return memory
  }

  @Test func slotsThatGoWhileAnInstanceStartsAreWantedToo() {
    let memory = memory(clientsPerSecond: 2, seconds: 300, launch: 5_000)
    #expect(abs(memory.demand.slotsPerSecond - 2) < 0.1)
    #expect(memory.demand.slots(within: 5_000) == 10)
    // Nothing is free: the spare one, and ten that will be asked for.
    let decision = decide(pool { $0.max = 1_000 }, [ready("a", leases: 1, free: 0)], now: 1_300_000, memory: memory)
    #expect(
      reasons(decision) == ["too few slots are free"]
        + [String](repeating: "clients are expected while it starts", count: 10))
  }

  @Test func slotsThatAQueueTakesAtOnceAreSeen() {
    var memory = ScalingMemory()
    memory.launches.took(1_000)
    let spec = pool { $0.max = 1_000 }
    // Each look finds one that was starting taken already, and another one that starts.
    for second in 0...200 {
      let taken = ready("i\(second - 1)", leases: 1, free: nil)
      let starting = ObservedInstance(id: "i\(second)", state: .starting, busy: true)
      memory =
        decide(spec, [taken, starting], waiting: 1, now: 1_000_000 + second * 1_000, memory: memory).memory
    }
    #expect(memory.demand.slots(within: 10_000) == 10)
  }

  @Test func withoutAMeasuredLaunchNothingIsForeseen() {
    var memory = memory(clientsPerSecond: 2, seconds: 300, launch: 5_000)
    memory.launches = LaunchTime()
    #expect(decide(pool { $0.max = 1_000 }, [ready("a")], now: 1_300_000, memory: memory).actions.isEmpty)
  }

  @Test func theEndOfARushIsForgotten() {
    var memory = memory(clientsPerSecond: 2, seconds: 300, launch: 5_000)
    for second in 1...120 {
      memory = decide(pool { $0.max = 1_000 }, [ready("a")], now: 1_300_000 + second * 1_000, memory: memory).memory
    }
    #expect(memory.demand.slots(within: 5_000) == 0)
  }

  @Test func slotsThatComeBackAreNoDemand() {
    var memory = ScalingMemory()
    memory.launches.took(5_000)
    let spec = pool { $0.recycleAfterSessions = 0 }
    for second in 0...100 {
      let taken = second % 2 == 0
      memory =
        decide(
          spec, [ready("a", leases: taken ? 1 : 0, free: taken ? 0 : 1)], now: 1_000_000 + second * 1_000,
          memory: memory
        ).memory
    }
    #expect(memory.demand.slots(within: 5_000) == 0)
  }

  @Test func oneBurstIsNoTrend() {
    var memory = ScalingMemory()
    memory.launches.took(1_000)
    let spec = pool { $0.max = 100 }
    memory = decide(spec, (0..<10).map { ready("i\($0)") }, memory: memory).memory
    memory = decide(spec, (0..<10).map { ready("i\($0)", leases: 1, free: 0) }, now: 1_001_000, memory: memory).memory
    #expect(memory.demand.slots(within: 1_000) == 0)
  }

  @Test func lookingTwiceAtTheSameMomentChangesNothing() {
    var memory = memory(clientsPerSecond: 1, seconds: 60, launch: 1_000)
    let spec = pool { $0.max = 1_000 }
    memory = decide(spec, [ready("a")], now: 1_061_000, memory: memory).memory
    let again = decide(spec, [ready("a")], now: 1_061_000, memory: memory).memory
    #expect(again == memory)
  }
}

@Suite struct TargetActiveTests {
  private let web = pool {
    $0.slots = 0
    $0.recycleAfterSessions = 0
    $0.max = 10
    $0.scaling.targetActive = 10
  }

  @Test func aTargetMakesSlotsOfRequests() {
    // 10 + 8 requests and one to spare are 19: two of ten each are enough, three are needed for 20 and one.
    #expect(decide(web, [ready("a", free: nil, active: 10), ready("b", free: nil, active: 8)]).actions == [])
    #expect(
      reasons(decide(web, [ready("a", free: nil, active: 11), ready("b", free: nil, active: 9)]))
        == ["too few slots are free"])
    #expect(reasons(decide(web, [ready("a", free: nil, active: 45)])).count == 4)
  }

  @Test func whatStartsCounts() {
    let starting = ObservedInstance(id: "b", state: .starting, busy: true)
    #expect(decide(web, [ready("a", free: nil, active: 15), starting]).actions == [])
  }

  @Test func withoutATargetItDoesNotGrow() {
    var spec = web
    spec.scaling.targetActive = 0
    #expect(decide(spec, [ready("a", free: nil, active: 500)]).actions == [])
  }

  @Test func theLeastBusyGoesAndTheLastOneStays() {
    var memory = ScalingMemory()
    memory.surplusSince = 1
    let reason = "more instances are idle than needed"
    #expect(
      decide(web, [ready("a", free: nil, active: 5), ready("b", free: nil, active: 1)], memory: memory).actions
        == [.drain(id: "b", reason: reason)])
    // 10 and the spare one do not fit into one of ten.
    #expect(
      decide(web, [ready("a", free: nil, active: 9), ready("b", free: nil, active: 1)], memory: memory).actions == [])
    var none = web
    none.min = 0
    none.spare = 0
    #expect(decide(none, [ready("a", free: nil, active: 0)], memory: memory).actions == [])
  }

  @Test func theRequestsOfOneThatDrainsAreExpectedElsewhere() {
    var memory = ScalingMemory()
    memory.surplusSince = 1
    let draining = ObservedInstance(id: "c", state: .draining, leases: 0, active: 9, busy: true)
    #expect(
      decide(web, [ready("a", free: nil, active: 5), ready("b", free: nil, active: 0), draining], memory: memory)
        .actions == [])
  }

  @Test func aPeakOfASecondIsSmoothed() {
    var memory = ScalingMemory()
    for second in 0...20 {
      memory = decide(web, [ready("a", free: nil, active: 2)], now: 1_000_000 + second * 1_000, memory: memory).memory
    }
    let peak = decide(web, [ready("a", free: nil, active: 30)], now: 1_021_000, memory: memory)
    #expect(peak.actions == [])
    // If it stays it is believed.
    memory = peak.memory
    for second in 22...40 {
      memory = decide(web, [ready("a", free: nil, active: 30)], now: 1_000_000 + second * 1_000, memory: memory).memory
    }
    #expect(reasons(decide(web, [ready("a", free: nil, active: 30)], now: 1_041_000, memory: memory)).count == 3)
  }
}

@Suite struct SharedSlotTests {
  private let shared = pool {
    $0.slots = 4
    $0.recycleAfterSessions = 0
  }
  private var late: ScalingMemory {
    var memory = ScalingMemory()
    memory.surplusSince = 1
    return memory
  }

  @Test func clientsThatAreSpreadDoNotKeepHalfEmptyInstancesForever() {
    #expect(
      decide(shared, [ready("a", leases: 2, free: 2), ready("b", leases: 1, free: 3)], memory: late).actions
        == [.drain(id: "b", reason: "more instances are idle than needed")])
    // Those that come again need their four slots and the spare one: five are not in one instance.
    #expect(
      decide(shared, [ready("a", leases: 2, free: 2), ready("b", leases: 2, free: 2)], memory: late).actions == [])
  }

  @Test func whileOneIsLeavingItsClientsAreExpectedBack() {
    let draining = ObservedInstance(id: "c", state: .draining, leases: 2)
    #expect(
      decide(shared, [ready("a", leases: 1, free: 3), ready("b", leases: 1, free: 3), draining], memory: late).actions
        == [])
  }
}

@Suite struct LaunchTurnTests {
  private func order(_ pools: [LaunchTurns.Pool], budget: Int, refused: Set<String> = []) -> [String] {
    var turns = LaunchTurns(pools, budget: budget)
    var order: [String] = []
    while let next = turns.next() {
      if refused.contains(next) { turns.refuse(next) } else { order.append(next) }
    }
    return order
  }

  @Test func aStampedeOnOnePoolDoesNotHoldUpTheOthers() {
    #expect(
      order([.init(name: "a", wanted: 200, running: 0), .init(name: "z", wanted: 1, running: 0)], budget: 3)
        == ["a", "z", "a"])
    // The one that has none under way is first.
    #expect(
      order([.init(name: "a", wanted: 200, running: 4), .init(name: "z", wanted: 2, running: 0)], budget: 2)
        == ["z", "z"])
  }

  @Test func whoseHostsAreBusyLeavesTheTurnToOthers() {
    #expect(
      order(
        [.init(name: "a", wanted: 5, running: 0), .init(name: "b", wanted: 2, running: 0)], budget: 3, refused: ["a"])
        == ["b", "b"])
  }

  @Test(arguments: UInt64(1)...50) func sharesAreEvenAndTheBudgetIsUsedUp(seed: UInt64) {
    var random = SplitMix64(state: seed)
    let pools = (0..<Int.random(in: 1...6, using: &random)).map {
      LaunchTurns.Pool(
        name: "p\($0)", wanted: Int.random(in: 0...5, using: &random), running: Int.random(in: 0...4, using: &random))
    }
    let budget = Int.random(in: 0...12, using: &random)
    let given = order(pools.shuffled(using: &random), budget: budget)
    #expect(given.count == min(budget, pools.reduce(0) { $0 + $1.wanted }), "seed \(seed)")
    #expect(given == order(pools.shuffled(using: &random), budget: budget), "seed \(seed): the order of pools matters")
    func count(_ name: String) -> Int { given.count { $0 == name } }
    for mine in pools where count(mine.name) < mine.wanted {
      for other in pools where count(other.name) > 0 {
        #expect(
          other.running + count(other.name) <= mine.running + count(mine.name) + 1,
          "seed \(seed): \(other.name) got more than \(mine.name)")
      }
    }
  }
}

@Suite struct FullPoolTests {
  @Test func aPoolIsFullWhenClientsWaitAndMaxForbidsMore() {
    let two = [ready("a", leases: 1, free: 0), ready("b", leases: 1, free: 0)]
    #expect(decide(pool { $0.max = 2 }, two, waiting: 1).isFull)
    #expect(!decide(pool { $0.max = 2 }, two, waiting: 0).isFull)
    #expect(!decide(pool { $0.max = 4 }, two, waiting: 1).isFull)
    #expect(decide(pool { $0.max = 3 }, two, waiting: 2).isFull)
    // A spare slot that there is no room for keeps nobody waiting.
    #expect(!decide(pool { $0.max = 3 }, two, waiting: 1).isFull)
    // What is coming is enough.
    let coming = two + [ObservedInstance(id: "c", state: .starting, busy: true)]
    #expect(
      !decide(
        pool {
          $0.max = 3
          $0.spare = 0
        }, coming, waiting: 1
      ).isFull)
  }
}
