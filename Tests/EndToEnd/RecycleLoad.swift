// Clients of the recycling tests: each makes one request after the other at a steady pace, on a kept connection or on a new
// one each time, and tells everything that was not answered as it should be.
import Foundation
import Glibc
import Posix
import Synchronization

final class PacedLoad: Sendable {
  private struct Tally {
    var served = 0
    var failures: [String] = []
    var running = 0
  }
  private let tally = Mutex(Tally())
  private let isOver = Atomic<Bool>(false)
  let clients: Int
  /// A client begins no request sooner than this after its last one.
  let pauseMilliseconds: Int

  /// The most requests that can begin in a second.
  var requestsPerSecond: Double { Double(clients) * 1_000 / Double(pauseMilliseconds) }

  /// Of four clients, two send POSTs on kept connections, one GETs that take a while, one a POST on a new connection each;
  /// or all of them send GETs that take a while.
  init(port: Int, path: String, clients: Int, pauseMilliseconds: Int, isSlow: Bool = false) {
    self.clients = clients
    self.pauseMilliseconds = pauseMilliseconds
    for index in 0..<clients {
      tally.withLock { $0.running += 1 }
      Foundation.Thread.detachNewThread { [self] in
        run(port, path, kind: isSlow ? 2 : index % 4)
        tally.withLock { $0.running -= 1 }
      }
    }
  }

  var served: Int { tally.withLock { $0.served } }
  var failures: [String] { tally.withLock { $0.failures } }

  func stop() async throws {
    isOver.store(true, ordering: .relaxed)
    try await eventually("the load ends", within: 60) { self.tally.withLock { $0.running == 0 } }
  }

  private func run(_ port: Int, _ path: String, kind: Int) {
    var client: RequestClient?
    var number = 0
    while !isOver.load(ordering: .relaxed) {
      let began = Clock.monotonicMilliseconds
      number += 1
      if client == nil || kind == 3 { client = RequestClient(port) }
      let failure =
        kind == 2
        ? client!.request("GET", path + "/slow", body: "") : client!.request("POST", path, body: "number \(number)")
      tally.withLock { tally in
        tally.served += 1
        if let failure { tally.failures.append("\(path) kind \(kind) request \(number): \(failure)") }
      }
      if failure != nil { client = nil }
      let left = pauseMilliseconds - (Clock.monotonicMilliseconds - began)
      if left > 0 { usleep(UInt32(left) * 1_000) }
    }
  }
}

/// A blocking client of one connection.
private final class RequestClient {
  private let fd: Int32
  private let problem: String?
  private static let patience: Int32 = 20_000

  init(_ port: Int) {
    let (result, _) = Socket.connect(SocketAddress(host: "127.0.0.1", port: port)!)
    guard result >= 0 else {
      (fd, problem) = (-1, "connect: \(Errno.text(result))")
      return
    }
    fd = Int32(result)
    guard waits(fd, POLLOUT, milliseconds: Self.patience) else {
      problem = "connect: nothing"
      return
    }
    let error = Socket.takeError(fd)
    problem = error == 0 ? nil : "connect: \(Errno.text(error))"
  }

  deinit { if fd >= 0 { Socket.close(fd) } }

  /// nil when it was answered with 200 and the body that the instance gives for this one, else what happened.
  func request(_ method: String, _ path: String, body: String) -> String? {
    if let problem { return problem }
    let text = "\(method) \(path) HTTP/1.1\r\nHost: localhost\r\nContent-Length: \(body.utf8.count)\r\n\r\n\(body)"
    let bytes = Array(text.utf8)
    let sent = unsafe bytes.withUnsafeBytes { unsafe Socket.send(fd, $0.baseAddress!, $0.count) }
    guard sent == bytes.count else { return "send: \(Errno.text(sent))" }
    let wanted = "\r\n\r\nserved \(body)"
    var answer: [UInt8] = []
    var piece = [UInt8](repeating: 0, count: 4_096)
    while true {
      guard waits(fd, POLLIN, milliseconds: Self.patience) else { return "no answer" }
      let count = unsafe piece.withUnsafeMutableBytes { unsafe Socket.receive(fd, $0.baseAddress!, $0.count) }
      if count == Errno.again { continue }
      guard count > 0 else {
        return count == 0
          ? "the end after \(answer.count) bytes" : "receive after \(answer.count) bytes: \(Errno.text(count))"
      }
      answer += piece.prefix(count)
      let text = String(decoding: answer, as: UTF8.self)
      if !text.hasPrefix("HTTP/1.1 200 "), answer.count >= 13 { return "answer: \(text.prefix(120))" }
      if text.hasSuffix(wanted) { return nil }
    }
  }
}
