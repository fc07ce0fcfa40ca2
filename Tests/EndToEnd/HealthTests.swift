// Health with whole processes: what a client suffers reaches the control plane through the replica, and what a broken
// program says reaches whoever asks REST.
import Foundation
import Glibc
import JSON
import Redis
import Routing
import State
import TestSupport
import Testing

extension EndToEnd {
  @Suite struct Health {
    /// Only a report can bring a check within the test's time.
    private static let configuration = """
      pools:
        web:
          kind: http
          command: python3
          arguments: [-m, http.server, "{port}", --bind, 127.0.0.1]
          healthIntervalMilliseconds: 3600000
          healthTimeoutMilliseconds: 500
          healthTCPIntervalMilliseconds: 0
          restartStableAfterMilliseconds: 0
        broken:
          kind: http
          command: sh
          arguments: [-c, "echo cannot open display >&2; exit 7"]
          restartInitialMilliseconds: 20
          restartCrashLoopAfter: 3
      routes:
        all: {pool: web, firstByteTimeoutMilliseconds: 300}
      """

    private func with(_ body: (Deployment) async throws -> Void) async throws {
      let berth = try Deployment(configuration: Self.configuration)
      do {
        try await berth.ready()
        try await body(berth)
        try await berth.stop()
      } catch {
        await berth.abandon()
        throw error
      }
    }

    @Test func aServerThatHangsIsReplacedBecauseAClientWasNotAnswered() async throws {
      try await with { berth in
        try await eventually("it serves") { HTTP.get(berth.port, "/")?.status == 200 ? () : nil }
        let victim = try #require(try berth.instances().first { $0.pool == "web" })
        kill(pid_t(try #require(victim.pid)), SIGSTOP)
        #expect(HTTP.get(berth.port, "/")?.status == 504)
        let failed = ContinuousClock.now
        try await eventually("another one serves", show: berth.control) {
          HTTP.get(berth.port, "/")?.status == 200 ? () : nil
        }
        print("health: a client's 504 → another instance serves \(ContinuousClock.now - failed)")
        try await eventually("the first one is gone", show: berth.control) {
          try !berth.instances().contains { $0.id == victim.id } ? () : nil
        }
        let events = try berth.redis.connect().run(Events(keys: Keys()).recent(count: 1_000))
        #expect(
          events.contains { $0.type == "instance.reported" && $0.id == victim.id && $0.reason.hasSuffix(" timeout") })
        #expect(
          events.contains {
            $0.type == "instance.unhealthy" && $0.id == victim.id && $0.reason == "HTTP: no answer in time"
          })
        let metrics = try #require(HTTP.get(berth.admin.lowerBound, "/metrics")).text
        #expect(
          metrics.contains("\nberth_fault_reports_total ") && !metrics.contains("\nberth_fault_reports_total 0\n"))
      }
    }

    @Test func whatABrokenProgramSaysIsShownByREST() async throws {
      try await with { berth in
        func pool(_ name: String) -> JSON? {
          HTTP.get(berth.controlPort, "/api/pools")?.json["pools"]?.array?.first { $0["name"] == .string(name) }
        }
        try await eventually("it is crash looping", show: berth.control) {
          pool("broken")?["state"] == "crash_looping" ? () : nil
        }
        let trouble = try #require(pool("broken")?["trouble"])
        #expect((trouble["failures"]?.int ?? 0) >= 3)
        #expect(trouble["lastFailure"]?["log"] == ["cannot open display"])
        #expect(trouble["lastFailure"]?["reason"]?.string?.contains("ended before it was ready") == true)
        #expect((trouble["nextLaunchAt"]?.int ?? 0) > (trouble["since"]?.int ?? .max))
        #expect(pool("web")?["state"] == "ok" && pool("web")?["trouble"] == nil)
      }
    }
  }
}
