// An engine on loopback in front of instances that a test scripts, and blocking clients with a time limit for it.
import Engine
import Glibc
import Observability
import Posix
import ProxyMachine
import Routing
import Synchronization
import TLS
import TestSupport

/// Answers every slot request with "unavailable": the pools of these tests need no slots.
final class NoSlots: Coordinator {
  private let inboxes: [Mailbox]
  init(_ inboxes: [Mailbox]) { self.inboxes = inboxes }
  func submit(_ request: SlotRequest) {
    inboxes[request.worker].deliver(.refused(.unavailable), ticket: request.ticket)
  }
  func notify(_ notice: SlotNotice) {}
}

/// Grants a session on one instance, and remembers what it was told.
final class Granting: Coordinator {
  let inboxes: [Mailbox]
  let session: SessionRecord
  let notices = Mutex<[SlotNotice]>([])
  init(_ inboxes: [Mailbox], _ session: SessionRecord) {
    self.inboxes = inboxes
    self.session = session
  }
  func submit(_ request: SlotRequest) { inboxes[request.worker].deliver(.granted(session), ticket: request.ticket) }
  func notify(_ notice: SlotNotice) { notices.withLock { $0.append(notice) } }
}

/// A running engine, with one worker unless the test wants more.
final class TestEngine {
  let engine: Engine
  let log: LogWriter
  let access: AccessLog?
  private var joined = false

  init(
    instances: [SocketAddress], pool: PoolRecord = PoolRecord(name: "web", kind: .http, slots: 0),
    routes: [RouteRecord] = [RouteRecord(id: "all", pool: "web")], limits: EngineLimits = EngineLimits(),
    splice: SpliceMode = .never, certificate: (certificate: String, key: String)? = nil,
    trustedProxies: [AddressRange] = [], proxyProtocolFrom: [AddressRange] = [], accessLog: String? = nil,
    records: [InstanceRecord]? = nil, apiKeys: [KeyRecord] = [], requiresKeys: Bool = false,
    listen: [SocketAddress]? = nil, kernelTLS: Bool = false, workers: Int = 1, inherited: [HandoverListener] = [],
    coordinator: (([Mailbox]) -> any Coordinator)? = nil
  ) throws {
    let loopback = SocketAddress("127.0.0.1:0")!
    let certificates = try certificate.map {
      Certificates(context: try TLSServerContext(certificateFile: $0.certificate, keyFile: $0.key))
    }
    var configuration = EngineConfiguration(
      listen: listen ?? [loopback], tlsListen: certificates == nil ? [] : [loopback], certificates: certificates,
      workers: workers, limits: limits, splice: splice)
    configuration.trustedProxies = trustedProxies
    configuration.proxyProtocolFrom = proxyProtocolFrom
    configuration.requiresKeys = requiresKeys
    configuration.kernelTLS = kernelTLS
    engine = try Engine(configuration, inherited: inherited)
    log = LogWriter(fileDescriptor: 2, level: .error)
    let records =
      records
      ?? instances.enumerated().map {
        InstanceRecord(id: "\(pool.name)-\($0)", pool: pool.name, host: $1.host, port: $1.port, slots: pool.slots)
      }
    let table = RoutingTable(pools: [pool], routes: routes, instances: records, apiKeys: apiKeys)
    for inbox in engine.inboxes { inbox.replace(table: table) }
    access = try accessLog.map { [engine, log] path in
      try AccessLog(.file(path), workers: workers, labels: engine.labels, log: log)
    }
    engine.start(coordinator: coordinator?(engine.inboxes) ?? NoSlots(engine.inboxes), log: log, accessLog: access)
  }

  func connect(from source: String? = nil) -> Peer { Peer(connectingTo: engine.addresses[0], from: source) }
  /// Puts another table in force: the worker takes it before anything that comes later.
  func replace(_ table: RoutingTable) { for inbox in engine.inboxes { inbox.replace(table: table) } }
  func connectTLS(caFile: String) throws -> Peer {
    let peer = Peer(connectingTo: engine.tlsAddresses[0])
    try peer.startTLS(caFile: caFile)
    return peer
  }

  func value(_ counter: Counter) -> Int { engine.metrics.reduce(0) { $0 + Int($1.value(counter)) } }
  func value(_ reason: CloseReason) -> Int { engine.metrics.reduce(0) { $0 + Int($1.value(reason)) } }

  func drain(milliseconds: Int = 0) {
    guard !joined else { return }
    joined = true
    engine.drain(milliseconds: milliseconds)
    engine.join()
  }

  deinit { drain() }
}

/// Waits for a condition, a minute at most: the machine may be busy with other tests.
func eventually(_ condition: () -> Bool) -> Bool {
  let deadline = Clock.monotonicMilliseconds + 60_000
  while Clock.monotonicMilliseconds < deadline {
    if condition() { return true }
    usleep(2_000)
  }
  return condition()
}
