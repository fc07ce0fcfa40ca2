// The end of things against a real Redis: what is recorded, what is left in the keyspace (nothing), and what comes
// back after Redis has lost its data.
import Redis
import Routing
import State
import TestSupport
import Testing

@Suite struct StateEndTests {
  @Test func nothingOfSessionsWaitersAndInstancesIsLeftBehind() throws {
    let world = try World(pools: [World.pool(slots: 4, recycleAfterSessions: 100, grace: 1_000)])
    #expect(try world.remains() == [])
    try world.put(world.instance("c-1"))
    #expect(try world.remains() == ["berth:instances (hash)", "berth:pool:chrome:slots (zset)"])
    _ = try world.acquire("ended", holder: "r-1")
    _ = try world.acquire("detached", holder: "r-1")
    _ = try world.acquire("reserved", reserve: 1_000)
    _ = try world.acquire("removed", origin: .rest)
    #expect(try world.acquire("waits", queue: true) == .queued(position: 1))
    try world.connection.run(world.targets.remember(target: "t-1", session: "ended", ttlMilliseconds: 600_000))
    try world.connection.run(world.targets.remember(target: "t-2", session: "removed", ttlMilliseconds: 600_000))
    try world.connection.run(
      world.replicas.beat(id: "r-1", figures: ["clients": "2"], touched: ["ended"], now: world.now))
    #expect(
      try world.remains() == [
        "berth:counters:c-1 (hash)", "berth:instance:c-1:sessions (zset)", "berth:instances (hash)",
        "berth:lease:detached (hash)", "berth:lease:ended (hash)", "berth:lease:ended:targets (set)",
        "berth:lease:removed (hash)", "berth:lease:removed:targets (set)", "berth:lease:reserved (hash)",
        "berth:pool:chrome:leases (zset)", "berth:pool:chrome:slots (zset)", "berth:pool:chrome:waiting (zset)",
        "berth:pool:chrome:waiting-expiry (zset)", "berth:replica:r-1 (hash)", "berth:replica:r-1:sessions (set)",
        "berth:replicas (zset)", "berth:sessions (zset)", "berth:target:t-1 (string)", "berth:target:t-2 (string)",
        "session:detached (string)", "session:ended (string)", "session:removed (string)", "session:reserved (string)",
      ])

    _ = try world.end("ended")
    try world.detach("detached", holder: "r-1")
    world.now += 1_000
    #expect(try world.endExpired() == ["detached": "grace ran out", "reserved": "reservation ran out"])
    try world.connection.run(world.leases.cancelWaiting(session: "waits", pool: "chrome"))
    try world.connection.run(world.targets.remember(target: "t-3", session: "ended", ttlMilliseconds: 600_000))
    try world.remove("c-1")
    try world.remove("c-1")
    #expect(try world.connection.run(world.replicas.forget(id: "r-1", now: world.now)) == [])
    #expect(try world.remains() == [])
  }

  @Test func aPoolThatIsNotDeclaredAnyMoreLeavesNoQueue() throws {
    let world = try World()
    _ = try world.acquire("waits", queue: true)
    try world.declare([])
    #expect(try world.remains() == [])
    #expect(try world.acquire("waits", queue: true) == .unknown)
  }

  @Test func aRemovedInstanceEndsItsSessionsAndSaysWhy() throws {
    let world = try World()
    try world.put(world.instance("c-1"))
    _ = try world.acquire("s-1", holder: "r-1")
    try world.remove("c-1", reason: "process exited with 133")
    #expect(try world.view("s-1") == nil)
    let events = try world.connection.run(world.events.recent(count: 3))
    #expect(events.map(\.type) == ["instance.removed", "session.ended", "session.created"])
    #expect(events.map(\.reason) == ["process exited with 133", "process exited with 133", "connection"])
    #expect(events.map(\.id) == ["c-1", "s-1", "s-1"])
    #expect(events[1].fields == ["pool": "chrome", "instance": "c-1"])
    #expect(events[1].at == world.now)
  }

  @Test func aStateWithAReasonIsRecordedOnce() throws {
    let world = try World()
    try world.put(world.instance("c-1", state: .starting), reason: "one spare is wanted")
    try world.put(world.instance("c-1"), reason: "answers /json/version")
    try world.put(world.instance("c-1"), reason: "answers /json/version")
    try world.put(world.instance("c-1", port: 50_001), reason: "only the port changed")
    try world.put(world.instance("c-1", state: .draining))
    let events = try world.connection.run(world.events.recent(count: 10))
    #expect(events.map(\.type) == ["instance.ready", "instance.starting"])
    #expect(events.map(\.reason) == ["answers /json/version", "one spare is wanted"])
  }

  @Test func eventsOfOthersAreAppendedAndRead() throws {
    let world = try World()
    try world.connection.run(
      world.events.append(
        type: "port.conflict", id: "c-9", reason: "in use", fields: ["port": "50001"], now: world.now))
    let event = try #require(try world.connection.run(world.events.recent(count: 1)).first)
    #expect(event.type == "port.conflict")
    #expect(event.reason == "in use")
    #expect(event.fields == ["port": "50001"])
    #expect(event.at == world.now)
  }

  @Test func targetsLeadToTheirSessionWhileItLives() throws {
    let world = try World(pools: [World.pool(slots: 2)])
    try world.put(world.instance("c-1"))
    _ = try world.acquire("s-1", holder: "r-1")
    _ = try world.acquire("s-2", holder: "r-1")
    func session(_ target: String) throws -> String? { try world.connection.run(world.targets.session(of: target)) }
    for (target, session) in [("t-1", "s-1"), ("t-1", "s-1"), ("moved", "s-1"), ("moved", "s-2"), ("nobody's", "s-9")] {
      try world.connection.run(world.targets.remember(target: target, session: session, ttlMilliseconds: 60_000))
    }
    #expect(try session("t-1") == "s-1")
    #expect(try session("moved") == "s-2")
    #expect(try session("nobody's") == nil)
    _ = try world.end("s-1")
    #expect(try session("t-1") == nil)
    #expect(try session("moved") == "s-2")
    try world.connection.run(world.targets.remember(target: "short", session: "s-2", ttlMilliseconds: 1))
    try waitUntil("the target's time to live is over") { try session("short") == nil }
  }

  // MARK: After a loss of data

  @Test func aLiveSessionIsRestoredBeforeItsInstanceIsRegisteredAgain() throws {
    let world = try World(pools: [World.pool(recycleAfterSessions: 1)])
    try world.put(world.instance("c-1"))
    let record = try #require(try world.acquire("s-1", holder: "r-1").session)
    try world.redis.flush()
    let restored = try world.connection.run(world.leases.restore(record, holder: "r-1", now: world.now))
    #expect(restored == .granted(record))
    #expect(try world.connection.run(world.leases.restore(record, holder: "r-1", now: world.now)) == .granted(record))

    let fence = try #require(
      try world.connection.run(world.leadership.campaign(id: "control-2", ttlMilliseconds: 60_000)))
    try world.connection.run(
      world.registry.declare(pools: [World.pool(recycleAfterSessions: 1)], routes: [], fence: fence, now: world.now))
    try world.connection.run(world.registry.put(instance: world.instance("c-1"), fence: fence, now: world.now))
    // Its slot is not free, and its use is not forgotten.
    #expect(try world.acquire("s-2") == .busy)
    try world.detach("s-1", holder: "r-1")
    #expect(try world.figures() == PoolFigures(freeSlots: [:], leases: 0, waiting: 0, oldestWaiting: nil))
  }

  @Test func aSessionIsNotRestoredOnASlotThatOthersHave() throws {
    let world = try World()
    try world.put(world.instance("c-1"))
    let lost = try #require(try world.acquire("lost", holder: "r-1").session)
    try world.redis.flush()
    let fence = try #require(
      try world.connection.run(world.leadership.campaign(id: "control-2", ttlMilliseconds: 60_000)))
    try world.connection.run(
      world.registry.declare(pools: [World.pool()], routes: [], fence: fence, now: world.now))
    try world.connection.run(world.registry.put(instance: world.instance("c-1"), fence: fence, now: world.now))
    _ = try world.acquire("other", holder: "r-2")
    #expect(try world.connection.run(world.leases.restore(lost, holder: "r-1", now: world.now)) == .busy)
    world.now = lost.expiresAt
    #expect(try world.connection.run(world.leases.restore(lost, holder: "r-1", now: world.now)) == .unknown)
  }

  @Test func otherPrefixesKeepDeploymentsApart() throws {
    let world = try World(prefix: "{other}:")
    try world.put(world.instance("c-1"))
    _ = try world.acquire("over", holder: "r-1")
    _ = try world.end("over")
    try world.connection.run(
      world.leases.acquire(
        world.session("s-1", metadata: ["who": "me"]), holder: "r-1", reserveMilliseconds: nil, queue: false,
        now: world.now))
    _ = try world.acquire("s-2", queue: true)
    try world.connection.run(
      Idempotency(keys: world.keys).claim("k-1", request: [], owner: "s-1", now: world.now))
    try world.connection.run(world.targets.remember(target: "t-1", session: "s-1", ttlMilliseconds: 60_000))
    try world.connection.run(world.replicas.beat(id: "r-1", figures: [:], touched: [], now: world.now))
    let keyspace = try world.redis.keyspace()
    #expect(keyspace.allSatisfy { $0.hasPrefix("{other}:") }, "\(keyspace)")
    // What the scripts name is what Keys names.
    let keys = world.keys
    for key in [
      keys.session("s-1"), keys.lease(session: "s-1"), keys.leaseTargets(session: "s-1"), keys.target("t-1"),
      keys.slots(pool: "chrome"), keys.leases(pool: "chrome"), keys.waiting(pool: "chrome"),
      keys.waitingExpiry(pool: "chrome"), keys.instanceSessions(instance: "c-1"), keys.counters(instance: "c-1"),
      keys.replica("r-1"), keys.replicaSessions("r-1"), keys.replicas, keys.sessions, keys.instances, keys.changes,
      keys.events, keys.pools, keys.leader, keys.leaderToken, keys.leaderLast, keys.ended, keys.metadata("who=me"),
      keys.leaseMetadata(session: "s-1"), keys.idempotency("k-1"), keys.idempotencyKeys,
    ] {
      #expect(keyspace.contains { $0.hasPrefix("\(key) (") }, "\(key)")
    }
    #expect(keyspace.count == 26, "\(keyspace)")
  }
}
