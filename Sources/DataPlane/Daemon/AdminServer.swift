// The admin port: pages for probes, Prometheus and people (AdminPages.swift). One thread serves a bounded number of clients
// at a time, each with limits of its own, so that a slow one holds up nobody; workers are not disturbed by any of them.
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
  private let answer: @Sendable (_ path: String, _ query: String) -> AdminAnswer
  /// Further ones wait in the kernel's backlog for one of these to end.
  static let clients = 32

  private let ending = Doorbell()
  private let thread = Mutex<Thread?>(nil)

  /// Opens the port; throws a sentence when it is taken.
  /// - Parameter inherited: another process' listeners, which are the server's from now on: one for this address is used.
  init(
    _ address: SocketAddress, inherited: [HandoverListener] = [],
    answer: @escaping @Sendable (_ path: String, _ query: String) -> AdminAnswer
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
    self.address = address.isUnix ? address : Socket.localAddress(Int32(fd))
    self.answer = answer
  }

  struct AdminError: Error, CustomStringConvertible { let description: String }

  /// What another process needs to answer here in this one's place.
  var handoverListener: HandoverListener { HandoverListener(kind: .admin, address: address, descriptor: listener) }

  func start() {
    let started = Thread.start("berth-admin") { [self] in
      var visitors: [Visitor] = []
      var isEnding = false
      while !isEnding || !visitors.isEmpty { turn(&visitors, &isEnding) }
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

  /// Waits for the listener, while there is room, and for every client; then goes on with those that something came for.
  private func turn(_ visitors: inout [Visitor], _ isEnding: inout Bool) {
    var entries = visitors.map { pollfd(fd: $0.fd, events: Int16($0.events), revents: 0) }
    let hasRoom = visitors.count < Self.clients && !isEnding
    if !isEnding { entries.append(pollfd(fd: ending.descriptor, events: Int16(POLLIN), revents: 0)) }
    if hasRoom { entries.append(pollfd(fd: listener, events: Int16(POLLIN), revents: 0)) }
    let now = Clock.monotonicMilliseconds
    let wait = visitors.map(\.deadline).min().map { Int32(clamping: max($0 - now, 0)) } ?? -1
    let ready = unsafe poll(&entries, nfds_t(entries.count), wait)
    guard ready >= 0 else { return }
    let after = Clock.monotonicMilliseconds
    if !isEnding, entries[visitors.count].revents != 0 { isEnding = true }
    for index in visitors.indices.reversed() {
      if entries[index].revents != 0 { visitors[index].advance(answer) }
      guard visitors[index].isDone || visitors[index].deadline <= after else { continue }
      Socket.close(visitors[index].fd)
      visitors.remove(at: index)
    }
    guard hasRoom, !isEnding, entries[entries.count - 1].revents != 0 else { return }
    var peer = SocketAddress()
    let fd = Socket.accept(listener, from: &peer)
    if fd >= 0 { visitors.append(Visitor(fd: Int32(fd))) }
    // No descriptor is free: its workers need the next one more than a probe does.
    if fd == Errno.tooManyFiles || fd == Errno.tooManyFilesInSystem { usleep(100_000) }
  }
}

/// One client of the admin port: it has a moment for its request and its answer.
private struct Visitor {
  let fd: Int32
  let deadline = Clock.monotonicMilliseconds + 2_000
  private(set) var isDone = false
  private var request: [UInt8] = []
  private var answer: [UInt8] = []
  private var sent = 0
  private var phase = Phase.reading

  private enum Phase {
    case reading, writing
    /// The client closes first, so that a reset does not overtake the answer.
    case lingering
  }

  private static let requestBytes = 8_192

  init(fd: Int32) { self.fd = fd }

  var events: Int32 { phase == .writing ? POLLOUT : POLLIN }

  mutating func advance(_ page: (_ path: String, _ query: String) -> AdminAnswer) {
    switch phase {
    case .reading: read(page)
    case .writing: write()
    case .lingering: linger()
    }
  }

  private mutating func read(_ page: (_ path: String, _ query: String) -> AdminAnswer) {
    var piece = [UInt8](repeating: 0, count: 4_096)
    let count = unsafe piece.withUnsafeMutableBytes { unsafe Socket.receive(fd, $0.baseAddress!, $0.count) }
    if count == Errno.again { return }
    guard count > 0 else {
      isDone = true
      return
    }
    request += piece.prefix(count)
    var head = Head()
    switch HeadParser().parse(.request, request.span, into: &head) {
    case .needsMore:
      if request.count >= Self.requestBytes { isDone = true }
    case .failed(let error):
      begin(AdminAnswer(status: error.status, contentType: "text/plain", body: error.sentence + "\n"))
    case .complete:
      guard head.isGet || head.isHead else {
        return begin(AdminAnswer(status: 405, contentType: "text/plain", body: "Only GET is answered here.\n"))
      }
      func text(_ slice: Slice) -> String { String(decoding: request[slice.lower..<slice.upper], as: UTF8.self) }
      begin(page(text(head.path), text(head.query)), withoutBody: head.isHead)
    }
  }

  private mutating func begin(_ page: AdminAnswer, withoutBody: Bool = false) {
    let phrase = [200: "OK", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"][page.status]
    answer = Array(
      """
      HTTP/1.1 \(page.status) \(phrase ?? "Bad Request")\r
      Content-Type: \(page.contentType)\r
      Content-Length: \(page.body.utf8.count)\r
      Connection: close\r
      \r

      """.utf8)
    if !withoutBody { answer += Array(page.body.utf8) }
    phase = .writing
    write()
  }

  private mutating func write() {
    while sent < answer.count {
      let count = unsafe answer.withUnsafeBytes { unsafe Socket.send(fd, $0.baseAddress! + sent, $0.count - sent) }
      if count == Errno.again { return }
      guard count >= 0 else {
        isDone = true
        return
      }
      sent += count
    }
    answer = []
    Socket.shutdownWrite(fd)
    phase = .lingering
  }

  private mutating func linger() {
    var piece = [UInt8](repeating: 0, count: 1_024)
    let count = unsafe piece.withUnsafeMutableBytes { unsafe Socket.receive(fd, $0.baseAddress!, $0.count) }
    if count <= 0, count != Errno.again { isDone = true }
  }
}
