// What the tests of RouteFeed share: a deployment with a real Redis and somebody who plays the control plane, workers
// that write down what they are told, and a relay between a coordinator and Redis that can be cut.
import Glibc
import Observability
import Posix
import ProxyMachine
import Redis
import RouteFeed
import Routing
import State
import Synchronization
import TestSupport

/// A worker that keeps what it is told.
final class FeedWorker: WorkerInbox {
  private struct State {
    var answers: [UInt64: [SlotAnswer]] = [:]
    var owners: [UInt64: [JobOwner]] = [:]
    var ends: [(session: String, reason: String)] = []
    var table: RoutingTable?
    var tables = 0
    var loads: [String: InstanceLoad] = [:]
    var replicas: [Int] = []
    var blocks: [String: [Range<UInt64>]] = [:]
    /// nil = every table is taken as soon as it comes.
    var taken: Int?
  }
  private let state = Mutex(State())

  func deliver(_ answer: SlotAnswer, ticket: UInt64) {
    state.withLock { $0.answers[ticket, default: []].append(answer) }
  }
  func deliver(_ owner: JobOwner, ticket: UInt64) {
    state.withLock { $0.owners[ticket, default: []].append(owner) }
  }
  func end(session: String, reason: String) { state.withLock { $0.ends.append((session, reason)) } }
  func replace(table: RoutingTable) {
    state.withLock {
      $0.table = table
      $0.tables += 1
    }
  }
  func update(loads: [String: InstanceLoad]) { state.withLock { $0.loads = loads } }
  func update(replicas: Int) { state.withLock { $0.replicas.append(replicas) } }
  func lend(block: Range<UInt64>, pool: String) { state.withLock { $0.blocks[pool, default: []].append(block) } }

  var tablesTaken: Int { state.withLock { $0.taken ?? $0.tables } }
  /// From now on this many tables are taken and no more.
  func take(tables: Int?) { state.withLock { $0.taken = tables } }

  var table: RoutingTable? { state.withLock { $0.table } }
  var loads: [String: InstanceLoad] { state.withLock { $0.loads } }
  var replicas: [Int] { state.withLock { $0.replicas } }
  func blocks(_ pool: String) -> [Range<UInt64>] { state.withLock { $0.blocks[pool] ?? [] } }
  func answers(_ ticket: UInt64) -> [SlotAnswer] { state.withLock { $0.answers[ticket] ?? [] } }
  func reason(of session: String) -> String? { state.withLock { $0.ends.first { $0.session == session }?.reason } }

  func owners(_ ticket: UInt64) -> [JobOwner] { state.withLock { $0.owners[ticket] ?? [] } }

  /// Where a job is, when the answer has come.
  func owner(_ ticket: UInt64) throws -> JobOwner {
    try waitUntil("the answer to ticket \(ticket)") { !self.owners(ticket).isEmpty }
    return owners(ticket)[0]
  }

  /// The one answer to a ticket, when it has come.
  func answer(_ ticket: UInt64) throws -> SlotAnswer {
    try waitUntil("the answer to ticket \(ticket)") { !self.answers(ticket).isEmpty }
    return answers(ticket)[0]
  }
  func granted(_ ticket: UInt64) throws -> SessionRecord {
    switch try answer(ticket) {
    case .granted(let record): return record
    case .refused(let refusal): throw FixtureError("ticket \(ticket) was refused: \(refusal)")
    }
  }
  func refused(_ ticket: UInt64) throws -> SlotRefusal {
    switch try answer(ticket) {
    case .granted(let record): throw FixtureError("ticket \(ticket) was granted \(record.id)")
    case .refused(let refusal): return refusal
    }
  }
}

/// A coordinator with one worker.
final class FeedReplica: Sendable {
  let id: String
  let coordinator: RedisCoordinator
  let worker = FeedWorker()
  private let tickets = Atomic(0)

  init(
    _ id: String, url: RedisURL, options: RedisOptions? = nil, retryMilliseconds: Int = 1_000,
    jobRetryMilliseconds: Int = 50, faults: @escaping @Sendable () -> [WitnessedFaults] = { [] },
    traffic: @escaping @Sendable () -> TrafficReport = { TrafficReport() }
  ) throws {
    self.id = id
    // Nobody reads the log of a test that goes well.
    let log = LogWriter(fileDescriptor: unsafe open("/dev/null", O_WRONLY | O_CLOEXEC), level: .debug)
    coordinator = try RedisCoordinator(
      url: url, keys: Keys(), replica: id, log: log,
      options: options ?? RedisOptions(connectTimeoutMilliseconds: 1_000, commandTimeoutMilliseconds: 3_000),
      retryMilliseconds: retryMilliseconds, jobRetryMilliseconds: jobRetryMilliseconds, figures: { ["color": "blue"] },
      faults: faults, traffic: traffic)
    coordinator.start(inboxes: [worker])
  }

  deinit { coordinator.stop(timeoutMilliseconds: 5_000) }

  /// Waits until the table has these instances.
  func routes(_ instances: String...) throws {
    try waitUntil("\(id) routes to \(instances)") { self.worker.table?.instances.map(\.id) == instances }
    try waitUntil("\(id) is connected") { self.coordinator.counters.connected }
  }

  @discardableResult
  func ask(_ kind: SlotRequest.Kind, queueTimeout: Int? = nil) -> UInt64 {
    let ticket = UInt64(tickets.wrappingAdd(1, ordering: .relaxed).newValue)
    coordinator.submit(SlotRequest(kind: kind, ticket: ticket, worker: 0, queueTimeoutMilliseconds: queueTimeout))
    return ticket
  }
  func acquire(_ pool: String = "chrome", reserve: Bool = false) -> UInt64 {
    ask(.acquire(pool: pool, reserve: reserve, countsAsUse: false))
  }
  func find(_ job: String, pool: String = "web") -> UInt64 { ask(.job(id: job, pool: pool)) }
  func made(_ job: String, by instance: String, pool: String = "web") {
    coordinator.notify(.job(id: job, pool: pool, instance: instance))
  }
  func release(_ session: String) { coordinator.notify(.release(session: session)) }
  func cancel(_ ticket: UInt64) { coordinator.notify(.cancel(ticket: ticket, worker: 0)) }
}

/// A Redis and its control plane, on the real clock.
final class FeedDeployment {
  let redis: RedisFixture
  let keys = Keys()
  let leases: Leases
  let registry: Registry
  private var connection: RedisConnection
  private var fence: Fence

  init(_ redis: RedisFixture? = nil, pools: [PoolRecord] = [World.pool()], instances: [String] = ["a"]) throws {
    self.redis = try redis ?? RedisFixture()
    leases = Leases(keys: keys)
    registry = Registry(keys: keys)
    connection = try self.redis.connect()
    fence = Fence(token: 0, id: "control")
    try lead()
    try declare(pools)
    for id in instances { try put(id, slots: pools[0].slots, pool: pools[0].name) }
  }

  var now: Int { Clock.unixMilliseconds }

  /// A control plane that starts, or finds Redis again.
  func lead() throws {
    connection = try redis.connect()
    fence = try run(Leadership(keys: keys).campaign(id: "control", ttlMilliseconds: 600_000))!
  }
  @discardableResult func run<R: Sendable>(_ command: Command<R>) throws -> R { try connection.run(command) }

  func declare(_ pools: [PoolRecord], strategy: Strategy = .roundRobin) throws {
    let routes = pools.map { RouteRecord(id: $0.name, pool: $0.name, strategy: strategy) }
    try run(registry.declare(pools: pools, routes: routes, fence: fence, now: now))
  }
  func put(
    _ id: String, slots: Int = 1, pool: String = "chrome", state: InstanceState = .ready, generation: Int = 1
  ) throws {
    let record = InstanceRecord(
      id: id, pool: pool, host: "127.0.0.1", port: 50_000, generation: generation, state: state, slots: slots,
      browser: "guid-\(id)")
    try run(registry.put(instance: record, fence: fence, now: now))
  }
  func remove(_ id: String) throws { try run(registry.remove(instance: id, reason: "test", fence: fence, now: now)) }

  /// A session made through REST.
  func createSession(_ id: String) throws {
    let record = SessionRecord(id: id, pool: "chrome", origin: .rest, createdAt: now, expiresAt: now + 600_000)
    guard case .granted = try run(leases.acquire(record, holder: nil, reserveMilliseconds: nil, queue: false, now: now))
    else { throw FixtureError("no slot for \(id)") }
  }
  func view(_ session: String) throws -> SessionView? { try run(leases.get(session: session)) }
  func figures() throws -> PoolFigures { try run(leases.figures(pool: "chrome", now: now)) }
}

/// Passes bytes between a Unix socket of its own and that of Redis, until it is cut: then nobody gets through.
final class FeedRelay: Sendable {
  let path: String
  private let target: String
  private struct State {
    var isCut = false
    var sockets: [Int32] = []
  }
  private let state = Mutex(State())
  private let listener: Int32

  init(_ redis: RedisFixture) throws {
    target = redis.directory + "/socket"
    path = "/tmp/berth-relay-\(getpid())-\(UInt32.random(in: 0 ... .max))"
    listener = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    var address = Self.address(path)
    let result = unsafe withUnsafePointer(to: &address) { pointer in
      unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { pointer in
        unsafe bind(listener, pointer, socklen_t(MemoryLayout<sockaddr_un>.size)) == 0 && listen(listener, 16) == 0
      }
    }
    guard result else { throw FixtureError("no relay") }
    _ = Thread.start("relay") { [self] in
      while true {
        let client = accept(listener, nil, nil)
        guard client >= 0 else { return }
        serve(client)
      }
    }
  }

  /// Ends the thread, which holds the relay alive.
  func close() {
    shutdown(listener, Int32(SHUT_RDWR))
    cut()
    unsafe unlink(path)
  }

  var url: RedisURL { try! RedisURL(parsing: "unix:\(path)") }

  func cut() {
    state.withLock { state in
      state.isCut = true
      for socket in state.sockets { shutdown(socket, Int32(SHUT_RDWR)) }
    }
  }
  func mend() { state.withLock { $0.isCut = false } }

  private func serve(_ client: Int32) {
    let server = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    var address = Self.address(target)
    let isThrough = state.withLock { state in
      guard !state.isCut else { return false }
      let connected = unsafe withUnsafePointer(to: &address) { pointer in
        unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { pointer in
          unsafe connect(server, pointer, socklen_t(MemoryLayout<sockaddr_un>.size)) == 0
        }
      }
      if connected { state.sockets += [client, server] }
      return connected
    }
    guard isThrough else {
      Glibc.close(client)
      Glibc.close(server)
      return
    }
    let open = Counter(2)
    for (from, to) in [(client, server), (server, client)] {
      _ = Thread.start("relay-bytes") { [self] in
        var buffer = [UInt8](repeating: 0, count: 65_536)
        while true {
          let count = unsafe recv(from, &buffer, buffer.count, 0)
          guard count > 0, unsafe send(to, buffer, count, Int32(MSG_NOSIGNAL)) == count else { break }
        }
        shutdown(from, Int32(SHUT_RDWR))
        shutdown(to, Int32(SHUT_RDWR))
        guard open.down() == 0 else { return }
        state.withLock { state in
          state.sockets.removeAll { $0 == client || $0 == server }
          Glibc.close(client)
          Glibc.close(server)
        }
      }
    }
  }

  private final class Counter: Sendable {
    private let value: Mutex<Int>
    init(_ value: Int) { self.value = Mutex(value) }
    func down() -> Int {
      value.withLock {
        $0 -= 1
        return $0
      }
    }
  }

  private static func address(_ path: String) -> sockaddr_un {
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: path.utf8) }
    return address
  }
}
