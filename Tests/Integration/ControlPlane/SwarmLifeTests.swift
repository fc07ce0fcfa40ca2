// The leader at work with a real swarm of three nodes: services are placed by Swarm, followed to their nodes, noticed when
// they or their node die, adopted, and removed when nobody owns them.
import Domain
import Foundation
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

@Suite(.serialized, .enabled(if: SwarmCluster.isPossible, SwarmCluster.whyNot)) struct SwarmLifeTests {
  @Test func servicesAreMadeAsDeclaredSpreadByConstraintAndLeaveNothing() async throws {
    let swarm = try await SwarmBench()
    let pool = swarm.pool { spec, service in
      spec.min = 2
      service.constraints = ["node.labels.number!=1"]
      service.container.environment = ["A": "{id}"]
    }
    // The engine of node 3 is not known here.
    let settings = try swarm.settings(managers: swarm.cluster.nodes.prefix(2).map(\.engine.endpoint))
    let runtime = try swarm.runtime(settings, pools: [pool])
    let control = try swarm.bench.start("a", [pool], runtime)
    let records = try await swarm.bench.settled(2)
    // Ready means that it answered at the address of its node.
    #expect(records.compactMap { $0.labels["node"] }.sorted() == ["node2", "node3"])
    for record in records {
      let node = try swarm.cluster.node(of: record)
      #expect(record.host == node.address && settings.portRange.contains(record.port))
      #expect(record.labels["host"] == "swarm" && record.labels["runtime"] == "swarm")
      let declared = try swarm.cluster.inspect(try #require(record.service))["Spec"]
      #expect(declared?["Name"]?.string == "berth-\(swarm.owner)-\(record.id)")
      #expect(declared?["Labels"]?["berth.instance"]?.string == record.id)
      #expect(declared?["TaskTemplate"]?["RestartPolicy"]?["Condition"] == "none")
      #expect(
        declared?["TaskTemplate"]?["Resources"]?["Reservations"]?["MemoryBytes"] == .int(64 << 20))
      let facts = try node.engine.inspect(try swarm.cluster.container(of: record))
      let config = try #require(facts["HostConfig"])
      #expect(facts["Config"]?["Labels"]?["berth.pool"]?.string == "web")
      #expect(facts["Config"]?["Env"]?.array?.contains(.string("A=\(record.id)")) == true)
      #expect(config["Init"] == true && config["ReadonlyRootfs"] == true && config["CapDrop"] == ["ALL"])
      #expect(config["Memory"] == .int(64 << 20) && config["NanoCpus"] == 100_000_000)
      #expect(config["PidsLimit"] == 1_024)
      let memory = try node.engine.docker("exec", facts["Id"]?.string ?? "", "busybox", "mount")
      #expect(memory.contains("tmpfs on /dev/shm type tmpfs") && memory.contains("size=16384k"))
      #expect(memory.contains("tmpfs on /tmp type tmpfs") && memory.contains("size=8192k"))
    }
    // Only a container's own engine knows what it uses.
    let figures = await runtime.figures(of: records)
    let near = try #require(records.first { $0.labels["node"] == "node2" })
    #expect(Set(figures.keys) == [near.id])
    #expect(figures[near.id]?.memoryLimitBytes == 64 << 20 && figures[near.id]?.milliCPULimit == 100)
    #expect(figures[near.id]?.processes ?? 0 > 0)
    try await swarm.finish(control, runtime)
    let ports = Ports(keys: swarm.bench.keys, host: "swarm")
    #expect(try await swarm.bench.client.run(ports.list()).isEmpty)
  }

  @Test func aKilledContainerIsNoticedWithItsStatusAndReplaced() async throws {
    let swarm = try await SwarmBench()
    // Nothing but Swarm's list of tasks can tell within the test's time.
    let pool = swarm.pool { spec, _ in
      spec.health.intervalMilliseconds = 3_600_000
      spec.health.tcp.intervalMilliseconds = 3_600_000
    }
    let runtime = try swarm.runtime(try swarm.settings(), pools: [pool])
    let control = try swarm.bench.start("a", [pool], runtime)
    let record = try await swarm.bench.settled(1)[0]
    let node = try swarm.cluster.node(of: record)
    try node.engine.docker("kill", try swarm.cluster.container(of: record))
    let killed = ContinuousClock.now
    try await eventually("it is seen to be dead") { !runtime.isAlive(record) }
    let noticed = ContinuousClock.now - killed
    try await eventually("another one is ready") {
      try await swarm.bench.instances(.ready).contains { $0.id != record.id }
    }
    print("swarm: kill → noticed \(noticed), kill → ready replacement \(ContinuousClock.now - killed)")
    // Its end goes on beside the launch.
    try await eventually("its end is told with the status") {
      try await swarm.bench.events().contains {
        $0.id == record.id && $0.reason == "its container exited with status 137"
      }
    }
    try await swarm.finish(control, runtime)
  }

  @Test func theNextLeaderAdoptsWhatRunsAndRemovesWhatNobodyOwns() async throws {
    let swarm = try await SwarmBench()
    let pool = swarm.pool()
    let settings = try swarm.settings()
    let first = try swarm.runtime(settings, pools: [pool])
    let a = try swarm.bench.start("a", [pool], first)
    let record = try await swarm.bench.settled(1)[0]
    await a.kill()
    first.shutdown()
    // Whoever died in the middle of a launch left this; the other one is of another deployment.
    func make(_ instance: String, owner: String) throws {
      try swarm.cluster.docker(
        "service", "create", "-q", "--detach", "--restart-condition", "none", "--label", "berth.owner=\(owner)",
        "--label", "berth.host=swarm", "--label", "berth.instance=\(instance)", "--name", "\(owner)-\(instance)",
        SwarmBench.image)
    }
    let other = "other-" + swarm.owner
    try make("web-lost", owner: swarm.owner)
    try make(record.id, owner: other)
    defer { _ = try? swarm.cluster.docker("service", "rm", "\(other)-\(record.id)") }

    let second = try swarm.runtime(settings, pools: [pool])
    let b = try swarm.bench.start("b", [pool], second)
    try await eventually("what nobody owns is gone") { try swarm.cluster.services(owner: swarm.owner).count == 1 }
    #expect(try await swarm.bench.settled(1) == [record])
    // One that appears later is found as well.
    try make("web-late", owner: swarm.owner)
    try await eventually("a late one is gone too") { try swarm.cluster.services(owner: swarm.owner).count == 1 }
    #expect(try swarm.cluster.services(owner: other).count == 1)
    #expect(try await swarm.bench.settled(1) == [record])

    // An empty Redis is filled from the swarm.
    await b.kill()
    second.shutdown()
    try swarm.bench.redis.command("FLUSHALL")
    let third = try swarm.runtime(settings, pools: [pool])
    let c = try swarm.bench.start("c", [pool], third)
    let found = try await swarm.bench.settled(1)[0]
    #expect(found.id == record.id && found.host == record.host && found.port == record.port)
    #expect(found.labels == record.labels)
    try await swarm.finish(c, third)
  }

  @Test func aCommandThatEndsIsAFailedLaunchWithItsLastLines() async throws {
    let swarm = try await SwarmBench()
    let pool = swarm.pool { _, service in
      service.container.arguments = ["/bin/sh", "-c", "echo last words; exit 3"]
    }
    let runtime = try swarm.runtime(try swarm.settings(), pools: [pool])
    let control = try swarm.bench.start("a", [pool], runtime)
    try await eventually("it has failed") { try await !swarm.reasons("instance.launch_failed").isEmpty }
    let reason = try #require(try await swarm.reasons("instance.launch_failed").last)
    #expect(reason.contains("its container exited with status 3; its log ends: last words"), "\(reason)")
    try await swarm.finish(control, runtime)
  }
}

@Suite(.serialized, .enabled(if: SwarmCluster.isPossible, SwarmCluster.whyNot)) struct SwarmRefusalTests {
  /// Why the pool's launches fail.
  private func reason(_ swarm: SwarmBench, _ pool: PoolSpec) async throws -> String {
    let runtime = try swarm.runtime(try swarm.settings(), pools: [pool])
    let control = try swarm.bench.start("a", [pool], runtime)
    try await eventually("it has failed") { try await !swarm.reasons("instance.launch_failed").isEmpty }
    let reason = try #require(try await swarm.reasons("instance.launch_failed").last)
    try await swarm.finish(control, runtime)
    return reason
  }

  @Test func noRoomIsSaidSo() async throws {
    let swarm = try await SwarmBench()
    let reason = try await reason(swarm, swarm.pool { _, service in service.reservedMegabytes = 1_048_576 })
    #expect(reason == "swarm swarm: no suitable node (insufficient resources on 3 nodes)")
  }

  @Test func anImageThatCannotBeHadIsNamed() async throws {
    let swarm = try await SwarmBench()
    let reason = try await reason(swarm, swarm.pool { _, service in service.container.image = "berth/none:test" })
    #expect(reason.contains("refused its task: No such image: berth/none:test"), "\(reason)")
  }

  @Test func aConstraintThatIsNoneIsNamed() async throws {
    let swarm = try await SwarmBench()
    let reason = try await reason(swarm, swarm.pool { _, service in service.constraints = ["x y==z"] })
    #expect(reason.contains("swarm swarm: ") && reason.contains("x y"), "\(reason)")
  }

  @Test func aProfileThatOldManagersCannotHaveIsRefused() async throws {
    let swarm = try await SwarmBench()
    let version = try swarm.cluster.nodes[0].engine.docker("version", "--format", "{{.Server.APIVersion}}")
    let isOld = try #require(APIVersion(version.filter { !$0.isNewline })) < ServiceRequest.privileges
    let pool = swarm.pool { _, service in service.container.seccomp = "unconfined" }
    guard isOld else {
      // Then it is what the container gets.
      let runtime = try swarm.runtime(try swarm.settings(), pools: [pool])
      let control = try swarm.bench.start("a", [pool], runtime)
      let record = try await swarm.bench.settled(1)[0]
      let facts = try swarm.cluster.node(of: record).engine.inspect(try swarm.cluster.container(of: record))
      #expect(facts["HostConfig"]?["SecurityOpt"]?.array?.contains("seccomp=unconfined") == true)
      return try await swarm.finish(control, runtime)
    }
    let reason = try await reason(swarm, pool)
    #expect(reason.contains("services can have from Engine API 1.44 (Docker 25) on"), "\(reason)")
  }

  @Test func aPortThatSomethingElseHasIsPutAside() async throws {
    let swarm = try await SwarmBench()
    let pool = swarm.pool { _, service in service.constraints = ["node.labels.number==2"] }
    let settings = try swarm.settings()
    let first = settings.portRange.lowerBound
    // A container that Swarm knows nothing of has one, a service that it does know the next.
    let engine = swarm.cluster.nodes[1].engine
    let other = try engine.docker("run", "-d", "-p", "\(first):8080", SwarmBench.image).filter { !$0.isNewline }
    defer { try? engine.remove(other) }
    let name = "other-\(swarm.owner)"
    try swarm.cluster.docker(
      "service", "create", "-q", "--detach", "--name", name, "--publish",
      "mode=host,published=\(first + 1),target=8080", "--constraint", "node.labels.number==2", SwarmBench.image)
    defer { _ = try? swarm.cluster.docker("service", "rm", name) }
    try await eventually("it has its port") {
      try swarm.cluster.docker("service", "ps", "--format", "{{.CurrentState}}", name).hasPrefix("Running")
    }
    let runtime = try swarm.runtime(settings, pools: [pool])
    let control = try swarm.bench.start("a", [pool], runtime)
    let record = try await swarm.bench.settled(1)[0]
    #expect(record.port == first + 2 && record.labels["node"] == "node2")
    let aside = try await swarm.bench.events().filter { $0.type == "port.quarantined" }
    #expect(Set(aside.map(\.id)) == [String(first), String(first + 1)])
    #expect(aside.contains { $0.reason.contains("host-mode port already in use") })
    try await swarm.finish(control, runtime)
  }
}
