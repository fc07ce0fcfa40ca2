// The admin port: /healthz, /readyz, /metrics and /routes, for probes, Prometheus and people. One thread, one connection
// at a time, each with a limit: nothing here may disturb the workers.
import Engine
import Glibc
import HTTPWire
import Observability
import Posix
import Synchronization

/// What the admin port answers with.
struct AdminAnswer: Sendable {
  var status: Int
  var contentType: String
  var body: String
}

final class AdminServer: Sendable {
  private let listener: Int32
  let address: SocketAddress
  private let answer: @Sendable (String) -> AdminAnswer
  private let ending = Doorbell()
  private let thread = Mutex<Thread?>(nil)
  /// A client gets this long for its request and its answer.
  private static let timeoutMilliseconds: Int32 = 2_000
  private static let requestBytes = 8_192

  /// Opens the port; throws a sentence when it is taken.
  /// - Parameter inherited: another process' listeners, which are the server's from now on: one for this address is used.
  init(
    _ address: SocketAddress, inherited: [HandoverListener] = [],
    answer: @escaping @Sendable (_ path: String) -> AdminAnswer
  ) throws(AdminError) {
    let known = inherited.first { $0.address.description == address.description }
    for other in inherited where other != known { Socket.close(other.descriptor) }
    let fd =
      known.map { Int($0.descriptor) }
      ?? Socket.listen(address, backlog: 64, sharesPort: false, defersAccept: false)
    guard fd >= 0 else {
      throw AdminError(description: "cannot listen on \(address) (--admin): \(Errno.text(fd))")
    }
    listener = Int32(fd)
    self.address = Socket.localAddress(Int32(fd))
    self.answer = answer
  }

  struct AdminError: Error, CustomStringConvertible { let description: String }

  /// What another process needs to answer here in this one's place.
  var handoverListener: HandoverListener { HandoverListener(kind: .admin, address: address, descriptor: listener) }

  func start() {
    let started = Thread.start("berth-admin") { [self] in
      while true {
        var entries = [listener, ending.descriptor].map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
        guard unsafe poll(&entries, 2, -1) > 0 else { continue }
        guard entries[1].revents == 0 else { return }
        var peer = SocketAddress()
        let fd = Socket.accept(listener, from: &peer)
        guard fd >= 0 else { continue }
        serve(Int32(fd))
        Socket.close(Int32(fd))
      }
    }
    thread.withLock { $0 = started }
  }

  /// Takes no more connections: another process has the port. Returns when the last one has its answer.
  func handOver() {
    ending.ring()
    thread.withLock { thread in
      thread?.join()
      thread = nil
    }
    Socket.close(listener)
  }

  private func wait(_ fd: Int32, _ events: Int32, _ milliseconds: Int32) -> Bool {
    var entry = pollfd(fd: fd, events: Int16(events), revents: 0)
    return unsafe poll(&entry, 1, milliseconds) > 0
  }

  private func serve(_ fd: Int32) {
    let deadline = Clock.monotonicMilliseconds + Int(Self.timeoutMilliseconds)
    var bytes: [UInt8] = []
    var head = Head()
    while bytes.count < Self.requestBytes {
      let left = Int32(max(0, deadline - Clock.monotonicMilliseconds))
      guard wait(fd, POLLIN, left) else { return }
      var piece = [UInt8](repeating: 0, count: 4_096)
      let count = unsafe piece.withUnsafeMutableBytes { unsafe Socket.receive(fd, $0.baseAddress!, $0.count) }
      guard count > 0 else { return }
      bytes += piece.prefix(count)
      switch HeadParser().parse(.request, bytes.span, into: &head) {
      case .needsMore: continue
      case .failed(let error):
        return send(
          fd, AdminAnswer(status: error.status, contentType: "text/plain", body: error.sentence + "\n"), deadline)
      case .complete:
        let path = String(decoding: bytes[head.path.lower..<head.path.upper], as: UTF8.self)
        guard head.isGet || head.isHead else {
          let refusal = AdminAnswer(status: 405, contentType: "text/plain", body: "Only GET is answered here.\n")
          return send(fd, refusal, deadline)
        }
        return send(fd, answer(path), deadline, withoutBody: head.isHead)
      }
    }
  }

  private func send(_ fd: Int32, _ answer: AdminAnswer, _ deadline: Int, withoutBody: Bool = false) {
    let phrase = [200: "OK", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"][answer.status]
    var bytes = Array(
      """
      HTTP/1.1 \(answer.status) \(phrase ?? "Bad Request")\r
      Content-Type: \(answer.contentType)\r
      Content-Length: \(answer.body.utf8.count)\r
      Connection: close\r
      \r

      """.utf8)
    if !withoutBody { bytes += Array(answer.body.utf8) }
    var sent = 0
    while sent < bytes.count {
      let left = Int32(max(0, deadline - Clock.monotonicMilliseconds))
      guard wait(fd, POLLOUT, left) else { return }
      let count = unsafe bytes.withUnsafeBytes { unsafe Socket.send(fd, $0.baseAddress! + sent, $0.count - sent) }
      guard count >= 0 || count == Errno.again else { return }
      sent += max(count, 0)
    }
    Socket.shutdownWrite(fd)
    // The client closes first, so that a reset does not overtake the answer.
    while wait(fd, POLLIN, Int32(max(0, deadline - Clock.monotonicMilliseconds))) {
      var piece = [UInt8](repeating: 0, count: 1_024)
      let count = unsafe piece.withUnsafeMutableBytes { unsafe Socket.receive(fd, $0.baseAddress!, $0.count) }
      if count <= 0 { return }
    }
  }
}
