// What the leader does regularly: ends of sessions whose time is over, replicas that have fallen silent,
// ports that nobody owns, and figures of processes.
import Domain
import Logging
import Posix
import Redis
import Routing
import Runtimes
import State

/// When what was done last, on the monotonic clock, and what was seen of replicas and foreign instances.
struct Upkeep: Sendable {
  /// A replica that has not beaten for so long has died; measured between beats as this leader saw them come, so that
  /// neither clocks that differ nor a Redis that was away make a living replica look dead.
  static let silenceMilliseconds = 4_000
  static let portsMilliseconds = 5_000
  static let figuresMilliseconds = 5_000
  static let foreignMilliseconds = 2_000
  static let straysMilliseconds = 5_000

  /// Two looks that lie further apart count as this: what happened in between (a Redis that hung, a host that slept)
  /// kept replicas from beating too.
  private static let longestGapMilliseconds = 1_500
  /// After Redis was away replicas first tell which sessions moved bytes, then idle ones are ended.
  private static let settlingMilliseconds = 3_000

  private struct Beat {
    var value: Int
    var silentMilliseconds: Int
  }
  private var last: [String: ContinuousClock.Instant] = [:]
  private var beats: [String: Beat] = [:]
  private var lastLook = ContinuousClock.now
  private var settlesAt = ContinuousClock.now
  var foreignFailures: [String: Int] = [:]
  /// The replicas that there were when all was well; they are waited for when Redis has lost its data.
  var replicas: Set<String> = []
  /// How often in a row a standby found something on its host that no record names.
  var strayLooks: [String: Int] = [:]
  var meter = LoadMeter(memoryBytes: Host.memoryBytes)

  /// Whether something is to be done again; true at most once in that time.
  mutating func isDue(_ what: String, every milliseconds: Int) -> Bool {
    let now = ContinuousClock.now
    if let last = last[what], now - last < .milliseconds(milliseconds) { return false }
    last[what] = now
    return true
  }

  mutating func foreignCheckIsDue(_ id: String) -> Bool { isDue("foreign " + id, every: Self.foreignMilliseconds) }

  /// Nobody could beat or touch: all silences begin anew.
  mutating func redisWasAway() {
    beats = [:]
    settlesAt = .now + .milliseconds(Self.settlingMilliseconds)
  }

  /// Whether what Redis says of idle sessions can be believed.
  var isSettled: Bool { ContinuousClock.now >= settlesAt }

  /// The replicas that are silent for too long.
  mutating func silent(_ list: [ReplicaBeat]) -> [ReplicaBeat] {
    let now = ContinuousClock.now
    let gap = min((now - lastLook).milliseconds, Self.longestGapMilliseconds)
    lastLook = now
    var next: [String: Beat] = [:]
    for replica in list {
      let known = beats[replica.id].flatMap { $0.value == replica.lastBeat ? $0 : nil }
      next[replica.id] = Beat(
        value: replica.lastBeat, silentMilliseconds: known.map { $0.silentMilliseconds + gap } ?? 0)
    }
    beats = next
    return list.filter { (next[$0.id]?.silentMilliseconds ?? 0) >= Self.silenceMilliseconds }
  }
}

extension Supervisor {
  /// Expired sessions of one pool that one look ends.
  private static let expiredLimit = 100
  /// An allocation younger than this may belong to a launch that this leader does not see yet.
  private static let reclaimMilliseconds = 10_000

  func keepUp(_ term: Term) async throws(RedisError) {
    for spec in configuration.pools where spec.slots > 0 && upkeep.isSettled {
      let ended = try await redis.run(
        leases.endExpired(pool: spec.name, now: Clock.unixMilliseconds, limit: Self.expiredLimit))
      // A session's id opens it, so logs have only its beginning.
      for session in ended {
        logger.info("session over", metadata: ["session": "\(session.prefix(8))", "pool": "\(spec.name)"])
      }
      if ended.count == Self.expiredLimit { bell.ring() }
    }
    let beats = try await redis.run(replicas.list())
    if !gate.isWaiting { upkeep.replicas = Set(beats.map(\.id)) }
    for replica in upkeep.silent(beats) {
      let sessions = try await redis.run(
        replicas.forget(id: replica.id, ifSilentSince: replica.lastBeat, now: Clock.unixMilliseconds))
      logger.warning("replica is silent", metadata: ["replica": "\(replica.id)", "sessions": "\(sessions.count)"])
      await record("replica.lost", replica.id, reason: "no heartbeat", fields: ["sessions": String(sessions.count)])
    }
    if upkeep.isDue("ports", every: Upkeep.portsMilliseconds) {
      try await reclaimPorts(term, olderThan: Clock.unixMilliseconds - Self.reclaimMilliseconds)
    }
    if upkeep.isDue("strays", every: Upkeep.straysMilliseconds) { removeStrays() }
    if upkeep.isDue("figures", every: Upkeep.figuresMilliseconds) { measure() }
  }

  /// Frees the ports of owners that nobody knows, as a launch leaves one that is cut off before its record is written.
  func reclaimPorts(_ term: Term, olderThan: Int) async throws(RedisError) {
    for host in portHosts {
      guard let ports = ports(of: host, term.fence) else { continue }
      let freed = try await redis.run(
        ports.reclaim(keeping: instances.keys.sorted(), olderThan: olderThan, now: Clock.unixMilliseconds))
      for lease in freed {
        logger.notice("port reclaimed", metadata: ["port": "\(lease.port)", "owner": "\(lease.owner)"])
        await record("port.reclaimed", String(lease.port), reason: "its owner \(lease.owner) is gone")
      }
    }
  }

  private func measure() {
    let records = instances.values.filter { !$0.busy }.map(\.record)
    Task { [runtime] in
      let figures = records.isEmpty ? [:] : await runtime.figures(of: records)
      await self.publishLoads(of: figures, at: Clock.monotonicMilliseconds)
      for (id, figures) in figures {
        // Figures of this moment; the next ones come soon.
        _ = try? await self.redis.run(self.facts.keep(figures, of: id, now: Clock.unixMilliseconds))
      }
    }
  }

  /// Tells replicas how busy instances are, for routes that go by it.
  private func publishLoads(of figures: [String: ProcessFigures], at now: Int) async {
    guard let loads = upkeep.meter.loads(of: figures, at: now) else { return }
    _ = try? await redis.run(Balancing(keys: keys).put(loads: loads))
  }
}
