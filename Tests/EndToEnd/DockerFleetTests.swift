// Three control planes over one real container engine: whoever leads is killed, stopped or cut off while containers come and
// go, and afterwards there is one container for each record and none besides.
import Foundation
import Glibc
import Posix
import Redis
import Routing
import TestSupport
import Testing

extension EndToEnd {
  @Suite struct DockerFleet {
    @Test func aLeaderThatGoesLeavesNoContainerThatNobodyKnows() async throws {
      let engine = try Docker.engine()
      let owner = "fleet-\(UInt32.random(in: 0...UInt32.max))"
      defer { try? Docker.removeAll(owner, at: engine) }
      let seed = SplitMix64.printedSeed(for: "docker fleet")
      var random = SplitMix64(seed: seed)
      let ports = try Machine.freePorts(50)
      let redis = try RedisFixture()
      let proxies = try (0..<3).map { _ in try CutProxy(to: redis) }
      defer { for proxy in proxies { proxy.close() } }
      let fleet = try await Fleet(
        """
        docker:
          owner: \(owner)
          hosts:
            local: {url: "\(engine)", portRangeStart: \(ports.lowerBound), portRangeEnd: \(ports.upperBound)}
        pools:
          chrome:
            runtime: docker
            image: berth/chrome:test
            pull: never
            seccomp: \(Machine.checkout)/deploy/chrome/seccomp.json
            readOnly: true
            tmpfs: {/tmp: "size=256m,mode=1777"}
            memoryMegabytes: 768
            stopGraceMilliseconds: 1000
            min: 1
            spare: 1
            max: 4
        routes:
          all: {path: /, pool: chrome}
        """, redis: redis.unixURL, controlURLs: proxies.map { "redis://127.0.0.1:\($0.port)" })
      do {
        try await eventually("a container is ready", within: Deployment.patience, show: fleet.controls[0]) {
          (fleet.instances() ?? []).contains { $0.state == .ready }
        }
        let clients = SlotClients(2, pool: "chrome", areProcesses: false, redis: redis.unixURL, seed: seed)
        for round in 0..<3 {
          try await Task.sleep(for: .milliseconds(Int.random(in: 500...2_500, using: &random)))
          let leader = try await eventually("somebody leads", within: 60) { fleet.leader }
          // Long enough for another one to lead, while a container is being made or removed as like as not.
          let milliseconds = Int.random(in: 5_000...8_000, using: &random)
          switch round % 3 {
          case 0:
            fleet.controls[leader].signal(SIGSTOP)
            try await Task.sleep(for: .milliseconds(milliseconds))
            fleet.controls[leader].signal(SIGCONT)
          case 1:
            proxies[leader].set(.stalled)
            try await Task.sleep(for: .milliseconds(milliseconds))
            proxies[leader].set(.open)
          default:
            fleet.controls[leader].signal(SIGKILL)
            _ = try await fleet.controls[leader].ended(within: 60)
            try fleet.restartControl(leader)
          }
          let before = clients.served
          try await eventually("clients are served again", within: Deployment.patience) { clients.served >= before + 2 }
        }
        let (served, violations) = try await clients.stop()
        #expect(violations.isEmpty, "\(violations)")
        try await eventually(
          "there is one container for each record", within: Deployment.patience, show: fleet.controls[0]
        ) {
          let instances = try #require(fleet.instances())
          let containers = try Docker.containers(owner, at: engine)
          return !instances.isEmpty && instances.allSatisfy { $0.state == .ready }
            && containers.sorted() == instances.compactMap { $0.labels["container"] }.sorted()
            && containers.count == instances.count
        }
        print("docker fleet: 3 faults, \(served) sessions")
        try await fleet.stop()
        #expect(try Docker.containers(owner, at: engine).isEmpty)
      } catch {
        fleet.abandon()
        throw error
      }
    }
  }
}

extension EndToEnd.Docker {
  static func engine() throws -> String {
    try run("bash", [Machine.checkout + "/scripts/test-engine", "host"]).trimmingCharacters(in: .whitespacesAndNewlines)
  }
  static func containers(_ owner: String, at engine: String) throws -> [String] {
    try run("docker", ["--host", engine, "ps", "-aq", "--no-trunc", "--filter", "label=berth.owner=\(owner)"])
      .split(whereSeparator: \.isNewline).map(String.init)
  }
  static func removeAll(_ owner: String, at engine: String) throws {
    for container in try containers(owner, at: engine) {
      _ = try run("docker", ["--host", engine, "rm", "-f", container])
    }
  }
}
