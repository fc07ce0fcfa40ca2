// Instances as processes of this host: each one leads a session of its own, lives in a directory of its own below
// <state>/instances/<id> (profile, tmp, log, log.1, instance.json), and bears BERTH_INSTANCE and BERTH_STATE in its
// environment, so that it can be found again by whoever follows a control plane that died. ProcessRuntime+Stop.swift
// ends them.
package import Domain
import JSON
package import Routing
import Synchronization

package final class ProcessRuntime: Runtime {
  /// The state directory, absolute: part of what marks a process as ours.
  package let state: String
  private let searchPath: String
  /// Variables of this process that instances get too; no other one does, so that secrets stay here.
  private let passedOn: [String: String]
  let pool: BlockingPool
  let exits = ExitWatch()
  private let lastScan = Mutex(ContinuousClock.now)
  private static let scanMilliseconds = 30_000

  /// How often a starting instance is looked at.
  private static let readinessPollMilliseconds = 10

  static let instanceVariable = "BERTH_INSTANCE"
  static let generationVariable = "BERTH_GENERATION"
  static let stateVariable = "BERTH_STATE"

  /// Makes the state directory if need be.
  package init(
    stateDirectory: String, environment: [String: String], pool: BlockingPool = .shared
  ) throws(KernelError) {
    try Kernel.makeDirectory(stateDirectory + "/instances")
    state = Kernel.absolutePath(stateDirectory) ?? stateDirectory
    searchPath = environment["PATH"] ?? "/usr/local/bin:/usr/bin:/bin"
    var passedOn = environment.filter { ["LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH"].contains($0.key) }
    passedOn["PATH"] = searchPath
    self.passedOn = passedOn
    self.pool = pool
  }

  func directory(of id: String) -> String { "\(state)/instances/\(id)" }
  private func log(of id: String) -> String { directory(of: id) + "/log" }

  /// The longest TMPDIR with which Chrome can make its sockets below it: an address has 107 bytes, and Chrome adds
  /// `/org.chromium.Chromium.123456/SingletonSocket`.
  private static let longestTemporaryPath = 60

  /// What an instance gets as TMPDIR: `tmp` in its directory, or a short link to that when its path is too long.
  func temporaryPath(of id: String) -> (path: String, isLink: Bool) {
    let path = directory(of: id) + "/tmp"
    guard path.utf8.count > Self.longestTemporaryPath else { return (path, false) }
    // FNV-1a: the same name for whoever cleans up later.
    var hash: UInt64 = 0xCBF2_9CE4_8422_2325
    for byte in path.utf8 { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01B3 }
    return ("/tmp/berth-\(String(hash, radix: 16))", true)
  }

  /// Removes what an instance had on disk.
  func removeDirectory(of id: String) throws(KernelError) {
    let temporary = temporaryPath(of: id)
    if temporary.isLink { Kernel.unlink(temporary.path, to: directory(of: id) + "/tmp") }
    try Kernel.removeTree(directory(of: id))
  }

  private func process(of spec: PoolSpec) -> ProcessSpec {
    guard case .process(let process) = spec.runtime else {
      preconditionFailure("pool \(spec.name) is not of this runtime: see RuntimeSet")
    }
    return process
  }

  /// The program of a pool, or a sentence that says what is missing and what to do.
  package func program(of spec: PoolSpec) -> Result<String, LaunchFailure> {
    let process = process(of: spec)
    if let command = process.command {
      if let file = Chrome.locate(command, path: searchPath) { return .success(file) }
      return .failure(
        LaunchFailure(.other, "pool \(spec.name): there is no program \"\(command)\"; install it or set its command"))
    }
    if let file = Chrome.find(path: searchPath) { return .success(file) }
    return .failure(
      LaunchFailure(
        .other,
        "pool \(spec.name): no Chrome is installed; install chromium-headless-shell or chromium, or set the pool's command"
      ))
  }

  package func launch(_ plan: LaunchPlan) async throws(LaunchFailure) -> Launched {
    let file = try program(of: plan.spec).get()
    let directory = directory(of: plan.id)
    let (arguments, environment) = words(for: plan, file: file, directory: directory)
    let snapshot = try snapshot(of: plan)
    let identity: ProcessIdentity
    do {
      identity = try await pool.run { () throws(KernelError) -> ProcessIdentity in
        // What an instance of this name left behind is not for this one.
        try self.removeDirectory(of: plan.id)
        try Kernel.makeDirectory(directory + "/profile")
        if let snapshot { try Kernel.copyTree(snapshot, into: directory + "/profile") }
        try Kernel.makeDirectory(directory + "/tmp")
        let temporary = self.temporaryPath(of: plan.id)
        if temporary.isLink { try Kernel.link(temporary.path, to: directory + "/tmp") }
        try Disk.check(directory)
        let log = try Kernel.openLog(self.log(of: plan.id))
        defer { Kernel.close(log) }
        let pid = try Kernel.spawn(
          file, arguments: arguments, environment: environment, directory: directory, output: log)
        // Nobody but ExitWatch reaps, so the entry is there even if the process has ended already.
        guard let entry = ProcessTable.entry(of: pid) else {
          throw KernelError(call: "read /proc/\(pid)/stat", code: 3)
        }
        return ProcessIdentity(pid: pid, start: entry.start)
      }
    } catch {
      throw LaunchFailure(.other, "\(error)")
    }
    exits.begin(identity)
    return .process(identity)
  }

  /// The directory of the profile that a session asked for.
  private func snapshot(of plan: LaunchPlan) throws(LaunchFailure) -> String? {
    guard let name = plan.options?.snapshot else { return nil }
    guard let root = plan.spec.launches.snapshots, Kernel.list("\(root)/\(name)") != nil else {
      throw LaunchFailure(.other, "pool \(plan.spec.name) has no snapshot \"\(name)\"")
    }
    return "\(root)/\(name)"
  }

  private func words(for plan: LaunchPlan, file: String, directory: String) -> ([String], [String]) {
    let process = process(of: plan.spec)
    func expand(_ text: String) -> String {
      ProcessSpec.expand(text, port: plan.port, directory: directory, id: plan.id)
    }
    var arguments: [String] = []
    if plan.spec.kind == .cdp {
      arguments = Chrome.arguments(file: file, port: plan.port, directory: directory, isRoot: Kernel.isRoot)
    }
    arguments += process.arguments.map(expand)
    // As a client wrote them: placeholders are the operator's.
    arguments += plan.options?.chromeArguments ?? []
    var variables = passedOn
    variables["HOME"] = directory
    variables["TMPDIR"] = temporaryPath(of: plan.id).path
    for (name, value) in process.environment { variables[name] = expand(value) }
    for (name, value) in plan.options?.environment ?? [:] { variables[name] = value }
    variables[Self.instanceVariable] = plan.id
    variables[Self.generationVariable] = String(plan.generation)
    variables[Self.stateVariable] = state
    return (arguments, variables.map { "\($0.key)=\($0.value)" }.sorted())
  }

  package func awaitReady(
    _ record: InstanceRecord, spec: PoolSpec, milliseconds: Int
  ) async throws(LaunchFailure) -> String? {
    let deadline = Deadline(milliseconds: milliseconds)
    var reason = "it did not answer"
    while true {
      let step = await pool.run { self.look(at: record, spec: spec, deadline: deadline) }
      switch step {
      case .ready(let browser): return browser
      case .failed(let failure): throw failure
      case .waiting(let why): if let why { reason = why }
      }
      if deadline.hasPassed {
        throw LaunchFailure(
          .other, "it was not ready within \(milliseconds) ms: \(reason)", log: await lastLines(of: record))
      }
      do {
        try await Task.sleep(for: .milliseconds(Self.readinessPollMilliseconds))
      } catch {
        throw LaunchFailure(.other, "the launch was given up")
      }
    }
  }

  private enum Step: Sendable {
    case ready(String?)
    case waiting(String?)
    case failed(LaunchFailure)
  }

  private func look(at record: InstanceRecord, spec: PoolSpec, deadline: Deadline) -> Step {
    guard isAlive(record) else {
      return .failed(LaunchFailure(.other, "its process ended before it was ready", log: logTail(of: record.id)))
    }
    let probe = Deadline(milliseconds: min(deadline.millisecondsLeft, spec.health.timeoutMilliseconds))
    do {
      guard spec.kind == .cdp else {
        InstanceLog.cut(log(of: record.id))
        _ = try HealthProbe.identify(record.host, record.port, spec: spec, deadline: probe)
        // An answer that came while the process was dying was somebody else's.
        return isAlive(record) ? .ready(nil) : .waiting(nil)
      }
      switch Chrome.announcement(in: Kernel.read(log(of: record.id)) ?? []) {
      case .none: return .waiting("it has not said that it listens")
      case .portTaken: return .failed(LaunchFailure(.portTaken, "something else listens at port \(record.port)"))
      case .listening(let port, let browser):
        guard port == record.port else {
          return .failed(LaunchFailure(.portTaken, "it listens at port \(port) instead of \(record.port)"))
        }
        guard try HealthProbe.identify(record.host, port, spec: spec, deadline: probe) == browser else {
          return .waiting("another browser answers at \(record.host):\(port)")
        }
        return .ready(browser)
      }
    } catch {
      return .waiting(error.description)
    }
  }

  private func logTail(of id: String) -> [String] {
    LogTail.lines(of: InstanceLog.end(log(of: id), bytes: 16_384))
  }

  package func lastLines(of record: InstanceRecord) async -> [String] {
    await pool.run { self.logTail(of: record.id) }
  }

  package func remember(_ record: InstanceRecord) async {
    let path = directory(of: record.id) + "/instance.json"
    // Without it an instance is still found through Redis; only the loss of both would need it.
    await pool.run { _ = try? Kernel.write(record.json.bytes, to: path) }
  }

  package func conflict(host: String, port: Int) async -> String? {
    await pool.run { BindProbe.conflict(port: port) }
  }

  package func wasStarted(_ record: InstanceRecord) -> Bool { record.identity != nil }

  package func exit(of record: InstanceRecord) async -> InstanceExit? {
    guard let identity = record.identity else { return InstanceExit() }
    return await exits.exit(of: identity)
  }

  package func isAlive(_ record: InstanceRecord) -> Bool { record.identity.map(ProcessTable.isAlive) ?? false }

  package func check(_ record: InstanceRecord, spec: PoolSpec, depth: HealthDepth) async -> HealthProblem? {
    await HealthProbe.pool.run {
      InstanceLog.cut(self.log(of: record.id))
      guard self.isAlive(record) else { return HealthProblem(.process, "its process has ended") }
      return HealthProbe.check(record, spec: spec, depth: depth)
    }
  }

  package func survey() async -> Survey {
    await pool.run {
      let directories = Kernel.list(self.state + "/instances") ?? []
      var records: [InstanceRecord] = []
      for id in directories {
        guard let bytes = Kernel.read(self.directory(of: id) + "/instance.json"),
          let json = try? JSON(parsing: bytes), let record = try? InstanceRecord(id: id, json: json)
        else { continue }
        records.append(record)
      }
      let running = Set(self.marked(in: ProcessTable.read()).keys)
      return Survey(running: running, directories: Set(directories), records: records)
    }
  }

  /// The living processes that bear our mark, by instance id; with a generation, only those that bear it too.
  func marked(in table: ProcessTable, generation: Int? = nil) -> [String: [ProcessEntry]] {
    var found: [String: [ProcessEntry]] = [:]
    for entry in table.entries.values where !entry.hasEnded {
      let variables = ProcessTable.environment(of: entry.pid)
      guard variables[Self.stateVariable] == state, let id = variables[Self.instanceVariable] else { continue }
      // One of an earlier release has none.
      if let generation, let own = variables[Self.generationVariable], own != String(generation) { continue }
      found[id, default: []].append(entry)
    }
    return found
  }

  /// Every start makes a directory first, so those tell at once what there is. Once in a while all processes are looked
  /// at: one may have started in a directory that was being removed.
  package func holdings() async -> [Holding] {
    let isDue = lastScan.withLock { last in
      let now = ContinuousClock.now
      guard now - last >= .milliseconds(Self.scanMilliseconds) else { return false }
      last = now
      return true
    }
    return await pool.run {
      var ids = Set(Kernel.list(self.state + "/instances") ?? [])
      if isDue { ids.formUnion(self.marked(in: ProcessTable.read()).keys) }
      return ids.sorted().map { Holding(instance: $0, host: nil, unit: nil) }
    }
  }

  package func remove(_ holding: Holding) async { _ = await reap(orphan: holding.instance) }

  package func figures(of records: [InstanceRecord]) async -> [String: ProcessFigures] {
    await pool.run {
      let table = ProcessTable.read()
      var figures: [String: ProcessFigures] = [:]
      for record in records {
        guard let identity = record.identity else { continue }
        let members = table.members(ofSessionLedBy: identity)
        if !members.isEmpty { figures[record.id] = ProcessFigures.measure(members) }
      }
      return figures
    }
  }
}

extension InstanceRecord {
  /// The process that leads the instance's session; nil before it was started.
  package var identity: ProcessIdentity? {
    guard let pid, let pidStart else { return nil }
    return ProcessIdentity(pid: pid, start: pidStart)
  }
}
