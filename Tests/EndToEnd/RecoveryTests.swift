// The failure table of the design, measured: how long it takes until all is as it was. Each row is done BERTH_RECOVERY_RUNS
// times (once, if not said otherwise) and prints its median and its worst; docs/operations.md has the figures.
import Foundation
import Glibc
import JSON
import Posix
import Redis
import Routing
import State
import TestSupport
import Testing

extension EndToEnd {
  @Suite struct Recoveries {
    private static var runs: Int {
      ProcessInfo.processInfo.environment["BERTH_RECOVERY_RUNS"].flatMap { Int($0) } ?? 1
    }

    private static func tell(_ row: String, _ milliseconds: [Int]) {
      let sorted = milliseconds.sorted()
      print(
        "recovery: \(row): median \(sorted[sorted.count / 2]) ms, worst \(sorted.last ?? 0) ms, n = \(sorted.count)")
    }

    /// Waits for a condition, looking every five milliseconds, and says how long that took.
    private static func time(_ what: String, _ show: Program, _ condition: () throws -> Bool) async throws -> Int {
      let start = Clock.monotonicMilliseconds
      while try !condition() {
        guard Clock.monotonicMilliseconds - start < 60_000 else {
          throw Failure("\(what): not within a minute\n\(show.lines.suffix(20).joined(separator: "\n"))")
        }
        try await Task.sleep(for: .milliseconds(5))
      }
      return Clock.monotonicMilliseconds - start
    }

    private static func with(
      _ configuration: String, redis: RedisFixture, controls: Int, replicas: Int = 0,
      _ body: (Fleet) async throws -> Void
    ) async throws {
      let url = "unix:\(redis.directory)/socket"
      let fleet = try await Fleet(
        configuration, redis: redis.unixURL, controlURLs: Array(repeating: url, count: controls),
        replicaURLs: Array(repeating: url, count: replicas))
      do {
        try await eventually("instances are ready", within: Deployment.patience, show: fleet.controls[0]) {
          (fleet.instances() ?? []).count { $0.state == .ready } >= 2
        }
        try await body(fleet)
        try await fleet.stop()
      } catch {
        fleet.abandon()
        throw error
      }
    }

    @Test func aKilledLeaderIsFollowed() async throws {
      let redis = try RedisFixture()
      var times: [Int] = []
      try await Self.with(Fleet.box("min: 2", "max: 4"), redis: redis, controls: 3) { fleet in
        for _ in 0..<Self.runs {
          try await eventually("somebody leads", within: 60) { fleet.leader != nil }
          let leader = try #require(fleet.leader)
          // Where in its renewals it dies is chance.
          try await Task.sleep(for: .milliseconds(Int.random(in: 0...1_000)))
          let elected = try redis.command("XREVRANGE", Keys().events, "+", "-", "COUNT", "1")
          fleet.controls[leader].signal(SIGKILL)
          times.append(
            try await Self.time("another one has taken over", fleet.controls[(leader + 1) % 3]) {
              // The newest event of all is its word that it has.
              let newest = try redis.command("XREVRANGE", Keys().events, "+", "-", "COUNT", "1")
              return newest != elected && "\(newest)".contains(Self.bytes("leader.elected"))
            })
          _ = try await fleet.controls[leader].ended(within: 60)
          try fleet.restartControl(leader)
        }
      }
      Self.tell("control plane SIGKILLed, to a standby that has taken over", times)
      #expect(times.allSatisfy { $0 < 10_000 }, "the promise is five seconds")
    }

    /// A text as it shows within a printed reply.
    private static func bytes(_ text: String) -> String { text.utf8.map { String($0) }.joined(separator: ", ") }

    @Test func theLeasesOfAKilledReplicaComeBack() async throws {
      let redis = try RedisFixture()
      var times: [Int] = []
      for _ in 0..<Self.runs {
        try await Self.with(
          Fleet.box("recycleAfterSessions: 0", "min: 4", "max: 4"), redis: redis, controls: 2, replicas: 1
        ) { fleet in
          try await eventually("all are ready", within: 60) {
            (fleet.instances() ?? []).count { $0.state == .ready } == 4
          }
          let clients = HoldingClients(2, port: fleet.dataPort, seed: 1)
          try await eventually("a slot is held", within: 60) {
            try redis.command("ZCARD", Keys().leases(pool: "box")) != .int(0)
          }
          try await Task.sleep(for: .milliseconds(Int.random(in: 0...1_000)))
          fleet.replicas[0].signal(SIGKILL)
          times.append(
            try await Self.time("its leases come back", fleet.controls[0]) {
              try redis.command("ZCARD", Keys().leases(pool: "box")) == .int(0)
            })
          _ = try await clients.stop()
        }
        try redis.flush()
      }
      Self.tell("replica SIGKILLed, to its leases back", times)
      #expect(times.allSatisfy { $0 < 10_000 }, "the promise is five seconds")
    }

    @Test func aKilledInstanceIsReplaced() async throws {
      let redis = try RedisFixture()
      var times: [Int] = []
      let chrome = "pools:\n  chrome: {min: 2, spare: 2, max: 6}\nroutes:\n  all: {path: /, pool: chrome}\n"
      try await Self.with(chrome, redis: redis, controls: 1) { fleet in
        for _ in 0..<Self.runs {
          try await eventually("two are ready", within: Deployment.patience) {
            (fleet.instances() ?? []).count { $0.state == .ready } == 2
          }
          let before = Set((fleet.instances() ?? []).map(\.id))
          let victim = try #require((fleet.instances() ?? []).first { $0.state == .ready })
          kill(pid_t(try #require(victim.pid)), SIGKILL)
          times.append(
            try await Self.time("another one is ready", fleet.controls[0]) {
              (fleet.instances() ?? []).contains { !before.contains($0.id) && $0.state == .ready }
            })
        }
      }
      Self.tell("Chrome SIGKILLed, to a ready replacement", times)
    }

    /// Sixty seconds, as the design's table has it.
    @Test func aRedisThatIsGoneForAMinuteCostsOnlyNewSlots() async throws {
      let redis = try RedisFixture(arguments: ["--appendonly", "yes"])
      let seconds = ProcessInfo.processInfo.environment["BERTH_OUTAGE_SECONDS"].flatMap { Int($0) } ?? 60
      try await Self.with(
        Fleet.box("recycleAfterSessions: 0", "min: 3", "max: 3", "queueTimeoutMilliseconds: 2000"), redis: redis,
        controls: 2, replicas: 1
      ) { fleet in
        try await eventually("all are ready", within: 60) {
          (fleet.instances() ?? []).count { $0.state == .ready } == 3
        }
        let before = try #require(fleet.instances()).map(\.id).sorted()
        let client = try StayingClient(port: fleet.dataPort)
        redis.kill()
        let end = Clock.monotonicMilliseconds + seconds * 1_000
        var refused = 0
        while Clock.monotonicMilliseconds < end {
          let answer = try #require(HTTP.request("GET", fleet.dataPort, "/hold", seconds: 20))
          #expect(answer.status == 503 && answer.head.lowercased().contains("retry-after:"), "\(answer.head)")
          refused += 1
          #expect(client.isServed, "live traffic goes on")
          try await Task.sleep(for: .milliseconds(1_000))
        }
        try redis.start()
        let back = try await Self.time("somebody gets a slot", fleet.controls[0]) {
          HTTP.request("GET", fleet.dataPort, "/", seconds: 20)?.status == 200
        }
        #expect(client.isServed)
        #expect(try #require(fleet.instances()).map(\.id).sorted() == before, "the same instances, none started anew")
        print("outage: \(seconds) s, \(refused) clients were refused with 503, the live one went on")
        Self.tell("Redis gone for \(seconds) s, from its return to a new slot", [back])
        client.close()
      }
    }
  }
}

/// One client that has got a slot and the beginning of an answer without end.
final class StayingClient {
  private let fd: Int32

  init(port: Int, path: String = "/hold") throws {
    let (result, _) = Socket.connect(SocketAddress(host: "127.0.0.1", port: port)!)
    guard result >= 0 else { throw Failure("no connection") }
    fd = Int32(result)
    guard waits(fd, POLLOUT, milliseconds: 5_000) else { throw Failure("no connection in time") }
    let request = Array("GET \(path) HTTP/1.1\r\nHost: localhost\r\n\r\n".utf8)
    _ = unsafe request.withUnsafeBytes { unsafe Socket.send(fd, $0.baseAddress!, $0.count) }
    guard isServed else { throw Failure("no answer") }
  }

  /// Whether more of the answer comes; what has come already is thrown away first.
  var isServed: Bool {
    var piece = [UInt8](repeating: 0, count: 65_536)
    while true {
      let count = unsafe piece.withUnsafeMutableBytes { unsafe Socket.receive(fd, $0.baseAddress!, $0.count) }
      if count == Errno.again { break }
      if count <= 0 { return false }
    }
    guard waits(fd, POLLIN, milliseconds: 10_000) else { return false }
    return unsafe piece.withUnsafeMutableBytes { unsafe Socket.receive(fd, $0.baseAddress!, $0.count) } > 0
  }

  func close() { Socket.close(fd) }
}
