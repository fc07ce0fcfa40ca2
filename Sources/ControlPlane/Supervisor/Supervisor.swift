// The leader's work: looks at what is there, asks the reconciler what to do, and does it. An actor with one loop; what
// takes time (launches, stops, checks) runs in tasks that come back to it. The other files of this room:
// +TakeOver (a new term), +Launch and +Stop (an instance's birth and end), +Health (checks), +Crashes (launches that fail),
// +Upkeep (leases, replicas, ports).
package import Domain
package import Logging
import Posix
import Reconciler
package import Redis
package import Routing
package import Runtimes
import State

/// What a supervisor needs to know; from the settings, without those that are not its business.
package struct SupervisorConfiguration: Sendable {
  package var pools: [PoolSpec]
  package var routes: [RouteRecord]
  /// The API keys of the configuration.
  package var apiKeys: DeclaredKeys
  package var portRange: ClosedRange<Int>
  /// Names this host in Redis keys.
  package var host: String
  /// Where replicas reach instances of this host.
  package var address = "127.0.0.1"
  /// Launches of processes at once: what this host can bear.
  package var concurrentLaunches: Int
  /// Launches of all kinds on all hosts at once.
  package var totalLaunches = 8
  package var drainMilliseconds: Int

  package init(
    pools: [PoolSpec], routes: [RouteRecord], apiKeys: DeclaredKeys = DeclaredKeys(),
    portRange: ClosedRange<Int>, host: String, concurrentLaunches: Int = 2, drainMilliseconds: Int = 5_000
  ) {
    self.pools = pools
    self.routes = routes
    self.apiKeys = apiKeys
    self.portRange = portRange
    self.host = host
    self.concurrentLaunches = concurrentLaunches
    self.drainMilliseconds = drainMilliseconds
  }
}

package actor Supervisor {
  /// The longest time between two looks when nothing rings.
  private static let tickMilliseconds = 1_000
  /// The shortest, so that a storm of rings costs one look for many of them.
  private static let pauseMilliseconds = 5

  let configuration: SupervisorConfiguration
  let keys: Keys
  let redis: RedisClient
  let runtime: any Runtime
  let lease: LeaderLease
  let bell: WakeBell
  let logger: Logger
  let registry: Registry
  let leases: Leases
  let replicas: Replicas
  let events: Events
  let orders: Orders
  let facts: InstanceFacts
  let reports: Reports
  let troubles: Troubles
  let metrics: ControlMetrics

  var instances: [String: Managed] = [:]
  var pools: [String: PoolMemory] = [:]
  var nextToken = 0
  /// The term whose takeover is done.
  var termNumber: Int?
  var upkeep = Upkeep()
  var gate = GateKeeper()
  private var lookAgainAt: Int?
  private(set) var isStopping = false
  private var trouble: String?
  /// The last event that was counted; nil when none was in this term.
  var eventPosition: String?
  /// Which of the keys file's contents the replicas have been told of in this term.
  var declaredKeys = 0

  package init(
    configuration: SupervisorConfiguration, keys: Keys, redis: RedisClient, runtime: any Runtime, lease: LeaderLease,
    bell: WakeBell, logger: Logger, metrics: ControlMetrics = ControlMetrics(pools: [])
  ) {
    self.configuration = configuration
    self.keys = keys
    self.redis = redis
    self.runtime = runtime
    self.lease = lease
    self.bell = bell
    self.logger = logger
    self.metrics = metrics
    registry = Registry(keys: keys)
    leases = Leases(keys: keys)
    replicas = Replicas(keys: keys)
    events = Events(keys: keys)
    orders = Orders(keys: keys)
    facts = InstanceFacts(keys: keys)
    reports = Reports(keys: keys)
    troubles = Troubles(keys: keys)
  }

  func spec(of pool: String) -> PoolSpec? { configuration.pools.first { $0.name == pool } }

  /// Looks and acts until ``stop(instances:)`` or cancellation.
  package func run() async {
    let checks = Task { await runChecks() }
    defer { checks.cancel() }
    while !isStopping && !Task.isCancelled {
      let seen = bell.rings
      await look()
      try? await Task.sleep(for: .milliseconds(Self.pauseMilliseconds))
      await bell.wait(after: seen, milliseconds: waitMilliseconds)
    }
  }

  private var waitMilliseconds: Int {
    guard let lookAgainAt else { return Self.tickMilliseconds }
    return max(1, min(Self.tickMilliseconds, lookAgainAt - Clock.unixMilliseconds))
  }

  /// One look at everything, and what follows from it.
  private func look() async {
    lookAgainAt = nil
    let began = Clock.monotonicMicroseconds
    guard let term = await lease.current else {
      upkeep.redisWasAway()
      standBy()
      if await lease.anotherLeads {
        abandon()
        await removeOwnStrays()
      }
      return
    }
    do throws(RedisError) {
      // The lease is renewed every second; a Redis that was emptied a moment ago would still be believed otherwise.
      let look = try await redis.run(Leadership(keys: keys).look())
      guard look.leader == Leader(id: term.fence.id, token: term.fence.token) else {
        upkeep.redisWasAway()
        standBy()
        return
      }
      if look.gate != .open || gate.isAnother(look.redis), !gate.isWaiting(in: look.redis) {
        // This is not the Redis that was there, or not with all its data: everything is made sure of anew.
        termNumber = nil
        try await redis.run(Leadership(keys: keys).shutGate(fence: term.fence))
        gate.shut(in: look.redis, knowing: upkeep.replicas)
      }
      if termNumber != term.number {
        try await takeOver(term)
        termNumber = term.number
        await lease.tookOver()
        metrics.count { $0.terms += 1 }
      }
      try await declareKeys(term)
      try await agreeWithRegistry(term)
      gate.isOpen(in: look.redis)
      try await openGate(term, look)
      await saveAll()
      try await readOrders(term)
      try await readReports()
      try await reconcile(term)
      try await tellTroubles(term.fence)
      try await keepUp(term)
      try await countSessions()
      metrics.count { $0.looked(forMicroseconds: Clock.monotonicMicroseconds - began) }
      if trouble != nil {
        trouble = nil
        logger.notice("the supervisor works again")
      }
    } catch {
      upkeep.redisWasAway()
      metrics.count { $0.failedLooks += 1 }
      if trouble == nil { logger.warning("the supervisor waits", metadata: ["error": "\(error)"]) }
      trouble = error.description
    }
  }

  /// Another one leads: what this one knew is of no use any more. Launches and stops that run come back to nothing.
  private func abandon() {
    guard !instances.isEmpty || termNumber != nil else { return }
    logger.info("instances are left to the new leader", metadata: ["instances": "\(instances.count)"])
    instances = [:]
    pools = [:]
    termNumber = nil
    upkeep = Upkeep()
    gate = GateKeeper()
  }

  // MARK: Reconciling

  /// An instance as it was before Redis was asked about it, and what Redis said.
  private struct Look {
    let entry: Managed
    let leases: Int
    let freeSlots: Int?
    let use: InstanceUse?
  }

  private func reconcile(_ term: Term) async throws(RedisError) {
    let names = Set(configuration.pools.map(\.name)).union(instances.values.map(\.record.pool))
    let requests = try await readLaunchRequests()
    var looks: [String: ([Look], waiting: Int)] = [:]
    for name in names { looks[name] = try await look(at: name) }
    // Asked last: when Redis still has an instance now, it had not lost its data when it was asked about its slots. An
    // instance of a Redis that is suddenly empty looks like one that has served all its sessions.
    let registered = Set(try await redis.run(facts.registered()))

    var launches: [String: [WantedLaunch]] = [:]
    for name in names.sorted() {
      guard let (looks, waiting) = looks[name] else { continue }
      let declared = spec(of: name)
      if let declared { noteSurvivors(of: declared, now: Clock.unixMilliseconds) }
      let observed = looks.map { observe($0, isRegistered: registered.contains($0.entry.record.id)) }
      let isTailored = Set(looks.map(\.entry.record).filter { $0.session != nil }.map(\.id))
      let spec = await tailor(
        declared, requests[name] ?? [], observed: observed.filter { isTailored.contains($0.id) },
        others: observed.count - isTailored.count)
      let memory = pools[name] ?? PoolMemory()
      let decision = Reconciler.decide(
        spec: spec,
        observed: PoolObservation(
          instances: observed.filter { !isTailored.contains($0.id) },
          // While nobody gets a slot, who waits is no sign that there are too few.
          waiting: gate.isWaiting ? 0 : waiting, history: memory.history, restarts: memory.restarts,
          memory: memory.scaling),
        launchBudget: launchBudget, now: Clock.unixMilliseconds)
      pools[name, default: PoolMemory()].scaling = decision.memory
      if let again = decision.lookAgainAt { lookAgainAt = min(lookAgainAt ?? again, again) }
      for action in decision.actions {
        switch action {
        case .launch(let restart, let reason):
          launches[name, default: []].append(WantedLaunch(restart: restart, reason: reason))
        case .replace(let id, let reason):
          if let launch = await replacement(of: id, reason: reason) { launches[name, default: []].append(launch) }
        default: await perform(action)
        }
      }
      if let declared { await tellWhetherFull(decision, spec: declared, waiting: waiting) }
    }
    if !isStopping { launchInTurn(launches) }
    var standings: [String: PoolStanding] = [:]
    for (name, (looks, waiting)) in looks {
      standings[name] = standing(
        of: name, leases: looks.reduce(0) { $0 + $1.leases }, freeSlots: looks.reduce(0) { $0 + ($1.freeSlots ?? 0) },
        waiting: waiting,
        active: looks.compactMap { $0.use?.counters.active(generation: $0.entry.record.generation) })
    }
    tell(standings, token: term.fence.token)
  }

  private func look(at pool: String) async throws(RedisError) -> ([Look], waiting: Int) {
    // The states first: an instance that becomes ready during the questions below must not be taken for one that was
    // ready and has lost its slots.
    let members = instances.values.filter { $0.record.pool == pool }.sorted { $0.record.id < $1.record.id }
    let figures = try await redis.run(leases.figures(pool: pool, now: Clock.unixMilliseconds))
    let held = members.isEmpty ? [] : try await redis.run(facts.leases(of: members.map(\.record.id)))
    guard held.count == members.count else {
      throw .state(StateError("instances.leases: \(members.count) counts were expected, \(held.count) came"))
    }
    let uses = try await uses(of: members.map(\.record), pool: pool)
    let looks = zip(members, held).map { entry, leases in
      let id = entry.record.id
      return Look(entry: entry, leases: leases, freeSlots: figures.freeSlots[id], use: uses[id])
    }
    return (looks, figures.waiting)
  }

  private func observe(_ look: Look, isRegistered: Bool) -> ObservedInstance {
    let id = look.entry.record.id
    // Tasks came in between, or Redis was hearing of it while it was asked: then its answer is about an earlier state,
    // and what follows from the new one is judged at the next look.
    guard let entry = instances[id], entry.token == look.entry.token, entry.record == look.entry.record, isRegistered,
      look.entry.isSettled, entry.isSettled
    else {
      var changing = look.entry
      changing.busy = true
      return observe(look.use, of: changing, changing.observed(leases: look.leases, freeSlots: look.freeSlots))
    }
    let isSpent = entry.record.state == .ready && entry.record.slots > 0 && look.freeSlots == nil
    if look.leases > 0 || isSpent { instances[id]?.wasUsed = true }
    return observe(look.use, of: entry, entry.observed(leases: look.leases, freeSlots: look.freeSlots))
  }

  func perform(_ action: Action) async {
    switch action {
    case .launch, .replace: break
    case .drain(let id, let reason):
      guard instances[id]?.apply(.drain, reason: reason) == true else { return }
      logger.info("instance drains", metadata: ["instance": "\(id)", "reason": "\(reason)"])
      await save(id)
      bell.ring()
    case .recycle(let id, let reason):
      await recycle(id, reason: reason)
    case .stop(let id, let reason):
      noteStop(of: id, reason: reason)
      end(id, reason: reason)
    case .remove(let id, let reason):
      end(id, reason: reason)
    }
  }

  // MARK: Saving

  /// Writes an instance's record to Redis; when that fails it is tried again at the next look. Writes of one instance
  /// never overtake each other.
  func save(_ id: String) async {
    guard let entry = instances[id], !entry.isSaving else { return }
    instances[id]?.isSaving = true
    while let entry = instances[id], entry.isUnsaved {
      guard let fence = await lease.current?.fence else { break }
      instances[id]?.isUnsaved = false
      do throws(RedisError) {
        try await redis.run(
          registry.put(instance: entry.record, reason: entry.reason, fence: fence, now: Clock.unixMilliseconds))
      } catch {
        if instances[id]?.token == entry.token { instances[id]?.isUnsaved = true }
        logger.debug("an instance is not saved", metadata: ["instance": "\(id)", "error": "\(error)"])
        break
      }
    }
    if instances[id]?.token == entry.token { instances[id]?.isSaving = false }
  }

  private func saveAll() async {
    for id in instances.values.filter(\.isUnsaved).map(\.record.id).sorted() { await save(id) }
  }

  /// Records what happened; that this cannot be done is no reason to stop.
  func record(_ type: String, _ id: String, reason: String, fields: [String: String] = [:]) async {
    do throws(RedisError) {
      try await redis.run(
        events.append(type: type, id: id, reason: reason, fields: fields, now: Clock.unixMilliseconds))
    } catch {
      logger.debug("an event is not recorded", metadata: ["type": "\(type)", "error": "\(error)"])
    }
  }

  // MARK: The end

  /// Waits, no longer than the lease of a leader that was killed, until this control plane leads and knows what runs: what
  /// its predecessor started has to end with it. Returns at once when it has led.
  package func waitToLead() async {
    let deadline = Deadline(milliseconds: LeaderLease.ttlMilliseconds + 1_000)
    while termNumber == nil, !deadline.hasPassed {
      let seen = bell.rings
      await bell.wait(after: seen, milliseconds: 100)
    }
  }

  /// Stops looking. With `instances`, drains and ends all of them first; else they are left to the next leader. The lease
  /// is given up in any case.
  package func stop(instances endsInstances: Bool) async {
    isStopping = true
    bell.ring()
    if endsInstances { await endAll() }
    await lease.resign()
    standBy()
  }
}
