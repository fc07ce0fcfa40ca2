// Who may come and how: addresses, redirects, header fields that are set, several listeners and unix sockets, and who goes
// first when there is no more room.
import Engine
import Glibc
import Posix
import ProxyMachine
import Routing
import TestSupport
import Testing

@Suite struct EngineKnobTests {
  private let get = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"

  private func route(_ change: (inout RouteRecord) -> Void) -> [RouteRecord] {
    var route = RouteRecord(id: "all", pool: "web")
    change(&route)
    return [route]
  }

  private func status(_ client: Peer, _ request: String) -> String? {
    client.send(request)
    return client.response().map { String($0.head.split(separator: " ")[1]) }
  }

  @Test func addressesAreLetInOrNot() throws {
    let instance = AnsweringInstance(saying: "ok")
    let engine = try TestEngine(
      instances: [instance.address],
      routes: route {
        $0.allow = ["127.0.0.0/28", "203.0.113.0/24"]
        $0.deny = ["127.0.0.5", "203.0.113.9"]
      }, trustedProxies: [AddressRange("127.0.0.9")!])
    #expect(status(engine.connect(from: "127.0.0.2"), get) == "200")
    let denied = engine.connect(from: "127.0.0.5")
    #expect(status(denied, get) == "403")
    // The connection goes on: another route may be for this client.
    #expect(status(denied, get) == "403")
    #expect(status(engine.connect(from: "127.0.0.16"), get) == "403")
    // A listed proxy speaks for its clients, a stranger does not.
    func forwarded(_ address: String) -> String {
      "GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: \(address)\r\n\r\n"
    }
    #expect(status(engine.connect(from: "127.0.0.9"), forwarded("203.0.113.8")) == "200")
    #expect(status(engine.connect(from: "127.0.0.9"), forwarded("203.0.113.9")) == "403")
    #expect(status(engine.connect(from: "127.0.0.5"), forwarded("203.0.113.8")) == "403")
    #expect(engine.value(.addressesDenied) == 5 && instance.requests == 2)
  }

  @Test func plainRequestsAreSentToHTTPS() throws {
    let folder = try TLSFolder()
    let certificate = try folder.certificate()
    let instance = AnsweringInstance(saying: "ok")
    let engine = try TestEngine(
      instances: [instance.address], routes: route { $0.redirectPort = 443 }, certificate: certificate,
      trustedProxies: [AddressRange("127.0.0.9")!])
    func location(_ client: Peer, _ request: String) throws -> String {
      client.send(request)
      let response = try #require(client.response())
      #expect(response.head.hasPrefix("HTTP/1.1 308 Permanent Redirect\r\n"))
      return String(try #require(response.head.split(separator: "\r\n").first { $0.hasPrefix("Location: ") }))
    }
    let client = engine.connect()
    #expect(
      try location(client, "GET /a/b?c=d HTTP/1.1\r\nHost: a.test:8080\r\n\r\n") == "Location: https://a.test/a/b?c=d")
    #expect(try location(client, "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n") == "Location: https://[::1]/")
    #expect(
      try location(client, "GET http://b.test HTTP/1.1\r\nHost: a.test\r\n\r\n") == "Location: https://b.test/")
    #expect(status(engine.connect(), "GET / HTTP/1.0\r\n\r\n") == "400")
    #expect(instance.requests == 0 && engine.value(.redirects) >= 3)
    let safe = try engine.connectTLS(caFile: certificate.certificate)
    #expect(status(safe, get) == "200")
    let secure = "GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-Proto: https\r\n\r\n"
    #expect(status(engine.connect(from: "127.0.0.9"), secure) == "200")
    #expect(status(engine.connect(), secure) == "308")
    // Another port is named.
    engine.replace(
      RoutingTable(
        pools: [PoolRecord(name: "web", kind: .http, slots: 0)], routes: route { $0.redirectPort = 8443 },
        instances: []))
    #expect(eventually { (try? location(client, get)) == "Location: https://a.test:8443/" })
  }

  @Test func aFieldThatIsSetStandsOnceWhoeverWroteItBefore() throws {
    let instance = ScriptedInstance()
    let rules = [
      "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Request-ID", "Via", "X-Mine",
    ].map { HeaderRules.Field(name: $0, value: "set") }
    let engine = try TestEngine(
      instances: [instance.address],
      routes: route {
        // What Berth writes itself needs no removal.
        $0.requestHeaders = HeaderRules(add: rules, remove: ["x-mine"])
        $0.responseHeaders = HeaderRules(add: [.init(name: "Date", value: "never")])
      })
    let client = engine.connect()
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Mine: client\r\nVia: 1.1 client\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n")
    let upstream = try #require(instance.accept())
    let head = try #require(upstream.receive(upTo: "\r\n\r\n"))
    for rule in rules {
      let lines = head.split(separator: "\r\n").filter { $0.lowercased().hasPrefix(rule.name.lowercased() + ":") }
      #expect(lines == ["\(rule.name): set"])
    }
    for date in ["", "Date: Mon, 01 Jan 2024 00:00:00 GMT\r\n"] {
      upstream.send("HTTP/1.1 200 OK\r\n\(date)Content-Length: 2\r\n\r\nok")
      let answer = try #require(client.response()).head
      #expect(answer.split(separator: "\r\n").filter { $0.hasPrefix("Date:") } == ["Date: never"])
      client.send(get)
      _ = upstream.receive(upTo: "\r\n\r\n")
    }
  }

  // MARK: Listeners

  private func socketPath(_ name: String) -> String { "/tmp/berth-knob-\(getpid())-\(name)" }

  @Test(arguments: [1, 3]) func severalAddressesAndUnixSocketsAreListenedOn(_ workers: Int) throws {
    let path = socketPath("listen\(workers)")
    defer { unsafe unlink(path) }
    let instance = ScriptedInstance()
    let loopback = SocketAddress("127.0.0.1:0")!
    let unix = try #require(SocketAddress(unixPath: path))
    let engine = try TestEngine(
      instances: [instance.address], listen: [loopback, unix, loopback], workers: workers)
    #expect(engine.engine.addresses.count == 3 && engine.engine.addresses[1].description == "unix:\(path)")
    for address in engine.engine.addresses {
      for _ in 0..<workers * 2 {
        let client = Peer(connectingTo: address)
        client.send(get)
        let upstream = try #require(instance.accept())
        let head = try #require(upstream.receive(upTo: "\r\n\r\n"))
        #expect(head.contains("\r\nX-Forwarded-For: 127.0.0.1\r\n"))
        upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        #expect(client.response()?.body == "ok")
      }
    }
    // Somebody listens there.
    #expect(throws: EngineError.self) { try Engine(EngineConfiguration(listen: [unix])) }
  }

  @Test func aUnixSocketIsHandedOver() throws {
    let path = socketPath("handover")
    defer { unsafe unlink(path) }
    let instance = AnsweringInstance(saying: "ok")
    let unix = try #require(SocketAddress(unixPath: path))
    let former = try TestEngine(instances: [instance.address], listen: [unix], workers: 2)
    let kept = Peer(connectingTo: unix)
    #expect(status(kept, get) == "200")
    let given = former.engine.handoverListeners
    #expect(given.map(\.address.description) == ["unix:\(path)", "unix:\(path)"])
    let copies = given.map {
      HandoverListener(kind: $0.kind, address: $0.address, descriptor: Int32(Socket.duplicate($0.descriptor)))
    }
    let next = try TestEngine(instances: [instance.address], listen: [unix], workers: 3, inherited: copies)
    former.drain(milliseconds: 5_000)
    let client = Peer(connectingTo: unix)
    #expect(status(client, get) == "200")
    #expect(next.value(Counter.accepted) == 1)
  }

  @Test(arguments: [0, 1, 2]) func anInstanceMayBeAUnixSocket(_ proxyProtocol: Int) throws {
    let path = socketPath("instance\(proxyProtocol)")
    defer { unsafe unlink(path) }
    let address = try #require(SocketAddress(unixPath: path))
    let listener = Int32(Socket.listen(address, backlog: 8, sharesPort: false, defersAccept: false))
    defer { Socket.close(listener) }
    var pool = PoolRecord(name: "web", kind: .http, slots: 0)
    pool.proxyProtocol = proxyProtocol
    let record = InstanceRecord(id: "app", pool: "web", host: "unix:\(path)", port: 0, slots: 0)
    let engine = try TestEngine(instances: [], pool: pool, records: [record])
    let client = engine.connect()
    client.send(get)
    var entry = pollfd(fd: listener, events: Int16(POLLIN), revents: 0)
    #expect(unsafe poll(&entry, 1, 10_000) == 1)
    var peer = SocketAddress()
    let upstream = Peer(fd: Int32(Socket.accept(listener, from: &peer)))
    // Version 2 begins with line ends of its own.
    if proxyProtocol == 2 { #expect(upstream.receive(count: 28)?[13] == 0x11) }
    let head = try #require(upstream.receive(upTo: "\r\n\r\n"))
    #expect(head.contains("\r\nHost: a.test\r\n"))
    if proxyProtocol == 1 { #expect(head.hasPrefix("PROXY TCP4 127.0.0.1 127.0.0.1 ")) }
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    #expect(client.response()?.body == "ok")
    if proxyProtocol == 0 {
      // It is kept like any other.
      client.send(get)
      #expect(upstream.receive(upTo: "\r\n\r\n") != nil)
    }
  }

  @Test func aUnixSocketThatIsGoneIsAnInstanceThatRefuses() throws {
    let record = InstanceRecord(id: "app", pool: "web", host: "unix:/tmp/berth-no-such-socket", port: 0, slots: 0)
    let engine = try TestEngine(instances: [], records: [record])
    #expect(status(engine.connect(), get) == "502")
  }

  // MARK: Room

  @Test func idleClientsGoFirstWhenThereIsNoMoreRoom() throws {
    let instance = AnsweringInstance(saying: "ok")
    var limits = EngineLimits()
    limits.clientConnections = 4
    let engine = try TestEngine(instances: [instance.address], limits: limits)
    // Three that are kept and one that waits for its answer.
    let idle = (0..<3).map { _ in engine.connect() }
    for client in idle { #expect(status(client, get) == "200") }
    let busy = engine.connect()
    busy.send("GET / HTTP/1.1\r\nHost: a\r\n")
    #expect(eventually { engine.value(Counter.accepted) == 4 })
    // Nobody goes as long as nobody comes.
    #expect(engine.value(.idleGivenUp) == 0)
    let newcomer = engine.connect()
    #expect(status(newcomer, get) == "200")
    #expect(engine.value(.idleGivenUp) == 1)
    busy.send("\r\n")
    #expect(busy.response()?.body == "ok")
    // The others are still served; the one that went was told by the end of its connection.
    let served = idle.filter { status($0, get) == "200" }
    #expect(served.count == 2)
  }

  @Test func withoutAnIdleClientNewcomersWait() throws {
    let instance = ScriptedInstance()
    var limits = EngineLimits()
    limits.clientConnections = 1
    let engine = try TestEngine(instances: [instance.address], limits: limits)
    let first = engine.connect()
    first.send(get)
    let upstream = try #require(instance.accept())
    _ = upstream.receive(upTo: "\r\n\r\n")
    let second = engine.connect()
    second.send(get)
    #expect(instance.accept(withinMilliseconds: 300) == nil)
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    #expect(first.response()?.body == "ok")
    // Now the first one is idle, and goes.
    #expect(upstream.receive(upTo: "\r\n\r\n") != nil)
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    #expect(second.response()?.body == "ok")
    #expect(first.ends() && engine.value(.idleGivenUp) == 1)
  }

  // MARK: Bodies

  @Test func aBodyThatWaitsForItsInstanceIsNotSlow() throws {
    let instance = ScriptedInstance()
    var limits = EngineLimits()
    limits.bodyGraceMilliseconds = 200
    limits.bodyBytesPerSecond = 1_000_000_000
    let engine = try TestEngine(instances: [instance.address], limits: limits)
    let client = engine.connect()
    let body = [UInt8](repeating: 7, count: 32 << 20)
    let sender = TestThread {
      client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \(body.count)\r\n\r\n")
      client.send(body)
    }
    let upstream = try #require(instance.accept())
    _ = upstream.receive(upTo: "\r\n\r\n")
    // The instance stands still for much longer than the grace.
    usleep(800_000)
    #expect(upstream.receive(count: body.count) == body)
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    try sender.join()
    #expect(client.response()?.body == "ok")
    #expect(engine.value(.bodyTooSlow) == 0)
  }

  @Test func aRouteMayTakeItsTime() throws {
    let instance = ScriptedInstance()
    var limits = EngineLimits()
    limits.bodyGraceMilliseconds = 100
    limits.bodyBytesPerSecond = 1_000
    let engine = try TestEngine(
      instances: [instance.address], routes: route { $0.minBodyBytesPerSecond = 0 }, limits: limits)
    let client = engine.connect()
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\n")
    let upstream = try #require(instance.accept())
    for _ in 0..<50 {
      client.send("x")
      usleep(10_000)
    }
    #expect(upstream.receive(upTo: String(repeating: "x", count: 50)) != nil)
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    #expect(client.response()?.body == "ok")
  }
}
