// Questions that `berth up` asks on this machine: is a port free, does Redis answer, what does a daemon say over HTTP.
// Each is bounded by a timeout of its own; no answer is a nil, because all of them are asked again.
internal import Glibc
internal import Posix
internal import Redis
internal import State

enum Probe {
  /// Long enough for a busy machine, short enough that Ctrl-C is noticed meanwhile.
  static let timeoutMilliseconds = 1_000
  static let longestAnswer = 4 << 20
  /// What sun_path holds (unix(7)), less its closing zero.
  static let longestUnixPath = 107

  /// Listens on the port as a plain server would, for a moment: without SO_REUSEPORT, under which two servers could
  /// share it unnoticed. nil = it is free, else why not.
  static func whyUnusable(_ port: ListeningPort) throws(LaunchError) -> String? {
    guard let address = SocketAddress(host: port.host, port: port.port) else {
      throw LaunchError("--host \(port.host): give an IPv4 or IPv6 address, such as 127.0.0.1")
    }
    let fd = Socket.listen(address, backlog: 1, sharesPort: false, defersAccept: false)
    guard fd < 0 else {
      Socket.close(Int32(fd))
      return nil
    }
    return fd == Errno.addressInUse ? "is taken by another program" : "cannot be used: \(Errno.text(fd))"
  }

  /// nil = Redis has loaded its data and answers, else why not. `url` is that of REDIS_URL, in any form the daemons take.
  static func whyRedisIsSilent(_ url: String) -> String? {
    do {
      let options = RedisOptions(
        connectTimeoutMilliseconds: timeoutMilliseconds, commandTimeoutMilliseconds: timeoutMilliseconds)
      let connection = try RedisConnection(url: RedisURL(parsing: url), options: options)
      defer { connection.close() }
      try connection.run(Command(.words(["PING"])) { _ in })
      return nil
    } catch {
      return "\(error)"
    }
  }

  /// The status of the answer to a GET; nil without one.
  static func status(host: String, port: Int, path: String) -> Int? {
    let host = ["0.0.0.0": "127.0.0.1", "::": "::1"][host] ?? host
    guard let address = SocketAddress(host: host, port: port) else { return nil }
    // HTTP/1.0, so that the body is not chunked.
    let request = "GET \(path) HTTP/1.0\r\nHost: \(address)\r\nAccept: application/json\r\n\r\n"
    guard let answer = exchange(Socket.connect(address).descriptor, request: request, until: isComplete),
      answer.starts(with: "HTTP/1.".utf8), let end = headEnd(answer)
    else { return nil }
    let words = String(decoding: answer[..<end], as: UTF8.self).split(separator: " ", maxSplits: 2)
    return words.count > 1 ? Int(words[1]) : nil
  }

  /// Whether the body is as long as the head says: not every server closes after an HTTP/1.0 answer.
  private static func isComplete(_ answer: [UInt8]) -> Bool {
    guard let end = headEnd(answer) else { return false }
    for line in String(decoding: answer[..<end], as: UTF8.self).split(separator: "\r\n") {
      let field = line.split(separator: ":", maxSplits: 1)
      guard field.count == 2, field[0].lowercased() == "content-length" else { continue }
      guard let length = Int(field[1].filter(\.isNumber)) else { return false }
      return answer.count >= end + length
    }
    return false
  }

  private static func headEnd(_ bytes: [UInt8]) -> Int? {
    let mark = Array("\r\n\r\n".utf8)
    return bytes.indices.dropLast(3).first { bytes[$0..<$0 + 4].elementsEqual(mark) }.map { $0 + 4 }
  }

  /// Sends a request over a connecting or connected socket, reads until the other side closes or `done` says that it is
  /// enough, and closes the socket. A negative descriptor is a connection that failed.
  private static func exchange(_ descriptor: Int, request: String, until done: ([UInt8]) -> Bool) -> [UInt8]? {
    guard descriptor >= 0 else { return nil }
    let fd = Int32(descriptor)
    defer { Socket.close(fd) }
    let deadline = Clock.monotonicMilliseconds + timeoutMilliseconds
    System.wait(writing: fd, milliseconds: timeoutMilliseconds)
    guard System.write(fd, Array(request.utf8)) else { return nil }
    var answer: [UInt8] = []
    while !done(answer), answer.count < longestAnswer {
      switch System.read(fd) {
      case .bytes(let bytes): answer += bytes
      case .end: return answer
      case .nothingYet:
        let left = deadline - Clock.monotonicMilliseconds
        guard left > 0 else { return nil }
        System.wait([fd], milliseconds: left)
      }
    }
    return answer
  }
}
