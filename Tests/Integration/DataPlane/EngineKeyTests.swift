// Routes that ask for a key, and pages that may open WebSockets, on real sockets: who gets through, and what of a key the
// instance sees.
import Engine
import Posix
import ProxyMachine
import Routing
import Synchronization
import TLS
import TestSupport
import Testing

@Suite struct EngineKeyTests {
  private let key = "a-key-of-this-test-0001"
  private let other = "another-key-of-the-test"

  private func record(_ id: String, _ key: String) -> KeyRecord {
    KeyRecord(id: id, sha256: SHA256Digest(of: key).hexadecimal, scopes: [.session])
  }

  private func closed(_ id: String = "all", _ change: (inout RouteRecord) -> Void = { _ in }) -> RouteRecord {
    var route = RouteRecord(id: id, pool: "web")
    route.auth = true
    change(&route)
    return route
  }

  /// Repeats the request's line and its Authorization.
  private func echo() -> AnsweringInstance {
    AnsweringInstance { head in
      let lines = head.split(separator: "\r\n")
      let credentials = lines.first { $0.lowercased().hasPrefix("authorization:") } ?? "none"
      let text = "\(lines[0]) | \(credentials)"
      return "HTTP/1.1 200 OK\r\nContent-Length: \(text.utf8.count)\r\n\r\n\(text)"
    }
  }

  private func ask(_ engine: TestEngine, _ target: String, _ fields: String = "") -> (status: String, body: String) {
    let client = engine.connect()
    client.send("GET \(target) HTTP/1.1\r\nHost: a\r\n\(fields)\r\n")
    guard let response = client.response() else { return ("no answer", "") }
    return (String(response.head.split(separator: " ")[1]), response.body)
  }

  @Test func aKeyOpensTheRouteAndEndsHere() throws {
    let instance = echo()
    let engine = try TestEngine(
      instances: [instance.address], routes: [closed()], apiKeys: [record("one", other), record("two", key)])
    let client = engine.connect()
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    let refused = try #require(client.response())
    #expect(refused.head.hasPrefix("HTTP/1.1 401 "))
    #expect(refused.head.contains("WWW-Authenticate: Bearer realm=\"berth\", Basic realm=\"berth\""))
    // The same connection may try again.
    client.send("GET /x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer \(key)\r\n\r\n")
    #expect(client.response()?.body == "GET /x HTTP/1.1 | none")

    #expect(ask(engine, "/", "Authorization: Bearer \(other)\r\n").status == "200")
    // "a-key-of-this-test-0001:" and ":a-key-of-this-test-0001"
    let user = ask(engine, "/", "Authorization: Basic YS1rZXktb2YtdGhpcy10ZXN0LTAwMDE6\r\n")
    #expect(user == ("200", "GET / HTTP/1.1 | none"))
    #expect(ask(engine, "/", "Authorization: basic OmEta2V5LW9mLXRoaXMtdGVzdC0wMDAx\r\n").status == "200")
    #expect(ask(engine, "/p?token=\(key)") == ("200", "GET /p HTTP/1.1 | none"))
    #expect(ask(engine, "/p?a=1&token=\(key)&b=2") == ("200", "GET /p?a=1&b=2 HTTP/1.1 | none"))
    #expect(ask(engine, "/p?a=1&token=a%2Dkey-of-this-test-0001") == ("200", "GET /p?a=1 HTTP/1.1 | none"))
    // Credentials that are not Berth's go on.
    let both = ask(engine, "/p?token=\(key)", "Authorization: Bearer for-the-instance\r\n")
    #expect(both == ("200", "GET /p HTTP/1.1 | Authorization: Bearer for-the-instance"))
    #expect(engine.value(Counter.unauthorized) == 1)
  }

  @Test(arguments: [
    "Authorization: Bearer a-key-of-this-test-000\r\n", "Authorization: Bearer a-key-of-this-test-00011\r\n",
    "Authorization: a-key-of-this-test-0001\r\n", "Authorization: Bearer\r\n", "Authorization: Basic !!!!\r\n",
    "Authorization: Basic YS1rZXktb2YtdGhpcy10ZXN0LTAwMDE=\r\n", "X-Authorization: Bearer a-key-of-this-test-0001\r\n",
    "Authorization: Bearer a-key-of-this-test-0001\r\nAuthorization: Bearer x\r\n",
  ])
  func whatIsNotTheKeyDoesNot(_ fields: String) throws {
    let instance = echo()
    let engine = try TestEngine(instances: [instance.address], routes: [closed()], apiKeys: [record("two", key)])
    #expect(ask(engine, "/", fields).status == "401")
    #expect(instance.requests == 0)
  }

  @Test func keysComeAndGoAndEnd() throws {
    let instance = echo()
    let pool = PoolRecord(name: "web", kind: .http, slots: 0)
    let engine = try TestEngine(instances: [instance.address], pool: pool, routes: [closed()])
    let bearer = "Authorization: Bearer \(key)\r\n"
    #expect(ask(engine, "/", bearer).status == "401")
    let records = [InstanceRecord(id: "web-0", pool: "web", host: "127.0.0.1", port: instance.address.port, slots: 0)]
    func replace(_ change: (inout KeyRecord) -> Void) {
      var key = record("k", key)
      change(&key)
      engine.replace(RoutingTable(pools: [pool], routes: [closed()], instances: records, apiKeys: [key]))
    }
    replace { $0.expiresAt = Clock.unixMilliseconds + 3_600_000 }
    #expect(eventually { ask(engine, "/", bearer).status == "200" })
    replace { $0.expiresAt = Clock.unixMilliseconds - 1 }
    #expect(eventually { ask(engine, "/", bearer).status == "401" })
  }

  @Test func aReplicaMayAskForKeysWhereRoutesSayNothing() throws {
    let instance = echo()
    var open = RouteRecord(id: "open", path: "/open", pool: "web")
    open.auth = false
    let engine = try TestEngine(
      instances: [instance.address], routes: [RouteRecord(id: "all", pool: "web"), open], apiKeys: [record("k", key)],
      requiresKeys: true)
    #expect(ask(engine, "/").status == "401")
    #expect(ask(engine, "/open").status == "200")
    // Clients send one header everywhere: a key of ours is for no instance, and what is none of ours is not touched.
    #expect(ask(engine, "/open", "Authorization: Bearer \(key)\r\n").body == "GET /open HTTP/1.1 | none")
    #expect(ask(engine, "/open?a=b&token=\(key)").body == "GET /open?a=b HTTP/1.1 | none")
    let foreign = ask(engine, "/open", "Authorization: Bearer \(other)\r\n")
    #expect(foreign.body == "GET /open HTTP/1.1 | Authorization: Bearer \(other)")
    #expect(ask(engine, "/", "Authorization: Bearer \(key)\r\n").status == "200")
  }

  // MARK: Browsers

  private func browsers(
    _ instance: ScriptedInstance, _ routes: [RouteRecord], origin: SessionRecord.Origin = .connection,
    remember: @escaping (Granting) -> Void = { _ in }
  ) throws -> TestEngine {
    let session = SessionRecord(
      id: "s1", pool: "web", origin: origin, instance: "web-0", host: instance.address.host,
      port: instance.address.port, browser: "b-1", createdAt: 0, expiresAt: 1_000_000_000_000)
    return try TestEngine(
      instances: [instance.address], pool: PoolRecord(name: "web", kind: .cdp, slots: 1), routes: routes,
      apiKeys: [record("k", key)],
      coordinator: {
        let granting = Granting($0, session)
        remember(granting)
        return granting
      })
  }

  /// The status of a WebSocket's handshake: 101 when the instance was reached.
  private func webSocket(_ engine: TestEngine, _ instance: ScriptedInstance, _ target: String, _ fields: String) throws
    -> (status: String, seen: String)
  {
    let refusals = engine.value(.responses4xx)
    let client = engine.connect()
    client.send(
      "GET \(target) HTTP/1.1\r\n\(fields)Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n")
    var seen = ""
    var reached: Peer?
    #expect(
      eventually {
        reached = instance.accept(withinMilliseconds: 0)
        return reached != nil || engine.value(.responses4xx) > refusals
      })
    if let upstream = reached {
      seen = try #require(upstream.receive(upTo: "\r\n\r\n"))
      upstream.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    }
    return (String(try #require(client.receive(upTo: "\r\n")).split(separator: " ")[1]), seen)
  }

  @Test func aSessionsIDIsAsGoodAsAKey() throws {
    let instance = ScriptedInstance()
    let engine = try browsers(instance, [closed()])
    #expect(try webSocket(engine, instance, "/", "Host: a\r\n").status == "401")
    let opened = try webSocket(engine, instance, "/?token=\(key)", "Host: a\r\n")
    #expect(opened.status == "101")
    #expect(!opened.seen.contains("token"))
    let headed = try webSocket(engine, instance, "/", "Host: a\r\nAuthorization: Bearer \(key)\r\n")
    #expect(headed.status == "101")
    #expect(!headed.seen.lowercased().contains("authorization"))
    #expect(try webSocket(engine, instance, "/session/s1/", "Host: a\r\n").status == "101")
  }

  /// A page of anybody's must not be able to drive browsers through a Berth that its reader can reach.
  @Test(arguments: [
    ("Host: 127.0.0.1:8080\r\n", "101"),
    ("Host: 127.0.0.1:8080\r\nOrigin: http://127.0.0.1:8080\r\n", "101"),
    ("Host: localhost:8080\r\nOrigin: http://LOCALHOST:8080\r\n", "101"),
    ("Host: localhost:8080\r\nOrigin: http://localhost:9000\r\n", "403"),
    ("Host: 127.0.0.1:8080\r\nOrigin: https://evil.example\r\n", "403"),
    ("Host: 127.0.0.1:8080\r\nOrigin: null\r\n", "403"),
    // A name whose owner points it here.
    ("Host: evil.example:8080\r\nOrigin: http://evil.example:8080\r\n", "403"),
    ("Host: named.example\r\nOrigin: https://named.example\r\n", "101"),
    ("Host: 127.0.0.1\r\nOrigin: https://app.example.com\r\n", "101"),
  ])
  func pagesOpenOnlyWhatIsTheirs(_ fields: String, _ status: String) throws {
    let instance = ScriptedInstance()
    var open = RouteRecord(id: "all", pool: "web")
    open.origins = ["https://app.example.com"]
    var named = RouteRecord(id: "named", pool: "web")
    named.host = "named.example"
    let engine = try browsers(instance, [open, named])
    #expect(try webSocket(engine, instance, "/", fields).status == status)
    #expect(engine.value(.originsRefused) == (status == "403" ? 1 : 0))
  }

  /// A page that has pointed its own name here reads what discovery answers; it must not get a browser by it.
  @Test func pagesDoNotDiscover() throws {
    let instance = ScriptedInstance()
    let engine = try browsers(instance, [RouteRecord(id: "all", pool: "web")])
    for (line, status) in [
      ("PUT /json/new?about:blank", "403"), ("GET /json/version", "403"), ("GET /session/s1/json/list", "403"),
    ] {
      let client = engine.connect()
      client.send("\(line) HTTP/1.1\r\nHost: evil.example:1\r\nOrigin: http://evil.example:1\r\n\r\n")
      #expect(client.response()?.head.split(separator: " ").dropFirst().first.map(String.init) == status, "\(line)")
    }
    #expect(engine.value(.originsRefused) == 3)
    #expect(instance.accept(withinMilliseconds: 0) == nil)
  }

  @Test(arguments: [(SessionRecord.Origin.connection, "403"), (.rest, "101")])
  func pagesOpenSessionsThatRESTHasMade(_ origin: SessionRecord.Origin, _ status: String) throws {
    let instance = ScriptedInstance()
    var slots: Granting?
    let engine = try browsers(instance, [RouteRecord(id: "all", pool: "web")], origin: origin) { slots = $0 }
    let granting = try #require(slots)
    let fields = "Host: evil.example:1\r\nOrigin: http://evil.example:1\r\n"
    #expect(try webSocket(engine, instance, "/session/s1/", fields).status == status)
    // A slot that was given and is not used is given back.
    let released = SlotNotice.release(session: "s1")
    if status == "403" { #expect(eventually { granting.notices.withLock { $0.contains(released) } }) }
  }
}
