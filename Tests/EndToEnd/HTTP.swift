// One request over a connection of its own, for the tests' own questions to REST and admin pages. Not a client under test.
import Glibc
import JSON
import Posix

enum HTTP {
  struct Answer {
    let status: Int
    let head: String
    let body: [UInt8]
    var json: JSON { (try? JSON(parsing: body)) ?? .null }
    var text: String { String(decoding: body, as: UTF8.self) }
  }

  /// nil = no connection, or no answer in time.
  static func get(_ port: Int, _ path: String) -> Answer? { request("GET", port, path) }

  static func request(_ method: String, _ port: Int, _ path: String, body: String? = nil, seconds: Int = 30) -> Answer?
  {
    guard let address = SocketAddress(host: "127.0.0.1", port: port) else { return nil }
    let (result, _) = Socket.connect(address)
    guard result >= 0 else { return nil }
    let fd = Int32(result)
    defer { Socket.close(fd) }
    var head = "\(method) \(path) HTTP/1.1\r\nHost: 127.0.0.1:\(port)\r\nConnection: close\r\n"
    if let body { head += "Content-Type: application/json\r\nContent-Length: \(body.utf8.count)\r\n" }
    let deadline = Clock.monotonicMilliseconds + seconds * 1000
    guard wait(fd, POLLOUT, until: deadline) else { return nil }
    let bytes = Array((head + "\r\n" + (body ?? "")).utf8)
    guard unsafe bytes.withUnsafeBytes({ unsafe Socket.send(fd, $0.baseAddress!, $0.count) }) == bytes.count else {
      return nil
    }
    var answer: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 65_536)
    while wait(fd, POLLIN, until: deadline) {
      let n = unsafe buffer.withUnsafeMutableBytes { unsafe Socket.receive(fd, $0.baseAddress!, $0.count) }
      if n == Errno.again { continue }
      if n <= 0 { return parse(answer) }
      answer += buffer[..<n]
    }
    return nil
  }

  private static func wait(_ fd: Int32, _ events: Int32, until deadline: Int) -> Bool {
    var polled = pollfd(fd: fd, events: Int16(events), revents: 0)
    return unsafe poll(&polled, 1, Int32(max(0, deadline - Clock.monotonicMilliseconds))) > 0
  }

  private static func parse(_ bytes: [UInt8]) -> Answer? {
    let mark = Array("\r\n\r\n".utf8)
    guard let end = bytes.indices.dropLast(3).first(where: { bytes[$0..<$0 + 4].elementsEqual(mark) }) else {
      return nil
    }
    let head = String(decoding: bytes[..<end], as: UTF8.self)
    let words = head.split(separator: " ", maxSplits: 2)
    guard words.count > 1, let status = Int(words[1]) else { return nil }
    let body = Array(bytes[(end + 4)...])
    let isChunked = head.lowercased().contains("transfer-encoding: chunked")
    return Answer(status: status, head: head, body: isChunked ? joinChunks(body) : body)
  }

  private static func joinChunks(_ bytes: [UInt8]) -> [UInt8] {
    var rest = bytes[...]
    var body: [UInt8] = []
    while let lineEnd = rest.firstIndex(of: 13),
      let size = Int(String(decoding: rest[rest.startIndex..<lineEnd], as: UTF8.self), radix: 16), size > 0
    {
      let start = lineEnd + 2
      guard start + size <= rest.endIndex else { break }
      body += rest[start..<start + size]
      rest = rest[min(start + size + 2, rest.endIndex)...]
    }
    return body
  }
}
