// What a new leader does with what it finds: adopt, finish, reap; and what any leader does when Redis loses its data.
import Domain
import Posix
import Redis
import Routing
import Runtimes
import State
import Supervisor
import TestSupport
import Testing

@Suite struct ControlTakeOverTests {
  @Test func aStandbyFollowsAKilledLeaderAndAdoptsItsChromes() async throws {
    let bench = try ControlBench()
    let first = try bench.start("a", [bench.pool()])
    try await bench.settled(1)
    let taken = try #require(try await bench.acquire("s-1", used: true))
    let before = try await bench.settled(2)

    let second = try bench.start("b", [bench.pool()])
    try await eventually("b stands by") { await second.lease.anotherLeads }
    await first.kill()
    try await eventually("b leads") { await second.lease.current != nil }
    try await eventually("b has taken over") {
      try await bench.events().contains { $0.type == "leader.elected" && $0.id == "b" }
    }
    #expect(try await bench.settled(2) == before)
    #expect(try await bench.client.run(bench.leases.get(session: "s-1")) != nil)

    // The new leader hears of an adopted Chrome's end and cleans up after it.
    try await bench.end("s-1")
    #expect(try await bench.settled(1)[0].id != taken.id)
    #expect(!ProcessTable.isAlive(taken.identity!))
    await second.stop(instances: true)
    #expect(bench.processes().isEmpty)
  }

  @Test func aLeaderThatResignsLeavesItsInstancesRunning() async throws {
    let bench = try ControlBench()
    let first = try bench.start("a", [bench.pool()])
    let before = try await bench.settled(1)
    await first.stop(instances: false)
    #expect(try await bench.client.run(Leadership(keys: bench.keys).current()) == nil)
    #expect(ProcessTable.isAlive(before[0].identity!))
    let second = try bench.start("b", [bench.pool()])
    try await eventually("b leads") { await second.lease.current != nil }
    #expect(try await bench.settled(1) == before)
    await second.stop(instances: true)
  }

  @Test func anEndThatComesBeforeTheTakeOverLeavesNothingEither() async throws {
    let bench = try ControlBench()
    let first = try bench.start("a", [bench.pool()])
    let before = try await bench.settled(1)
    await first.kill()
    // It has to wait for the dead one's lease, takes over, and ends what it finds.
    let second = try bench.start("b", [bench.pool()])
    try await eventually("b stands by") { await second.lease.anotherLeads }
    await second.stop(instances: true)
    #expect(!ProcessTable.isAlive(before[0].identity!))
    #expect(try await bench.instances().isEmpty)
    #expect(try await bench.allocated().isEmpty)
  }

  @Test func whatADeadLeaderLeftHalfDoneIsFinishedOrRemoved() async throws {
    let bench = try ControlBench()
    let runtime = try bench.runtime()
    let spec = bench.pool()
    let long = Clock.unixMilliseconds - 60_000
    try await bench.client.run(bench.ports.configure(range: bench.range, now: long))
    let fence = try #require(
      try await bench.client.run(Leadership(keys: bench.keys).campaign(id: "dead", ttlMilliseconds: 60_000)))
    try await bench.client.run(bench.registry.declare(pools: [spec.record], routes: [], fence: fence, now: long))
    func record(_ id: String, port: Int, state: InstanceState = .starting) -> InstanceRecord {
      InstanceRecord(
        id: id, pool: "chrome", host: "127.0.0.1", port: port, state: state, startedAt: Clock.unixMilliseconds,
        labels: ["host": bench.host])
    }
    func port(_ owner: String) async throws -> Int {
      try #require(try await bench.client.run(bench.ports.allocate(owner: owner, now: long)))
    }
    func put(_ record: InstanceRecord) async throws {
      try await bench.client.run(bench.registry.put(instance: record, fence: fence, now: long))
    }

    // It died after it had taken a port for an instance that nobody else heard of.
    _ = try await port("chrome-port-only")
    // It died between the record and the process.
    try await put(record("chrome-no-process", port: try await port("chrome-no-process")))
    // It died after the process had started, before Redis heard of its pid: the file beside it tells.
    var started = record("chrome-started", port: try await port("chrome-started"))
    try await put(started)
    try await runtime.launch(LaunchPlan(id: started.id, spec: spec, port: started.port)).note(in: &started)
    await runtime.remember(started)
    // It said that one was ready, whose process has ended since.
    var ended = record("chrome-ended", port: try await port("chrome-ended"), state: .ready)
    ended.pid = 999_999_999
    ended.pidStart = 1
    try await put(ended)
    // A process that no record knows, with a directory.
    var orphan = record("chrome-orphan", port: try await port("chrome-orphan"))
    try await runtime.launch(LaunchPlan(id: orphan.id, spec: spec, port: orphan.port)).note(in: &orphan)
    try Kernel.makeDirectory(bench.directory + "/instances/chrome-leftover/profile")
    try await bench.client.run(Leadership(keys: bench.keys).resign(id: "dead", fence: fence))

    let control = try bench.start("a", [spec])
    try await eventually("the started one is ready, and alone") {
      let instances = try await bench.instances()
      return instances.map(\.id) == ["chrome-started"] && instances[0].state == .ready
    }
    #expect(try await bench.instances()[0].pid == started.pid)
    #expect(try await bench.instances()[0].browser != nil)
    #expect(orphan.identity.map(ProcessTable.isAlive) == false)
    #expect(bench.directories == ["chrome-started"])
    try await eventually("forgotten ports are free again") {
      try await bench.allocated().map(\.owner) == ["chrome-started"]
    }
    await control.stop(instances: true)
  }

  @Test func aRedisThatLostItsDataIsToldAgain() async throws {
    let bench = try ControlBench()
    let control = try bench.start("a", [bench.pool()])
    try await bench.settled(1)
    let taken = try #require(try await bench.acquire("s-1", used: true))
    let idle = try #require(try await bench.settled(2).first { $0.id != taken.id })
    // The leader has seen that it is used when it has replaced the free slot.
    try bench.redis.restart()

    try await eventually("the idle one is ready and nobody gets the used one") {
      let ready = try? await bench.instances(.ready).map(\.id)
      let draining = try? await bench.instances(.draining).map(\.id)
      return ready == [idle.id] && draining == [taken.id]
    }
    #expect(try await bench.instances(.ready)[0] == idle)
    #expect(Set(try await bench.allocated().map(\.port)) == [idle.port, taken.port])
    // Replicas that may still have its client get time to say so.
    #expect(try await bench.acquire("s-2") == nil)
    try await eventually("slots are given away again") { try await bench.acquire("s-3") == idle }
    // No replica puts the lost session back, so the used one goes.
    try await eventually("the used one is gone") { try await !bench.instances().contains { $0.id == taken.id } }
    #expect(!ProcessTable.isAlive(taken.identity!))
    await control.stop(instances: true)
    #expect(bench.processes().isEmpty)
  }

  @Test func instancesGoOnWhileRedisIsAwayAndARestoredSessionKeepsItsChrome() async throws {
    let bench = try ControlBench()
    let control = try bench.start("a", [bench.pool()])
    try await bench.settled(1)
    let taken = try #require(try await bench.acquire("s-1", used: true))
    let both = try await bench.settled(2)
    let lost = try #require(try await bench.client.run(bench.leases.get(session: "s-1"))?.record)
    bench.redis.kill()
    try await eventually("the lease has run out") { await control.lease.current == nil }
    #expect(both.allSatisfy { ProcessTable.isAlive($0.identity!) })
    try bench.redis.start()

    // A replica that still has its sockets puts the session back, later than the leader has noticed the loss.
    try await eventually("the leader has said what it has") {
      try await bench.instances().contains { $0.id == taken.id && $0.state == .draining }
    }
    try await eventually("the session is back") {
      let grant = try? await bench.client.run(
        bench.leases.restore(lost, holder: "replica", now: Clock.unixMilliseconds))
      _ = try? await bench.client.run(
        Replicas(keys: bench.keys).beat(id: "replica", figures: [:], touched: [], now: Clock.unixMilliseconds))
      if case .granted? = grant { return true }
      return false
    }
    try await eventually("others have been put right") {
      _ = try await bench.client.run(
        Replicas(keys: bench.keys).beat(id: "replica", figures: [:], touched: [], now: Clock.unixMilliseconds))
      let instances = try await bench.instances()
      return instances.count == 2 && instances.contains { $0.id == taken.id && $0.state == .draining }
    }
    #expect(ProcessTable.isAlive(taken.identity!))
    try await bench.end("s-1")
    try await eventually("it goes when its client has gone") { !ProcessTable.isAlive(taken.identity!) }
    await control.stop(instances: true)
  }

  @Test func theEndLeavesNothingEvenWithoutRedis() async throws {
    let bench = try ControlBench()
    let control = try bench.start("a", [bench.pool()])
    try await bench.settled(1)
    bench.redis.kill()
    await control.stop(instances: true)
    #expect(bench.processes().isEmpty)
    #expect(bench.directories.isEmpty)
  }
}
