// An engine on loopback in front of instances that a test scripts, and blocking clients with a time limit for it.
import Engine
import Glibc
import Observability
import Posix
import ProxyMachine
import Routing
import Synchronization
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

  convenience init(connectingTo address: SocketAddress, from source: String? = nil) {
    let fd: Int
    if let source {
      fd = Int(socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0))
      func call(_ host: String, _ port: Int, _ body: (Int32, UnsafePointer<sockaddr>, socklen_t) -> Int32) -> Int32 {
        var name = sockaddr_in()
        name.sin_family = sa_family_t(AF_INET)
        name.sin_port = UInt16(port).bigEndian
        _ = unsafe inet_pton(AF_INET, host, &name.sin_addr)
        return unsafe withUnsafePointer(to: &name) { pointer in
          unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            unsafe body(Int32(fd), $0, socklen_t(MemoryLayout<sockaddr_in>.size))
          }
        }
      }
      precondition(unsafe call(source, 0, Glibc.bind) == 0, "all of 127.0.0.0/8 is loopback's")
      precondition(unsafe call(address.host, address.port, Glibc.connect) == 0, "the test's peer listens")
    } else {
      fd = Socket.connect(address).0
    }
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

/// An instance that answers every request by a rule, each connection on a thread of its own, and counts them.
final class AnsweringInstance: Sendable {
  typealias Rule = @Sendable (_ head: String) -> String
  let address: SocketAddress
  private let listener: Int32
  private let acceptor: Thread
  private let counting: Counting
  final class Counting: Sendable { let requests = Atomic<Int>(0) }

  /// - Parameter rule: the whole response to a request's head; requests have no bodies that matter.
  init(_ rule: @escaping Rule) {
    let fd = Socket.listen(SocketAddress("127.0.0.1:0")!, backlog: 128, sharesPort: false, defersAccept: false)
    precondition(fd >= 0, "loopback has free ports")
    let listener = Int32(fd)
    self.listener = listener
    address = Socket.localAddress(listener)
    let counting = Counting()
    self.counting = counting
    acceptor = Thread.start("test-instance") {
      var entry = pollfd(fd: listener, events: Int16(POLLIN), revents: 0)
      while unsafe poll(&entry, 1, -1) == 1 {
        var peer = SocketAddress()
        let fd = Socket.accept(listener, from: &peer)
        if fd == Errno.again { continue }
        guard fd >= 0 else { return }
        let connection = Peer(fd: Int32(fd))
        _ = Thread.start("test-connection") {
          while let head = connection.receive(upTo: "\r\n\r\n") {
            counting.requests.add(1, ordering: .relaxed)
            connection.send(rule(head))
          }
        }
      }
    }
  }

  /// Answers every request with 200 and this text.
  convenience init(saying text: String) {
    self.init { _ in "HTTP/1.1 200 OK\r\nContent-Length: \(text.utf8.count)\r\n\r\n\(text)" }
  }

  var requests: Int { counting.requests.load(ordering: .relaxed) }

  /// Refuses connections from now on.
  func stop() { shutdown(listener, Int32(SHUT_RDWR)) }

  deinit {
    stop()
    acceptor.join()
    Socket.close(listener)
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
    trustedProxies: [AddressRange] = [], proxyProtocolFrom: [AddressRange] = [], accessLog: String? = nil,
    records: [InstanceRecord]? = nil, apiKeys: [KeyRecord] = [], requiresKeys: Bool = false,
    coordinator: (([Mailbox]) -> any Coordinator)? = nil
  ) throws {
    let loopback = SocketAddress("127.0.0.1:0")!
    let certificates = try certificate.map {
      Certificates(context: try TLSServerContext(certificateFile: $0.certificate, keyFile: $0.key))
    }
    var configuration = EngineConfiguration(
      listen: [loopback], tlsListen: certificates == nil ? [] : [loopback], certificates: certificates, workers: 1,
      limits: limits, splice: splice)
    configuration.trustedProxies = trustedProxies
    configuration.proxyProtocolFrom = proxyProtocolFrom
    configuration.requiresKeys = requiresKeys
    engine = try Engine(configuration)
    log = LogWriter(fileDescriptor: 2, level: .error)
    let records =
      records
      ?? instances.enumerated().map {
        InstanceRecord(id: "\(pool.name)-\($0)", pool: pool.name, host: $1.host, port: $1.port, slots: pool.slots)
      }
    let table = RoutingTable(pools: [pool], routes: routes, instances: records, apiKeys: apiKeys)
    for inbox in engine.inboxes { inbox.replace(table: table) }
    access = try accessLog.map { [engine, log] path in
      try AccessLog(.file(path), workers: 1, labels: engine.labels, log: log)
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
