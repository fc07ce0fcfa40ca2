// The end of a chunked body is found wherever it is cut, and what two readers could read differently is refused.
import HTTPWire
import Testing

@Suite struct ChunkedBodyTests {
  /// Feeds the body in two pieces cut at `cut` and tells what came out.
  private func scan(_ bytes: [UInt8], cut: Int) -> ChunkedBody.Outcome {
    var body = ChunkedBody()
    let first = Array(bytes[..<cut])
    switch body.scan(first.span) {
    case .ended(let count): return .ended(count)
    case .failed(let error): return .failed(error)
    case .more: break
    }
    let second = Array(bytes[cut...])
    return switch body.scan(second.span) {
    case .ended(let count): .ended(cut + count)
    case let other: other
    }
  }

  @Test(arguments: [
    "0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n", "00A;name=\"v\"\r\n0123456789\r\n0;x\r\nTrailing: 1\r\nB: \t2\r\n\r\n",
    "1\r\na\r\n1\r\n\r\r\n0\r\n\r\n",
  ]) func endsWhereverItIsCut(_ text: String) {
    let bytes = Array(text.utf8) + Array("GET /next".utf8)
    for cut in 0...bytes.count { #expect(scan(bytes, cut: cut) == .ended(text.utf8.count), "cut at \(cut)") }
    for count in 0..<text.utf8.count {
      var body = ChunkedBody()
      let piece = Array(bytes[..<count])
      #expect(body.scan(piece.span) == .more)
    }
  }

  @Test(arguments: [
    ("\r\n", HTTPError.badChunkSize), ("g\r\n", .badChunkSize), (" 5\r\n", .badChunkSize), ("5 \r\n", .badChunkSize),
    ("0x5\r\n", .badChunkSize), ("-1\r\n", .badChunkSize), ("5\nhello", .badChunkSize), ("5\r\rhello", .badChunkSize),
    ("1234567890123456\r\n", .badChunkSize), ("5\r\nhelloX\n", .badChunk), ("5\r\nhello\n", .badChunk),
    ("5\r\nhello\rX", .badChunk), ("5;a\u{0}\r\n", .chunkExtensionTooLong),
    ("5;" + String(repeating: "x", count: 257) + "\r\n", .chunkExtensionTooLong), ("0\r\n a: b\r\n\r\n", .badTrailer),
    ("0\r\na b: c\r\n\r\n", .badTrailer), ("0\r\na: b\n\r\n", .badTrailer),
    ("0\r\nContent-Length: 5\r\n\r\n", .badTrailer), ("0\r\na: b\r\ntransfer-encoding: x\r\n\r\n", .badTrailer),
    ("0\r\nHost: a\r\n\r\n", .badTrailer), ("0\r\nX_Forwarded_For: a\r\n\r\n", .badTrailer), ("0\r\n\rX", .badTrailer),
    ("0\r\na: " + String(repeating: "x", count: 8_192) + "\r\n\r\n", .trailerTooLarge),
  ]) func refuses(_ text: String, _ error: HTTPError) {
    let bytes = Array(text.utf8)
    for cut in 0...bytes.count { #expect(scan(bytes, cut: cut) == .failed(error), "cut at \(cut)") }
  }

  @Test func dataMayPassUnseen() {
    var body = ChunkedBody()
    let start = Array("A\r\n01".utf8)
    #expect(body.scan(start.span) == .more)
    #expect(body.dataRemaining == 8)
    body.skip(8)
    #expect(body.dataRemaining == 0)
    let end = Array("\r\n0\r\n\r\n".utf8)
    #expect(body.scan(end.span) == .ended(7))
  }
}
