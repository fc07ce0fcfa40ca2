// The parser against the rules of RFC 9110 and 9112: what is taken, what is refused and why.
import HTTPWire
import Testing

@Suite struct HeadParserTests {
  static let accepted: [(String, Parsed)] = [
    (
      "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
      Parsed(result: .complete, byteCount: 27, method: "GET", target: "/", path: "/", authority: "a", fields: ["Host"])
    ),
    (
      "get /json/version HTTP/1.1\r\nhost: 127.0.0.1:9222\r\n\r\n",
      Parsed(
        result: .complete, byteCount: 52, method: "get", target: "/json/version", path: "/json/version",
        authority: "127.0.0.1:9222", fields: ["host"])
    ),
    (
      "\r\nPOST /a?b=c HTTP/1.1\r\nHost: [::1]:80\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
      Parsed(
        result: .complete, byteCount: 80, method: "POST", target: "/a?b=c", path: "/a", query: "?b=c",
        authority: "[::1]:80", framing: .length(5), keepsAlive: false, fields: ["Host", "Content-Length", "Connection"])
    ),
    (
      "GET http://other.test/x?y HTTP/1.1\r\nHost: ignored\r\n\r\n",
      Parsed(
        result: .complete, byteCount: 53, method: "GET", target: "http://other.test/x?y", path: "/x", query: "?y",
        authority: "other.test", fields: ["Host"])
    ),
    (
      "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
      Parsed(
        result: .complete, byteCount: 31, method: "OPTIONS", target: "*", path: "*", authority: "a", fields: ["Host"])
    ),
    (
      "GET / HTTP/1.0\r\n\r\n",
      Parsed(result: .complete, byteCount: 18, method: "GET", target: "/", path: "/", keepsAlive: false)
    ),
    (
      "PUT / HTTP/1.1\r\nHost:\r\nTransfer-Encoding: chunked\r\n\r\n",
      Parsed(
        result: .complete, byteCount: 53, method: "PUT", target: "/", path: "/", framing: .chunked,
        fields: ["Host", "Transfer-Encoding"])
    ),
    (
      "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\r\n",
      Parsed(
        result: .complete, byteCount: 82, method: "GET", target: "/ws", path: "/ws", authority: "a",
        upgrade: .webSocket,
        fields: ["Host", "Connection", "Upgrade"])
    ),
    (
      "GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
      Parsed(
        result: .complete, byteCount: 49, method: "GET", target: "/ws", path: "/ws", authority: "a",
        fields: ["Host", "Upgrade"])
    ),
  ]

  @Test(arguments: accepted) func accepts(_ text: String, _ expected: Parsed) {
    #expect(parse(.request, text) == expected)
  }

  @Test(arguments: ["/.a", "/..a", "/...", "/a.", "/a..", "/a/.well-known/x", "/a?/../b", "/%2e%", "/%2"])
  func dotsInNamesAreNoDotSegments(_ path: String) {
    #expect(parse(.request, "GET \(path) HTTP/1.1\r\nHost: a\r\n\r\n").result == .complete)
  }

  /// Methods have their case: an instance may answer `head` with a body.
  @Test(arguments: [("GET", true, false), ("get", false, false), ("HEAD", false, true), ("Head", false, false)])
  func methodsHaveTheirCase(_ method: String, _ isGet: Bool, _ isHead: Bool) {
    let bytes = Array("\(method) / HTTP/1.1\r\nHost: a\r\n\r\n".utf8)
    var head = Head()
    #expect(HeadParser().parse(.request, bytes.span, into: &head) == .complete)
    #expect(head.isGet == isGet)
    #expect(head.isHead == isHead)
  }

  /// Whoever asks before parsing a head again misses nothing: what more bytes change is told as it would have been.
  @Test func aHeadGoesOnWithItsLines() {
    var limits = HTTPLimits()
    limits.lineBytes = 40
    limits.headBytes = 80
    let parser = HeadParser(limits: limits)
    let texts =
      Self.accepted.map(\.0) + Self.refused.map(\.0) + [
        "GET /" + String(repeating: "a", count: 60), "GET / HTTP/1.1\r\nA: " + String(repeating: "a", count: 90),
      ]
    for text in texts {
      let bytes = Array(text.utf8)
      var head = Head()
      var looked = 0
      for count in 1...bytes.count {
        let piece = Array(bytes[..<count])
        let result = parser.parse(.request, piece.span, into: &head)
        if looked > 0, !parser.goesOn(piece.span, from: looked) {
          // What a byte alone shows to be wrong may be told with the line's end.
          guard case .failed = result else {
            #expect(result == .needsMore, "\(text.debugDescription) after \(count) bytes")
            continue
          }
          break
        }
        if result == .needsMore { looked = count } else { break }
      }
    }
    let long = Array(("GET / HTTP/1.1\r\nA: " + String(repeating: "a", count: 90)).utf8)
    func goesOn(_ count: Int, from looked: Int) -> Bool {
      let piece = long.span.extracting(..<count)
      return parser.goesOn(piece, from: looked)
    }
    #expect(!goesOn(79, from: 60))
    #expect(goesOn(80, from: 79))
    #expect(goesOn(40, from: 39))
    #expect(goesOn(16, from: 15))
  }

  /// A head cut anywhere is neither complete nor wrong: the rest of it may still come.
  @Test(arguments: accepted) func everySplitAsksForMore(_ text: String, _ expected: Parsed) {
    let bytes = Array(text.utf8)
    for count in 0..<expected.byteCount {
      #expect(parse(.request, Array(bytes[..<count])).result == .needsMore, "cut after \(count) bytes")
    }
    for count in expected.byteCount...bytes.count { #expect(parse(.request, Array(bytes[..<count])) == expected) }
  }

  static let refused: [(String, HTTPError)] = [
    ("\u{16}\u{03}\u{01}\u{02}", .tlsOnPlainPort), ("(GET / HTTP/1.1\r\n", .notHTTP),
    ("\nGET / HTTP/1.1\r\n", .bareLineFeed),
    ("\rGET / HTTP/1.1\r\n", .bareCarriageReturn), ("GET/ HTTP/1.1\r\n", .badMethod),
    ("GET  / HTTP/1.1\r\n", .badTarget),
    ("GET / HTTP/1.1 \r\n", .badVersion), ("GET /\r\n", .badVersion), ("GET \r\n", .badTarget),
    ("GET / HTTP/2.0\r\n", .unsupportedVersion),
    ("GET / HTTP/1.2\r\n", .unsupportedVersion), ("GET / http/1.1\r\n", .badVersion),
    ("GET / HTTP/1.1\n", .bareLineFeed),
    ("GET /\u{7F} HTTP/1.1\r\n", .badFieldValue), ("GET /a#b HTTP/1.1\r\n", .badTarget),
    ("GET /ä HTTP/1.1\r\n", .badTarget),
    ("GET a HTTP/1.1\r\n", .badTarget), ("GET ftp://a/ HTTP/1.1\r\n", .badTarget),
    ("GET http:///x HTTP/1.1\r\n", .badHost),
    ("GET * HTTP/1.1\r\n", .badTarget), ("CONNECT a:80 HTTP/1.1\r\n", .connectMethod),
    ("TRACE / HTTP/1.1\r\n", .traceMethod), ("trace / HTTP/1.1\r\n", .traceMethod),
    ("GET /a/../b HTTP/1.1\r\n", .dotSegment), ("GET /.. HTTP/1.1\r\n", .dotSegment),
    ("GET /./a HTTP/1.1\r\n", .dotSegment), ("GET /a/%2E%2e HTTP/1.1\r\n", .dotSegment),
    ("GET /a/.%2e/b HTTP/1.1\r\n", .dotSegment), ("GET /a/%2e?x HTTP/1.1\r\n", .dotSegment),
    ("GET http://a/../b HTTP/1.1\r\n", .dotSegment), ("GET /a/..%2fb HTTP/1.1\r\n", .dotSegment),
    ("GET /a%2F..;x/b HTTP/1.1\r\n", .dotSegment), ("GET /a/..\\b HTTP/1.1\r\n", .dotSegment),
    ("GET /a%5c..%5Cb HTTP/1.1\r\n", .dotSegment),
    ("GET / HTTP/1.1\r\nTransfer_Encoding: chunked\r\n", .ambiguousFieldName),
    ("GET / HTTP/1.1\r\nX_Forwarded-For: 1\r\n", .ambiguousFieldName),
    ("GET / HTTP/1.1\r\nx_forwarded_port: 1\r\n", .ambiguousFieldName),
    ("OPTIONS / HTTP/1.1\r\nMax-Forwards: x\r\n", .badFieldValue),
    ("OPTIONS / HTTP/1.1\r\nMax-Forwards: 1\r\nMax-Forwards: 1\r\n", .badFieldValue),
    ("GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", .foldedField),
    ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", .whitespaceBeforeColon),
    ("GET / HTTP/1.1\r\n: a\r\n\r\n", .badFieldName), ("GET / HTTP/1.1\r\nHost\r\n\r\n", .badFieldName),
    ("GET / HTTP/1.1\r\nH\u{00E4}: a\r\n\r\n", .badFieldName), ("GET / HTTP/1.1\r\nX: a\u{0}b\r\n\r\n", .badFieldValue),
    ("GET / HTTP/1.1\r\nX: a\rb\r\n\r\n", .bareCarriageReturn),
    ("GET / HTTP/1.1\r\nX: a\nHost: b\r\n\r\n", .bareLineFeed),
    ("GET / HTTP/1.1\r\n\r\n", .missingHost), ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", .duplicateHost),
    ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", .badHost), ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", .badHost),
    ("GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", .badHost), ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", .badHost),
    ("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n", .badContentLength),
    ("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n", .badContentLength),
    ("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\n", .badContentLength),
    ("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", .badContentLength),
    ("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", .duplicateContentLength),
    (
      "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", .lengthAndTransferEncoding
    ),
    ("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", .badTransferEncoding),
    ("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", .badTransferEncoding),
    (
      "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
      .badTransferEncoding
    ),
    ("PUT / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", .transferEncodingIn10),
    ("PUT / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\n\r\n", .unsupportedExpectation),
    (
      "POST / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n\r\n",
      .badUpgrade
    ),
  ]

  @Test(arguments: refused) func refuses(_ text: String, _ error: HTTPError) {
    let bytes = text.unicodeScalars.contains { $0.value > 0x7F } ? Array(text.utf8) : Array(text.utf8)
    #expect(parse(.request, bytes).result == .failed(error))
  }

  /// A fault that a prefix shows is told at once or when more has come, never as another fault, and never as complete.
  @Test(arguments: refused) func everySplitOfTheRefusedIsConsistent(_ text: String, _ error: HTTPError) {
    let bytes = Array(text.utf8)
    for count in 0..<bytes.count {
      let result = parse(.request, Array(bytes[..<count])).result
      #expect(result == .needsMore || result == .failed(error), "cut after \(count) bytes: \(result)")
    }
  }

  @Test func limitsAreExact() {
    var limits = HTTPLimits()
    limits.lineBytes = 64
    limits.headBytes = 128
    let longest = "GET /" + String(repeating: "a", count: 64 - 5 - 9 - 1) + " HTTP/1.1\r\n"
    #expect(parse(.request, longest + "Host: a\r\n\r\n", limits: limits).result == .complete)
    let longer = "GET /" + String(repeating: "a", count: 64) + " HTTP/1.1\r\n"
    #expect(parse(.request, longer, limits: limits).result == .failed(.lineTooLong))
    // Refused as soon as it is too long, not when its end comes.
    #expect(
      parse(.request, "GET /" + String(repeating: "a", count: 64), limits: limits).result == .failed(.lineTooLong))
    let large = "GET / HTTP/1.1\r\nHost: a\r\nX: " + String(repeating: "b", count: 128)
    #expect(parse(.request, large, limits: limits).result == .failed(.headTooLarge))
    let many = "GET / HTTP/1.1\r\nHost: a\r\n" + String(repeating: "A: b\r\n", count: HTTPLimits.fieldCount - 1)
    #expect(parse(.request, many + "\r\n").result == .complete)
    #expect(parse(.request, many + "A: b\r\n\r\n").result == .failed(.tooManyFields))
  }

  static let responses: [(String, ParseResult, Int, BodyFraming, Bool)] = [
    ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", .complete, 200, .length(3), true),
    ("HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", .complete, 200, .none, true),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", .complete, 200, .chunked, true),
    ("HTTP/1.1 200 OK\r\n\r\n", .complete, 200, .untilClose, false),
    ("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n", .complete, 200, .length(3), false),
    ("HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n", .complete, 204, .none, true),
    ("HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", .complete, 304, .none, true),
    (
      "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", .complete, 101, .none,
      true
    ),
    ("HTTP/1.1 200 OK\r\nContent_Length: 3\r\nContent-Length: 4\r\n\r\n", .complete, 200, .length(4), true),
    ("HTTP/1.1 099 Low\r\n\r\n", .failed(.badStatusLine), 0, .none, true),
    ("HTTP/1.1 2000 OK\r\n\r\n", .failed(.badStatusLine), 0, .none, true),
    (
      "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", .failed(.lengthAndTransferEncoding),
      0, .none, true
    ),
    ("ICY 200 OK\r\n\r\n", .failed(.badStatusLine), 0, .none, true),
  ]

  @Test(arguments: responses)
  func readsResponses(_ text: String, _ result: ParseResult, _ status: Int, _ framing: BodyFraming, _ keepsAlive: Bool)
  {
    let parsed = parse(.response, text)
    #expect(parsed.result == result)
    guard result == .complete else { return }
    #expect(parsed.status == status)
    #expect(parsed.framing == framing)
    #expect(parsed.keepsAlive == keepsAlive)
  }
}
