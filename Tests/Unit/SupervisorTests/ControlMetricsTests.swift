// Sentences become words of fixed lists, and pools that nobody declared share one name.
import Observability
import Redis
import Supervisor
import Testing

@Suite struct ControlMetricsTests {
  @Test(arguments: [
    ("client", SessionEnd.client), ("the client has gone", .clientGone), ("reservation ran out", .reservation),
    ("grace ran out", .grace), ("idle limit", .idleLimit), ("hard limit", .hardLimit), ("record lost", .lost),
    ("overtaken", .lost), ("more than 200 sessions", .maxSessions), ("instance restarted", .instance),
    ("its process was ended by signal 9", .instance), ("it is drained", .instance), ("", .instance),
  ])
  func anEndIsOneOfAFew(_ reason: String, _ end: SessionEnd) { #expect(SessionEnd(reason: reason) == end) }

  @Test func poolsOfOthersAreCountedTogether() {
    let metrics = ControlMetrics(pools: ["chrome"])
    for name in ["chrome", "a", "b"] { metrics.count(name) { $0.launches += 1 } }
    #expect(metrics.figures.pools.mapValues(\.launches) == ["chrome": 1, ControlMetrics.otherPools: 2])
  }

  @Test func exchangesWithRedisAreTimed() {
    let metrics = ControlMetrics(pools: [])
    metrics.observe(.unreachable)
    #expect(metrics.figures.redisFailures == 1 && !metrics.figures.isRedisConnected)
    metrics.observe(.answered(commands: 3, microseconds: 2_000))
    #expect(metrics.figures.redisCommands == 3 && metrics.figures.isRedisConnected)
    #expect(metrics.figures.redisRoundTrips.sum == 0.002 && metrics.figures.redisRoundTrips.count == 1)
    metrics.observe(.failed)
    #expect(metrics.figures.redisFailures == 2 && !metrics.figures.isRedisConnected)
  }
}
