// Questions that `berth up` asks on this machine: is a port free, does Redis answer, what does a daemon say over HTTP.
// Each is bounded by a timeout of its own; no answer is a nil, because all of them are asked again.
internal import Glibc
internal import JSON

enum Probe {
  /// Long enough for a busy machine, short enough that Ctrl-C is noticed meanwhile.
  static let timeoutMilliseconds = 1_000
  static let longestAnswer = 4 << 20

  /// Binds the port as a plain server would, without SO_REUSEPORT, under which two servers could share it unnoticed;
  /// with SO_REUSEADDR, as connections of an earlier run may still be in TIME_WAIT. nil = it is free.
  static func isTaken(_ port: ListeningPort) throws(LaunchError) -> Int32? {
    var address = try SocketAddress(host: port.host, port: port.port)
    let fd = socket(address.family, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    guard fd >= 0 else { throw LaunchError("cannot make a socket: \(System.message(errno))") }
    defer { close(fd) }
    var yes: Int32 = 1
    unsafe setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, socklen_t(MemoryLayout<Int32>.size))
    guard unsafe address.withPointer({ unsafe bind(fd, $0, $1) }) == 0, listen(fd, 1) == 0 else { return errno }
    return nil
  }

  /// Whether the Redis behind a unix socket has loaded its data and answers.
  static func redisAnswers(socket path: String) -> Bool {
    guard var address = try? SocketAddress(unixPath: path) else { return false }
    let answer = exchange(&address, request: "PING\r\n") { $0.contains(UInt8(ascii: "\n")) }
    return answer.map { $0.starts(with: "+PONG".utf8) } ?? false
  }

  struct Answer {
    let status: Int
    let body: [UInt8]
    var json: JSON? { try? JSON(parsing: body) }
  }

  static func get(host: String, port: Int, path: String) -> Answer? {
    let host = ["0.0.0.0": "127.0.0.1", "::": "::1"][host] ?? host
    guard var address = try? SocketAddress(host: host, port: port) else { return nil }
    // HTTP/1.0, so that the body is not chunked and ends with the connection.
    let request = "GET \(path) HTTP/1.0\r\nHost: \(LaunchSettings.urlHost(host)):\(port)\r\nAccept: application/json\r\n\r\n"
    guard let answer = exchange(&address, request: request, until: { _ in false }) else { return nil }
    let text = answer.prefix(65_536)
    guard text.starts(with: "HTTP/1.".utf8), let end = headEnd(answer) else { return nil }
    let words = String(decoding: answer[..<end], as: UTF8.self).split(separator: " ", maxSplits: 2)
    guard words.count > 1, let status = Int(words[1]) else { return nil }
    return Answer(status: status, body: Array(answer[end...]))
  }

  private static func headEnd(_ bytes: [UInt8]) -> Int? {
    let mark = Array("\r\n\r\n".utf8)
    guard bytes.count >= 4 else { return nil }
    return (0...(bytes.count - 4)).first { Array(bytes[$0..<$0 + 4]) == mark }.map { $0 + 4 }
  }

  /// Sends a request and reads until the other side closes or `done` says that it is enough.
  private static func exchange(
    _ address: inout SocketAddress, request: String, until done: ([UInt8]) -> Bool
  ) -> [UInt8]? {
    let fd = socket(address.family, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    guard fd >= 0 else { return nil }
    defer { close(fd) }
    var limit = timeval(tv_sec: timeoutMilliseconds / 1000, tv_usec: (timeoutMilliseconds % 1000) * 1000)
    let size = socklen_t(MemoryLayout<timeval>.size)
    unsafe setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, size)
    unsafe setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, size)
    guard unsafe address.withPointer({ unsafe connect(fd, $0, $1) }) == 0, System.write(fd, Array(request.utf8)) else {
      return nil
    }
    var answer: [UInt8] = []
    let deadline = System.now() + timeoutMilliseconds
    while !done(answer), answer.count < longestAnswer, System.now() < deadline {
      switch System.read(fd) {
      case .bytes(let bytes): answer += bytes
      case .end: return answer
      case .nothingYet: return nil
      }
    }
    return answer
  }
}

/// An address as the socket calls want it.
struct SocketAddress {
  let family: Int32
  private var storage = sockaddr_storage()
  private let length: socklen_t

  /// `host` is an IPv4 or IPv6 literal, or `localhost`.
  init(host: String, port: Int) throws(LaunchError) {
    let host = host == "localhost" ? "127.0.0.1" : host
    var four = sockaddr_in()
    var six = sockaddr_in6()
    if unsafe inet_pton(AF_INET, host, &four.sin_addr) == 1 {
      four.sin_family = sa_family_t(AF_INET)
      four.sin_port = in_port_t(port).bigEndian
      family = AF_INET
      length = socklen_t(MemoryLayout<sockaddr_in>.size)
      unsafe withUnsafeMutableBytes(of: &storage) { unsafe $0.storeBytes(of: four, as: sockaddr_in.self) }
    } else if unsafe inet_pton(AF_INET6, host, &six.sin6_addr) == 1 {
      six.sin6_family = sa_family_t(AF_INET6)
      six.sin6_port = in_port_t(port).bigEndian
      family = AF_INET6
      length = socklen_t(MemoryLayout<sockaddr_in6>.size)
      unsafe withUnsafeMutableBytes(of: &storage) { unsafe $0.storeBytes(of: six, as: sockaddr_in6.self) }
    } else {
      throw LaunchError("--host \(host): give an IPv4 or IPv6 address, such as 127.0.0.1")
    }
  }

  /// What sun_path holds, less its closing zero.
  static let longestUnixPath = 107

  init(unixPath: String) throws(LaunchError) {
    let path = Array(unixPath.utf8)
    guard path.count <= SocketAddress.longestUnixPath else {
      throw LaunchError("a unix socket's path may have \(SocketAddress.longestUnixPath) bytes: \(unixPath)")
    }
    family = AF_UNIX
    let offset = MemoryLayout<sockaddr_un>.offset(of: \.sun_path) ?? 2
    length = socklen_t(offset + path.count + 1)
    unsafe withUnsafeMutableBytes(of: &storage) {
      unsafe $0.storeBytes(of: sa_family_t(AF_UNIX), as: sa_family_t.self)
      for (index, byte) in path.enumerated() { unsafe $0[offset + index] = byte }
    }
  }

  mutating func withPointer(_ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32) -> Int32 {
    let length = length
    return unsafe withUnsafePointer(to: &storage) {
      unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { unsafe body($0, length) }
    }
  }
}
