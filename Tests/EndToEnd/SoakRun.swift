// The clients of the soak: threads that draw what to do next from a seed, and check every answer that they do not abort.
import Foundation
import Glibc
import Posix
import Synchronization
import TestSupport

final class SoakRun: Sendable {
  private let port: Int
  private let tlsPort: Int
  private let requests: Int
  private let tunnels: Int
  private let requestCount = Atomic<Int>(0)
  private let tunnelCount = Atomic<Int>(0)
  private let failed = Mutex<[String]>([])

  init(port: Int, tlsPort: Int, requests: Int, tunnels: Int) {
    (self.port, self.tlsPort, self.requests, self.tunnels) = (port, tlsPort, requests, tunnels)
  }

  var done: Int { requestCount.load(ordering: .relaxed) }
  var tunnelsDone: Int { tunnelCount.load(ordering: .relaxed) }
  var failures: [String] { failed.withLock { Array($0.prefix(10)) } }

  /// Twelve threads of requests, every third with TLS, and four of tunnels.
  func go(seed: UInt64) throws {
    let threads = (0..<16).map { index in
      TestThread { [self] in
        var random = SplitMix64(seed: seed &+ UInt64(index))
        if index < 12 { requestLoop(isTLS: index % 3 == 0, &random) } else { tunnelLoop(isTLS: index == 12, &random) }
      }
    }
    for thread in threads { try thread.join() }
  }

  private func check(_ holds: Bool, _ what: @autoclosure () -> String) {
    if !holds { failed.withLock { $0.append(what()) } }
  }

  // MARK: Requests

  private static func get(_ path: String) -> String { "GET /\(path) HTTP/1.1\r\nHost: soak\r\n\r\n" }

  private func requestLoop(isTLS: Bool, _ random: inout SplitMix64) {
    var kept: SoakConnection?
    while done < requests {
      guard let connection = kept ?? SoakConnection.to(isTLS ? tlsPort : port, tls: isTLS) else {
        return check(false, "no connection")
      }
      kept = nil
      var keeps = true
      switch Int.random(in: 0..<1_000, using: &random) {
      case ..<700: keeps = pipelined(connection, Int.random(in: 1...16, using: &random), &random)
      case ..<830: keeps = posted(connection, Int.random(in: 0...3_000, using: &random), chunked: false)
      case ..<950: keeps = posted(connection, Int.random(in: 1...3_000, using: &random), chunked: true)
      case ..<955: keeps = posted(connection, 300_000, chunked: Bool.random(using: &random))
      case ..<962: keeps = big(connection)
      default:
        aborted(connection, &random)
        keeps = false
      }
      // Some connections end in order between two requests.
      if keeps, Int.random(in: 0..<100, using: &random) > 0 { kept = connection }
    }
  }

  private func pipelined(_ connection: SoakConnection, _ count: Int, _ random: inout SplitMix64) -> Bool {
    let areChunked = (0..<count).map { _ in Int.random(in: 0..<4, using: &random) == 0 }
    guard connection.send(areChunked.map { Self.get($0 ? "c" : "s") }.joined()) else {
      check(false, "a pipeline cannot be sent")
      return false
    }
    for isChunked in areChunked {
      requestCount.add(1, ordering: .relaxed)
      let head = connection.text()
      let body = head.flatMap { connection.body($0) }
      guard head?.hasPrefix("HTTP/1.1 200 ") == true, body == (isChunked ? 11 : 2) else {
        check(false, "pipelined: \(head ?? "nothing") \(body ?? -1)")
        return false
      }
    }
    return true
  }

  private func posted(_ connection: SoakConnection, _ count: Int, chunked: Bool) -> Bool {
    requestCount.add(1, ordering: .relaxed)
    let framing = chunked ? "Transfer-Encoding: chunked" : "Content-Length: \(count)"
    var bytes = Array("POST /e HTTP/1.1\r\nHost: soak\r\n\(framing)\r\n\r\n".utf8)
    let body = [UInt8](repeating: 0x70, count: count)
    bytes += chunked ? Array("\(String(count, radix: 16))\r\n".utf8) + body + Array("\r\n0\r\n\r\n".utf8) : body
    let head = connection.send(bytes) ? connection.text() : nil
    let length = head.flatMap { connection.body($0) }
    check(length == count, "posted \(count): \(head ?? "nothing") \(length ?? -1)")
    return length == count
  }

  private func big(_ connection: SoakConnection) -> Bool {
    requestCount.add(1, ordering: .relaxed)
    let head = connection.send(Self.get("b")) ? connection.text() : nil
    let length = head.flatMap { connection.body($0) }
    check(length == SoakInstance.bigCount, "big: \(head ?? "nothing") \(length ?? -1)")
    return length == SoakInstance.bigCount
  }

  /// Somebody does not end in order; what comes is not looked at but for a part that passes for a whole.
  private func aborted(_ connection: SoakConnection, _ random: inout SplitMix64) {
    requestCount.add(1, ordering: .relaxed)
    switch Int.random(in: 0..<8, using: &random) {
    case 0, 1:
      guard connection.send(Self.get(Bool.random(using: &random) ? "x" : "r")), let head = connection.text() else {
        return
      }
      check(connection.body(head) == nil || head.hasPrefix("HTTP/1.1 502 "), "a cut answer passes for a whole one")
    case 2:
      _ = connection.send(Self.get("b"))
      _ = connection.skip(Int.random(in: 1...200_000, using: &random))
      if Bool.random(using: &random) { connection.reset() }
    case 3:
      _ = connection.send("POST /e HTTP/1.1\r\nHost: soak\r\nContent-Length: 100000\r\n\r\nsome")
      if Bool.random(using: &random) { connection.reset() }
    case 4:
      _ = connection.send("POST /e HTTP/1.1\r\nHost: soak\r\nTransfer-Encoding: chunked\r\n\r\nFFFF\r\nsome")
      connection.reset()
    case 5: _ = connection.send("GET /s HTTP/1.1\r\nHo")
    case 6:
      _ = connection.send("POST /s HTTP/1.1\r\nHost: soak\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx")
      if let head = connection.text() { check(head.hasPrefix("HTTP/1.1 400 "), head) }
    default:
      _ = connection.send(Self.get("s") + Self.get("b"))
      connection.reset()
    }
  }

  // MARK: Tunnels

  private func tunnelLoop(isTLS: Bool, _ random: inout SplitMix64) {
    var open: [SoakConnection] = []
    while tunnelsDone < tunnels {
      let mode = ["e", "e", "e", "x", "r"].randomElement(using: &random)!
      tunnelCount.add(1, ordering: .relaxed)
      guard let tunnel = begin("w\(mode)", isTLS: isTLS) else {
        check(false, "a tunnel does not begin")
        continue
      }
      if mode == "e" {
        for _ in 0..<Int.random(in: 0...3, using: &random) {
          let count = Int.random(in: 0...20_000, using: &random)
          check(echoes(tunnel, count), "a tunnel does not echo")
        }
        if Int.random(in: 0..<20, using: &random) == 0 { check(echoes(tunnel, 2_000_000), "a long echo") }
      } else {
        // The instance ends it in the middle of a message.
        _ = tunnel.send("5\nhello") && tunnel.send([UInt8](repeating: 1, count: 50_000))
        tunnel.drain()
      }
      open.append(tunnel)
      if open.count > 25 { end(open.remove(at: Int.random(in: 0..<open.count, using: &random)), &random) }
    }
    while let tunnel = open.popLast() { end(tunnel, &random) }
  }

  private func begin(_ path: String, isTLS: Bool) -> SoakConnection? {
    guard let tunnel = SoakConnection.to(isTLS ? tlsPort : port, tls: isTLS),
      tunnel.send("GET /\(path) HTTP/1.1\r\nHost: soak\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
      tunnel.text()?.hasPrefix("HTTP/1.1 101 ") == true
    else { return nil }
    return tunnel
  }

  private func echoes(_ tunnel: SoakConnection, _ count: Int) -> Bool {
    tunnel.send("\(count)\n") && tunnel.send([UInt8](repeating: 0x74, count: count))
      && tunnel.text(line: true) == "\(count)\n" && tunnel.skip(count)
  }

  private func end(_ tunnel: SoakConnection, _ random: inout SplitMix64) {
    switch Int.random(in: 0..<4, using: &random) {
    case 0: tunnel.reset()
    case 1:
      // In the middle of a long message.
      _ = tunnel.send("1000000\n") && tunnel.send([UInt8](repeating: 1, count: 300_000))
      if Bool.random(using: &random) { tunnel.reset() }
    case 2:
      Socket.shutdownWrite(tunnel.fd)
      tunnel.drain()
    default: break
    }
  }

  /// Whether two million bytes come back through a new tunnel.
  func longTunnel() -> Bool {
    guard let tunnel = begin("we", isTLS: false) else { return false }
    return echoes(tunnel, 2_000_000)
  }
}
