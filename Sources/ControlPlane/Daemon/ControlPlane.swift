// Puts the control plane together and runs it until a signal: REST, the leader lease, the doorbell and the supervisor as
// services of one group, which ends them in order.
import API
import Domain
import Logging
import Observability
import Posix
import Redis
import Routing
import Runtimes
import ServiceLifecycle
import Settings
import Supervisor
import UnixSignals

struct ControlPlane {
  let settings: ControlSettings
  let apiKeys: DeclaredKeys
  let environment: [String: String]

  /// As many files and sockets as this process wants to be allowed.
  private static let descriptors = 65_536
  /// Beyond draining: closing browsers and REST connections. What has not ended then is left.
  private static let shutdownSeconds = 40
  /// The supervisor and the lease must not wait long for a Redis that hangs.
  private static let redisOptions = RedisOptions(
    connectTimeoutMilliseconds: 2_000, commandTimeoutMilliseconds: 3_000, clientName: "berth-control")

  func run() async throws {
    Kernel.ignoreStraySignals()
    let writer = LogWriter(level: JSONLogHandler.writerLevel(settings.logLevel))
    defer { writer.close() }
    let level = Logger.Level(rawValue: settings.logLevel.rawValue) ?? .info
    let logger = Self.logger(writer, level: level)
    // Hummingbird and the service group tell of every step; only what went wrong is wanted.
    let quietLogger = Self.logger(writer, level: max(level, .warning))

    // Each instance that starts or is asked takes a few, and so does each client of REST.
    let descriptors = Kernel.raiseDescriptorLimit(to: Self.descriptors)

    let url: RedisURL
    do { url = try RedisURL(parsing: settings.redisURL) } catch { throw StartProblem(error.description) }
    let keys = Keys(prefix: settings.keyPrefix)
    let host = settings.hostName ?? Kernel.hostName
    let id = settings.id ?? "\(host)-\(Kernel.processID)"
    let process = try makeProcessRuntime()
    let runtime = try makeRuntime(process, logger)
    defer { runtime.shutdown() }
    if let conflict = BindProbe.conflict(
      host: address(of: settings.listen), port: settings.listen.port, reusesAddress: true)
    {
      throw StartProblem(
        "cannot listen at \(conflict); end what has the port, or choose another with --listen, BERTH_CONTROL_LISTEN or PORT"
      )
    }

    let bell = WakeBell()
    let metrics = ControlMetrics(pools: settings.pools.map(\.name))
    let redis: RedisClient
    let leaseRedis: RedisClient
    let listener: WakeListener
    do throws(RedisError) {
      redis = try RedisClient(url: url, options: Self.redisOptions, observe: metrics.observe)
      leaseRedis = try RedisClient(url: url, options: Self.redisOptions, threads: 1, observe: metrics.observe)
      listener = try WakeListener(url: url, keys: keys, bell: bell, logger: logger)
    } catch {
      throw StartProblem(error.description)
    }
    // Two control planes must never be the same leader, whatever they are called.
    let lease = LeaderLease(
      id: "\(id)#\(String(UInt32.random(in: 0...UInt32.max), radix: 16))", keys: keys, redis: leaseRedis, bell: bell,
      logger: logger, metrics: metrics, hasDescriptors: Kernel.hasDescriptors)
    var configuration = SupervisorConfiguration(
      pools: settings.pools, routes: settings.routes, apiKeys: apiKeys, portRange: settings.portRange, host: host,
      concurrentLaunches: settings.concurrentLaunches, drainMilliseconds: settings.drainSeconds * 1_000)
    configuration.totalLaunches = settings.totalConcurrentLaunches
    let supervisor = Supervisor(
      configuration: configuration, keys: keys, redis: redis, runtime: runtime, lease: lease, bell: bell,
      logger: logger,
      metrics: metrics)
    let handlers = Handlers(
      configuration: APIConfiguration(
        pools: settings.pools, publicURL: settings.publicURL, maxSessions: settings.maxSessions,
        portHosts: portHosts(host), id: id,
        processID: Kernel.processID, declaredKeys: apiKeys),
      redis: redis, keys: keys, bell: bell, logger: logger, metrics: metrics, clock: { Clock.unixMilliseconds })
    let listen = settings.listen
    let authenticator = Authenticator(
      isRequired: settings.requireKeys, declared: apiKeys, redis: redis, keys: keys, clock: { Clock.unixMilliseconds })
    let pages = PageGuard(
      asksForKeys: settings.requireKeys,
      names: settings.allowedHosts + [PageGuard.host(ofURL: settings.publicURL), Kernel.hostName])
    let server = APIServer(
      handlers, authenticator, pages: pages, host: address(of: listen), port: listen.port, descriptors: descriptors,
      logger: quietLogger
    ) {
      logger.notice("listening", metadata: ["address": "\(listen)", "id": "\(id)", "redis": "\(url)"])
    }

    var group = ServiceGroupConfiguration(
      services: [
        .init(service: RedisService(clients: [redis, leaseRedis])),
        .init(service: ListenerService(listener: listener)),
        .init(
          service: LeadershipService(lease: lease, supervisor: supervisor, stopsInstances: settings.stopInstancesOnExit)
        ),
        .init(
          service: KeysKeeper(file: settings.keysFile, keys: apiKeys, metrics: metrics, bell: bell, logger: logger)),
        .init(service: DiskKeeper(directory: process.state, metrics: metrics, logger: logger)),
        .init(service: RESTService(server: server)),
      ],
      gracefulShutdownSignals: [.sigterm, .sigint], logger: quietLogger)
    group.maximumGracefulShutdownDuration = .seconds(settings.drainSeconds + Self.shutdownSeconds)
    do {
      try await ServiceGroup(configuration: group).run()
    } catch {
      throw StartProblem("the control plane ended: \(error)")
    }
    logger.notice("stopped")
  }

  private static func logger(_ writer: LogWriter, level: Logger.Level) -> Logger {
    var logger = Logger(label: "berth-control") { _ in JSONLogHandler(writer: writer) }
    logger.logLevel = level
    return logger
  }

  private func makeProcessRuntime() throws -> ProcessRuntime {
    do { return try ProcessRuntime(stateDirectory: settings.stateDirectory, environment: environment) } catch {
      throw unusable(error)
    }
  }

  private func unusable(_ error: KernelError) -> StartProblem {
    StartProblem("the state directory cannot be used (--state-directory): \(error.description)")
  }

  private func makeRuntime(_ process: ProcessRuntime, _ logger: Logger) throws -> RuntimeSet {
    var fixed: StaticRuntime?
    do throws(KernelError) {
      if settings.pools.contains(where: { $0.runtime.isFixed }) {
        fixed = try StaticRuntime(
          pools: settings.pools, stateDirectory: settings.stateDirectory, environment: environment, logger: logger)
      }
    } catch {
      throw unusable(error)
    }
    for spec in settings.pools where spec.runtime.isProcess {
      if case .failure(let failure) = process.program(of: spec) { throw StartProblem(failure.description) }
    }
    var docker: DockerRuntime?
    if let engines = settings.docker {
      do { docker = try DockerRuntime(engines, pools: settings.pools, logger: logger) } catch {
        throw StartProblem(error.description)
      }
    }
    var swarm: SwarmRuntime?
    if let declared = settings.swarm {
      do { swarm = try SwarmRuntime(declared, pools: settings.pools, logger: logger) } catch {
        throw StartProblem(error.description)
      }
    }
    return RuntimeSet(process: process, docker: docker, swarm: swarm, fixed: fixed)
  }

  /// The hosts whose ports are for instances of this configuration.
  private func portHosts(_ host: String) -> [String] {
    (settings.pools.contains(where: { $0.runtime.isProcess }) ? [host] : [])
      + (settings.docker?.hosts.map(\.name) ?? []) + (settings.swarm.map { [$0.name] } ?? [])
  }

  private func address(of endpoint: Endpoint) -> String { endpoint.host == "localhost" ? "127.0.0.1" : endpoint.host }
}
