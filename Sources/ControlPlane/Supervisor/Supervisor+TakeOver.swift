// The beginning of a term: what a dead leader, or this one before Redis went away, left behind is found by record, by
// file and by mark; what runs is adopted, what nobody owns is ended, and Redis is made to say what is true.
import Domain
import Logging
import Posix
import Reconciler
import Redis
import Routing
import Runtimes
import State

extension Supervisor {
  /// Replicas put back the sessions that Redis lost within this time.
  private static let restoreMilliseconds = 6_000
  /// Beyond a pool's own launch timeout, until a launch on another host counts as given up.
  private static let foreignLaunchMilliseconds = 30_000

  func takeOver(_ term: Term) async throws(RedisError) {
    let now = Clock.unixMilliseconds
    for host in portHosts {
      guard let ports = ports(of: host, term.fence), let range = portRange(of: host) else { continue }
      try await redis.run(ports.configure(range: range, now: now))
    }
    try await redis.run(
      registry.declare(
        pools: configuration.pools.map(\.record), routes: configuration.routes, fence: term.fence, now: now))
    declaredKeys = 0
    try await declareKeys(term)
    try await restoreTroubles(term.fence)
    let registered = try await redis.run(registry.instances())
    let survey = await runtime.survey()
    // After somebody else's term, what this one remembers is older than what Redis says; launches and stops that it
    // began before come back to nothing.
    if await lease.anotherLeads { instances = [:] }

    for record in registered where isOurs(record) {
      guard let entry = instances[record.id] else {
        adopt(record, survey: survey)
        continue
      }
      // Redis has an older state, of before a fail-over or of its disk.
      if entry.record != record && entry.isSettled { instances[record.id]?.isUnsaved = true }
    }
    let known = Set(registered.map(\.id))
    for id in instances.keys where !known.contains(id) { restore(id) }
    for record in survey.records where instances[record.id] == nil && isOurs(record) {
      // Only a process that runs is worth it; what is left of others is removed below.
      guard runtime.wasStarted(record), runtime.isAlive(record) else { continue }
      adopt(record, survey: survey)
      instances[record.id]?.wasUsed = true
      restore(record.id)
    }
    for id in survey.running.union(survey.directories).subtracting(instances.keys).sorted() {
      let left = await runtime.reap(orphan: id)
      logger.notice(
        "what an unknown instance left is removed", metadata: ["instance": "\(id)", "left": "\(left ?? "")"])
      await self.record("instance.reaped", id, reason: "nobody owns it")
    }
    for id in instances.keys.sorted() { try await claimPort(of: id, term) }
    gate.guards(instances.values.contains { $0.record.slots > 0 })
    logger.notice(
      "took over", metadata: ["instances": "\(instances.count)", "token": "\(term.fence.token)"])
    await self.record("leader.elected", lease.id, reason: "", fields: ["token": String(term.fence.token)])
  }

  /// Tells the replicas of the keys file, unless they know what is in it.
  func declareKeys(_ term: Term) async throws(RedisError) {
    let (records, version) = configuration.apiKeys.current
    guard version != declaredKeys else { return }
    try await redis.run(APIKeys(keys: keys).declare(records, fence: term.fence, now: Clock.unixMilliseconds))
    declaredKeys = version
  }

  /// Makes an instance's port its own in Redis. One whose port is another's by now cannot stay: it is the one that Redis
  /// was not told of last.
  private func claimPort(of id: String, _ term: Term) async throws(RedisError) {
    guard let entry = instances[id], entry.record.port > 0, let ports = ports(of: entry.record, term.fence) else {
      return
    }
    if try await redis.run(ports.adopt(port: entry.record.port, owner: id, now: Clock.unixMilliseconds)) { return }
    logger.error(
      "an instance's port belongs to another", metadata: ["instance": "\(id)", "port": "\(entry.record.port)"])
    if instances[id]?.token == entry.token { instances[id]?.lost = "its port \(entry.record.port) belongs to another" }
  }

  func isOurs(_ record: InstanceRecord) -> Bool {
    guard let host = record.labels[InstanceRecord.hostLabel] else { return true }
    return host == configuration.host || runtime.hosts.contains { $0.name == host }
  }

  /// The hosts that have ports to give away.
  var portHosts: [String] { [configuration.host] + runtime.hosts.filter { $0.portRange != nil }.map(\.name) }

  func portRange(of host: String) -> ClosedRange<Int>? {
    if let other = runtime.hosts.first(where: { $0.name == host }) { return other.portRange }
    return host == configuration.host ? configuration.portRange : nil
  }

  /// The ports of a host, also of one that another control plane looks after; nil where instances have their own.
  func ports(of host: String, _ fence: Fence) -> Ports? {
    if let other = runtime.hosts.first(where: { $0.name == host }), other.portRange == nil { return nil }
    return Ports(keys: keys, host: host, fence: fence)
  }

  func ports(of record: InstanceRecord, _ fence: Fence) -> Ports? {
    ports(of: record.labels[InstanceRecord.hostLabel] ?? configuration.host, fence)
  }

  /// Takes an instance of Redis or of a file into the memory, as alive, as half launched, or as gone.
  private func adopt(_ record: InstanceRecord, survey: Survey) {
    var record = record
    let before = record
    // The control plane died between the start of the process and telling Redis.
    if !runtime.wasStarted(record),
      let file = survey.records.first(where: { $0.id == record.id && $0.port == record.port })
    {
      record.adoptLaunched(of: file)
    }
    insert(record)
    instances[record.id]?.isUnsaved = record != before
    guard runtime.wasStarted(record), runtime.isAlive(record) else {
      instances[record.id]?.lost =
        runtime.wasStarted(record) ? "its process ended while nobody led" : "its launch was interrupted"
      return
    }
    if !runtime.isWanted(record) { instances[record.id]?.order = InstanceOrder(.stop) }
    logger.info("instance adopted", metadata: ["instance": "\(record.id)", "state": "\(record.state.rawValue)"])
    watch(record.id)
    if record.state == .starting, let spec = spec(of: record.pool) { resumeLaunch(record.id, spec: spec) }
  }

  /// Redis has lost an instance: it is written again. One that a client had may get no other one; those that replicas
  /// have sockets of come back by themselves, so it is not ended before they had time for that.
  private func restore(_ id: String) {
    guard let entry = instances[id], entry.record.port > 0, entry.lost == nil else { return }
    if entry.wasUsed, (spec(of: entry.record.pool)?.recycleAfterSessions ?? 0) > 0, entry.record.state == .ready {
      _ = instances[id]?.apply(.drain, reason: "Redis lost its sessions")
    }
    instances[id]?.isUnsaved = true
    instances[id]?.leaveAloneUntil = .now + .milliseconds(Self.restoreMilliseconds)
  }

  /// A new entry of the memory.
  func insert(_ record: InstanceRecord) {
    nextToken += 1
    instances[record.id] = Managed(
      token: nextToken, record: record, schedule: schedule(adopting: record))
  }

  /// Hears of the end of an instance's process.
  func watch(_ id: String) {
    guard let entry = instances[id], !entry.isWatched else { return }
    instances[id]?.isWatched = true
    let record = entry.record
    Task { [runtime] in
      guard var exit = await runtime.exit(of: record) else { return }
      // Before anybody removes what it left. Who ends it by intent is not interested.
      if exit.log.isEmpty, self.instances[id]?.token == entry.token, self.instances[id]?.busy == false {
        exit.log = await runtime.lastLines(of: record)
      }
      self.exited(id, token: entry.token, exit)
    }
  }

  private func exited(_ id: String, token: Int, _ exit: InstanceExit) {
    // A launch and a stop see the end of their process themselves.
    guard let entry = instances[id], entry.token == token, !entry.busy else { return }
    logger.warning("instance ended", metadata: ["instance": "\(id)", "reason": "\(exit)"])
    instances[id]?.exited = exit
    noteExit(of: entry, exit)
    bell.ring()
  }

  /// Redis may have lost single writes (it came back with data of a second ago): what it lacks is written again, what it
  /// has too much is removed, and instances of another host are removed once they do not answer.
  func agreeWithRegistry(_ term: Term) async throws(RedisError) {
    let before = instances
    let registered = Set(try await redis.run(facts.registered()))
    // One that is being ended may be out of Redis already, one that is being launched or saved not yet in it; and what
    // changed during the question was not asked about.
    for id in before.keys
    where !registered.contains(id) && before[id]?.isSettled == true && instances[id]?.isSettled == true {
      // Its end was begun and could not be finished, or its launch before it had a port: what is left of it goes too.
      if let entry = instances[id], entry.lost != nil || entry.record.port == 0 {
        end(id, reason: entry.lost ?? "its launch was given up")
        continue
      }
      logger.warning("Redis has lost an instance", metadata: ["instance": "\(id)"])
      restore(id)
      try await claimPort(of: id, term)
    }
    for id in registered.subtracting(before.keys) where instances[id] == nil {
      guard let record = try await redis.run(registry.instances()).first(where: { $0.id == id }) else { continue }
      guard !isOurs(record) else {
        logger.notice("Redis remembers an instance that is gone", metadata: ["instance": "\(id)"])
        try await redis.run(
          registry.remove(instance: id, reason: "it is gone", fence: term.fence, now: Clock.unixMilliseconds))
        continue
      }
      await checkForeign(record, term)
    }
  }

  /// An instance of a host that nobody supervises: it may serve as long as it answers.
  private func checkForeign(_ record: InstanceRecord, _ term: Term) async {
    guard upkeep.foreignCheckIsDue(record.id) else { return }
    let spec = spec(of: record.pool)
    // One that was being launched when its host's control plane lost the lead has nobody who would finish it.
    let allowed = (spec?.launchTimeoutMilliseconds ?? 0) + Self.foreignLaunchMilliseconds
    let isAbandoned = record.state == .starting && Clock.unixMilliseconds - record.startedAt > allowed
    if !isAbandoned, await runtime.answers(record, spec: spec) {
      upkeep.foreignFailures[record.id] = 0
      return
    }
    upkeep.foreignFailures[record.id, default: 0] += 1
    guard upkeep.foreignFailures[record.id, default: 0] >= 3 else { return }
    let host = record.labels[InstanceRecord.hostLabel] ?? ""
    logger.notice(
      "an instance of another host does not answer", metadata: ["instance": "\(record.id)", "host": "\(host)"])
    do throws(RedisError) {
      try await redis.run(
        registry.remove(
          instance: record.id, reason: "its host \(host) does not answer", fence: term.fence,
          now: Clock.unixMilliseconds))
      try await redis.run(
        Ports(keys: keys, host: host, fence: term.fence).release(
          port: record.port, owner: record.id, now: Clock.unixMilliseconds))
    } catch {
      logger.debug("it is not removed yet", metadata: ["instance": "\(record.id)", "error": "\(error)"])
    }
  }
}
