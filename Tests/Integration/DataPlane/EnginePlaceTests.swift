// Instances that take only so many requests at a time, the line before them, and backups, on real sockets.
import Engine
import Glibc
import Observability
import Posix
import ProxyMachine
import Routing
import Synchronization
import TestSupport
import Testing

@Suite struct EnginePlaceTests {
  private let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"

  private func pool(_ limit: Int, queue: Int = 1_000, wait: Int = 20_000) -> PoolRecord {
    var pool = PoolRecord(name: "web", kind: .http, slots: 0, queueTimeoutMilliseconds: wait, queueLimit: queue)
    pool.maxConnections = limit
    return pool
  }

  private func record(_ id: String, _ address: SocketAddress, isBackup: Bool = false) -> InstanceRecord {
    var record = InstanceRecord(id: id, pool: "web", host: address.host, port: address.port, slots: 0)
    record.isBackup = isBackup
    return record
  }

  private func waiting(_ engine: TestEngine) -> Int {
    engine.engine.labels.rows(.pool).first { $0.name == "web" }?[PoolCounter.waitingNow] ?? 0
  }
  private func counted(_ engine: TestEngine, _ counter: PoolCounter) -> Int {
    engine.engine.labels.rows(.pool).first { $0.name == "web" }?[counter] ?? 0
  }

  private func client(_ engine: TestEngine, _ path: String, _ fields: String = "") -> Peer {
    let client = engine.connect()
    client.send("GET \(path) HTTP/1.1\r\nHost: a\r\n\(fields)\r\n")
    return client
  }

  private func answer(_ upstream: Peer, _ text: String = "ok") {
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: \(text.utf8.count)\r\n\r\n\(text)")
  }

  /// The path of the request that comes on this connection.
  private func path(_ upstream: Peer) -> String? {
    upstream.receive(upTo: "\r\n\r\n").map { String($0.split(separator: " ")[1]) }
  }

  @Test(arguments: [1, 2]) func whoIsTooManyWaitsInLineOverAllWorkers(_ workers: Int) throws {
    let instance = ScriptedInstance()
    let engine = try TestEngine(instances: [instance.address], pool: pool(1), workers: workers)
    let first = client(engine, "/0")
    var upstream = try #require(instance.accept())
    #expect(path(upstream) == "/0")
    // One after the other into the line.
    var others: [Peer] = []
    for number in 1...6 {
      others.append(client(engine, "/\(number)"))
      #expect(eventually { waiting(engine) == number })
    }
    #expect(instance.accept(withinMilliseconds: 50) == nil)
    answer(upstream)
    #expect(first.response()?.body == "ok")
    for (index, other) in others.enumerated() {
      // The connection is kept by the worker that made it; another worker makes its own.
      var seen: String?
      if workers == 1 {
        seen = path(upstream)
      } else {
        var made: Peer?
        let kept = upstream.fd
        #expect(
          eventually {
            made = instance.accept(withinMilliseconds: 0)
            return made != nil || Socket.hasInput(kept)
          })
        seen = made == nil ? path(upstream) : nil
        if seen == nil {
          upstream = try #require(made ?? instance.accept())
          seen = path(upstream)
        }
      }
      #expect(seen == "/\(index + 1)")
      answer(upstream, "\(index)")
      #expect(other.response()?.body == "\(index)")
    }
    #expect(waiting(engine) == 0 && counted(engine, .queueWaits) == 6)
    if workers == 1 { #expect(engine.value(.instanceConnections) == 1) }
  }

  @Test func aFullInstanceIsPassedOverWhileAnotherHasRoom() throws {
    let instances = [ScriptedInstance(), ScriptedInstance()]
    let engine = try TestEngine(instances: instances.map(\.address), pool: pool(2))
    let clients = (0..<4).map { client(engine, "/\($0)") }
    let upstreams = try instances.flatMap { instance in
      try (0..<2).map { _ in try #require(instance.accept()) }
    }
    let fifth = client(engine, "/4")
    #expect(eventually { waiting(engine) == 1 })
    for upstream in upstreams {
      _ = path(upstream)
      answer(upstream)
    }
    #expect(clients.allSatisfy { $0.response()?.body == "ok" })
    #expect(eventually { waiting(engine) == 0 })
    withExtendedLifetime(fifth) {}
  }

  @Test func theLineIsBoundedInLengthAndTime() throws {
    let instance = ScriptedInstance()
    let engine = try TestEngine(instances: [instance.address], pool: pool(1, queue: 1, wait: 2_000))
    let first = client(engine, "/")
    let upstream = try #require(instance.accept())
    let second = client(engine, "/")
    #expect(eventually { waiting(engine) == 1 })
    let third = client(engine, "/")
    let full = try #require(third.response())
    #expect(full.head.hasPrefix("HTTP/1.1 503 ") && full.head.contains("\r\nRetry-After: 5\r\n"))
    let late = try #require(second.response())
    #expect(late.head.hasPrefix("HTTP/1.1 503 ") && late.head.contains("\r\nRetry-After: 1\r\n"))
    #expect(counted(engine, .queueFull) == 1 && counted(engine, .queueTimeouts) == 1)
    #expect(engine.value(.placesRefused) == 2 && waiting(engine) == 0)
    _ = path(upstream)
    answer(upstream)
    #expect(first.response()?.body == "ok")
    // Connections of those that were refused go on, and there is a place now.
    third.send(get)
    #expect(path(upstream) == "/")
    answer(upstream)
    #expect(third.response()?.body == "ok")
  }

  @Test func aRouteMayNotWaitAtAll() throws {
    let instance = ScriptedInstance()
    var route = RouteRecord(id: "all", pool: "web")
    route.queueTimeoutMilliseconds = 0
    let engine = try TestEngine(instances: [instance.address], pool: pool(1), routes: [route])
    let first = client(engine, "/")
    let upstream = instance.accept()
    #expect(upstream != nil)
    #expect(client(engine, "/").response()?.head.hasPrefix("HTTP/1.1 503 ") == true)
    withExtendedLifetime((first, upstream)) {}
  }

  @Test func whoGoesLeavesTheLineAndABodyWaitsWithItsRequest() throws {
    let instance = ScriptedInstance()
    let engine = try TestEngine(instances: [instance.address], pool: pool(1))
    let first = client(engine, "/first")
    let upstream = try #require(instance.accept())
    var gone: Peer? = client(engine, "/gone")
    #expect(eventually { waiting(engine) == 1 })
    gone?.reset()
    gone = nil
    #expect(eventually { waiting(engine) == 0 })
    let post = engine.connect()
    post.send("POST /post HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody")
    #expect(eventually { waiting(engine) == 1 })
    _ = path(upstream)
    answer(upstream)
    #expect(first.response()?.body == "ok")
    #expect(path(upstream) == "/post")
    #expect(upstream.receive(count: 4) == Array("body".utf8))
    answer(upstream)
    #expect(post.response()?.body == "ok")
  }

  @Test func aTunnelHasAPlaceAsLongAsItLives() throws {
    let instance = ScriptedInstance()
    let engine = try TestEngine(instances: [instance.address], pool: pool(1))
    var tunnel: Peer? = engine.connect()
    tunnel?.send(HTTPText.webSocket)
    let upstream = try #require(instance.accept())
    _ = path(upstream)
    upstream.send(HTTPText.switching)
    #expect(tunnel?.receive(upTo: "\r\n\r\n") != nil)
    let other = client(engine, "/other")
    #expect(eventually { waiting(engine) == 1 })
    tunnel = nil
    let next = try #require(instance.accept())
    #expect(path(next) == "/other")
    answer(next)
    #expect(other.response()?.body == "ok")
  }

  @Test func anInstanceThatComesTakesWhoWaits() throws {
    let instances = [ScriptedInstance(), ScriptedInstance()]
    let engine = try TestEngine(instances: [instances[0].address], pool: pool(1))
    let first = client(engine, "/first")
    let upstream = instances[0].accept()
    let second = client(engine, "/second")
    #expect(eventually { waiting(engine) == 1 })
    let records = [record("web-0", instances[0].address), record("web-1", instances[1].address)]
    engine.replace(
      RoutingTable(pools: [pool(1)], routes: [RouteRecord(id: "all", pool: "web")], instances: records))
    let other = try #require(instances[1].accept())
    #expect(path(other) == "/second")
    answer(other)
    #expect(second.response()?.body == "ok")
    // A limit that goes lets everybody in.
    let third = [client(engine, "/a"), client(engine, "/b")]
    #expect(eventually { waiting(engine) == 1 })
    engine.replace(
      RoutingTable(pools: [pool(0)], routes: [RouteRecord(id: "all", pool: "web")], instances: records))
    #expect(eventually { waiting(engine) == 0 })
    withExtendedLifetime((first, upstream, third)) {}
  }

  @Test func aFailedAttemptGivesItsPlaceBack() throws {
    let dead = ScriptedInstance().address
    let instance = AnsweringInstance(saying: "ok")
    let engine = try TestEngine(instances: [dead, instance.address], pool: pool(1))
    let client = engine.connect()
    for _ in 0..<20 {
      client.send(get)
      #expect(client.response()?.body == "ok")
    }
    #expect(waiting(engine) == 0 && engine.value(.placesRefused) == 0)
  }

  @Test func aCookieWaitsForItsInstance() throws {
    let instances = [ScriptedInstance(), ScriptedInstance()]
    var route = RouteRecord(id: "all", pool: "web")
    route.stickyCookie = "b"
    let engine = try TestEngine(instances: instances.map(\.address), pool: pool(1), routes: [route])
    let first = client(engine, "/")
    var upstreams: [Peer?] = []
    #expect(
      eventually {
        upstreams = instances.map { $0.accept(withinMilliseconds: 0) }
        return upstreams.contains { $0 != nil }
      })
    let mine = upstreams[0] == nil ? 1 : 0
    let upstream = try #require(upstreams[mine])
    _ = path(upstream)
    answer(upstream)
    let head = try #require(first.response()?.head)
    let cookie = try #require(head.split(separator: "\r\n").first { $0.hasPrefix("Set-Cookie: b=") }?.dropFirst(12))
    first.send("GET /1 HTTP/1.1\r\nHost: a\r\nCookie: \(cookie.prefix { $0 != ";" })\r\n\r\n")
    #expect(path(upstream) == "/1")
    let bound = client(engine, "/2", "Cookie: \(cookie.prefix { $0 != ";" })\r\n")
    #expect(eventually { waiting(engine) == 1 })
    // The other instance is idle and takes who is not bound.
    let free = client(engine, "/3")
    let other = try #require(instances[1 - mine].accept())
    #expect(path(other) == "/3")
    answer(upstream)
    #expect(path(upstream) == "/2")
    answer(upstream, "bound")
    #expect(bound.response()?.body == "bound")
    withExtendedLifetime(free) {}
  }

  @Test func whoWaitsFindsOutWhetherAnEjectedInstanceIsWellAgain() throws {
    let instance = ScriptedInstance()
    var pool = pool(1)
    pool.ejection.consecutiveFailures = 1
    pool.ejection.baseMilliseconds = 100
    pool.panicPercent = 0
    let engine = try TestEngine(instances: [instance.address], pool: pool)
    let first = client(engine, "/first")
    let upstream = try #require(instance.accept())
    let second = client(engine, "/second")
    let third = client(engine, "/third")
    #expect(eventually { waiting(engine) == 2 })
    // It fails, and is ejected with two in line.
    _ = path(upstream)
    upstream.send("HTTP/1.1 503 No\r\nContent-Length: 2\r\n\r\nno")
    #expect(first.response()?.body == "no")
    // The connection is kept, so the next request comes on it.
    let seen = try #require(path(upstream))
    #expect(["/second", "/third"].contains(seen))
    answer(upstream)
    #expect(path(upstream) != nil)
    answer(upstream)
    #expect(second.response()?.body == "ok" && third.response()?.body == "ok")
    #expect(engine.value(.placesRefused) == 0)
  }

  /// Many clients at once, some of which go away at any moment: at no time has an instance more than it may, and in the end
  /// every place is there.
  @Test(arguments: [1, 3]) func placesAreNeitherLostNorDoubled(_ workers: Int) throws {
    final class Watch: Sendable {
      let now = Atomic<Int>(0)
      let peak = Atomic<Int>(0)
      /// Requests are held until this many are there.
      let together = Atomic<Int>(0)
      let missed = Atomic<Int>(0)
      func serve() {
        let count = now.add(1, ordering: .relaxed).newValue
        peak.max(count, ordering: .relaxed)
        let wanted = together.load(ordering: .relaxed)
        let deadline = Clock.monotonicMilliseconds + 8_000
        while peak.load(ordering: .relaxed) < wanted {
          usleep(500)
          if Clock.monotonicMilliseconds > deadline {
            missed.add(1, ordering: .relaxed)
            break
          }
        }
        usleep(300)
        now.subtract(1, ordering: .relaxed)
      }
    }
    let watches = (0..<3).map { _ in Watch() }
    let instances = watches.map { watch in
      AnsweringInstance { _ in
        watch.serve()
        return "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
      }
    }
    let engine = try TestEngine(instances: instances.map(\.address), pool: pool(2), workers: workers)
    let address = engine.engine.addresses[0]
    let request = get
    func clients(_ count: Int, _ requests: Int, goAway: Bool) throws -> Int {
      let threads = (0..<count).map { number in
        TestThread { () -> Int in
          var random = SplitMix64(seed: UInt64(number))
          var served = 0
          var client = Peer(connectingTo: address)
          for _ in 0..<requests {
            client.send(request)
            if goAway, Int.random(in: 0..<3, using: &random) == 0 {
              usleep(UInt32.random(in: 0..<3_000, using: &random))
              client.reset()
              client = Peer(connectingTo: address)
            } else if client.response()?.body == "ok" {
              served += 1
            }
          }
          return served
        }
      }
      return try threads.reduce(0) { try $0 + $1.join() }
    }
    #expect(try clients(16, 20, goAway: false) == 320)
    for watch in watches { #expect(watch.peak.load(ordering: .relaxed) <= 2) }
    _ = try clients(16, 30, goAway: true)
    #expect(eventually { waiting(engine) == 0 && counted(engine, .activeNow) == 0 })
    #expect(eventually { watches.allSatisfy { $0.now.load(ordering: .relaxed) == 0 } })
    // All places at once: none is lost.
    for watch in watches {
      watch.peak.store(0, ordering: .relaxed)
      watch.together.store(2, ordering: .relaxed)
    }
    let last = (0..<6).map { _ in client(engine, "/") }
    for client in last { #expect(client.response()?.body == "ok") }
    for watch in watches { #expect(watch.missed.load(ordering: .relaxed) == 0) }
    #expect(engine.value(.placesRefused) == 0)
  }

  // MARK: Backups

  @Test(arguments: Strategy.allCases) func backupsAreForWhenNobodyElseIsThere(_ strategy: Strategy) throws {
    let normal = AnsweringInstance(saying: "normal")
    let backup = AnsweringInstance(saying: "backup")
    var route = RouteRecord(id: "all", pool: "web", strategy: strategy)
    if strategy.needsHashOn { route.hashOn = "x" }
    let pool = PoolRecord(name: "web", kind: .http, slots: 0)
    let engine = try TestEngine(
      instances: [], pool: pool, routes: [route],
      records: [record("web-0", normal.address), record("web-1", backup.address, isBackup: true)])
    let client = engine.connect()
    func ask() -> String? {
      client.send("GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\nCookie: x=1\r\n\r\n")
      return client.response()?.body
    }
    for _ in 0..<10 { #expect(ask() == "normal") }
    var ill = record("web-0", normal.address)
    ill.state = .unhealthy
    let records = [ill, record("web-1", backup.address, isBackup: true)]
    engine.replace(RoutingTable(pools: [pool], routes: [route], instances: records))
    #expect(eventually { ask() == "backup" })
    for _ in 0..<10 { #expect(ask() == "backup") }
    engine.replace(
      RoutingTable(
        pools: [pool], routes: [route],
        instances: [record("web-0", normal.address), record("web-1", backup.address, isBackup: true)]))
    #expect(eventually { ask() == "normal" })
    for _ in 0..<10 { #expect(ask() == "normal") }
  }

  @Test func backupsStandInForEjectedOnesAndForFurtherAttempts() throws {
    let dead = ScriptedInstance().address
    let backup = AnsweringInstance(saying: "backup")
    var pool = PoolRecord(name: "web", kind: .http, slots: 0)
    pool.ejection.consecutiveFailures = 2
    let engine = try TestEngine(
      instances: [], pool: pool,
      records: [record("web-0", dead), record("web-1", backup.address, isBackup: true)])
    let client = engine.connect()
    for _ in 0..<10 {
      client.send(get)
      #expect(client.response()?.body == "backup")
    }
    // Two further attempts, and then it is known to be gone: there is no panic as long as a backup is there.
    #expect(engine.value(.retries) == 2)
    #expect(eventually { engine.value(.ejections) == 1 } && engine.value(.panicPicks) == 0)
  }
}
