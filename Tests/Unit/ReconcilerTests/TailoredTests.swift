// Instances for one session each: how many are launched, how much room they take, and when they go.
import Domain
import Reconciler
import Routing
import Testing

@Suite struct TailoredTests {
  private func plan(
    _ requests: [String], served: Set<String> = [], existing: Int = 0, others: Int = 0, budget: Int = 100,
    spec: PoolSpec = pool()
  ) -> Tailored.Plan {
    Tailored.plan(
      spec: spec, requests: requests, served: served, existing: existing, others: others, budget: budget)
  }

  @Test func eachRequestGetsOneInTheirOrder() {
    #expect(plan([]) == Tailored.Plan(launches: [], room: 0, isAtLimit: false))
    #expect(plan(["a", "b"]) == Tailored.Plan(launches: ["a", "b"], room: 2, isAtLimit: false))
    #expect(plan(["a", "b"], served: ["a"], existing: 1) == Tailored.Plan(launches: ["b"], room: 2, isAtLimit: false))
    // Served, and its client has not taken it yet.
    #expect(plan(["a"], served: ["a"], existing: 1) == Tailored.Plan(launches: [], room: 1, isAtLimit: false))
    #expect(plan(["a", "b", "c"], budget: 1).launches == ["a"])
    #expect(plan(["a"], budget: -1).launches == [])
  }

  @Test func theLimitAndTheMaximumHold() {
    #expect(
      plan(["a", "b", "c", "d", "e"]) == Tailored.Plan(launches: ["a", "b", "c", "d"], room: 4, isAtLimit: true))
    #expect(plan(["e"], existing: 4) == Tailored.Plan(launches: [], room: 4, isAtLimit: true))
    // The pool is full of others: room is asked for, and launched when it is there.
    #expect(plan(["a", "b"], others: 8) == Tailored.Plan(launches: [], room: 2, isAtLimit: false))
    #expect(plan(["a", "b"], others: 7) == Tailored.Plan(launches: ["a"], room: 2, isAtLimit: false))
    #expect(plan(["a"], others: 12).launches == [])
    let none = pool { $0.launches.instances = 0 }
    #expect(plan(["a"], spec: none) == Tailored.Plan(launches: [], room: 0, isAtLimit: true))
  }

  @Test func idleOthersMakeRoomAndNobodyTakesIt() {
    // All eight are idle and wanted by `min`; one goes, and is not launched again.
    var spec = pool {
      $0.min = 8
      $0.max = 8
    }
    let others = (1...8).map {
      ObservedInstance(id: "i-\($0)", state: .ready, startedAt: $0, freeSlots: 1)
    }
    spec.max -= plan(["a"], others: 8, spec: spec).room
    let decision = Reconciler.decide(
      spec: spec, observed: PoolObservation(instances: others, waiting: 0), launchBudget: 9, now: 1_000_000)
    #expect(decision.actions.count == 1)
    #expect(decision.actions.allSatisfy { if case .drain = $0 { true } else { false } }, "\(decision.actions)")
  }

  @Test func neverMoreThanMayBe() {
    for existing in 0...8 {
      for others in 0...9 {
        for requests in 0...9 {
          for budget in 0...3 {
            let names = (0..<requests).map { "s-\($0)" }
            let plan = plan(names, existing: existing, others: others, budget: budget)
            #expect(plan.launches.count <= budget)
            #expect(plan.launches.isEmpty || existing + others + plan.launches.count <= 8)
            #expect(plan.launches.isEmpty || existing + plan.launches.count <= 4)
            #expect(plan.room <= max(existing, 4))
          }
        }
      }
    }
  }

  // MARK: What each of them needs

  private func duty(
    _ state: InstanceState, leases: Int = 0, awaited: Bool = false, spec: PoolSpec? = pool(),
    _ change: (inout ObservedInstance) -> Void = { _ in }
  ) -> Action? {
    var instance = ObservedInstance(id: "i", state: state, leases: leases)
    change(&instance)
    return Tailored.duty(to: instance, isAwaited: awaited, spec: spec)
  }
  private static let over = "the session that it was launched for is over"

  @Test func itStaysForItsSessionAndGoesWithIt() {
    #expect(duty(.ready, awaited: true) == nil)
    #expect(duty(.ready, leases: 1) == nil)
    #expect(duty(.ready, leases: 1, awaited: true) == nil)
    #expect(duty(.ready) == .drain(id: "i", reason: Self.over))
    #expect(duty(.ready, awaited: true, spec: nil) == .drain(id: "i", reason: Self.over))
    #expect(duty(.ready, leases: 1, spec: nil) == nil)
    #expect(duty(.draining, leases: 1) == nil)
    #expect(duty(.draining) == .stop(id: "i", reason: "it is drained"))
    #expect(duty(.stopping) == .stop(id: "i", reason: "its stop was not finished"))
    #expect(duty(.starting, awaited: true) == .stop(id: "i", reason: "its launch was given up"))
  }

  @Test func anIllOneIsReplacedOnlyBeforeItsClientHasIt() {
    #expect(duty(.unhealthy, leases: 1) { $0.failures = 99 } == nil)
    #expect(duty(.unhealthy, awaited: true) { $0.failures = 5 } == nil)
    #expect(
      duty(.unhealthy, awaited: true) { $0.failures = 6 }
        == .stop(id: "i", reason: "it failed 6 health checks in a row"))
    #expect(duty(.unhealthy) == .stop(id: "i", reason: Self.over))
  }

  @Test func endsAndOrdersComeFirst() {
    #expect(duty(.ready, leases: 1) { $0.exited = "gone" } == .remove(id: "i", reason: "gone"))
    #expect(duty(.ready) { $0.busy = true } == nil)
    for kind in InstanceOrder.Kind.allCases {
      let reason = "\(kind.rawValue) was asked for"
      #expect(duty(.ready, leases: 1) { $0.order = InstanceOrder(kind) } == .drain(id: "i", reason: reason))
      #expect(duty(.draining, leases: 1) { $0.order = InstanceOrder(kind) } == nil)
      #expect(
        duty(.draining, leases: 1) { $0.order = InstanceOrder(kind, force: true) } == .stop(id: "i", reason: reason))
    }
  }
}
