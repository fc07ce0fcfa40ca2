// What a route's fields do to requests, on real sockets: which route matches, what the instance sees, what is refused.
import Engine
import Posix
import ProxyMachine
import Routing
import TestSupport
import Testing

@Suite struct EngineRouteTests {
  private let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

  private func route(_ id: String, _ change: (inout RouteRecord) -> Void) -> RouteRecord {
    var route = RouteRecord(id: id, pool: "web")
    change(&route)
    return route
  }

  /// The request line and the Host that an instance sees, or the status that the client gets.
  private func seen(_ routes: [RouteRecord], _ target: String, host: String = "a.test") throws -> String {
    let instance = ScriptedInstance()
    let engine = try TestEngine(instances: [instance.address], routes: routes)
    let client = engine.connect()
    client.send("GET \(target) HTTP/1.1\r\nHost: \(host)\r\nConnection: close\r\n\r\n")
    var reached: Peer?
    #expect(
      eventually {
        reached = instance.accept(withinMilliseconds: 0)
        return reached != nil || engine.value(.responses4xx) > 0
      })
    if let upstream = reached {
      let head = try #require(upstream.receive(upTo: "\r\n\r\n"))
      upstream.send(ok)
      #expect(client.response()?.body == "ok")
      return String(head.split(separator: " ")[1])
    }
    return String(try #require(client.response()).head.split(separator: " ")[1])
  }

  @Test(arguments: [
    ("api.example.com", "/x", "/x"), ("API.Example.COM:8080", "/x", "/x"), ("a.b.example.com", "/x", "/x"),
    ("example.com", "/x", "404"), (".example.com", "/x", "404"), ("badexample.com", "/x", "404"),
    ("api.example.com.evil", "/x", "404"),
  ])
  func wildcardHostsMatchTheNamesBelow(_ host: String, _ target: String, _ expected: String) throws {
    #expect(try seen([route("w") { $0.host = "*.example.com" }], target, host: host) == expected)
  }

  @Test(arguments: [
    ("/api/*", "/api", "/api"), ("/api/*", "/api/x/y?q=/", "/api/x/y?q=/"), ("/api/*", "/apix", "404"),
    ("/users/*/photo", "/users/7/photo", "/users/7/photo"),
    ("/users/*/photo", "/users/7/photo/large", "/users/7/photo/large"),
    ("/users/*/photo", "/users/photo", "404"), ("/users/*/photo", "/users//photo", "404"),
    ("/users/*/photo", "/users/7/8/photo", "404"), ("/users/*/photo", "/users/7/photos", "404"),
  ])
  func patternsMatchWholeSegments(_ path: String, _ target: String, _ expected: String) throws {
    #expect(try seen([route("p") { $0.path = path }], target) == expected)
  }

  @Test(arguments: [
    ("/api", "/v2", "/api/x?q=1", "/v2/x?q=1"), ("/api", "/v2", "/api", "/v2"), ("/api", "/v2", "/api?q=1", "/v2?q=1"),
    ("/api/*", "/", "/api/x", "/x"), ("/", "/all/of", "/x", "/all/of/x"), ("/a/*/c", "/z", "/a/b/c", "/z/b/c"),
    ("/api", "/v2/", "/api/x", "/v2/x"),
  ])
  func prefixesAreReplaced(_ path: String, _ replacement: String, _ target: String, _ expected: String) throws {
    let routes = [
      route("r") {
        $0.path = path
        $0.replacePrefix = replacement
      }
    ]
    #expect(try seen(routes, target) == expected)
  }

  @Test func exactHostsWinOverWildcardsAndLongPathsOverShort() throws {
    let strips = { (host: String?, path: String, mark: String) in
      self.route(mark) {
        $0.host = host
        $0.path = path
        $0.replacePrefix = "/" + mark
      }
    }
    let routes = [
      strips(nil, "/", "any"), strips("*.test", "/", "wild"), strips("a.test", "/", "exact"),
      strips("a.test", "/p", "path"),
    ]
    #expect(try seen(routes, "/p/x", host: "a.test") == "/path/x")
    #expect(try seen(routes, "/x", host: "a.test") == "/exact/x")
    #expect(try seen(routes, "/x", host: "b.test") == "/wild/x")
    #expect(try seen(routes, "/x", host: "b.example") == "/any/x")
  }

  @Test func anUpgradeThatTheRouteForbidsIsIgnored() throws {
    let instance = ScriptedInstance()
    let engine = try TestEngine(instances: [instance.address], routes: [route("plain") { $0.upgrades = false }])
    let client = engine.connect()
    client.send(
      "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n")
    let upstream = try #require(instance.accept())
    let head = try #require(upstream.receive(upTo: "\r\n\r\n"))
    #expect(!head.lowercased().contains("upgrade"))
    // An instance that switches all the same is not believed.
    upstream.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    #expect(client.response()?.head.hasPrefix("HTTP/1.1 502 ") == true)
  }

  @Test func bodiesLargerThanTheRouteTakesAreRefused() throws {
    let instance = ScriptedInstance()
    let engine = try TestEngine(instances: [instance.address], routes: [route("small") { $0.bodyBytes = 100 }])
    let client = engine.connect()
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 101\r\n\r\n")
    #expect(client.response()?.head.hasPrefix("HTTP/1.1 413 ") == true)
    #expect(eventually { engine.value(CloseReason.bodyTooLarge) == 1 })

    let fits = engine.connect()
    let body = String(repeating: "x", count: 100)
    fits.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n\(body)")
    let upstream = try #require(instance.accept())
    _ = try #require(upstream.receive(upTo: "\r\n\r\n"))
    #expect(upstream.receive(count: 100) == Array(body.utf8))
    upstream.send(ok)
    #expect(fits.response()?.body == "ok")

    // The next request of the connection has the whole limit again, and a chunked body is counted as it comes.
    fits.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n32\r\n")
    _ = try #require(upstream.receive(upTo: "\r\n\r\n"))
    fits.send("\(String(repeating: "y", count: 50))\r\n40\r\n\(String(repeating: "z", count: 64))\r\n0\r\n\r\n")
    #expect(fits.response()?.head.hasPrefix("HTTP/1.1 413 ") == true)
    #expect(upstream.ends() || upstream.ends() || upstream.ends())
    #expect(eventually { engine.value(CloseReason.bodyTooLarge) == 2 })
  }

  @Test(arguments: [0, 1, 4]) func retriesAreAsManyAsTheRouteSays(_ retries: Int) throws {
    let refusing = ScriptedInstance().address
    let engine = try TestEngine(instances: [refusing], routes: [route("r") { $0.retries = retries }])
    let client = engine.connect()
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    #expect(client.response()?.head.hasPrefix("HTTP/1.1 502 ") == true)
    #expect(engine.value(.retries) == retries)
  }

  @Test func aRoutesOwnTimeLimitHolds() throws {
    let instance = ScriptedInstance()
    let engine = try TestEngine(
      instances: [instance.address], routes: [route("quick") { $0.firstByteTimeoutMilliseconds = 150 }])
    let client = engine.connect()
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    let upstream = try #require(instance.accept())
    // The engine's own limit is minutes; this client gets its answer from the route's.
    #expect(client.response()?.head.hasPrefix("HTTP/1.1 504 ") == true)
    #expect(eventually { engine.value(CloseReason.firstByteTimeout) == 1 })
    _ = upstream
  }

  /// The head that an instance sees of a request with these fields.
  private func head(_ fields: String, trusted: [AddressRange] = [], _ change: (inout RouteRecord) -> Void = { _ in })
    throws -> [String]
  {
    let instance = ScriptedInstance()
    let engine = try TestEngine(
      instances: [instance.address], routes: [route("r", change)], trustedProxies: trusted)
    let client = engine.connect()
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\(fields)\r\n")
    let upstream = try #require(instance.accept())
    let head = try #require(upstream.receive(upTo: "\r\n\r\n"))
    upstream.send(ok)
    _ = client.response()
    return head.split(separator: "\r\n").map(String.init)
  }

  @Test func instancesAreToldOfTheClientAndStrangersClaimsEnd() throws {
    let lines = try head(
      "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nForwarded: for=6.6.6.6\r\nX-Request-ID: theirs\r\n"
        + "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n")
    #expect(
      lines.filter { $0.lowercased().contains("forwarded") } == [
        "X-Forwarded-For: 127.0.0.1", "X-Forwarded-Proto: http", "X-Forwarded-Host: a.test",
      ])
    #expect(lines.contains("Via: 1.1 berth"))
    #expect(lines.contains { $0.hasPrefix("traceparent: 00-0af7") })
    let ids = lines.filter { $0.hasPrefix("X-Request-ID: ") }
    #expect(ids.count == 1)
    let id = try #require(ids.first).dropFirst(14)
    #expect(id.count == 32 && id.allSatisfy { "0123456789abcdef".contains($0) })
  }

  @Test func eachRequestHasAnIdOfItsOwn() throws {
    let ids = try (0..<3).map { _ in try head("").first { $0.hasPrefix("X-Request-ID: ") } }
    #expect(Set(ids).count == 3)
  }

  @Test func aTrustedProxyIsAddedTo() throws {
    let lines = try head(
      "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Request-ID: theirs\r\n",
      trusted: [try #require(AddressRange("127.0.0.0/8"))])
    #expect(lines.contains("X-Forwarded-For: 6.6.6.6, 127.0.0.1"))
    #expect(lines.contains("X-Forwarded-Proto: https"))
    #expect(lines.contains("X-Request-ID: theirs"))
  }

  @Test func headersAreAddedAndRemoved() throws {
    let lines = try head("X-Secret: 1\r\nX-Kept: 2\r\n") {
      $0.requestHeaders = HeaderRules(add: [.init(name: "X-Added", value: "yes")], remove: ["x-secret", "via"])
    }
    #expect(lines.contains("X-Added: yes"))
    #expect(lines.contains("X-Kept: 2"))
    #expect(!lines.contains { $0.hasPrefix("X-Secret") || $0.hasPrefix("Via") })

    let instance = ScriptedInstance()
    let engine = try TestEngine(
      instances: [instance.address],
      routes: [
        route("r") {
          $0.responseHeaders = HeaderRules(
            add: [.init(name: "Strict-Transport-Security", value: "max-age=1")], remove: ["Server"])
        }
      ])
    let client = engine.connect()
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    let upstream = try #require(instance.accept())
    _ = upstream.receive(upTo: "\r\n\r\n")
    upstream.send("HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 2\r\n\r\nok")
    let response = try #require(client.response())
    #expect(response.head.contains("Strict-Transport-Security: max-age=1\r\n"))
    #expect(!response.head.contains("Server"))
  }

  @Test(arguments: [
    ("10.0.0.0/8", "10.1.2.3", true), ("10.0.0.0/8", "11.0.0.1", false), ("10.0.0.0/8", "::ffff:10.9.9.9", true),
    ("::1", "::1", true), ("fd00::/9", "fd7f::1", true), ("fd00::/9", "fd80::1", false), ("0.0.0.0/0", "8.8.8.8", true),
    ("0.0.0.0/0", "2001:db8::1", false), ("192.0.2.1", "192.0.2.1", true), ("192.0.2.0/31", "192.0.2.2", false),
  ])
  func blocksHoldTheirAddresses(_ block: String, _ address: String, _ isInside: Bool) throws {
    let range = try #require(AddressRange(block))
    #expect(range.contains(try #require(SocketAddress(host: address, port: 1))) == isInside)
  }

  @Test(arguments: ["", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/", "ten", "::/129", "1.2.3.4/-1", "1.2.3.4/8/9"])
  func whatIsNoBlockIsRefused(_ text: String) { #expect(AddressRange(text) == nil) }
}
