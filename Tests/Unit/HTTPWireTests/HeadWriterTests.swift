// What goes on of a head: everything but what ends at this hop, byte for byte and in order.
import HTTPWire
import Testing

@Suite struct HeadWriterTests {
  private func forward(
    _ text: String, target: String = "", host: String = "", stripped: Int = 0, dropsOrigin: Bool = false,
    upgrades: Bool = false, capacity: Int = 4_096
  ) -> String? {
    let bytes = Array(text.utf8)
    var head = Head()
    guard HeadParser().parse(.request, bytes.span, into: &head) == .complete else { return "unparsable" }
    var changes = RequestChanges()
    changes.stripped = stripped
    changes.dropsOrigin = dropsOrigin
    changes.upgrades = upgrades
    var output = [UInt8](repeating: 0, count: capacity)
    let newTarget = Array(target.utf8)
    let newHost = Array(host.utf8)
    var span = output.mutableSpan
    guard
      let count = head.writeRequest(
        bytes.span, changes: changes, target: newTarget.span, host: newHost.span, into: &span)
    else { return nil }
    return String(decoding: output[..<count], as: UTF8.self)
  }

  @Test func passesFieldsAsTheyAre() {
    let text = "get /a?b HTTP/1.1\r\nX-One:  1 \r\nHost: h:1\r\nx-TWO: 2\r\nContent-Length: 1\r\n\r\n"
    #expect(forward(text) == "get /a?b HTTP/1.1\r\nHost: h:1\r\nX-One:  1 \r\nx-TWO: 2\r\nContent-Length: 1\r\n\r\n")
  }

  @Test func endsHopByHopFields() {
    let text =
      "GET / HTTP/1.1\r\nHost: h\r\nConnection: close, X-Secret, content-length\r\nKeep-Alive: 5\r\nTE: trailers\r\n"
      + "Proxy-Connection: x\r\nUpgrade: h2c\r\nx-secret: 1\r\nX-Kept: 2\r\nContent-Length: 3\r\n\r\n"
    #expect(forward(text) == "GET / HTTP/1.1\r\nHost: h\r\nX-Kept: 2\r\nContent-Length: 3\r\n\r\n")
  }

  @Test func replacesHostTargetAndOrigin() {
    let text = "GET /session/1/json HTTP/1.1\r\nHost: public\r\nOrigin: https://evil\r\nA: b\r\n\r\n"
    #expect(
      forward(text, target: "/json", host: "127.0.0.1:9", dropsOrigin: true)
        == "GET /json HTTP/1.1\r\nHost: 127.0.0.1:9\r\nA: b\r\n\r\n")
    #expect(forward(text)?.contains("Origin: https://evil\r\n") == true)
  }

  @Test(arguments: [
    ("/api", 4, "/"), ("/api/", 4, "/"), ("/api/x?y", 4, "/x?y"), ("/api?y", 4, "/?y"), ("/x", 0, "/x"),
  ]) func stripsPrefixes(_ path: String, _ stripped: Int, _ expected: String) {
    let text = forward("GET \(path) HTTP/1.1\r\nHost: h\r\n\r\n", stripped: stripped)
    #expect(text == "GET \(expected) HTTP/1.1\r\nHost: h\r\n\r\n")
  }

  @Test func absoluteTargetBecomesOriginForm() {
    #expect(
      forward("GET http://other:8 HTTP/1.1\r\nHost: h\r\n\r\n") == "GET / HTTP/1.1\r\nHost: other:8\r\n\r\n")
  }

  @Test func upgradesOnlyWhenAsked() {
    let text = "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n"
    #expect(
      forward(text, upgrades: true)
        == "GET / HTTP/1.1\r\nHost: h\r\nSec-WebSocket-Key: k\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    #expect(forward(text) == "GET / HTTP/1.1\r\nHost: h\r\nSec-WebSocket-Key: k\r\n\r\n")
  }

  @Test func tooSmallAnOutputIsTold() {
    let text = "GET / HTTP/1.1\r\nHost: h\r\nA: b\r\n\r\n"
    let whole = forward(text)?.utf8.count ?? 0
    #expect(forward(text, capacity: whole) != nil)
    for capacity in 0..<whole { #expect(forward(text, capacity: capacity) == nil) }
  }

  @Test func responsesSayWhetherTheConnectionEnds() {
    let text = "HTTP/1.1 404 Nope\r\nConnection: keep-alive\r\nKeep-Alive: 5\r\nContent-Length: 0\r\n\r\n"
    func write(closes: Bool, toVersion10: Bool) -> String {
      let bytes = Array(text.utf8)
      var head = Head()
      #expect(HeadParser().parse(.response, bytes.span, into: &head) == .complete)
      var output = [UInt8](repeating: 0, count: 512)
      var span = output.mutableSpan
      var changes = ResponseChanges()
      changes.closes = closes
      changes.toVersion10 = toVersion10
      let count = head.writeResponse(bytes.span, changes: changes, into: &span) ?? 0
      return String(decoding: output[..<count], as: UTF8.self)
    }
    let start = "HTTP/1.1 404 Nope\r\nContent-Length: 0\r\n"
    #expect(write(closes: false, toVersion10: false) == start + "\r\n")
    #expect(write(closes: true, toVersion10: false) == start + "Connection: close\r\n\r\n")
    #expect(write(closes: false, toVersion10: true) == start + "Connection: keep-alive\r\n\r\n")
  }

  @Test(arguments: [("5", "4"), ("1", "0"), ("0", "0"), ("0010", "9")])
  func maxForwardsCountsDown(_ before: String, _ after: String) {
    let start = "OPTIONS /x HTTP/1.1\r\nHost: h\r\n"
    #expect(
      forward(start + "Max-Forwards: \(before)\r\nA: b\r\n\r\n") == start + "A: b\r\nMax-Forwards: \(after)\r\n\r\n")
    let other = "GET /x HTTP/1.1\r\nHost: h\r\nMax-Forwards: \(before)\r\n\r\n"
    #expect(forward(other) == other)
  }

  @Test func responsesWithoutADateGetOne() {
    let date = Array("Sun, 06 Nov 1994 08:49:37 GMT".utf8)
    func write(_ text: String) -> String {
      let bytes = Array(text.utf8)
      var head = Head()
      #expect(HeadParser().parse(.response, bytes.span, into: &head) == .complete)
      var output = [UInt8](repeating: 0, count: 512)
      var span = output.mutableSpan
      let count = head.writeResponse(bytes.span, changes: ResponseChanges(), date: date.span, into: &span) ?? 0
      return String(decoding: output[..<count], as: UTF8.self)
    }
    let line = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
    #expect(write("HTTP/1.1 304 N\r\nA: b\r\n\r\n") == "HTTP/1.1 304 N\r\nA: b\r\n\(line)\r\n")
    let own = "HTTP/1.1 304 N\r\ndate: now\r\n\r\n"
    #expect(write(own) == own)
    let interim = "HTTP/1.1 103 E\r\n\r\n"
    #expect(write(interim) == interim)
  }

  @Test(arguments: [
    (0, "Thu, 01 Jan 1970 00:00:00 GMT"), (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
    (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"), (1_709_251_199, "Thu, 29 Feb 2024 23:59:59 GMT"),
    (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"), (1_798_761_599, "Thu, 31 Dec 2026 23:59:59 GMT"),
  ]) func dates(_ seconds: Int, _ expected: String) {
    var output = [UInt8](repeating: 0, count: HTTPDate.byteCount)
    var span = output.mutableSpan
    #expect(HTTPDate.write(secondsSince1970: seconds, into: &span) == HTTPDate.byteCount)
    #expect(String(decoding: output, as: UTF8.self) == expected)
  }

  @Test func responsesWithoutABodySayNothingOfALength() {
    func write(_ text: String) -> String {
      let bytes = Array(text.utf8)
      var head = Head()
      #expect(HeadParser().parse(.response, bytes.span, into: &head) == .complete)
      var output = [UInt8](repeating: 0, count: 512)
      var span = output.mutableSpan
      let count = head.writeResponse(bytes.span, changes: ResponseChanges(), into: &span) ?? 0
      return String(decoding: output[..<count], as: UTF8.self)
    }
    #expect(write("HTTP/1.1 204 No\r\nContent-Length: 5\r\nA: b\r\n\r\n") == "HTTP/1.1 204 No\r\nA: b\r\n\r\n")
    #expect(write("HTTP/1.1 103 E\r\nTransfer-Encoding: chunked\r\n\r\n") == "HTTP/1.1 103 E\r\n\r\n")
    let notModified = "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"
    #expect(write(notModified) == notModified)
  }
}
