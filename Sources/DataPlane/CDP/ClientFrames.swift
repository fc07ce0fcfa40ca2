// A client's WebSocket frames on their way to a browser (RFC 6455 §5.2), followed to find the one message that must not get
// there: Browser.close, which would end a Chrome that others use or that is to serve the next client. The worker calls this
// for tunnels of DevTools pools; everything but short text messages passes without a look.
import JSON

package struct ClientFrames: Sendable, BitwiseCopyable {
  /// Longer messages than this are no Browser.close: `{"id":…,"method":"Browser.close","params":{},"sessionId":"…"}`.
  package static let longestLook = 256

  /// Bytes of the present frame that still pass.
  private var remaining: UInt64 = 0

  package init() {}

  package enum Step: Equatable, Sendable {
    /// So many bytes go on, at least one.
    case pass(Int)
    /// A frame that has to be looked at is not complete: nothing of these bytes goes on yet. Fewer than 300 bytes.
    case needsMore
    /// A whole frame asks the browser to close; it must not go on. `id` is the message's.
    case closesBrowser(id: Int, byteCount: Int, session: String?)
  }

  /// Reads on, from where the last step ended.
  package mutating func next(_ bytes: Span<UInt8>) -> Step {
    if remaining > 0 {
      let count = Int(min(remaining, UInt64(bytes.count)))
      remaining -= UInt64(count)
      return .pass(count)
    }
    guard bytes.count >= 2 else { return .needsMore }
    let short = UInt64(bytes[1] & 0x7F)
    let isMasked = bytes[1] & 0x80 != 0
    let lengthBytes = short == 126 ? 2 : short == 127 ? 8 : 0
    let headerBytes = 2 + lengthBytes + (isMasked ? 4 : 0)
    guard bytes.count >= headerBytes else { return .needsMore }
    var length = lengthBytes == 0 ? short : 0
    for index in 0..<lengthBytes { length = length << 8 | UInt64(bytes[2 + index]) }
    // FIN, no extension, text: all that any client sends a command in.
    let isLookedAt = bytes[0] == 0x81 && isMasked && length <= UInt64(Self.longestLook)
    guard isLookedAt else {
      // A length beyond 63 bits is no frame; what its browser makes of it is the browser's.
      let whole = UInt64(headerBytes).addingReportingOverflow(length)
      remaining = whole.overflow ? .max : whole.partialValue
      return next(bytes)
    }
    let whole = headerBytes + Int(length)
    guard bytes.count >= whole else { return .needsMore }
    let payload = headerBytes..<whole
    if Self.mentionsClose(bytes, payload), let (id, session) = Self.close(bytes, payload) {
      return .closesBrowser(id: id, byteCount: whole, session: session)
    }
    return .pass(whole)
  }

  private static let word = Array("Browser.close\"".utf8)

  /// Whether the masked payload holds the method's name: a quick look that nearly every message ends with.
  private static func mentionsClose(_ bytes: Span<UInt8>, _ payload: Range<Int>) -> Bool {
    let mask = payload.lowerBound - 4
    let word = Self.word.span
    guard payload.count >= word.count else { return false }
    for start in payload.lowerBound...(payload.upperBound - word.count) {
      var matched = 0
      while matched < word.count,
        bytes[start + matched] ^ bytes[mask + (start + matched - payload.lowerBound) & 3] == word[matched]
      { matched += 1 }
      if matched == word.count { return true }
    }
    return false
  }

  /// The message's id and session when its method is Browser.close.
  private static func close(_ bytes: Span<UInt8>, _ payload: Range<Int>) -> (id: Int, session: String?)? {
    let mask = payload.lowerBound - 4
    let text = payload.map { bytes[$0] ^ bytes[mask + ($0 - payload.lowerBound) & 3] }
    guard let message = try? JSON(parsing: text), message["method"]?.string == "Browser.close" else { return nil }
    return (message["id"]?.int ?? 0, message["sessionId"]?.string)
  }

  /// A whole text frame for a client: unmasked, as servers send (RFC 6455 §5.1). For texts of less than 64 KiB.
  package static func text(_ text: [UInt8]) -> [UInt8] {
    let count = text.count
    precondition(count < 65_536, "a short answer")
    let length: [UInt8] = count < 126 ? [UInt8(count)] : [126, UInt8(count >> 8), UInt8(count & 0xFF)]
    return [0x81] + length + text
  }

  /// The answer that a browser would have given, and a close frame with 1000 (normal closure, RFC 6455 §7.4.1).
  package static func answer(id: Int, session: String?) -> [UInt8] {
    var message: JSONObject = ["id": .int(id), "result": .object([:])]
    if let session { message["sessionId"] = .string(session) }
    return text(JSON.object(message).bytes) + [0x88, 2, 0x03, 0xE8]
  }

  /// `Page.close` as a client would send it, with a mask of zeros.
  package static func closePage(id: Int) -> [UInt8] {
    let text = JSON.object(["id": .int(id), "method": .string("Page.close")]).bytes
    return [0x81, 0x80 | UInt8(text.count), 0, 0, 0, 0] + text
  }
}
