// An engine on loopback in front of instances that a test scripts, and blocking clients with a time limit for it.
import Engine
import Glibc
import Observability
import Posix
import ProxyMachine
import Routing
import TLS

/// A blocking socket whose reads and writes give up after ten seconds, so that a fault fails a test instead of hanging it.
final class Peer: @unchecked Sendable {
  let fd: Int32
  private var tls: TLSClientStream?
  private var buffered: [UInt8] = []

  init(fd: Int32) {
    self.fd = fd
    _ = fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK)
    var limit = timeval(tv_sec: 10, tv_usec: 0)
    for option in [SO_RCVTIMEO, SO_SNDTIMEO] {
      _ = unsafe setsockopt(fd, SOL_SOCKET, option, &limit, socklen_t(MemoryLayout<timeval>.size))
    }
  }

  convenience init(connectingTo address: SocketAddress) {
    let (fd, _) = Socket.connect(address)
    precondition(fd >= 0, "the test's peer listens")
    var entry = pollfd(fd: Int32(fd), events: Int16(POLLOUT), revents: 0)
    _ = unsafe poll(&entry, 1, 10_000)
    self.init(fd: Int32(fd))
  }

  deinit {
    tls?.close()
    Socket.close(fd)
  }

  func startTLS(caFile: String) throws {
    _ = fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK)
    tls = try TLSClientStream(
      fileDescriptor: fd, serverName: "localhost", caFile: caFile, verify: true, timeoutMilliseconds: 10_000)
  }

  func send(_ text: String) { send(Array(text.utf8)) }

  /// Writes all; a broken connection ends it early, which the reader will notice.
  func send(_ bytes: [UInt8]) {
    var sent = 0
    while sent < bytes.count {
      let count = unsafe bytes.withUnsafeBytes { buffer in
        if let tls { return unsafe (try? tls.write(UnsafeRawBufferPointer(rebasing: buffer[sent...]))) ?? -1 }
        return unsafe Glibc.send(fd, buffer.baseAddress! + sent, bytes.count - sent, Int32(MSG_NOSIGNAL))
      }
      guard count > 0 else { return }
      sent += count
    }
  }

  func endOutput() { Socket.shutdownWrite(fd) }
  func reset() { Socket.resetOnClose(fd) }

  /// Some bytes; empty at the end; nil when the connection was reset or nothing came in time.
  func receive() -> [UInt8]? {
    if !buffered.isEmpty {
      defer { buffered = [] }
      return buffered
    }
    var piece = [UInt8](repeating: 0, count: 65_536)
    let count = unsafe piece.withUnsafeMutableBytes { buffer in
      if let tls { return unsafe (try? tls.read(into: buffer)) ?? -1 }
      return unsafe recv(fd, buffer.baseAddress!, buffer.count, 0)
    }
    return count < 0 ? nil : Array(piece.prefix(count))
  }

  /// Reads until the bytes end with or hold this text, and keeps what follows it.
  func receive(upTo text: String) -> String? {
    let wanted = Array(text.utf8)
    var bytes: [UInt8] = []
    while true {
      if let range = bytes.firstRange(of: wanted) {
        buffered = Array(bytes[range.upperBound...])
        return String(decoding: bytes[..<range.upperBound], as: UTF8.self)
      }
      guard let more = receive(), !more.isEmpty else { return nil }
      bytes += more
    }
  }

  func receive(count: Int) -> [UInt8]? {
    var bytes: [UInt8] = []
    while bytes.count < count {
      guard let more = receive(), !more.isEmpty else { return nil }
      bytes += more
    }
    buffered = Array(bytes[count...])
    return Array(bytes[..<count])
  }

  /// Everything up to the end; nil when the connection was reset.
  func receiveAll() -> String? {
    var bytes: [UInt8] = []
    while let more = receive() {
      if more.isEmpty { return String(decoding: bytes, as: UTF8.self) }
      bytes += more
    }
    return nil
  }

  /// Whether the connection ends, by FIN or reset, before anything else comes.
  func ends() -> Bool { receive()?.isEmpty ?? true }

  /// A response of known length: its head and its body.
  func response() -> (head: String, body: String)? {
    guard let head = receive(upTo: "\r\n\r\n") else { return nil }
    let field = head.split(separator: "\r\n").first { $0.lowercased().hasPrefix("content-length:") }
    let length = field.flatMap { Int($0.split(separator: ":")[1].filter { $0 != " " }) } ?? 0
    guard length > 0 else { return (head, "") }
    guard let body = receive(count: length) else { return nil }
    return (head, String(decoding: body, as: UTF8.self))
  }
}

/// An instance that does what a test says, connection by connection.
final class ScriptedInstance: Sendable {
  let address: SocketAddress
  private let listener: Int32

  init() {
    let fd = Socket.listen(SocketAddress("127.0.0.1:0")!, backlog: 128, sharesPort: false, defersAccept: false)
    precondition(fd >= 0, "loopback has free ports")
    listener = Int32(fd)
    address = Socket.localAddress(listener)
  }

  deinit { Socket.close(listener) }

  /// The next connection that the engine makes; nil when none comes in ten seconds.
  func accept(withinMilliseconds limit: Int32 = 10_000) -> Peer? {
    var entry = pollfd(fd: listener, events: Int16(POLLIN), revents: 0)
    guard unsafe poll(&entry, 1, limit) == 1 else { return nil }
    var peer = SocketAddress()
    let fd = Socket.accept(listener, from: &peer)
    return fd >= 0 ? Peer(fd: Int32(fd)) : nil
  }
}

/// Answers every slot request with "unavailable": the pools of these tests need no slots.
final class NoSlots: Coordinator {
  private let inboxes: [Mailbox]
  init(_ inboxes: [Mailbox]) { self.inboxes = inboxes }
  func submit(_ request: SlotRequest) {
    inboxes[request.worker].deliver(.refused(.unavailable), ticket: request.ticket)
  }
  func notify(_ notice: SlotNotice) {}
}

/// A running engine with one worker.
final class TestEngine {
  let engine: Engine
  let log: LogWriter
  let access: AccessLog?
  private var joined = false

  init(
    instances: [SocketAddress], pool: PoolRecord = PoolRecord(name: "web", kind: .http, slots: 0),
    routes: [RouteRecord] = [RouteRecord(id: "all", pool: "web")], limits: EngineLimits = EngineLimits(),
    splice: SpliceMode = .never, certificate: (certificate: String, key: String)? = nil,
    trustedProxies: [AddressRange] = [], accessLog: String? = nil
  ) throws {
    let loopback = SocketAddress("127.0.0.1:0")!
    let certificates = try certificate.map {
      Certificates(context: try TLSServerContext(certificateFile: $0.certificate, keyFile: $0.key))
    }
    var configuration = EngineConfiguration(
      listen: [loopback], tlsListen: certificates == nil ? [] : [loopback], certificates: certificates, workers: 1,
      limits: limits, splice: splice)
    configuration.trustedProxies = trustedProxies
    engine = try Engine(configuration)
    log = LogWriter(fileDescriptor: 2, level: .error)
    let records = instances.enumerated().map {
      InstanceRecord(id: "\(pool.name)-\($0)", pool: pool.name, host: $1.host, port: $1.port, slots: pool.slots)
    }
    let table = RoutingTable(pools: [pool], routes: routes, instances: records)
    for inbox in engine.inboxes { inbox.replace(table: table) }
    access = try accessLog.map { [engine, log] path in
      try AccessLog(.file(path), workers: 1, labels: engine.labels, log: log)
    }
    engine.start(coordinator: NoSlots(engine.inboxes), log: log, accessLog: access)
  }

  func connect() -> Peer { Peer(connectingTo: engine.addresses[0]) }
  func connectTLS(caFile: String) throws -> Peer {
    let peer = Peer(connectingTo: engine.tlsAddresses[0])
    try peer.startTLS(caFile: caFile)
    return peer
  }

  func value(_ counter: Counter) -> Int { Int(engine.metrics[0].value(counter)) }
  func value(_ reason: CloseReason) -> Int { Int(engine.metrics[0].value(reason)) }

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

extension Array where Element == UInt8 {
  func firstRange(of pattern: [UInt8]) -> Range<Int>? {
    guard pattern.count <= count else { return nil }
    for start in 0...(count - pattern.count) where self[start..<start + pattern.count].elementsEqual(pattern) {
      return start..<start + pattern.count
    }
    return nil
  }
}
