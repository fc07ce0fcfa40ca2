// The reconciler's rules one by one; PropertyTests.swift checks them together on random lives.
import Domain
import Reconciler
import Routing
import Testing

func pool(_ change: (inout PoolSpec) -> Void = { _ in }) -> PoolSpec {
  var spec = PoolSpec(name: "chrome", kind: .cdp, runtime: .process(ProcessSpec()))
  change(&spec)
  return spec
}

private func decide(
  _ spec: PoolSpec?, _ instances: [ObservedInstance], waiting: Int = 0, budget: Int = 100, now: Int = 1_000_000,
  history: RestartHistory = RestartHistory(), restarts: [Restart] = [], memory: ScalingMemory = ScalingMemory()
) -> Decision {
  Reconciler.decide(
    spec: spec,
    observed: PoolObservation(
      instances: instances, waiting: waiting, history: history, restarts: restarts, memory: memory),
    launchBudget: budget, now: now)
}

private func decide(
  _ instances: [ObservedInstance], waiting: Int = 0, budget: Int = 100, now: Int = 1_000_000,
  history: RestartHistory = RestartHistory(), restarts: [Restart] = [], memory: ScalingMemory = ScalingMemory()
) -> Decision {
  decide(
    pool(), instances, waiting: waiting, budget: budget, now: now, history: history, restarts: restarts,
    memory: memory)
}

private func surplus(since: Int) -> ScalingMemory {
  var memory = ScalingMemory()
  memory.surplusSince = since
  return memory
}

private let tooFew = Action.launch(nil, reason: "the pool has fewer than min instances")
private let noSpare = Action.launch(nil, reason: "too few slots are free")
private let clientsWait = Action.launch(nil, reason: "clients wait for a slot")

private func ready(_ id: String, leases: Int = 0, free: Int? = 1, startedAt: Int = 0) -> ObservedInstance {
  ObservedInstance(id: id, state: .ready, startedAt: startedAt, leases: leases, freeSlots: free)
}
private func starting(_ id: String) -> ObservedInstance { ObservedInstance(id: id, state: .starting, busy: true) }

@Suite struct ScaleUpTests {
  @Test func anEmptyPoolGetsItsMinimum() {
    #expect(
      decide(
        pool {
          $0.min = 3
          $0.spare = 0
        }, []
      ).actions == [tooFew, tooFew, tooFew])
    #expect(
      decide(
        pool {
          $0.min = 0
          $0.spare = 0
        }, []
      ).actions == [])
  }

  @Test func aSpareSlotIsKeptFree() {
    #expect(decide([ready("a", leases: 1, free: 0)]).actions == [noSpare])
    #expect(decide([ready("a", leases: 1, free: 0), ready("b")]).actions == [])
    #expect(decide([ready("a", leases: 1, free: 0), starting("b")]).actions == [])
  }

  @Test func waitingClientsAreWantedSlots() {
    #expect(decide([ready("a", leases: 1, free: 0)], waiting: 2).actions == [clientsWait, clientsWait, noSpare])
    #expect(
      decide([ready("a", leases: 1, free: 0), starting("b"), starting("c")], waiting: 2).actions == [noSpare])
    #expect(
      decide(pool { $0.slots = 4 }, [ready("a", leases: 4, free: 0)], waiting: 4).actions == [
        clientsWait, noSpare,
      ])
  }

  @Test func maxCountsAllThatTakesRoom() {
    let instances = [ready("a", leases: 1, free: 0), ObservedInstance(id: "b", state: .stopping, busy: true)]
    #expect(decide(pool { $0.max = 2 }, instances, waiting: 9).actions == [])
    #expect(decide(pool { $0.max = 3 }, instances, waiting: 9).actions == [clientsWait])
  }

  @Test func launchesAtOnceAreCapped() {
    #expect(decide(pool { $0.min = 5 }, [], budget: 2).actions == [tooFew, tooFew])
    #expect(decide(pool { $0.min = 5 }, [], budget: 0).actions == [])
  }

  @Test func aCrashLoopWaits() {
    var history = RestartHistory()
    history.failed(now: 1_000_000)
    let decision = decide([], now: 1_000_100, history: history)
    #expect(decision.actions == [])
    #expect(decision.lookAgainAt == 1_000_500)
    #expect(decide([], now: 1_000_500, history: history).actions == [tooFew])
  }

  @Test func aPoolThatIsCrashLoopingTriesOneLaunchAtATime() {
    var history = RestartHistory()
    for _ in 0..<5 { history.failed(now: 1) }
    let greedy = pool {
      $0.min = 5
      $0.spare = 5
    }
    #expect(decide(greedy, [], history: history).actions.count == 1)
    #expect(decide(greedy, [starting("a")], history: history).actions == [])
    // The probe is ready, and what died early has still to be lived down: the next one may follow.
    #expect(decide(greedy, [ready("a")], history: history).actions.count == 1)
    #expect(decide(greedy, [ready("a")]).actions.count == 4)
  }

  @Test func sharedPoolsWithoutSlotsKeepTheirMinimum() {
    let web = pool {
      $0.slots = 0
      $0.recycleAfterSessions = 0
      $0.min = 2
    }
    #expect(decide(web, [ready("a", free: nil)]).actions == [tooFew])
    #expect(decide(web, [ready("a", free: nil), ready("b", free: 0)]).actions == [])
  }
}

@Suite struct ReplacementTests {
  @Test func aSpentInstanceIsReplacedOnceItsClientHasGone() {
    #expect(
      decide([ready("a", free: nil), ready("b")]).actions == [.drain(id: "a", reason: "its 1 sessions are over")])
    #expect(decide([ready("a", leases: 1, free: nil), ready("b")]).actions == [])
    #expect(decide([ready("a", leases: 1, free: nil)]).actions == [noSpare])
  }

  @Test func whatHasExitedIsRemovedAndReplaced() {
    var dead = ready("a", leases: 1, free: 0)
    dead.exited = "killed by signal 9"
    #expect(
      decide([dead, ready("b", leases: 1, free: 0)]).actions == [
        .remove(id: "a", reason: "killed by signal 9"), noSpare,
      ])
  }

  @Test func drainedInstancesAreStoppedOnlyWhenNobodyHoldsThem() {
    var draining = ObservedInstance(id: "a", state: .draining, leases: 1)
    #expect(decide([draining, ready("b")]).actions == [])
    draining.leases = 0
    #expect(decide([draining, ready("b")]).actions == [.stop(id: "a", reason: "it is drained")])
  }

  @Test func anUnhealthyInstanceIsReplacedButNotUnderAClient() {
    var sick = ObservedInstance(id: "a", state: .unhealthy, failures: 6)
    #expect(decide([sick, ready("b")]).actions == [.stop(id: "a", reason: "it failed 6 health checks in a row")])
    sick.leases = 1
    #expect(decide([sick, ready("b")]).actions == [])
    sick = ObservedInstance(id: "a", state: .unhealthy, failures: 5)
    #expect(decide([sick, ready("b")]).actions == [])
    #expect(decide([sick]).actions == [tooFew])
  }

  @Test func withReplicasWordAnUnhealthyInstanceIsReplacedSooner() {
    var sick = ObservedInstance(id: "a", state: .unhealthy, failures: 2)
    #expect(decide([sick, ready("b")]).actions == [])
    sick.isSuspected = true
    #expect(decide([sick, ready("b")]).actions == [.stop(id: "a", reason: "it failed 2 health checks in a row")])
    sick.failures = 1
    #expect(decide([sick, ready("b")]).actions == [])
    sick.failures = 9
    sick.leases = 1
    #expect(decide([sick, ready("b")]).actions == [])
  }

  @Test func whatADeadLeaderLeftHalfDoneIsFinished() {
    #expect(
      decide([ObservedInstance(id: "a", state: .starting), ObservedInstance(id: "b", state: .stopping), ready("c")])
        .actions
        == [.stop(id: "a", reason: "its launch was given up"), .stop(id: "b", reason: "its stop was not finished")])
  }

  @Test func busyInstancesAreLeftAlone() {
    for state in InstanceState.allCases {
      let busy = ObservedInstance(
        id: "a", state: state, exited: "x", failures: 99, order: InstanceOrder(.stop, force: true), busy: true)
      #expect(!decide([busy, ready("b")]).actions.contains { $0.instance != nil }, "\(state)")
    }
  }
}

@Suite struct OrderTests {
  @Test func anOrderDrainsAndForceStops() {
    var ordered = ready("a", leases: 1, free: 0)
    ordered.order = InstanceOrder(.restart)
    #expect(decide([ordered, ready("b")]).actions == [.drain(id: "a", reason: "restart was asked for")])
    ordered.state = .draining
    #expect(decide([ordered, ready("b")]).actions == [])
    ordered.order?.force = true
    #expect(decide([ordered, ready("b")]).actions == [.stop(id: "a", reason: "restart was asked for")])
  }

  @Test func aRestartedInstanceComesBackUnderItsNameEvenWhenNothingIsMissing() {
    let again = Restart(id: "a", generation: 2)
    #expect(decide([ready("b")], restarts: [again]).actions == [.launch(again, reason: "restart was asked for")])
    #expect(decide(pool { $0.max = 1 }, [ready("b")], restarts: [again]).actions == [])
  }

  @Test func aPoolThatIsNoLongerDeclaredIsDrained() {
    let reason = "its pool is no longer declared"
    #expect(
      decide(nil, [ready("a", leases: 1, free: 0), ObservedInstance(id: "b", state: .draining), starting("c")]).actions
        == [.drain(id: "a", reason: reason), .stop(id: "b", reason: "it is drained")])
  }
}

@Suite struct ScaleDownTests {
  let reason = "more instances are idle than needed"

  @Test func aSurplusGoesAfterItsDelayTheYoungestFirst() {
    let instances = [ready("old", startedAt: 1), ready("new", startedAt: 3), ready("mid", startedAt: 2)]
    let first = decide(instances, now: 1_000_000)
    #expect(first.actions == [])
    #expect(first.memory.surplusSince == 1_000_000)
    #expect(first.lookAgainAt == 1_060_000)
    #expect(decide(instances, now: 1_059_999, memory: surplus(since: 1_000_000)).actions == [])
    #expect(
      decide(instances, now: 1_060_000, memory: surplus(since: 1_000_000)).actions
        == [.drain(id: "new", reason: reason), .drain(id: "mid", reason: reason)])
  }

  @Test func demandEndsTheWait() {
    let decision = decide([ready("a"), ready("b")], waiting: 1, now: 1_050_000, memory: surplus(since: 1_000_000))
    #expect(decision.actions == [])
    #expect(decision.memory.surplusSince == nil)
  }

  @Test func theMinimumAndTheSpareStay() {
    let late = 2_000_000
    #expect(decide(pool { $0.min = 2 }, [ready("a"), ready("b")], now: late, memory: surplus(since: 1)).actions == [])
    #expect(
      decide(pool { $0.spare = 2 }, [ready("a"), ready("b")], now: late, memory: surplus(since: 1)).actions == [])
    let shared = pool {
      $0.slots = 4
      $0.recycleAfterSessions = 0
      $0.spare = 4
    }
    #expect(
      decide(shared, [ready("a", leases: 2, free: 2), ready("b", free: 4)], now: late, memory: surplus(since: 1))
        .actions == [])
  }

  @Test func aLoweredMaximumDrainsIdleOnesFirstAndTheRestPolitely() {
    let small = pool { $0.max = 1 }
    let why = "the pool has more than max instances"
    #expect(
      decide(
        small, [ready("used", leases: 1, free: 0, startedAt: 9), ready("idle"), ready("used2", leases: 1, free: 0)]
      )
      .actions == [.drain(id: "idle", reason: why), .drain(id: "used", reason: why)])
  }
}
