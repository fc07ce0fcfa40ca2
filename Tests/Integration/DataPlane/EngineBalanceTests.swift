// Strategies, weights, ejection, retries, cookies and jobs on real sockets: which instance gets which request.
import Engine
import Posix
import ProxyMachine
import Routing
import Synchronization
import TestSupport
import Testing

@Suite struct EngineBalanceTests {
  private func engine(
    _ instances: [AnsweringInstance], weights: [Int]? = nil,
    pool: PoolRecord = PoolRecord(name: "web", kind: .http, slots: 0), trustedProxies: [AddressRange] = [],
    coordinator: (any Coordinator)? = nil, route edit: (inout RouteRecord) -> Void
  ) throws -> TestEngine {
    var route = RouteRecord(id: "all", pool: "web")
    edit(&route)
    return try TestEngine(
      instances: [], pool: pool, routes: [route], trustedProxies: trustedProxies,
      records: records(instances, weights: weights), coordinator: coordinator.map { given in { _ in given } })
  }

  private func pool(failures: Int, ejectedMilliseconds: Int = 60_000) -> PoolRecord {
    var pool = PoolRecord(name: "web", kind: .http, slots: 0)
    pool.ejection.consecutiveFailures = failures
    pool.ejection.baseMilliseconds = ejectedMilliseconds
    return pool
  }

  private func records(_ instances: [AnsweringInstance], weights: [Int]? = nil) -> [InstanceRecord] {
    instances.enumerated().map { index, instance in
      var record = InstanceRecord(
        id: "web-\(index)", pool: "web", host: instance.address.host, port: instance.address.port, slots: 0)
      record.weight = weights?[index] ?? 1
      return record
    }
  }

  private func named(_ count: Int) -> [AnsweringInstance] { (0..<count).map { AnsweringInstance(saying: "\($0)") } }

  /// The text of the answer, or the status when it is not 200.
  private func ask(_ client: Peer, _ target: String = "/", _ fields: String = "", method: String = "GET") throws
    -> String
  {
    client.send("\(method) \(target) HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\(fields)\r\n")
    let response = try #require(client.response())
    return response.head.hasPrefix("HTTP/1.1 200") ? response.body : String(response.head.split(separator: " ")[1])
  }

  private func counts(_ instances: [AnsweringInstance]) -> [Int] { instances.map(\.requests) }

  @Test func roundRobinFollowsTheWeights() throws {
    let instances = named(4)
    let engine = try engine(instances, weights: [1, 2, 3, 0]) { $0.strategy = .roundRobin }
    let client = engine.connect()
    for _ in 0..<60 { _ = try ask(client) }
    #expect(counts(instances) == [10, 20, 30, 0])
  }

  @Test(arguments: [Strategy.random, .powerOfTwo, .leastConnections, .responseTime, .resources])
  func everyStrategyUsesAllInstances(_ strategy: Strategy) throws {
    let instances = named(3)
    let engine = try engine(instances) { $0.strategy = strategy }
    let client = engine.connect()
    for _ in 0..<200 { _ = try ask(client) }
    #expect(counts(instances).reduce(0, +) == 200)
    // The one that was fastest at first may get most by its response time.
    #expect(counts(instances).allSatisfy { $0 > (strategy == .responseTime ? 0 : 10) })
  }

  @Test func leastConnectionsLeavesABusyInstanceAlone() throws {
    let instances = named(2)
    let engine = try engine(instances) { $0.strategy = .leastConnections }
    // A tunnel stays at one of the two.
    let slow = ScriptedInstance()
    let table = RoutingTable(
      pools: [PoolRecord(name: "web", kind: .http, slots: 0)],
      routes: [
        {
          var r = RouteRecord(id: "all", pool: "web")
          r.strategy = .leastConnections
          return r
        }()
      ],
      instances: records(instances) + [
        InstanceRecord(id: "slow", pool: "web", host: slow.address.host, port: slow.address.port, slots: 0)
      ])
    engine.replace(table)
    var waiting: Peer?
    var open: [Peer] = []
    // One request after the other until one of them waits at the instance that does not answer.
    for _ in 0..<3 {
      let client = engine.connect()
      client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
      open.append(client)
      if let upstream = slow.accept(withinMilliseconds: 300) {
        waiting = upstream
        break
      }
      _ = client.response()
    }
    #expect(waiting != nil)
    let client = engine.connect()
    for _ in 0..<20 { _ = try ask(client) }
    #expect(slow.accept(withinMilliseconds: 0) == nil)
    open = []
  }

  @Test func hashesKeepAHeaderAtItsInstance() throws {
    let instances = named(4)
    let engine = try engine(instances) {
      $0.strategy = .headerHash
      $0.hashOn = "X-Key"
    }
    let client = engine.connect()
    var owner: [Int: String] = [:]
    for key in 0..<40 { owner[key] = try ask(client, "/", "x-key: k\(key)\r\n") }
    #expect(Set(owner.values).count == 4)
    for key in 0..<40 { #expect(try ask(client, "/", "X-KEY: k\(key)\r\n") == owner[key]) }
    // Only what was at the instance that goes moves.
    var route = RouteRecord(id: "all", pool: "web")
    route.strategy = .headerHash
    route.hashOn = "X-Key"
    engine.replace(
      RoutingTable(
        pools: [PoolRecord(name: "web", kind: .http, slots: 0)], routes: [route],
        instances: Array(records(instances).dropLast())))
    for key in 0..<40 where owner[key] != "3" { #expect(try ask(client, "/", "x-key: k\(key)\r\n") == owner[key]) }
    // Without the header every turn is as good as any.
    #expect(Set(try (0..<12).map { _ in try ask(client) }) == ["0", "1", "2"])
  }

  @Test func addressesAreHashedAndProxiesNameThem() throws {
    let instances = named(4)
    let proxy = try #require(AddressRange("127.0.0.99"))
    let engine = try engine(instances, trustedProxies: [proxy]) { $0.strategy = .ipHash }
    let hosts = (1...20).map { "127.0.1.\($0)" }
    let owners = try hosts.map { try ask(engine.connect(from: $0)) }
    #expect(Set(owners).count == 4)
    #expect(try hosts.map { try ask(engine.connect(from: $0)) } == owners)
    // The listed proxy speaks for its clients; what a stranger claims counts for nothing.
    let client = engine.connect(from: "127.0.0.99")
    #expect(try hosts.map { try ask(client, "/", "X-Forwarded-For: 9.9.9.9, \($0), 127.0.0.99\r\n") } == owners)
    let stranger = engine.connect(from: "127.0.1.1")
    #expect(Set(try hosts.map { try ask(stranger, "/", "X-Forwarded-For: \($0)\r\n") }) == [owners[0]])
  }

  @Test func cookiesAreHashed() throws {
    let instances = named(4)
    let engine = try engine(instances) {
      $0.strategy = .cookieHash
      $0.hashOn = "sid"
    }
    let client = engine.connect()
    let first = try (0..<20).map { try ask(client, "/", "Cookie: a=b; sid=u\($0)\r\n") }
    #expect(Set(first).count == 4)
    #expect(try (0..<20).map { try ask(client, "/", "Cookie: sid=u\($0); c=d\r\n") } == first)
  }

  @Test func aStickyCookieBindsAClient() throws {
    let instances = named(3)
    let engine = try engine(instances) {
      $0.stickyCookie = "berth"
      $0.path = "/app"
    }
    let client = engine.connect()
    client.send("GET /app/x HTTP/1.1\r\nHost: a\r\n\r\n")
    let response = try #require(client.response())
    let field = try #require(response.head.split(separator: "\r\n").first { $0.hasPrefix("Set-Cookie: ") })
    #expect(field.hasSuffix("; Path=/app; HttpOnly; SameSite=Lax"))
    let cookie = String(field.dropFirst("Set-Cookie: ".count).prefix { $0 != ";" })
    #expect(cookie.hasPrefix("berth=") && cookie.utf8.count == 22)
    for _ in 0..<9 {
      client.send("GET /app HTTP/1.1\r\nHost: a\r\nCookie: \(cookie)\r\n\r\n")
      let next = try #require(client.response())
      #expect(next.body == response.body)
      #expect(!next.head.contains("Set-Cookie"))
    }
    // A cookie of no instance is replaced.
    client.send("GET /app HTTP/1.1\r\nHost: a\r\nCookie: berth=0123456789abcdef\r\n\r\n")
    #expect(try #require(client.response()).head.contains("Set-Cookie: berth="))
  }

  @Test func failingInstancesAreEjectedAndTheOthersServe() throws {
    let bad = AnsweringInstance { _ in "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n" }
    let instances = [bad] + named(2)
    let engine = try engine(instances, pool: pool(failures: 3)) { _ in }
    let client = engine.connect()
    for _ in 0..<60 { _ = try ask(client) }
    #expect(bad.requests == 3)
    #expect(eventually { engine.value(.ejections) == 1 && engine.value(.ejectedNow) == 1 })
  }

  @Test func anEjectedInstanceComesBackByAProbe() throws {
    let isWell = AtomicFlag()
    let sick = AnsweringInstance { _ in
      isWell.value ? "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwell" : "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n"
    }
    let well = named(2)
    let engine = try engine(
      [sick] + well,
      pool: pool(failures: 2, ejectedMilliseconds: 1)
    ) { _ in }
    let client = engine.connect()
    for _ in 0..<20 { _ = try ask(client) }
    #expect(eventually { engine.value(.ejections) > 0 })
    isWell.value = true
    #expect(eventually { (try? ask(client)) == "well" })
    #expect(eventually { engine.value(.recoveries) > 0 && engine.value(.ejectedNow) == 0 })
    #expect(counts(well).allSatisfy { $0 > 0 })
  }

  @Test func aRetryGoesToAnotherInstance() throws {
    let instances = named(2)
    let gone = ScriptedInstance().address  // closed at once: connections are refused
    let engine = try engine(instances, pool: pool(failures: 0)) { _ in }
    var all = records(instances)
    all.append(InstanceRecord(id: "gone", pool: "web", host: gone.host, port: gone.port, slots: 0))
    engine.replace(
      RoutingTable(
        pools: [pool(failures: 0)], routes: [RouteRecord(id: "all", pool: "web")], instances: all))
    let client = engine.connect()
    for _ in 0..<30 { #expect(["0", "1"].contains(try ask(client))) }
    // A third of all attempts, further ones included.
    #expect((14...15).contains(engine.value(.retries)))
  }

  @Test func retriesEndWithTheirBudget() throws {
    let gone = ScriptedInstance().address
    let engine = try TestEngine(
      instances: [gone],
      routes: [
        {
          var route = RouteRecord(id: "all", pool: "web")
          route.retryBudgetPercent = 0
          route.retries = 1
          return route
        }()
      ])
    for _ in 0..<60 {
      let client = engine.connect()
      client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
      #expect(try #require(client.response()).head.hasPrefix("HTTP/1.1 50"))
    }
    // The floor of three a second, saved up for ten seconds.
    #expect((30...60).contains(engine.value(.retries)))
    #expect(engine.value(.retries) + engine.value(.retriesRefused) == 60)
  }

  // MARK: Jobs

  private let job = "0191f0c2-7d1a-7e6b-8d65-3f1e2a4b5c6d"

  @Test(arguments: [false, true]) func aJobsIdLeadsBackToItsInstance(_ isChunked: Bool) throws {
    let job = job
    let instances = (0..<3).map { number in
      AnsweringInstance { head in
        // A compressed answer's id could not be read.
        guard !head.contains("Accept-Encoding") else { return "HTTP/1.1 500 Compressed\r\nContent-Length: 0\r\n\r\n" }
        guard head.hasPrefix("POST ") else { return "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n\(number)" }
        let body = "{\"success\":true,\"owner\":\"\(number)\",\"id\":\"\(job)\"}"
        guard isChunked else { return "HTTP/1.1 200 OK\r\nContent-Length: \(body.utf8.count)\r\n\r\n\(body)" }
        let chunks = body.map { "1\r\n\($0)\r\n" }.joined()
        return "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\(chunks)0\r\n\r\n"
      }
    }
    let engine = try engine(instances) { $0.jobAffinity = true }
    let client = engine.connect()
    client.send("POST /v1/crawl HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\nContent-Length: 0\r\n\r\n")
    let answer: String
    if isChunked {
      answer = try #require(client.receive(upTo: "0\r\n\r\n"))
    } else {
      answer = try #require(client.response()).body
    }
    let digits = answer.replacing("\r\n", with: "").replacing("\"owner\":\"", with: "@")
    let owner =
      isChunked
      ? try #require((0..<3).map(String.init).first { instances[Int($0)!].requests == 1 })
      : String(try #require(digits.split(separator: "@").last?.first))
    for _ in 0..<9 { #expect(try ask(client, "/v1/crawl/\(job)") == owner) }
    #expect(Set(try (0..<9).map { _ in try ask(client, "/v1/team") }).count == 3)
    // Also while its instance drains.
    var all = records(instances)
    all[Int(owner)!].state = .draining
    var route = RouteRecord(id: "all", pool: "web")
    route.jobAffinity = true
    engine.replace(
      RoutingTable(pools: [PoolRecord(name: "web", kind: .http, slots: 0)], routes: [route], instances: all))
    for _ in 0..<4 { #expect(try ask(client, "/v1/crawl/\(job)/errors") == owner) }
    for _ in 0..<8 { #expect(try ask(client, "/v1/team") != owner) }
  }

  @Test func anotherReplicasJobIsAskedFor() throws {
    let job = job
    let notices = Notices()
    let instances = (0..<3).map { number in
      AnsweringInstance { head in
        let body = head.hasPrefix("POST ") ? "{\"id\":\"\(job)\"}" : "\(number)"
        return "HTTP/1.1 200 OK\r\nContent-Length: \(body.utf8.count)\r\n\r\n\(body)"
      }
    }
    let first = try engine(instances, coordinator: notices) { $0.jobAffinity = true }
    let other = try engine(instances, coordinator: notices) { $0.jobAffinity = true }
    notices.inbox.withLock { $0 = other.engine.inboxes[0] }
    _ = try ask(first.connect(), "/v2/batch/scrape", method: "POST")
    let made = notices.all.withLock { $0 }
    let owner = try #require((0..<3).first { instances[$0].requests == 1 })
    #expect(made == [.job(id: job, pool: "web", instance: "web-\(owner)")])
    let client = other.connect()
    for _ in 0..<6 { #expect(try ask(client, "/v2/batch/scrape/\(job)") == "\(owner)") }
    #expect(notices.asked.load(ordering: .relaxed) == 1)
    // Nobody knows this one, and of that one nobody says anything: each goes somewhere.
    #expect(Int(try ask(client, "/v1/crawl/00000000-0000-0000-0000-000000000001")) != nil)
    notices.inbox.withLock { $0 = nil }
    #expect(Int(try ask(client, "/v1/crawl/00000000-0000-0000-0000-000000000002")) != nil)
  }

  // MARK: Over replicas

  /// Remembers what it was told, and where jobs are.
  private final class Notices: Coordinator {
    let all = Mutex<[SlotNotice]>([])
    let inbox = Mutex<Mailbox?>(nil)
    let asked = Atomic<Int>(0)
    func submit(_ request: SlotRequest) {
      guard case .job(let id, _) = request.kind else { return }
      asked.add(1, ordering: .relaxed)
      let owners = all.withLock { $0 }.compactMap { notice in
        if case .job(id, _, let instance) = notice { return instance }
        return nil
      }
      let inbox = inbox.withLock { $0 }
      inbox?.deliver(owners.first.map { .instance($0) } ?? JobOwner.unknown, ticket: request.ticket)
    }
    func notify(_ notice: SlotNotice) { all.withLock { $0.append(notice) } }
  }

  @Test func lentIndexesAreUsedInOrder() throws {
    let notices = Notices()
    let instances = named(4)
    let engine = try engine(instances, coordinator: notices) { $0.strategy = .globalRoundRobin }
    let client = engine.connect()
    _ = try ask(client)
    #expect(notices.all.withLock { $0 } == [.borrow(pool: "web", worker: 0)])
    // Two blocks of one sequence, as another replica would get one and this one the other.
    engine.engine.inboxes[0].lend(block: 0..<4, pool: "web")
    let first = try (0..<4).map { _ in try ask(client) }
    engine.engine.inboxes[0].lend(block: 8..<12, pool: "web")
    let second = try (0..<4).map { _ in try ask(client) }
    #expect(Set(first).count == 4)
    #expect(first == second)
  }

  @Test func aBusyMachineGetsLess() throws {
    let instances = named(2)
    let engine = try engine(instances) { $0.strategy = .resources }
    engine.engine.inboxes[0].update(loads: [
      "web-0": InstanceLoad(cpuPercent: 95, memoryPercent: 20), "web-1": InstanceLoad(cpuPercent: 5, memoryPercent: 20),
    ])
    let client = engine.connect()
    for _ in 0..<100 { _ = try ask(client) }
    #expect(instances[1].requests > instances[0].requests * 3)
  }

  // MARK: Draining

  @Test func connectionsToAnInstanceThatDrainsAreClosedAndNoneIsKept() throws {
    let instance = ScriptedInstance()
    let engine = try TestEngine(instances: [instance.address])
    func table(_ state: InstanceState) -> RoutingTable {
      RoutingTable(
        pools: [PoolRecord(name: "web", kind: .http, slots: 0)], routes: [RouteRecord(id: "all", pool: "web")],
        instances: [
          InstanceRecord(
            id: "web-0", pool: "web", host: instance.address.host, port: instance.address.port, state: state, slots: 0)
        ])
    }
    let (first, second) = (engine.connect(), engine.connect())
    func request(_ client: Peer) { client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n") }
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    request(first)
    let kept = try #require(instance.accept())
    _ = try #require(kept.receive(upTo: "\r\n\r\n"))
    kept.send(answer)
    #expect(first.response()?.body == "ok")
    request(first)
    _ = try #require(kept.receive(upTo: "\r\n\r\n"), "it was kept")
    request(second)
    let other = try #require(instance.accept())
    _ = try #require(other.receive(upTo: "\r\n\r\n"))
    kept.send(answer)
    #expect(first.response()?.body == "ok")

    // One is idle now, one waits for its answer.
    let taken = engine.engine.inboxes[0].tablesTaken
    engine.replace(table(.draining))
    #expect(kept.ends())
    #expect(eventually { engine.engine.inboxes[0].tablesTaken == taken + 1 })
    let traffic = try #require(engine.engine.labels.traffic().instances.first)
    #expect(traffic == InstanceTraffic(instance: "web-0", pool: "web", requests: 3, errors: 0, active: 1))
    other.send(answer)
    #expect(second.response()?.body == "ok")
    #expect(other.ends(), "it is not kept for another")
    #expect(eventually { engine.engine.labels.traffic().instances.map(\.active) == [0] })
    request(second)
    #expect(second.response()?.head.hasPrefix("HTTP/1.1 503") == true)
    engine.replace(table(.ready))
    let third = engine.connect()
    request(third)
    #expect(instance.accept() != nil)
    #expect(eventually { engine.engine.labels.traffic().instances.map(\.requests) == [4] })
    engine.drain()
    #expect(engine.engine.inboxes[0].tablesTaken == Int.max)
  }
}

/// A flag that a test sets while instances read it.
final class AtomicFlag: Sendable {
  private let flag = Atomic<Bool>(false)
  var value: Bool {
    get { flag.load(ordering: .acquiring) }
    set { flag.store(newValue, ordering: .releasing) }
  }
}
