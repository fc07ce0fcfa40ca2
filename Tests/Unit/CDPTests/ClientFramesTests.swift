// Frames of clients, cut anywhere: what passes is what came, but for Browser.close.
import CDP
import Testing

@Suite struct ClientFramesTests {
  /// A client's frame (RFC 6455 §5.2).
  static func frame(_ payload: [UInt8], first: UInt8 = 0x81, mask: [UInt8] = [0x37, 0xFA, 0x21, 0x3D]) -> [UInt8] {
    var bytes = [first]
    switch payload.count {
    case ..<126: bytes.append(0x80 | UInt8(payload.count))
    case ..<65_536: bytes += [0x80 | 126, UInt8(payload.count >> 8), UInt8(payload.count & 0xFF)]
    default: bytes += [0x80 | 127] + (0..<8).map { UInt8(truncatingIfNeeded: payload.count >> (56 - 8 * $0)) }
    }
    return bytes + mask + payload.enumerated().map { $1 ^ mask[$0 % 4] }
  }

  static func text(_ text: String) -> [UInt8] { frame(Array(text.utf8)) }

  /// Feeds the bytes in pieces; what passed, and each Browser.close with the number of bytes that had passed before it.
  private func run(_ bytes: [UInt8], pieces: Int) -> (passed: [UInt8], closes: [Int]) {
    var frames = ClientFrames()
    var passed: [UInt8] = []
    var closes: [Int] = []
    var held: [UInt8] = []
    for start in stride(from: 0, to: bytes.count, by: pieces) {
      held += bytes[start..<min(start + pieces, bytes.count)]
      loop: while !held.isEmpty {
        switch frames.next(held.span) {
        case .pass(let count):
          passed += held[..<count]
          held.removeFirst(count)
        case .needsMore:
          #expect(held.count < 300)
          break loop
        case .closesBrowser(let id, let count, _):
          closes.append(id)
          held.removeFirst(count)
        }
      }
    }
    return (passed + held, closes)
  }

  @Test(arguments: [1, 2, 7, 64, 1_000_000]) func everythingPassesButBrowserClose(_ pieces: Int) {
    let before =
      Self.text(#"{"id":1,"method":"Target.getTargets"}"#) + Self.frame(Array(repeating: 65, count: 300))
      + Self.frame(Array(repeating: 66, count: 70_000)) + Self.frame([], first: 0x89)
      + Self.frame(Array(#"{"id":2,"method":"Browser.close"}"#.utf8), first: 0x82)
      + Self.text(#"{"id":3,"method":"Page.navigate","params":{"url":"data:,\"Browser.close\""}}"#)
    let after = Self.text(#"{"id":8,"method":"Browser.getVersion"}"#) + Self.frame([3, 0xE8], first: 0x88)
    let close = Self.text(#"{"id":7, "method" : "Browser.close", "params":{}}"#)
    let (passed, closes) = run(before + close + after, pieces: pieces)
    #expect(passed == before + after)
    #expect(closes == [7])
  }

  @Test func aSessionsMessageIsAnsweredWithIt() throws {
    var frames = ClientFrames()
    let bytes = Self.text(#"{"id":9,"method":"Browser.close","sessionId":"ABC"}"#)
    #expect(frames.next(bytes.span) == .closesBrowser(id: 9, byteCount: bytes.count, session: "ABC"))
    let answer = ClientFrames.answer(id: 9, session: "ABC")
    #expect(answer[0] == 0x81 && answer.suffix(4).elementsEqual([0x88, 2, 0x03, 0xE8]))
    let text = String(decoding: answer[2..<(2 + Int(answer[1]))], as: UTF8.self)
    #expect(text == #"{"id":9,"result":{},"sessionId":"ABC"}"#)
  }

  @Test func whatIsNoFrameOfAClientPasses() {
    // Unmasked, and a length of 2^64-1: the browser's to refuse.
    let unmasked: [UInt8] = [0x81, 5] + Array("hello".utf8)
    let endless: [UInt8] = [0x82, 0xFF] + [UInt8](repeating: 0xFF, count: 8) + [1, 2, 3, 4] + Array("abc".utf8)
    #expect(run(unmasked + endless, pieces: 1).passed == unmasked + endless)
  }
}
