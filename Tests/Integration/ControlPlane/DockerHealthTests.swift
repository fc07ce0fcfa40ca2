// Images that cannot run, and images that come from a registry, on a real engine.
import Domain
import Foundation
import JSON
import Redis
import Routing
import Runtimes
import State
import Supervisor
import TestSupport
import Testing

@Suite(.serialized) struct DockerHealthTests {
  /// An image whose only command is this.
  private func make(_ image: String, _ command: String, at engine: ContainerEngine) throws {
    let made = try engine.docker("create", DockerBench.image).filter { !$0.isNewline }
    defer { try? engine.remove(made) }
    try engine.docker("commit", "--change", "ENTRYPOINT [\"/bin/sh\", \"-c\", \"\(command)\"]", made, image)
  }

  @Test func anImageThatExitsAtOnceIsACrashLoopUntilItIsMended() async throws {
    let docker = try DockerBench()
    let image = "berth/broken:\(docker.owner)"
    try make(image, "echo no display; echo giving up >&2; exit 7", at: docker.engine)
    defer { _ = try? docker.engine.docker("rmi", "--force", image) }
    let pool = docker.pool { spec, container in
      spec.min = 2
      spec.restart = RestartPolicy(initialMilliseconds: 20, maximumMilliseconds: 500, crashLoopAfter: 3)
      container.image = image
    }
    let host = try docker.host()
    let runtime = try docker.runtime([host], pools: [pool])
    let control = try docker.bench.start("a", [pool], runtime)
    let troubles = Troubles(keys: docker.bench.keys)
    // First its state is written, then the event.
    var event: State.Event?
    try await eventually("it is said to be crash looping") {
      event = try await docker.bench.events().first { $0.type == "pool.crash_looping" }
      return event != nil
    }
    let shown = try #require(try await docker.bench.client.run(troubles.all())["chrome"])
    #expect(shown.log.sorted() == ["giving up", "no display"], "\(shown)")
    #expect(shown.reason.contains("status 7"))
    #expect(shown.state == "crash_looping")
    #expect(event?.fields["log"]?.contains("no display") == true)
    // One container and one port at a time, however many instances are wanted.
    var most = 0
    let failures = shown.failedLaunches
    try await eventually("further launches failed") {
      most = max(most, try docker.containers(all: true).count)
      return try await (docker.bench.client.run(troubles.all())["chrome"]?.failedLaunches ?? 0) >= failures + 4
    }
    #expect(most <= 2, "\(most) containers at once, one of which may be on its way out")
    let ports = Ports(keys: docker.bench.keys, host: "local")
    #expect(try await docker.bench.client.run(ports.list()).count <= 2, "as many as containers")

    // A good image under the same name: nobody needs to tell Berth.
    try docker.engine.docker("tag", DockerBench.image, image)
    try await docker.bench.settled(2)
    try await eventually("nothing is wrong any more") {
      try await docker.bench.client.run(troubles.all()).isEmpty
    }
    try await eventually("that is told") { try await docker.bench.events().contains { $0.type == "pool.recovered" } }
    try await docker.finish(control, runtime)
  }

  @Test func anImageIsPulledOnceForAllThatWaitForIt() async throws {
    let docker = try DockerBench()
    let registry = try ImageRegistry(in: docker.bench.directory + "/registry")
    defer {
      registry.close()
      _ = try? docker.engine.docker("rmi", "--force", registry.image)
    }
    registry.setOpen(false)
    var pool = docker.pool { _, container in
      container.image = registry.image
      container.pull = .missing
      container.seccomp = nil
      container.tmpfs = [:]
    }
    pool.name = "web"
    pool.kind = .http
    pool.slots = 0
    pool.recycleAfterSessions = 0
    pool.min = 2
    pool.spare = 0
    pool.restart = RestartPolicy(initialMilliseconds: 20, maximumMilliseconds: 200)
    let runtime = try docker.runtime([try docker.host()], pools: [pool])
    let control = try docker.bench.start("a", [pool], runtime)
    try await eventually("there is no such image yet") {
      try await docker.bench.events().contains {
        $0.type == "instance.launch_failed" && $0.reason.contains("cannot be pulled")
      }
    }
    registry.setOpen(true)
    let ready = try await docker.bench.settled(2)
    #expect(registry.layerPulls == 1)
    for record in ready {
      let answer = try HTTPProbe.get(
        host: record.host, port: record.port, path: "/", deadline: Deadline(milliseconds: 30_000))
      #expect(answer.status == 200 && answer.body == Array("hi\n".utf8))
      let facts = try docker.engine.inspect(try #require(record.container))
      #expect(facts["Config"]?["Image"]?.string == registry.image)
    }
    try await docker.finish(control, runtime)
  }
}
