// Why a session ended, asked over REST by whoever lost its sockets.
import Domain
import Glibc
import JSON
import Posix
import Redis
import Routing
import State
import TestSupport
import Testing

@Suite struct ControlSessionEndTests {
  private func create(_ api: RunningAPI, _ body: String) async throws -> String {
    let made = try await api.ask("POST", "/api/session/create", body: body)
    return try #require(made.json["sessionId"]?.string, "\(made.text)")
  }

  @Test func eachEndHasItsReason() async throws {
    let bench = try ControlBench()
    let pool = bench.pool { $0.max = 6 }
    let control = try bench.start("a", [pool])
    let api = try await RunningAPI(bench, [pool], bell: control.bell)
    try await bench.settled(1)

    let asked = try await create(api, "{}")
    let before = Clock.unixMilliseconds
    #expect(try await api.ask("DELETE", "/api/session/\(asked)").status == 200)
    let deleted = try await api.ask("GET", "/api/session/\(asked)")
    #expect(deleted.status == 404 && deleted.json["reason"] == "client", "\(deleted.text)")
    #expect((before...Clock.unixMilliseconds).contains(try #require(deleted.json["endedAt"]?.int)))
    #expect(
      deleted.json["error"]?.string
        == "session \(asked) has ended: client; POST /api/session/create makes a new one")
    let kept = try await api.ask("POST", "/api/session/\(asked)/keepalive")
    #expect(kept.status == 404 && kept.json == deleted.json)
    let prolonged = try await api.ask("POST", "/api/session/\(asked)/keepalive", body: #"{"timeout":5000}"#)
    #expect(prolonged.status == 404 && prolonged.json == deleted.json)

    let hard = try await create(api, #"{"timeout":1000}"#)
    let idle = try await create(api, #"{"idleTimeout":1000}"#)
    func reason(_ id: String) async throws -> String? {
      try await api.ask("GET", "/api/session/\(id)").json["reason"]?.string
    }
    try await eventually("both limits are over") {
      let (hard, idle) = (try await reason(hard), try await reason(idle))
      return hard == "hard limit" && idle == "idle limit"
    }

    let lost = try await create(api, "{}")
    let instance = try #require(try await bench.client.run(bench.leases.get(session: lost))).record.instance
    let pid = try #require(try await bench.instances().first { $0.id == instance }?.pid)
    kill(pid_t(pid), SIGKILL)
    try await eventually("its instance's end is the reason") {
      try await reason(lost) == "its process was ended by signal 9"
    }
    await control.stop(instances: true)
  }

  /// What is not remembered is not made up, and one that nobody knows reads as before.
  @Test func whatIsForgottenHasNoReason() async throws {
    let bench = try ControlBench()
    let api = try await RunningAPI(bench, [bench.pool()])
    func ask(_ id: String) async throws -> RunningAPI.Reply { try await api.ask("GET", "/api/session/\(id)") }
    for _ in 0..<2 {
      let reply = try await ask("s-1")
      #expect(reply.status == 404 && reply.json["reason"] == nil)
      #expect(reply.json["error"]?.string?.hasPrefix("there is no session s-1: it never was, or it has ended") == true)
      // Nobody knew it, so there is no event; but no replica may put it back.
      #expect(try await api.ask("DELETE", "/api/session/s-1").status == 404)
    }
    // An event of another time, as clocks that differ by a minute would give.
    let now = Clock.unixMilliseconds
    try await bench.client.run(Events(keys: bench.keys).append(type: "session.ended", id: "s-2", reason: "x", now: now))
    try bench.redis.command("ZADD", bench.keys.ended, String(now - 60_000), "s-2")
    #expect(try await ask("s-2").json["reason"] == nil)
    try bench.redis.command("ZADD", bench.keys.ended, String(now), "s-2")
    #expect(try await ask("s-2").json["reason"] == "x")
  }
}
