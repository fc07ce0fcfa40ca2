// Servers that run whether Berth runs or not, at addresses of their own: an instance is one of them while it is declared.
// With commands it can be started, stopped and restarted (a compose file, a unit); without, it is only watched.
package import Domain
package import Logging
package import Routing
import Synchronization

package final class StaticRuntime: Runtime {
  package static let name = "static"
  private let pools: [PoolSpec]
  private let commands: CommandRunner
  private let logger: Logger
  /// Servers that were told to stop, and so must be told to start before they can be used again.
  private let ended = Mutex<Set<String>>([])

  /// How long a server without a start command may take to answer before it is kept as one that does not.
  private static let firstAnswerMilliseconds = 2_000
  private static let pollMilliseconds = 50

  package init(
    pools: [PoolSpec], stateDirectory: String, environment: [String: String], logger: Logger
  ) throws(KernelError) {
    self.pools = pools
    self.logger = logger
    commands = try CommandRunner(directory: stateDirectory + "/commands", environment: environment)
  }

  /// No host of its own: the label only says that there are no ports to give away.
  package var hosts: [RuntimeHost] { [RuntimeHost(name: Self.name, portRange: nil)] }

  private static func servers(of spec: PoolSpec) -> [FixedServer] {
    if case .fixed(let fixed) = spec.runtime { fixed.servers } else { [] }
  }

  private func server(of record: InstanceRecord) -> FixedServer? {
    guard let spec = pools.first(where: { $0.name == record.pool }) else { return nil }
    return Self.servers(of: spec).first { $0.address == record.host && $0.port == record.port }
  }

  package func place(
    _ spec: PoolSpec, again: String?, among records: [InstanceRecord]
  ) throws(LaunchFailure) -> Place? {
    let taken = Set(records.map(\.id))
    let servers = Self.servers(of: spec)
    guard
      let server = servers.first(where: { $0.id(in: spec.name) == again })
        ?? servers.first(where: { again == nil && !taken.contains($0.id(in: spec.name)) })
    else { throw LaunchFailure(.noRoom, "all \(servers.count) servers of pool \(spec.name) are there already") }
    var place = Place(host: Self.name, address: server.address)
    place.port = server.port
    place.weight = server.weight
    place.id = server.id(in: spec.name)
    place.labels = [InstanceRecord.runtimeLabel: Self.name]
    return place
  }

  package func launch(_ plan: LaunchPlan) async throws(LaunchFailure) -> Launched {
    guard let server = Self.servers(of: plan.spec).first(where: { $0.id(in: plan.spec.name) == plan.id }) else {
      throw LaunchFailure(.other, "the server is not declared any more")
    }
    let wasEnded = ended.withLock { $0.contains(plan.id) }
    let command: [String]
    if wasEnded {
      // After its own stop command it is started; without one, nothing has stopped it yet.
      command = server.stop.isEmpty ? server.restart : server.start.isEmpty ? server.restart : server.start
    } else if await answersNow(server, plan.spec) {
      command = []
    } else {
      command = server.start.isEmpty ? server.restart : server.start
    }
    if !command.isEmpty {
      logger.info(
        "server is started", metadata: ["instance": "\(plan.id)", "command": "\(command.joined(separator: " "))"])
      if let problem = await commands.run(command, for: plan.id, milliseconds: plan.spec.launchTimeoutMilliseconds) {
        throw LaunchFailure(.other, problem)
      }
    }
    ended.withLock { _ = $0.remove(plan.id) }
    return .fixed
  }

  private func answersNow(_ server: FixedServer, _ spec: PoolSpec) async -> Bool {
    await BlockingPool.shared.run {
      let deadline = Deadline(milliseconds: spec.health.timeoutMilliseconds)
      return (try? HealthProbe.identify(server.address, server.port, spec: spec, deadline: deadline)) != nil
    }
  }

  package func awaitReady(
    _ record: InstanceRecord, spec: PoolSpec, milliseconds: Int
  ) async throws(LaunchFailure) -> String? {
    guard let server = server(of: record) else { throw LaunchFailure(.other, "the server is not declared any more") }
    let canStart = !server.start.isEmpty || !server.restart.isEmpty
    let deadline = Deadline(milliseconds: canStart ? milliseconds : min(milliseconds, Self.firstAnswerMilliseconds))
    while true {
      let answer = await BlockingPool.shared.run { () -> Result<String?, ProbeError> in
        do throws(ProbeError) {
          let left = min(max(1, deadline.millisecondsLeft), spec.health.timeoutMilliseconds)
          let deadline = Deadline(milliseconds: left)
          return .success(try HealthProbe.identify(record.host, record.port, spec: spec, deadline: deadline))
        } catch { return .failure(error) }
      }
      switch answer {
      case .success(let browser): return browser
      case .failure(let error):
        if deadline.hasPassed {
          // A Chrome whose GUID nobody knows cannot be used; any other server is kept until it answers.
          let cause: LaunchFailure.Cause = canStart || spec.kind == .cdp ? .other : .notYet
          throw LaunchFailure(cause, error.description)
        }
      }
      do {
        try await Task.sleep(for: .milliseconds(Self.pollMilliseconds))
      } catch {
        throw LaunchFailure(.other, "the launch was given up")
      }
    }
  }

  package func wasStarted(_ record: InstanceRecord) -> Bool { true }
  package func isAlive(_ record: InstanceRecord) -> Bool { true }
  package func isWanted(_ record: InstanceRecord) -> Bool { server(of: record) != nil }
  package func remember(_ record: InstanceRecord) async {}
  package func exit(of record: InstanceRecord) async -> InstanceExit? { nil }

  package func weight(of record: InstanceRecord) -> Int? { server(of: record)?.weight }

  package func check(_ record: InstanceRecord, spec: PoolSpec, depth: HealthDepth) async -> HealthProblem? {
    await HealthProbe.pool.run { HealthProbe.check(record, spec: spec, depth: depth) }
  }

  package func answers(_ record: InstanceRecord, spec: PoolSpec?) async -> Bool { true }

  package func stop(
    _ record: InstanceRecord, kind: PoolKind, graceMilliseconds: Int, force: Bool
  ) async -> String? {
    // One that is declared no more is left as it is: it is somebody else's now.
    guard let server = server(of: record) else { return nil }
    // A launch that failed left nothing that would have to be stopped.
    guard !(force && record.state == .starting) else { return nil }
    ended.withLock { _ = $0.insert(record.id) }
    guard !server.stop.isEmpty else { return nil }
    logger.info("server is stopped", metadata: ["instance": "\(record.id)"])
    let problem = await commands.run(
      server.stop, for: record.id, milliseconds: graceMilliseconds + Self.stopMilliseconds)
    // It counts as stopped all the same: one that does not come back will not answer either.
    if let problem {
      logger.error("the stop command failed", metadata: ["instance": "\(record.id)", "reason": "\(problem)"])
    }
    return nil
  }

  /// What a stop command may take beyond the pool's grace: composing down a stack takes a while.
  private static let stopMilliseconds = 60_000

  package func reap(orphan id: String) async -> String? { nil }
  package func survey() async -> Survey { Survey(running: [], directories: [], records: []) }
  package func figures(of records: [InstanceRecord]) async -> [String: ProcessFigures] { [:] }
}
