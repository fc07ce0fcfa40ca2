// Both ends of the soak: a blocking connection with a buffer, and instances that answer, stall, cut and reset as the
// path of a request tells them. Plain and quick, because a hundred thousand requests pass through it.
import Foundation
import Glibc
import Posix
import Synchronization
import TLS

@safe final class SoakConnection: @unchecked Sendable {
  let fd: Int32
  private var tls: TLSClientStream?
  private let storage = UnsafeMutableRawPointer.allocate(byteCount: 65_536, alignment: 16)
  private var start = 0
  private var end = 0

  init(_ fd: Int32) {
    self.fd = fd
    _ = fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK)
    var limit = timeval(tv_sec: 60, tv_usec: 0)
    for option in [SO_RCVTIMEO, SO_SNDTIMEO] {
      _ = unsafe setsockopt(fd, SOL_SOCKET, option, &limit, socklen_t(MemoryLayout<timeval>.size))
    }
  }

  /// Connects to a port of this machine; nil when it does not answer.
  static func to(_ port: Int, tls: Bool) -> SoakConnection? {
    let (result, _) = Socket.connect(SocketAddress(host: "127.0.0.1", port: port)!)
    guard result >= 0 else { return nil }
    var entry = pollfd(fd: Int32(result), events: Int16(POLLOUT), revents: 0)
    guard unsafe poll(&entry, 1, 60_000) == 1, Socket.takeError(Int32(result)) == 0 else {
      Socket.close(Int32(result))
      return nil
    }
    let connection = SoakConnection(Int32(result))
    return !tls || connection.startTLS() ? connection : nil
  }

  private func startTLS() -> Bool {
    _ = fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK)
    tls = try? TLSClientStream(
      fileDescriptor: fd, serverName: "localhost", caFile: nil, verify: false, timeoutMilliseconds: 60_000)
    return tls != nil
  }

  deinit {
    tls?.close()
    Socket.close(fd)
    unsafe storage.deallocate()
  }

  func reset() {
    tls = nil
    Socket.resetOnClose(fd)
  }

  func send(_ text: String) -> Bool { send(Array(text.utf8)) }

  func send(_ bytes: [UInt8]) -> Bool {
    var sent = 0
    while sent < bytes.count {
      let count = unsafe bytes.withUnsafeBytes { buffer in
        if let tls { return unsafe (try? tls.write(UnsafeRawBufferPointer(rebasing: buffer[sent...]))) ?? -1 }
        return unsafe Glibc.send(fd, buffer.baseAddress! + sent, bytes.count - sent, Int32(MSG_NOSIGNAL))
      }
      guard count > 0 else { return false }
      sent += count
    }
    return true
  }

  /// More bytes into the buffer; false at the end, a reset or the limit.
  private func fill() -> Bool {
    if start == end { (start, end) = (0, 0) }
    if end == 65_536 {
      unsafe storage.copyMemory(from: storage + start, byteCount: end - start)
      (start, end) = (0, end - start)
    }
    let room = unsafe UnsafeMutableRawBufferPointer(start: storage + end, count: 65_536 - end)
    let count: Int
    if let tls {
      count = unsafe (try? tls.read(into: room)) ?? -1
    } else {
      count = unsafe recv(fd, room.baseAddress, room.count, 0)
    }
    guard count > 0 else { return false }
    end += count
    return true
  }

  /// The text up to and with an empty line, or with `line` up to a line's end.
  func text(line: Bool = false) -> String? {
    var looked = start
    while true {
      let bytes = unsafe UnsafeRawBufferPointer(start: storage, count: end)
      while looked < end {
        let isEnd =
          unsafe bytes[looked] == 10
          && (line || (looked >= start + 3 && bytes[looked - 2] == 10 && bytes[looked - 1] == 13))
        looked += 1
        if isEnd {
          let text = unsafe String(decoding: UnsafeRawBufferPointer(rebasing: bytes[start..<looked]), as: UTF8.self)
          start = looked
          return text
        }
      }
      let (before, offset) = (start, looked - start)
      guard end - before < 60_000, fill() else { return nil }
      looked = start + offset
    }
  }

  /// Reads and drops so many bytes.
  func skip(_ count: Int) -> Bool {
    var left = count
    while left > 0 {
      if start == end, !fill() { return false }
      let take = min(left, end - start)
      start += take
      left -= take
    }
    return true
  }

  /// Reads a chunked body and returns its length.
  func chunks() -> Int? {
    var total = 0
    while let line = text(line: true) {
      guard let size = Int(line.prefix { $0.isHexDigit }, radix: 16), skip(size == 0 ? 0 : size + 2) else { return nil }
      if size == 0 {
        while let trailer = text(line: true) { if trailer == "\r\n" { return total } }
        return nil
      }
      total += size
    }
    return nil
  }

  /// Reads until the peer ends.
  func drain() { while skip(1) { start = end } }

  /// The body that a head announces, as its length; nil when it is cut.
  func body(_ head: String) -> Int? {
    if head.contains("Transfer-Encoding: chunked") { return chunks() }
    guard let field = head.range(of: "Content-Length: ") else { return 0 }
    let count = Int(head[field.upperBound...].prefix { $0.isNumber }) ?? 0
    return skip(count) ? count : nil
  }
}

/// Answers on a thread for each connection.
final class SoakInstance: Sendable {
  static let bigCount = 1_048_576
  let port: Int
  private let listener: Int32
  private let isClosed = Atomic<Bool>(false)

  init() throws {
    let fd = Socket.listen(SocketAddress("127.0.0.1:0")!, backlog: 1_024, sharesPort: false, defersAccept: false)
    guard fd >= 0 else { throw Failure("loopback has no free port") }
    listener = Int32(fd)
    port = Socket.localAddress(listener).port
    Thread.detachNewThread { [self] in
      while !isClosed.load(ordering: .relaxed) {
        var entry = pollfd(fd: listener, events: Int16(POLLIN), revents: 0)
        guard unsafe poll(&entry, 1, 200) == 1 else { continue }
        var peer = SocketAddress()
        let fd = Socket.accept(listener, from: &peer)
        guard fd >= 0 else { continue }
        Thread.detachNewThread { Self.serve(SoakConnection(Int32(fd))) }
      }
      Socket.close(listener)
    }
  }

  func close() { isClosed.store(true, ordering: .relaxed) }

  private static let small = Array("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".utf8)
  private static let chunked = Array(
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x\r\n world\r\n0\r\nT: 1\r\n\r\n".utf8)
  private static let big =
    Array("HTTP/1.1 200 OK\r\nContent-Length: \(bigCount)\r\n\r\n".utf8) + [UInt8](repeating: 0x62, count: bigCount)
  private static let half = Array("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf".utf8)

  private static func serve(_ connection: SoakConnection) {
    while let head = connection.text() {
      let path = head.drop { $0 != "/" }.dropFirst()
      switch path.first {
      case "s": guard connection.send(small) else { return }
      case "c": guard connection.send(chunked) else { return }
      case "b": guard connection.send(big) else { return }
      case "e":
        guard let count = connection.body(head) else { return }
        guard connection.send("HTTP/1.1 200 OK\r\nContent-Length: \(count)\r\n\r\n") else { return }
        guard connection.send([UInt8](repeating: 0x65, count: count)) else { return }
      case "x":
        _ = connection.send(half)
        return
      case "r":
        _ = connection.send(half)
        return connection.reset()
      case "w": return tunnel(connection, path.dropFirst().first ?? "e")
      default: return
      }
    }
  }

  private static func tunnel(_ connection: SoakConnection, _ mode: Character) {
    guard
      connection.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    else { return }
    while let line = connection.text(line: true) {
      guard let count = Int(line.dropLast()), connection.skip(count) else { return }
      if mode == "x" { return }
      if mode == "r" { return connection.reset() }
      guard connection.send("\(count)\n"), connection.send([UInt8](repeating: 0x77, count: count)) else { return }
    }
  }
}
