// A replica from start to end: listeners, feed, workers, admin port, signals. The order matters: nothing is accepted before
// there is a routing table, and the feed outlives the workers, so that the last sessions are given back.
import Engine
import Glibc
import Observability
import Posix
import ProxyMachine
import Redis
import RouteFeed
import Routing
import Synchronization
import TLS

struct ReplicaError: Error, CustomStringConvertible { let description: String }

final class Replica {
  private let settings: Settings
  private let log: LogWriter
  private let engine: Engine
  private let source: any RouteSource
  /// The source again when it is a file, which SIGHUP reads anew.
  private let file: FileCoordinator?
  private let admin: AdminServer
  private let isDraining: Flag
  private let accessLog: AccessLog?

  /// A bit that signal handling sets and the admin thread reads.
  private final class Flag: Sendable {
    private let value = Atomic<Bool>(false)
    var isSet: Bool { value.load(ordering: .relaxed) }
    func set() { value.store(true, ordering: .relaxed) }
  }

  init(settings: Settings) throws {
    // Every thread inherits this mask; signals are taken one by one in run().
    Self.blockSignals()
    self.settings = settings
    let log = LogWriter(level: settings.logLevel)
    self.log = log
    let certificates = try Self.certificates(settings)
    do {
      var configuration = EngineConfiguration(
        listen: [settings.listen], tlsListen: settings.tlsListen.map { [$0] } ?? [], certificates: certificates,
        workers: settings.workers, limits: settings.limits, splice: settings.splice)
      configuration.trustedProxies = settings.trustedProxies
      configuration.proxyProtocolFrom = settings.proxyProtocolFrom
      engine = try Engine(configuration)
    } catch {
      throw ReplicaError(
        description:
          "\(error). Another program has this port: stop it, or choose another with --listen or --tls-listen.")
    }
    do {
      accessLog = try settings.accessLog.map { [engine] destination in
        try AccessLog(destination, workers: settings.workers, labels: engine.labels, log: log)
      }
    } catch { throw ReplicaError(description: "--access-log (BERTH_ACCESS_LOG): \(error)") }
    if let path = settings.routes {
      let file = try FileCoordinator(path: path, intervalMilliseconds: settings.healthCheckMilliseconds, log: log)
      self.file = file
      source = file
    } else {
      file = nil
      source = try Self.redisSource(settings, engine.metrics, log)
    }
    let isDraining = Flag()
    self.isDraining = isDraining
    let pages = AdminPages(
      replica: settings.id, source: source, workers: engine.metrics, labels: engine.labels, accessLog: accessLog,
      log: log, isDraining: { isDraining.isSet })
    admin = try AdminServer(settings.admin) { pages.answer($0) }
  }

  private static func redisSource(_ settings: Settings, _ metrics: [WorkerMetrics], _ log: LogWriter) throws
    -> RedisCoordinator
  {
    let url: RedisURL
    do { url = try RedisURL(parsing: settings.redisURL ?? "") } catch {
      throw ReplicaError(description: "--redis-url (REDIS_URL): \(error)")
    }
    return try RedisCoordinator(url: url, keys: Keys(prefix: settings.keyPrefix), replica: settings.id, log: log) {
      func sum(_ counter: Counter) -> String { String(metrics.reduce(0) { $0 + Int($1.value(counter)) }) }
      return [
        "clients": sum(.clientsNow), "tunnels": sum(.tunnelsNow), "requests": sum(.requests),
        "address": "\(settings.listen)", "admin": "\(settings.admin)", "pid": String(getpid()),
      ]
    }
  }

  private static func certificates(_ settings: Settings) throws -> Certificates? {
    guard !settings.tls.isEmpty else { return nil }
    return Certificates(context: try settings.tls.context(processSecret: .random()))
  }

  func run() throws {
    engine.start(coordinator: source, log: log, accessLog: accessLog)
    source.start(inboxes: engine.inboxes)
    admin.start()
    var places: [String] = engine.addresses.map { "http://\($0)" }
    places += engine.tlsAddresses.map { "https://\($0)" }
    log.info(
      "the replica serves",
      [
        "replica": .string(settings.id), "addresses": .string(places.joined(separator: " ")),
        "admin": .string("http://\(admin.address)"), "workers": .int(settings.workers), "pid": .int(Int(getpid())),
      ])
    waitForEnd()
    isDraining.set()
    log.info("draining", ["replica": .string(settings.id), "seconds": .int(settings.drainSeconds)])
    engine.drain(milliseconds: settings.drainSeconds * 1_000)
    engine.join()
    source.stop(timeoutMilliseconds: 3_000)
    accessLog?.close()
    log.info("the replica ends", ["replica": .string(settings.id)])
    log.close()
  }

  // MARK: Signals

  private static var handled: sigset_t {
    var set = sigset_t()
    unsafe sigemptyset(&set)
    for signal in [SIGTERM, SIGINT, SIGHUP] { unsafe sigaddset(&set, signal) }
    return set
  }

  private static func blockSignals() {
    var set = handled
    unsafe pthread_sigmask(SIG_BLOCK, &set, nil)
    signal(SIGPIPE, SIG_IGN)
  }

  /// Returns at SIGTERM or SIGINT; SIGHUP reads the files again.
  private func waitForEnd() {
    var set = Self.handled
    while true {
      var signal: Int32 = 0
      guard unsafe sigwait(&set, &signal) == 0 else { continue }
      guard signal == SIGHUP else { return }
      reload()
    }
  }

  /// Reads certificate and routes again. What cannot be read leaves what is in force as it is.
  private func reload() {
    accessLog?.reopen()
    do {
      if let certificates = try Self.certificates(settings) { engine.replace(certificates: certificates) }
      try file?.reload()
      log.info("certificate and routes were read again")
    } catch {
      log.error("the files could not be read again, what was in force stays", ["reason": .string("\(error)")])
    }
  }
}
