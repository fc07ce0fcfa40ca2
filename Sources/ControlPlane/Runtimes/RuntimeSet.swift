// All runtimes of a deployment as one, so that the supervisor need not know which pool is of which: a pool says it by its
// declaration, an instance by its label, and one without is a process.
package import Domain
package import Routing

package struct RuntimeSet: Runtime {
  private let process: ProcessRuntime
  private let docker: DockerRuntime?
  private let swarm: SwarmRuntime?
  private let fixed: StaticRuntime?

  package init(
    process: ProcessRuntime, docker: DockerRuntime? = nil, swarm: SwarmRuntime? = nil, fixed: StaticRuntime? = nil
  ) {
    self.process = process
    self.docker = docker
    self.swarm = swarm
    self.fixed = fixed
  }

  private var all: [any Runtime] {
    var all: [any Runtime] = [process]
    if let docker { all.append(docker) }
    if let swarm { all.append(swarm) }
    if let fixed { all.append(fixed) }
    return all
  }

  private func runtime(of spec: PoolSpec) -> any Runtime {
    let found: (any Runtime)? =
      switch spec.runtime {
      case .process: process
      case .container: docker
      case .service: swarm
      case .fixed: fixed
      }
    guard let found else { preconditionFailure("the runtime of pool \(spec.name) was not made: see ControlPlane") }
    return found
  }

  /// One whose runtime is not declared any more is a process that never was: it is forgotten.
  private func runtime(of record: InstanceRecord) -> any Runtime {
    switch record.labels[InstanceRecord.runtimeLabel] {
    case DockerRuntime.name: docker ?? process
    case SwarmRuntime.name: swarm ?? process
    case StaticRuntime.name: fixed ?? process
    default: process
    }
  }

  package var hosts: [RuntimeHost] { all.flatMap(\.hosts) }

  package func place(
    _ spec: PoolSpec, again: String?, among records: [InstanceRecord]
  ) throws(LaunchFailure) -> Place? {
    try runtime(of: spec).place(spec, again: again, among: records)
  }

  package func conflict(host: String, port: Int) async -> String? {
    await runtime(ofHost: host).conflict(host: host, port: port)
  }

  private func runtime(ofHost host: String) -> any Runtime {
    all.first { $0.hosts.contains { $0.name == host } } ?? process
  }

  package func launch(_ plan: LaunchPlan) async throws(LaunchFailure) -> Launched {
    try await runtime(of: plan.spec).launch(plan)
  }

  package func awaitReady(
    _ record: InstanceRecord, spec: PoolSpec, milliseconds: Int
  ) async throws(LaunchFailure) -> String? {
    try await runtime(of: record).awaitReady(record, spec: spec, milliseconds: milliseconds)
  }

  package func wasStarted(_ record: InstanceRecord) -> Bool { runtime(of: record).wasStarted(record) }
  package func isAlive(_ record: InstanceRecord) -> Bool { runtime(of: record).isAlive(record) }
  package func isWanted(_ record: InstanceRecord) -> Bool { runtime(of: record).isWanted(record) }
  package func remember(_ record: InstanceRecord) async { await runtime(of: record).remember(record) }
  package func exit(of record: InstanceRecord) async -> InstanceExit? { await runtime(of: record).exit(of: record) }

  package func check(_ record: InstanceRecord, spec: PoolSpec, depth: HealthDepth) async -> HealthProblem? {
    await runtime(of: record).check(record, spec: spec, depth: depth)
  }

  package func lastLines(of record: InstanceRecord) async -> [String] {
    await runtime(of: record).lastLines(of: record)
  }
  package func weight(of record: InstanceRecord) -> Int? { runtime(of: record).weight(of: record) }

  package func answers(_ record: InstanceRecord, spec: PoolSpec?) async -> Bool {
    await runtime(of: record).answers(record, spec: spec)
  }

  package func stop(
    _ record: InstanceRecord, kind: PoolKind, graceMilliseconds: Int, force: Bool
  ) async -> String? {
    await runtime(of: record).stop(record, kind: kind, graceMilliseconds: graceMilliseconds, force: force)
  }

  package func reap(orphan id: String) async -> String? {
    var left: [String] = []
    for runtime in all { if let problem = await runtime.reap(orphan: id) { left.append(problem) } }
    return left.isEmpty ? nil : left.joined(separator: "; ")
  }

  package func survey() async -> Survey {
    var survey = Survey(running: [], directories: [], records: [])
    for runtime in all {
      let part = await runtime.survey()
      survey.running.formUnion(part.running)
      survey.directories.formUnion(part.directories)
      survey.records += part.records
    }
    return survey
  }

  package func holdings() async -> [Holding] {
    var holdings: [Holding] = []
    for runtime in all { holdings += await runtime.holdings() }
    return holdings
  }

  package func remove(_ holding: Holding) async {
    await (holding.host.map(runtime(ofHost:)) ?? process).remove(holding)
  }

  package func figures(of records: [InstanceRecord]) async -> [String: ProcessFigures] {
    var figures: [String: ProcessFigures] = [:]
    for runtime in all { figures.merge(await runtime.figures(of: records)) { _, new in new } }
    return figures
  }

  /// Ends the threads of the runtimes.
  package func shutdown() {
    docker?.shutdown()
    swarm?.shutdown()
  }
}
