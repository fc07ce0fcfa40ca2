// Servers that run already, watched by a real control plane and, with commands, started and stopped by it.
import Domain
import Foundation
import Glibc
import Reconciler
import Redis
import Routing
import Runtimes
import State
import Supervisor
import TestSupport
import Testing

/// Web servers that commands start and stop.
private final class Servers: Sendable {
  let bench: ControlBench
  let ports: ClosedRange<Int>

  init() throws {
    bench = try ControlBench()
    ports = try TestPorts.take(4)
    try Kernel.makeDirectory(bench.directory)
  }
  deinit { for port in ports { end(port) } }

  private func file(_ port: Int) -> String { "\(bench.directory)/pid-\(port)" }

  /// Every start leaves a line in `starts-<port>`.
  func start(_ port: Int) -> [String] {
    [
      "bash", "-c",
      // Foundation takes a process for alive as long as anybody has one of its descriptors.
      "for fd in 3 4 5 6 7 8 9 $(ls /proc/$$/fd); do [ $fd -gt 2 ] && eval \"exec $fd>&-\"; done; "
        + "echo x >> \(bench.directory)/starts-\(port); setsid timeout 300 python3 -m http.server --directory /var/empty "
        + "--bind 127.0.0.1 \(port) > /dev/null 2>&1 < /dev/null & echo $! > \(file(port))",
    ]
  }
  /// Ends when the server has, as compose does.
  func stop(_ port: Int) -> [String] {
    [
      "bash", "-c",
      "pid=$(cat \(file(port))); rm \(file(port)); kill -TERM -$pid; while kill -0 -$pid 2> /dev/null; do sleep 0.01; done",
    ]
  }
  func starts(_ port: Int) -> Int { Kernel.read("\(bench.directory)/starts-\(port)")?.count { $0 == 0x0A } ?? 0 }

  /// From outside, as a crash.
  func end(_ port: Int) {
    guard let text = Kernel.read(file(port)),
      let pid = Int(String(decoding: text.filter { $0 >= 0x30 && $0 <= 0x39 }, as: UTF8.self)), pid > 1
    else { return }
    kill(-pid_t(pid), SIGKILL)
  }

  func begin(_ port: Int) throws {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/bin/bash")
    process.arguments = Array(start(port).dropFirst())
    process.standardOutput = FileHandle.nullDevice
    process.standardInput = FileHandle.nullDevice
    try process.run()
    process.waitUntilExit()
  }

  func server(_ index: Int, weight: Int = 1, commands: Bool = false) -> FixedServer {
    let port = ports.lowerBound + index
    var server = FixedServer(address: "127.0.0.1", port: port, weight: weight)
    if commands {
      server.start = start(port)
      server.stop = stop(port)
    }
    return server
  }

  func pool(_ servers: [FixedServer], _ change: (inout PoolSpec) -> Void = { _ in }) -> PoolSpec {
    var spec = PoolSpec(
      name: "fc", kind: .http, runtime: .fixed(FixedSpec(servers: servers)), slots: 0, min: servers.count,
      max: servers.count, spare: 0, recycleAfterSessions: 0)
    // One that has ended refuses at once; one that is slow is not to be restarted for that.
    spec.health = HealthPolicy(
      intervalMilliseconds: 100, timeoutMilliseconds: 30_000, failures: 2, successes: 1,
      failuresBeforeReplacement: .max)
    change(&spec)
    return spec
  }

  func control(_ name: String, _ pool: PoolSpec) throws -> RunningControl {
    let fixed = try StaticRuntime(
      pools: [pool], stateDirectory: bench.directory, environment: Kernel.environment, logger: bench.logger("static"))
    return try bench.start(name, [pool], RuntimeSet(process: try bench.runtime(), docker: nil, fixed: fixed))
  }
}

@Suite(.serialized) struct StaticRuntimeTests {
  @Test func serversAreWatchedAndKeptWhateverTheyDo() async throws {
    let servers = try Servers()
    let (up, down) = (servers.ports.lowerBound, servers.ports.lowerBound + 1)
    try servers.begin(up)
    let pool = servers.pool([servers.server(0, weight: 3), servers.server(1)])
    let control = try servers.control("a", pool)
    // One that does not answer is there, without clients, from the start.
    try await eventually("both are there") {
      try await servers.bench.instances().map { "\($0.id) \($0.state) \($0.weight)" }
        == ["fc-127.0.0.1-\(up) ready 3", "fc-127.0.0.1-\(down) unhealthy 1"]
    }
    #expect(try await servers.bench.allocated().isEmpty)
    try servers.begin(down)
    try await servers.bench.settled(2)
    servers.end(up)
    try await eventually("it gets no more clients") {
      try await servers.bench.instances(.unhealthy).map(\.port) == [up]
    }
    try servers.begin(up)
    try await servers.bench.settled(2)

    // The next leader goes on with them; one that is not declared any more goes, and its server runs on.
    await control.kill()
    let fewer = servers.pool([servers.server(1)])
    let next = try servers.control("b", fewer)
    try await eventually("one is left") {
      try await servers.bench.instances().map { "\($0.id) \($0.state)" } == ["fc-127.0.0.1-\(down) ready"]
    }
    await next.stop(instances: true)
    #expect(try await servers.bench.instances().isEmpty)
    for port in [up, down] {
      #expect(throws: Never.self) {
        try HTTPProbe.get(host: "127.0.0.1", port: port, path: "/", deadline: Deadline(milliseconds: 30_000))
      }
    }
  }

  @Test func commandsStartStopAndRestartThem() async throws {
    let servers = try Servers()
    let port = servers.ports.lowerBound
    let pool = servers.pool([servers.server(0, commands: true)]) { $0.health.failuresBeforeReplacement = 4 }
    let control = try servers.control("a", pool)
    let record = try await servers.bench.settled(1)[0]
    #expect(servers.starts(port) == 1)

    // A crash: it is started again.
    servers.end(port)
    try await eventually("it was started again") { servers.starts(port) == 2 }
    try await servers.bench.settled(1)

    // An operator's order.
    let orders = Orders(keys: servers.bench.keys)
    #expect(try await servers.bench.client.run(orders.give(.init(.restart), to: record.id, pool: "fc")))
    try await eventually("it is back under its name") {
      try await servers.bench.instances(.ready).contains { $0.id == record.id && $0.generation == 2 }
    }
    #expect(servers.starts(port) == 3)

    // A new leader finds it running and starts nothing.
    await control.kill()
    let next = try servers.control("b", pool)
    await next.supervisor.waitToLead()
    try await servers.bench.settled(1)
    #expect(servers.starts(port) == 3)
    await next.stop(instances: true)
    #expect(throws: ProbeError.self) {
      try HTTPProbe.get(host: "127.0.0.1", port: port, path: "/", deadline: Deadline(milliseconds: 30_000))
    }
  }

  @Test func aCommandThatFailsIsSaidSo() async throws {
    let servers = try Servers()
    var server = servers.server(0)
    server.restart = ["bash", "-c", "echo no such stack >&2; exit 4"]
    let control = try servers.control("a", servers.pool([server]))
    var reason = ""
    try await eventually("a launch has failed") {
      reason = try await servers.bench.events().first { $0.type == "instance.launch_failed" }?.reason ?? ""
      return !reason.isEmpty
    }
    #expect(reason.contains("failed: its process exited with status 4") && reason.hasSuffix("it said: no such stack"))
    // The next launch may be under way.
    try await eventually("nothing is left of it") { Kernel.list(servers.bench.directory + "/commands") == [] }
    await control.stop(instances: true)
  }

  @Test func aCommandThatHangsIsEnded() async throws {
    let servers = try Servers()
    var server = servers.server(0)
    server.restart = ["sleep", "1000"]
    let control = try servers.control("a", servers.pool([server]) { $0.launchTimeoutMilliseconds = 300 })
    try await eventually("a launch has failed") {
      try await servers.bench.events().contains { $0.reason == "the command sleep 1000 did not end within 300 ms" }
    }
    await control.stop(instances: true)
  }

  @Test func aWeightThatWasChangedReachesItsServerUnlessAnOperatorGaveOne() async throws {
    let servers = try Servers()
    let bench = servers.bench
    let names = try (0..<2).map { index in
      try servers.begin(servers.ports.lowerBound + index)
      return "fc-127.0.0.1-\(servers.ports.lowerBound + index)"
    }
    func weights() async throws -> [Int] { try await bench.settled(2).map(\.weight) }
    let control = try servers.control("a", servers.pool([servers.server(0, weight: 3), servers.server(1, weight: 4)]))
    #expect(try await weights() == [3, 4])
    #expect(try await bench.client.run(Orders(keys: bench.keys).weigh(names[0], weight: 9, pool: "fc")))
    try await eventually("it has the operator's weight") { try await weights() == [9, 4] }
    await control.kill()

    // The file was changed.
    let next = try servers.control("b", servers.pool([servers.server(0, weight: 5), servers.server(1, weight: 6)]))
    try await eventually("the other one has the file's") { try await weights() == [9, 6] }
    await next.stop(instances: true)
  }
}
