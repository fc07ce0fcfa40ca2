// Control planes over a real container engine: the one that `scripts/test-engine up` finds or starts. Engines that can be cut
// off are relays in front of it, so that no test needs to end an engine that others use.
import Domain
import Foundation
import Glibc
import JSON
import Logging
import Routing
import Runtimes
import TestSupport
import Testing

final class DockerBench: Sendable {
  static let image = "berth/chrome:test"
  let bench: ControlBench
  /// Every bench has containers of its own.
  let owner: String
  let engine: ContainerEngine

  init() throws {
    engine = try ContainerEngine.find()
    bench = try ControlBench()
    owner = "t" + String(UInt32.random(in: 0...UInt32.max), radix: 16)
  }

  /// What a test that failed has left.
  deinit { for container in (try? containers(all: true)) ?? [] { try? engine.remove(container) } }

  func host(
    _ name: String = "local", at endpoint: EngineEndpoint? = nil, capacity: Int = 10, ports: Int = 20
  ) throws -> EngineHost {
    EngineHost(
      name: name, endpoint: endpoint ?? engine.endpoint, portRange: try TestPorts.take(ports), capacity: capacity)
  }

  func runtime(_ hosts: [EngineHost], graceMilliseconds: Int = 60_000, pools: [PoolSpec]) throws -> RuntimeSet {
    let settings = EngineSettings(owner: owner, graceMilliseconds: graceMilliseconds, hosts: hosts)
    return RuntimeSet(
      process: try bench.runtime(),
      docker: try DockerRuntime(settings, pools: pools, logger: bench.logger("docker")), fixed: nil)
  }

  /// A pool of Chromes as docs/docker.md recommends it.
  func pool(_ change: (inout PoolSpec, inout ContainerSpec) -> Void = { _, _ in }) -> PoolSpec {
    var container = ContainerSpec(image: Self.image)
    container.pull = .never
    container.memoryMegabytes = 768
    container.milliCPUs = 1_500
    container.readOnly = true
    container.tmpfs = ["/tmp": "size=256m,mode=1777"]
    container.seccomp = FileManager.default.currentDirectoryPath + "/deploy/chrome/seccomp.json"
    var spec = PoolSpec(name: "chrome", kind: .cdp, runtime: .container(container))
    spec.max = 4
    spec.stopGraceMilliseconds = 2_000
    change(&spec, &container)
    spec.runtime = .container(container)
    return spec
  }

  /// The ids of this bench's containers.
  func containers(all: Bool = false) throws -> [String] { try engine.containers(owner: owner, all: all) }

  /// The end of a test: nothing is left.
  func finish(_ control: RunningControl, _ runtime: RuntimeSet) async throws {
    await control.stop(instances: true)
    runtime.shutdown()
    #expect(try containers(all: true).isEmpty)
    #expect(try await bench.instances().isEmpty)
  }
}

/// The engine of the tests, asked by its own command line so that the code under test is not its own witness.
struct ContainerEngine: Sendable {
  let address: String
  var endpoint: EngineEndpoint { EngineEndpoint(address)! }
  var socket: String { String(address.dropFirst("unix://".count)) }

  static func find() throws -> ContainerEngine {
    let script = FileManager.default.currentDirectoryPath + "/scripts/test-engine"
    let (status, out) = try run("bash", [script, "host"])
    let address = out.trimmingCharacters(in: .whitespacesAndNewlines)
    guard status == 0, address.hasPrefix("unix://") else {
      throw FixtureError("there is no container engine at a Unix socket (\(address)); run scripts/test-engine up first")
    }
    return ContainerEngine(address: address)
  }

  @discardableResult func docker(_ arguments: String...) throws -> String {
    let (status, out) = try Self.run("docker", ["--host", address] + arguments)
    guard status == 0 else { throw FixtureError("docker \(arguments.joined(separator: " ")): \(out)") }
    return out
  }

  func containers(owner: String, all: Bool) throws -> [String] {
    let out =
      all
      ? try docker("ps", "-aq", "--no-trunc", "--filter", "label=berth.owner=\(owner)")
      : try docker("ps", "-q", "--no-trunc", "--filter", "label=berth.owner=\(owner)")
    return out.split(whereSeparator: \.isNewline).map(String.init)
  }

  func remove(_ container: String) throws { try docker("rm", "-f", "-v", container) }

  func inspect(_ container: String) throws -> JSON {
    let all = try JSON(parsing: Array(try docker("inspect", container).utf8))
    return try #require(all.array?.first)
  }

  static func run(_ program: String, _ arguments: [String]) throws -> (Int32, String) {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
    process.arguments = [program] + arguments
    let pipe = Pipe()
    process.standardOutput = pipe
    process.standardError = pipe
    process.standardInput = FileHandle.nullDevice
    try process.run()
    let out = pipe.fileHandleForReading.readDataToEndOfFile()
    process.waitUntilExit()
    return (process.terminationStatus, String(decoding: out, as: UTF8.self))
  }
}

/// A socket in front of the engine that can be cut off and come back, with TLS if wanted. A socat within its own process
/// group, which `timeout` makes and ends at the latest.
final class EngineRelay: @unchecked Sendable {
  let endpoint: EngineEndpoint
  private let listen: String
  private let target: String
  private var process: Process?

  /// At a Unix socket.
  init(to engine: ContainerEngine) throws {
    let path = "/tmp/berth-relay-\(UInt32.random(in: 0...UInt32.max)).sock"
    endpoint = .unix(path: path)
    listen = "UNIX-LISTEN:\(path),fork,unlink-early"
    target = "UNIX-CONNECT:\(engine.socket)"
    try restore()
    // Who comes too early places everything elsewhere.
    let limit = Deadline(milliseconds: 60_000)
    while !FileManager.default.fileExists(atPath: path), !limit.hasPassed { usleep(5_000) }
  }

  /// At a TCP port, for clients whose certificate is of the same authority.
  init(to engine: ContainerEngine, directory: String, tls: EngineTLS) throws {
    let port = try unusedPort()
    endpoint = .tcp(host: "127.0.0.1", port: port, tls: tls)
    listen =
      "OPENSSL-LISTEN:\(port),bind=127.0.0.1,fork,reuseaddr,verify=1,cert=\(directory)/server.pem,"
      + "key=\(directory)/server.key,cafile=\(directory)/ca.pem"
    target = "UNIX-CONNECT:\(engine.socket)"
    try restore()
  }

  deinit {
    cut()
    if case .unix(let path) = endpoint { unsafe unlink(path) }
  }

  /// From now on nobody gets through, and those who are through are cut off.
  func cut() {
    guard let process else { return }
    kill(-process.processIdentifier, SIGKILL)
    process.waitUntilExit()
    self.process = nil
  }

  func restore() throws {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
    process.arguments = ["timeout", "600", "socat", listen, target]
    process.standardInput = FileHandle.nullDevice
    process.standardError = FileHandle.nullDevice
    try process.run()
    self.process = process
  }
}
