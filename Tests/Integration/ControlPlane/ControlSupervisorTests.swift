// The leader at work with real Chromes: numbers kept, used browsers replaced, leaders followed, leftovers removed.
import Domain
import Glibc
import Posix
import Reconciler
import Redis
import Routing
import Runtimes
import State
import Supervisor
import TestSupport
import Testing

@Suite struct ControlPoolTests {
  @Test func aSpareIsKeptAndAUsedChromeIsReplaced() async throws {
    let bench = try ControlBench()
    let control = try bench.start("a", [bench.pool()])
    let first = try await bench.settled(1)[0]
    #expect(try await bench.allocated().map(\.port) == [first.port])

    // A client takes it: another one is made ready.
    let taken = try #require(try await bench.acquire("s-1", used: true))
    #expect(taken == first)
    try await bench.settled(2)

    // The client goes: its browser, port and profile go too, and nobody else ever gets it.
    try await bench.end("s-1")
    let left = try await bench.settled(1)[0]
    #expect(left.id != first.id)
    #expect(!ProcessTable.isAlive(first.identity!))
    #expect(bench.directories == [left.id])
    try await eventually("its port is free again") { try await bench.allocated().map(\.owner) == [left.id] }

    await control.stop(instances: true)
    #expect(try await bench.instances().isEmpty)
    #expect(try await bench.allocated().isEmpty)
    #expect(bench.processes().isEmpty)
    #expect(bench.directories.isEmpty)
  }

  @Test func whatWasNotUsedIsGivenToTheNext() async throws {
    let bench = try ControlBench()
    let control = try bench.start("a", [bench.pool()])
    let first = try await bench.settled(1)[0]
    try await bench.acquire("s-1")
    try await bench.settled(2)
    try await bench.end("s-1")
    #expect(try await bench.settled(2).contains { $0.id == first.id })
    await control.stop(instances: true)
  }

  @Test func waitingClientsBringInstancesUpToTheMaximum() async throws {
    let bench = try ControlBench()
    let control = try bench.start("a", [bench.pool { $0.max = 3 }])
    try await bench.settled(1)
    try await eventually("all that are allowed are there") {
      // They ask again and again, as clients do: a ticket lives for five seconds.
      for n in 1...5 {
        _ = try await bench.client.run(
          bench.leases.acquire(
            bench.session("s-\(n)"), holder: nil, reserveMilliseconds: nil, queue: true, now: Clock.unixMilliseconds))
      }
      let sessions = try await bench.client.run(bench.leases.count())
      let ready = try await bench.instances(.ready).count
      return sessions == 3 && ready == 3
    }
    #expect(try await bench.allocated().count == 3)
    await control.stop(instances: true)
  }

  @Test func aKilledChromeIsReplacedAndItsSessionEnds() async throws {
    let bench = try ControlBench()
    let control = try bench.start("a", [bench.pool()])
    try await bench.settled(1)
    let taken = try #require(try await bench.acquire("s-1", used: true))
    try await bench.settled(2)
    kill(pid_t(taken.pid!), SIGKILL)
    try await eventually("the session has ended") {
      try await bench.client.run(bench.leases.get(session: "s-1")) == nil
    }
    #expect(try await bench.settled(1)[0].id != taken.id)
    let reasons = try await bench.events().filter { $0.type == "session.ended" && $0.id == "s-1" }.map(\.reason)
    #expect(reasons == ["its process was ended by signal 9"])
    await control.stop(instances: true)
  }

  @Test func aHangingChromeGetsNoClientsUntilItAnswersAgain() async throws {
    let bench = try ControlBench()
    let control = try bench.start(
      "a",
      [
        bench.pool {
          $0.spare = 0
          $0.health = HealthPolicy(
            intervalMilliseconds: 100, timeoutMilliseconds: 1_000, failures: 2, successes: 2,
            failuresBeforeReplacement: 1_000)
          $0.health.tcp = HealthPolicy.Depth(intervalMilliseconds: 50, timeoutMilliseconds: 30_000, failures: 2)
        }
      ])
    let chrome = try await bench.settled(1)[0]
    kill(pid_t(chrome.pid!), SIGSTOP)
    try await eventually("it is unhealthy") { try await bench.instances(.unhealthy).map(\.id) == [chrome.id] }
    let figures = try await bench.client.run(bench.leases.figures(pool: "chrome", now: Clock.unixMilliseconds))
    #expect(figures.freeSlots[chrome.id] == nil)
    // Its port accepts all the time: the kernel does that for it.
    let reasons = try await bench.events().filter { $0.type == "instance.unhealthy" }.map(\.reason)
    // More than once on a machine that is slower than the checks' limit, but never for another reason.
    #expect(Set(reasons) == ["HTTP: no answer in time"])
    kill(pid_t(chrome.pid!), SIGCONT)
    try await eventually("it is ready again") { try await bench.instances(.ready).contains { $0.id == chrome.id } }
    await control.stop(instances: true)
  }

  @Test func anOrderIsCarriedOutAndThenForgotten() async throws {
    let bench = try ControlBench()
    let control = try bench.start("a", [bench.pool()])
    let first = try await bench.settled(1)[0]
    let orders = Orders(keys: bench.keys)
    #expect(try await bench.client.run(orders.give(.init(.restart), to: first.id, pool: "chrome")))
    try await eventually("it is back under its name") {
      try await bench.instances(.ready).contains { $0.id == first.id && $0.generation == 2 }
    }
    #expect(!ProcessTable.isAlive(first.identity!))

    // Another weight reaches the record, and those who read it, without a restart.
    #expect(try await bench.client.run(orders.weigh(first.id, weight: 7, pool: "chrome")))
    try await eventually("it has the weight") {
      try await bench.instances(.ready).contains { $0.id == first.id && $0.weight == 7 && $0.generation == 2 }
    }
    #expect(try await !bench.client.run(orders.weigh("nobody", weight: 7, pool: "chrome")))

    // One with a client is only drained, unless force is given.
    try await bench.acquire("s-1")
    let taken = try #require(try await bench.client.run(bench.leases.get(session: "s-1"))?.record.instance)
    #expect(try await bench.client.run(orders.give(.init(.stop), to: taken, pool: "chrome")))
    try await eventually("it drains") { try await bench.instances(.draining).map(\.id) == [taken] }
    #expect(try await bench.client.run(bench.leases.get(session: "s-1")) != nil)
    // The one that it has already, so that nothing follows from it; which instance was taken is not certain.
    let weight = try #require(try await bench.instances().first { $0.id == taken }).weight
    try bench.redis.command("HSET", bench.keys.weights, taken, String(weight))
    #expect(try await bench.client.run(orders.give(.init(.stop, force: true), to: taken, pool: "chrome")))
    try await eventually("it is gone") { try await !bench.instances().contains { $0.id == taken } }
    #expect(try await bench.client.run(bench.leases.get(session: "s-1")) == nil)
    try await eventually("the orders are done") {
      try bench.redis.command("EXISTS", bench.keys.orders) == .int(0)
    }
    #expect(try await !bench.client.run(orders.give(.init(.stop), to: "nobody", pool: "chrome")))
    #expect(try bench.redis.command("HEXISTS", bench.keys.weights, taken) == .int(0), "it went with its instance")
    await control.stop(instances: true)
  }
}

@Suite struct ControlLimitTests {
  @Test func sessionsEndAtTheirHardLimit() async throws {
    let bench = try ControlBench()
    let control = try bench.start("a", [bench.pool()])
    try await bench.settled(1)
    try await bench.acquire("short", life: 1_000)
    try await bench.acquire("long")
    try await eventually("its time is over") { try await bench.client.run(bench.leases.get(session: "short")) == nil }
    #expect(
      try await bench.events().contains { $0.type == "session.ended" && $0.id == "short" && $0.reason == "hard limit" })
    await control.stop(instances: true)
  }

  @Test func aSilentReplicaLosesItsSessionsAndALivingOneKeepsThem() async throws {
    let bench = try ControlBench()
    let control = try bench.start("a", [bench.pool { $0.spare = 2 }])
    try await bench.settled(2)
    let replicas = Replicas(keys: bench.keys)
    func beat(_ id: String) async throws {
      try await bench.client.run(replicas.beat(id: id, figures: [:], touched: [], now: Clock.unixMilliseconds))
    }
    for replica in ["dead", "alive"] {
      try await beat(replica)
      let grant = try await bench.client.run(
        bench.leases.acquire(
          bench.session("s-" + replica, origin: .connection), holder: replica, reserveMilliseconds: nil, queue: false,
          now: Clock.unixMilliseconds))
      guard case .granted = grant else {
        Issue.record("no slot for \(replica)")
        return
      }
    }
    try await eventually("the dead replica's session ends") {
      try await beat("alive")
      return try await bench.client.run(bench.leases.get(session: "s-dead")) == nil
    }
    #expect(try await bench.client.run(bench.leases.get(session: "s-alive")) != nil)
    #expect(try await bench.client.run(replicas.list()).map(\.id) == ["alive"])
    await control.stop(instances: true)
  }

  @Test func aCrashLoopIsSlowedAndLeaksNothing() async throws {
    let bench = try ControlBench()
    var spec = shellPool("echo no disk >&2; exit 3")
    spec.restart = RestartPolicy(initialMilliseconds: 50, maximumMilliseconds: 60_000)
    let control = try bench.start("a", [spec])
    try await eventually("it failed often enough to wait for long") {
      try await bench.events().count { $0.type == "instance.launch_failed" } >= 4
    }
    // The next launch is 400 ms or more away: nothing of the last one is left.
    try await eventually("nothing is left") {
      let ports = try await bench.allocated()
      return ports.isEmpty && bench.directories.isEmpty && bench.processes().isEmpty
    }
    #expect(try await bench.events().contains { $0.reason.contains("its log ends: no disk") })
    await control.stop(instances: true)
  }

  @Test func aPortThatSomethingElseHasIsPutAside() async throws {
    let bench = try ControlBench(range: TestPorts.take(2))
    let port = bench.range.lowerBound
    let squatter = try RuntimeBench("squatter")
    let record = try await squatter.launch(
      "squatter", shellPool("exec python3 -m http.server {port} --bind 127.0.0.1"), port: port)
    _ = try await squatter.runtime.awaitReady(record, spec: shellPool(""), milliseconds: 90_000)

    let control = try bench.start("a", [bench.pool()])
    #expect(try await bench.settled(1)[0].port == port + 1)
    #expect(try await bench.client.run(bench.ports.figures()) == PortFigures(free: 0, allocated: 1, quarantined: 1))
    // With the only other port taken by a client, the next launch says what to do.
    try await bench.acquire("s-1")
    try await eventually("exhaustion is said") {
      try await bench.events().contains { $0.reason.contains("all ports from \(port) to \(port + 1) are taken") }
    }
    await control.stop(instances: true)
    #expect(await squatter.runtime.stop(record, kind: .http, graceMilliseconds: 1_000, force: true) == nil)
  }
}
