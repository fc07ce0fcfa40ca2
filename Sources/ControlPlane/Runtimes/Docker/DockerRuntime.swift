// Instances as containers of one or many engines. Everything that a container is for stands in its labels, so that whoever
// follows a control plane that died finds it; DockerRuntime+Launch.swift starts them, DockerRuntime+Stop.swift ends them.
package import Domain
package import JSON
package import Logging
package import Routing
import Synchronization

package final class DockerRuntime: Runtime {
  package static let name = "docker"
  package let settings: EngineSettings
  let engines: [Engine]
  /// Calls that wait for an engine; probes and pulls must not hold each other up.
  let pool = BlockingPool(threads: 8)
  let pulls = BlockingPool(threads: 2)
  let logger: Logger
  let pools: [PoolSpec]
  /// The seccomp profiles of the pools that have their own, by pool.
  let profiles: [String: String]

  /// Reads the pools' seccomp profiles and begins to follow the engines.
  package init(_ settings: EngineSettings, pools: [PoolSpec], logger: Logger) throws(LaunchFailure) {
    self.settings = settings
    self.pools = pools
    self.logger = logger
    profiles = try SeccompProfiles.read(for: pools)
    engines = settings.hosts.map { Engine($0, settings: settings, logger: logger) }
    for engine in engines { engine.startWatching() }
  }

  /// Ends the threads that follow the engines.
  package func shutdown() { for engine in engines { engine.stopWatching() } }

  func engine(_ name: String?) -> Engine? { engines.first { $0.host.name == name } }
  func engine(of record: InstanceRecord) -> Engine? { engine(record.labels[InstanceRecord.hostLabel]) }

  package var hosts: [RuntimeHost] {
    settings.hosts.map { RuntimeHost(name: $0.name, portRange: $0.portRange) }
  }

  package func place(
    _ spec: PoolSpec, again: String?, among records: [InstanceRecord]
  ) throws(LaunchFailure) -> Place? {
    guard case .container(let container) = spec.runtime else { return nil }
    var used: [String: Int] = [:]
    var launching: [String: Int] = [:]
    for record in records {
      let host = record.labels[InstanceRecord.hostLabel] ?? ""
      used[host, default: 0] += 1
      if record.state == .starting { launching[host, default: 0] += 1 }
    }
    let allowed = engines.filter { container.hosts.isEmpty || container.hosts.contains($0.host.name) }
    let candidates = allowed.map { engine in
      let (trouble, load) = engine.state.withLock { ($0.trouble, $0.load) }
      return Placement.Candidate(
        name: engine.host.name, trouble: trouble, capacity: engine.host.capacity, used: used[engine.host.name] ?? 0,
        load: load, launching: launching[engine.host.name] ?? 0, concurrentLaunches: engine.host.concurrentLaunches)
    }
    let chosen: String
    do throws(Placement.NoPlace) { chosen = try Placement.choose(candidates) } catch {
      throw LaunchFailure(error.isOnlyForNow ? .later : .noRoom, error.reason)
    }
    guard let engine = engine(chosen) else { preconditionFailure("an engine of the list was chosen") }
    var place = Place(host: chosen, address: engine.host.address)
    place.labels = [InstanceRecord.runtimeLabel: Self.name]
    return place
  }

  package func wasStarted(_ record: InstanceRecord) -> Bool { record.container != nil }

  package func isAlive(_ record: InstanceRecord) -> Bool {
    guard let container = record.container, let engine = engine(of: record) else { return false }
    return engine.exit(of: container) == nil
  }

  package func remember(_ record: InstanceRecord) async {}

  package func exit(of record: InstanceRecord) async -> InstanceExit? {
    guard let container = record.container, let engine = engine(of: record) else { return nil }
    let exit = await engine.waitForExit(of: container)
    guard let status = exit.status else { return exit }
    return await pool.run { [exit] in
      let deadline = Deadline(milliseconds: 2_000)
      var told = exit
      told.log = engine.logTail(container, deadline)
      guard status != 0 else { return told }
      let state = try? engine.call("GET", "/containers/\(container)/json", deadline: deadline)["State"]
      let why = state?["OOMKilled"]?.bool == true ? " (out of memory)" : ""
      if !told.log.isEmpty {
        engine.logger.warning(
          "a container's last words",
          metadata: ["instance": "\(record.id)", "log": "\(told.log.joined(separator: " | "))"])
      }
      told.reason = "its container exited with status \(status)\(why)"
      return told
    }
  }

  package func lastLines(of record: InstanceRecord) async -> [String] {
    guard let container = record.container, let engine = engine(of: record), engine.trouble == nil else { return [] }
    return await pool.run { engine.logTail(container, Deadline(milliseconds: 2_000)) }
  }

  package func check(_ record: InstanceRecord, spec: PoolSpec, depth: HealthDepth) async -> HealthProblem? {
    if let container = record.container, let exit = engine(of: record)?.exit(of: container) {
      return HealthProblem(.process, exit.description)
    }
    return await HealthProbe.pool.run { HealthProbe.check(record, spec: spec, depth: depth) }
  }

  // MARK: What is there

  package func survey() async -> Survey {
    var survey = Survey(running: [], directories: [], records: [])
    await withTaskGroup(of: Survey.self) { group in
      for engine in engines { group.addTask { await self.survey(engine) } }
      for await part in group {
        survey.running.formUnion(part.running)
        survey.directories.formUnion(part.directories)
        survey.records += part.records
      }
    }
    return survey
  }

  private func survey(_ engine: Engine) async -> Survey {
    var survey = Survey(running: [], directories: [], records: [])
    let list = await pool.run { () -> [JSON]? in
      do throws(EngineError) {
        let list = try engine.learn()
        engine.found()
        return list
      } catch {
        self.logger.warning("engine not asked", metadata: ["engine": "\(engine.host.name)", "reason": "\(error)"])
        return nil
      }
    }
    for entry in list ?? [] {
      guard let record = ContainerRequest.record(of: entry, address: engine.host.address) else { continue }
      guard ["running", "paused", "restarting"].contains(entry["State"]?.string) else {
        survey.directories.insert(record.id)
        continue
      }
      survey.running.insert(record.id)
      survey.records.append(
        await Readiness.identified(record, pools: pools, kind: entry["Labels"]?[ContainerLabels.kind]?.string))
    }
    return survey
  }

  package func holdings() async -> [Holding] {
    var holdings: [Holding] = []
    for engine in engines where engine.trouble == nil {
      let list = await pool.run { (try? engine.list(Deadline(milliseconds: 5_000))) ?? [] }
      for entry in list {
        guard let container = entry["Id"]?.string, let instance = entry["Labels"]?[ContainerLabels.instance]?.string
        else {
          continue
        }
        holdings.append(Holding(instance: instance, host: engine.host.name, unit: container))
      }
    }
    return holdings
  }

  // MARK: What it uses

  package func figures(of records: [InstanceRecord]) async -> [String: ProcessFigures] {
    var all: [String: ProcessFigures] = [:]
    for engine in engines where engine.trouble == nil {
      let here = records.filter { $0.labels[InstanceRecord.hostLabel] == engine.host.name && $0.container != nil }
      let figures = await withTaskGroup(of: (String, ProcessFigures)?.self) { group in
        for record in here {
          group.addTask { await self.figures(of: record, at: engine).map { (record.id, $0) } }
        }
        var figures: [String: ProcessFigures] = [:]
        for await case (let id, let one)? in group { figures[id] = one }
        return figures
      }
      engine.weigh(figures.values)
      all.merge(figures) { _, new in new }
    }
    return all
  }

  private func figures(of record: InstanceRecord, at engine: Engine) async -> ProcessFigures? {
    guard let container = record.container else { return nil }
    return await pool.run {
      let deadline = Deadline(milliseconds: 5_000)
      let path = "/containers/\(container)/stats?stream=false&one-shot=true"
      guard let stats = try? engine.call("GET", path, deadline: deadline),
        var figures = ProcessFigures(engineStats: stats)
      else { return nil }
      let limits = engine.limits(of: container, deadline)
      figures.memoryLimitBytes = limits?.memoryBytes
      figures.milliCPULimit = limits?.milliCPUs
      return figures
    }
  }
}

/// What a container may use at most; nil = as much as its host has.
struct ContainerLimits: Sendable, Equatable {
  var memoryBytes: Int?
  var milliCPUs: Int?

  /// Reads what an engine says of a container.
  init(inspected facts: JSON) {
    func positive(_ name: String) -> Int? { facts["HostConfig"]?[name]?.int.flatMap { $0 > 0 ? $0 : nil } }
    memoryBytes = positive("Memory")
    milliCPUs = positive("NanoCpus").map { max(1, $0 / 1_000_000) }
  }
}

extension ProcessFigures {
  /// Reads what an engine says of a container; nil when it does not run.
  package init?(engineStats stats: JSON) {
    guard let memory = stats["memory_stats"]?["usage"]?.int, memory > 0 else { return nil }
    let details = stats["memory_stats"]?["stats"]
    // Pages of files that nobody has touched of late are given back as soon as somebody needs memory.
    let cache = details?["total_inactive_file"]?.int ?? details?["inactive_file"]?.int ?? 0
    self.init(
      cpuMilliseconds: (stats["cpu_stats"]?["cpu_usage"]?["total_usage"]?.int ?? 0) / 1_000_000,
      memoryBytes: max(0, memory - cache), processes: stats["pids_stats"]?["current"]?.int ?? 0)
  }
}

extension Engine {
  /// A container's limits, which do not change while it lives: asked for once.
  func limits(of container: String, _ deadline: Deadline) -> ContainerLimits? {
    if let known = state.withLock({ $0.containers[container]?.limits }) { return known }
    guard let facts = try? call("GET", "/containers/\(container)/json", deadline: deadline) else { return nil }
    let limits = ContainerLimits(inspected: facts)
    state.withLock { $0.containers[container]?.limits = limits }
    return limits
  }

  /// Keeps how loaded the engine's host is by our instances.
  func weigh(_ figures: some Collection<ProcessFigures>) {
    let cpu = figures.reduce(0) { $0 + $1.cpuMilliseconds }
    let memory = figures.reduce(0) { $0 + $1.memoryBytes }
    let now = ContinuousClock.now
    state.withLock { state in
      var load = state.memoryBytes > 0 ? Double(memory) / Double(state.memoryBytes) : 0
      if let last = state.lastTotal, cpu >= last.cpuMilliseconds {
        let elapsed = max(1, last.at.duration(to: now).wholeMilliseconds)
        load = max(load, Double(cpu - last.cpuMilliseconds) / Double(elapsed * state.processors))
      }
      state.load = min(1, load)
      state.lastTotal = (cpu, now)
    }
  }
}
