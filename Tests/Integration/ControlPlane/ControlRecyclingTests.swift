// Worn instances and a real control plane: who is waited for before one is stopped, sessions that go on while their browser
// is replaced, and a leader that dies in between. Tests/EndToEnd/RecycleTests.swift has the whole of it under load.
import Domain
import JSON
import Posix
import Reconciler
import Redis
import Routing
import Runtimes
import State
import Supervisor
import TestSupport
import Testing

/// A bench with a pool of one HTTP server, and a replica that is played by the test.
private final class WearBench: Sendable {
  let bench: ControlBench
  private let traffic: Traffic
  private let replicas: Replicas

  init() throws {
    bench = try ControlBench()
    traffic = Traffic(keys: bench.keys)
    replicas = Replicas(keys: bench.keys)
  }

  func pool(_ change: (inout PoolSpec) -> Void = { _ in }) -> PoolSpec {
    var spec = shellPool("exec python3 -m http.server {port} --bind 127.0.0.1 --directory /var/empty")
    spec.max = 1
    spec.spare = 0
    spec.recycling.jitterPercent = 0
    spec.recycling.afterRequests = 10
    spec.stopGraceMilliseconds = 2_000
    change(&spec)
    return spec
  }

  /// The replica lives.
  func beat() async throws {
    try await bench.client.run(replicas.beat(id: "r", figures: [:], touched: [], now: Clock.unixMilliseconds))
  }

  /// The replica tells of an instance as its workers see it.
  func tell(_ id: String, _ state: InstanceState, requests: Int = 0, active: Int = 0) async throws {
    try await beat()
    let entry = TrafficEntry(instance: id, generation: 1, state: state, requests: requests, active: active)
    try await bench.client.run(
      traffic.flush(replica: "r", at: Clock.unixMilliseconds * 1_000 + Int.random(in: 0..<1_000), entries: [entry]))
  }

  /// Waits while the replica goes on living.
  func eventually(_ what: String, _ truth: @Sendable () async throws -> Bool) async throws {
    try await ControlPlaneTests.eventually(what) {
      try await self.beat()
      return try await truth()
    }
  }

  func state(of id: String) async throws -> InstanceState? {
    try await bench.instances().first { $0.id == id }?.state
  }

  /// The control plane has looked at everything after this was called: it has carried out two orders of later. Orders are
  /// read at the beginning of a look, so that the second one tells that the first one's look is over.
  func look(beside id: String, weight: Int) async throws {
    let other = try #require(try await bench.instances().first { $0.id != id })
    let orders = Orders(keys: bench.keys)
    for weight in [weight * 10, weight * 10 + 1] {
      #expect(try await bench.client.run(orders.weigh(other.id, weight: weight, pool: other.pool)))
      try await eventually("the weight is given") {
        try await self.bench.instances().contains { $0.id == other.id && $0.weight == weight }
      }
    }
  }
}

@Suite struct ControlRecyclingTests {
  @Test func anInstanceIsStoppedWhenTheLastReplicaHasLetGoOfIt() async throws {
    let wear = try WearBench()
    let bench = wear.bench
    try await wear.beat()
    let control = try bench.start("a", [wear.pool()])
    let old = try await bench.settled(1)[0]
    try await wear.tell(old.id, .ready, requests: 9, active: 1)
    try await wear.tell(old.id, .ready, requests: 1, active: 1)
    try await wear.eventually("its successor is ready, and it drains") {
      try await wear.state(of: old.id) == .draining
    }
    let successor = try #require(try await bench.instances(.ready).first)
    #expect(successor.labels["replaces"] == old.id && successor.port != old.port)
    let draining = try #require(try await bench.instances(.draining).first)
    #expect(draining.labels["reason"] == "it has served 10 requests, and was good for 10")
    #expect(draining.labels["recycling"] == draining.labels["reason"])

    // The replica's workers have not heard of it; then they have, but a request is under way.
    try await wear.look(beside: old.id, weight: 2)
    #expect(try await wear.state(of: old.id) == .draining)
    try await wear.tell(old.id, .draining, active: 1)
    try await wear.look(beside: old.id, weight: 3)
    #expect(try await wear.state(of: old.id) == .draining)
    try await wear.tell(old.id, .draining)
    try await wear.eventually("it is to be stopped") { try await wear.state(of: old.id) == .stopping }
    // Requests that belong to it may have come until now.
    try await wear.look(beside: old.id, weight: 4)
    #expect(ProcessTable.isAlive(old.identity!))
    try await wear.tell(old.id, .stopping)
    try await wear.eventually("it is gone") { try await wear.state(of: old.id) == nil }
    #expect(!ProcessTable.isAlive(old.identity!))
    #expect(try await bench.settled(1).map(\.id) == [successor.id])
    let told = try await bench.events().filter { $0.id == old.id }.map(\.type)
    #expect(
      told == [
        "instance.removed", "instance.stopping", "instance.draining", "instance.recycling", "instance.ready",
        "instance.starting",
      ])
    await control.stop(instances: true)
  }

  @Test func aReplicaThatDiesIsNotWaitedForAndATimeoutEndsTheWait() async throws {
    let wear = try WearBench()
    let bench = wear.bench
    try await wear.beat()
    let control = try bench.start("a", [wear.pool { $0.recycling.drain.timeoutMilliseconds = 60_000 }])
    let old = try await bench.settled(1)[0]
    try await wear.tell(old.id, .ready, requests: 10, active: 1)
    // It says nothing any more.
    try await eventually("it is gone") { try await wear.state(of: old.id) == nil }
    #expect(try await bench.events().contains { $0.type == "replica.lost" })
    #expect(try await bench.events().contains { $0.id == old.id && $0.reason == "it is drained" })
    await control.stop(instances: true)

    let impatient = try WearBench()
    try await impatient.beat()
    let other = try impatient.bench.start("b", [impatient.pool { $0.recycling.drain.timeoutMilliseconds = 300 }])
    let cut = try await impatient.bench.settled(1)[0]
    try await impatient.tell(cut.id, .ready, requests: 10, active: 1)
    try await impatient.eventually("it is to be stopped") {
      try await impatient.state(of: cut.id) == .stopping
    }
    try await impatient.tell(cut.id, .stopping, active: 1)
    try await impatient.eventually("it is gone under its request") { try await impatient.state(of: cut.id) == nil }
    #expect(
      try await impatient.bench.events().contains { $0.id == cut.id && $0.reason == "its drain took 300 ms" })
    await other.stop(instances: true)
  }

  @Test func theNextLeaderGoesOnWithAReplacement() async throws {
    let wear = try WearBench()
    let bench = wear.bench
    try await wear.beat()
    // The first starts at once, the second when it is let.
    let slow = wear.pool {
      $0.runtime = .process(
        ProcessSpec(
          command: "sh",
          arguments: [
            "-c",
            "if mkdir \(bench.directory)/first 2> /dev/null; then :; else "
              + "while [ ! -e \(bench.directory)/go ]; do sleep 0.02; done; fi; "
              + "exec python3 -m http.server {port} --bind 127.0.0.1 --directory /var/empty",
          ]))
    }
    let control = try bench.start("a", [slow])
    let old = try await bench.settled(1)[0]
    try await wear.tell(old.id, .ready, requests: 12, active: 0)
    try await wear.eventually("its successor has a process") {
      try await bench.instances(.starting).contains { $0.pid != nil }
    }
    let successor = try await bench.instances(.starting)[0]
    await control.kill()
    let next = try bench.start("b", [slow])
    try await wear.eventually("the next one leads") {
      try await bench.events().contains { $0.type == "leader.elected" && $0.id == "b" }
    }
    // Nothing is taken away, and no second successor comes, while that one starts.
    try await wear.look(beside: old.id, weight: 1)
    #expect(try await bench.instances().map(\.id).sorted() == [old.id, successor.id].sorted())
    #expect(try await wear.state(of: old.id) == .ready)
    try Kernel.makeDirectory(bench.directory + "/go")
    try await wear.eventually("the old one drains") { try await wear.state(of: old.id) == .draining }
    try await wear.tell(old.id, .draining)
    try await wear.eventually("it is stopping") { try await wear.state(of: old.id) == .stopping }
    try await wear.tell(old.id, .stopping)
    try await wear.eventually("it is gone") { try await wear.state(of: old.id) == nil }
    #expect(try await bench.settled(1).map(\.id) == [successor.id])
    await next.stop(instances: true)
  }

  @Test func aClientKeepsItsChromeWhileItsSuccessorServesOthers() async throws {
    let bench = try ControlBench()
    let control = try bench.start(
      "a",
      [
        bench.pool {
          $0.max = 1
          $0.spare = 0
          $0.recycleAfterSessions = 0
          $0.recycling.afterRequests = 10
          $0.recycling.jitterPercent = 0
        }
      ])
    let old = try await bench.settled(1)[0]
    #expect(try await bench.acquire("s-1", used: true) == old)
    let entry = TrafficEntry(instance: old.id, generation: 1, state: .ready, requests: 10, active: 1)
    try await bench.client.run(Traffic(keys: bench.keys).flush(replica: "r", at: 1, entries: [entry]))
    try await eventually("it drains beside its successor") {
      let states = try await bench.instances().map(\.state)
      return Set(states) == [.ready, .draining] && states.count == 2
    }
    #expect(try await bench.acquire("s-2") != old)
    #expect(try await bench.client.run(bench.leases.get(session: "s-1")) != nil)
    #expect(ProcessTable.isAlive(old.identity!))
    try await bench.end("s-1")
    #expect(try await bench.settled(1)[0].id != old.id)
    #expect(try await bench.client.run(bench.leases.get(session: "s-2")) != nil)
    await control.stop(instances: true)
  }
}
