// One GET to an instance: is it there, and is it the one that was started? HealthProbe.swift asks.
import JSON

package enum HTTPProbe {
  /// More than this is no answer to a probe.
  static let maximumAnswerBytes = 1 << 20

  package struct Answer: Sendable, Equatable {
    package var status: Int
    package var body: [UInt8]
  }

  /// Sends `GET path` on a connection of its own and reads the answer up to its end. Blocks.
  package static func get(host: String, port: Int, path: String, deadline: Deadline) throws(ProbeError) -> Answer {
    try get(try Stream(host: host, port: port, deadline: deadline), host, port, path: path, [])
  }

  /// The same on a new connection, with what stands before the request (a PROXY header).
  private static func get(
    _ stream: Stream, _ host: String, _ port: Int, path: String, _ proxyHeader: [UInt8]
  ) throws(ProbeError) -> Answer {
    let authority = host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
    let request =
      "GET \(path) HTTP/1.1\r\nHost: \(authority)\r\nAccept: */*\r\nUser-Agent: berth-control\r\nConnection: close\r\n\r\n"
    try stream.send(proxyHeader + Array(request.utf8))
    var bytes: [UInt8] = []
    while bytes.count < maximumAnswerBytes {
      // Chrome keeps the connection open in spite of `Connection: close`, so the length decides.
      if let answer = try parse(bytes, atEnd: false) { return answer }
      let more = try stream.receive()
      if more.isEmpty {
        guard let answer = try parse(bytes, atEnd: true) else { throw ProbeError("the answer broke off") }
        return answer
      }
      bytes += more
    }
    throw ProbeError("the answer is longer than \(maximumAnswerBytes) bytes")
  }

  /// The answer when it is complete. Without a Content-Length only its status is needed, so the head is enough.
  static func parse(_ bytes: [UInt8], atEnd: Bool) throws(ProbeError) -> Answer? {
    let end = Array("\r\n\r\n".utf8)
    guard let head = bytes.indices.first(where: { bytes[$0...].starts(with: end) }) else {
      if bytes.count >= 5 && !bytes.starts(with: "HTTP/".utf8) { throw ProbeError("the answer is not HTTP") }
      return nil
    }
    let lines = String(decoding: bytes[..<head], as: UTF8.self).split(separator: "\r\n")
    let words = lines.first?.split(separator: " ") ?? []
    guard words.count >= 2, words[0].hasPrefix("HTTP/1."), words[1].utf8.count == 3, let status = Int(words[1]) else {
      throw ProbeError("the answer is not HTTP")
    }
    var length: Int?
    for line in lines.dropFirst() {
      guard let colon = line.firstIndex(of: ":"), line[..<colon].lowercased() == "content-length" else { continue }
      length = Int(line[line.index(after: colon)...].filter { $0 != " " && $0 != "\t" })
    }
    let body = Array(bytes[(head + end.count)...])
    guard let length else { return Answer(status: status, body: body) }
    if body.count >= length { return Answer(status: status, body: Array(body.prefix(length))) }
    return atEnd ? Answer(status: status, body: body) : nil
  }

  /// The GUID of the Chrome that the connection leads to; throws what is wrong.
  static func identifyChrome(
    _ stream: Stream, _ host: String, _ port: Int, _ proxyHeader: [UInt8]
  ) throws(ProbeError) -> String {
    let answer = try get(stream, host, port, path: "/json/version", proxyHeader)
    guard answer.status == 200 else { throw ProbeError("/json/version answered \(answer.status)") }
    let json: JSON
    do { json = try JSON(parsing: answer.body) } catch { throw ProbeError("/json/version is no JSON: \(error)") }
    guard let url = json["webSocketDebuggerUrl"]?.string else {
      throw ProbeError("/json/version has no webSocketDebuggerUrl")
    }
    let mark = "/devtools/browser/"
    guard let slash = url.lastIndex(of: "/"), url[...slash].hasSuffix(mark), url[slash...].count > 1 else {
      throw ProbeError("/json/version names no browser: \(url)")
    }
    return String(url[url.index(after: slash)...])
  }

  /// Whether a server answers at all; throws what is wrong.
  static func verifyServer(
    _ stream: Stream, _ host: String, _ port: Int, path: String, _ proxyHeader: [UInt8]
  ) throws(ProbeError) {
    let answer = try get(stream, host, port, path: path, proxyHeader)
    guard (200...499).contains(answer.status) else { throw ProbeError("\(path) answered \(answer.status)") }
  }
}
