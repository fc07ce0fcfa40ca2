// The smallest WebSocket client that can ask a Chrome one question (RFC 6455): Browser.close for a polite stop,
// Browser.getVersion as a deep health check. It blocks, with a deadline for the whole exchange.
package import JSON
import Routing

package enum CDPClient {
  /// Longer messages are not what was asked for.
  private static let maximumMessageBytes = 1 << 20

  /// Calls a method of the browser and returns its result. A browser that closes the connection instead of answering
  /// gives nil: that is how some versions answer Browser.close.
  package static func call(
    _ method: String, host: String, port: Int, browser: String, proxyHeader: [UInt8] = [], deadline: Deadline
  ) throws(ProbeError) -> JSON? {
    let stream = try Stream(host: host, port: port, deadline: deadline)
    // The key only guards against caches that replay answers; there is none on the way to an own process.
    let request =
      "GET /devtools/browser/\(browser) HTTP/1.1\r\nHost: \(host):\(port)\r\nUpgrade: websocket\r\n"
      + "Connection: Upgrade\r\nSec-WebSocket-Key: YmVydGgtY29udHJvbC0wMQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    try stream.send(proxyHeader + Array(request.utf8))
    var buffer: [UInt8] = []
    let end = Array("\r\n\r\n".utf8)
    while true {
      if let head = buffer.indices.first(where: { buffer[$0...].starts(with: end) }) {
        guard buffer.starts(with: "HTTP/1.1 101".utf8) else { throw ProbeError("the browser refused the connection") }
        buffer.removeFirst(head + end.count)
        break
      }
      let more = try stream.receive()
      guard !more.isEmpty, buffer.count < 65_536 else { throw ProbeError("the browser did not take the connection") }
      buffer += more
    }
    let message: JSON = ["id": 1, "method": .string(method)]
    var random = SystemRandomNumberGenerator()
    try stream.send(frame(text: message.bytes, mask: random.next()))
    var parser = FrameParser(maximumBytes: maximumMessageBytes)
    while true {
      for text in try parser.feed(buffer) {
        guard let json = try? JSON(parsing: text), json["id"]?.int == 1 else { continue }
        if let error = json["error"]?["message"]?.string { throw ProbeError("\(method): \(error)") }
        return json["result"] ?? [:]
      }
      if parser.isClosed { return nil }
      buffer = try stream.receive()
      if buffer.isEmpty { return nil }
    }
  }

  /// Asks an instance's browser to end; whether it does, its container or process tells.
  static func closeBrowser(of record: InstanceRecord, within milliseconds: Int) async {
    guard let browser = record.browser else { return }
    await BlockingPool.shared.run {
      _ = try? call(
        "Browser.close", host: record.host, port: record.port, browser: browser,
        deadline: Deadline(milliseconds: milliseconds))
    }
  }

  /// A masked text frame of less than 126 bytes.
  static func frame(text: [UInt8], mask: UInt32) -> [UInt8] {
    precondition(text.count < 126, "only short calls are made here")
    let key = (0..<4).map { UInt8(truncatingIfNeeded: mask >> ($0 * 8)) }
    return [0x81, 0x80 | UInt8(text.count)] + key + text.enumerated().map { $1 ^ key[$0 % 4] }
  }
}

/// Puts text messages together from the bytes that a server sends.
struct FrameParser {
  private var pending: [UInt8] = []
  private var message: [UInt8] = []
  private(set) var isClosed = false
  private let maximumBytes: Int

  init(maximumBytes: Int) { self.maximumBytes = maximumBytes }

  /// The messages that these bytes complete.
  mutating func feed(_ bytes: [UInt8]) throws(ProbeError) -> [[UInt8]] {
    pending += bytes
    var messages: [[UInt8]] = []
    while !isClosed, pending.count >= 2 {
      var length = Int(pending[1] & 0x7F)
      var head = 2
      if length == 126 {
        guard pending.count >= 4 else { break }
        length = Int(pending[2]) << 8 | Int(pending[3])
        head = 4
      } else if length == 127 {
        guard pending.count >= 10 else { break }
        guard pending[2...5].allSatisfy({ $0 == 0 }) else { throw ProbeError("the message is too long") }
        length = pending[6...9].reduce(0) { $0 << 8 | Int($1) }
        head = 10
      }
      guard length + message.count <= maximumBytes else { throw ProbeError("the message is too long") }
      guard pending[1] & 0x80 == 0 else { throw ProbeError("a server must not mask") }
      guard pending.count >= head + length else { break }
      let opcode = pending[0] & 0x0F
      switch opcode {
      case 0, 1, 2:
        message += pending[head..<(head + length)]
        if pending[0] & 0x80 != 0 {
          messages.append(message)
          message = []
        }
      case 8: isClosed = true
      default: break
      }
      pending.removeFirst(head + length)
    }
    return messages
  }
}
