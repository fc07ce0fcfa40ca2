// What a replica tells Redis of its requests, and when it says that it has let go of an instance.
import Observability
import ProxyMachine
import Redis
import Routing
import State
import Synchronization
import TestSupport
import Testing

@testable import RouteFeed

@Suite("Route feed: traffic ledger") struct TrafficLedgerTests {
  private func instance(_ id: String = "w", _ state: InstanceState = .ready, generation: Int = 1) -> InstanceRecord {
    InstanceRecord(id: id, pool: "web", host: "127.0.0.1", port: 1, generation: generation, state: state, slots: 0)
  }
  private func report(_ requests: Int, errors: Int = 0, active: Int = 0) -> TrafficReport {
    TrafficReport(instances: [
      InstanceTraffic(instance: "w", pool: "web", requests: requests, errors: errors, active: active)
    ])
  }

  @Test("each request is told once, and silence is not told")
  func deltas() throws {
    var ledger = TrafficLedger()
    var first = ledger.flush(report(5, errors: 1, active: 2), [instance()], everything: false, now: 100)
    #expect(
      first?.entries
        == [TrafficEntry(instance: "w", generation: 1, state: .ready, requests: 5, errors: 1, active: 2)])
    // Nobody knows whether Redis has it: the same goes again, and what came since waits.
    let again = ledger.flush(report(9, active: 2), [instance()], everything: false, now: 200)
    #expect(again?.entries == first?.entries && again?.at == 100)
    ledger.confirmed()
    first = ledger.flush(report(9, errors: 1, active: 2), [instance()], everything: false, now: 50)
    #expect(first?.entries.map(\.requests) == [4] && first?.entries.map(\.errors) == [0])
    #expect(first?.at == 101, "another time, although the clock was set back")
    ledger.confirmed()
    #expect(ledger.flush(report(9, errors: 1, active: 2), [instance()], everything: false, now: 300) == nil)
    #expect(ledger.flush(report(9, errors: 1, active: 2), [instance()], everything: true, now: 400) != nil)
    ledger.confirmed()
    // Counters that began anew.
    #expect(ledger.flush(report(2), [instance()], everything: false, now: 500)?.entries.map(\.requests) == [2])
  }

  @Test("an instance that leaves is awaited until nothing is under way by the newest table")
  func awaited() {
    var ledger = TrafficLedger()
    func tell(_ active: Int, _ state: InstanceState, generation: Int = 1) {
      _ = ledger.flush(
        report(1, active: active), [instance("w", state, generation: generation)], everything: false, now: 1)
      ledger.confirmed()
    }
    #expect(!ledger.isAwaited([instance()]))
    #expect(ledger.isAwaited([instance("w", .draining)]))
    tell(0, .ready)
    #expect(ledger.isAwaited([instance("w", .draining)]), "a worker may still send requests")
    tell(1, .draining)
    #expect(ledger.isAwaited([instance("w", .draining)]))
    tell(0, .draining)
    #expect(!ledger.isAwaited([instance("w", .draining)]))
    #expect(ledger.isAwaited([instance("w", .stopping)]))
    #expect(ledger.isAwaited([instance("w", .draining, generation: 2)]))
  }

  @Test("without counters of its own an instance is as busy as all of those")
  func others() {
    var ledger = TrafficLedger()
    let flush = ledger.flush(
      TrafficReport(instances: [], otherActive: 3), [instance("w", .draining)], everything: false, now: 1)
    #expect(flush?.entries == [TrafficEntry(instance: "w", generation: 1, state: .draining, active: 3)])
  }
}

@Suite("Route feed: traffic") struct RouteFeedTrafficTests {
  /// Counts that a test sets.
  private final class Counts: Sendable {
    private let report = Mutex(TrafficReport())
    func set(_ requests: Int, active: Int = 0) {
      report.withLock {
        $0.instances = [InstanceTraffic(instance: "w", pool: "web", requests: requests, errors: 0, active: active)]
      }
    }
    var now: TrafficReport { report.withLock { $0 } }
  }

  private func counters(_ deployment: FeedDeployment) throws -> InstanceCounters {
    try deployment.run(Traffic(keys: deployment.keys).counters(of: ["w"]))[0]
  }

  @Test("requests reach Redis, and letting go comes after the last one by the newest table")
  func flushes() throws {
    let deployment = try FeedDeployment(pools: [World.pool("web", slots: 0)], instances: ["w"])
    let counts = Counts()
    counts.set(7, active: 1)
    let replica = try FeedReplica("r1", url: deployment.redis.unixURL, traffic: { counts.now })
    try replica.routes("w")
    try waitUntil("they are told") { try counters(deployment).numbers["requests"] == 7 }
    counts.set(9, active: 1)
    try waitUntil("more are told") { try counters(deployment).numbers["requests"] == 9 }

    // The worker has the new table, but has not looked at it.
    replica.worker.take(tables: replica.worker.tablesTaken)
    try deployment.put("w", slots: 0, pool: "web", state: .draining)
    try waitUntil("the table came") { replica.worker.table?.instances.first?.state == .draining }
    counts.set(10, active: 0)
    try waitUntil("a beat later it is still told as ready") { try counters(deployment).numbers["requests"] == 10 }
    #expect(try counters(deployment).replicas["r1"] == .init(generation: 1, state: .ready, active: 0))
    counts.set(11, active: 1)
    replica.worker.take(tables: nil)
    try waitUntil("the last request is told") {
      try counters(deployment).replicas["r1"] == .init(generation: 1, state: .draining, active: 1)
    }
    counts.set(11, active: 0)
    try waitUntil("it let go") {
      try counters(deployment).replicas["r1"] == .init(generation: 1, state: .draining, active: 0)
    }
    #expect(try counters(deployment).numbers["requests"] == 11)
    replica.coordinator.stop(timeoutMilliseconds: 5_000)
    #expect(try counters(deployment).replicas.isEmpty)
  }

  @Test("what could not be told is told when Redis is back, once; a Redis that lost it all gets all lines again")
  func outage() throws {
    let deployment = try FeedDeployment(pools: [World.pool("web", slots: 0)], instances: ["w"])
    let relay = try FeedRelay(deployment.redis)
    defer { relay.close() }
    let counts = Counts()
    counts.set(1)
    let replica = try FeedReplica("r1", url: relay.url, traffic: { counts.now })
    try replica.routes("w")
    try waitUntil("it is told") { try counters(deployment).numbers["requests"] == 1 }
    relay.cut()
    for requests in 2...40 { counts.set(requests) }
    try waitUntil("it is cut off") { !replica.coordinator.counters.connected }
    relay.mend()
    try waitUntil("all are told") { try counters(deployment).numbers["requests"] == 40 }

    try deployment.redis.command("DEL", deployment.keys.counters(instance: "w"))
    try deployment.run(Replicas(keys: deployment.keys).forget(id: "r1", now: deployment.now))
    try waitUntil("its line is there again") { try counters(deployment).replicas["r1"] != nil }
  }
}
