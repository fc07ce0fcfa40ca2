// What REST clients may ask of their sessions, over real HTTP with a leader, a real Redis and real Chromes: keepalive, search,
// creates that are sent twice, and clients that break off in the moment of the answer.
import API
import Domain
import JSON
import Posix
import Redis
import Routing
import Runtimes
import State
import Supervisor
import Synchronization
import TLS
import TestSupport
import Testing

@Suite struct ControlSessionTests {
  @Test func aSessionIsKeptAliveWithinItsPoolsMaximum() async throws {
    let bench = try ControlBench()
    let pool = bench.pool {
      $0.sessions = SessionLimits(hardMilliseconds: 60_000, idleMilliseconds: 30_000, hardMaximumMilliseconds: 90_000)
    }
    let control = try bench.start("a", [pool])
    let api = try await RunningAPI(bench, [pool], bell: control.bell)
    try await bench.settled(1)
    let made = try await api.ask("POST", "/api/session/create", body: #"{"timeout":20000,"grace":4000}"#)
    let id = try #require(made.json["sessionId"]?.string)
    let before = try await api.ask("GET", "/api/session/\(id)").json
    #expect(before["state"] == "idle" && before["grace"] == 4_000 && before["idleTimeout"] == 20_000)
    #expect(try #require(before["hardExpiresIn"]?.int) <= 20_000)

    let kept = try await api.ask("POST", "/api/session/\(id)/keepalive", body: #"{"timeout":50000}"#)
    #expect(kept.status == 200)
    #expect((40_000...50_000).contains(try #require(kept.json["hardExpiresIn"]?.int)), "\(kept.json.text)")
    // The idle limit is the one that ends it first.
    #expect((10_000...20_000).contains(try #require(kept.json["expiresIn"]?.int)), "\(kept.json.text)")
    let most = try await api.ask("POST", "/api/session/\(id)/keepalive", body: #"{"timeout":90000}"#)
    #expect(try #require(most.json["hardExpiresIn"]?.int) <= 90_000)
    let record = try #require(try await bench.client.run(bench.leases.get(session: id))).record
    #expect(record.expiresAt == record.createdAt + 90_000)
    let wrong = try await api.ask("POST", "/api/session/\(id)/keepalive", body: #"{"timeout":90001}"#)
    #expect(wrong.status == 400)
    #expect(wrong.json["error"] == "\"timeout\" must be from 1000 to 90000 milliseconds, not 90001")
    await control.stop(instances: true)
  }

  @Test func theLeaderEndsASessionWhoseGraceIsOver() async throws {
    let bench = try ControlBench()
    let pool = bench.pool()
    let control = try bench.start("a", [pool])
    let api = try await RunningAPI(bench, [pool], bell: control.bell)
    try await bench.settled(1)
    let made = try await api.ask("POST", "/api/session/create", body: #"{"grace":200}"#)
    let id = try #require(made.json["sessionId"]?.string)
    let instance = try #require(try await bench.client.run(bench.leases.get(session: id))).record.instance
    _ = try await bench.client.run(bench.leases.attach(session: id, holder: "r", now: Clock.unixMilliseconds))
    try await bench.client.run(bench.leases.detach(session: id, holder: "r", now: Clock.unixMilliseconds))
    try await eventually("it is over") { try await api.ask("GET", "/api/session/\(id)").status == 404 }
    #expect(try await bench.events().contains { $0.id == id && $0.reason == "grace ran out" })
    try await eventually("its Chrome is gone") { try await !bench.instances().contains { $0.id == instance } }
    await control.stop(instances: true)
  }

  @Test func sessionsAreFoundByMetadata() async throws {
    let bench = try ControlBench()
    let pool = bench.pool { $0.spare = 3 }
    let control = try bench.start("a", [pool])
    let api = try await RunningAPI(bench, [pool], bell: control.bell)
    try await bench.settled(3)
    var ids: [String] = []
    for user in ["ann", "bob", "ann"] {
      let made = try await api.ask(
        "POST", "/api/session/create", body: #"{"metadata":{"user":"\#(user)","job.id":"a b&=ü"}}"#)
      ids.append(try #require(made.json["sessionId"]?.string))
    }
    func found(_ query: String) async throws -> [String?] {
      let list = try await api.ask("GET", "/api/sessions?" + query).json["sessions"]?.array
      return try #require(list).map { $0["sessionId"]?.string }
    }
    #expect(Set(try await found("metadata.user=ann")) == [ids[0], ids[2]])
    #expect(try await found("metadata.user=bob&metadata.job.id=a%20b%26%3D%C3%BC") == [ids[1]])
    #expect(try await found("metadata.user=ann&limit=1").count == 1)
    #expect(try await found("metadata.user=eve") == [])
    #expect(try await found("").count == 3)
    await control.stop(instances: true)
  }

  // MARK: Sent twice

  @Test func theSameCreateTwiceIsOneSession() async throws {
    let bench = try ControlBench()
    let pool = bench.pool()
    let control = try bench.start("a", [pool])
    // Two control planes: a client that tries again may come to the other.
    let first = try await RunningAPI(bench, [pool], bell: control.bell)
    let second = try await RunningAPI(bench, [pool])
    try await bench.settled(1)
    let key = ["Idempotency-Key": "7f9c-1"]
    let body = #"{"timeout":60000}"#
    let made = try await first.ask("POST", "/api/session/create", body: body, headers: key)
    #expect(made.status == 200 && !made.head.contains("idempotency-replayed"))
    let again = try await second.ask("POST", "/api/session/create", body: body, headers: key)
    #expect(again.status == 200 && again.json == made.json)
    #expect(again.head.contains("idempotency-replayed: true"))
    #expect(try await bench.client.run(bench.leases.count()) == 1)

    let other = try await second.ask("POST", "/api/session/create", body: "{}", headers: key)
    #expect(other.status == 422, "\(other.json.text)")
    for bad in ["", String(repeating: "k", count: 256), "a b"] {
      let refused = try await first.ask("POST", "/api/session/create", headers: ["Idempotency-Key": bad])
      #expect(refused.status == 400, "\(bad.count)")
    }
    // The same answer, also when the session is over.
    let id = try #require(made.json["sessionId"]?.string)
    #expect(try await first.ask("DELETE", "/api/session/\(id)").status == 200)
    #expect(try await first.ask("POST", "/api/session/create", body: body, headers: key).json == made.json)
    #expect(try await bench.client.run(bench.leases.count()) == 0)
    await control.stop(instances: true)
  }

  @Test func anIdempotencyKeyIsItsClientsAlone() async throws {
    let bench = try ControlBench()
    let pool = bench.pool { $0.spare = 2 }
    let control = try bench.start("a", [pool])
    func record(_ id: String) -> KeyRecord {
      KeyRecord(id: id, sha256: SHA256Digest(of: "\(id)-key-0000000001").hexadecimal, scopes: [.session])
    }
    let api = try await RunningAPI(
      bench, [pool], bell: control.bell, keys: DeclaredKeys([record("ann"), record("bob")]))
    try await bench.settled(2)
    func create(_ client: String) async throws -> RunningAPI.Reply {
      try await api.ask(
        "POST", "/api/session/create", body: "{}", key: "\(client)-key-0000000001",
        headers: ["Idempotency-Key": "order-1"])
    }
    let first = try await create("ann")
    let other = try await create("bob")
    #expect(first.status == 200 && other.status == 200, "\(other.text)")
    #expect(!other.head.contains("idempotency-replayed") && other.json["sessionId"] != first.json["sessionId"])
    for (client, made) in [("ann", first), ("bob", other)] {
      let again = try await create(client)
      #expect(again.head.contains("idempotency-replayed: true") && again.json == made.json)
    }
    #expect(try await bench.client.run(bench.leases.count()) == 2)
    await control.stop(instances: true)
  }

  @Test func aCreateThatFailedOrWaitsIsNotAnswered() async throws {
    let bench = try ControlBench()
    let pool = bench.pool { $0.max = 1 }
    let control = try bench.start("a", [pool])
    let api = try await RunningAPI(bench, [pool], bell: control.bell)
    try await bench.settled(1)
    let key = ["Idempotency-Key": "k"]
    try await bench.acquire("s-1")
    async let waits = api.ask("POST", "/api/session/create", headers: key)
    try await eventually("it waits") {
      try await bench.client.run(bench.leases.figures(pool: "chrome", now: Clock.unixMilliseconds)).waiting == 1
    }
    let atOnce = try await api.ask("POST", "/api/session/create", headers: key)
    #expect(atOnce.status == 409 && atOnce.head.contains("retry-after: 1"), "\(atOnce.json.text)")
    try await bench.end("s-1")
    let made = try await waits
    #expect(made.status == 200)

    // One that got no slot leaves its key to the next try.
    let hasty = try await RunningAPI(bench, [bench.pool { $0.queue.timeoutMilliseconds = 1 }])
    let late = ["Idempotency-Key": "late"]
    #expect(try await hasty.ask("POST", "/api/session/create", headers: late).status == 503)
    #expect(try await hasty.ask("POST", "/api/session/create", headers: late).status == 503)
    let id = try #require(made.json["sessionId"]?.string)
    #expect(try await api.ask("DELETE", "/api/session/\(id)").status == 200)
    #expect(try await api.ask("POST", "/api/session/create", headers: late).status == 200)
    await control.stop(instances: true)
  }

  // MARK: Answers that reach nobody

  /// How a client goes between the making of its session and the answer.
  enum Leaving: CaseIterable { case reset, close }

  @Test(arguments: Leaving.allCases, [nil, "Idempotency-Key: k\r\n"])
  func aSessionWhoseAnswerReachesNobodyIsEnded(leaving: Leaving, key: String?) async throws {
    let bench = try ControlBench()
    let pool = bench.pool { $0.max = 1 }
    let control = try bench.start("a", [pool])
    try await bench.settled(1)
    let peer = Mutex<Peer?>(nil)
    let api = try await RunningAPI(
      bench, [pool], bell: control.bell,
      beforeAnswer: {
        peer.withLock {
          if leaving == .reset { $0?.reset() }
          $0 = nil
        }
      })
    peer.withLock {
      $0 = Peer(connectingTo: api.address)
      $0?.send("POST /api/session/create HTTP/1.1\r\nHost: x\r\n\(key ?? "")\r\n")
    }
    try await eventually("it was made and has ended") {
      let events = try await bench.events()
      return events.contains { $0.type == "session.created" }
        && events.contains { $0.type == "session.ended" && $0.reason == "the client has gone" }
    }
    #expect(peer.withLock { $0 == nil })
    // The slot is the next one's, also under the same key.
    let again = try await api.ask(
      "POST", "/api/session/create", headers: key == nil ? [:] : ["Idempotency-Key": "k"])
    #expect(again.status == 200 && !again.head.contains("idempotency-replayed"))
    await control.stop(instances: true)
  }

  @Test func aClientThatReadsItsAnswerAndLeavesHasItsSession() async throws {
    let bench = try ControlBench()
    let pool = bench.pool {
      $0.slots = 1_000
      $0.recycleAfterSessions = 0
    }
    let control = try bench.start("a", [pool])
    let api = try await RunningAPI(bench, [pool], bell: control.bell)
    try await bench.settled(1)
    for round in 0..<400 {
      let address = api.address
      let id = try await BlockingPool.shared.run { () throws(FixtureError) -> String in
        let peer = Peer(connectingTo: address)
        peer.send("POST /api/session/create HTTP/1.1\r\nHost: x\r\n\r\n")
        guard let answer = peer.response(), let json = try? JSON(parsing: answer.body),
          let id = json["sessionId"]?.string
        else { throw FixtureError("no session") }
        if round.isMultiple(of: 2) { peer.reset() }
        return id
      }
      #expect(try await bench.client.run(bench.leases.get(session: id)) != nil)
      try await bench.end(id)
    }
    #expect(try await !bench.events().contains { $0.reason == "the client has gone" })
    await control.stop(instances: true)
  }
}
