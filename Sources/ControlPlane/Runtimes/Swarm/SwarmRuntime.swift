// Instances as services of a swarm, one each, which Swarm's own scheduler places. Everything that a service is for stands
// in its labels; SwarmRuntime+Launch.swift starts them, SwarmRuntime+Stop.swift ends them.
package import Domain
import JSON
package import Logging
package import Routing

package final class SwarmRuntime: Runtime {
  package static let name = "swarm"
  package let settings: SwarmSettings
  let swarm: Swarm
  /// Calls that wait for a manager.
  let pool = BlockingPool(threads: 8)
  let logger: Logger
  let pools: [PoolSpec]
  /// The seccomp profiles of the pools that have their own, by pool.
  let profiles: [String: String]

  /// Reads the pools' seccomp profiles and begins to follow the swarm.
  package init(_ settings: SwarmSettings, pools: [PoolSpec], logger: Logger) throws(LaunchFailure) {
    self.settings = settings
    // Those of other runtimes have profiles of their own.
    self.pools = pools.filter { if case .service = $0.runtime { true } else { false } }
    self.logger = logger
    profiles = try SeccompProfiles.read(for: self.pools)
    swarm = Swarm(settings, logger: logger)
    swarm.startWatching()
  }

  /// Ends the thread that follows the swarm.
  package func shutdown() { swarm.stopWatching() }

  package var hosts: [RuntimeHost] { [RuntimeHost(name: settings.name, portRange: settings.portRange)] }

  /// Onto the swarm; where there, its scheduler says at the launch.
  package func place(
    _ spec: PoolSpec, again: String?, among records: [InstanceRecord]
  ) throws(LaunchFailure) -> Place? {
    let there = records.filter { $0.labels[InstanceRecord.hostLabel] == settings.name }
    let candidate = Placement.Candidate(
      name: settings.name, trouble: swarm.trouble, capacity: settings.capacity, used: there.count,
      launching: there.count { $0.state == .starting }, concurrentLaunches: settings.concurrentLaunches)
    do throws(Placement.NoPlace) { _ = try Placement.choose([candidate]) } catch {
      throw LaunchFailure(error.isOnlyForNow ? .later : .noRoom, error.reason)
    }
    var place = Place(host: settings.name, address: "")
    place.labels = [InstanceRecord.runtimeLabel: Self.name]
    return place
  }

  package func wasStarted(_ record: InstanceRecord) -> Bool { record.service != nil }

  package func isAlive(_ record: InstanceRecord) -> Bool {
    record.service.map { swarm.exit(of: $0) == nil } ?? false
  }

  package func remember(_ record: InstanceRecord) async {}

  package func exit(of record: InstanceRecord) async -> InstanceExit? {
    guard let service = record.service else { return nil }
    let exit = await swarm.waitForExit(of: service)
    // Only a container that has run has said something, and only a node that is there can tell it.
    guard exit.status != nil else { return exit }
    return await pool.run { [exit, swarm, logger] in
      var told = exit
      told.log = swarm.logTail(service, milliseconds: Self.logMilliseconds)
      if !exit.isClean, !told.log.isEmpty {
        logger.warning(
          "a container's last words",
          metadata: ["instance": "\(record.id)", "log": "\(told.log.joined(separator: " | "))"])
      }
      return told
    }
  }

  private static let logMilliseconds = 3_000

  package func lastLines(of record: InstanceRecord) async -> [String] {
    guard let service = record.service else { return [] }
    return await lastLines(ofService: service)
  }

  func lastLines(ofService service: String) async -> [String] {
    await pool.run { [swarm] in swarm.logTail(service, milliseconds: Self.logMilliseconds) }
  }

  package func check(_ record: InstanceRecord, spec: PoolSpec, depth: HealthDepth) async -> HealthProblem? {
    if let service = record.service, let exit = swarm.exit(of: service) {
      return HealthProblem(.process, exit.description)
    }
    return await HealthProbe.pool.run { HealthProbe.check(record, spec: spec, depth: depth) }
  }

  // MARK: What is there

  package func survey() async -> Survey {
    var survey = Survey(running: [], directories: [], records: [])
    let services = await pool.run { [swarm, logger] () -> [JSON]? in
      do throws(EngineError) {
        let services = try swarm.services(milliseconds: 10_000)
        try swarm.look()
        return services
      } catch {
        logger.warning("swarm not asked", metadata: ["swarm": "\(swarm.settings.name)", "reason": "\(error)"])
        return nil
      }
    }
    for entry in services ?? [] {
      let labels = entry["Spec"]?["Labels"]
      guard let id = entry["ID"]?.string,
        var record = ContainerLabels.record(labels, runtime: Self.name, address: "")
      else { continue }
      let task = swarm.picture.services[id].flatMap { $0.exit == nil ? $0.task : nil }
      guard let task, task.isRunning, let address = swarm.address(of: task.node) else {
        survey.directories.insert(record.id)
        continue
      }
      let service = RunningService(id: id, task: task.id, node: swarm.name(of: task.node), address: address)
      Launched.service(service).note(in: &record)
      survey.running.insert(record.id)
      survey.records.append(
        await Readiness.identified(record, pools: pools, kind: labels?[ContainerLabels.kind]?.string))
    }
    return survey
  }

  package func holdings() async -> [Holding] {
    let services = await services()
    return services.map { Holding(instance: $0.instance, host: settings.name, unit: $0.id) }
  }

  /// Those that a manager lists now.
  func services() async -> [(id: String, instance: String)] {
    guard swarm.trouble == nil else { return [] }
    let list = await pool.run { [swarm] in (try? swarm.services(milliseconds: 5_000)) ?? [] }
    return list.compactMap { entry in
      guard let id = entry["ID"]?.string, let instance = entry["Spec"]?["Labels"]?[ContainerLabels.instance]?.string
      else { return nil }
      return (id, instance)
    }
  }

  // MARK: What it uses

  /// A container's figures are known to its own engine only: those of nodes that are no managers of the configuration are
  /// left out.
  package func figures(of records: [InstanceRecord]) async -> [String: ProcessFigures] {
    let ours = records.filter { $0.labels[InstanceRecord.hostLabel] == settings.name }
    guard !ours.isEmpty, swarm.trouble == nil else { return [:] }
    await pool.run { [swarm] in swarm.learnManagers() }
    return await withTaskGroup(of: (String, ProcessFigures)?.self) { group in
      for record in ours {
        guard let service = record.service,
          let task = swarm.picture.services[service]?.task, let container = task.container,
          let engine = task.node.flatMap({ swarm.engine(ofNode: $0) })
        else { continue }
        group.addTask { [pool] in
          await pool.run { () -> ProcessFigures? in
            let path = "/containers/\(container)/stats?stream=false&one-shot=true"
            let stats = try? engine.call("GET", path, deadline: Deadline(milliseconds: 5_000))
            var figures = stats.flatMap { ProcessFigures(engineStats: $0) }
            figures?.memoryLimitBytes = task.memoryBytes
            figures?.milliCPULimit = task.milliCPUs
            return figures
          }.map { (record.id, $0) }
        }
      }
      var figures: [String: ProcessFigures] = [:]
      for await case (let id, let one)? in group { figures[id] = one }
      return figures
    }
  }
}
