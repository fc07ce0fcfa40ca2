// A leader that stands still at the worst moments, and goes on when another one leads: between an instance's record and its
// process, within a stop, and while it waits for an answer. Its way to Redis is cut, and its runtime held up, at exactly
// those points; EndToEnd/FleetTests does the same to whole processes at random ones.
import Domain
import Posix
import Reconciler
import Redis
import Routing
import Runtimes
import State
import Supervisor
import Synchronization
import TestSupport
import Testing

/// A runtime whose next launch, stop or wait for an answer stands still until it is let go.
private final class HeldRuntime: Runtime {
  enum Point: Sendable { case port, launch, stop, answer }
  private struct State {
    var point: Point?
    var isHeld = false
    var isReleased = false
    var isThrough = false
  }
  private let inner: ProcessRuntime
  private let state = Mutex(State())
  init(_ inner: ProcessRuntime) { self.inner = inner }

  func hold(_ point: Point) { state.withLock { $0 = State(point: point) } }
  var isHeld: Bool { state.withLock { $0.isHeld } }
  /// What was held has come to its end.
  var isThrough: Bool { state.withLock { $0.isThrough } }
  func letGo() { state.withLock { $0.isReleased = true } }

  /// True for the one call that was held.
  private func pass(_ point: Point) async -> Bool {
    let mine = state.withLock { state in
      guard state.point == point, !state.isHeld else { return false }
      state.isHeld = true
      return true
    }
    while mine, !state.withLock({ $0.isReleased }) { try? await Task.sleep(for: .milliseconds(5)) }
    return mine
  }

  func launch(_ plan: LaunchPlan) async throws(LaunchFailure) -> Launched {
    let mine = await pass(.launch)
    defer { if mine { state.withLock { $0.isThrough = true } } }
    return try await inner.launch(plan)
  }
  func awaitReady(
    _ record: InstanceRecord, spec: PoolSpec, milliseconds: Int
  ) async throws(LaunchFailure) -> String? {
    if await pass(.answer) {
      state.withLock { $0.isThrough = true }
      throw LaunchFailure(.other, "it was not ready in time, because the control plane stood still")
    }
    return try await inner.awaitReady(record, spec: spec, milliseconds: milliseconds)
  }
  func stop(_ record: InstanceRecord, kind: PoolKind, graceMilliseconds: Int, force: Bool) async -> String? {
    let mine = await pass(.stop)
    let left = await inner.stop(record, kind: kind, graceMilliseconds: graceMilliseconds, force: force)
    if mine { state.withLock { $0.isThrough = true } }
    return left
  }
  func conflict(host: String, port: Int) async -> String? {
    let mine = await pass(.port)
    let conflict = await inner.conflict(host: host, port: port)
    if mine { state.withLock { $0.isThrough = true } }
    return conflict
  }
  func wasStarted(_ record: InstanceRecord) -> Bool { inner.wasStarted(record) }
  func isAlive(_ record: InstanceRecord) -> Bool { inner.isAlive(record) }
  func remember(_ record: InstanceRecord) async { await inner.remember(record) }
  func exit(of record: InstanceRecord) async -> InstanceExit? { await inner.exit(of: record) }
  func check(_ record: InstanceRecord, spec: PoolSpec, depth: HealthDepth) async -> HealthProblem? {
    await inner.check(record, spec: spec, depth: depth)
  }
  func reap(orphan id: String) async -> String? { await inner.reap(orphan: id) }
  func survey() async -> Survey { await inner.survey() }
  func holdings() async -> [Holding] { await inner.holdings() }
  func remove(_ holding: Holding) async { await inner.remove(holding) }
  func figures(of records: [InstanceRecord]) async -> [String: ProcessFigures] { await inner.figures(of: records) }
}

@Suite struct ControlFailoverTests {
  /// A leader `a` behind a way that can be cut, whose runtime is held at the point, and then `b`, which leads instead.
  private struct Scene {
    let bench: ControlBench
    let proxy: CutProxy
    let runtime: HeldRuntime
    let a: RunningControl
    let pool: PoolSpec

    init(holding point: HeldRuntime.Point?) throws {
      bench = try ControlBench()
      proxy = try CutProxy(to: bench.redis)
      runtime = HeldRuntime(try bench.runtime())
      if let point { runtime.hold(point) }
      pool = bench.pool { $0.recycleAfterSessions = 0 }
      a = try bench.start(
        "a", [pool], runtime, url: try RedisURL(parsing: "redis://127.0.0.1:\(proxy.port)"))
    }

    func partition() async throws -> RunningControl {
      proxy.set(.cut)
      let b = try bench.start("b", [pool])
      try await eventually("b has taken over") {
        try await bench.events().contains { $0.type == "leader.elected" && $0.id == "b" }
      }
      return b
    }

    func end(_ b: RunningControl) async throws {
      proxy.set(.open)
      try await eventually("a stands by") { await a.lease.anotherLeads }
      await a.stop(instances: false)
      await b.stop(instances: true)
      #expect(bench.processes().isEmpty && bench.directories.isEmpty)
      #expect(try await bench.allocated().isEmpty)
      proxy.close()
    }
  }

  @Test(arguments: [true, false])
  func aProcessThatStartsAfterItsLeaderLostTheLeadIsEnded(whileCutOff: Bool) async throws {
    let scene = try Scene(holding: .launch)
    try await eventually("a is about to start a process") { scene.runtime.isHeld }
    let late = try #require(try await scene.bench.instances().first)
    let b = try await scene.partition()
    let ready = try await scene.bench.settled(1)[0]
    #expect(ready.id != late.id, "nobody waits for what was never started")
    if !whileCutOff {
      scene.proxy.set(.open)
      try await eventually("a stands by") { await scene.a.lease.anotherLeads }
    }
    scene.runtime.letGo()
    try await eventually("it was started") { scene.runtime.isThrough }
    // By its own leader, which sees that it does not lead, or by the new one, which finds what nobody knows.
    try await eventually("it is ended") {
      scene.bench.directories == [ready.id]
        && scene.bench.processes().allSatisfy { ProcessTable.environment(of: $0.pid)["BERTH_INSTANCE"] == ready.id }
    }
    #expect(try await scene.bench.settled(1) == [ready])
    try await scene.end(b)
  }

  @Test func thePortOfALaunchThatNobodyHeardOfComesBack() async throws {
    let scene = try Scene(holding: .port)
    try await eventually("a has a port and no record of what it is for") { scene.runtime.isHeld }
    let lost = try #require(try await scene.bench.allocated().first)
    let b = try await scene.partition()
    let ready = try await scene.bench.settled(1)[0]
    // It comes back ten seconds after it was taken, which may be over by now.
    #expect(try await Set(scene.bench.allocated().map(\.owner)).union([lost.owner]) == [ready.id, lost.owner])
    scene.runtime.letGo()
    try await eventually("a goes on") { scene.runtime.isThrough }
    try await scene.end(b)
    let reasons = try await scene.bench.events().filter { $0.type == "port.reclaimed" }
    #expect(reasons.map(\.id) == [String(lost.port)])
  }

  @Test func aLaunchThatLooksFailedToTheOldLeaderStaysTheNewOnes() async throws {
    let scene = try Scene(holding: .answer)
    try await eventually("a waits for the answer") { scene.runtime.isHeld }
    let b = try await scene.partition()
    let ready = try await scene.bench.settled(1)[0]
    #expect(try await scene.bench.acquire("s-1", used: true)?.id == ready.id)
    scene.runtime.letGo()
    try await eventually("a hears that it failed") { scene.runtime.isThrough }
    scene.proxy.set(.open)
    try await eventually("a stands by") { await scene.a.lease.anotherLeads }
    let all = try await scene.bench.settled(2)
    #expect(all.contains { $0.id == ready.id && $0.pid == ready.pid })
    #expect(ProcessTable.isAlive(ready.identity!), "somebody has a session on it")
    try await scene.bench.end("s-1")
    try await scene.end(b)
  }

  @Test func aStopThatGoesOnAfterTheInstanceWasRestartedUnderItsNameHarmsNobody() async throws {
    let scene = try Scene(holding: nil)
    let first = try await scene.bench.settled(1)[0]
    scene.runtime.hold(.stop)
    _ = try await scene.bench.client.run(
      Orders(keys: scene.bench.keys).give(InstanceOrder(.restart, force: true), to: first.id, pool: first.pool))
    try await eventually("a is about to stop it") { scene.runtime.isHeld }
    let b = try await scene.partition()
    var second: InstanceRecord?
    try await eventually("b has restarted it") {
      second = try await scene.bench.instances(.ready).first { $0.id == first.id && $0.generation == 2 }
      return second != nil
    }
    scene.runtime.letGo()
    try await eventually("a has stopped what it meant") { scene.runtime.isThrough }
    #expect(!ProcessTable.isAlive(first.identity!))
    #expect(ProcessTable.isAlive(try #require(second?.identity)))
    #expect(scene.bench.directories.contains(first.id))
    try await scene.end(b)
  }

  @Test func oneThatComesBackAfterAnotherOnesTermBelievesRedisAndNotItsMemory() async throws {
    let scene = try Scene(holding: nil)
    let first = try await scene.bench.settled(1)[0]
    // b leads and goes while a is cut off: a never sees it lead.
    let b = try await scene.partition()
    #expect(try await scene.bench.settled(1) == [first])
    let fence = try #require(await b.lease.current?.fence)
    var drained = first
    drained.state = .draining
    try await scene.bench.acquire("s-1", used: true)
    try await scene.bench.client.run(
      scene.bench.registry.put(instance: drained, fence: fence, now: Clock.unixMilliseconds))
    await b.stop(instances: false)
    scene.proxy.set(.open)
    try await eventually("a leads again") { await scene.a.lease.current != nil }
    try await eventually("another one is ready") { try await scene.bench.instances(.ready).count == 1 }
    #expect(try await scene.bench.instances(.draining).map(\.id) == [first.id])
    try await scene.bench.end("s-1")
    try await eventually("the drained one is gone") { !ProcessTable.isAlive(first.identity!) }
    await scene.a.stop(instances: true)
    #expect(scene.bench.processes().isEmpty)
    scene.proxy.close()
  }

  @Test func twoInstancesOfOnePortAreNotKept() async throws {
    let bench = try ControlBench()
    let a = try bench.start("a", [bench.pool()])
    let first = try await bench.settled(1)[0]
    await a.kill()
    // As a fail-over to an older Redis could leave it.
    _ = try await bench.client.run(bench.ports.release(port: first.port, owner: first.id, now: Clock.unixMilliseconds))
    let free = try await bench.client.run(bench.ports.figures()).free
    for index in 0..<free {
      _ = try await bench.client.run(bench.ports.allocate(owner: "other-\(index)", now: Clock.unixMilliseconds))
    }
    let b = try bench.start("b", [bench.pool()])
    try await eventually("it has gone") { try await !bench.instances().contains { $0.id == first.id } }
    #expect(!ProcessTable.isAlive(first.identity!))
    try await eventually("another one is there, on a port of its own") {
      try await bench.instances(.ready).count == 1
    }
    await b.stop(instances: true)
    #expect(bench.processes().isEmpty)
  }
}
