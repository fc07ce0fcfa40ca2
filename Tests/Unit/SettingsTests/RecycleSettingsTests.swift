// What the configuration may say about recycling, and what it may not.
import Domain
import Settings
import Testing

@Suite struct RecycleSettingsTests {
  private func pool(_ yaml: String) throws -> PoolSpec {
    try ControlSettings.load(
      file: ConfigText(name: "f", text: "pools: {a: {\(yaml)}}"), environment: [:], flags: [:]
    ).pools[0]
  }
  private func complaint(_ yaml: String) -> String {
    do {
      _ = try pool(yaml)
      return "none"
    } catch { return "\(error)" }
  }
  private static let web = "kind: http, command: x"
  private static let servers =
    "kind: http, runtime: static, servers: [{url: 'http://127.0.0.1:1', restart: [x]}, {url: 'http://127.0.0.1:2', restart: [x]}]"

  @Test func everyFieldIsRead() throws {
    let spec = try pool(
      """
      \(Self.web), max: 4, recycleAfterRequests: 1, recycleAfterMilliseconds: 2, recycleAboveMemoryMegabytes: 3,
      recycleJitterPercent: 4, maxSurge: 5, maxUnavailable: 6, minReady: 7, drainMinimumMilliseconds: 8,
      drainTimeoutMilliseconds: 9
      """)
    #expect(
      spec.recycling
        == RecyclePolicy(
          afterRequests: 1, afterMilliseconds: 2, aboveMemoryMegabytes: 3, jitterPercent: 4, maxSurge: 5,
          maxUnavailable: 6, minReady: 7, drain: DrainPolicy(minimumMilliseconds: 8, timeoutMilliseconds: 9)))
  }

  @Test func defaultsFollowFromThePool() throws {
    var usual = RecyclePolicy(drain: DrainPolicy(timeoutMilliseconds: 300_000))
    #expect(try pool(Self.web).recycling == usual)
    #expect(try pool("slots: 1").recycling == RecyclePolicy())
    usual.drain.minimumMilliseconds = 10_000
    #expect(try pool("slots: 0").recycling == usual)
    usual.drain.minimumMilliseconds = 0
    usual.maxSurge = 0
    usual.maxUnavailable = 1
    #expect(try pool("\(Self.web), maxSurge: 0").recycling == usual)
    #expect(try pool(Self.servers).recycling == usual)
    usual.minReady = 0
    #expect(try pool("\(Self.web), max: 1, maxSurge: 0").recycling == usual)
    #expect(
      try pool("kind: http, runtime: static, servers: ['http://127.0.0.1:1']").recycling == usual,
      "one server has nobody to stand in for it")
  }

  @Test(arguments: [
    (Self.web + ", maxSurge: 0, maxUnavailable: 0", "maxSurge and maxUnavailable are both 0"),
    (Self.web + ", max: 2, maxSurge: 0, minReady: 2", "minReady (2) leaves none of max (2) instances"),
    (Self.web + ", max: 1, maxSurge: 0, minReady: 1", "minReady (1) leaves none of max (1) instances"),
    (
      Self.web + ", drainMinimumMilliseconds: 10, drainTimeoutMilliseconds: 9",
      "drainMinimumMilliseconds (10) is longer"
    ),
    (Self.web + ", recycleJitterPercent: 91", "recycleJitterPercent: must be a whole number from 0 to 90"),
    (Self.servers + ", maxSurge: 1", "maxSurge: there is no such setting"),
    (Self.servers + ", recycleAboveMemoryMegabytes: 1", "recycleAboveMemoryMegabytes: there is no such setting"),
    (
      "kind: http, runtime: static, servers: ['http://127.0.0.1:1'], recycleAfterRequests: 9",
      "recycling needs servers that can be restarted"
    ),
  ]) func whatCannotBeIsRefused(yaml: String, reason: String) {
    #expect(complaint(yaml).contains(reason), "\(complaint(yaml))")
  }
}
