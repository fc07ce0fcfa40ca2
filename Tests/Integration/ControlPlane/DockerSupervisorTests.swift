// The leader at work with real containers: started as declared, noticed when they die, adopted, removed when nobody owns
// them, and spread over engines that come and go.
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

@Suite(.serialized) struct DockerLifeTests {
  @Test func aContainerIsStartedAsDeclaredAndLeavesNothing() async throws {
    let docker = try DockerBench()
    let pool = docker.pool()
    let host = try docker.host()
    let runtime = try docker.runtime([host], pools: [pool])
    let control = try docker.bench.start("a", [pool], runtime)
    let record = try await docker.bench.settled(1)[0]
    #expect(host.portRange.contains(record.port) && record.host == "127.0.0.1" && record.labels["host"] == "local")

    let container = try #require(record.container)
    let facts = try docker.engine.inspect(container)
    let config = try #require(facts["HostConfig"])
    #expect(facts["Config"]?["Labels"]?["berth.instance"]?.string == record.id)
    #expect(facts["Config"]?["Labels"]?["berth.pool"]?.string == "chrome")
    #expect(facts["Config"]?["Labels"]?["berth.generation"]?.string == "1")
    #expect(config["Init"] == true && config["ReadonlyRootfs"] == true && config["CapDrop"] == ["ALL"])
    #expect(config["Memory"] == .int(768 << 20) && config["NanoCpus"] == 1_500_000_000)
    #expect(config["PidsLimit"] == 1_024 && config["ShmSize"] == .int(1_024 << 20))
    let security = config["SecurityOpt"]?.array?.compactMap(\.string) ?? []
    #expect(security.contains("no-new-privileges") && security.contains { $0.hasPrefix("seccomp={") })
    #expect(config["PortBindings"]?["9222/tcp"]?.array?.first?["HostIp"] == "127.0.0.1")
    // Not root, and Chrome's own sandbox is on.
    let processes = try docker.engine.docker("top", container, "-eo", "pid,uid,args")
    #expect(processes.contains("remote-debugging-port=9223") && !processes.contains("--no-sandbox"))
    #expect(processes.split(whereSeparator: \.isNewline).dropFirst().allSatisfy { $0.contains("10001") })

    let browser = try #require(record.browser)
    let version: JSON? = try await BlockingPool.shared.run { () throws(ProbeError) -> JSON? in
      try CDPClient.call(
        "Browser.getVersion", host: record.host, port: record.port, browser: browser,
        deadline: Deadline(milliseconds: 60_000))
    }
    #expect(version?["product"]?.string?.contains("Chrome") == true)
    try await eventually("what it uses is measured") {
      let known = try await docker.bench.client.run(Traffic(keys: docker.bench.keys).counters(of: [record.id]))
      let counters = known[0].numbers
      return (counters["memoryBytes"] ?? 0) > 10 << 20 && (counters["processes"] ?? 0) > 3
    }
    // Its load is a share of what it may use, not of what the engine's host has.
    let figures = try #require(await runtime.figures(of: [record])[record.id])
    #expect(figures.memoryLimitBytes == 768 << 20 && figures.milliCPULimit == 1_500)
    try await docker.finish(control, runtime)
    let ports = Ports(keys: docker.bench.keys, host: "local")
    #expect(try await docker.bench.client.run(ports.list()).isEmpty)
  }

  @Test func aKilledContainerIsNoticedByItsEventAndReplaced() async throws {
    let docker = try DockerBench()
    // Nothing but an event can tell within the test's time.
    let pool = docker.pool { spec, _ in spec.health.intervalMilliseconds = 3_600_000 }
    let runtime = try docker.runtime([try docker.host()], pools: [pool])
    let control = try docker.bench.start("a", [pool], runtime)
    try await docker.bench.settled(1)
    let taken = try #require(try await docker.bench.acquire("s-1", used: true))
    let spare = try await docker.bench.settled(2).first { $0.id != taken.id }
    try docker.engine.docker("kill", try #require(taken.container))
    let killed = ContinuousClock.now
    try await eventually("the session has ended") {
      try await docker.bench.client.run(docker.bench.leases.get(session: "s-1")) == nil
    }
    let noticed = ContinuousClock.now - killed
    #expect(try await docker.bench.settled(1).map(\.id) == [spare?.id])
    let reasons = try await docker.bench.events().filter { $0.type == "session.ended" }.map(\.reason)
    #expect(reasons == ["its container exited with status 137"])

    // The last one dies: a new one takes its place.
    try docker.engine.docker("kill", try #require(spare?.container))
    let again = ContinuousClock.now
    try await eventually("another one is ready") {
      try await docker.bench.instances(.ready).contains { $0.id != spare?.id }
    }
    print("docker: kill → session ended \(noticed), kill → ready replacement \(ContinuousClock.now - again)")
    try await docker.finish(control, runtime)
  }

  @Test func theNextLeaderAdoptsWhatRunsAndRemovesWhatNobodyOwns() async throws {
    let docker = try DockerBench()
    let pool = docker.pool()
    let host = try docker.host()
    let first = try docker.runtime([host], pools: [pool])
    let a = try docker.bench.start("a", [pool], first)
    let record = try await docker.bench.settled(1)[0]
    await a.kill()
    first.shutdown()
    // Whoever died in the middle of a launch left this; the other one is of another deployment.
    let stray = try docker.engine.docker(
      "run", "-d", "--label", "berth.owner=\(docker.owner)", "--label", "berth.host=local", "--label",
      "berth.instance=chrome-lost", "--entrypoint", "sleep", DockerBench.image, "600"
    ).filter { !$0.isNewline }
    let foreign = try docker.engine.docker(
      "run", "-d", "--label", "berth.owner=other-\(docker.owner)", "--label", "berth.host=local", "--label",
      "berth.instance=\(record.id)", "--entrypoint", "sleep", DockerBench.image, "600"
    ).filter { !$0.isNewline }
    defer { try? docker.engine.remove(foreign) }

    let second = try docker.runtime([host], pools: [pool])
    let b = try docker.bench.start("b", [pool], second)
    try await eventually("what nobody owns is gone") { try docker.containers(all: true) == [record.container] }
    #expect(try await docker.bench.settled(1) == [record])
    // One that appears later is found as well.
    let late = try docker.engine.docker(
      "run", "-d", "--label", "berth.owner=\(docker.owner)", "--label", "berth.host=local", "--label",
      "berth.instance=chrome-late", "--entrypoint", "sleep", DockerBench.image, "600"
    ).filter { !$0.isNewline }
    #expect(stray != late)
    try await eventually("a late one is gone too") { try docker.containers(all: true) == [record.container] }
    #expect(try docker.engine.containers(owner: "other-\(docker.owner)", all: false) == [foreign])
    try await docker.finish(b, second)
  }

  @Test func anEmptyRedisIsFilledFromTheEngine() async throws {
    let docker = try DockerBench()
    // Nobody has used it, so it may go on.
    let pool = docker.pool { spec, _ in spec.recycleAfterSessions = 0 }
    let host = try docker.host()
    let first = try docker.runtime([host], pools: [pool])
    let a = try docker.bench.start("a", [pool], first)
    let record = try await docker.bench.settled(1)[0]
    await a.kill()
    first.shutdown()
    try docker.bench.redis.command("FLUSHALL")
    let second = try docker.runtime([host], pools: [pool])
    let b = try docker.bench.start("b", [pool], second)
    let found = try await docker.bench.settled(1)[0]
    #expect(found.id == record.id && found.container == record.container && found.browser == record.browser)
    #expect(found.port == record.port)
    let ports = Ports(keys: docker.bench.keys, host: "local")
    #expect(try await docker.bench.client.run(ports.list()).map(\.owner) == [record.id])
    try await docker.finish(b, second)
  }

  @Test func aPortThatSomethingElseHasIsPutAside() async throws {
    let docker = try DockerBench()
    let pool = docker.pool()
    let host = try docker.host()
    let squatter = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    defer { close(squatter) }
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = UInt16(host.portRange.lowerBound).bigEndian
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    let bound = unsafe withUnsafePointer(to: &address) {
      unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        unsafe bind(squatter, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
      }
    }
    try #require(bound == 0 && listen(squatter, 1) == 0)
    let runtime = try docker.runtime([host], pools: [pool])
    let control = try docker.bench.start("a", [pool], runtime)
    #expect(try await docker.bench.settled(1)[0].port == host.portRange.lowerBound + 1)
    #expect(try await docker.bench.events().contains { $0.type == "port.quarantined" })
    try await docker.finish(control, runtime)
  }
}

@Suite(.serialized) struct DockerFailureTests {
  /// The reason of the first launch that failed.
  private func failure(_ docker: DockerBench, _ pool: PoolSpec) async throws -> String {
    let runtime = try docker.runtime([try docker.host()], pools: [pool])
    let control = try docker.bench.start("a", [pool], runtime)
    var reason = ""
    try await eventually("a launch has failed") {
      reason = try await docker.bench.events().first { $0.type == "instance.launch_failed" }?.reason ?? ""
      return !reason.isEmpty
    }
    try await docker.finish(control, runtime)
    let ports = Ports(keys: docker.bench.keys, host: "local")
    #expect(try await docker.bench.client.run(ports.list()).isEmpty)
    return reason
  }

  @Test func anImageThatIsNowhereIsSaidSo() async throws {
    let docker = try DockerBench()
    let reason = try await failure(
      docker,
      docker.pool { _, container in
        container.image = "127.0.0.1:9/berth/nowhere:1"
        container.pull = .missing
      })
    #expect(reason.hasPrefix("image 127.0.0.1:9/berth/nowhere:1 is not on engine local and cannot be pulled: "))
    #expect(reason.contains("connection refused") && reason.contains("build or load it there"))
  }

  @Test func anImageThatMayNotBePulledIsSaidSo() async throws {
    let docker = try DockerBench()
    let reason = try await failure(docker, docker.pool { _, container in container.image = "berth/nowhere" })
    #expect(reason.contains("has pull: never"))
  }

  @Test func aBrokenImageShowsItsLastLines() async throws {
    let docker = try DockerBench()
    let reason = try await failure(
      docker,
      docker.pool { spec, container in
        container.image = "debian:bookworm-slim"
        container.arguments = ["/bin/sh", "-c", "echo no such library; exit 3"]
        container.seccomp = nil
      })
    #expect(reason.contains("status 3") && reason.contains("no such library"))
  }

  @Test func whatTheEngineRefusesIsPassedOn() async throws {
    let docker = try DockerBench()
    let reason = try await failure(docker, docker.pool { _, container in container.network = "no-such-network" })
    #expect(reason.hasPrefix("engine local: ") && reason.contains("no-such-network"))
  }

  @Test func aProfileThatIsNoneIsRefusedAtTheStart() throws {
    let docker = try DockerBench()
    for (file, words) in [("/no/such/file", "cannot be read"), ("/etc/passwd", "is no seccomp profile")] {
      let pool = docker.pool { _, container in container.seccomp = file }
      #expect { try docker.runtime([try docker.host()], pools: [pool]) } throws: { "\($0)".contains(words) }
    }
  }
}

@Suite(.serialized) struct DockerEnginesTests {
  @Test func instancesAreSpreadAndAFullEngineIsSaidSo() async throws {
    let docker = try DockerBench()
    let pool = docker.pool { spec, _ in
      spec.min = 3
      spec.spare = 0
    }
    let hosts = [try docker.host("east", capacity: 1), try docker.host("west", capacity: 1)]
    let runtime = try docker.runtime(hosts, pools: [pool])
    let control = try docker.bench.start("a", [pool], runtime)
    try await eventually("both engines are full") {
      try await docker.bench.instances(.ready).compactMap { $0.labels["host"] }.sorted() == ["east", "west"]
    }
    try await eventually("there is no place for the third") {
      try await docker.bench.events().contains {
        $0.type == "instance.launch_failed"
          && $0.reason == "no engine can take it: east has its 1 instances; west has its 1 instances"
      }
    }
    try await docker.finish(control, runtime)
  }

  @Test func anEngineOutOfReachGetsNothingAndItsInstancesLive() async throws {
    let docker = try DockerBench()
    let relay = try EngineRelay(to: docker.engine)
    let pool = docker.pool { spec, _ in
      spec.min = 2
      spec.spare = 0
      spec.max = 6
    }
    let hosts = [try docker.host("far", at: relay.endpoint), try docker.host("near")]
    let runtime = try docker.runtime(hosts, pools: [pool])
    let control = try docker.bench.start("a", [pool], runtime)
    let before = try await docker.bench.settled(2)
    #expect(Set(before.compactMap { $0.labels["host"] }) == ["far", "near"])
    relay.cut()
    try await eventually("it is seen to be away") {
      let place = try? runtime.place(pool, again: nil, among: before + before.filter { $0.labels["host"] == "near" })
      return place?.host == "near"
    }
    // What is needed now goes elsewhere, although that one has more room.
    try await docker.bench.acquire("s-1", used: true)
    try await docker.bench.acquire("s-2", used: true)
    let far = try #require(before.first { $0.labels["host"] == "far" })
    let near = try #require(before.first { $0.labels["host"] == "near" })
    try docker.engine.docker("kill", try #require(near.container))
    try await eventually("a replacement is there") {
      let ready = try await docker.bench.instances(.ready)
      return ready.count == 2 && ready.contains { $0.id != far.id && $0.labels["host"] == "near" }
    }
    #expect(try await docker.bench.instances(.ready).contains { $0.id == far.id })
    // It answers through its port all the time.
    #expect(await runtime.check(far, spec: pool, depth: .cdp) == nil)
    // What it uses cannot be asked for, so it has no load: an old one is worse than none.
    #expect(await runtime.figures(of: [far]).isEmpty)
    try relay.restore()
    try await eventually("it is there again") {
      runtime.isAlive(far) && (try? runtime.place(pool, again: nil, among: []))?.host == "far"
    }
    #expect(try await docker.bench.instances(.ready).contains { $0.id == far.id && $0.container == far.container })
    try await docker.finish(control, runtime)
  }

  @Test func aDeathDuringAnOutageIsFoundWhenTheEngineIsBack() async throws {
    let docker = try DockerBench()
    let relay = try EngineRelay(to: docker.engine)
    let pool = docker.pool { spec, _ in spec.health.intervalMilliseconds = 3_600_000 }
    let runtime = try docker.runtime([try docker.host("far", at: relay.endpoint)], pools: [pool])
    let control = try docker.bench.start("a", [pool], runtime)
    let first = try await docker.bench.settled(1)[0]
    relay.cut()
    try await eventually("it is seen to be away") { (try? runtime.place(pool, again: nil, among: [])) == nil }
    try docker.engine.remove(try #require(first.container))
    try relay.restore()
    try await eventually("another one is ready") {
      try await docker.bench.instances(.ready).contains { $0.id != first.id }
    }
    try await docker.finish(control, runtime)
  }

  @Test func afterTheGraceItsInstancesAreReplacedAndLaterRemoved() async throws {
    let docker = try DockerBench()
    let relay = try EngineRelay(to: docker.engine)
    let pool = docker.pool { spec, _ in spec.spare = 0 }
    let hosts = [try docker.host("far", at: relay.endpoint), try docker.host("near")]
    let runtime = try docker.runtime(hosts, graceMilliseconds: 1_000, pools: [pool])
    let control = try docker.bench.start("a", [pool], runtime)
    let far = try await docker.bench.settled(1)[0]
    try #require(far.labels["host"] == "far")
    relay.cut()
    try await eventually("a replacement is there") {
      let all = try await docker.bench.instances()
      return all.count == 1 && all[0].state == .ready && all[0].labels["host"] == "near"
    }
    #expect(try docker.containers().count == 2)
    try relay.restore()
    try await eventually("what was left there is removed") { try docker.containers(all: true).count == 1 }
    let reasons = try await docker.bench.events().filter { $0.id == far.id }.map(\.reason)
    #expect(reasons.contains("its engine far has not answered for 1 seconds"))
    try await docker.finish(control, runtime)
  }

  @Test func anEngineIsReachedByTLSWithAClientCertificate() async throws {
    let docker = try DockerBench()
    let directory = docker.bench.directory + "/tls"
    let tls = try Certificates.make(in: directory)
    let relay = try EngineRelay(to: docker.engine, directory: directory, tls: tls)
    let pool = docker.pool()
    let runtime = try docker.runtime([try docker.host("far", at: relay.endpoint)], pools: [pool])
    let control = try docker.bench.start("a", [pool], runtime)
    let record = try await docker.bench.settled(1)[0]
    #expect(try docker.containers() == [record.container])
    try await docker.finish(control, runtime)

    // A certificate of somebody else opens nothing.
    guard case .tcp(_, let port, _) = relay.endpoint else { return }
    let stranger = EngineTLS(
      caFile: tls.caFile, certificateFile: directory + "/stranger.pem", keyFile: directory + "/stranger.key")
    let refused = try docker.runtime(
      [try docker.host("far", at: .tcp(host: "127.0.0.1", port: port, tls: stranger))], pools: [pool])
    defer { refused.shutdown() }
    try await eventually("the reason is known") {
      do { _ = try refused.place(pool, again: nil, among: []) } catch {
        return !"\(error)".contains("not been reached")
      }
      return false
    }
    #expect { try refused.place(pool, again: nil, among: []) } throws: {
      "\($0)".contains("no engine can take it: far: tcp://127.0.0.1:\(port): ")
    }
  }
}

/// An engine that ends and comes back with its containers dead. Only where the engine is the tests' own, which
/// `scripts/test-engine up` has started (CI's is), and no other checkout uses it: nobody else's may be ended.
@Suite(.serialized) struct DockerRestartTests {
  private static let pidFile = "/run/berth-test/docker.pid"

  private static var own: (pid: pid_t, words: [String])? {
    guard let engine = try? ContainerEngine.find(), engine.address == "unix:///run/berth-test/docker.sock",
      (Kernel.list("/run/berth-test/users") ?? []).count <= 1,
      let text = Kernel.read(pidFile), let pid = Int(String(decoding: text.filter { $0 > 0x20 }, as: UTF8.self)),
      let words = Kernel.read("/proc/\(pid)/cmdline")?.split(separator: 0).map({ String(decoding: $0, as: UTF8.self) })
    else { return nil }
    return (pid_t(pid), words)
  }

  @Test(.enabled(if: own != nil, "the engine is not the tests' own"))
  func anEngineThatWasStoppedComesBackAndItsInstancesAreReplaced() async throws {
    let engine = try #require(Self.own)
    let docker = try DockerBench()
    let pool = docker.pool()
    let runtime = try docker.runtime([try docker.host()], pools: [pool])
    let control = try docker.bench.start("a", [pool], runtime)
    let before = try await docker.bench.settled(1)[0]
    kill(engine.pid, SIGTERM)
    try await eventually("it has ended") { ProcessTable.entry(of: Int(engine.pid))?.hasEnded ?? true }
    try await eventually("it is seen to be away") { (try? runtime.place(pool, again: nil, among: [])) == nil }

    let again = Process()
    again.executableURL = URL(fileURLWithPath: "/usr/bin/env")
    // It outlives the tests, and with a descriptor of theirs the runner would wait for it.
    let script = "for fd in $(ls /proc/$$/fd); do [ $fd -gt 2 ] && eval \"exec $fd>&-\"; done; exec setsid \"$@\""
    again.arguments = ["bash", "-c", script, "bash"] + engine.words
    again.standardInput = FileHandle.nullDevice
    again.standardOutput = FileHandle.nullDevice
    again.standardError = FileHandle.nullDevice
    try again.run()
    try await eventually("a replacement is ready") {
      try await docker.bench.instances(.ready).contains { $0.id != before.id }
    }
    try await eventually("nothing else is left") {
      let ready = try await docker.bench.instances(.ready)
      return try ready.count == 1 && docker.containers(all: true) == ready.map { $0.container ?? "" }
    }
    try await docker.finish(control, runtime)
  }
}

/// An authority, a server and two clients, one of them by another authority.
private enum Certificates {
  static func make(in directory: String) throws -> EngineTLS {
    try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
    let script = """
      set -e; cd "\(directory)"
      authority() { openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=$1" -keyout $1.key -out $1.pem; }
      issue() {
        openssl req -newkey rsa:2048 -nodes -subj "/CN=$1" -keyout $1.key -out $1.csr
        printf 'subjectAltName=IP:127.0.0.1' > $1.ext
        openssl x509 -req -in $1.csr -CA $2.pem -CAkey $2.key -CAcreateserial -days 2 -extfile $1.ext -out $1.pem
      }
      authority ca; authority other; issue server ca; issue client ca; issue stranger other
      """
    let (status, out) = try ContainerEngine.run("bash", ["-c", script])
    guard status == 0 else { throw FixtureError("no certificates: \(out)") }
    return EngineTLS(
      caFile: directory + "/ca.pem", certificateFile: directory + "/client.pem", keyFile: directory + "/client.key")
  }
}
