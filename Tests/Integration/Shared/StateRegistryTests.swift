// What replicas route by, against a real Redis: the snapshot, the changes after it, and how a reader notices that it has
// missed some.
import JSON
import Redis
import Routing
import State
import TestSupport
import Testing

@Suite struct StateRegistryTests {
  private let chrome = World.pool()
  private let web = World.pool("web", slots: 0)
  private let root = RouteRecord(id: "root", pool: "chrome")
  private let site = RouteRecord(id: "site", host: "example.com", path: "/a", pool: "web", strategy: .random)

  private func changes(_ world: World, after: String, limit: Int = 1_000) throws -> [Change] {
    guard case .changes(let changes) = try world.connection.run(world.registry.changes(after: after, limit: limit))
    else {
      throw FixtureError("changes after \(after) are lost")
    }
    return changes
  }

  private func words(_ changes: [Change]) -> [String] {
    changes.map { "\($0.json == nil ? "-" : "+")\($0.kind) \($0.id)" }
  }

  @Test func onlyDifferencesAreAnnounced() throws {
    let world = try World(pools: [])
    try world.declare([chrome, web], routes: [root, site])
    #expect(try words(changes(world, after: "0-0")) == ["+pool chrome", "+pool web", "+route root", "+route site"])
    var last = try #require(try changes(world, after: "0-0").last)
    #expect(last.json == site.json)

    try world.declare([chrome, web], routes: [root, site])
    #expect(try changes(world, after: last.streamID).isEmpty)

    var moved = site
    moved.path = "/b"
    try world.declare([web], routes: [moved])
    #expect(try words(changes(world, after: last.streamID)) == ["-pool chrome", "+route site", "-route root"])
    last = try #require(try changes(world, after: last.streamID).last)

    // An instance too is announced when it changes, and once.
    let instance = world.instance("w-1", pool: "web")
    for _ in 0..<2 { try world.put(instance) }
    for _ in 0..<2 { try world.remove("w-1") }
    #expect(try words(changes(world, after: last.streamID)) == ["+instance w-1", "-instance w-1"])
  }

  @Test func declaredKeysComeAndGoWithTheConfigurationAndOthersStay() throws {
    let world = try World(pools: [])
    let digest = String(repeating: "ab", count: 32)
    func key(_ id: String, declared: Bool) -> KeyRecord {
      var key = KeyRecord(id: id, sha256: digest, scopes: [.session])
      key.isDeclared = declared
      return key
    }
    let apiKeys = APIKeys(keys: world.keys)
    func declare(_ ids: String...) throws {
      try world.connection.run(apiKeys.declare(ids.map { key($0, declared: true) }, fence: world.fence, now: world.now))
    }
    try declare("ops", "ci")
    #expect(try world.connection.run(apiKeys.create(key("laptop", declared: false), now: world.now)) == .created)
    #expect(try world.connection.run(apiKeys.create(key("ci", declared: false), now: world.now)) == .exists)
    try declare("ops")
    #expect(try world.connection.run(apiKeys.all()).map(\.id) == ["laptop", "ops"])
    #expect(try world.connection.run(world.registry.snapshot()).apiKeys.map(\.id).sorted() == ["laptop", "ops"])
    #expect(try words(changes(world, after: "0-0")) == ["+key ops", "+key ci", "+key laptop", "-key ci"])
    #expect(try world.connection.run(apiKeys.remove("laptop", now: world.now)))
    #expect(try !world.connection.run(apiKeys.remove("laptop", now: world.now)))
    // Another leader's word counts, not this one's.
    #expect(throws: RedisError.self) {
      try world.connection.run(
        apiKeys.declare([], fence: Fence(token: 99, id: "other"), now: world.now))
    }
    #expect(try world.connection.run(apiKeys.all()).map(\.id) == ["ops"])
  }

  @Test func keysThatHaveEndedMakeRoom() throws {
    let world = try World(pools: [])
    let apiKeys = APIKeys(keys: world.keys)
    func key(_ id: String, declared: Bool = false, expiresAt: Int?) -> KeyRecord {
      var key = KeyRecord(id: id, sha256: String(repeating: "ab", count: 32), scopes: [.session])
      key.isDeclared = declared
      key.expiresAt = expiresAt
      return key
    }
    try world.connection.run(
      apiKeys.declare([key("ops", declared: true, expiresAt: world.now + 10)], fence: world.fence, now: world.now))
    #expect(
      try world.connection.run(apiKeys.create(key("job", expiresAt: world.now + 10), now: world.now)) == .created)
    #expect(
      try world.connection.run(apiKeys.create(key("long", expiresAt: world.now + 11), now: world.now)) == .created)
    world.now += 10
    #expect(try world.connection.run(apiKeys.create(key("job", expiresAt: nil), now: world.now)) == .created)
    #expect(try world.connection.run(apiKeys.create(key("other", expiresAt: nil), now: world.now)) == .created)
    // The configuration's keys are the configuration's.
    let all = try world.connection.run(apiKeys.all())
    #expect(all.map(\.id) == ["job", "long", "ops", "other"] && all[0].expiresAt == nil)
    world.now += 1
    #expect(try world.connection.run(apiKeys.create(key("last", expiresAt: nil), now: world.now)) == .created)
    #expect(try world.connection.run(apiKeys.all()).map(\.id) == ["job", "last", "ops", "other"])
  }

  @Test func aSnapshotAndTheChangesAfterItAreTheWhole() throws {
    let world = try World(pools: [chrome, web])
    try world.declare([chrome, web], routes: [root, site])
    let first = world.instance("c-1")
    try world.put(first)
    let session = try #require(try world.acquire("s-1", holder: "r-1").session)
    let snapshot = try world.connection.run(world.registry.snapshot())
    #expect(Set(snapshot.pools.map(\.name)) == ["chrome", "web"])
    #expect(snapshot.pools.first { $0.name == "chrome" } == chrome)
    #expect(snapshot.routes.sorted { $0.id < $1.id } == [root, site])
    #expect(snapshot.instances == [first])
    #expect(snapshot.sessions == [session])
    #expect(snapshot.invalid == [])
    #expect(try changes(world, after: snapshot.streamID).isEmpty)

    try world.put(world.instance("c-2", state: .starting))
    try world.detach("s-1", holder: "r-1")
    #expect(try words(changes(world, after: snapshot.streamID)) == ["+instance c-2", "-session s-1"])
    #expect(try words(changes(world, after: snapshot.streamID, limit: 1)) == ["+instance c-2"])
    // XREAD sees the same.
    let entries = try world.connection.readStream(
      key: world.keys.changes, after: snapshot.streamID, count: 10, blockMilliseconds: 1_000)
    #expect(try Change.list(entries ?? []) == changes(world, after: snapshot.streamID))
  }

  @Test func instancesComeBackAsTheyWerePut() throws {
    let world = try World()
    var plain = InstanceRecord(id: "plain", pool: "chrome", host: "::1", port: 1, slots: 1)
    plain.state = .draining
    let full = world.instance("full \"ü\"/x")
    try world.put(plain)
    try world.put(full)
    #expect(try world.connection.run(world.registry.instances()).sorted { $0.id < $1.id } == [full, plain])
  }

  @Test func recordsThatCannotBeReadAreNamedAndLeftOut() throws {
    let world = try World()
    try world.put(world.instance("c-1"))
    _ = try world.acquire("s-1")
    try world.redis.command(
      "HSET", world.keys.instances, "newer", #"{"pool":"chrome","host":"h","port":1,"colour":"red"}"#)
    try world.redis.command("HSET", world.keys.pools, "broken", "{")
    let snapshot = try world.connection.run(world.registry.snapshot())
    #expect(snapshot.instances.map(\.id) == ["c-1"])
    #expect(snapshot.pools.map(\.name) == ["chrome"])
    #expect(snapshot.invalid.count == 2)
    #expect(snapshot.invalid.contains { $0.contains("newer") && $0.contains("colour") })
    #expect(snapshot.invalid.contains { $0.contains("broken") && $0.contains("not JSON") })
    #expect(try world.connection.run(world.registry.instances()).map(\.id) == ["c-1"])
    // Nor do they keep the others from working.
    #expect(try world.end("s-1"))
    #expect(try world.acquire("s-2").isGranted)
  }

  @Test func anInstanceThatChangesItsPoolTakesItsSlotsAlong() throws {
    let world = try World(pools: [chrome, World.pool("other")])
    try world.put(world.instance("c-1"))
    try world.put(world.instance("c-1", pool: "other"))
    #expect(try world.figures("chrome").freeSlots == [:])
    #expect(try world.figures("other").freeSlots == ["c-1": 1])
  }

  // MARK: Missing some

  @Test func aReaderThatFellBehindTheTrimIsTold() throws {
    let world = try World()
    let snapshot = try world.connection.run(world.registry.snapshot())
    try world.put(world.instance("c-1"))
    try world.put(world.instance("c-1", state: .draining))
    #expect(try changes(world, after: snapshot.streamID).count == 2)
    try world.redis.command("XTRIM", world.keys.changes, "MAXLEN", "1")
    #expect(try world.connection.run(world.registry.changes(after: snapshot.streamID, limit: 10)) == .lost)
    #expect(try world.connection.run(world.registry.changes(after: "0-0", limit: 10)) == .lost)
    let fresh = try world.connection.run(world.registry.snapshot())
    #expect(try changes(world, after: fresh.streamID).isEmpty)
  }

  @Test func theStreamOfChangesIsTrimmed() throws {
    let world = try World()
    let fill = "for i = 1, 12000 do redis.call('XADD', KEYS[1], '*', 'type', 'route', 'id', i, 'json', '') end"
    try world.redis.command("EVAL", fill, "1", world.keys.changes)
    try world.put(world.instance("c-1"))
    let length = try world.redis.command("XLEN", world.keys.changes).int(of: "XLEN")
    // The stream is trimmed by whole nodes of 100 entries.
    #expect((10_000...10_200).contains(length))
    #expect(try world.connection.run(world.registry.changes(after: "0-0", limit: 10)) == .lost)
  }

  @Test func aReaderOfARedisThatLostItsDataIsTold() throws {
    let world = try World()
    let snapshot = try world.connection.run(world.registry.snapshot())
    try world.redis.flush()
    // Nothing there yet.
    #expect(try world.connection.run(world.registry.changes(after: snapshot.streamID, limit: 10)) == .lost)
    #expect(try changes(world, after: "0-0").isEmpty)
    let empty = try world.connection.run(world.registry.snapshot())
    #expect(empty.streamID == "0-0")
    // Somebody has begun anew: the ids are later, and the reader knows nothing of what is not there any more.
    let fence = try #require(try world.connection.run(world.leadership.campaign(id: "c", ttlMilliseconds: 60_000)))
    try world.connection.run(world.registry.declare(pools: [web], routes: [], fence: fence, now: world.now))
    #expect(try world.connection.run(world.registry.changes(after: snapshot.streamID, limit: 10)) == .lost)
    #expect(try words(changes(world, after: empty.streamID)) == ["+pool web"])
    // A reader from the future, e.g. of a Redis whose clock was ahead.
    #expect(try world.connection.run(world.registry.changes(after: "9999999999999-0", limit: 10)) == .lost)
  }
}

@Suite struct StateLeadershipTests {
  @Test func oneLeadsAndKeepsItsFence() throws {
    let world = try World()
    func campaign(_ id: String) throws -> Fence? {
      try world.connection.run(world.leadership.campaign(id: id, ttlMilliseconds: 60_000))
    }
    #expect(try campaign("control-1") == world.fence)
    #expect(try campaign("control-2") == nil)
    #expect(try world.connection.run(world.leadership.current()) == Leader(id: "control-1", token: 1))
    #expect(
      try world.connection.run(world.leadership.renew(id: "control-1", fence: world.fence, ttlMilliseconds: 60_000)))
    let other = Fence(token: 1, id: "control-2")
    #expect(try !world.connection.run(world.leadership.renew(id: "control-2", fence: other, ttlMilliseconds: 60_000)))
    try world.connection.run(world.leadership.resign(id: "control-2", fence: other))
    #expect(try world.connection.run(world.leadership.current())?.id == "control-1")

    try world.connection.run(world.leadership.resign(id: "control-1", fence: world.fence))
    #expect(try world.connection.run(world.leadership.current()) == nil)
    #expect(
      try !world.connection.run(world.leadership.renew(id: "control-1", fence: world.fence, ttlMilliseconds: 60_000)))
    #expect(try campaign("with:colon") == Fence(token: 2, id: "with:colon"))
    #expect(try campaign("with:colon") == Fence(token: 2, id: "with:colon"))
    #expect(try world.connection.run(world.leadership.current()) == Leader(id: "with:colon", token: 2))
  }

  @Test func aLeaseEndsByItselfAndARenewalKeepsIt() throws {
    let world = try World()
    func life() throws -> Int { try world.redis.command("PTTL", world.keys.leader).int(of: "PTTL") }
    #expect(
      try world.connection.run(world.leadership.renew(id: "control-1", fence: world.fence, ttlMilliseconds: 90_000_000))
    )
    #expect(try life() > 80_000_000)
    #expect(try world.connection.run(world.leadership.campaign(id: "control-1", ttlMilliseconds: 20)) == world.fence)
    try waitUntil("the standby leads") {
      try world.connection.run(world.leadership.campaign(id: "control-2", ttlMilliseconds: 60_000)) != nil
    }
    #expect(try world.connection.run(world.leadership.current()) == Leader(id: "control-2", token: 2))
  }

  @Test func whoDoesNotLeadWritesNothing() throws {
    let world = try World()
    try world.put(world.instance("c-1"))
    func refused(_ fence: Fence) throws {
      let before = try (
        world.redis.command("HGETALL", world.keys.instances), world.redis.command("XLEN", world.keys.changes)
      )
      for command in [
        world.registry.declare(pools: [], routes: [], fence: fence, now: world.now),
        world.registry.put(instance: world.instance("c-2"), fence: fence, now: world.now),
        world.registry.remove(instance: "c-1", reason: "no", fence: fence, now: world.now),
      ] {
        let error = failure { () throws(RedisError) in try world.connection.run(command) }
        #expect(error?.isFenced == true, "\(String(describing: error))")
        #expect(error?.description.contains("leads now, not \(fence.token):\(fence.id); nothing was written") == true)
      }
      let after = try (
        world.redis.command("HGETALL", world.keys.instances), world.redis.command("XLEN", world.keys.changes)
      )
      #expect(before == after)
      #expect(try world.connection.run(world.registry.snapshot()).pools.count == 1)
    }
    try refused(Fence(token: 1, id: "control-2"))
    try refused(Fence(token: 0, id: "control-1"))
    // Nobody leads.
    try world.connection.run(world.leadership.resign(id: "control-1", fence: world.fence))
    try refused(world.fence)
    // Another leads.
    _ = try world.connection.run(world.leadership.campaign(id: "control-2", ttlMilliseconds: 60_000))
    try refused(world.fence)
  }

  @Test func aRedisThatCountsTokensFromOneAgainDoesNotLetTheOldLeaderIn() throws {
    let world = try World()
    try world.redis.flush()
    let second = try world.connection.run(world.leadership.campaign(id: "control-2", ttlMilliseconds: 60_000))
    #expect(second?.token == world.fence.token)
    let error = failure { () throws(RedisError) in
      try world.connection.run(world.registry.put(instance: world.instance("c-1"), fence: world.fence, now: world.now))
    }
    #expect(error?.isFenced == true)
  }
}
