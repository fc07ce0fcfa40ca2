// What an instance is told about the client: by whom it may be said, how it is added to, what a route changes in it.
import HTTPWire
import Testing

@Suite struct ForwardingTests {
  struct Case {
    var forwarding = Forwarding()
    var client = "203.0.113.9"
    var requestID = ""
    var prefix = ""
    var stripped = 0
    var remove: [String] = []
    var add: [(name: String, value: String)] = []
    var capacity = 4_096

    func write(_ text: String) -> String? {
      let bytes = Array(text.utf8)
      var head = Head()
      guard HeadParser().parse(.request, bytes.span, into: &head) == .complete else { return "unparsable" }
      var changes = RequestChanges()
      changes.forwarding = forwarding
      changes.stripped = stripped
      var output = [UInt8](repeating: 0, count: capacity)
      let (prefix, client, requestID) = (Array(prefix.utf8), Array(client.utf8), Array(requestID.utf8))
      let (removed, added) = (HeaderLines.removed(remove), HeaderLines.added(add))
      var span = output.mutableSpan
      guard
        let count = head.writeRequest(
          bytes.span, changes: changes, target: Span(), host: Span(), prefix: prefix.span, client: client.span,
          requestID: requestID.span, removed: removed.span, added: added.span, into: &span)
      else { return nil }
      return String(decoding: output[..<count], as: UTF8.self)
    }

    /// The lines between Host and the empty line.
    func fields(_ text: String) -> [String] {
      guard let written = write("GET / HTTP/1.1\r\nHost: a.test:81\r\n\(text)\r\n") else { return [] }
      return Array(written.split(separator: "\r\n").dropFirst(2).map(String.init))
    }
  }

  private func trusting(_ change: (inout Forwarding) -> Void = { _ in }) -> Case {
    var forwarding = Forwarding()
    forwarding.trustsPeer = true
    change(&forwarding)
    return Case(forwarding: forwarding)
  }

  private let claims =
    "X-Forwarded-For: 1.1.1.1\r\nx-forwarded-proto: https\r\nX-FORWARDED-HOST: evil\r\nX-Forwarded-Port: 1\r\n"
    + "X-Forwarded-Prefix: /x\r\nX-Real-IP: 1.1.1.1\r\nForwarded: for=1.1.1.1\r\n"

  @Test func anybodysClaimsAreReplaced() {
    let own = [
      "X-Forwarded-For: 203.0.113.9", "X-Forwarded-Proto: http", "X-Forwarded-Host: a.test:81", "Via: 1.1 berth",
    ]
    #expect(Case().fields("A: b\r\n" + claims) == ["A: b"] + own)
    var secure = Forwarding()
    secure.isSecure = true
    #expect(Case(forwarding: secure).fields("")[1] == "X-Forwarded-Proto: https")
    var silent = Forwarding()
    silent.xForwarded = false
    silent.via = false
    #expect(Case(forwarding: silent).fields(claims) == [], "claims go although nothing stands in their place")
  }

  @Test func aTrustedPeersClaimsAreKeptAndAddedTo() {
    #expect(
      trusting().fields("X-Forwarded-For: 1.1.1.1\r\n" + claims + "A: b\r\n") == [
        "x-forwarded-proto: https", "X-FORWARDED-HOST: evil", "X-Forwarded-Port: 1", "X-Forwarded-Prefix: /x",
        "X-Real-IP: 1.1.1.1", "Forwarded: for=1.1.1.1", "A: b", "X-Forwarded-For: 1.1.1.1, 1.1.1.1, 203.0.113.9",
        "Via: 1.1 berth",
      ])
    #expect(
      trusting().fields("") == [
        "X-Forwarded-For: 203.0.113.9", "X-Forwarded-Proto: http", "X-Forwarded-Host: a.test:81", "Via: 1.1 berth",
      ])
    // What Connection nominates ended at the peer, so there is nothing to add to and nothing to keep.
    #expect(
      trusting().fields(
        "Connection: x-forwarded-for, X-Forwarded-Proto\r\nX-Forwarded-For: 1.1.1.1\r\nX-Forwarded-Proto: https\r\n")
        == [
          "X-Forwarded-For: 203.0.113.9", "X-Forwarded-Proto: http", "X-Forwarded-Host: a.test:81", "Via: 1.1 berth",
        ])
    #expect(Case(forwarding: .untouched).fields(claims) == claims.split(separator: "\r\n").map(String.init))
  }

  @Test(arguments: [
    ("203.0.113.9", "a.test", "for=203.0.113.9;host=a.test;proto=http"),
    ("2001:db8::1", "a.test:8080", "for=\"[2001:db8::1]\";host=\"a.test:8080\";proto=http"),
    ("::1", "[::1]", "for=\"[::1]\";host=\"[::1]\";proto=http"),
  ]) func forwardedIsQuotedWhereItMust(_ client: String, _ host: String, _ element: String) {
    var forwarding = Forwarding()
    forwarding.xForwarded = false
    forwarding.via = false
    forwarding.forwarded = true
    var way = Case(forwarding: forwarding, client: client)
    let head = "GET / HTTP/1.1\r\nHost: \(host)\r\nForwarded: for=1.1.1.1\r\n"
    let start = "GET / HTTP/1.1\r\nHost: \(host)\r\n"
    #expect(way.write(head + "\r\n") == start + "Forwarded: \(element)\r\n\r\n")
    way.forwarding.trustsPeer = true
    #expect(way.write(head + "\r\n") == start + "Forwarded: for=1.1.1.1, \(element)\r\n\r\n")
  }

  @Test func viaIsAddedTo() {
    var forwarding = Forwarding()
    forwarding.xForwarded = false
    let way = Case(forwarding: forwarding)
    #expect(way.fields("Via: 1.0 a\r\nVia:\r\nVia: 1.1 b (c)\r\n") == ["Via: 1.0 a, 1.1 b (c), 1.1 berth"])
    #expect(way.write("GET / HTTP/1.0\r\n\r\n") == "GET / HTTP/1.0\r\nVia: 1.0 berth\r\n\r\n")
  }

  @Test(arguments: [
    ("good-ID_1.~+/=:@", true), (String(repeating: "x", count: 128), true), (String(repeating: "x", count: 129), false),
    ("", false), ("two words", false), ("quo\"te", false), ("umläut", false),
  ]) func requestIDs(_ id: String, _ isKept: Bool) {
    let line = "X-Request-ID: \(id)"
    var way = trusting { $0.xForwarded = false }
    way.forwarding.via = false
    way.requestID = "new"
    #expect(way.fields(line + "\r\n") == [isKept ? line : "X-Request-ID: new"])
    #expect(way.fields("\(line)\r\n\(line)\r\n") == ["X-Request-ID: new"], "two ids are none")
    #expect(way.fields("Connection: x-request-id\r\n\(line)\r\n") == ["X-Request-ID: new"])
    way.forwarding.trustsPeer = false
    #expect(way.fields(line + "\r\n") == ["X-Request-ID: new"], "anybody's id is replaced")
    way.requestID = ""
    #expect(
      way.fields(line + "\r\n") == [line.hasSuffix(" ") ? "X-Request-ID: " : line], "ids are not Berth's business")
  }

  @Test func traceparentPasses() {
    let line = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    #expect(Case().fields(line + "\r\n").first == line)
  }

  @Test func routesRemoveAndAdd() {
    var way = Case()
    way.remove = ["X-Secret", "x-forwarded-host", "Via", "forwarded", "x-request-id"]
    way.add = [("X-Secret", "new"), ("X-Pool", "a b")]
    way.requestID = "id"
    #expect(
      way.fields("x-secret: old\r\nX-Secret2: kept\r\nX-SECRET: older\r\nX-Secre: kept\r\n") == [
        "X-Secret2: kept", "X-Secre: kept", "X-Forwarded-For: 203.0.113.9", "X-Forwarded-Proto: http",
        "X-Secret: new", "X-Pool: a b",
      ])
    way.remove = ["X-Forwarded-For", "X-Forwarded-Proto"]
    way.add = []
    way.requestID = ""
    #expect(way.fields("X-Forwarded-For: 1\r\n") == ["X-Forwarded-Host: a.test:81", "Via: 1.1 berth"])
  }

  @Test(arguments: [
    ("/api", 4, "/v2", "/v2"), ("/api/", 4, "/v2", "/v2/"), ("/api/x?y", 4, "/v2", "/v2/x?y"),
    ("/api?y", 4, "/v2", "/v2?y"),
    ("/api/x", 4, "/", "/x"), ("/api", 4, "/", "/"), ("/api/x", 4, "/v2/", "/v2/x"), ("/x", 0, "/v2", "/v2/x"),
    ("http://a.test/api/x", 4, "/v2", "/v2/x"), ("http://a.test?q", 0, "/v2", "/v2?q"), ("/api//x", 4, "/v2", "/v2//x"),
  ]) func prefixesAreReplaced(_ target: String, _ stripped: Int, _ prefix: String, _ expected: String) {
    var way = Case(forwarding: .untouched)
    way.stripped = stripped
    way.prefix = prefix
    #expect(
      way.write("GET \(target) HTTP/1.1\r\nHost: a.test\r\n\r\n") == "GET \(expected) HTTP/1.1\r\nHost: a.test\r\n\r\n")
  }

  @Test(arguments: ["*", "http://a.test", "http://a.test/"]) func optionsOfTheServer(_ target: String) {
    var way = Case(forwarding: .untouched)
    let star = target.hasSuffix("/") ? "/v2/" : "*"
    way.prefix = "/v2"
    #expect(
      way.write("OPTIONS \(target) HTTP/1.1\r\nHost: a.test\r\n\r\n")
        == "OPTIONS \(star) HTTP/1.1\r\nHost: a.test\r\n\r\n")
  }

  @Test func tooSmallAnOutputIsTold() {
    var way = Case(forwarding: trusting { $0.forwarded = true }.forwarding)
    way.requestID = "id"
    way.add = [("A", "b")]
    way.prefix = "/v2"
    let text = "GET / HTTP/1.1\r\nHost: h\r\nVia: 1.1 a\r\nX-Forwarded-For: 1\r\nA: b\r\n\r\n"
    let whole = way.write(text)?.utf8.count ?? 0
    for capacity in 0...whole {
      way.capacity = capacity
      #expect((way.write(text) != nil) == (capacity == whole))
    }
  }

  @Test func responsesAreChangedByTheirRoute() {
    func write(_ status: String) -> String {
      let bytes = Array(
        ("HTTP/1.1 \(status)\r\nServer: x\r\nConnection: x-hop\r\nX-Hop: 1\r\nSet-Cookie: own=1\r\n"
          + "Via: 1.1 a\r\nContent-Length: 0\r\n\r\n").utf8)
      var head = Head()
      #expect(HeadParser().parse(.response, bytes.span, into: &head) == .complete)
      var changes = ResponseChanges()
      changes.via = true
      let (removed, added) = (HeaderLines.removed(["server"]), HeaderLines.added([("X-By", "berth")]))
      let cookie = Array("node=3; Path=/; HttpOnly".utf8)
      var output = [UInt8](repeating: 0, count: 512)
      var span = output.mutableSpan
      let count =
        head.writeResponse(
          bytes.span, changes: changes, setCookie: cookie.span, removed: removed.span, added: added.span, into: &span)
        ?? 0
      return String(decoding: output[..<count], as: UTF8.self)
    }
    let cookies = "Set-Cookie: own=1\r\n"
    let via = "Via: 1.1 a, 1.1 berth\r\n"
    let added = "Set-Cookie: node=3; Path=/; HttpOnly\r\nX-By: berth\r\n"
    #expect(
      write("200 OK")
        == "HTTP/1.1 200 OK\r\n\(cookies)Content-Length: 0\r\n\(via)\(added)\r\n")
    #expect(write("103 Early") == "HTTP/1.1 103 Early\r\nServer: x\r\n\(cookies)\(via)\r\n")
    #expect(
      write("101 Switching")
        == "HTTP/1.1 101 Switching\r\n\(cookies)\(via)\(added)Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
  }

  // MARK: Lookups

  private func look(_ text: String, _ body: (borrowing Head, Span<UInt8>) -> Slice?) -> String? {
    let bytes = Array("GET / HTTP/1.1\r\nHost: a\r\n\(text)\r\n".utf8)
    var head = Head()
    #expect(HeadParser().parse(.request, bytes.span, into: &head) == .complete)
    return body(head, bytes.span).map { String(decoding: bytes[$0.lower..<$0.upper], as: UTF8.self) }
  }

  @Test(arguments: [
    ("Cookie: node=3\r\n", "3"), ("cookie: a=b; node=3; node=4\r\n", "3"),
    ("Cookie: a=b\r\nCookie: c=d;node=3\r\n", "3"),
    ("Cookie: node=\"3\"\r\n", "3"), ("Cookie: node=\r\n", ""), ("Cookie: node=a=b\r\n", "a=b"),
    ("Cookie: Node=3; xnode=4; nodex=5; node\r\n", nil), ("Cookies: node=3\r\n", nil), ("", nil),
    ("Cookie:\r\n", nil), ("Cookie: ;;; node=\";\r\n", "\""),
  ]) func cookies(_ text: String, _ expected: String?) {
    let name = Array("node".utf8)
    #expect(look(text) { head, bytes in head.cookie(name.span, in: bytes) } == expected)
  }

  @Test func anyFieldsFirstValue() {
    let name = Array("x-tenant".utf8)
    #expect(look("X-Tenan: 0\r\nX-TENANT:  one \r\nx-tenant: two\r\n") { $0.value(of: name.span, in: $1) } == "one")
    #expect(look("") { $0.value(of: name.span, in: $1) } == nil)
    #expect(look("Origin: http://b\r\n") { head, _ in head.value(of: .origin) } == "http://b")
    #expect(look("") { head, _ in head.value(of: .origin) } == nil)
  }
}
