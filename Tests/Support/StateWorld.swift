// What the tests of State share: a real Redis, a leader, pools and instances, and a clock that the test moves.
package import Redis
package import Routing
package import State

/// One deployment in a Redis of its own. `now` only moves when a test says so.
package final class World {
  package let redis: RedisFixture
  package let connection: RedisConnection
  package let keys: Keys
  package let leadership: Leadership
  package let registry: Registry
  package let leases: Leases
  package let replicas: Replicas
  package let targets: Targets
  package let events: Events
  package let fence: Fence
  package var now = 1_700_000_000_000
  package private(set) var pools: [String: PoolRecord] = [:]

  package init(prefix: String = "berth:", pools: [PoolRecord] = [World.pool()]) throws {
    redis = try RedisFixture()
    connection = try redis.connect()
    keys = Keys(prefix: prefix)
    leadership = Leadership(keys: keys)
    registry = Registry(keys: keys)
    leases = Leases(keys: keys)
    replicas = Replicas(keys: keys)
    targets = Targets(keys: keys)
    events = Events(keys: keys)
    guard let fence = try connection.run(leadership.campaign(id: "control-1", ttlMilliseconds: 600_000)) else {
      throw FixtureError("nobody else leads, and yet there is no fence")
    }
    self.fence = fence
    try declare(pools)
  }

  /// An exclusive Chrome pool without limits of uses, if not said otherwise.
  package static func pool(
    _ name: String = "chrome", slots: Int = 1, recycleAfterSessions: Int = 0, idle: Int = 0, grace: Int = 0,
    queueLimit: Int = 1_000
  ) -> PoolRecord {
    PoolRecord(
      name: name, kind: .cdp, slots: slots, recycleAfterSessions: recycleAfterSessions, graceMilliseconds: grace,
      idleLimitMilliseconds: idle, queueLimit: queueLimit)
  }

  package func declare(_ pools: [PoolRecord], routes: [RouteRecord] = []) throws {
    try connection.run(registry.declare(pools: pools, routes: routes, fence: fence, now: now))
    self.pools = [:]
    for pool in pools { self.pools[pool.name] = pool }
  }

  package func instance(
    _ id: String, pool: String = "chrome", state: InstanceState = .ready, generation: Int = 1, port: Int = 50_000
  ) -> InstanceRecord {
    InstanceRecord(
      id: id, pool: pool, host: "127.0.0.1", port: port, generation: generation, state: state,
      slots: pools[pool]?.slots ?? 1, startedAt: now, browser: "guid-\(id)", pid: 4_711, pidStart: 99,
      labels: ["a/b": "c"])
  }

  package func put(_ instance: InstanceRecord, reason: String? = nil) throws {
    try connection.run(registry.put(instance: instance, reason: reason, fence: fence, now: now))
  }

  package func remove(_ instance: String, reason: String = "test") throws {
    try connection.run(registry.remove(instance: instance, reason: reason, fence: fence, now: now))
  }

  /// The template of a session with its pool's limits.
  package func session(
    _ id: String, pool: String = "chrome", origin: SessionRecord.Origin = .connection, grace: Int? = nil,
    metadata: [String: String] = [:]
  ) -> SessionRecord {
    let limits = pools[pool] ?? World.pool(pool)
    return SessionRecord(
      id: id, pool: pool, origin: origin, url: "http://127.0.0.1:8080/session/\(id)/", createdAt: now,
      expiresAt: now + limits.hardLimitMilliseconds, idleLimitMilliseconds: limits.idleLimitMilliseconds,
      graceMilliseconds: grace ?? (origin == .connection ? limits.graceMilliseconds : nil), metadata: metadata)
  }

  package func acquire(
    _ id: String, pool: String = "chrome", origin: SessionRecord.Origin = .connection, instance: String? = nil,
    holder: String? = nil, reserve: Int? = nil, queue: Bool = false, countsAsUse: Bool = false
  ) throws -> Grant {
    try connection.run(
      leases.acquire(
        session(id, pool: pool, origin: origin), instance: instance, holder: holder, reserveMilliseconds: reserve,
        queue: queue, countsAsUse: countsAsUse, now: now))
  }

  package func attach(_ id: String, holder: String) throws -> Grant {
    try connection.run(leases.attach(session: id, holder: holder, now: now))
  }

  package func detach(_ id: String, holder: String) throws {
    try connection.run(leases.detach(session: id, holder: holder, now: now))
  }

  package func end(_ id: String, reason: String = "client") throws -> Bool {
    try connection.run(leases.end(session: id, reason: reason, now: now))
  }

  package func claim(_ instance: String, as id: String, holder: String, pool: String = "chrome") throws -> Grant {
    try connection.run(leases.claim(instance: instance, session: session(id, pool: pool), holder: holder, now: now))
  }

  package func view(_ id: String) throws -> SessionView? { try connection.run(leases.get(session: id)) }

  package func figures(_ pool: String = "chrome") throws -> PoolFigures {
    try connection.run(leases.figures(pool: pool, now: now))
  }

  /// Session ids whose leases were ended, with the recorded reasons.
  package func endExpired(_ pool: String = "chrome") throws -> [String: String] {
    let ended = try connection.run(leases.endExpired(pool: pool, now: now, limit: 100))
    var reasons: [String: String] = [:]
    for event in try connection.run(events.recent(count: 100)) where event.type == "session.ended" {
      if ended.contains(event.id), reasons[event.id] == nil { reasons[event.id] = event.reason }
    }
    return reasons
  }

  /// The keyspace without what lives as long as the deployment.
  package func remains() throws -> [String] {
    let lasting = [
      keys.changes, keys.events, keys.ended, keys.leader, keys.leaderToken, keys.leaderLast, keys.pools, keys.routes,
    ]
    return try redis.keyspace().filter { key in !lasting.contains { key.hasPrefix("\($0) (") } }
  }
}

extension Grant {
  package var session: SessionRecord? { if case .granted(let session) = self { session } else { nil } }
  package var isGranted: Bool { session != nil }
}
