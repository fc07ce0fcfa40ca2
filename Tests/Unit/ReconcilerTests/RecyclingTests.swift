// The rules of recycling one by one; RecyclingPropertyTests.swift checks them together on random lives.
import Domain
import Reconciler
import Routing
import Testing

private let now = 10_000_000

/// A pool without slots that is recycled after a hundred requests, without jitter unless the test says so.
private func web(_ change: (inout PoolSpec) -> Void = { _ in }) -> PoolSpec {
  pool {
    $0.name = "web"
    $0.slots = 0
    $0.spare = 0
    $0.max = $0.min
    $0.recycleAfterSessions = 0
    $0.recycling.afterRequests = 100
    $0.recycling.jitterPercent = 0
    change(&$0)
  }
}

private func decide(
  _ spec: PoolSpec?, _ instances: [ObservedInstance], budget: Int = 10, restarts: [Restart] = [],
  history: RestartHistory = RestartHistory(), launchMilliseconds: Int = 0, now: Int = now
) -> Decision {
  var memory = ScalingMemory()
  if launchMilliseconds > 0 { memory.launches.took(launchMilliseconds) }
  return Reconciler.decide(
    spec: spec,
    observed: PoolObservation(instances: instances, history: history, restarts: restarts, memory: memory),
    launchBudget: budget, now: now)
}

private func ready(_ id: String, requests: Int = 0, rate: Double = 0, age: Int = 100_000) -> ObservedInstance {
  var instance = ObservedInstance(id: id, state: .ready, startedAt: now - age)
  instance.wear = Wear(requests: requests, requestsPerSecond: rate)
  return instance
}

private func marked(_ id: String) -> ObservedInstance {
  var instance = ready(id, requests: 100)
  instance.recycling = "worn"
  return instance
}

private func successor(_ id: String, of old: String, _ state: InstanceState = .ready) -> ObservedInstance {
  var instance = ObservedInstance(id: id, state: state, startedAt: now - 1_000, busy: state == .starting)
  instance.replaces = old
  return instance
}

private let fixed = RuntimeSpec.fixed(FixedSpec(servers: []))

@Suite struct RecyclingDueTests {
  @Test func anInstanceIsGoodForSoManyRequests() {
    #expect(decide(web(), [ready("a", requests: 99)]).actions == [])
    #expect(
      decide(web(), [ready("a", requests: 100)]).actions
        == [.replace(id: "a", reason: "it has served 100 requests, and was good for 100")])
    #expect(decide(web { $0.recycling.afterRequests = 0 }, [ready("a", requests: 1_000_000)]).actions == [])
  }

  @Test func requestsThatComeWhileItsSuccessorStartsCountAlready() {
    let reason = "it has served 81 requests, and 100 will be reached while its replacement starts"
    #expect(
      decide(web(), [ready("a", requests: 81, rate: 10)], launchMilliseconds: 2_000).actions
        == [.replace(id: "a", reason: reason)])
    #expect(decide(web(), [ready("a", requests: 79, rate: 10)], launchMilliseconds: 2_000).actions == [])
    // Not for more than half, or a rush would replace instances that have just started.
    #expect(decide(web(), [ready("a", requests: 49, rate: 9_000)], launchMilliseconds: 2_000).actions == [])
    #expect(decide(web(), [ready("a", requests: 50, rate: 9_000)], launchMilliseconds: 2_000).actions.count == 1)
  }

  @Test func anInstanceIsGoodForSomeTime() {
    let spec = web { $0.recycling.afterMilliseconds = 200_000 }
    let decision = decide(spec, [ready("a", age: 150_000)])
    #expect(decision.actions == [])
    #expect(decision.lookAgainAt == now + 50_000)
    #expect(decide(spec, [ready("a", age: 200_000)]).actions == [.replace(id: "a", reason: "it has run for 200 s")])
  }

  @Test func anInstanceMayUseSoMuchMemoryOnceItHasSettled() {
    let spec = web { $0.recycling.aboveMemoryMegabytes = 500 }
    var fat = ready("a", age: 60_000)
    fat.wear.memoryBytes = 500 << 20
    #expect(
      decide(spec, [fat]).actions
        == [.replace(id: "a", reason: "it uses 500 MB of memory, and was to use less than 500")])
    fat.startedAt += 1
    #expect(decide(spec, [fat]).actions == [])
    fat = ready("a")
    fat.wear.memoryBytes = (500 << 20) - 1
    #expect(decide(spec, [fat]).actions == [])
  }

  @Test func sessionsCountOnlyWhereJitterIsBelowWhatReplicasCount() {
    func shared(_ sessions: Int, _ recycleAfter: Int, jitter: Int = 50) -> [Action] {
      var instance = ready("a")
      instance.freeSlots = 2
      instance.wear.sessions = sessions
      return decide(
        pool {
          $0.slots = 3
          $0.max = $0.min
          $0.recycleAfterSessions = recycleAfter
          $0.recycling.jitterPercent = jitter
        }, [instance]
      ).actions
    }
    // It is a hundred's: the same for this name whenever it is asked.
    let limit = Recycling.limit(100, of: "a", generation: 1, jitterPercent: 50)
    #expect(limit < 100)
    #expect(shared(limit - 1, 100) == [])
    #expect(
      shared(limit, 100) == [.replace(id: "a", reason: "it has had \(limit) sessions, and was good for \(limit)")])
    #expect(shared(limit, 100, jitter: 0) == [])
    #expect(shared(1, 1) == [])
  }

  @Test func thresholdsAreSpreadAndAlwaysTheSame() {
    let limits = (0..<1_000).map { Recycling.limit(1_000, of: "web-\($0)", generation: 1, jitterPercent: 20) }
    #expect(limits.allSatisfy { $0 > 800 && $0 <= 1_000 })
    #expect(Set(limits).count > 150)
    // About evenly: each quarter of the range has its share.
    for quarter in 0..<4 {
      let range = 800 + quarter * 50..<850 + quarter * 50
      #expect(limits.count { range.contains($0 - 1) } > 180)
    }
    #expect(limits[7] == Recycling.limit(1_000, of: "web-7", generation: 1, jitterPercent: 20))
    #expect(
      (1...50).contains { Recycling.limit(1_000, of: "web-7", generation: $0, jitterPercent: 20) != limits[7] })
    #expect(Recycling.limit(1, of: "a", generation: 1, jitterPercent: 90) == 1)
    #expect(Recycling.limit(500, of: "a", generation: 1, jitterPercent: 0) == 500)
  }
}

@Suite struct RecyclingSurgeTests {
  @Test func theOldOneGoesWhenItsSuccessorIsReady() {
    #expect(decide(web(), [marked("a"), successor("b", of: "a", .starting)]).actions == [])
    #expect(decide(web(), [marked("a"), successor("b", of: "a")]).actions == [.recycle(id: "a", reason: "worn")])
    var busy = successor("b", of: "a")
    busy.busy = true
    #expect(decide(web(), [marked("a"), busy]).actions == [], "its record is on its way to Redis")
    var ill = successor("b", of: "a")
    ill.state = .unhealthy
    #expect(decide(web { $0.max = 2 }, [marked("a"), ill]).actions == [.replace(id: "a", reason: "worn")])
  }

  @Test func aSuccessorThatFailedIsTriedAgainAfterAWhile() {
    var history = RestartHistory()
    history.failed(now: now)
    let decision = decide(web(), [marked("a")], history: history)
    #expect(decision.actions == [])
    #expect(decision.lookAgainAt == now + 500)
    #expect(decide(web(), [marked("a")]).actions == [.replace(id: "a", reason: "worn")])
  }

  @Test func whatComesAgainUnderTheOldNameIsNotTakenForTheOldOne() {
    var again = ready("a", requests: 3, age: 500)
    again.generation = 2
    #expect(decide(web { $0.max = 2 }, [again, successor("b", of: "a")]).actions == [])
    again.recycling = "worn again"
    #expect(
      decide(web { $0.max = 2 }, [again, successor("b", of: "a")]).actions
        == [.replace(id: "a", reason: "worn again")])
  }

  @Test func onlySoManyAreReplacedAtOnceTheOldestFirst() {
    let due = [ready("a", requests: 100, age: 1_000), ready("b", requests: 100, age: 3_000), ready("c", age: 9_000)]
    func replaced(_ spec: PoolSpec, _ instances: [ObservedInstance], budget: Int = 10) -> [String] {
      decide(spec, instances, budget: budget).actions.compactMap {
        if case .replace(let id, _) = $0 { id } else { nil }
      }
    }
    let three = web {
      $0.min = 3
      $0.max = 3
    }
    #expect(replaced(three, due) == ["b"])
    var two = three
    two.recycling.maxSurge = 2
    #expect(replaced(two, due) == ["b", "a"])
    #expect(replaced(two, due, budget: 1) == ["b"])
    #expect(replaced(two, due, budget: 0) == [])
    #expect(replaced(three, due + [ObservedInstance(id: "d", state: .draining, busy: true)]) == [], "no room")
    // One that is being replaced is a surge; that which it has begun to replace is not replaced again.
    #expect(replaced(three, [marked("a"), successor("s", of: "a", .starting), due[1]]) == [])
    #expect(replaced(two, [marked("a"), successor("s", of: "a", .starting), due[1]]) == ["b"])
    // What was marked comes before what is older.
    #expect(replaced(three, [marked("m"), due[1]]) == ["m"])
  }

  @Test func clientsComeFirst() {
    // The minimum is missing, and there is one launch.
    let spec = web {
      $0.min = 2
      $0.max = 2
    }
    let actions = decide(spec, [ready("a", requests: 100)], budget: 1).actions
    #expect(actions == [.launch(nil, reason: "the pool has fewer than min instances")])
  }

  @Test func theSizeOfThePoolIsAsIfTheOldOneWereGone() {
    // Otherwise the second would be one too many for max, and be drained.
    #expect(decide(web(), [marked("a"), successor("b", of: "a")]).actions == [.recycle(id: "a", reason: "worn")])
    // An exclusive pool has the free slot of the successor, not that of the old one as well.
    var old = marked("a")
    old.freeSlots = 1
    var new = successor("b", of: "a")
    new.freeSlots = 1
    let exclusive = pool {
      $0.recycleAfterSessions = 0
      $0.recycling.afterMilliseconds = 1
    }
    #expect(decide(exclusive, [old, new]).actions == [.recycle(id: "a", reason: "worn")])
    let starting = decide(exclusive, [old, successor("b", of: "a", .starting)])
    #expect(starting.actions == [] && starting.memory.surplusSince == nil)
  }

  @Test func anExclusiveInstanceIsReplacedUnderItsClientAndOneThatIsSpentIsNot() {
    let spec = pool {
      $0.recycling.afterMilliseconds = 1_000
      $0.spare = 0
    }
    var held = ready("a")
    held.leases = 1
    held.freeSlots = 0
    #expect(decide(spec, [held]).actions == [.replace(id: "a", reason: "it has run for 100 s")])
    held.freeSlots = nil
    #expect(!decide(spec, [held]).actions.contains { if case .replace = $0 { true } else { false } })
  }

  @Test func ordersDutiesAndBusyInstancesAreLeftAlone() {
    var one = ready("a", requests: 100)
    one.busy = true
    #expect(decide(web(), [one]).actions == [])
    one.busy = false
    one.order = InstanceOrder(.stop)
    #expect(decide(web { $0.min = 0 }, [one]).actions == [.drain(id: "a", reason: "stop was asked for")])
    one.order = nil
    one.exited = "gone"
    #expect(decide(web { $0.min = 0 }, [one]).actions == [.remove(id: "a", reason: "gone")])
  }
}

@Suite struct RecyclingWithoutSurgeTests {
  private func servers(_ count: Int, _ change: (inout RecyclePolicy) -> Void = { _ in }) -> PoolSpec {
    web {
      $0.runtime = fixed
      $0.min = count
      $0.max = count
      $0.recycling.maxSurge = 0
      $0.recycling.maxUnavailable = 1
      change(&$0.recycling)
    }
  }
  private func recycled(_ spec: PoolSpec, _ instances: [ObservedInstance], restarts: [Restart] = []) -> [String] {
    decide(spec, instances, restarts: restarts).actions.compactMap {
      if case .recycle(let id, _) = $0 { id } else { nil }
    }
  }
  private let due = ["a", "b", "c"].map { ready($0, requests: 100) }

  @Test func oneAfterTheOtherIsTakenOut() {
    #expect(recycled(servers(3), due) == ["a"])
    #expect(recycled(servers(3) { $0.maxUnavailable = 2 }, due) == ["a", "b"])
    let draining = ObservedInstance(id: "a", state: .draining, busy: true)
    #expect(recycled(servers(3), [draining, due[1], due[2]]) == [])
    #expect(recycled(servers(3), [ObservedInstance(id: "a", state: .stopping, busy: true), due[1], due[2]]) == [])
    #expect(recycled(servers(3), [ObservedInstance(id: "a", state: .starting, busy: true), due[1], due[2]]) == [])
    #expect(recycled(servers(3), [due[1], due[2]], restarts: [Restart(id: "a", generation: 2)]) == [])
  }

  @Test func theFloorHolds() {
    let ill = ObservedInstance(id: "a", state: .unhealthy)
    #expect(recycled(servers(3) { $0.minReady = 2 }, [ill, due[1], due[2]]) == [])
    #expect(recycled(servers(3) { $0.minReady = 1 }, [ill, due[1], due[2]]) == ["b"])
    #expect(recycled(servers(1) { $0.minReady = 0 }, [due[0]]) == ["a"])
    #expect(recycled(servers(1), [due[0]]) == [])
  }

  @Test func bothWaysTogether() {
    // One surge, and one that may be missing.
    let spec = web {
      $0.min = 3
      $0.max = 3
      $0.recycling.maxUnavailable = 1
    }
    let actions = decide(spec, due).actions
    #expect(
      actions == [
        .replace(id: "a", reason: "it has served 100 requests, and was good for 100"),
        .recycle(id: "b", reason: "it has served 100 requests, and was good for 100"),
      ])
  }
}

@Suite struct DrainTests {
  private func draining(since: Int? = now, using: Int = 0, leases: Int = 0) -> ObservedInstance {
    var instance = ObservedInstance(id: "a", state: .draining, leases: leases)
    instance.drainingSince = since
    instance.replicasUsing = using
    return instance
  }
  private let over = [Action.stop(id: "a", reason: "it is drained")]

  private func actions(_ spec: PoolSpec?, _ instance: ObservedInstance, after milliseconds: Int = 0) -> [Action] {
    decide(spec, [instance], now: now + milliseconds).actions.filter { !$0.isLaunch }
  }

  @Test func itGoesOnUntilNoReplicaUsesTheInstance() {
    let spec = web { $0.recycling.drain.timeoutMilliseconds = 5_000 }
    #expect(actions(spec, draining(using: 2), after: 4_999) == [])
    #expect(actions(spec, draining()) == over)
    #expect(
      actions(spec, draining(using: 2), after: 5_000) == [.stop(id: "a", reason: "its drain took 5000 ms")])
    #expect(decide(spec, [draining(using: 1)]).lookAgainAt == now + 5_000)
    #expect(actions(web(), draining(using: 2), after: 1_000_000_000) == [], "no limit")
    #expect(actions(web(), draining(since: nil)) == over)
  }

  @Test func clientsWithSlotsHoldLeases() {
    #expect(actions(pool(), draining(leases: 1), after: 1_000_000_000) == [])
    #expect(actions(pool(), draining(using: 2)) == over)
    let spec = pool { $0.recycling.drain.timeoutMilliseconds = 5_000 }
    #expect(actions(spec, draining(leases: 1), after: 5_000) == [.stop(id: "a", reason: "its drain took 5000 ms")])
  }

  @Test func itTakesAtLeastSoLong() {
    let spec = web { $0.recycling.drain.minimumMilliseconds = 2_000 }
    let decision = decide(spec, [draining()], now: now + 500)
    #expect(decision.actions.filter { !$0.isLaunch } == [] && decision.lookAgainAt == now + 2_000)
    #expect(actions(spec, draining(), after: 2_000) == over)
    // A clock that was set back does not stretch it.
    #expect(decide(spec, [draining(since: now + 50_000)]).lookAgainAt == now + 2_000)
  }

  @Test func withoutAPoolTheUsualLimitsHold() {
    #expect(actions(nil, draining(using: 1), after: DrainPolicy.usualTimeoutMilliseconds - 1) == [])
    #expect(actions(nil, draining(using: 1), after: DrainPolicy.usualTimeoutMilliseconds).count == 1)
    #expect(actions(nil, draining(leases: 1), after: 1_000_000_000) == [])
    #expect(actions(nil, draining()) == over)
  }
}

@Suite struct RequestRateTests {
  @Test func theRateFollowsWhatIsTold() {
    var rate = RequestRate()
    rate.look(0, now: 0)
    #expect(rate.perSecond == 0)
    // Told once a second, looked at more often.
    for second in 1...60 {
      for part in 0..<4 { rate.look(second * 50, now: second * 1_000 + part * 250) }
    }
    #expect(rate.perSecond > 30 && rate.perSecond < 70)
    for second in 61...120 { rate.look(3_000, now: second * 1_000) }
    #expect(rate.perSecond < 0.1)
    // Counts or a clock that began anew.
    rate.look(5, now: 121_000)
    rate.look(6, now: 1_000)
    rate.look(1_000_006, now: 2_000)
    #expect(rate.perSecond > 100_000)
  }
}

@Suite struct RecycleCauseTests {
  /// Figures tell the thresholds apart by the reasons that ``Recycling`` gives.
  @Test func everyThresholdIsToldByItsReason() {
    func cause(_ spec: PoolSpec, _ instance: ObservedInstance) -> RecycleCause? {
      for case .replace(_, let reason) in decide(spec, [instance]).actions { return RecycleCause(reason: reason) }
      return nil
    }
    let unlimited = web { $0.recycling.afterRequests = 0 }
    var aged = unlimited
    aged.recycling.afterMilliseconds = 50_000
    var big = unlimited
    big.recycling.aboveMemoryMegabytes = 100
    var heavy = ready("a")
    heavy.wear.memoryBytes = 200 << 20
    var young = heavy
    young.startedAt = now - 30_000
    #expect(cause(web(), ready("a", requests: 100)) == .requests)
    #expect(cause(aged, ready("a")) == .age)
    #expect(cause(big, heavy) == .memory && cause(big, young) == nil)
    var impatient = big
    impatient.recycling.memorySettlingMilliseconds = 0
    #expect(cause(impatient, young) == .memory)
    let shared = pool {
      $0.slots = 4
      $0.max = $0.min
      $0.spare = 0
      $0.recycleAfterSessions = 100
      $0.recycling.jitterPercent = 90
    }
    let limits = (1...20).first { number in
      Recycling.limit(100, of: "s-\(number)", generation: 1, jitterPercent: 90) < 60
    }
    var used = ready("s-\(limits ?? 0)")
    used.freeSlots = 4
    used.wear.sessions = 60
    #expect(cause(shared, used) == .sessions)
    #expect(RecycleCause(reason: "restart was asked for") == nil)
  }
}
