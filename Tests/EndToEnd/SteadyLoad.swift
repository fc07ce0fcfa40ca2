// A small server behind a replica, and a steady load of new connections in front of it that tells refused and reset ones
// from those that were served. The upgrade tests use both.
import Foundation
import Glibc
import Posix
import Synchronization
import TLS

/// Answers every request with `ok`; `/held` only when it is let go. A thread a connection: there are few.
final class SmallServer: Sendable {
  let port: Int
  private let listener: Int32
  private let isHeld = Atomic<Bool>(true)

  init() throws {
    let fd = Socket.listen(SocketAddress("127.0.0.1:0")!, backlog: 128, sharesPort: false, defersAccept: false)
    guard fd >= 0 else { throw Failure("no free port") }
    listener = Int32(fd)
    port = Socket.localAddress(listener).port
    let thread = Foundation.Thread { [self] in
      while true {
        _ = waits(listener, POLLIN, milliseconds: -1)
        var peer = SocketAddress()
        let fd = Socket.accept(listener, from: &peer)
        if fd >= 0 { Foundation.Thread.detachNewThread { self.serve(Int32(fd)) } }
      }
    }
    thread.start()
  }

  func letGo() { isHeld.store(false, ordering: .relaxed) }

  private func serve(_ fd: Int32) {
    defer { Socket.close(fd) }
    var text = ""
    var piece = [UInt8](repeating: 0, count: 4_096)
    while true {
      guard waits(fd, POLLIN, milliseconds: 60_000) else { return }
      let count = unsafe piece.withUnsafeMutableBytes { unsafe Socket.receive(fd, $0.baseAddress!, $0.count) }
      guard count > 0 else { return }
      text += String(decoding: piece.prefix(count), as: UTF8.self)
      while let end = text.range(of: "\r\n\r\n") {
        if text.hasPrefix("GET /held ") {
          while isHeld.load(ordering: .relaxed) { usleep(5_000) }
        }
        text = String(text[end.upperBound...])
        let answer = Array("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n".utf8)
        _ = unsafe answer.withUnsafeBytes { unsafe Socket.send(fd, $0.baseAddress!, $0.count) }
      }
    }
  }
}

/// Waits for events on one descriptor; false when the time is over.
func waits(_ fd: Int32, _ events: Int32, milliseconds: Int32) -> Bool {
  var entry = pollfd(fd: fd, events: Int16(events), revents: 0)
  return unsafe poll(&entry, 1, milliseconds) > 0
}

/// How a visitor speaks.
enum Security: Sendable {
  case plain
  /// Believes what this file says.
  case tls(authority: String)
  /// Believes everything, because certificates change meanwhile.
  case tlsUnverified
}

/// One request on a connection of its own, plain or in TLS; nil when it was answered with 200, else what happened.
/// - Parameter pauseMilliseconds: between the connection and the first byte, when the kernel has it and no process knows.
func visit(_ port: Int, _ security: Security, path: String = "/", seconds: Int = 20, pauseMilliseconds: UInt32 = 0)
  -> String?
{
  let (result, _) = Socket.connect(SocketAddress(host: "127.0.0.1", port: port)!)
  guard result >= 0 else { return "connect: \(Errno.text(result))" }
  let fd = Int32(result)
  defer { Socket.close(fd) }
  guard waits(fd, POLLOUT, milliseconds: Int32(seconds) * 1_000) else { return "connect: nothing" }
  let error = Socket.takeError(fd)
  guard error == 0 else { return "connect: \(Errno.text(error))" }
  if pauseMilliseconds > 0 { usleep(pauseMilliseconds * 1_000) }
  let request = Array("GET \(path) HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".utf8)
  var answer: [UInt8] = []
  var piece = [UInt8](repeating: 0, count: 4_096)
  let authority: String?
  let isTLS: Bool
  switch security {
  case .plain: (isTLS, authority) = (false, nil)
  case .tls(let file): (isTLS, authority) = (true, file)
  case .tlsUnverified: (isTLS, authority) = (true, nil)
  }
  if isTLS {
    do {
      let stream = try TLSClientStream(
        fileDescriptor: fd, serverName: "localhost", caFile: authority, verify: authority != nil,
        timeoutMilliseconds: seconds * 1_000)
      defer { stream.close() }
      _ = try unsafe request.withUnsafeBytes { unsafe try stream.write($0) }
      while true {
        let count = try unsafe piece.withUnsafeMutableBytes { unsafe try stream.read(into: $0) }
        if count == 0 { break }
        answer += piece.prefix(count)
      }
    } catch { return "TLS after \(answer.count) bytes: \(error)" }
  } else {
    guard unsafe request.withUnsafeBytes({ unsafe Socket.send(fd, $0.baseAddress!, $0.count) }) == request.count else {
      return "send failed"
    }
    while true {
      guard waits(fd, POLLIN, milliseconds: Int32(seconds) * 1_000) else { return "no answer" }
      let count = unsafe piece.withUnsafeMutableBytes { unsafe Socket.receive(fd, $0.baseAddress!, $0.count) }
      if count == 0 { break }
      guard count > 0 else { return "receive after \(answer.count) bytes: \(Errno.text(count))" }
      answer += piece.prefix(count)
    }
  }
  let text = String(decoding: answer, as: UTF8.self)
  return text.hasPrefix("HTTP/1.1 200 ") && text.hasSuffix("\r\n\r\nok\n") ? nil : "answer: \(text.prefix(120))"
}

/// A visit on a thread of its own: those that wait would take all threads from the tests' tasks.
final class Visit: Sendable {
  private let state = Mutex<(isOver: Bool, failure: String?)>((false, nil))

  init(_ port: Int, _ security: Security, path: String) {
    Foundation.Thread.detachNewThread { [self] in
      let failure = visit(port, security, path: path, seconds: 240)
      state.withLock { $0 = (true, failure) }
    }
  }

  /// nil when it was answered with 200, else what happened.
  func failure() async throws -> String? {
    try await eventually("the visit ends", within: 300) { self.state.withLock { $0.isOver } }
    return state.withLock { $0.failure }
  }
}

/// Threads that make one new connection after the other until they are stopped.
final class SteadyLoad: Sendable {
  private struct Tally {
    var plain = 0
    var tls = 0
    var failures: [String] = []
    var running = 0
  }
  private let tally = Mutex(Tally())
  private let isOver = Atomic<Bool>(false)

  /// Half of the threads send their first byte at once, half a while after the connection.
  init(plain: Int, tls: Int, _ security: Security) {
    for index in 0..<8 {
      let isTLS = index % 2 == 1
      let pause: UInt32 = index < 4 ? 0 : 40
      tally.withLock { $0.running += 1 }
      Foundation.Thread.detachNewThread { [self] in
        while !isOver.load(ordering: .relaxed) {
          let failure = visit(isTLS ? tls : plain, isTLS ? security : .plain, pauseMilliseconds: pause)
          tally.withLock { tally in
            if isTLS { tally.tls += 1 } else { tally.plain += 1 }
            if let failure { tally.failures.append((isTLS ? "tls: " : "plain: ") + failure) }
          }
        }
        tally.withLock { $0.running -= 1 }
      }
    }
  }

  /// How many connections were made so far, of the kind of which there are fewer.
  var served: Int { tally.withLock { min($0.plain, $0.tls) } }
  var failures: [String] { tally.withLock { $0.failures } }

  func stop() async throws -> (plain: Int, tls: Int, failures: [String]) {
    isOver.store(true, ordering: .relaxed)
    try await eventually("the load ends", within: 60) { self.tally.withLock { $0.running == 0 } }
    return tally.withLock { ($0.plain, $0.tls, $0.failures) }
  }
}
