// GET /metrics and GET /api/status of control planes at work: what happens is counted once, by the one that leads, in series
// whose number does not grow.
import Domain
import Glibc
import JSON
import Posix
import Redis
import Routing
import Runtimes
import State
import Supervisor
import TestSupport
import Testing

/// A control plane with REST, and what its scrapes say.
private final class Scraped: Sendable {
  let control: RunningControl
  let api: RunningAPI

  init(_ name: String, _ bench: ControlBench, _ pools: [PoolSpec]) async throws {
    let metrics = ControlMetrics(pools: pools.map(\.name))
    control = try bench.start(name, pools, metrics: metrics)
    api = try await RunningAPI(bench, pools, bell: control.bell, metrics: metrics)
  }

  func page() async throws -> RunningAPI.Reply { try await api.ask("GET", "/metrics") }

  /// Values by series, as in `berth_launches_total{pool="chrome"}`.
  func scrape() async throws -> [String: Double] {
    let reply = try await page()
    #expect(reply.status == 200 && reply.head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"))
    var values: [String: Double] = [:]
    for line in reply.text.split(separator: "\n") where !line.hasPrefix("#") {
      let space = try #require(line.lastIndex(of: " "))
      let series = String(line[..<space])
      #expect(values[series] == nil, "\(series) twice")
      let value = try #require(Double(line[line.index(after: space)...]), "\(line)")
      values[series] = value
    }
    return values
  }

  /// Waits until all of these series have these values.
  func eventually(_ wanted: [String: Double]) async throws {
    let deadline = Deadline(milliseconds: 90_000)
    while true {
      let values = try await scrape()
      let others = wanted.filter { values[$0.key] != $0.value }
      if others.isEmpty { return }
      try #require(!deadline.hasPassed, "\(others), not \(others.map { "\($0.key) \(values[$0.key] ?? .nan)" })")
      try await Task.sleep(for: .milliseconds(20))
    }
  }
}

@Suite struct ControlMetricsTests {
  @Test func whatHappensToInstancesAndSessionsIsCounted() async throws {
    let bench = try ControlBench()
    var broken = shellPool("echo no such library; exit 3")
    broken.restart = RestartPolicy(initialMilliseconds: 600_000, maximumMilliseconds: 600_000, crashLoopAfter: 1)
    let pools = [bench.pool(), broken]
    let leader = try await Scraped("a", bench, pools)
    let spare = try await bench.settledIn("chrome", 1)[0]
    try await leader.eventually([
      "berth_control_leader": 1, "berth_control_fencing_token": 1, "berth_control_gate_open": 1,
      "berth_control_terms_total": 1, "berth_control_redis_connected": 1,
      #"berth_pool_instances{pool="chrome",state="ready"}"#: 1, #"berth_pool_slots{pool="chrome"}"#: 1,
      #"berth_pool_slots_free{pool="chrome"}"#: 1, #"berth_pool_slots_leased{pool="chrome"}"#: 0,
      #"berth_launches_total{pool="chrome"}"#: 1, #"berth_launch_duration_seconds_count{pool="chrome"}"#: 1,
      #"berth_pool_condition{pool="chrome",condition="ok"}"#: 1,
      #"berth_pool_condition{pool="shell",condition="crash_looping"}"#: 1,
      #"berth_crash_loops_total{pool="shell"}"#: 1, #"berth_launch_failures_total{pool="shell",reason="launch"}"#: 1,
      #"berth_stops_total{pool="shell",reason="launch_failed"}"#: 1,
    ])
    let first = try await leader.scrape()

    // Somebody comes and goes: one more browser is launched, and the used one ended.
    _ = try #require(try await bench.acquire("s-1", used: true))
    try await leader.eventually([
      #"berth_pool_slots_leased{pool="chrome"}"#: 1, #"berth_pool_slots_free{pool="chrome"}"#: 1,
      #"berth_pool_slots{pool="chrome"}"#: 2, #"berth_launches_total{pool="chrome"}"#: 2,
      #"berth_sessions_created_total{pool="chrome",origin="rest"}"#: 1,
    ])
    #expect(try await leader.api.ask("DELETE", "/api/session/s-1").status == 200)
    try await leader.eventually([
      #"berth_sessions_ended_total{pool="chrome",reason="client"}"#: 1,
      #"berth_stops_total{pool="chrome",reason="used"}"#: 1, #"berth_pool_slots_leased{pool="chrome"}"#: 0,
    ])
    // One ends by itself, another because an operator says so.
    let left = try await bench.settledIn("chrome", 1)[0]
    #expect(left.id != spare.id)
    kill(pid_t(try #require(left.pid)), SIGKILL)
    try await leader.eventually([#"berth_stops_total{pool="chrome",reason="died"}"#: 1])
    let next = try await bench.settledIn("chrome", 1)[0]
    #expect(try await leader.api.ask("DELETE", "/api/instances/\(next.id)").status == 202)
    try await leader.eventually([#"berth_stops_total{pool="chrome",reason="order"}"#: 1])
    try await bench.settledIn("chrome", 1)

    let last = try await leader.scrape()
    #expect(last["berth_control_look_duration_seconds_count"] ?? 0 > 10)
    #expect(last[#"berth_health_checks_total{pool="chrome"}"#] != nil)
    // As many series as before, so that nothing of what happened became a label.
    #expect(Set(last.keys) == Set(first.keys))
    let before = last[#"berth_stops_total{pool="chrome",reason="shutdown"}"#]
    await leader.control.stop(instances: true)
    let end = try await leader.scrape()
    #expect(before == 0 && end[#"berth_stops_total{pool="chrome",reason="shutdown"}"#] == 1)
    #expect(end["berth_control_leader"] == 0 && end["berth_control_gate_open"] == nil)
  }

  @Test func theGuideDescribesEveryMetricAndNoOther() async throws {
    let bench = try ControlBench()
    let text = try await Scraped("a", bench, [bench.pool()]).page().text
    var here: Substring = #filePath[...]
    for _ in 0..<4 { here = here[..<(here.lastIndex(of: "/") ?? here.startIndex)] }
    let guide = try #require(readFile("\(here)/docs/operations.md"))
    let section = try #require(guide.split(separator: "\n## ").first { $0.hasPrefix("Metrics of the control plane\n") })
    var described: Set<String> = []
    for line in section.split(separator: "\n") where line.hasPrefix("| `berth_") {
      let cells = line.split(separator: "|")
      guard cells.count == 4 else { continue }
      for name in cells[0].split(separator: "`") where name.hasPrefix("berth_") {
        described.insert("\(name) \(cells[1].filter { $0 != " " })")
      }
    }
    let told = text.split(separator: "\n").filter { $0.hasPrefix("# TYPE ") }.map { String($0.dropFirst(7)) }
    #expect(told.count > 25 && Set(told) == described, "\(Set(told).symmetricDifference(described))")
  }

  @Test func onlyTheLeaderTellsOfPoolsAndCountsSessions() async throws {
    let bench = try ControlBench()
    let first = try await Scraped("a", bench, [bench.pool()])
    try await first.eventually(["berth_control_leader": 1])
    let second = try await Scraped("b", bench, [bench.pool()])
    try await bench.settled(1)
    _ = try #require(try await bench.acquire("s-1", used: true))
    let created = #"berth_sessions_created_total{pool="chrome",origin="rest"}"#
    try await first.eventually([created: 1])
    let standby = try await second.scrape()
    #expect(standby["berth_control_leader"] == 0 && standby[created] == 0)
    #expect(!standby.keys.contains { $0.hasPrefix("berth_pool_") || $0.hasPrefix("berth_control_gate") })
    #expect(try await second.api.ask("GET", "/api/status").json["leads"] == false)
    #expect(try await second.api.ask("GET", "/api/status").json["leader"] == "a")

    await first.control.kill()
    try await second.eventually(["berth_control_leader": 1, "berth_control_fencing_token": 2])
    // Its first look is over: what happens from now on is counted.
    try await ControlPlaneTests.eventually("it has looked") {
      try await second.scrape()["berth_control_look_duration_seconds_count"] ?? 0 > 0
    }
    // What was counted before is not counted again.
    #expect(try await second.scrape()[created] == 0)
    try await bench.end("s-1")
    try await second.eventually([#"berth_sessions_ended_total{pool="chrome",reason="instance"}"#: 1])
    await second.control.stop(instances: true)
  }

  @Test func aGateThatIsShutIsShown() async throws {
    let bench = try ControlBench()
    let leader = try await Scraped("a", bench, [bench.pool()])
    try await bench.settled(1)
    let replicas = Replicas(keys: bench.keys)
    func beat(_ figures: [String: String]) async throws {
      try await bench.client.run(
        replicas.beat(id: "r", figures: figures, touched: [], now: Clock.unixMilliseconds))
    }
    try await beat([:])
    let open = try await leader.api.ask("GET", "/api/status").json
    #expect(open["gate"] == "open" && open["leads"] == true && open["leader"] == "a" && open["token"] == 1)
    try bench.redis.command("FLUSHALL")
    // A replica that comes back and has not put its sessions back yet.
    try await eventually("the gate is shut") {
      try await beat([:])
      return try await leader.scrape()["berth_control_gate_open"] == 0
    }
    let shut = try await leader.api.ask("GET", "/api/status").json
    #expect(shut["gate"] == "shut" && shut["replicas"]?.array?.first?["id"] == "r", "\(shut.text)")
    #expect(shut["replicas"]?.array?.first?["settled"] == false)
    let process = try #require(shut["redis"]?.string)
    try await eventually("the gate is open") {
      try await beat([Replicas.settledFigure: process])
      return try await leader.scrape()["berth_control_gate_open"] == 1
    }
    let again = try await leader.api.ask("GET", "/api/status").json
    #expect(again["gate"] == "open" && again["replicas"]?.array?.first?["settled"] == true)
    await leader.control.stop(instances: true)
  }

  @Test func withoutRedisItIsStillAnsweredAndSaysSo() async throws {
    let bench = try ControlBench()
    let leader = try await Scraped("a", bench, [bench.pool()])
    try await leader.eventually(["berth_control_leader": 1])
    #expect(try await leader.api.ask("GET", "/api/health").status == 200)
    let well = try await leader.scrape()
    #expect(well["berth_control_redis_connected"] == 1)
    #expect(well["berth_control_redis_round_trip_seconds_count"] ?? 0 > 0)
    bench.redis.kill()
    #expect(try await leader.api.ask("GET", "/api/health").status == 503)
    try await leader.eventually(["berth_control_redis_connected": 0, "berth_control_leader": 0])
    let away = try await leader.scrape()
    #expect(away["berth_control_redis_failures_total"] ?? 0 > 0)
    #expect(away[#"berth_control_responses_total{class="5xx"}"#] == 1)
    await leader.control.stop(instances: true)
  }
}
