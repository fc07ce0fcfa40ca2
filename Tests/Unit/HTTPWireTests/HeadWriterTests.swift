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
      let count = head.writeResponse(bytes.span, closes: closes, toVersion10: toVersion10, into: &span) ?? 0
      return String(decoding: output[..<count], as: UTF8.self)
    }
    let start = "HTTP/1.1 404 Nope\r\nContent-Length: 0\r\n"
    #expect(write(closes: false, toVersion10: false) == start + "\r\n")
    #expect(write(closes: true, toVersion10: false) == start + "Connection: close\r\n\r\n")
    #expect(write(closes: false, toVersion10: true) == start + "Connection: keep-alive\r\n\r\n")
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
