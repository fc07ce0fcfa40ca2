// Three control planes of which the leader is killed, stopped or cut off at random points, over and over; and a Redis that
// loses its data under load. BERTH_SEED repeats a run's choices, BERTH_ROUNDS makes it longer.
import Foundation
import Glibc
import Posix
import Redis
import Routing
import State
import Synchronization
import TestSupport
import Testing

extension EndToEnd {
  @Suite struct Fleets {
    static var rounds: Int { ProcessInfo.processInfo.environment["BERTH_ROUNDS"].flatMap { Int($0) } ?? 8 }

    private enum Fault: CaseIterable { case kill, pause, cut, stall }

    @Test func aLeaderThatDiesStopsOrIsCutOffAtAnyPointDoesNoHarm() async throws {
      let seed = SplitMix64.printedSeed(for: "fleet")
      var random = SplitMix64(seed: seed)
      let redis = try RedisFixture()
      let proxies = try (0..<3).map { _ in try CutProxy(to: redis) }
      defer { for proxy in proxies { proxy.close() } }
      let most = 12
      let fleet = try await Fleet(
        Fleet.box("recycleAfterSessions: 1", "min: 2", "spare: 3", "max: \(most)"), redis: redis.unixURL,
        controlURLs: proxies.map { "redis://127.0.0.1:\($0.port)" })
      var story: [String] = []
      do {
        try await eventually("instances are ready", within: Deployment.patience, show: fleet.controls[0]) {
          (fleet.instances() ?? []).count { $0.state == .ready } >= 3
        }
        let clients = SlotClients(6, redis: redis.unixURL, seed: seed)
        let watch = PortWatch(fleet, most: most)
        for round in 0..<Self.rounds {
          try await Task.sleep(for: .milliseconds(Int.random(in: 0...1_500, using: &random)))
          let fault = Fault.allCases.randomElement(using: &random)!
          let anybody = Int.random(in: 0..<3, using: &random)
          let hitsLeader = Int.random(in: 0..<4, using: &random) > 0
          let victim = hitsLeader ? fleet.leader ?? anybody : anybody
          let milliseconds = Int.random(in: 50...7_000, using: &random)
          story.append("round \(round): \(fault) control-\(victim) for \(milliseconds) ms")
          let before = clients.served
          switch fault {
          case .kill:
            fleet.controls[victim].signal(SIGKILL)
            _ = try await fleet.controls[victim].ended(within: 60)
            try await Task.sleep(for: .milliseconds(milliseconds / 2))
            try fleet.restartControl(victim)
          case .pause:
            fleet.controls[victim].signal(SIGSTOP)
            try await Task.sleep(for: .milliseconds(milliseconds))
            fleet.controls[victim].signal(SIGCONT)
          case .cut, .stall:
            proxies[victim].set(fault == .cut ? .cut : .stalled)
            try await Task.sleep(for: .milliseconds(milliseconds))
            proxies[victim].set(.open)
          }
          // Whoever leads now does its work.
          try await eventually("clients are served again after \(story.last ?? "")", within: 60) {
            clients.served >= before + 3
          }
        }
        let (served, violations) = try await clients.stop()
        let (problems, most) = try await watch.stop()
        #expect(violations.isEmpty && problems.isEmpty, "\(violations) \(problems)\n\(story.joined(separator: "\n"))")
        #expect(served > Self.rounds * 3)
        try await fleet.settles(3...6)
        let starts = fleet.notes("start").map { $0.split(separator: " ")[1] }
        #expect(Set(starts).count == starts.count, "an instance was started twice")
        print(
          "fleet: \(Self.rounds) faults, \(served) sessions, \(starts.count) launches, at most \(most) processes, "
            + "\(fleet.notes("taken").count) ports were taken")
        try await fleet.stop()
      } catch {
        print(story.joined(separator: "\n"))
        fleet.abandon()
        throw error
      }
    }

    /// As behind a cable that was pulled: no byte comes any more, and no FIN.
    @Test func aClientThatVanishesLosesItsSlotAtTheIdleLimit() async throws {
      let redis = try RedisFixture()
      let url = "unix:\(redis.directory)/socket"
      let fleet = try await Fleet(
        Fleet.box(
          "recycleAfterSessions: 0", "min: 1", "max: 1", "spare: 0", "idleLimitMilliseconds: 2000",
          "hardLimitMilliseconds: 600000", "queueTimeoutMilliseconds: 20000"), redis: redis.unixURL,
        controlURLs: [url], replicaURLs: [url])
      do {
        try await eventually("it is ready", within: Deployment.patience, show: fleet.controls[0]) {
          (fleet.instances() ?? []).contains { $0.state == .ready }
        }
        let gone = try StayingClient(port: fleet.dataPort, path: "/silent")
        #expect(try redis.command("ZCARD", Keys().leases(pool: "box")) == .int(1))
        // The next one waits for it, and gets it.
        #expect(HTTP.request("GET", fleet.dataPort, "/", seconds: 30)?.status == 200)
        let events = fleet.ask(Events(keys: Keys()).recent(count: 50)) ?? []
        #expect(events.contains { $0.type == "session.ended" && $0.reason == "idle limit" })
        gone.close()
        try await fleet.stop()
      } catch {
        fleet.abandon()
        throw error
      }
    }

    enum Loss: String, CaseIterable { case empty, old, failOver }

    @Test(arguments: Loss.allCases)
    func nobodyGetsABrowserThatAnotherStillHasWhenRedisForgets(loss: Loss) async throws {
      let seed = SplitMix64.printedSeed(for: "redis \(loss)")
      let sentinel = loss == .failOver ? try SentinelFixture() : nil
      let redis = try sentinel?.first ?? RedisFixture()
      let url = sentinel?.url ?? redis.tcpURL
      let text = url.description
      let fleet = try await Fleet(
        Fleet.box("recycleAfterSessions: 0", "min: 8", "spare: 0", "max: 8", "queueTimeoutMilliseconds: 3000"),
        redis: url, controlURLs: [text, text], replicaURLs: [text, text])
      do {
        try await eventually("instances are ready", within: Deployment.patience, show: fleet.controls[0]) {
          (fleet.instances() ?? []).count { $0.state == .ready } == 8
        }
        let clients = HoldingClients(12, port: fleet.dataPort, seed: seed)
        try await eventually("the load runs", within: 60) { clients.now.served >= 12 }
        var recoveries: [Int] = []
        for round in 0..<(loss == .failOver ? 2 : 3) {
          let lost: Int
          switch loss {
          case .empty:
            redis.kill()
            try await Task.sleep(for: .milliseconds(500))
            lost = Clock.monotonicMilliseconds
            try redis.start()
          case .old:
            try redis.command("SAVE")
            // Slots change hands, and Redis forgets it.
            let before = clients.now.served
            try await eventually("clients come and go", within: 60) { clients.now.served >= before + 12 }
            redis.kill()
            lost = Clock.monotonicMilliseconds
            try redis.start()
          case .failOver:
            let master = try #require(try sentinel?.master())
            if round == 0 {
              master.freeze()
              try await Task.sleep(for: .milliseconds(100))
              lost = Clock.monotonicMilliseconds
            } else {
              master.kill()
              lost = Clock.monotonicMilliseconds
            }
            try await eventually("the other one is the master", within: 60) {
              (try? sentinel?.master()).map { $0 !== master } ?? false
            }
            if round == 0 {
              master.thaw()
              // Until it has taken over the other's data it must not be the master again: see docs/configuration.md.
              try await eventually("the former master follows", within: 60) {
                let state = try? master.command("INFO", "replication").text
                return state?.contains("role:slave") == true && state?.contains("master_link_status:up") == true
              }
            }
          }
          let served = try await eventually("clients are served again", within: 60, show: fleet.controls[0]) {
            // Answers that were on their way do not count.
            clients.firstServed(after: lost + 1_000)
          }
          #expect(served - lost >= 3_000, "slots are given away before the replicas could have put theirs back")
          recoveries.append(served - lost)
          let before = clients.now.served
          try await eventually("the load runs on", within: 60) { clients.now.served >= before + 12 }
        }
        let tally = try await clients.stop()
        #expect(fleet.notes("shared").isEmpty, "two clients had one instance")
        #expect(tally.broken.isEmpty, "live answers were cut: \(tally.broken)")
        print(
          "redis \(loss.rawValue): \(tally.served) served, \(tally.refused) refused, "
            + "first new slot after \(recoveries) ms")
        try await fleet.settles(8...8)
        try await fleet.stop()
      } catch {
        fleet.abandon()
        throw error
      }
    }
  }
}

/// Looks all the time whether two records have one port, and whether there are more instances than allowed.
private final class PortWatch: Sendable {
  private struct State {
    var problems: [String] = []
    var most = 0
    var isRunning = true
  }
  private let state = Mutex(State())
  private let isOver = Atomic(false)

  init(_ fleet: Fleet, most: Int) {
    let (redis, directory) = (fleet.redis, fleet.directory)
    Foundation.Thread.detachNewThread { [self] in
      var looks = 0
      while !isOver.load(ordering: .relaxed) {
        usleep(10_000)
        looks += 1
        if let instances = try? RedisConnection(url: redis).run(Registry(keys: Keys()).instances()) {
          let placed = instances.filter { $0.port > 0 }
          let ports = Set(placed.map { "\($0.host):\($0.port)" })
          if ports.count != placed.count { problem("two records have one port: \(placed.map { ($0.id, $0.port) })") }
          if instances.count > most { problem("\(instances.count) instances are more than max") }
        }
        guard looks % 20 == 0 else { continue }
        let count = Machine.processes(marked: directory).count { $0.command.contains("small_instance.py") }
        state.withLock { $0.most = max($0.most, count) }
        // Two launches at a time may still be on their way when their leader has lost the lead.
        if count > most + 2 { problem("\(count) processes") }
      }
      state.withLock { $0.isRunning = false }
    }
  }

  private func problem(_ what: String) { state.withLock { if $0.problems.count < 20 { $0.problems.append(what) } } }

  func stop() async throws -> (problems: [String], most: Int) {
    isOver.store(true, ordering: .relaxed)
    try await eventually("the watch ends", within: 60) { self.state.withLock { !$0.isRunning } }
    return state.withLock { ($0.problems, $0.most) }
  }
}
