// Several control planes, and replicas if wanted, as processes that share a host; each has a way of its own to Redis, and
// their instances are small servers that keep a ledger (clients/small_instance.py). For tests that kill, stop and cut off.
import Foundation
import Glibc
import JSON
import Posix
import Redis
import Routing
import State
import TestSupport

final class Fleet {
  let directory: String
  let ledger: String
  let dataPort: Int
  let admin: ClosedRange<Int>
  let instancePorts: ClosedRange<Int>
  private(set) var controls: [Program] = []
  private(set) var controlPorts: [Int] = []
  private(set) var replicas: [Program] = []
  private let controlURLs: [String]
  /// Any way to Redis that is never cut.
  let redis: RedisURL

  /// A pool `box` of small servers with one slot each; `fields` are further lines of it.
  static func box(_ fields: String...) -> String {
    let lines =
      [
        "kind: http", "command: PYTHON", "arguments: [-S, -E, SCRIPT, \"{port}\", LEDGER, \"{id}\"]", "slots: 1",
        "stopGraceMilliseconds: 500", "launchTimeoutMilliseconds: 10000", "healthIntervalMilliseconds: 1000",
      ] + fields
    return "pools:\n  box:\n" + lines.map { "    " + $0 + "\n" }.joined() + "routes:\n  all: {path: /, pool: box}\n"
  }

  /// - Parameters:
  ///   - configuration: the control planes' file, in which PYTHON, SCRIPT and LEDGER are replaced.
  ///   - controlURLs: REDIS_URL of each control plane, `replicaURLs` of each replica.
  init(
    _ configuration: String, redis: RedisURL, controlURLs: [String], replicaURLs: [String] = []
  ) async throws {
    for name in ["berth-control", "berth-data"] { _ = try Machine.program(name) }
    self.redis = redis
    self.controlURLs = controlURLs
    directory = try Machine.scratchDirectory("fleet")
    ledger = directory + "/ledger"
    try "".write(toFile: ledger, atomically: false, encoding: .utf8)
    dataPort = try Machine.freePort()
    admin = try Machine.freePorts(max(1, replicaURLs.count))
    instancePorts = try Machine.freePorts(200)
    let script = Machine.checkout + "/Tests/EndToEnd/clients/small_instance.py"
    let text = configuration.replacing("PYTHON", with: try Machine.python()).replacing("SCRIPT", with: script)
      .replacing("LEDGER", with: ledger)
    try text.write(toFile: directory + "/berth.yml", atomically: true, encoding: .utf8)
    for index in controlURLs.indices {
      controlPorts.append(try Machine.freePort())
      controls.append(try startControl(index))
    }
    for (index, url) in replicaURLs.enumerated() {
      replicas.append(
        try Program(
          "data-\(index)",
          [
            try Machine.program("berth-data"), "--listen", "127.0.0.1:\(dataPort)", "--admin",
            "127.0.0.1:\(admin.lowerBound + index)", "--drain-seconds", "1", "--id", "data-\(index)", "--workers", "1",
          ], outputFile: directory + "/data-\(index).log", environment: ["REDIS_URL": url, "BERTH_TEST": directory]))
    }
    for index in replicas.indices {
      try await eventually("replica \(index) is ready", within: Deployment.patience, show: replicas[index]) {
        HTTP.get(self.admin.lowerBound + index, "/readyz")?.status == 200
      }
    }
  }

  private func startControl(_ index: Int) throws -> Program {
    try Program(
      "control-\(index)",
      [
        try Machine.program("berth-control"), "--config", directory + "/berth.yml", "--listen",
        "127.0.0.1:\(controlPorts[index])", "--state-directory", directory + "/control", "--port-range-start",
        String(instancePorts.lowerBound), "--port-range-end", String(instancePorts.upperBound), "--public-url",
        "http://127.0.0.1:\(dataPort)", "--host-name", "fleet", "--id", "control-\(index)", "--stop-instances-on-exit",
        "--concurrent-launches", "2",
      ], outputFile: directory + "/control-\(index).log",
      environment: ["REDIS_URL": controlURLs[index], "BERTH_TEST": directory])
  }

  func restartControl(_ index: Int) throws { controls[index] = try startControl(index) }

  // MARK: What is there

  /// A connection to Redis for one question; nil when there is none.
  func ask<R: Sendable>(_ command: Command<R>) -> R? {
    do throws(RedisError) { return try RedisConnection(url: redis).run(command) } catch { return nil }
  }

  /// The index of the control plane that leads.
  var leader: Int? {
    guard let id = (ask(Leadership(keys: Keys()).current()) ?? nil)?.id else { return nil }
    return controls.indices.first { id.hasPrefix("control-\($0)#") }
  }

  func instances() -> [InstanceRecord]? { ask(Registry(keys: Keys()).instances()) }

  /// Living instance processes.
  func servers() -> [Machine.Process] {
    Machine.processes(marked: directory).filter { $0.command.contains("small_instance.py") }
  }

  func notes(_ word: String) -> [String] {
    (readFile(ledger) ?? "").split(separator: "\n").filter { $0.hasPrefix(word + " ") }.map(String.init)
  }

  /// Records, processes, directories and ports agree, and all that is there is ready.
  func settles(_ wanted: ClosedRange<Int>) async throws {
    try await eventually("records, processes, directories and ports agree", within: 60, show: controls[leader ?? 0]) {
      guard let instances = self.instances(), wanted.contains(instances.count),
        instances.allSatisfy({ $0.state == .ready }),
        let ports = self.ask(Ports(keys: Keys(), host: "fleet").list())
      else { return false }
      let directories = try FileManager.default.contentsOfDirectory(atPath: self.directory + "/control/instances")
      return Set(self.servers().map { Int($0.pid) }) == Set(instances.compactMap(\.pid))
        && self.servers().count == instances.count && Set(directories) == Set(instances.map(\.id))
        && directories.count == instances.count && ports.map(\.port).sorted() == instances.map(\.port).sorted()
        && ports.map(\.owner).sorted() == instances.map(\.id).sorted()
    }
  }

  // MARK: The end

  /// Ends all in order: the leader last, which stops the instances.
  func stop() async throws {
    for replica in replicas { replica.signal(SIGTERM) }
    for replica in replicas { try await replica.stop() }
    let last = leader ?? 0
    for index in controls.indices where index != last { try await controls[index].stop() }
    try await controls[last].stop()
    try await eventually("no process is left", within: 60) { Machine.processes(marked: self.directory).isEmpty }
    try FileManager.default.removeItem(atPath: directory)
  }

  /// After a failure: by force, and what the programs said goes into the test's output.
  func abandon() {
    for program in controls + replicas { program.signal(SIGCONT) }
    for program in controls + replicas { program.signal(SIGKILL) }
    for process in Machine.processes(marked: directory) { kill(process.pid, SIGKILL) }
    for program in controls + replicas {
      print("--- \(program.name), last lines of \(program.outputFile):")
      for line in program.lines.suffix(40) { print("  \(line)") }
    }
  }
}
