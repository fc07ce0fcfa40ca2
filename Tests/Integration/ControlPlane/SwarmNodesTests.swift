// Nodes and managers of a real swarm that go away and come back, and a Chrome on it.
import Domain
import Foundation
import Glibc
import JSON
import Posix
import Routing
import Runtimes
import State
import Supervisor
import TestSupport
import Testing

@Suite(.serialized, .enabled(if: SwarmCluster.isPossible, SwarmCluster.whyNot)) struct SwarmNodesTests {
  @Test func aNodeThatIsCutOffIsWaitedForAndThenReplaced() async throws {
    let swarm = try await SwarmBench()
    let pool = swarm.pool { spec, service in
      service.constraints = ["node.labels.number!=1"]
      // Only what Swarm says of the node counts here.
      spec.health.failuresBeforeReplacement = .max
    }
    let runtime = try swarm.runtime(try swarm.settings(graceMilliseconds: 2_000), pools: [pool])
    let control = try swarm.bench.start("a", [pool], runtime)
    let record = try await swarm.bench.settled(1)[0]
    let node = try swarm.cluster.node(of: record)
    try swarm.cluster.cut(node)
    let cut = ContinuousClock.now
    try await eventually("another one is ready on the other node") {
      let all = try await swarm.bench.instances()
      return all.count == 1 && all[0].state == .ready && all[0].labels["node"] != node.name
    }
    print("swarm: node cut off → ready replacement \(ContinuousClock.now - cut) (grace 2 s)")
    let reasons = try await swarm.bench.events().filter { $0.id == record.id }.map(\.reason)
    #expect(reasons.contains("its node \(node.name) has been down for 2 seconds"), "\(reasons)")
    // It does not know yet that it is not wanted any more.
    #expect(try node.engine.containers(owner: swarm.owner, all: false).count == 1)
    try swarm.cluster.mend(node)
    try await eventually("Swarm has ended what it still ran") {
      try node.engine.containers(owner: swarm.owner, all: true).isEmpty
    }
    try await swarm.finish(control, runtime)
  }

  @Test func withoutManagersInstancesLiveAndNothingIsStarted() async throws {
    let swarm = try await SwarmBench()
    // A worker, which answers that it is none, and two ways to the manager.
    let manager = swarm.cluster.nodes[0].engine
    let relays = [try EngineRelay(to: manager), try EngineRelay(to: manager)]
    let pool = swarm.pool { spec, _ in spec.min = 2 }
    let settings = try swarm.settings(
      managers: [swarm.cluster.nodes[1].engine.endpoint] + relays.map(\.endpoint), graceMilliseconds: 500)
    let runtime = try swarm.runtime(settings, pools: [pool])
    let control = try swarm.bench.start("a", [pool], runtime)
    let records = try await swarm.bench.settled(2)
    // The other manager is asked then.
    relays[0].cut()
    let dead = try swarm.cluster.container(of: records[0])
    try swarm.cluster.node(of: records[0]).engine.docker("kill", dead)
    try await eventually("another one is ready") {
      let ready = try await swarm.bench.instances(.ready)
      return ready.count == 2 && !ready.contains { $0.id == records[0].id }
    }
    let before = try await swarm.bench.settled(2)
    relays[1].cut()
    try await eventually("they are seen to be away") { (try? runtime.place(pool, again: nil, among: [])) == nil }
    #expect { try runtime.place(pool, again: nil, among: []) } throws: {
      "\($0)".contains("no engine can take it: swarm: no manager of the swarm can be asked: ")
    }
    // Longer than the grace: those that answer go on.
    let end = Deadline(milliseconds: 2_000)
    while !end.hasPassed {
      #expect(try await swarm.bench.instances(.ready) == before)
      try await Task.sleep(for: .milliseconds(100))
    }
    #expect(await runtime.check(before[0], spec: pool, depth: .http) == nil)
    try relays[1].restore()
    try await eventually("it is there again") { (try? runtime.place(pool, again: nil, among: [])) != nil }
    #expect(try await swarm.bench.settled(2) == before)
    try await swarm.finish(control, runtime)
  }

  @Test func aNodesMachineDies() async throws {
    let swarm = try await SwarmBench()
    let pool = swarm.pool { spec, service in
      spec.min = 2
      service.constraints = ["node.labels.number!=1"]
    }
    let runtime = try swarm.runtime(try swarm.settings(graceMilliseconds: 1_000), pools: [pool])
    let control = try swarm.bench.start("a", [pool], runtime)
    let records = try await swarm.bench.settled(2)
    let (lost, left) = (records[0], records[1])
    let node = try swarm.cluster.node(of: lost)
    try swarm.cluster.kill(node)
    let killed = ContinuousClock.now
    try await eventually("a replacement is ready on the node that is left") {
      let ready = try await swarm.bench.instances(.ready)
      return ready.count == 2 && ready.allSatisfy { $0.labels["node"] == left.labels["node"] }
    }
    print("swarm: machine killed → ready replacement \(ContinuousClock.now - killed) (grace 1 s)")
    #expect(try await swarm.bench.instances(.ready).contains { $0.id == left.id })
    try swarm.cluster.start(node)
    try await swarm.finish(control, runtime)
  }

  @Test func aChromeIsReachedThroughItsProtocol() async throws {
    let swarm = try await SwarmBench()
    let node = try await swarm.cluster.nodeWithChrome()
    let pool = swarm.pool { spec, service in
      spec.kind = .cdp
      spec.slots = 1
      spec.name = "chrome"
      service.container = ContainerSpec(image: DockerBench.image)
      service.container.memoryMegabytes = 768
      service.container.readOnly = true
      service.container.tmpfs = ["/tmp": "size=256m,mode=1777"]
      // A service on engines before 25 cannot have the profile that lets Chrome make its sandbox.
      service.container.arguments = ["--no-sandbox"]
      service.constraints = ["node.labels.number==\(node.number)"]
    }
    let runtime = try swarm.runtime(try swarm.settings(), pools: [pool])
    let control = try swarm.bench.start("a", [pool], runtime)
    let record = try await swarm.bench.settled(1)[0]
    let browser = try #require(record.browser)
    let version: JSON? = try await BlockingPool.shared.run { () throws(ProbeError) -> JSON? in
      try CDPClient.call(
        "Browser.getVersion", host: record.host, port: record.port, browser: browser,
        deadline: Deadline(milliseconds: 60_000))
    }
    #expect(version?["product"]?.string?.contains("Chrome") == true)
    #expect(await runtime.check(record, spec: pool, depth: .cdp) == nil)
    // It ends by Browser.close, long before Swarm would.
    try await swarm.finish(control, runtime)
  }
}
