// Control planes in this process, on a real Redis, a state directory of their own and real programs. One can be killed
// (its tasks vanish without a word to Redis) and others follow it.
import Domain
import Glibc
import JSON
import Logging
import Posix
import Redis
import Routing
import Runtimes
import State
import Supervisor
import TestSupport

final class ControlBench: Sendable {
  let redis: RedisFixture
  let client: RedisClient
  let keys = Keys()
  let host = "bench"
  let directory: String
  let range: ClosedRange<Int>

  init(range: ClosedRange<Int>? = nil) throws {
    redis = try RedisFixture()
    client = try RedisClient(url: redis.unixURL)
    directory = "/tmp/bt-\(Kernel.processID)-\(String(UInt32.random(in: 0...UInt32.max), radix: 16))"
    self.range = try range ?? TestPorts.take(20)
  }
  /// What a test that failed has left.
  deinit {
    for process in processes() { kill(pid_t(process.pid), SIGKILL) }
    try? Kernel.removeTree(directory)
  }

  var ports: Ports { Ports(keys: keys, host: host) }
  var registry: Registry { Registry(keys: keys) }
  var leases: Leases { Leases(keys: keys) }

  /// BERTH_TEST_LOG=1 shows what the control planes of all tests say.
  func logger(_ name: String) -> Logger {
    var logger = Logger(label: name + "@" + directory) { label -> any LogHandler in
      if Kernel.environment["BERTH_TEST_LOG"] == nil { return SwiftLogNoOpLogHandler() }
      return StreamLogHandler.standardError(label: label)
    }
    logger.logLevel = .debug
    return logger
  }

  func runtime() throws -> ProcessRuntime {
    try ProcessRuntime(stateDirectory: directory, environment: ["PATH": "/usr/local/bin:/usr/bin:/bin"])
  }

  /// A Chrome pool that reacts quickly.
  func pool(_ change: (inout PoolSpec) -> Void = { _ in }) -> PoolSpec {
    var spec = chromePool()
    spec.max = 4
    spec.stopGraceMilliseconds = 2_000
    change(&spec)
    return spec
  }

  /// - Parameter url: its own way to Redis, which a test may cut.
  func start(
    _ name: String, _ pools: [PoolSpec], _ runtime: (any Runtime)? = nil, url: RedisURL? = nil,
    metrics: ControlMetrics = ControlMetrics(pools: []), keys: DeclaredKeys = DeclaredKeys()
  ) throws -> RunningControl {
    try RunningControl(
      name, bench: self, pools: pools, runtime: try runtime ?? self.runtime(), url: url ?? redis.unixURL,
      metrics: metrics, apiKeys: keys)
  }

  func instances(_ state: InstanceState? = nil) async throws -> [InstanceRecord] {
    try await client.run(registry.instances()).filter { state == nil || $0.state == state }.sorted { $0.id < $1.id }
  }

  func allocated() async throws -> [PortLease] { try await client.run(ports.list()) }

  /// Waits until so many instances are ready and nothing else is there.
  @discardableResult
  func settledIn(_ pool: String, _ count: Int) async throws -> [InstanceRecord] {
    var found: [InstanceRecord] = []
    try await eventually("\(count) ready instances of \(pool) and no other of it") {
      found = try await self.instances().filter { $0.pool == pool }
      return found.count == count && found.allSatisfy { $0.state == .ready }
    }
    return found
  }

  @discardableResult
  func settled(_ count: Int) async throws -> [InstanceRecord] {
    var found: [InstanceRecord] = []
    try await eventually("\(count) ready instances and no other") {
      found = try await self.instances()
      return found.count == count && found.allSatisfy { $0.state == .ready }
    }
    return found
  }

  func session(_ id: String, pool: String = "chrome", origin: SessionRecord.Origin = .rest, life: Int = 60_000)
    -> SessionRecord
  {
    let now = Clock.unixMilliseconds
    return SessionRecord(id: id, pool: pool, origin: origin, createdAt: now, expiresAt: now + life)
  }

  /// A client's session; `used` as if its WebSocket had come.
  @discardableResult
  func acquire(_ id: String, used: Bool = false, life: Int = 60_000) async throws -> InstanceRecord? {
    let grant = try await client.run(
      leases.acquire(
        session(id, life: life), holder: nil, reserveMilliseconds: nil, queue: false, countsAsUse: used,
        now: Clock.unixMilliseconds))
    guard case .granted(let record) = grant else { return nil }
    return try await instances().first { $0.id == record.instance }
  }

  func end(_ id: String) async throws {
    try await client.run(leases.end(session: id, reason: "test", now: Clock.unixMilliseconds))
  }

  func events() async throws -> [State.Event] { try await client.run(Events(keys: keys).recent(count: 1_000)) }

  /// Living processes with this bench's mark.
  func processes() -> [ProcessEntry] {
    ProcessTable.read().entries.values.filter {
      !$0.hasEnded && ProcessTable.environment(of: $0.pid)["BERTH_STATE"] == directory
    }
  }
  var directories: [String] { Kernel.list(directory + "/instances") ?? [] }
}

/// One control plane without its REST API.
final class RunningControl: Sendable {
  let lease: LeaderLease
  let supervisor: Supervisor
  let bell = WakeBell()
  private let listener: WakeListener
  private let tasks: [Task<Void, Never>]
  private let clients: [RedisClient]

  init(
    _ name: String, bench: ControlBench, pools: [PoolSpec], runtime: any Runtime, url: RedisURL,
    metrics: ControlMetrics, apiKeys: DeclaredKeys
  ) throws {
    let options = RedisOptions(connectTimeoutMilliseconds: 2_000, commandTimeoutMilliseconds: 3_000)
    let logger = bench.logger(name)
    let client = try RedisClient(url: url, options: options, observe: metrics.observe)
    let leaseClient = try RedisClient(url: url, options: options, threads: 1, observe: metrics.observe)
    clients = [client, leaseClient]
    let lease = LeaderLease(id: name, keys: bench.keys, redis: leaseClient, bell: bell, logger: logger)
    let supervisor = Supervisor(
      configuration: SupervisorConfiguration(
        pools: pools, routes: pools.prefix(1).map { RouteRecord(id: "all", pool: $0.name) }, apiKeys: apiKeys,
        portRange: bench.range, host: bench.host, drainMilliseconds: 500),
      keys: bench.keys, redis: client, runtime: runtime, lease: lease, bell: bell, logger: logger,
      metrics: metrics)
    let listener = try WakeListener(url: url, keys: bench.keys, bell: bell, logger: logger)
    self.lease = lease
    self.supervisor = supervisor
    self.listener = listener
    tasks = [
      Task { await lease.run() }, Task { await supervisor.run() }, Task { await listener.run() },
    ]
  }

  deinit {
    for task in tasks { task.cancel() }
    listener.stop()
  }

  /// As SIGKILL: nobody is told, and what was about to be said to Redis is not.
  func kill() async {
    for task in tasks { task.cancel() }
    listener.stop()
    for client in clients { await client.shutdown() }
    for task in tasks { await task.value }
  }

  func stop(instances: Bool) async {
    await supervisor.stop(instances: instances)
    await kill()
  }
}
