// What a replica tells of instances that failed: with its heartbeat, bounded, and only what the pool wants to know.
import Redis
import RouteFeed
import Routing
import State
import Synchronization
import TestSupport
import Testing

@Suite struct FaultReportTests {
  private func pool(_ name: String, after failures: Int = 1, serverErrors: Bool = false) -> PoolRecord {
    var pool = PoolRecord(name: name, kind: .http, slots: 0)
    pool.reportFailures = failures
    pool.reportServerErrors = serverErrors
    return pool
  }

  @Test func onlyWhatThePoolWantsToKnowIsTold() {
    let pools = ["web": pool("web"), "slow": pool("slow", after: 3), "off": pool("off", after: 0)]
    func told(_ pool: String, _ counts: [InstanceFaultKind: Int]) -> [InstanceFaults] {
      FaultReports.choose([WitnessedFaults(instance: "i", pool: pool, counts: counts)], pools: pools).told
    }
    #expect(told("web", [.reset: 1, .serverError: 7]) == [InstanceFaults(instance: "i", counts: [.reset: 1])])
    #expect(told("web", [.serverError: 7]) == [])
    #expect(told("slow", [.reset: 1, .connect: 1]) == [])
    #expect(told("slow", [.reset: 1, .connect: 2]).first?.total == 3)
    #expect(told("off", [.connect: 99]) == [])
    #expect(told("gone", [.connect: 99]) == [])
    let counting = ["web": pool("web", serverErrors: true)]
    let seen = [WitnessedFaults(instance: "i", pool: "web", counts: [.serverError: 2, .timeout: 0])]
    #expect(
      FaultReports.choose(seen, pools: counting).told == [InstanceFaults(instance: "i", counts: [.serverError: 2])])
  }

  @Test func ofManyThoseThatFailedMostAreTold() {
    let seen = (1...10).map { WitnessedFaults(instance: "i\($0)", pool: "web", counts: [.connect: $0 % 5]) }
    let (told, dropped) = FaultReports.choose(seen, pools: ["web": pool("web")], limit: 3)
    #expect(told.map(\.instance) == ["i4", "i9", "i3"] && dropped == 5)
  }

  @Test func theyGoOutWithTheHeartbeatAndAreTakenOnce() throws {
    let deployment = try FeedDeployment(pools: [pool("web")], instances: ["a", "b"])
    let seen = Mutex<[WitnessedFaults]>([])
    let replica = try FeedReplica("r-1", url: deployment.redis.unixURL) {
      seen.withLock { seen in
        defer { seen = [] }
        return seen
      }
    }
    try replica.routes("a", "b")
    seen.withLock {
      $0 = [
        WitnessedFaults(instance: "a", pool: "web", counts: [.connect: 2, .reset: 1, .serverError: 5]),
        WitnessedFaults(instance: "nobody", pool: "web", counts: [.connect: 2]),
      ]
    }
    let reports = Reports(keys: deployment.keys)
    var taken: [InstanceFaults] = []
    try waitUntil("the report is there") {
      taken = try deployment.run(reports.take())
      return !taken.isEmpty
    }
    #expect(taken == [InstanceFaults(instance: "a", counts: [.connect: 2, .reset: 1])])
    #expect(taken[0].text == "2 connect, 1 reset")
    #expect(try deployment.run(reports.take()).isEmpty)
    try waitUntil("it is counted") { replica.coordinator.counters.faultReports == 2 }
    // Two replicas' words add up, and go when nobody takes them.
    for _ in 0..<2 { _ = try deployment.run(reports.report([InstanceFaults(instance: "b", counts: [.timeout: 1])])) }
    guard case .int(let left) = try deployment.redis.command("PTTL", deployment.keys.reports) else { return }
    #expect(left > 0 && left <= Reports.lifeMilliseconds)
    #expect(try deployment.run(reports.take()) == [InstanceFaults(instance: "b", counts: [.timeout: 2])])
  }
}
