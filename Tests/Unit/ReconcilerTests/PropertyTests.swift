// Random lives of a pool, driven by a seed: whatever clients, crashes and operators do, the promises of the
// reconciler hold at every step, and when things calm down the pool ends where it should and stays there.
import Domain
import Reconciler
import Routing
import Testing

/// SplitMix64: the same seed gives the same life on every machine.
struct SplitMix64: RandomNumberGenerator {
  var state: UInt64
  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }
  mutating func chance(_ percent: Int) -> Bool { Int.random(in: 0..<100, using: &self) < percent }
}

/// A pool whose supervisor carries out every action, some at once and some after a while.
private struct World {
  struct Instance {
    var observed: ObservedInstance
    var sessions = 0
  }
  let spec: PoolSpec
  var instances: [String: Instance] = [:]
  var waiting = 0
  var now = 1_000_000
  var history = RestartHistory()
  var restarts: [Restart] = []
  var memory = ScalingMemory()
  var made = 0
  let budget: Int

  func observation() -> PoolObservation {
    PoolObservation(
      instances: instances.values.map(\.observed).sorted { $0.id < $1.id }, waiting: waiting, history: history,
      restarts: restarts, memory: memory)
  }

  var launching: Int { instances.values.count { $0.observed.state == .starting && $0.observed.busy } }

  /// One round of the reconciler, with the promises checked on each action. Returns what was done.
  mutating func reconcile(_ seed: UInt64) -> [Action] {
    let before = observation()
    let decision = Reconciler.decide(spec: spec, observed: before, launchBudget: budget - launching, now: now)
    var touched: Set<String> = []
    for action in decision.actions {
      switch action {
      case .launch(let restart, _):
        made += 1
        let id = restart?.id ?? "i\(made)"
        restarts.removeAll { $0.id == id }
        #expect(instances[id] == nil, "seed \(seed): \(id) is launched although it exists")
        instances[id] = Instance(
          observed: ObservedInstance(
            id: id, state: .starting, generation: restart?.generation ?? 1, startedAt: now, busy: true))
      case .replace, .recycle:
        Issue.record("seed \(seed): \(action), although nothing is worn here (RecyclingPropertyTests has those)")
      case .drain(let id, _):
        #expect(touched.insert(id).inserted, "seed \(seed): two actions for \(id)")
        #expect(instances[id]?.observed.busy == false, "seed \(seed)")
        instances[id]?.observed.state = .draining
        instances[id]?.observed.freeSlots = nil
      case .stop(let id, _):
        #expect(touched.insert(id).inserted, "seed \(seed): two actions for \(id)")
        let forced = instances[id]?.observed.order?.force == true
        let wasStopping = instances[id]?.observed.state == .stopping
        #expect(
          instances[id]?.observed.leases == 0 || forced || wasStopping, "seed \(seed): \(id) is stopped under a client")
        instances[id]?.observed.state = .stopping
        instances[id]?.observed.freeSlots = nil
        instances[id]?.observed.busy = true
      case .remove(let id, _):
        #expect(touched.insert(id).inserted, "seed \(seed): two actions for \(id)")
        #expect(instances[id]?.observed.exited != nil, "seed \(seed): \(id) is removed while it runs")
        forget(id)
      }
    }
    memory = decision.memory
    #expect(instances.count <= spec.max, "seed \(seed): more instances than max")
    #expect(launching <= budget, "seed \(seed): more launches at once than allowed")
    return decision.actions
  }

  mutating func forget(_ id: String) {
    if let instance = instances.removeValue(forKey: id), instance.observed.order?.kind == .restart {
      restarts.append(Restart(id: id, generation: instance.observed.generation + 1))
    }
  }

  mutating func becomeReady(_ id: String) {
    instances[id]?.observed.state = .ready
    instances[id]?.observed.busy = false
    instances[id]?.observed.freeSlots = spec.slots
    history.succeeded()
  }

  /// A client comes: it gets a slot or waits.
  mutating func arrive() {
    guard spec.slots > 0, let id = free().first else {
      if spec.slots > 0 { waiting += 1 }
      return
    }
    instances[id]?.observed.leases += 1
    instances[id]?.observed.freeSlots? -= 1
    instances[id]?.sessions += 1
  }

  func free() -> [String] { instances.filter { ($0.value.observed.freeSlots ?? 0) > 0 }.keys.sorted() }

  mutating func leave(_ id: String) {
    guard var instance = instances[id], instance.observed.leases > 0 else { return }
    instance.observed.leases -= 1
    if let free = instance.observed.freeSlots {
      let spent = spec.recycleAfterSessions > 0 && instance.sessions >= spec.recycleAfterSessions
      instance.observed.freeSlots = spent ? nil : free + 1
    }
    instances[id] = instance
  }

  /// Something that may happen to a pool.
  mutating func happen(_ random: inout SplitMix64) {
    let ids = instances.keys.sorted()
    let id = ids.randomElement(using: &random)
    switch Int.random(in: 0..<12, using: &random) {
    case 0, 1: arrive()
    case 2, 3: if let id { leave(id) }
    case 4: if waiting > 0 { waiting -= 1 }
    case 5, 6: if let id, instances[id]?.observed.state == .starting { becomeReady(id) }
    case 7:
      if let id, instances[id]?.observed.state == .starting {
        forget(id)
        history.failed(now: now)
      }
    case 8:
      if let id, instances[id]?.observed.state == .stopping { forget(id) }
    case 9:
      if let id, instances[id]?.observed.busy == false, random.chance(40) {
        instances[id]?.observed.exited = "killed by signal 9"
      }
    case 10:
      if let id, random.chance(30) {
        instances[id]?.observed.order = InstanceOrder(random.chance(50) ? .stop : .restart, force: random.chance(30))
      }
    default:
      if let id, instances[id]?.observed.state == .ready, random.chance(30) {
        instances[id]?.observed.state = .unhealthy
        instances[id]?.observed.freeSlots = nil
        instances[id]?.observed.failures = Int.random(in: 2...8, using: &random)
      }
    }
    // While waiting clients exist, free slots go to them at once, as the queue does it.
    while waiting > 0, !free().isEmpty {
      waiting -= 1
      arrive()
    }
    now += Int.random(in: 0...5_000, using: &random)
  }

  /// Launches succeed, stops finish, clients go, unhealthy ones do not recover: what is left is the reconciler's work.
  mutating func calm() {
    for id in instances.keys.sorted() {
      switch instances[id]?.observed.state {
      case .starting: becomeReady(id)
      case .stopping: forget(id)
      case .unhealthy: instances[id]?.observed.failures += 1
      default: break
      }
      while (instances[id]?.observed.leases ?? 0) > 0 { leave(id) }
    }
    now += 1_000
  }
}

@Suite struct ReconcilerPropertyTests {
  @Test(arguments: UInt64(1)...60) func promisesHoldInEveryLife(seed: UInt64) {
    var random = SplitMix64(state: seed)
    let max = Int.random(in: 1...10, using: &random)
    let slots = [0, 1, 1, 1, 3].randomElement(using: &random)!
    let spec = pool {
      $0.max = max
      $0.min = Int.random(in: 0...max, using: &random)
      $0.slots = slots
      $0.spare = Int.random(in: 0...Swift.max(1, max * slots), using: &random)
      $0.recycleAfterSessions = slots == 0 ? 0 : Int.random(in: 0...3, using: &random)
    }
    #expect(spec.contradiction == nil || slots == 0, "seed \(seed): \(spec.contradiction ?? "")")
    var world = World(spec: spec, budget: Int.random(in: 1...4, using: &random))
    for _ in 0..<400 {
      world.happen(&random)
      _ = world.reconcile(seed)
    }

    world.waiting = 0
    var quiet = 0
    var rounds = 0
    while quiet < 3 && rounds < 400 {
      world.calm()
      // Past the delay of a scale-down or a crash loop, so that nothing but work that is left keeps it busy.
      if world.memory.surplusSince != nil { world.now += spec.scaling.downAfterMilliseconds }
      if !world.history.mayLaunch(by: spec.restart, now: world.now) { world.now += spec.restart.maximumMilliseconds }
      quiet = world.reconcile(seed).isEmpty ? quiet + 1 : 0
      rounds += 1
    }
    #expect(quiet >= 3, "seed \(seed): the pool does not come to rest")
    let instances = world.instances.values.map(\.observed)
    #expect(instances.allSatisfy { $0.state == .ready }, "seed \(seed): \(instances)")
    #expect(instances.count >= spec.min && instances.count <= spec.max, "seed \(seed): \(instances.count) instances")
    if slots > 0 {
      let free = instances.compactMap(\.freeSlots).reduce(0, +)
      let enough = Swift.max(spec.min, (spec.spare + slots - 1) / slots)
      #expect(free >= Swift.min(spec.spare, spec.max * slots), "seed \(seed): \(free) free slots")
      #expect(instances.count == enough, "seed \(seed): \(instances.count) instances, \(enough) are enough")
    }
  }

  @Test func aDecisionThatWasCarriedOutIsNotRepeated() {
    for seed in UInt64(100)...130 {
      var random = SplitMix64(state: seed)
      var world = World(
        spec: pool {
          $0.max = 6
          $0.min = 2
          $0.spare = 2
        }, budget: 6)
      for _ in 0..<100 {
        world.happen(&random)
        _ = world.reconcile(seed)
        // Nothing but the actions themselves happened: draining ones may go on to be stopped, then there is silence.
        _ = world.reconcile(seed)
        #expect(world.reconcile(seed).isEmpty, "seed \(seed)")
      }
    }
  }
}
