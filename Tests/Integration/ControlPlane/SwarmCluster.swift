// The swarm of the tests: a manager and two workers in namespaces of this machine, made once by scripts/test-swarm and
// ended with this process. A node can be killed, started again and cut off, which no test may leave so.
import Domain
import Foundation
import Glibc
import JSON
import Posix
import Routing
import Runtimes
import State
import TestSupport
import Testing

struct SwarmCluster: Sendable {
  struct Node: Sendable {
    let number: Int
    let address: String
    let engine: ContainerEngine
    var name: String { "node\(number)" }
  }
  let nodes: [Node]

  /// Why there can be none here; nil = there can.
  static var isPossible: Bool { getuid() == 0 }
  static let whyNot: Comment = "only root can make the namespaces of a swarm's nodes"

  private static let made = Result { try SwarmCluster() }

  /// The image of a Chrome on its way from the tests' engine to node 2: it takes longer than most tests, which mostly wait.
  private let chrome: Task<Void, any Error>

  static func find() async throws -> SwarmCluster {
    let cluster = try made.get()
    try await eventually("all nodes are ready") { try cluster.ready().count == cluster.nodes.count }
    return cluster
  }

  private init() throws {
    let out = try Self.script("up")
    nodes = out.split(whereSeparator: \.isNewline).enumerated().map { index, address in
      let socket = "unix:///run/berth-test/swarm-\(getpid())/\(index + 1)/docker.sock"
      return Node(number: index + 1, address: String(address), engine: ContainerEngine(address: socket))
    }
    try #require(nodes.count == 3, "\(out)")
    let target = nodes[1].engine.address
    chrome = Task {
      try await BlockingPool(threads: 1).run { () throws(FixtureError) in
        do {
          let copy =
            "docker --host \(try ContainerEngine.find().address) save \(DockerBench.image) | docker --host \(target) load -q"
          let (status, out) = try ContainerEngine.run("bash", ["-o", "pipefail", "-c", copy])
          if status != 0 { throw FixtureError("the image of Chrome: \(out)") }
        } catch { throw FixtureError("\(error)") }
      }
    }
    for node in nodes { try docker("node", "update", "--label-add", "number=\(node.number)", node.name) }
  }

  @discardableResult private static func script(_ verb: String, _ more: String...) throws -> String {
    let file = FileManager.default.currentDirectoryPath + "/scripts/test-swarm"
    let (status, out) = try ContainerEngine.run("bash", [file, verb, String(getpid())] + more)
    guard status == 0 else { throw FixtureError("scripts/test-swarm \(verb): \(out)") }
    return out
  }

  /// Asked of any manager that answers, by Docker's own command line.
  @discardableResult func docker(_ arguments: String...) throws -> String {
    var failure = ""
    for node in nodes {
      let (status, out) = try ContainerEngine.run("docker", ["--host", node.engine.address] + arguments)
      if status == 0 { return out }
      failure = out
    }
    throw FixtureError("docker \(arguments.joined(separator: " ")): \(failure)")
  }

  private func ready() throws -> [String] {
    try docker("node", "ls", "--format", "{{.Hostname}} {{.Status}} {{.Availability}}").split(
      whereSeparator: \.isNewline
    ).filter { $0.hasSuffix(" Ready Active") }.map(String.init)
  }

  func services(owner: String) throws -> [String] {
    try docker("service", "ls", "-q", "--filter", "label=berth.owner=\(owner)").split(whereSeparator: \.isNewline)
      .map(String.init)
  }

  func inspect(_ service: String) throws -> JSON {
    let all = try JSON(parsing: Array(try docker("service", "inspect", service).utf8))
    return try #require(all.array?.first)
  }

  func node(of record: InstanceRecord) throws -> Node {
    try #require(nodes.first { $0.name == record.labels["node"] })
  }

  /// The container of an instance on its node.
  func container(of record: InstanceRecord) throws -> String {
    let found = try node(of: record).engine.docker(
      "ps", "-q", "--no-trunc", "--filter", "label=berth.instance=\(record.id)")
    return found.filter { !$0.isNewline }
  }

  /// The node that has the image of a Chrome, when it has it.
  func nodeWithChrome() async throws -> Node {
    try await chrome.value
    return nodes[1]
  }

  /// As a power cut: nothing of it gets to say anything.
  func kill(_ node: Node) throws {
    let file = "/run/berth-test/swarm-\(getpid())/\(node.number)/pid"
    let pid = try #require(Int32(try String(contentsOfFile: file, encoding: .utf8).filter(\.isNumber)))
    Glibc.kill(pid, SIGKILL)
  }

  func start(_ node: Node) throws { try Self.script("node", String(node.number)) }

  /// Its cable, as it were.
  func cut(_ node: Node) throws { try link(node, "down") }
  func mend(_ node: Node) throws { try link(node, "up") }

  private func link(_ node: Node, _ way: String) throws {
    let (status, out) = try ContainerEngine.run("ip", ["link", "set", "bsw\(getpid())-\(node.number)", way])
    guard status == 0 else { throw FixtureError("ip link set: \(out)") }
  }
}

/// Control planes over the swarm.
final class SwarmBench: Sendable {
  static let image = "berth/small:test"
  let bench: ControlBench
  let cluster: SwarmCluster
  /// Every bench has services of its own.
  let owner: String

  init() async throws {
    cluster = try await SwarmCluster.find()
    bench = try ControlBench()
    owner = "t" + String(UInt32.random(in: 0...UInt32.max), radix: 16)
  }

  /// What a test that failed has left.
  deinit {
    for service in (try? cluster.services(owner: owner)) ?? [] { _ = try? cluster.docker("service", "rm", service) }
  }

  func settings(
    managers: [EngineEndpoint]? = nil, graceMilliseconds: Int = 60_000, ports: Int = 20
  ) throws -> SwarmSettings {
    SwarmSettings(
      owner: owner, managers: managers ?? cluster.nodes.map(\.engine.endpoint), portRange: try TestPorts.take(ports),
      graceMilliseconds: graceMilliseconds)
  }

  func runtime(_ settings: SwarmSettings, pools: [PoolSpec]) throws -> RuntimeSet {
    RuntimeSet(
      process: try bench.runtime(),
      swarm: try SwarmRuntime(settings, pools: pools, logger: bench.logger("swarm")))
  }

  /// A pool of the small web server, on all nodes.
  func pool(_ change: (inout PoolSpec, inout ServiceSpec) -> Void = { _, _ in }) -> PoolSpec {
    var container = ContainerSpec(image: Self.image)
    container.port = 8_080
    container.memoryMegabytes = 64
    container.milliCPUs = 100
    container.shmMegabytes = 16
    container.readOnly = true
    container.tmpfs = ["/tmp": "size=8m,mode=1777"]
    var service = ServiceSpec(container: container)
    var spec = PoolSpec(
      name: "web", kind: .http, runtime: .service(service), slots: 0, spare: 0, recycleAfterSessions: 0)
    spec.stopGraceMilliseconds = 2_000
    change(&spec, &service)
    spec.runtime = .service(service)
    return spec
  }

  /// Ids of this bench's containers on all nodes that answer, with those that have ended.
  func containers() throws -> [String] {
    try cluster.nodes.flatMap { try $0.engine.containers(owner: owner, all: true) }
  }

  func reasons(_ type: String) async throws -> [String] {
    try await bench.events().filter { $0.type == type }.map(\.reason)
  }

  /// The end of a test: nothing is left.
  func finish(_ control: RunningControl, _ runtime: RuntimeSet) async throws {
    await control.stop(instances: true)
    runtime.shutdown()
    #expect(try cluster.services(owner: owner).isEmpty)
    try await eventually("its nodes have removed the containers") { try self.containers().isEmpty }
    #expect(try await bench.instances().isEmpty)
  }
}
