// Pools that grow under a stampede and shrink after it, with real processes: never more than allowed, first come first
// served, other pools not held up, and in the end as many instances as before.
import Domain
import Posix
import Redis
import Routing
import State
import Supervisor
import TestSupport
import Testing

/// A server that takes a few milliseconds to start: it answers whatever is asked, one client after the other.
private func smallServer(_ name: String, _ change: (inout PoolSpec) -> Void = { _ in }) -> PoolSpec {
  let program = """
    import socket
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("127.0.0.1", {port}))
    s.listen(64)
    while True:
      c, _ = s.accept()
      c.recv(65536)
      c.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n")
      c.close()
    """
  var spec = PoolSpec(
    name: name, kind: .http,
    runtime: .process(ProcessSpec(command: "python3", arguments: ["-I", "-S", "-c", program])), slots: 1, min: 0,
    max: 8, spare: 1, recycleAfterSessions: 0, queue: QueueLimits(limit: 1_000))
  spec.health.intervalMilliseconds = 60_000
  change(&spec)
  return spec
}

/// Clients who all come at once, and ask again and again in the order that is worst for those who came first.
private final class Stampede {
  let bench: ControlBench
  let pool: String
  /// One moment for all of them, ahead of the leader's clock: no machine is so slow that a waiter is taken for dead.
  let now = Clock.unixMilliseconds + 600_000
  private(set) var waiting: [SessionRecord] = []
  private(set) var served: [Int] = []
  private var number: [String: Int] = [:]
  /// The most instances that were there, and that were starting, at any look.
  private(set) var most = 0
  private(set) var mostStarting = 0
  /// For how many who came earlier and still wait a client was served.
  private(set) var overtaken = 0

  /// Declares the pools, as a leader that then resigns, and puts so many clients into the queue of one of them.
  init(_ count: Int, bench: ControlBench, pool: String, declaring pools: [PoolSpec]) async throws {
    self.bench = bench
    self.pool = pool
    for index in 0..<count {
      // Names whose order is not that of arrivals.
      let id = "c-\(index * 7_919 % 1_000)-\(index)"
      number[id] = index
      waiting.append(SessionRecord(id: id, pool: pool, origin: .rest, createdAt: now, expiresAt: now + 600_000))
    }
    let leadership = Leadership(keys: bench.keys)
    let fence = try #require(try await bench.client.run(leadership.campaign(id: "test", ttlMilliseconds: 60_000)))
    try await bench.client.run(
      bench.registry.declare(pools: pools.map(\.record), routes: [], fence: fence, now: Clock.unixMilliseconds))
    try await bench.client.run(leadership.resign(id: "test", fence: fence))
    for record in waiting { _ = try await ask(record) }
  }

  private func ask(_ record: SessionRecord) async throws -> Bool {
    let grant = try await bench.client.run(
      bench.leases.acquire(record, holder: nil, reserveMilliseconds: nil, queue: true, countsAsUse: true, now: now))
    guard case .granted = grant, let mine = number[record.id] else { return false }
    overtaken = max(overtaken, waiting.count { (number[$0.id] ?? 0) < mine && !served.contains(number[$0.id] ?? 0) })
    served.append(mine)
    return true
  }

  /// Everybody asks once, the last one first; who was served goes, and the instances are counted.
  func round() async throws {
    var done: [SessionRecord] = []
    for record in waiting.reversed() where try await ask(record) { done.append(record) }
    waiting.removeAll { record in done.contains { $0.id == record.id } }
    let instances = try await bench.instances().filter { $0.pool == pool }
    most = max(most, instances.count)
    mostStarting = max(mostStarting, instances.count { $0.state == .starting })
    for record in done {
      try await bench.client.run(bench.leases.end(session: record.id, reason: "done", now: now))
    }
  }
}

@Suite struct ControlScalingTests {
  @Test func twoHundredClientsOnAColdPool() async throws {
    let bench = try ControlBench(range: TestPorts.take(30))
    let rush = smallServer("rush") { $0.scaling.downAfterMilliseconds = 300 }
    let other = smallServer("zother") {
      $0.min = 2
      $0.spare = 0
    }
    let crowd = try await Stampede(200, bench: bench, pool: "rush", declaring: [rush, other])
    #expect(crowd.waiting.count == 200)
    let control = try bench.start("a", [rush, other])
    try await eventually("all are served") {
      try await crowd.round()
      return crowd.waiting.isEmpty
    }
    #expect(crowd.most <= 8, "more than max")
    #expect(crowd.mostStarting <= 2, "more start at once than may")
    // Of as many free slots as there can be, the last one may be asked for first, and no more.
    #expect(crowd.overtaken < 8, "\(crowd.overtaken) who came earlier were overtaken")
    #expect(Array(crowd.served.prefix(8)).allSatisfy { $0 < 16 }, "\(crowd.served.prefix(16))")

    let events = try await bench.events()
    let started = events.reversed().filter { $0.type == "instance.starting" }
    // 200 clients wait, eight are allowed: eight are started, once each.
    #expect(started.count { $0.fields["pool"] == "rush" } == 8)
    #expect(started.contains { $0.fields["pool"] == "rush" && $0.reason == "clients wait for a slot" })
    #expect(events.contains { $0.type == "pool.full" && $0.id == "rush" })
    // The other pool got its instances in turn, not after the crowd's; how soon the second one depends on the first.
    let others = started.indices.filter { started[$0].fields["pool"] == "zother" }
    #expect(others.count == 2 && others[0] < 4 && others[1] < 9, "\(started.map(\.id))")

    // When all is over the spare one is left.
    try await eventually("the pool has shrunk") {
      let left = try await bench.instances()
      return left.count { $0.pool == "rush" } == 1 && left.count == 3 && left.allSatisfy { $0.state == .ready }
    }
    #expect(try await bench.events().contains { $0.type == "pool.relieved" && $0.id == "rush" })
    try await eventually("their ports are free") { try await bench.allocated().count == 3 }
    await control.stop(instances: true)
    #expect(bench.processes().isEmpty)
  }

  @Test func clientsOfSingleUseInstancesAreServedInTheirOrder() async throws {
    let bench = try ControlBench(range: TestPorts.take(30))
    let spec = smallServer("once") {
      $0.max = 4
      $0.recycleAfterSessions = 1
    }
    let crowd = try await Stampede(24, bench: bench, pool: "once", declaring: [spec])
    let control = try bench.start("a", [spec])
    try await eventually("all are served") {
      try await crowd.round()
      return crowd.waiting.isEmpty
    }
    #expect(crowd.most <= 4, "more than max")
    #expect(crowd.overtaken < 4, "\(crowd.overtaken) who came earlier were overtaken")
    #expect(Set(crowd.served).count == 24)
    let used = try await bench.events().filter { $0.type == "session.created" }.compactMap { $0.fields["instance"] }
    #expect(Set(used).count == 24, "two clients had one instance")
    await control.stop(instances: true)
    #expect(bench.processes().isEmpty)
  }
}
