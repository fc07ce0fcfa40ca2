// Random lives of pools whose instances wear out, driven by a seed: whatever happens, no instance is taken away without
// what the policy promises, and when things calm down every worn one has been replaced.
import Domain
import Reconciler
import Routing
import Testing

/// A pool whose supervisor carries out every action, some at once and some after a while, and which checks each of them.
private struct WearingPool {
  let spec: PoolSpec
  let seed: UInt64
  var instances: [String: ObservedInstance] = [:]
  var restarts: [Restart] = []
  var history = RestartHistory()
  var memory = ScalingMemory()
  var now = 1_000_000
  var made = 0
  var recycled = 0
  let budget: Int

  private func values() -> [ObservedInstance] { instances.values.sorted { $0.id < $1.id } }
  private var launching: Int { instances.values.count { $0.state == .starting && $0.busy } }
  private var readyCount: Int { instances.values.count { $0.state == .ready && $0.exited == nil && $0.order == nil } }
  private var outCount: Int {
    instances.values.count { $0.state == .draining || $0.state == .stopping || $0.state == .starting } + restarts.count
  }

  /// One round of the reconciler. Returns what was done.
  mutating func reconcile() -> [Action] {
    let decision = Reconciler.decide(
      spec: spec,
      observed: PoolObservation(instances: values(), history: history, restarts: restarts, memory: memory),
      launchBudget: budget - launching, now: now)
    memory = decision.memory
    var touched: Set<String> = []
    for action in decision.actions {
      if let id = action.instance { #expect(touched.insert(id).inserted, "seed \(seed): two actions for \(id)") }
      carryOut(action)
    }
    #expect(instances.count <= spec.max + spec.recycling.maxSurge, "seed \(seed): \(instances.count) instances")
    #expect(launching <= Swift.max(budget, 0), "seed \(seed): more launches at once than allowed")
    return decision.actions
  }

  private mutating func carryOut(_ action: Action) {
    switch action {
    case .launch(let restart, _):
      restarts.removeAll { $0 == restart }
      start(restart?.id ?? newName(), generation: restart?.generation ?? 1)
    case .replace(let id, let reason):
      #expect(instances[id]?.state == .ready && instances[id]?.busy == false, "seed \(seed)")
      #expect(!spec.runtime.isFixed, "seed \(seed): there is no other server")
      mark(id, reason)
      let successor = newName()
      start(successor, generation: 1)
      instances[successor]?.replaces = id
    case .recycle(let id, let reason):
      checkRecycle(id)
      recycled += 1
      mark(id, reason)
      drain(id)
    case .drain(let id, _): drain(id)
    case .stop(let id, _):
      if let instance = instances[id], instance.state == .draining, instance.order?.force != true {
        let since = now - (instance.drainingSince ?? now)
        let timeout = spec.recycling.drain.timeoutMilliseconds
        #expect(
          instance.replicasUsing == 0 || (timeout > 0 && since >= timeout), "seed \(seed): \(id) is stopped under use")
        #expect(since >= spec.recycling.drain.minimumMilliseconds || instance.replicasUsing > 0, "seed \(seed)")
      }
      instances[id]?.state = .stopping
      instances[id]?.busy = true
    case .remove(let id, _):
      // It takes a while until its record and its port are gone.
      instances[id]?.state = .stopping
      instances[id]?.busy = true
    }
  }

  private mutating func mark(_ id: String, _ reason: String) {
    if instances[id]?.recycling == nil { instances[id]?.recycling = reason }
  }

  /// What the policy promises whenever a worn instance is taken out.
  private func checkRecycle(_ id: String) {
    guard let old = instances[id] else {
      Issue.record("seed \(seed): \(id) is gone")
      return
    }
    #expect(old.state == .ready && !old.busy && old.order == nil && old.exited == nil, "seed \(seed)")
    let hasSuccessor = instances.values.contains {
      $0.replaces == id && $0.state == .ready && !$0.busy && $0.exited == nil && $0.order == nil
        && $0.startedAt >= old.startedAt
    }
    if hasSuccessor { return }
    #expect(spec.recycling.maxUnavailable > 0, "seed \(seed): \(id) has no successor that is ready")
    #expect(readyCount - 1 >= spec.recycling.minReady, "seed \(seed): only \(readyCount - 1) would be ready")
    if spec.recycling.maxSurge == 0 {
      #expect(outCount < spec.recycling.maxUnavailable, "seed \(seed): \(outCount) are out already")
    }
  }

  private mutating func newName() -> String {
    if spec.runtime.isFixed {
      // The runtime gives the first server that has no instance.
      return (0..<spec.max).map { "s\($0)" }.first { instances[$0] == nil } ?? "none"
    }
    made += 1
    return "i\(made)"
  }

  private mutating func start(_ id: String, generation: Int) {
    #expect(instances[id] == nil, "seed \(seed): \(id) is launched although it exists")
    instances[id] = ObservedInstance(id: id, state: .starting, generation: generation, startedAt: now, busy: true)
  }

  private mutating func drain(_ id: String) {
    instances[id]?.state = .draining
    instances[id]?.drainingSince = now
    instances[id]?.replicasUsing = 2
  }

  mutating func forget(_ id: String) {
    guard let instance = instances.removeValue(forKey: id) else { return }
    if instance.order?.kind == .restart || (spec.runtime.isFixed && instance.recycling != nil) {
      restarts.append(Restart(id: id, generation: instance.generation + 1))
    }
  }

  mutating func becomeReady(_ id: String) {
    instances[id]?.state = .ready
    instances[id]?.busy = false
    history.succeeded()
  }

  /// Something that may happen.
  mutating func happen(_ random: inout SplitMix64) {
    now += Int.random(in: 0...3_000, using: &random)
    guard let id = instances.keys.sorted().randomElement(using: &random), let instance = instances[id] else { return }
    switch Int.random(in: 0..<12, using: &random) {
    case 0, 1, 2: if instance.state == .starting { becomeReady(id) }
    case 3:
      if instance.state == .starting {
        instances[id] = nil
        history.failed(now: now)
      }
    case 4, 5: if instance.state == .stopping { forget(id) }
    case 6, 7: if instance.replicasUsing > 0 { instances[id]?.replicasUsing -= 1 }
    case 8, 9:
      if instance.state == .ready {
        instances[id]?.wear.requests += Int.random(in: 0...60, using: &random)
        instances[id]?.wear.requestsPerSecond = Double(Int.random(in: 0...20, using: &random))
        instances[id]?.wear.memoryBytes = Int.random(in: 0...600, using: &random) << 20
      }
    case 10:
      if instance.state == .ready, random.chance(20) {
        instances[id]?.state = .unhealthy
      } else if instance.state == .unhealthy {
        instances[id]?.state = .ready
      }
    default:
      if !instance.busy, random.chance(15) { instances[id]?.exited = "killed by signal 9" }
      if random.chance(5) { instances[id]?.order = InstanceOrder(random.chance(50) ? .stop : .restart) }
      if random.chance(10), !instance.busy, instance.state == .ready { instances[id]?.busy = true }
    }
    if random.chance(30) {
      for id in instances.keys where instances[id]?.state == .ready { instances[id]?.busy = false }
    }
  }

  /// Everything that was begun succeeds, and nothing wears out any more.
  mutating func calm() {
    for id in instances.keys.sorted() {
      instances[id]?.replicasUsing = 0
      switch instances[id]?.state {
      case .starting: becomeReady(id)
      case .stopping: forget(id)
      case .unhealthy: becomeReady(id)
      case .ready: instances[id]?.busy = false
      default: break
      }
    }
    now += 1_000
  }
}

@Suite struct RecyclingPropertyTests {
  private func spec(_ random: inout SplitMix64) -> PoolSpec {
    let size = Int.random(in: 1...6, using: &random)
    let isFixed = random.chance(30)
    return pool {
      $0.name = "web"
      $0.slots = 0
      $0.spare = 0
      $0.recycleAfterSessions = 0
      $0.min = size
      $0.max = isFixed ? size : size + Int.random(in: 0...2, using: &random)
      if isFixed { $0.runtime = .fixed(FixedSpec(servers: [])) }
      $0.recycling.afterRequests = random.chance(70) ? 100 : 0
      $0.recycling.aboveMemoryMegabytes = random.chance(40) ? 500 : 0
      $0.recycling.jitterPercent = Int.random(in: 0...50, using: &random)
      $0.recycling.maxSurge = isFixed ? 0 : Int.random(in: 0...2, using: &random)
      $0.recycling.maxUnavailable =
        $0.recycling.maxSurge == 0 ? Int.random(in: 1...2, using: &random) : random.chance(30) ? 1 : 0
      $0.recycling.minReady = size == 1 ? 0 : Int.random(in: 0..<size, using: &random)
      $0.recycling.drain.minimumMilliseconds = random.chance(30) ? 2_000 : 0
      $0.recycling.drain.timeoutMilliseconds = random.chance(50) ? 20_000 : 0
    }
  }

  @Test(arguments: UInt64(1)...120) func nothingIsTakenAwayThatIsPromised(seed: UInt64) {
    var random = SplitMix64(state: seed)
    let spec = spec(&random)
    #expect(spec.contradiction == nil, "seed \(seed): \(spec.contradiction ?? "")")
    var life = WearingPool(spec: spec, seed: seed, budget: Int.random(in: 1...3, using: &random))
    for _ in 0..<500 {
      life.happen(&random)
      _ = life.reconcile()
    }

    var quiet = 0
    var rounds = 0
    while quiet < 3, rounds < 500 {
      life.calm()
      if life.memory.surplusSince != nil { life.now += spec.scaling.downAfterMilliseconds }
      if !life.history.mayLaunch(by: spec.restart, now: life.now) { life.now += spec.restart.maximumMilliseconds }
      quiet = life.reconcile().isEmpty ? quiet + 1 : 0
      rounds += 1
    }
    #expect(quiet >= 3, "seed \(seed): the pool does not come to rest")
    let left = life.instances.values
    #expect(left.count == spec.min && left.allSatisfy { $0.state == .ready }, "seed \(seed): \(left)")
    #expect(left.allSatisfy { $0.recycling == nil }, "seed \(seed): somebody is worn and stays")
    if spec.recycling.afterRequests > 0 { #expect(left.allSatisfy { $0.wear.requests < 100 }, "seed \(seed)") }
  }

  @Test func theyDoRecycle() {
    var random = SplitMix64(state: 7)
    var recycled = 0
    for seed in UInt64(1)...20 {
      var life = WearingPool(spec: spec(&random), seed: seed, budget: 3)
      for _ in 0..<500 {
        life.happen(&random)
        _ = life.reconcile()
      }
      recycled += life.recycled
    }
    #expect(recycled > 100, "\(recycled)")
  }
}
