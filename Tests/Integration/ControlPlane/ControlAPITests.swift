// REST over real HTTP on a real Redis, with a leader and Chromes behind it where sessions are made: shapes, limits,
// refusals, and clients that break off.
import API
import Domain
import JSON
import Logging
import Posix
import Redis
import Routing
import Runtimes
import State
import Supervisor
import TLS
import TestSupport
import Testing

/// The REST API of one control plane at a port of its own.
final class RunningAPI: Sendable {
  let address: SocketAddress
  private let task: Task<Void, Never>
  private let client: RedisClient

  init(
    _ bench: ControlBench, _ pools: [PoolSpec], bell: WakeBell = WakeBell(), maxSessions: Int = 200,
    keys: DeclaredKeys? = nil, metrics: ControlMetrics = ControlMetrics(pools: []), descriptors: Int = 1_024,
    idleSeconds: Int64 = APIServer.idleSeconds,
    beforeAnswer: @escaping @Sendable () async -> Void = {}
  ) async throws {
    let port = try unusedPort()
    let options = RedisOptions(connectTimeoutMilliseconds: 3_000, commandTimeoutMilliseconds: 3_000)
    client = try RedisClient(url: bench.redis.unixURL, options: options, observe: metrics.observe)
    let logger = Logger(label: "api") { _ in SwiftLogNoOpLogHandler() }
    let declared = keys ?? DeclaredKeys()
    let handlers = Handlers(
      configuration: APIConfiguration(
        pools: pools, publicURL: "https://b.example", maxSessions: maxSessions, portHosts: [bench.host], id: "me",
        processID: 7, declaredKeys: declared),
      redis: client, keys: bench.keys, bell: bell, logger: logger, metrics: metrics, clock: { Clock.unixMilliseconds })
    let (listening, told) = AsyncStream<Void>.makeStream()
    let authenticator = Authenticator(
      isRequired: keys != nil, declared: declared, redis: client, keys: bench.keys,
      clock: { Clock.unixMilliseconds })
    let server = APIServer(
      handlers, authenticator, pages: PageGuard(asksForKeys: keys != nil, names: ["b.example"]), host: "127.0.0.1",
      port: port, descriptors: descriptors, idleSeconds: idleSeconds, logger: logger, beforeAnswer: beforeAnswer,
      onListening: { told.finish() })
    task = Task {
      try? await server.run()
      told.finish()
    }
    address = SocketAddress(host: "127.0.0.1", port: port)!
    for await _ in listening {}
  }
  deinit { task.cancel() }

  struct Reply: Sendable {
    let status: Int
    let head: String
    let text: String
    let json: JSON
  }

  /// One request on a connection of its own, on a thread that may wait.
  func ask(
    _ method: String, _ path: String, body: String? = nil, type: String? = "application/json", key: String? = nil,
    headers: [String: String] = [:], host: String = "x"
  ) async throws -> Reply {
    let address = address
    let text = try await BlockingPool.shared.run { () throws(FixtureError) -> (head: String, body: String) in
      // A create may wait for a browser's start.
      let peer = Peer(connectingTo: address, seconds: 120)
      var request = "\(method) \(path) HTTP/1.1\r\nHost: \(host)\r\nConnection: close\r\n"
      if let key { request += "Authorization: Bearer \(key)\r\n" }
      for (name, value) in headers { request += "\(name): \(value)\r\n" }
      if let body {
        request += "Content-Length: \(body.utf8.count)\r\n"
        if let type { request += "Content-Type: \(type)\r\n" }
      }
      peer.send(request + "\r\n" + (body ?? ""))
      guard let response = peer.response() else { throw FixtureError("\(method) \(path): no answer") }
      return response
    }
    let status = text.head.split(separator: " ").dropFirst().first.flatMap { Int($0) } ?? 0
    return Reply(
      status: status, head: text.head.lowercased(), text: text.body,
      json: text.body.isEmpty || text.head.contains("text/plain") ? .null : try JSON(parsing: text.body))
  }
}

@Suite struct ControlKeyTests {
  private let operatorKey = "operator-key-000001"
  private let sessionKey = "session-key-0000001"

  private func record(_ id: String, _ key: String, _ scope: KeyRecord.Scope) -> KeyRecord {
    var record = KeyRecord(id: id, sha256: SHA256Digest(of: key).hexadecimal, scopes: [scope])
    record.isDeclared = true
    return record
  }

  private func api(_ bench: ControlBench) async throws -> RunningAPI {
    try await RunningAPI(
      bench, [bench.pool()],
      keys: DeclaredKeys([record("ops", operatorKey, .admin), record("ci", sessionKey, .session)]))
  }

  @Test func eachRouteAsksForItsScope() async throws {
    let bench = try ControlBench()
    let api = try await api(bench)
    // Probes have no keys.
    #expect(try await api.ask("GET", "/api/health").status == 200)
    #expect(try await api.ask("GET", "/api/ready").status == 503)
    let refused = try await api.ask("GET", "/api/pools")
    #expect(refused.status == 401)
    #expect(refused.head.contains("www-authenticate: bearer realm=\"berth\""))
    #expect(try await api.ask("GET", "/api/pools", key: "wrong-key-000000001").status == 401)
    #expect(try await api.ask("GET", "/api/pools", key: sessionKey).status == 403)
    #expect(try await api.ask("GET", "/api/pools", key: operatorKey).status == 200)
    #expect(try await api.ask("GET", "/api/pools?token=\(operatorKey)").status == 200)
    let unknown = "/api/session/00000000-0000-4000-8000-000000000000"
    #expect(try await api.ask("GET", unknown).status == 401)
    #expect(try await api.ask("GET", unknown, key: sessionKey).status == 404)
    #expect(try await api.ask("GET", unknown, key: operatorKey).status == 404)
    #expect(try await api.ask("GET", "/api/sessions", key: sessionKey).status == 403)
    for path in ["/metrics", "/api/status"] {
      #expect(try await api.ask("GET", path).status == 401)
      #expect(try await api.ask("GET", path, key: sessionKey).status == 403)
      #expect(try await api.ask("GET", path, key: operatorKey).status == 200)
    }
  }

  @Test func theKeysOfTheFileMayChange() async throws {
    let bench = try ControlBench()
    let keys = DeclaredKeys([record("ops", operatorKey, .admin), record("ci", sessionKey, .session)])
    let control = try bench.start("a", [bench.pool()], keys: keys)
    let api = try await RunningAPI(bench, [bench.pool()], bell: control.bell, keys: keys)
    func stored() async throws -> Set<String> {
      Set(try await bench.client.run(APIKeys(keys: bench.keys).all()).map(\.id))
    }
    try await ControlPlaneTests.eventually("replicas are told") { try await stored() == ["ops", "ci"] }
    keys.replace([record("boss", "boss-key-000000001", .admin)])
    control.bell.ring()
    try await ControlPlaneTests.eventually("replicas are told again") { try await stored() == ["boss"] }
    #expect(try await api.ask("GET", "/api/pools", key: "boss-key-000000001").status == 200)
    #expect(try await eventually { try await api.ask("GET", "/api/pools", key: operatorKey).status == 401 })
    #expect(try await api.ask("DELETE", "/api/keys/boss", key: "boss-key-000000001").status == 409)
    await control.stop(instances: true)
  }

  @Test func keysAreMadeListedAndRemoved() async throws {
    let bench = try ControlBench()
    let api = try await api(bench)
    let body = #"{"id":"laptop","scopes":["session"],"lifetime":60000}"#
    #expect(try await api.ask("POST", "/api/keys", body: body, key: sessionKey).status == 403)
    let made = try await api.ask("POST", "/api/keys", body: body, key: operatorKey)
    #expect(made.status == 201)
    let key = try #require(made.json["key"]?.string)
    #expect(key.utf8.count == 54)
    #expect(try await api.ask("POST", "/api/keys", body: body, key: operatorKey).status == 409)
    let list = try await api.ask("GET", "/api/keys", key: operatorKey)
    #expect(list.json["keys"]?.array?.map { $0["id"]?.string } == ["laptop"])
    // Neither the key nor its digest is shown again.
    #expect(!list.json.text.contains(key))
    #expect(!list.json.text.contains(SHA256Digest(of: key).hexadecimal))
    let stored = try await bench.client.run(APIKeys(keys: bench.keys).all())
    #expect(stored.first?.sha256 == SHA256Digest(of: key).hexadecimal)
    let unknown = "/api/session/00000000-0000-4000-8000-000000000000"
    #expect(try await eventually { try await api.ask("GET", unknown, key: key).status == 404 })
    #expect(try await api.ask("DELETE", "/api/keys/ops", key: operatorKey).status == 409)
    #expect(try await api.ask("DELETE", "/api/keys/laptop", key: operatorKey).status == 200)
    #expect(try await api.ask("DELETE", "/api/keys/laptop", key: operatorKey).status == 404)
    #expect(try await eventually { try await api.ask("GET", unknown, key: key).status == 401 })
  }

  private func eventually(_ condition: () async throws -> Bool) async throws -> Bool {
    let deadline = ContinuousClock.now + .seconds(20)
    while ContinuousClock.now < deadline {
      if try await condition() { return true }
      try await Task.sleep(for: .milliseconds(50))
    }
    return false
  }

  @Test(arguments: [
    "", "[]", #"{"scopes":["session"]}"#, #"{"id":"a b"}"#, #"{"id":"a","scopes":["root"]}"#,
    #"{"id":"a","scopes":[]}"#,
    #"{"id":"a","lifetime":0}"#, #"{"id":"a","colour":"red"}"#,
  ])
  func aBadKeyRequestIsRefused(_ body: String) throws {
    #expect(throws: Refusal.self) { try KeyRequest(body: Array(body.utf8)) }
  }
}

@Suite struct ControlAPITests {
  @Test func sessionsHaveTheShapesThatClientsKnow() async throws {
    let bench = try ControlBench()
    let pool = bench.pool()
    let control = try bench.start("a", [pool])
    let api = try await RunningAPI(bench, [pool], bell: control.bell)
    try await bench.settled(1)

    let made = try await api.ask(
      "POST", "/api/session/create",
      body: #"{"pool":"chrome","timeout":60000,"idleTimeout":30000,"metadata":{"for":"me"}}"#)
    #expect(made.status == 200)
    let id = try #require(made.json["sessionId"]?.string)
    #expect(id.utf8.count == 36)
    #expect(made.json["url"] == .string("https://b.example/session/\(id)/"))
    #expect(made.json["wsEndpoint"] == .string("wss://b.example/session/\(id)/"))
    #expect(made.json["expiresIn"] == 60_000)
    let view = try #require(try await bench.client.run(bench.leases.get(session: id)))
    #expect(made.json["port"] == .int(view.record.port))
    #expect(view.record.idleLimitMilliseconds == 30_000)

    let shown = try await api.ask("GET", "/api/session/\(id)")
    #expect(shown.json["sessionId"] == .string(id))
    #expect(shown.json["url"] == made.json["url"])
    #expect(shown.json["createdAt"] == .int(view.record.createdAt))
    #expect(shown.json["lastAccessed"]?.int != nil)
    #expect(shown.json["metadata"]?["for"] == "me")
    let kept = try await api.ask("POST", "/api/session/\(id)/keepalive")
    #expect(kept.status == 200)
    #expect(try #require(kept.json["lastAccessed"]?.int) >= #require(shown.json["lastAccessed"]?.int))

    let list = try await api.ask("GET", "/api/sessions").json["sessions"]?.array ?? []
    #expect(list.count == 1)
    let names = ["sessionId", "url", "createdAt", "expiresIn", "pool", "state", "metadata"]
    #expect(list.first?.object?.fields.map(\.name) == names)
    try await bench.settled(2)
    // A port that another test has just left may be put aside.
    let figures = try await bench.client.run(bench.ports.figures())
    #expect(figures.allocated == 2 && figures.free + figures.quarantined == bench.range.count - 2)
    #expect(
      try await api.ask("GET", "/api/sessions/stats").json
        == ["activeSessions": 1, "maxSessions": 200, "allocatedPorts": 2, "availablePorts": .int(figures.free)])
    let health = try await api.ask("GET", "/api/health")
    #expect(health.json["status"] == "ok" && health.json["activeSessions"] == 1)
    #expect(health.json["backendInstance"] == "me" && health.json["processId"] == 7)
    #expect(health.json["timestamp"]?.string?.hasSuffix("Z") == true)

    let pools = try await api.ask("GET", "/api/pools").json["pools"]?.array ?? []
    #expect(pools.first?["name"] == "chrome" && pools.first?["ready"] == 2 && pools.first?["sessions"] == 1)
    let instances = try await api.ask("GET", "/api/instances").json["instances"]?.array ?? []
    #expect(instances.count == 2)
    #expect(instances.count { $0["sessions"] == 1 } == 1)

    let ended = try await api.ask("DELETE", "/api/session/\(id)")
    #expect(ended.status == 200 && ended.json["message"]?.string?.contains(id) == true)
    #expect(try await api.ask("GET", "/api/session/\(id)").status == 404)
    #expect(try await api.ask("DELETE", "/api/session/\(id)").status == 404)
    await control.stop(instances: true)
  }

  @Test func aCreateWaitsForItsTurn() async throws {
    let bench = try ControlBench()
    let pool = bench.pool { $0.max = 1 }
    let control = try bench.start("a", [pool])
    let api = try await RunningAPI(bench, [pool], bell: control.bell)
    try await bench.settled(1)
    let first = try #require(try await api.ask("POST", "/api/session/create").json["sessionId"]?.string)
    async let second = api.ask("POST", "/api/session/create")
    try await eventually("the second one waits") {
      try await bench.client.run(bench.leases.figures(pool: "chrome", now: Clock.unixMilliseconds)).waiting == 1
    }
    #expect(try await api.ask("DELETE", "/api/session/\(first)").status == 200)
    #expect(try await second.status == 200)
    await control.stop(instances: true)
  }

  @Test func aClientThatHangsUpLeavesTheQueueAndOthersServed() async throws {
    let bench = try ControlBench()
    // Nothing but its leaving ends the wait.
    let pool = bench.pool {
      $0.max = 1
      $0.queue.timeoutMilliseconds = 3_600_000
    }
    let control = try bench.start("a", [pool])
    let api = try await RunningAPI(bench, [pool], bell: control.bell)
    try await bench.settled(1)
    try await bench.acquire("s-1")
    func waiting() async throws -> Int {
      try await bench.client.run(bench.leases.figures(pool: "chrome", now: Clock.unixMilliseconds)).waiting
    }
    do {
      let peer = Peer(connectingTo: api.address)
      peer.send("POST /api/session/create HTTP/1.1\r\nHost: x\r\n\r\n")
      try await eventually("it waits") { try await waiting() == 1 }
      peer.reset()
    }
    try await eventually("it has left") { try await waiting() == 0 }
    // One that breaks off in the middle of its body, or between head and body.
    for text in ["{\"pool\"", ""] {
      let peer = Peer(connectingTo: api.address)
      peer.send("POST /api/session/create HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n" + text)
      peer.reset()
    }
    #expect(try await api.ask("GET", "/api/health").status == 200)
    #expect(try await bench.client.run(bench.leases.count()) == 1)
    await control.stop(instances: true)
  }

  @Test func theLimitOfSessionsHoldsForAllAtOnce() async throws {
    let bench = try ControlBench()
    // Slots for all of them, so that only the limit keeps any back.
    let pool = bench.pool { $0.spare = 4 }
    let control = try bench.start("a", [pool])
    let api = try await RunningAPI(bench, [pool], bell: control.bell, maxSessions: 1)
    try await bench.settled(4)
    // Redis hangs for a moment, so that all of them have asked how many there are before the first one is made. The
    // pause decides how telling the test is, not whether it passes.
    bench.redis.freeze()
    let made = try await withThrowingTaskGroup(of: Int.self) { group in
      for _ in 0..<6 { group.addTask { try await api.ask("POST", "/api/session/create").status } }
      try await Task.sleep(for: .milliseconds(300))
      bench.redis.thaw()
      return try await group.reduce(into: []) { $0.append($1) }
    }
    #expect(made.count { $0 == 429 } >= 5, "\(made)")
    #expect(try await bench.client.run(bench.leases.count()) == made.count { $0 == 200 })
    if made.contains(200) == false { try await bench.acquire("s-1") }
    let tooMany = try await api.ask("POST", "/api/session/create")
    #expect(tooMany.status == 429 && tooMany.head.contains("retry-after: 5"))
    #expect(tooMany.json["error"]?.string?.hasPrefix("no more than 1 sessions are allowed at once") == true)
    await control.stop(instances: true)
  }

  @Test func aFullQueueIs429() async throws {
    let bench = try ControlBench()
    let pool = bench.pool {
      $0.max = 1
      $0.queue.limit = 0
    }
    let control = try bench.start("a", [pool])
    let api = try await RunningAPI(bench, [pool], bell: control.bell)
    try await bench.settled(1)
    try await bench.acquire("s-1")
    let full = try await api.ask("POST", "/api/session/create")
    #expect(full.status == 429 && full.head.contains("retry-after: 5"))
    #expect(full.json["error"]?.string?.hasPrefix("no slot of pool \"chrome\" is free and 0 clients wait") == true)
    await control.stop(instances: true)
  }

  @Test func noSlotInTimeIs503() async throws {
    let bench = try ControlBench()
    let pool = bench.pool { $0.queue.timeoutMilliseconds = 100 }
    let control = try bench.start("a", [pool])
    try await bench.settled(1)
    await control.stop(instances: true)
    let api = try await RunningAPI(bench, [pool])
    let late = try await api.ask("POST", "/api/session/create")
    #expect(late.status == 503 && late.head.contains("retry-after: 5"))
    #expect(late.json["error"]?.string?.contains("became free within 100 ms") == true)
    #expect(try await bench.client.run(bench.leases.figures(pool: "chrome", now: Clock.unixMilliseconds)).waiting == 0)
  }

  /// Method, path, body, content type → status and the beginning of the sentence.
  @Test(
    arguments: [
      ("POST", "/api/session/create", #"{"pool":"#, "application/json", 400, "the body is not JSON: line 1, column 9"),
      ("POST", "/api/session/create", "[]", "application/json", 400, "the body must be a JSON object"),
      ("POST", "/api/session/create", #"{"pol":1}"#, "application/json", 400, "unknown field \"pol\""),
      ("POST", "/api/session/create", #"{"pool":"x"}"#, "application/json", 400, "there is no pool \"x\""),
      ("POST", "/api/session/create", #"{"timeout":1}"#, "application/json", 400, "\"timeout\" must be from 1000"),
      (
        "POST", "/api/session/create", #"{"timeout":"1s"}"#, "application/json", 400,
        "\"timeout\" must be a whole number"
      ),
      (
        "POST", "/api/session/create", #"{"metadata":{"a":1}}"#, "application/json", 400,
        "\"metadata.a\" must be a string"
      ),
      (
        "POST", "/api/session/create", "a=b", "application/x-www-form-urlencoded", 415,
        "the body must be application/json"
      ),
      (
        "POST", "/api/session/create", String(repeating: " ", count: 65_537), "application/json", 413,
        "the body is longer"
      ),
      ("GET", "/api/session/create", nil, nil, 405, "GET is not for /api/session/create; use POST"),
      ("PUT", "/api/session/abc", nil, nil, 405, "PUT is not for /api/session/abc; use GET or DELETE"),
      ("GET", "/api/session/abc", nil, nil, 404, "there is no session abc"),
      ("GET", "/api/instances/abc", nil, nil, 404, "there is no instance abc"),
      ("PATCH", "/api/instances/abc", #"{"weight":2}"#, nil, 404, "there is no instance abc"),
      ("PATCH", "/api/instances/abc", "", nil, 400, "the body is not JSON"),
      ("PATCH", "/api/instances/abc", "[]", nil, 400, "the body must be a JSON object"),
      ("PATCH", "/api/instances/abc", "{}", nil, 400, "\"weight\" must be a whole number from 0 to 256"),
      ("PATCH", "/api/instances/abc", #"{"weight":257}"#, nil, 400, "\"weight\" must be a whole number from 0 to 256"),
      ("PATCH", "/api/instances/abc", #"{"weight":1.5}"#, nil, 400, "\"weight\" must be a whole number"),
      ("PATCH", "/api/instances/abc", #"{"slots":2}"#, nil, 400, "unknown field \"slots\"; known is weight"),
      ("POST", "/api/instances/abc", nil, nil, 405, "POST is not for /api/instances/abc; use GET or PATCH or DELETE"),
      ("DELETE", "/api/instances/abc", nil, nil, 404, "there is no instance abc"),
      ("POST", "/api/instances/abc/restart?force=perhaps", nil, nil, 400, "\"force\" must be true or false"),
      ("POST", "/api/instances/abc/restart?forec=true", nil, nil, 400, "unknown query setting \"forec\""),
      ("DELETE", "/api/instances/abc?force=", nil, nil, 400, "\"force\" must be true or false"),
      ("GET", "/api/sessions?limits=1", nil, nil, 400, "unknown query setting \"limits\""),
      ("GET", "/api/sessions?metadata.a%20b=c", nil, nil, 400, "\"metadata.a%20b\": sessions are found by fields of"),
      ("GET", "/api/sessions?metadata.a=", nil, nil, 400, "\"metadata.a\": sessions are found by fields of"),
      ("GET", "/api/sessions?metadata.a=b&metadata.a=c", nil, nil, 400, "\"metadata.a\" stands in the query twice"),
      ("POST", "/api/session/create", #"{"grace":-1}"#, nil, 400, "\"grace\" must be from 0 to 1800000"),
      ("POST", "/api/session/abc/keepalive", #"{"hard":1}"#, nil, 400, "unknown field \"hard\"; known is timeout"),
      ("POST", "/api/session/abc/keepalive", "[]", nil, 400, "the body must be a JSON object"),
      ("POST", "/api/session/abc/keepalive", nil, nil, 404, "there is no session abc"),
      ("POST", "/api/session/abc/keepalive", #"{"timeout":5000}"#, nil, 404, "there is no session abc"),
      ("GET", "/api/sessions?limit=0", nil, nil, 400, "\"limit\" must be a whole number from 1 to 1000"),
      ("GET", "/", nil, nil, 404, "there is nothing at /"),
      ("GET", "/api/session/a%2Fb", nil, nil, 404, "there is nothing at /api/session/a%2Fb"),
    ] as [(String, String, String?, String?, Int, String)])
  func nonsenseIsRefusedInASentence(
    method: String, path: String, body: String?, type: String?, status: Int, sentence: String
  ) async throws {
    let bench = try ControlBench()
    let api = try await RunningAPI(bench, [bench.pool()])
    let reply = try await api.ask(method, path, body: body, type: type)
    #expect(reply.status == status)
    #expect(reply.json["error"]?.string?.hasPrefix(sentence) == true, "\(reply.json.text)")
    #expect(reply.head.contains("content-type: application/json"))
    #expect(status != 405 || reply.head.contains("allow: "))
  }

  @Test func withoutRedisEverythingIs503() async throws {
    let bench = try ControlBench()
    let api = try await RunningAPI(bench, [bench.pool()])
    bench.redis.kill()
    for (method, path) in [
      ("GET", "/api/health"), ("POST", "/api/session/create"), ("GET", "/api/sessions"), ("GET", "/api/pools"),
      ("DELETE", "/api/session/x"),
    ] {
      let reply = try await api.ask(method, path)
      #expect(reply.status == 503 && reply.head.contains("retry-after: "), "\(path)")
      #expect(reply.json["error"]?.string?.hasPrefix("Redis cannot be reached") == true, "\(path)")
    }
    try bench.redis.start()
    try await eventually("it answers again") { try await api.ask("GET", "/api/health").status == 200 }
  }
}
