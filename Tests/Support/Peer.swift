// A blocking client, or the far end of one, with a time limit for every step.
import Glibc
package import Posix
import TLS

/// A blocking socket whose reads and writes give up after half a minute, so that a fault fails a test instead of hanging it.
package final class Peer: @unchecked Sendable {
  package let fd: Int32
  private var tls: TLSClientStream?
  private var buffered: [UInt8] = []
  private let seconds: Int
  /// Nothing had come in time when ``receive()`` gave nil.
  private var wasLate = false

  package init(fd: Int32, seconds: Int = 30) {
    self.fd = fd
    self.seconds = seconds
    _ = fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK)
    var limit = timeval(tv_sec: seconds, tv_usec: 0)
    for option in [SO_RCVTIMEO, SO_SNDTIMEO] {
      _ = unsafe setsockopt(fd, SOL_SOCKET, option, &limit, socklen_t(MemoryLayout<timeval>.size))
    }
  }

  package convenience init(connectingTo address: SocketAddress, from source: String? = nil, seconds: Int = 30) {
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
    _ = unsafe poll(&entry, 1, Int32(seconds) * 1_000)
    self.init(fd: Int32(fd), seconds: seconds)
  }

  deinit {
    tls?.close()
    Socket.close(fd)
  }

  package func startTLS(caFile: String) throws {
    _ = fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK)
    tls = try TLSClientStream(
      fileDescriptor: fd, serverName: "localhost", caFile: caFile, verify: true, timeoutMilliseconds: seconds * 1_000)
  }

  package func send(_ text: String) { send(Array(text.utf8)) }

  /// Writes all; a broken connection ends it early, which the reader will notice.
  package func send(_ bytes: [UInt8]) {
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

  package func endOutput() { Socket.shutdownWrite(fd) }
  package func reset() { Socket.resetOnClose(fd) }

  /// Some bytes; empty at the end; nil when the connection was reset or nothing came in time.
  package func receive() -> [UInt8]? {
    if !buffered.isEmpty {
      defer { buffered = [] }
      return buffered
    }
    var piece = [UInt8](repeating: 0, count: 65_536)
    let count = unsafe piece.withUnsafeMutableBytes { buffer in
      guard let tls else {
        let count = unsafe recv(fd, buffer.baseAddress!, buffer.count, 0)
        wasLate = count < 0 && errno == EAGAIN
        return count
      }
      do throws(TLSError) {
        return unsafe try tls.read(into: buffer)
      } catch {
        wasLate = error.kind == .timedOut
        return -1
      }
    }
    return count < 0 ? nil : Array(piece.prefix(count))
  }

  /// Reads until the bytes end with or hold this text, and keeps what follows it.
  package func receive(upTo text: String) -> String? {
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

  package func receive(count: Int) -> [UInt8]? {
    var bytes: [UInt8] = []
    while bytes.count < count {
      guard let more = receive(), !more.isEmpty else { return nil }
      bytes += more
    }
    buffered = Array(bytes[count...])
    return Array(bytes[..<count])
  }

  /// Everything up to the end; nil when the connection was reset.
  package func receiveAll() -> String? {
    var bytes: [UInt8] = []
    while let more = receive() {
      if more.isEmpty { return String(decoding: bytes, as: UTF8.self) }
      bytes += more
    }
    return nil
  }

  /// Whether the connection ends, by FIN or reset, before anything else comes and before the time is over.
  package func ends() -> Bool {
    guard let bytes = receive() else { return !wasLate }
    return bytes.isEmpty
  }

  /// A response of known length: its head and its body.
  package func response() -> (head: String, body: String)? {
    guard let head = receive(upTo: "\r\n\r\n") else { return nil }
    let field = head.split(separator: "\r\n").first { $0.lowercased().hasPrefix("content-length:") }
    let length = field.flatMap { Int($0.split(separator: ":")[1].filter { $0 != " " }) } ?? 0
    guard length > 0 else { return (head, "") }
    guard let body = receive(count: length) else { return nil }
    return (head, String(decoding: body, as: UTF8.self))
  }
}

extension Array where Element == UInt8 {
  package func firstRange(of pattern: [UInt8]) -> Range<Int>? {
    guard pattern.count <= count else { return nil }
    for start in 0...(count - pattern.count) where self[start..<start + pattern.count].elementsEqual(pattern) {
      return start..<start + pattern.count
    }
    return nil
  }
}
