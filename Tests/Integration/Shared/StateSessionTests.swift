// What a client may ask of its session, against a real Redis on the test's clock: grace, keepalive, metadata; and that an
// ended session is not put back.
import JSON
import Redis
import Routing
import State
import TestSupport
import Testing

@Suite struct StateSessionTests {
  private func make(_ world: World, _ session: SessionRecord, holder: String? = nil) throws -> Grant {
    try world.connection.run(
      world.leases.acquire(session, holder: holder, reserveMilliseconds: nil, queue: false, now: world.now))
  }
  private func keepAlive(_ world: World, _ id: String, hard: Int? = nil) throws -> SessionView? {
    try world.connection.run(world.leases.keepAlive(session: id, hardMilliseconds: hard, now: world.now))
  }
  private func find(_ world: World, _ metadata: [String: String], offset: Int = 0, limit: Int = 100) throws -> [String]
  {
    let found = try world.connection.run(world.leases.find(metadata: metadata, offset: offset, limit: limit))
    #expect(found.isComplete)
    return found.views.map(\.record.id)
  }

  // MARK: Grace

  @Test func aSessionMayHaveAGraceOfItsOwn() throws {
    let world = try World(pools: [World.pool(slots: 3, idle: 60_000)])
    try world.put(world.instance("c-1"))
    for (id, grace) in [("none", nil), ("short", 5_000), ("zero", 0)] as [(String, Int?)] {
      _ = try make(world, world.session(id, origin: .rest, grace: grace))
      // It counts from the last socket, not from the first moment.
      #expect(try world.view(id)?.state == .idle)
      #expect(try world.view(id)?.leaseExpiry == world.now + 60_000)
      _ = try world.attach(id, holder: "r-1")
      _ = try world.attach(id, holder: "r-2")
      try world.detach(id, holder: "r-1")
      #expect(try world.view(id)?.state == .active)
      try world.detach(id, holder: "r-2")
    }
    #expect(try world.view("zero") == nil)
    #expect(try world.view("none")?.state == .idle)
    #expect(try world.view("short")?.state == .grace)
    #expect(try world.view("short")?.leaseExpiry == world.now + 5_000)

    // Back through another replica, and gone again: the grace starts anew.
    world.now += 4_999
    #expect(try world.attach("short", holder: "r-3").isGranted)
    #expect(try world.view("short")?.leaseExpiry == world.now + 60_000)
    try world.detach("short", holder: "r-3")
    world.now += 4_999
    #expect(try world.endExpired() == [:])
    world.now += 1
    #expect(try world.endExpired() == ["short": "grace ran out"])
    #expect(try world.figures().freeSlots == ["c-1": 2])
  }

  @Test func nobodyElseGetsTheSlotInTheGrace() throws {
    let world = try World()
    try world.put(world.instance("c-1"))
    _ = try make(world, world.session("s-1", origin: .rest, grace: 5_000), holder: "r-1")
    try world.detach("s-1", holder: "r-1")
    #expect(try world.acquire("s-2", holder: "r-2", queue: true) == .queued(position: 1))
    // Whoever knows the browser's address is the session's own client.
    #expect(try world.claim("c-1", as: "s-3", holder: "r-2").session?.id == "s-1")
    try world.detach("s-1", holder: "r-2")
    world.now += 4_000
    #expect(try world.acquire("s-2", holder: "r-2", queue: true) == .queued(position: 1))
    world.now += 1_000
    #expect(try world.endExpired() == ["s-1": "grace ran out"])
    #expect(try world.acquire("s-2", holder: "r-2", queue: true).isGranted)
  }

  // MARK: Keepalive

  @Test func keepAliveStartsTheIdleClockOrTheGraceAnew() throws {
    let world = try World(pools: [World.pool(slots: 4, idle: 60_000)])
    try world.put(world.instance("c-1"))
    _ = try make(world, world.session("idle", origin: .rest))
    _ = try make(world, world.session("active"), holder: "r-1")
    _ = try make(world, world.session("grace", origin: .rest, grace: 5_000), holder: "r-1")
    try world.detach("grace", holder: "r-1")
    _ = try world.acquire("reserved", reserve: 2_000)
    world.now += 1_000
    #expect(try keepAlive(world, "idle")?.leaseExpiry == world.now + 60_000)
    #expect(try keepAlive(world, "idle")?.lastAccessed == world.now)
    #expect(try keepAlive(world, "active")?.leaseExpiry == world.now + 60_000)
    #expect(try keepAlive(world, "grace")?.leaseExpiry == world.now + 5_000)
    #expect(try keepAlive(world, "grace")?.state == .grace)
    #expect(try keepAlive(world, "reserved")?.leaseExpiry == world.now + 1_000)
    #expect(try keepAlive(world, "nobody") == nil)
    // Without a time the hard limit stays.
    #expect(try keepAlive(world, "idle")?.record.expiresAt == world.now - 1_000 + 1_800_000)
  }

  @Test func theHardLimitIsProlongedUpToThePoolsMaximumAndNeverShortened() throws {
    var pool = World.pool(slots: 2)
    pool.hardLimitMilliseconds = 60_000
    pool.hardLimitMaximumMilliseconds = 100_000
    let world = try World(pools: [pool])
    try world.put(world.instance("c-1"))
    let start = world.now
    // Metadata that looks like the field which changes.
    let odd = ["expiresAt": "7", "\"expiresAt\":1": "\"expiresAt\":2", "path": "a/b \\ {}"]
    let made = try #require(try make(world, world.session("s-1", origin: .rest, metadata: odd)).session)
    world.now += 10_000
    let seen = try world.connection.run(world.registry.snapshot()).streamID

    #expect(try keepAlive(world, "s-1", hard: 1_000)?.record.expiresAt == start + 60_000)
    #expect(try keepAlive(world, "s-1", hard: 70_000)?.record.expiresAt == start + 80_000)
    #expect(try keepAlive(world, "s-1", hard: 1_000_000)?.record.expiresAt == start + 100_000)
    #expect(try keepAlive(world, "s-1", hard: 1_000_000)?.leaseExpiry == start + 100_000)
    var expected = made
    expected.expiresAt = start + 100_000
    #expect(try world.view("s-1")?.record == expected)
    // The replicas hear of it, and the list and the record live as long.
    guard case .changes(let changes) = try world.connection.run(world.registry.changes(after: seen, limit: 10)) else {
      throw FixtureError("the changes are gone")
    }
    #expect(changes.map(\.id) == ["s-1", "s-1"])
    #expect(try SessionRecord(id: "s-1", json: #require(changes.last?.json)) == expected)
    #expect(try world.connection.run(world.leases.list(offset: 0, limit: 1)).map(\.record) == [expected])
    world.now = start + 99_999
    #expect(try world.endExpired() == [:])
    world.now += 1
    #expect(try keepAlive(world, "s-1", hard: 5_000) == nil)
    #expect(try world.endExpired() == ["s-1": "hard limit"])
  }

  @Test func withoutAMaximumAShorterSessionCanBeProlongedToThePoolsLimit() throws {
    let world = try World()
    try world.put(world.instance("c-1"))
    var session = world.session("s-1", origin: .rest)
    session.expiresAt = world.now + 5_000
    _ = try make(world, session)
    #expect(try keepAlive(world, "s-1", hard: 7_000)?.record.expiresAt == world.now + 7_000)
    #expect(try keepAlive(world, "s-1", hard: 10_000_000)?.record.expiresAt == world.now + 1_800_000)
  }

  // MARK: Metadata

  @Test func sessionsAreFoundByTheirMetadata() throws {
    let world = try World(pools: [World.pool(slots: 1_000)])
    try world.put(world.instance("c-1"))
    for number in 0..<600 {
      world.now += 1
      var metadata = ["team": number.isMultiple(of: 2) ? "even" : "odd", "number": String(number)]
      if number == 7 { metadata["note"] = String(repeating: "x", count: 257) }
      _ = try make(world, world.session("s-\(number)", origin: .rest, metadata: metadata))
    }
    #expect(try find(world, ["number": "7"]) == ["s-7"])
    #expect(try find(world, ["number": "7", "team": "odd"]) == ["s-7"])
    #expect(try find(world, ["number": "7", "team": "even"]) == [])
    #expect(try find(world, ["number": "7", "team": "nobody"]) == [])
    let even = (0..<300).map { "s-\(2 * $0)" }
    #expect(try find(world, ["team": "even"], limit: 1_000) == even)
    #expect(try find(world, ["team": "even"], offset: 298) == ["s-596", "s-598"])
    #expect(try find(world, ["team": "even"], offset: 2, limit: 2) == ["s-4", "s-6"])
    _ = try world.end("s-4")
    #expect(try find(world, ["team": "even"], offset: 2, limit: 2) == ["s-6", "s-8"])
    #expect(try world.redis.keyspace().contains { $0.contains("note=") } == false, "too long to be found by")
    for number in 0..<600 { _ = try world.end("s-\(number)") }
    try world.remove("c-1")
    #expect(try world.remains() == [])
  }

  @Test func aSessionThatIsPutBackIsFoundAgain() throws {
    let world = try World()
    try world.put(world.instance("c-1"))
    let record = try #require(
      try make(world, world.session("s-1", origin: .rest, metadata: ["who": "me"])).session)
    try world.redis.flush()
    #expect(try world.connection.run(world.leases.restore(record, holder: nil, now: world.now)).isGranted)
    #expect(try find(world, ["who": "me"]) == ["s-1"])
  }

  // MARK: After a loss of data

  @Test(arguments: [true, false])
  func whatWasEndedIsNotPutBack(isKnown: Bool) throws {
    let world = try World(pools: [World.pool(slots: 2)])
    try world.put(world.instance("c-1"))
    let record = try #require(try world.acquire("s-1", holder: "r-1").session)
    // Redis is empty, and the client ends its session before, or while, the replicas put back what they know.
    try world.redis.flush()
    if isKnown { _ = try world.connection.run(world.leases.restore(record, holder: nil, now: world.now)) }
    #expect(try world.end("s-1") == isKnown)
    #expect(try world.connection.run(world.leases.restore(record, holder: "r-1", now: world.now)) == .unknown)
    #expect(try world.view("s-1") == nil)
    // It is remembered for ten minutes.
    world.now += 600_001
    _ = try world.end("another")
    #expect(try world.connection.run(world.leases.restore(record, holder: "r-1", now: world.now)).isGranted)
  }

  @Test func theMemoryOfEndedSessionsIsBounded() throws {
    let world = try World()
    for number in 0..<10_100 { _ = try world.end("s-\(number)") }
    guard case .int(let count) = try world.redis.command("ZCARD", world.keys.ended) else {
      throw FixtureError("no count")
    }
    #expect(count == 10_000)
  }
}
