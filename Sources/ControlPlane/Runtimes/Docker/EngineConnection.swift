// HTTP/1.1 to a container engine (Docker Engine API) over a Unix socket, TCP or TLS with a client certificate: one request
// a connection, the answer read as a whole or piece by piece. It blocks, so Engine calls it on threads of its own.
import Domain
import JSON
import TLS

/// What went wrong with an engine.
package struct EngineError: Error, Equatable, Sendable, CustomStringConvertible {
  /// nil when the engine did not answer at all; else the status of its answer.
  package let status: Int?
  package let description: String

  package init(status: Int? = nil, _ description: String) {
    self.status = status
    self.description = description
  }

  /// It cannot be reached, or hung up: what it did of the request is not known.
  package var isSilence: Bool { status == nil }
}

/// One request and its answer.
final class EngineConnection {
  private let stream: Stream
  private let tls: TLSClientStream?
  private let name: String
  /// What has come and was not taken yet.
  private var input: [UInt8] = []
  private var body = Body.none
  private(set) var status = 0

  private enum Body {
    case none
    case length(Int)
    case chunked
    /// Within a chunk of which so many bytes are missing.
    case chunk(Int)
    case untilEnd
  }

  /// A head or a line beyond this is no engine's.
  private static let maximumLineBytes = 1 << 20
  private static let chunkBytes = 16_384

  init(_ endpoint: EngineEndpoint, deadline: Deadline) throws(EngineError) {
    name = endpoint.description
    do throws(ProbeError) {
      switch endpoint {
      case .unix(let path):
        stream = try Stream(path: path, deadline: deadline)
        tls = nil
      case .tcp(let host, let port, let files):
        let stream = try Self.dial(host, port, deadline)
        self.stream = stream
        tls = try files.map { (files) throws(ProbeError) in
          do throws(TLSError) {
            return try TLSClientStream(
              fileDescriptor: stream.descriptor, serverName: host, caFile: files.caFile, verify: true,
              certificateFile: files.certificateFile, keyFile: files.keyFile,
              timeoutMilliseconds: deadline.millisecondsLeft)
          } catch { throw ProbeError(error.description) }
        }
      }
    } catch {
      throw EngineError("\(name): \(error.description)")
    }
  }

  private static func dial(_ host: String, _ port: Int, _ deadline: Deadline) throws(ProbeError) -> Stream {
    let addresses = Stream.addresses(of: host)
    var failure = ProbeError("there is no address for \(host)")
    for address in addresses {
      do throws(ProbeError) { return try Stream(host: address, port: port, deadline: deadline) } catch {
        failure = error
      }
    }
    throw failure
  }

  /// Sends a request and reads the head of its answer.
  func send(_ method: String, _ path: String, body: JSON?, deadline: Deadline) throws(EngineError) {
    // An engine wants a Host, whatever it says.
    var request = "\(method) \(path) HTTP/1.1\r\nHost: engine\r\nUser-Agent: berth-control\r\nConnection: close\r\n"
    let content = body?.bytes ?? []
    if body != nil { request += "Content-Type: application/json\r\nContent-Length: \(content.count)\r\n" }
    if body == nil && method == "POST" { request += "Content-Length: 0\r\n" }
    try write(Array((request + "\r\n").utf8) + content, deadline)
    try readHead(deadline)
  }

  private func write(_ bytes: [UInt8], _ deadline: Deadline) throws(EngineError) {
    do {
      guard let tls else {
        stream.deadline = deadline
        try stream.send(bytes)
        return
      }
      var sent = 0
      while sent < bytes.count {
        tls.timeoutMilliseconds = deadline.millisecondsLeft
        sent += try unsafe bytes.withUnsafeBytes { buffer throws(TLSError) in
          unsafe try tls.write(UnsafeRawBufferPointer(rebasing: buffer[sent...]))
        }
      }
    } catch { throw EngineError("\(name): \(error)") }
  }

  /// What came next; empty at the end of the connection.
  private func read(_ deadline: Deadline) throws(EngineError) -> [UInt8] {
    do {
      guard let tls else {
        stream.deadline = deadline
        return try stream.receive()
      }
      tls.timeoutMilliseconds = deadline.millisecondsLeft
      var bytes = [UInt8](repeating: 0, count: Self.chunkBytes)
      let count = try unsafe bytes.withUnsafeMutableBytes { buffer throws(TLSError) in unsafe try tls.read(into: buffer)
      }
      return Array(bytes[..<count])
    } catch { throw EngineError("\(name): \(error)") }
  }

  /// A line without its end; nil at the end of the connection.
  private func line(_ deadline: Deadline) throws(EngineError) -> String? {
    var searched = 0
    while true {
      if let end = input[searched...].firstIndex(of: UInt8(ascii: "\n")) {
        var line = input[..<end]
        if line.last == UInt8(ascii: "\r") { line = line.dropLast() }
        let text = String(decoding: line, as: UTF8.self)
        input.removeFirst(end + 1)
        return text
      }
      guard input.count < Self.maximumLineBytes else { throw EngineError("\(name): an endless line is no answer") }
      searched = input.count
      let more = try read(deadline)
      if more.isEmpty { return nil }
      input += more
    }
  }

  private func readHead(_ deadline: Deadline) throws(EngineError) {
    guard let first = try line(deadline) else { throw EngineError("\(name): the engine hung up") }
    let words = first.split(separator: " ")
    guard words.count >= 2, words[0].hasPrefix("HTTP/1."), let status = Int(words[1]) else {
      throw EngineError("\(name): what answers there is no engine")
    }
    self.status = status
    body = .untilEnd
    while let header = try line(deadline), !header.isEmpty {
      guard let colon = header.firstIndex(of: ":") else { continue }
      let value = header[header.index(after: colon)...].filter { $0 != " " }.lowercased()
      switch header[..<colon].lowercased() {
      case "content-length": if let length = Int(value) { body = .length(length) }
      case "transfer-encoding": if value == "chunked" { body = .chunked }
      default: break
      }
    }
    if status == 204 || status == 304 { body = .none }
  }

  /// The next piece of the body; nil at its end.
  func piece(_ deadline: Deadline) throws(EngineError) -> [UInt8]? {
    switch body {
    case .none: return nil
    case .length(let left):
      guard left > 0 else { return nil }
      let bytes = try take(upTo: left, deadline)
      guard !bytes.isEmpty else { throw EngineError("\(name): the answer broke off") }
      body = .length(left - bytes.count)
      return bytes
    case .chunked:
      guard let size = try line(deadline), let count = Int(size.prefix { $0 != ";" }, radix: 16), count >= 0 else {
        throw EngineError("\(name): the answer broke off")
      }
      if count == 0 {
        body = .none
        return nil
      }
      body = .chunk(count)
      return try piece(deadline)
    case .chunk(let left):
      let bytes = try take(upTo: left, deadline)
      guard !bytes.isEmpty else { throw EngineError("\(name): the answer broke off") }
      body = .chunk(left - bytes.count)
      if bytes.count == left {
        _ = try line(deadline)
        body = .chunked
      }
      return bytes
    case .untilEnd:
      let bytes = try take(upTo: Int.max, deadline)
      return bytes.isEmpty ? nil : bytes
    }
  }

  private func take(upTo count: Int, _ deadline: Deadline) throws(EngineError) -> [UInt8] {
    if input.isEmpty { input = try read(deadline) }
    let bytes = Array(input.prefix(count))
    input.removeFirst(bytes.count)
    return bytes
  }

  /// Whether ``piece(_:)`` would find something, or the end, within this time.
  func hasInput(withinMilliseconds milliseconds: Int) -> Bool {
    !input.isEmpty || tls?.holdsInput == true || stream.isReadable(withinMilliseconds: milliseconds)
  }

  /// The whole body.
  func rest(limit: Int, _ deadline: Deadline) throws(EngineError) -> [UInt8] {
    var bytes: [UInt8] = []
    while let more = try piece(deadline) {
      bytes += more
      guard bytes.count <= limit else { throw EngineError("\(name): an answer of more than \(limit) bytes") }
    }
    return bytes
  }
}
