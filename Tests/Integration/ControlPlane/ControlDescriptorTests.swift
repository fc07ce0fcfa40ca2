// A leader that can open nothing any more lets another control plane lead, and leads on when there is none.
import Logging
import Posix
import Redis
import Routing
import State
import Supervisor
import Synchronization
import TestSupport
import Testing

@Suite struct ControlDescriptorTests {
  /// A lease with descriptors that a test can take away.
  private final class Candidate: Sendable {
    let lease: LeaderLease
    let metrics = ControlMetrics(pools: [])
    private let task = Mutex<Task<Void, Never>?>(nil)

    init(_ id: String, _ bench: ControlBench) throws {
      let room = Room()
      self.room = room
      lease = LeaderLease(
        id: id, keys: bench.keys, redis: try RedisClient(url: bench.redis.unixURL, threads: 1), bell: WakeBell(),
        logger: bench.logger(id), metrics: metrics, hasDescriptors: { room.isThere.load(ordering: .relaxed) })
    }

    final class Room: Sendable { let isThere = Atomic(true) }
    let room: Room

    func start() { task.withLock { $0 = Task { [lease] in await lease.run() } } }
    func takeDescriptors(_ taken: Bool = true) { room.isThere.store(!taken, ordering: .relaxed) }
    var leads: Bool { get async { await lease.current != nil } }
    deinit { task.withLock { $0?.cancel() } }
  }

  @Test func anotherOneLeadsInItsPlace() async throws {
    let bench = try ControlBench()
    let (a, b) = (try Candidate("a", bench), try Candidate("b", bench))
    a.start()
    try await eventually("a leads") { await a.leads }
    b.start()
    try await eventually("b stands by") { await b.lease.anotherLeads }
    let first = try #require(await a.lease.current)

    a.takeDescriptors()
    try await eventually("b leads") { await b.leads }
    #expect(await !a.leads)
    #expect(try await bench.client.run(Leadership(keys: bench.keys).current())?.id == "b")
    #expect(a.metrics.figures.isShortOfDescriptors && a.metrics.figures.leadsGivenUp == 1)
    try await eventually("a knows") { await a.lease.anotherLeads }

    // The one that is short stands by all the same, and is told well when it is.
    a.takeDescriptors(false)
    try await eventually("a has descriptors") { !a.metrics.figures.isShortOfDescriptors }
    await b.lease.resign()
    try await eventually("a leads again") { await a.leads }
    #expect(try #require(await a.lease.current).fence.token > first.fence.token)
    await a.lease.resign()
  }

  @Test func aloneItLeadsOn() async throws {
    let bench = try ControlBench()
    let only = try Candidate("only", bench)
    only.start()
    try await eventually("it leads") { await only.leads }
    let first = try #require(await only.lease.current)
    only.takeDescriptors()
    try await eventually("it has given the lead up") { only.metrics.figures.leadsGivenUp == 1 }
    try await eventually("it leads again") { await only.leads }
    let second = try #require(await only.lease.current)
    // A term of its own after its own: what it knows is still the best there is.
    #expect(second.number == first.number + 1 && second.fence.predecessor == "only")
    #expect(await !only.lease.anotherLeads)
    #expect(only.metrics.figures.isShortOfDescriptors && only.metrics.figures.leadsGivenUp == 1)
    await only.lease.resign()
  }
}
