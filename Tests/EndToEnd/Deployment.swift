// One Berth for a test: a Redis, a control plane and replicas of its own, on free ports, below a scratch directory.
// Every process of it carries that directory in its command line or environment, and so can be found when it should be gone.
import Foundation
import Glibc
import JSON
import Posix
import Redis
import Routing
import State
import TLS
import TestSupport

final class Deployment {
  let directory: String
  let port: Int
  let tlsPort: Int
  let controlPort: Int
  let admin: ClosedRange<Int>
  let instancePorts: ClosedRange<Int>
  let certificate: String
  let key: String
  let redis: RedisFixture
  private(set) var control: Program
  private(set) var replicas: [Program] = []
  /// Variables of the control plane and the replicas.
  private let environment: [String: String]

  /// A Chrome starts in a tenth of a second on an idle machine; the bound is for one that does everything at once, and for a
  /// Chrome that hangs at its start, which is replaced after half a minute.
  static let patience = 120.0

  /// For tests whose clients only ask where a browser is: at the end nothing may be held any more, and what discovery keeps
  /// for them is held for ten seconds otherwise.
  static let shortReservations = "pools: {chrome: {reservationMilliseconds: 500}}"

  var url: String { "http://127.0.0.1:\(port)" }
  var tlsURL: String { "https://127.0.0.1:\(tlsPort)" }
  var socketURL: String { "ws://127.0.0.1:\(port)" }

  /// Starts everything at once; the daemons have to find each other.
  /// - Parameter configuration: the control plane's configuration file, where DIRECTORY stands for the deployment's; nil = it
  ///   has none.
  init(replicas count: Int = 1, configuration: String? = nil) throws {
    for name in ["berth-control", "berth-data"] { _ = try Machine.program(name) }
    directory = try Machine.scratchDirectory("e2e")
    port = try Machine.freePort()
    tlsPort = try Machine.freePort()
    controlPort = try Machine.freePort()
    admin = try Machine.freePorts(count)
    instancePorts = try Machine.freePorts(100)
    certificate = directory + "/certificate.pem"
    key = directory + "/key.pem"
    if let configuration {
      try configuration.replacing("DIRECTORY", with: directory).write(
        toFile: directory + "/berth.yml", atomically: true, encoding: .utf8)
    }
    try DevelopmentCertificate.write(certificateFile: certificate, keyFile: key)
    redis = try RedisFixture()
    environment = ["REDIS_URL": "unix:\(redis.directory)/socket", "BERTH_TEST": directory]
    control = try Deployment.startControl(
      directory, controlPort, instancePorts, "http://127.0.0.1:\(port)", environment, configured: configuration != nil)
    for index in 0..<count { replicas.append(try startReplica(index)) }
  }

  // MARK: Starting and killing parts

  private static func startControl(
    _ directory: String, _ port: Int, _ instancePorts: ClosedRange<Int>, _ url: String,
    _ environment: [String: String], configured: Bool
  ) throws -> Program {
    try Program(
      "control",
      [
        try Machine.program("berth-control"), "--listen", "127.0.0.1:\(port)", "--state-directory",
        directory + "/control",
        "--port-range-start", String(instancePorts.lowerBound), "--port-range-end", String(instancePorts.upperBound),
        "--public-url", url, "--stop-instances-on-exit",
      ] + (configured ? ["--config", directory + "/berth.yml"] : []), outputFile: directory + "/control.log",
      environment: environment)
  }

  private func startReplica(_ index: Int) throws -> Program {
    try Program(
      "data-\(index + 1)",
      [
        try Machine.program("berth-data"), "--listen", "127.0.0.1:\(port)", "--tls-listen", "127.0.0.1:\(tlsPort)",
        "--certificate", certificate, "--key", key, "--admin", "127.0.0.1:\(admin.lowerBound + index)",
        "--drain-seconds", "5", "--id", "data-\(index + 1)",
      ], outputFile: directory + "/data-\(index + 1).log", environment: environment)
  }

  func restartControl() throws {
    control = try Deployment.startControl(
      directory, controlPort, instancePorts, url, environment,
      configured: FileManager.default.fileExists(atPath: directory + "/berth.yml"))
  }

  func restartReplica(_ index: Int) throws { replicas[index] = try startReplica(index) }

  /// Every daemon is up and every wanted Chrome is ready.
  func ready() async throws {
    for index in replicas.indices {
      try await eventually("replica \(index + 1) is ready", within: Deployment.patience, show: replicas[index]) {
        HTTP.get(self.admin.lowerBound + index, "/readyz")?.status == 200
      }
    }
    try await eventually("a Chrome is ready", within: Deployment.patience, show: control) {
      try self.readyInstances() > 0 ? () : nil
    }
  }

  /// Who leads, by the control plane's own answer.
  var leader: String? { HTTP.get(controlPort, "/api/health")?.json["leader"]?.string }

  /// Waits until somebody else leads than before.
  func newLeader(after old: String) async throws {
    try await eventually("another control plane leads", show: control) {
      self.leader.flatMap { $0 != old ? () : nil }
    }
  }

  // MARK: What Redis says

  func ask(_ words: String...) throws -> Reply {
    try redis.connect().run(Command(.words(words)) { $0 })
  }

  private func count(_ words: String...) throws -> Int {
    guard case .int(let count) = try redis.connect().run(Command(.words(words)) { $0 }) else { return -1 }
    return count
  }

  func leases(pool: String = "chrome") throws -> Int { try count("ZCARD", Keys().leases(pool: pool)) }
  func waiting(pool: String = "chrome") throws -> Int { try count("ZCARD", Keys().waiting(pool: pool)) }

  func instances() throws -> [InstanceRecord] {
    guard case .array(let words) = try ask("HVALS", Keys().instances) else { return [] }
    return try words.compactMap { word in
      guard case .string(let bytes) = word else { return nil }
      let json = try JSON(parsing: bytes)
      return try InstanceRecord(id: json["id"]?.string ?? "", json: json)
    }
  }

  func readyInstances() throws -> Int { try instances().filter { $0.state == .ready }.count }

  /// The allocated ports of every host: `berth:ports:<host>:allocated`.
  func allocatedPorts() throws -> [Int] {
    guard case .array(let keys) = try ask("KEYS", Keys().portsAllocated(host: "*")) else { return [] }
    var ports: [Int] = []
    for case .string(let key) in keys {
      guard case .array(let members) = try ask("ZRANGE", String(decoding: key, as: UTF8.self), "0", "-1") else {
        continue
      }
      for case .string(let port) in members { ports.append(Int(String(decoding: port, as: UTF8.self)) ?? -1) }
    }
    return ports.sorted()
  }

  /// The processes of Chromes that listen for DevTools: the first process of each.
  func browsers() -> [Machine.Process] {
    Machine.processes(marked: directory).filter {
      $0.command.contains("--remote-debugging-port") && !$0.command.contains("--type=")
    }
  }

  /// Redis, the processes and the promises agree: nothing is held, and what is there is what should be.
  func settles() async throws {
    try await eventually("no lease is held", within: Deployment.patience, show: control) {
      try self.leases() == 0 && self.waiting() == 0 ? () : nil
    }
    try await eventually("ports, records and processes agree", within: Deployment.patience, show: control) {
      let instances = try self.instances()
      let ports = try self.allocatedPorts()
      let isQuiet = !instances.isEmpty && instances.allSatisfy { $0.state == .ready }
      return isQuiet && ports == instances.map(\.port).sorted()
        && Set(self.browsers().map { Int($0.pid) }) == Set(instances.compactMap(\.pid)) ? () : nil
    }
  }

  // MARK: The end

  /// Ends everything in order and checks that nothing of it is left.
  func stop() async throws {
    for replica in replicas { replica.signal(SIGTERM) }
    for replica in replicas { try await replica.stop() }
    try await control.stop()
    let ports = try allocatedPorts()
    guard ports.isEmpty else { throw Failure("ports are still allocated after the end: \(ports)") }
    try await nothingIsLeft()
    try FileManager.default.removeItem(atPath: directory)
  }

  private func nothingIsLeft() async throws {
    do {
      try await eventually("no process is left", within: 60) { Machine.processes(marked: self.directory).isEmpty }
    } catch {
      throw Failure("left behind:\n" + Machine.processes(marked: directory).map(\.description).joined(separator: "\n"))
    }
  }

  /// After a failure: by force, and what the programs said goes into the test's output.
  func abandon() async {
    for program in replicas + [control] { program.signal(SIGKILL) }
    for process in Machine.processes(marked: directory) { kill(process.pid, SIGKILL) }
    for program in replicas + [control] {
      print("--- \(program.name), last lines of \(program.outputFile):")
      for line in program.lines.suffix(25) { print("  \(line)") }
    }
    try? await nothingIsLeft()
  }

  /// Gives a Berth to a test, and ends it afterwards whatever became of the test.
  static func with(
    replicas: Int = 1, configuration: String? = nil, _ body: (Deployment) async throws -> Void
  ) async throws {
    let deployment = try Deployment(replicas: replicas, configuration: configuration)
    do {
      try await deployment.ready()
      try await body(deployment)
      try await deployment.settles()
      try await deployment.stop()
    } catch {
      await deployment.abandon()
      throw error
    }
  }
}
