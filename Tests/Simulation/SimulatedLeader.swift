// A control plane: the same questions, rules and commands as Supervisor's, in the same order, without its actor, its
// clock and its threads. What decides (Reconciler, RestartHistory, InstanceLifecycle, LaunchTurns) and what writes (the
// scripts) is the product's own; Supervisor's tests prove the rest.
import Domain
import Reconciler
import Redis
import Routing
import State

@Simulated final class SimulatedLeader {
  nonisolated static let host = "host"
  nonisolated static let containerLabel = "container"
  nonisolated static let recyclingLabel = "recycling"
  nonisolated static let replacesLabel = "replaces"
  private static let ttlMilliseconds = 3_000
  private static let silenceMilliseconds = 2_500

  struct Entry {
    let token: Int
    var record: InstanceRecord
    var lifecycle: InstanceLifecycle
    var health = InstanceHealth()
    var busy = false
    var exited: String?
    var lost: String?
    var order: InstanceOrder?
    var launchBegan: Int?
    var isUnsaved = false
    var isSaving = false
    var removalBegan = false
    var reason: String?
    var nextCheck = 0
    var drainingSince: Int?
    var rate = RequestRate()

    var recycling: String? { record.labels[SimulatedLeader.recyclingLabel] }
    var isSettled: Bool { !busy && !isUnsaved && !isSaving }
    var container: Int? { record.labels[SimulatedLeader.containerLabel].flatMap { Int($0) } }

    mutating func apply(_ event: InstanceLifecycle.Event, reason: String) -> Bool {
      guard lifecycle.apply(event), let state = lifecycle.state else { return false }
      record.state = state
      self.reason = reason
      if record.port > 0 { isUnsaved = true }
      return true
    }
  }
  struct Memory {
    var history = RestartHistory()
    var restarts: [Restart] = []
    var scaling = ScalingMemory()
    /// For the invariant of backing off, counted apart from the history.
    var failures = 0
    var failedAt = 0
  }

  let process: Process
  unowned let scene: Scene
  var entries: [String: Entry] = [:]
  var pools: [String: Memory] = [:]
  private(set) var fence: Fence?
  private var validUntil = 0
  private var term = 0
  private(set) var termDone: Int?
  private var anotherLeads = false
  private var nextToken = 0
  private var lookAgainAt: Int?
  private var beats: [String: (beat: Int, silent: Int)] = [:]
  private var lastLook = 0
  private var nextUpkeep = 0
  /// Launches that were begun, for those who watch whether it has come to rest.
  private(set) var launches = 0

  var keys: Keys { scene.wire.keys }
  var registry: Registry { Registry(keys: keys) }
  var ports: Ports { Ports(keys: keys, host: Self.host, fence: fence ?? Fence(token: 0, id: "nobody")) }
  var leases: Leases { Leases(keys: keys) }

  init(_ name: String, scene: Scene) {
    process = Process(name)
    self.scene = scene
  }

  func start() {
    scene.spawn { try await self.campaign() }
    scene.spawn { try await self.work() }
  }

  // MARK: The lease

  var current: Fence? { scene.now < validUntil ? fence : nil }

  private func campaign() async throws {
    let leadership = Leadership(keys: keys)
    while true {
      let began = scene.now
      do {
        if let held = fence {
          let kept = try await scene.wire.run(
            leadership.renew(id: process.name, fence: held, ttlMilliseconds: 3_600_000), by: process
          ) { if $0 { self.scene.leaderUntil = self.scene.now + Self.ttlMilliseconds } }
          if kept { validUntil = began + Self.ttlMilliseconds } else { fence = nil }
        } else if let won = try await scene.wire.run(
          leadership.campaign(id: process.name, ttlMilliseconds: 3_600_000), by: process,
          executed: { fence in
            guard let fence else { return }
            self.scene.leader = "\(fence.token):\(fence.id)"
            self.scene.leaderUntil = self.scene.now + Self.ttlMilliseconds
          })
        {
          term += 1
          fence = won
          validUntil = began + Self.ttlMilliseconds
          scene.tell("\(process.name) leads, token \(won.token)")
        } else {
          anotherLeads = true
        }
      } catch is Away {}
      try await scene.sleep(fence == nil ? 500 : 1_000, process)
    }
  }

  /// A write that only the leader may make.
  private func guarded<R: Sendable>(_ what: (Fence) -> Command<R>, as fence: Fence) async throws -> R {
    // The worst moment for a pause: it has looked whether it leads, and has not yet written.
    if scene.chance(scene.faults.leaderPauses / 3) {
      scene.tell("\(process.name) is paused before it writes")
      process.pausedUntil = scene.now + scene.draw(500...6_000)
      try await scene.sleep(0, process)
    }
    return try await scene.wire.run(what(fence), by: process) { _ in
      if self.scene.leader != "\(fence.token):\(fence.id)" {
        self.scene.problem("a write of \(self.process.name) was taken although \(self.scene.leader ?? "nobody") leads")
      }
    }
  }

  func run<R: Sendable>(_ command: Command<R>) async throws -> R { try await scene.wire.run(command, by: process) }

  // MARK: Looking

  private func work() async throws {
    while true {
      let seen = scene.rings
      do { try await look() } catch is Away { beats = [:] } catch let error as RedisError {
        guard error.isFenced else { throw error }
      }
      let tick = scene.now + 1_500
      repeat {
        try await scene.sleep(current == nil ? 500 : 200, process)
      } while scene.rings == seen && scene.now < Swift.min(tick, lookAgainAt ?? tick)
    }
  }

  private func look() async throws {
    lookAgainAt = nil
    guard let fence = current else {
      beats = [:]
      if anotherLeads, termDone != nil || !entries.isEmpty {
        entries = [:]
        pools = [:]
        termDone = nil
      }
      return
    }
    guard try await run(Leadership(keys: keys).current()) == Leader(id: fence.id, token: fence.token) else { return }
    if termDone != term {
      try await takeOver(fence)
      termDone = term
      anotherLeads = false
    }
    try await agree(fence)
    for id in entries.keys.sorted() where entries[id]?.isUnsaved == true { try await save(id) }
    try await reconcile()
    try await keepUp()
  }

  private func registered() async throws -> Set<String> {
    Set(
      try await run(
        Command(.words(["HKEYS", keys.instances]), mayRepeat: true) { (reply: Reply) in
          (try? reply.strings(of: "instances")) ?? []
        }))
  }

  private struct Look {
    let entry: Entry
    let leases: Int
    let freeSlots: Int?
    let counters: InstanceCounters?
    let replicasUsing: Int
  }

  private static let countScript = Script(
    name: "simulation.leases",
    source: "local c = {} for i, key in ipairs(KEYS) do c[i] = redis.call('ZCARD', key) end return c")

  private func look(at pool: String) async throws -> ([Look], waiting: Int) {
    let members = entries.values.filter { $0.record.pool == pool }.sorted { $0.record.id < $1.record.id }
    let figures = try await run(leases.figures(pool: pool, now: scene.now))
    let held =
      members.isEmpty
      ? []
      : try await run(
        Command(
          .script(Self.countScript, keys: members.map { keys.instanceSessions(instance: $0.record.id) }, arguments: []),
          mayRepeat: true
        ) { (reply: Reply) throws(StateError) -> [Int] in
          var counts: [Int] = []
          for count in try reply.list(of: "leases") { counts.append(try count.int(of: "leases")) }
          return counts
        })
    let (counters, replicas) = try await uses(of: members.map(\.record), pool: pool)
    var looks: [Look] = []
    for (index, (entry, leases)) in zip(members, held).enumerated() {
      looks.append(
        Look(
          entry: entry, leases: leases, freeSlots: figures.freeSlots[entry.record.id],
          counters: counters.isEmpty ? nil : counters[index],
          replicasUsing: counters.isEmpty
            ? 0 : Self.using(entry.record, counters[index], among: replicas, ignoringActive: false)))
    }
    return (looks, figures.waiting)
  }

  /// Who uses the instances of a pool without slots, and how worn those are.
  private func uses(of records: [InstanceRecord], pool: String) async throws -> ([InstanceCounters], [String]) {
    guard scene.spec(of: pool)?.slots == 0, !records.isEmpty, scene.mutation != .replicasAreNotAsked else {
      return ([], [])
    }
    let leaves = records.contains { $0.state == .draining || $0.state == .stopping }
    let replicas = leaves ? try await run(Replicas(keys: keys).list()).map(\.id) : []
    return (try await run(Traffic(keys: keys).counters(of: records.map(\.id))), replicas)
  }

  private static func using(
    _ record: InstanceRecord, _ counters: InstanceCounters, among replicas: [String], ignoringActive: Bool
  ) -> Int {
    replicas.count { replica in
      guard let line = counters.replicas[replica], line.generation == record.generation else { return true }
      let knows = line.state == .stopping || (line.state == .draining && record.state == .draining)
      return !knows || (line.active > 0 && !ignoringActive)
    }
  }

  private struct Wanted {
    var restart: Restart?
    var replaces: String?
  }

  private func reconcile() async throws {
    var looks: [(PoolSpec, [Look], waiting: Int)] = []
    for spec in scene.pools {
      let (members, waiting) = try await look(at: spec.name)
      looks.append((spec, members, waiting))
    }
    let known = try await registered()
    var wanted: [String: [Wanted]] = [:]
    for (spec, members, waiting) in looks {
      let memory = pools[spec.name] ?? Memory()
      let observed = PoolObservation(
        instances: members.map { observe($0, isRegistered: known.contains($0.entry.record.id)) },
        waiting: scene.mutation == .queueIsNotSeen ? 0 : waiting,
        history: scene.mutation == .backoffIsIgnored ? RestartHistory() : memory.history, restarts: memory.restarts,
        memory: memory.scaling)

      let decision = Reconciler.decide(
        spec: changed(spec), observed: observed, launchBudget: Swift.max(0, scene.totalLaunches - launching()),
        now: scene.now)
      pools[spec.name, default: Memory()].scaling = decision.memory
      if let again = decision.lookAgainAt { lookAgainAt = Swift.min(lookAgainAt ?? again, again) }
      checkFloor(decision, observed, spec)
      checkQueue(decision, observed, spec, waiting: waiting)
      for action in decision.actions {
        switch action {
        case .launch(let restart, _): wanted[spec.name, default: []].append(Wanted(restart: restart))
        case .replace(let id, let reason):
          guard try await mark(id, reason) else { continue }
          wanted[spec.name, default: []].append(Wanted(replaces: id))
          if scene.mutation == .successorsAreNotAwaited {
            checkSuccessor(id, observed, spec)
            try await drain(id, reason)
          }
        case .recycle(let id, let reason):
          checkSuccessor(id, observed, spec)
          if try await mark(id, reason) { try await drain(id, reason) }
        case .drain(let id, let reason): try await drain(id, reason)
        case .stop(let id, let reason):
          noteStop(of: id)
          if scene.mutation != .nothingIsStopped { end(id, reason: reason) }
        case .remove(let id, let reason): end(id, reason: reason)
        }
      }
    }
    var turns = LaunchTurns(
      wanted.map { LaunchTurns.Pool(name: $0, wanted: $1.count, running: launching($0)) },
      budget: Swift.max(0, scene.totalLaunches - launching()))
    while let pool = turns.next() {
      guard let spec = scene.spec(of: pool), let next = wanted[pool]?.removeFirst() else { break }
      if !launch(spec, restart: next.restart, replacing: next.replaces) { turns.refuse(pool) }
    }
  }

  private func drain(_ id: String, _ reason: String) async throws {
    guard entries[id]?.apply(.drain, reason: reason) == true else { return }
    entries[id]?.drainingSince = scene.now
    scene.tell("\(process.name) drains \(id): \(reason)")
    try await save(id)
  }

  /// Puts on record that an instance is to be replaced; false when it has gone.
  private func mark(_ id: String, _ reason: String) async throws -> Bool {
    guard let entry = entries[id] else { return false }
    guard entry.recycling == nil else { return true }
    entries[id]?.record.labels[Self.recyclingLabel] = reason
    entries[id]?.isUnsaved = true
    scene.tell("\(process.name) will replace \(id): \(reason)")
    try await save(id)
    return entries[id]?.token == entry.token
  }

  /// A worn instance goes when its successor is there, unless the pool may have one less.
  private func checkSuccessor(_ id: String, _ observed: PoolObservation, _ spec: PoolSpec) {
    guard spec.recycling.maxUnavailable == 0 else { return }
    let hasSuccessor = observed.instances.contains { $0.replaces == id && $0.state == .ready && $0.exited == nil }
    if !hasSuccessor { scene.problem("\(id) drains as it is worn, and no successor of it is ready") }
  }

  /// What an instance's end says of its pool: it has done what was asked of it, or died of something.
  private func noteStop(of id: String) {
    guard let entry = entries[id], !entry.busy, let spec = scene.spec(of: entry.record.pool) else { return }
    let startedAt = entry.record.startedAt
    if entry.record.state == .draining, entry.health.failures == 0 {
      pools[spec.name]?.history.proved(startedAt: startedAt)
    } else if entry.record.state == .unhealthy, entry.order == nil,
      scene.now - startedAt < spec.restart.stableAfterMilliseconds
    {
      pools[spec.name, default: Memory()].history.failed(.death, now: scene.now)
    }
  }

  /// The pool as a mutation sees it.
  private func changed(_ spec: PoolSpec) -> PoolSpec {
    var spec = spec
    switch scene.mutation {
    case .maxIsIgnored: spec.max = 1_000
    case .maxIsOffByOne: spec.max += 1
    case .spareIsIgnored: spec.spare = 0
    case .minIsIgnored: spec.min = 0
    case .scaleDownFlaps:
      spec.spare += 1
      if scene.chance(50) { spec.spare -= 1 }
      spec.scaling.downAfterMilliseconds = 0
    default: break
    }
    return spec
  }

  /// What is spared or drained for the pool's size leaves its minimum.
  private func checkFloor(_ decision: Decision, _ observed: PoolObservation, _ spec: PoolSpec) {
    let spared = decision.actions.compactMap {
      if case .drain(let id, "more instances are idle than needed") = $0 { id } else { nil }
    }
    guard !spared.isEmpty else { return }
    let usable = observed.instances.count {
      ($0.state == .ready || $0.state == .starting) && $0.exited == nil && $0.order == nil
    }
    if usable - spared.count < spec.min { scene.problem("\(spared) are drained of \(usable), and min is \(spec.min)") }
  }

  /// Nobody waits for nothing: as long as it may, a pool starts something for clients that have neither a free slot nor one
  /// that is coming.
  private func checkQueue(_ decision: Decision, _ observed: PoolObservation, _ spec: PoolSpec, waiting: Int) {
    guard spec.slots > 0, observed.history.failures == 0, launching() < scene.totalLaunches else { return }
    let free = observed.instances.reduce(0) { $0 + ($1.freeSlots ?? 0) }
    let coming = observed.instances.count { $0.state == .starting } * spec.slots
    guard waiting > free + coming, observed.instances.count < spec.max else { return }
    if !decision.actions.contains(where: { $0.instance == nil }) {
      scene.problem("\(waiting) wait for \(free) free slots and \(coming) to come, and nothing is started for them")
    }
  }

  private func observe(_ look: Look, isRegistered: Bool) -> ObservedInstance {
    var entry = look.entry
    let now = entries[entry.record.id]
    if now?.token == entry.token, now?.record == entry.record, isRegistered, entry.isSettled, now?.isSettled == true {
      entry = now ?? entry
    } else {
      entry.busy = true
    }
    var observed = ObservedInstance(
      id: entry.record.id, state: entry.record.state, generation: entry.record.generation,
      startedAt: entry.record.startedAt, leases: look.leases, freeSlots: look.freeSlots,
      exited: entry.exited ?? entry.lost, failures: entry.health.failures, order: entry.order,
      busy: !entry.isSettled)
    observed.recycling = entry.recycling
    observed.replaces = entry.record.labels[Self.replacesLabel]
    observed.drainingSince = entry.drainingSince
    observed.replicasUsing = look.replicasUsing
    guard let counters = look.counters else { return observed }
    let requests = counters.numbers["requests"] ?? 0
    if now?.token == entry.token { entries[entry.record.id]?.rate.look(requests, now: scene.now) }
    observed.wear = Wear(
      requests: requests, requestsPerSecond: entries[entry.record.id]?.rate.perSecond ?? 0,
      sessions: counters.numbers["sessions"] ?? 0)
    observed.active = counters.active(generation: entry.record.generation)
    return observed
  }

  func launching(_ pool: String? = nil) -> Int {
    entries.values.count { $0.record.state == .starting && $0.busy && (pool == nil || $0.record.pool == pool) }
  }

  // MARK: Memory

  func insert(_ record: InstanceRecord) -> Int {
    nextToken += 1
    entries[record.id] = Entry(token: nextToken, record: record, lifecycle: InstanceLifecycle(record.state))
    if record.state == .draining { entries[record.id]?.drainingSince = scene.now }
    return nextToken
  }

  func entry(_ id: String, _ token: Int) -> Entry? { entries[id].flatMap { $0.token == token ? $0 : nil } }

  func forget(_ id: String, _ token: Int) { if entries[id]?.token == token { entries[id] = nil } }

  func save(_ id: String) async throws {
    guard let entry = entries[id], !entry.isSaving else { return }
    entries[id]?.isSaving = true
    while let entry = entries[id], entry.isUnsaved {
      guard let fence = current else { break }
      entries[id]?.isUnsaved = false
      do {
        try await guarded(
          { registry.put(instance: entry.record, reason: entry.reason, fence: $0, now: scene.now) }, as: fence)
      } catch let error where !(error is Died) {
        if entries[id]?.token == entry.token { entries[id]?.isUnsaved = true }
        break
      }
    }
    if entries[id]?.token == entry.token { entries[id]?.isSaving = false }
  }

  func watch(_ id: String) {
    guard let entry = entries[id], let container = entry.container else { return }
    let token = entry.token
    scene.runtime.whenEnded(container) { [weak self] in
      guard let self else { return }
      self.scene.spawn {
        try await self.scene.sleep(self.scene.draw(0...40), self.process)
        self.exited(id, token)
      }
    }
  }

  private func exited(_ id: String, _ token: Int) {
    guard let entry = entry(id, token), !entry.busy else { return }
    entries[id]?.exited = "its container ended"
    if let spec = scene.spec(of: entry.record.pool) {
      pools[spec.name, default: Memory()].history.exited(
        startedAt: entry.record.startedAt, clean: false, now: scene.now, by: spec.restart)
    }
  }

  // MARK: Launching

  private func launch(_ spec: PoolSpec, restart: Restart?, replacing old: String?) -> Bool {
    let starting = entries.values.count { $0.record.state == .starting }
    if starting >= scene.hostLaunches, scene.mutation != .launchesAreNotCounted { return false }
    if starting + 1 > scene.hostLaunches {
      scene.problem("\(starting + 1) start at once on a host for \(scene.hostLaunches)")
    }
    let memory = pools[spec.name] ?? Memory()
    let delay =
      memory.failures == 0
      ? 0
      : Swift.min(
        spec.restart.initialMilliseconds << Swift.min(memory.failures - 1, 20), spec.restart.maximumMilliseconds)
    if scene.now < memory.failedAt + delay {
      scene.problem("\(spec.name) launches \(scene.now - memory.failedAt) ms after \(memory.failures) failures")
    }
    let id = restart?.id ?? scene.name(spec.name)
    if let restart { pools[spec.name]?.restarts.removeAll { $0 == restart } }
    let token = insert(
      InstanceRecord(
        id: id, pool: spec.name, host: "127.0.0.1", port: 0, generation: restart?.generation ?? 1, state: .starting,
        slots: spec.slots, startedAt: scene.now, labels: old.map { [Self.replacesLabel: $0] } ?? [:]))
    entries[id]?.busy = true
    entries[id]?.launchBegan = scene.now
    launches += 1
    scene.tell("\(process.name) launches \(id)\(old.map { " for \($0)" } ?? "")")
    scene.spawn { try await self.performLaunch(id, token, spec) }
    return true
  }

  private enum Outcome { case ready, failed, portTaken, notOurs }

  private func performLaunch(_ id: String, _ token: Int, _ spec: PoolSpec) async throws {
    for _ in 0..<4 {
      guard entry(id, token) != nil else { return }
      let port: Int
      do {
        guard let free = try await run(ports.allocate(owner: id, now: scene.now)) else {
          try await giveUp(id, token, spec)
          return
        }
        port = free
      } catch let error where !(error is Died) {
        forget(id, token)
        return
      }
      if scene.runtime.hasPort(port) {
        try await quarantine(port, of: id)
        continue
      }
      switch try await attempt(id, token, spec, port: port) {
      case .ready, .notOurs: return
      case .failed:
        try await giveUp(id, token, spec)
        return
      case .portTaken:
        _ = try await scene.runtime.stop(instance: id, by: process)
        try await quarantine(port, of: id)
        entries[id]?.record.labels[Self.containerLabel] = nil
        entries[id]?.record.port = 0
      }
    }
    try await giveUp(id, token, spec)
  }

  private func quarantine(_ port: Int, of id: String) async throws {
    do {
      _ = try await run(ports.quarantine(port: port, owner: id, until: scene.now + 2_000, now: scene.now))
    } catch let error where !(error is Died) {}
  }

  private func attempt(_ id: String, _ token: Int, _ spec: PoolSpec, port: Int) async throws -> Outcome {
    guard entry(id, token) != nil else { return .notOurs }
    entries[id]?.record.port = port
    entries[id]?.isUnsaved = true
    try await save(id)
    guard let saved = entry(id, token) else { return .notOurs }
    guard !saved.isUnsaved else {
      forget(id, token)
      return .notOurs
    }
    let container: Int
    do {
      container = try await scene.runtime.launch(
        instance: id, pool: spec.name, port: port, generation: saved.record.generation, by: process)
    } catch let failure as SimulatedRuntime.Failure {
      return failure == .portTaken ? .portTaken : .failed
    }
    guard entry(id, token) != nil else { return .notOurs }
    entries[id]?.record.labels[Self.containerLabel] = String(container)
    entries[id]?.record.startedAt = scene.now
    entries[id]?.isUnsaved = true
    try await save(id)
    return try await proof(id, token, spec)
  }

  private func proof(_ id: String, _ token: Int, _ spec: PoolSpec) async throws -> Outcome {
    guard let entry = entry(id, token), let container = entry.container else { return .notOurs }
    do {
      try await scene.runtime.awaitReady(container, milliseconds: spec.launchTimeoutMilliseconds, by: process)
    } catch is SimulatedRuntime.Failure {
      return self.entry(id, token) == nil ? .notOurs : .failed
    }
    guard self.entry(id, token) != nil, entries[id]?.apply(.answered, reason: "") == true else { return .notOurs }
    if let began = entry.launchBegan { pools[spec.name, default: Memory()].scaling.launches.took(scene.now - began) }
    entries[id]?.busy = false
    entries[id]?.nextCheck = scene.now + spec.health.intervalMilliseconds
    pools[spec.name, default: Memory()].history.succeeded()
    pools[spec.name, default: Memory()].failures = 0
    watch(id)
    try await save(id)
    scene.rings += 1
    return .ready
  }

  private func giveUp(_ id: String, _ token: Int, _ spec: PoolSpec) async throws {
    guard entry(id, token) != nil else { return }
    scene.tell("\(process.name) gives up the launch of \(id)")
    pools[spec.name, default: Memory()].history.failed(now: scene.now)
    pools[spec.name, default: Memory()].failures += 1
    pools[spec.name, default: Memory()].failedAt = scene.now
    guard try await announceStop(id, token, reason: "its launch failed"), let record = entry(id, token)?.record else {
      return
    }
    try await finish(record, token, reason: "its launch failed")
  }

  // MARK: Ending

  private func end(_ id: String, reason: String) {
    guard let entry = entries[id], !entry.busy else { return }
    entries[id]?.busy = true
    scene.tell("\(process.name) ends \(id): \(reason)")
    scene.spawn {
      guard try await self.announceStop(id, entry.token, reason: reason), let record = self.entries[id]?.record else {
        return
      }
      if entry.exited == nil, entry.lost == nil { try await self.waitUntilUnused(entry, stopping: record) }
      try await self.finish(record, entry.token, reason: reason)
    }
  }

  /// Waits until every replica has let go of an instance without slots; see Supervisor+Recycle.swift.
  private func waitUntilUnused(_ entry: Entry, stopping record: InstanceRecord) async throws {
    guard let spec = scene.spec(of: record.pool), spec.slots == 0, entry.record.state != .starting,
      entry.record.state != .stopping
    else { return }
    let timeout = spec.recycling.drain.timeoutMilliseconds
    let drained = scene.now - (entry.drainingSince ?? scene.now)
    let cuts = entry.order?.force == true || entry.record.state != .draining || (timeout > 0 && drained >= timeout)
    let deadline = scene.now + Self.silenceMilliseconds + 1_000
    var asked: Set<String>?
    while scene.now < deadline, scene.mutation != .replicasAreNotAsked {
      do {
        let known = try await run(Replicas(keys: keys).list()).map(\.id)
        guard let counters = try await run(Traffic(keys: keys).counters(of: [record.id])).first else { return }
        asked = Set(known)
        if Self.using(record, counters, among: known, ignoringActive: cuts) == 0 { break }
      } catch is Away { return }
      try await scene.sleep(100, process)
    }
    guard !cuts, scene.now < deadline, entry.record.state == .draining else { return }
    for replica in scene.replicas where replica.process.isAlive && replica.underway(record) > 0 {
      guard asked?.contains(replica.process.name) ?? isListed(replica) else { continue }
      scene.problem("\(record.id) is stopped under \(replica.underway(record)) requests of \(replica.process.name)")
    }
  }

  /// Redis knows it: one that was forgotten is nobody that could be asked.
  private func isListed(_ replica: SimulatedReplica) -> Bool {
    scene.wire.peek(["ZSCORE", keys.replicas, replica.process.name]) != .null
  }

  private func announceStop(_ id: String, _ token: Int, reason: String) async throws -> Bool {
    guard let before = entry(id, token) else { return false }
    let isOff = (before.removalBegan || before.record.port == 0) && scene.mutation != .unfinishedAreRestored
    if entries[id]?.apply(.stop, reason: reason) != true { entries[id]?.isUnsaved = true }
    if isOff {
      // It may be off the record by now and must not come back, or it has never been on it.
      entries[id]?.isUnsaved = false
      return true
    }
    try await save(id)
    while entry(id, token)?.isSaving == true { try await scene.sleep(5, process) }
    guard let entry = entry(id, token) else { return false }
    guard entry.isUnsaved else { return true }
    entries[id]?.busy = false
    return false
  }

  private func finish(_ record: InstanceRecord, _ token: Int, reason: String) async throws {
    let id = record.id
    if scene.mutation == .portIsFreeTooEarly, record.port > 0 {
      _ = try? await run(ports.release(port: record.port, owner: id, now: scene.now))
    }
    let isGone = try await scene.runtime.stop(instance: id, by: process)
    guard let entry = entry(id, token) else { return }
    guard isGone, let fence = current else {
      if isGone { entries[id]?.lost = reason }
      entries[id]?.busy = false
      return
    }
    // What is being written of it must not come after its removal.
    while self.entry(id, token)?.isSaving == true { try await scene.sleep(5, process) }
    entries[id]?.isSaving = true
    do {
      try await guarded({ registry.remove(instance: id, reason: reason, fence: $0, now: scene.now) }, as: fence)
      if record.port > 0, scene.mutation != .portIsKept {
        _ = try await run(ports.release(port: record.port, owner: id, now: scene.now))
      }
      if entry.order != nil { _ = scene.orders.removeValue(forKey: id) }
    } catch let error where !(error is Died) {
      if self.entry(id, token) != nil {
        entries[id]?.lost = reason
        entries[id]?.removalBegan = true
        entries[id]?.isSaving = false
        entries[id]?.busy = false
      }
      return
    }
    if entry.order?.kind == .restart {
      pools[record.pool, default: Memory()].restarts.append(Restart(id: id, generation: record.generation + 1))
    }
    forget(id, token)
    scene.rings += 1
  }

  // MARK: A new term

  private func takeOver(_ fence: Fence) async throws {
    try await run(ports.configure(range: scene.ports, now: scene.now))
    try await guarded(
      { registry.declare(pools: scene.pools.map(\.record), routes: [], fence: $0, now: scene.now) }, as: fence)
    let records = try await run(registry.instances())
    let survey = scene.runtime.living
    if anotherLeads { entries = entries.filter { $0.value.busy } }
    for record in records where entries[record.id] == nil { adopt(record) }
    for id in entries.keys.sorted() where !records.contains(where: { $0.id == id }) { restore(id) }
    for container in survey where entries[container.instance] == nil && scene.mutation != .orphansAreKept {
      try await scene.runtime.remove(container.number, by: process)
    }
    for id in entries.keys.sorted() {
      guard let port = entries[id]?.record.port, port > 0 else { continue }
      if try await !run(ports.adopt(port: port, owner: id, now: scene.now)) {
        scene.tell("the port \(port) of \(id) belongs to another")
      }
    }
    scene.tell("\(process.name) took over \(entries.keys.sorted())")
  }

  private func adopt(_ record: InstanceRecord) {
    var record = record
    if record.labels[Self.containerLabel] == nil, let running = scene.runtime.living(instance: record.id),
      running.port == record.port
    {
      record.labels[Self.containerLabel] = String(running.number)
    }
    let token = insert(record)
    entries[record.id]?.isUnsaved = true
    guard scene.runtime.isAlive(entries[record.id]?.container) else {
      entries[record.id]?.lost = "it ended while nobody led"
      return
    }
    watch(record.id)
    guard record.state == .starting, let spec = scene.spec(of: record.pool) else { return }
    entries[record.id]?.busy = true
    let id = record.id
    scene.spawn {
      if try await self.proof(id, token, spec) == .failed { try await self.giveUp(id, token, spec) }
    }
  }

  private func restore(_ id: String) {
    guard let entry = entries[id] else { return }
    guard entry.record.port > 0, entry.lost == nil || scene.mutation == .unfinishedAreRestored else { return }
    entries[id]?.isUnsaved = true
  }

  private func agree(_ fence: Fence) async throws {
    let before = entries
    let known = try await registered()
    for id in before.keys.sorted()
    where !known.contains(id) && before[id]?.isSettled == true && entries[id]?.isSettled == true {
      // Its end was begun and not finished, or its launch before it had a port: what is left of it goes too.
      if let entry = entries[id], entry.lost != nil || entry.record.port == 0,
        scene.mutation != .unfinishedAreRestored
      {
        end(id, reason: entry.lost ?? "its launch was given up")
      } else {
        restore(id)
      }
    }
    for id in known.subtracting(before.keys).sorted() where entries[id] == nil {
      try await guarded(
        { registry.remove(instance: id, reason: "it is gone", fence: $0, now: scene.now) }, as: fence)
    }
  }

  // MARK: Upkeep

  private func keepUp() async throws {
    for entry in entries.values where entry.record.state == .ready {
      guard let spec = scene.spec(of: entry.record.pool) else { continue }
      pools[spec.name]?.history.lives(startedAt: entry.record.startedAt, now: scene.now, by: spec.restart)
    }
    for spec in scene.pools where spec.slots > 0 && scene.mutation != .sessionsDoNotExpire {
      _ = try await run(leases.endExpired(pool: spec.name, now: scene.now, limit: 100))
    }
    let replicas = Replicas(keys: keys)
    let gap = Swift.min(scene.now - lastLook, 1_500)
    lastLook = scene.now
    var next: [String: (beat: Int, silent: Int)] = [:]
    for replica in try await run(replicas.list()) {
      let silent = beats[replica.id].flatMap { $0.beat == replica.lastBeat ? $0.silent + gap : nil } ?? 0
      next[replica.id] = (replica.lastBeat, silent)
    }
    beats = next
    for (id, beat) in next.sorted(by: { $0.key < $1.key })
    where beat.silent >= Self.silenceMilliseconds && scene.mutation != .deadReplicasAreKept {
      _ = try await run(replicas.forget(id: id, ifSilentSince: beat.beat, now: scene.now))
    }
    for (id, order) in scene.orders {
      if entries[id] == nil { scene.orders[id] = nil } else { entries[id]?.order = order }
    }
    checkHealth()
    guard scene.now >= nextUpkeep else { return }
    nextUpkeep = scene.now + 2_000
    if scene.mutation != .portIsKept {
      _ = try await run(
        ports.reclaim(keeping: entries.keys.sorted(), olderThan: scene.now - 4_000, now: scene.now))
    }
    for container in scene.runtime.living where scene.mutation != .orphansAreKept {
      guard let held = current, held == fence, termDone == term else { return }
      let entry = entries[container.instance]
      if let entry, entry.busy || entry.container == container.number { continue }
      scene.tell("container \(container.number) of \(container.instance) is nobody's")
      try await scene.runtime.remove(container.number, by: process)
    }
  }

  private func checkHealth() {
    for id in entries.keys.sorted() {
      guard let entry = entries[id], !entry.busy, entry.exited == nil, entry.nextCheck <= scene.now,
        let spec = scene.spec(of: entry.record.pool)
      else { continue }
      entries[id]?.nextCheck = scene.now + spec.health.intervalMilliseconds
      let isWell = scene.runtime.isWell(entry.container)
      let finding = entries[id]?.health.checked(
        isWell ? .well(upTo: .http) : .ill(at: .http), by: spec.health, isUnhealthy: entry.record.state == .unhealthy)
      guard let finding else { continue }
      let event: InstanceLifecycle.Event = finding == .failed ? .failed : .recovered
      guard entries[id]?.apply(event, reason: isWell ? "it answers again" : "it hangs") == true else { continue }
      scene.tell("\(id) \(event)")
      scene.spawn { try await self.save(id) }
    }
  }
}
