// A replica from start to end: listeners, feed, workers, admin port, signals. The order matters: nothing is accepted before
// there is a routing table, a predecessor drains when this one serves, and the feed outlives the workers, so that the last
// sessions are given back.
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

/// What /readyz is about.
enum ReplicaPhase: UInt8, Sendable { case starting, serving, draining }

struct ReplicaError: Error, CustomStringConvertible { let description: String }

final class Replica {
  private let settings: Settings
  private let log: LogWriter
  private let engine: Engine
  private let source: any RouteSource
  /// The source again when it is a file, which SIGHUP reads anew.
  private let file: FileCoordinator?
  private let admin: AdminServer
  private let phase: Phase
  private let accessLog: AccessLog?
  private let certificates: CertificateKeeper?
  private let signals: SignalSource
  /// The process whose listeners these are, until it drains.
  private var predecessor: HandoverClaim?
  private let offer: HandoverOffer?

  /// The main thread sets it, the admin thread reads it.
  private final class Phase: Sendable {
    private let state = Atomic<UInt8>(ReplicaPhase.starting.rawValue)
    var value: ReplicaPhase { ReplicaPhase(rawValue: state.load(ordering: .relaxed)) ?? .starting }
    func become(_ phase: ReplicaPhase) { state.store(phase.rawValue, ordering: .relaxed) }
  }

  /// How long the first routing table is waited for before clients are taken, who get 503 without one. A predecessor serves
  /// meanwhile, so it may take longer then (`--handover-seconds`).
  private static let tableMilliseconds = 3_000

  init(settings: Settings) throws {
    // Every thread inherits the mask; signals are taken one by one in run().
    signals = SignalSource()
    signal(SIGPIPE, SIG_IGN)
    self.settings = settings
    let log = LogWriter(level: settings.logLevel)
    self.log = log
    certificates = try CertificateKeeper.make(settings.tls, log: log)
    let predecessor = try settings.handover.flatMap { try HandoverClaim.from(path: $0) }
    self.predecessor = predecessor
    let inherited = predecessor?.listeners ?? []
    do {
      var configuration = EngineConfiguration(
        listen: settings.listen, tlsListen: settings.tlsListen, certificates: certificates?.first,
        workers: settings.workers, limits: settings.limits, splice: settings.splice)
      configuration.trustedProxies = settings.trustedProxies
      configuration.proxyProtocolFrom = settings.proxyProtocolFrom
      configuration.requiresKeys = settings.requiresKeys
      configuration.kernelTLS = settings.kernelTLS
      engine = try Engine(configuration, inherited: inherited.filter { $0.kind != .admin })
    } catch {
      throw Self.listening(error)
    }
    do {
      accessLog = try settings.accessLog.map { [engine] destination in
        try AccessLog(destination, workers: settings.workers, labels: engine.labels, log: log)
      }
    } catch { throw ReplicaError(description: "--access-log (BERTH_ACCESS_LOG): \(error)") }
    if settings.routes != nil, settings.redisURL != nil {
      log.warning("--redis-url (REDIS_URL) is not used beside --routes; leave one of them out", [:])
    }
    if let path = settings.routes {
      let file = try FileCoordinator(path: path, intervalMilliseconds: settings.healthCheckMilliseconds, log: log)
      self.file = file
      source = file
    } else {
      file = nil
      source = try Self.redisSource(settings, engine, log)
    }
    let phase = Phase()
    self.phase = phase
    let pages = AdminPages(
      replica: settings.id, source: source, workers: engine.metrics, labels: engine.labels, accessLog: accessLog,
      certificates: certificates?.figures, log: log, phase: { phase.value })
    admin = try AdminServer(settings.admin, inherited: inherited.filter { $0.kind == .admin }) {
      pages.answer($0, $1)
    }
    offer = try settings.handover.map { [engine, admin] path in
      let listeners = engine.handoverListeners + [admin.handoverListener]
      return try HandoverOffer(path: path, listeners: listeners, log: log)
    }
  }

  /// - Parameter error: of an engine that cannot have its addresses
  private static func listening(_ error: any Error) -> ReplicaError {
    let text = "\(error)"
    let hint =
      text.contains("in use")
      ? "Another program has this port: stop it, or choose another with --listen or --tls-listen."
      : "--listen and --tls-listen take an address of this machine, and ports below 1024 may need a privilege."
    return ReplicaError(description: "\(text). \(hint)")
  }

  private static func redisSource(_ settings: Settings, _ engine: Engine, _ log: LogWriter) throws -> RedisCoordinator {
    let metrics = engine.metrics
    let faults = FaultReader(engine.labels)
    let url: RedisURL
    do { url = try RedisURL(parsing: settings.redisURL ?? "") } catch {
      throw ReplicaError(description: "--redis-url (REDIS_URL): \(error)")
    }
    return try RedisCoordinator(
      url: url, keys: Keys(prefix: settings.keyPrefix), replica: settings.id, log: log,
      figures: {
        func sum(_ counter: Counter) -> String { String(metrics.reduce(0) { $0 + Int($1.value(counter)) }) }
        return [
          "clients": sum(.clientsNow), "tunnels": sum(.tunnelsNow), "requests": sum(.requests),
          "address": settings.listen.map(\.description).joined(separator: " "), "admin": "\(settings.admin)",
          "pid": String(getpid()),
        ]
      }, faults: { faults.read() }, traffic: { [labels = engine.labels] in labels.traffic() })
  }

  func run() throws {
    source.start(inboxes: engine.inboxes)
    if predecessor == nil { admin.start() }
    var problem: (any Error)?
    if waitForTable() {
      do { try engine.listen() } catch { throw Self.listening(error) }
      engine.start(coordinator: source, log: log, accessLog: accessLog)
      phase.become(.serving)
      do {
        try takeOver()
        serve()
      } catch { problem = error }
      end()
    } else if let predecessor {
      problem = ReplicaError(
        description: "there was no routing table, so the process \(predecessor.predecessor) goes on; is Redis there?")
    }
    offer?.close()
    source.stop(timeoutMilliseconds: 3_000)
    accessLog?.close()
    log.info("the replica ends", ["replica": .string(settings.id)])
    log.close()
    if let problem { throw problem }
  }

  // MARK: Start

  /// Gives the feed some time to bring the first table. False: do not serve.
  private func waitForTable() -> Bool {
    let limit = predecessor == nil ? Self.tableMilliseconds : settings.handoverSeconds * 1_000
    let deadline = Clock.monotonicMilliseconds + limit
    while source.table == nil {
      if Clock.monotonicMilliseconds >= deadline {
        guard predecessor == nil else { return false }
        log.warning("there is no routing table yet, clients get 503 until it comes")
        return true
      }
      wait(milliseconds: 10, for: [signals.descriptor])
      if signals.next() == .end { return false }
    }
    return true
  }

  /// Tells the predecessor to drain, and offers the listeners to the process that will come after this one.
  private func takeOver() throws {
    if let predecessor {
      let outcome = try predecessor.takeOver()
      admin.start()
      log.info(
        outcome == .taken ? "the listeners were taken over" : "the process before this one has gone by itself",
        ["from": .int(Int(predecessor.predecessor))])
      self.predecessor = nil
    }
    try offer?.publish()
    var places: [String] = engine.addresses.map { "http://\($0)" }
    places += engine.tlsAddresses.map { "https://\($0)" }
    log.info(
      "the replica serves",
      [
        "replica": .string(settings.id), "addresses": .string(places.joined(separator: " ")),
        "admin": .string("http://\(admin.address)"), "workers": .int(settings.workers), "pid": .int(Int(getpid())),
        "kernel_tls": .bool(KernelTLS.isAvailable()),
      ])
  }

  // MARK: Service and end

  /// Another process serves now.
  private var isHandedOver = false

  /// Returns at SIGTERM or SIGINT, or when another process has taken over. Meanwhile files are looked at every second.
  private func serve() {
    while true {
      let now = Clock.monotonicMilliseconds
      let left = min(1_000 - now % 1_000, max(0, (offer?.deadline ?? Int.max) - now))
      let came = wait(milliseconds: left, for: [signals.descriptor] + (offer?.descriptors ?? []))
      switch signals.next() {
      case .end: return
      case .reload: reload()
      case .reopenLogs: accessLog?.reopen()
      case nil: break
      }
      if let offer, offer.advance(now: Clock.monotonicMilliseconds) {
        admin.handOver()
        offer.confirm()
        isHandedOver = true
        return
      }
      if !came, let changed = certificates?.look() { engine.replace(certificates: changed) }
    }
  }

  private func end() {
    phase.become(.draining)
    offer?.close()
    log.info("draining", ["replica": .string(settings.id), "seconds": .int(settings.drainSeconds)])
    engine.drain(milliseconds: settings.drainSeconds * 1_000, keepsIdle: isHandedOver)
    engine.join()
  }

  /// Reads certificates and routes again and opens the access log anew. What cannot be read leaves what is in force as it is.
  private func reload() {
    accessLog?.reopen()
    if let changed = certificates?.reload() { engine.replace(certificates: changed) }
    do {
      try file?.reload()
      if file != nil { log.info("routes were read again") }
    } catch {
      log.error("the routes could not be read again, those in force stay", ["reason": .string("\(error)")])
    }
  }

  /// Whether there is input on one of them.
  @discardableResult private func wait(milliseconds: Int, for descriptors: [Int32]) -> Bool {
    var entries = descriptors.map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
    return unsafe poll(&entries, nfds_t(entries.count), Int32(clamping: milliseconds)) > 0
  }
}
