// A worn container and a real engine: its successor gets a port of its own, its client stays until it has done.
import Domain
import Redis
import Routing
import Runtimes
import State
import TestSupport
import Testing

@Suite(.serialized) struct DockerRecyclingTests {
  @Test func aWornContainerIsReplacedOnAnotherPortUnderItsClient() async throws {
    let docker = try DockerBench()
    let bench = docker.bench
    let pool = docker.pool { spec, _ in
      spec.max = 1
      spec.spare = 0
      spec.recycleAfterSessions = 0
      spec.recycling.afterRequests = 10
      spec.recycling.jitterPercent = 0
    }
    let runtime = try docker.runtime([try docker.host()], pools: [pool])
    let control = try bench.start("a", [pool], runtime)
    let old = try await bench.settled(1)[0]
    #expect(try await bench.acquire("s-1", used: true) == old)
    let worn = TrafficEntry(instance: old.id, generation: 1, state: .ready, requests: 10, active: 1)
    try await bench.client.run(Traffic(keys: bench.keys).flush(replica: "r", at: 1, entries: [worn]))
    try await eventually("it drains beside its successor") {
      try await bench.instances().map(\.state).sorted { $0.rawValue < $1.rawValue } == [.draining, .ready]
    }
    let successor = try #require(try await bench.instances(.ready).first)
    #expect(successor.labels["replaces"] == old.id && successor.port != old.port)
    #expect(try docker.containers().count == 2)
    #expect(try await bench.client.run(bench.leases.get(session: "s-1")) != nil)
    try await bench.end("s-1")
    #expect(try await bench.settled(1).map(\.id) == [successor.id])
    #expect(try docker.containers(all: true) == [successor.container])
    try await docker.finish(control, runtime)
  }
}
