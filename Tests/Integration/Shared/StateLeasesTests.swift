// Sessions and slots against a real Redis: who gets one, how it is held and when it comes back. The queue and what is
// left behind are in StateQueueTests.swift and StateEndTests.swift.
import JSON
import Redis
import Routing
import State
import TestSupport
import Testing

@Suite struct StateLeasesTests {
  // MARK: Getting a slot

  @Test func anExclusiveInstanceHasOneClient() throws {
    let world = try World()
    try world.put(world.instance("c-1", port: 50_001))
    let session = try world.acquire("s-1", holder: "r-1").session
    #expect(session?.instance == "c-1")
    #expect(session?.host == "127.0.0.1")
    #expect(session?.port == 50_001)
    #expect(session?.browser == "guid-c-1")
    #expect(session?.url == "http://127.0.0.1:8080/session/s-1/")
    #expect(try world.acquire("s-2", holder: "r-1") == .busy)
    #expect(try world.figures() == PoolFigures(freeSlots: ["c-1": 0], leases: 1, waiting: 0, oldestWaiting: nil))

    #expect(try world.end("s-1"))
    #expect(try !world.end("s-1"))
    #expect(try world.acquire("s-2", holder: "r-1").session?.instance == "c-1")
  }

  @Test func unknownPoolsPoolsWithoutSessionsAndUnknownInstancesAreSaidSo() throws {
    let world = try World(pools: [World.pool(), World.pool("web", slots: 0)])
    try world.put(world.instance("c-1"))
    #expect(try world.acquire("s-1", pool: "nope") == .unknown)
    #expect(try world.acquire("s-1", pool: "web") == .unknown)
    #expect(try world.acquire("s-1", instance: "nope") == .unknown)
    #expect(try world.claim("nope", as: "s-1", holder: "r-1") == .unknown)
    #expect(try world.attach("s-1", holder: "r-1") == .unknown)
    #expect(try world.view("s-1") == nil)
  }

  @Test func aSharedInstanceHasAsManyClientsAsSlotsAndTheEmptiestIsTaken() throws {
    let world = try World(pools: [World.pool(slots: 3)])
    try world.put(world.instance("c-1"))
    try world.put(world.instance("c-2"))
    var used: [String: Int] = [:]
    for number in 1...6 {
      let instance = try world.acquire("s-\(number)", holder: "r-1").session?.instance ?? "none"
      used[instance, default: 0] += 1
      if number == 2 { #expect(used == ["c-1": 1, "c-2": 1]) }
    }
    #expect(used == ["c-1": 3, "c-2": 3])
    #expect(try world.acquire("s-7") == .busy)
    #expect(try world.figures().freeSlots == ["c-1": 0, "c-2": 0])
  }

  @Test func aSessionThatHasALeaseIsGrantedAgain() throws {
    let world = try World()
    try world.put(world.instance("c-1"))
    let first = try world.acquire("s-1", reserve: 1_000)
    world.now += 10
    #expect(first.isGranted)
    #expect(try world.acquire("s-1", reserve: 1_000) == first)
    #expect(try world.acquire("s-1", holder: "r-1") == first)
    #expect(try world.view("s-1")?.state == .active)
    #expect(try world.figures().leases == 1)
  }

  @Test func theStoredRecordIsTheDocumentedOneWithAllItsFields() throws {
    let world = try World()
    try world.put(world.instance("c-1"))
    let template = world.session("s/1 \"ü\"", origin: .rest, metadata: ["who": "me", "empty": ""])
    let granted = try world.connection.run(
      world.leases.acquire(template, holder: nil, reserveMilliseconds: nil, queue: false, now: world.now)
    ).session
    var expected = template
    expected.instance = "c-1"
    expected.host = "127.0.0.1"
    expected.port = 50_000
    expected.browser = "guid-c-1"
    #expect(granted == expected)
    #expect(try world.redis.command("GET", "session:s/1 \"ü\"").text == expected.json.text)
    // The hard limit and a minute, less what the test took.
    let lifeTime = try world.redis.command("PTTL", "session:s/1 \"ü\"").int(of: "PTTL")
    #expect((1_700_000...1_860_000).contains(lifeTime))
  }

  @Test func aSessionWhoseHardLimitIsOverIsNotMade() throws {
    let world = try World()
    try world.put(world.instance("c-1"))
    let template = world.session("too-late")
    world.now = template.expiresAt
    let grant = try world.connection.run(
      world.leases.acquire(template, holder: "r-1", reserveMilliseconds: nil, queue: true, now: world.now))
    #expect(grant == .unknown)
    let claim = try world.connection.run(
      world.leases.claim(instance: "c-1", session: template, holder: "r-1", now: world.now))
    #expect(claim == .unknown)
    #expect(try world.figures() == PoolFigures(freeSlots: ["c-1": 1], leases: 0, waiting: 0, oldestWaiting: nil))
  }

  @Test func onlyReadyInstancesHaveFreeSlots() throws {
    let world = try World()
    for state in InstanceState.allCases where state != .ready {
      try world.put(world.instance("c-\(state)", state: state))
    }
    #expect(try world.acquire("s-1") == .busy)
    #expect(try world.figures().freeSlots == [:])
    try world.put(world.instance("c-starting"))
    #expect(try world.acquire("s-1").session?.instance == "c-starting")
    // Not ready for a while: the session stays, and its slot is not free afterwards.
    try world.put(world.instance("c-starting", state: .unhealthy))
    #expect(try world.figures().freeSlots == [:])
    #expect(try world.view("s-1") != nil)
    try world.put(world.instance("c-starting"))
    #expect(try world.figures().freeSlots == ["c-starting": 0])
  }

  @Test func aGivenInstanceIsTakenOrNone() throws {
    let world = try World()
    try world.put(world.instance("c-1"))
    try world.put(world.instance("c-2"))
    #expect(try world.acquire("s-1", instance: "c-1").session?.instance == "c-1")
    #expect(try world.acquire("s-2", instance: "c-1") == .busy)
    #expect(try world.acquire("s-3", instance: "c-2").session?.instance == "c-2")
  }

  // MARK: Holding

  @Test func aReservationIsTakenOverByTheClaimOfItsBrowser() throws {
    let world = try World(pools: [World.pool(slots: 2)])
    try world.put(world.instance("c-1"))
    // The older one has the name that sorts last.
    _ = try world.acquire("z-old", reserve: 10_000)
    world.now += 5
    _ = try world.acquire("a-new", reserve: 10_000)
    #expect(try world.view("z-old")?.state == .reserved)
    #expect(try world.view("z-old")?.leaseExpiry == world.now - 5 + 10_000)

    #expect(try world.claim("c-1", as: "ticket-1", holder: "r-1").session?.id == "z-old")
    // The answer was lost: the same claim again takes nothing more.
    #expect(try world.claim("c-1", as: "ticket-1", holder: "r-1").session?.id == "z-old")
    #expect(try world.claim("c-1", as: "ticket-2", holder: "r-2").session?.id == "a-new")
    #expect(try world.claim("c-1", as: "ticket-3", holder: "r-2") == .busy)
    let view = try world.view("z-old")
    #expect(view?.state == .active)
    #expect(view?.holders == ["r-1"])
    #expect(view?.used == true)
  }

  @Test func aClaimOfAnExclusiveInstanceTakesAFreeSlotElseJoinsItsSession() throws {
    let world = try World()
    try world.put(world.instance("c-1"))
    #expect(try world.claim("c-1", as: "first", holder: "r-1").session?.id == "first")
    #expect(try world.claim("c-1", as: "second", holder: "r-2").session?.id == "first")
    #expect(try world.view("first")?.holders == ["r-1", "r-2"])
    try world.detach("first", holder: "r-1")
    #expect(try world.view("first")?.holders == ["r-2"])
    try world.detach("first", holder: "r-2")
    #expect(try world.view("first") == nil)
  }

  @Test func aConnectionsSessionEndsWithItsLastSocketOrAfterItsGrace() throws {
    let world = try World(pools: [World.pool(), World.pool("patient", grace: 5_000)])
    try world.put(world.instance("c-1"))
    try world.put(world.instance("p-1", pool: "patient"))
    _ = try world.acquire("s-1", holder: "r-1")
    try world.detach("s-1", holder: "r-1")
    #expect(try world.view("s-1") == nil)
    #expect(try world.figures().freeSlots == ["c-1": 1])

    _ = try world.acquire("s-2", pool: "patient", holder: "r-1")
    try world.detach("s-2", holder: "r-1")
    #expect(try world.view("s-2")?.state == .grace)
    #expect(try world.view("s-2")?.leaseExpiry == world.now + 5_000)
    // The same again, later, does not start the grace anew.
    world.now += 4_999
    try world.detach("s-2", holder: "r-1")
    #expect(try world.view("s-2")?.leaseExpiry == world.now + 1)
    // Within the grace another replica takes it up again.
    #expect(try world.attach("s-2", holder: "r-2").isGranted)
    #expect(try world.view("s-2")?.leaseExpiry == world.now - 4_999 + 1_800_000)
    try world.detach("s-2", holder: "r-2")
    world.now += 5_000
    #expect(try world.endExpired("patient") == ["s-2": "grace ran out"])
    #expect(try world.figures("patient").freeSlots == ["p-1": 1])
  }

  @Test func aRESTSessionOutlivesItsSocketsUntilItsIdleLimit() throws {
    let world = try World(pools: [World.pool(idle: 60_000)])
    try world.put(world.instance("c-1"))
    _ = try world.acquire("s-1", origin: .rest)
    #expect(try world.view("s-1")?.state == .idle)
    #expect(try world.view("s-1")?.used == false)
    #expect(try world.view("s-1")?.leaseExpiry == world.now + 60_000)
    world.now += 30_000
    _ = try world.attach("s-1", holder: "r-1")
    #expect(try world.view("s-1")?.used == true)
    world.now += 30_000
    try world.detach("s-1", holder: "r-1")
    #expect(try world.view("s-1")?.state == .idle)
    #expect(try world.view("s-1")?.leaseExpiry == world.now + 60_000)
    world.now += 59_999
    #expect(try world.endExpired() == [:])
    world.now += 1
    #expect(try world.endExpired() == ["s-1": "idle limit"])
  }

  @Test func bytesKeepASessionAliveUpToItsHardLimit() throws {
    let world = try World(pools: [World.pool(idle: 60_000)])
    try world.put(world.instance("c-1"))
    let start = world.now
    _ = try world.acquire("s-1", holder: "r-1")
    for _ in 0..<29 {
      world.now += 59_000
      try world.connection.run(world.leases.touch(sessions: ["s-1", "gone"], now: world.now))
      #expect(try world.endExpired() == [:])
    }
    #expect(try world.view("s-1")?.lastAccessed == world.now)
    world.now += 59_000
    try world.connection.run(world.leases.touch(sessions: ["s-1"], now: world.now))
    #expect(try world.view("s-1")?.leaseExpiry == start + 1_800_000)
    world.now = start + 1_800_000
    #expect(try world.connection.run(world.leases.expired(pool: "chrome", now: world.now, limit: 10)) == ["s-1"])
    // Past its hard limit nobody attaches any more; the try itself ends it.
    #expect(try world.attach("s-1", holder: "r-2") == .unknown)
    #expect(try world.view("s-1") == nil)
  }

  @Test func aTouchDoesNotProlongAReservationOrAGrace() throws {
    let world = try World(pools: [World.pool(slots: 2, idle: 60_000, grace: 5_000)])
    try world.put(world.instance("c-1"))
    _ = try world.acquire("reserved", reserve: 2_000)
    _ = try world.acquire("in-grace", holder: "r-1")
    try world.detach("in-grace", holder: "r-1")
    let before = try (world.view("reserved")?.leaseExpiry, world.view("in-grace")?.leaseExpiry)
    world.now += 1_000
    try world.connection.run(world.leases.touch(sessions: ["reserved", "in-grace"], now: world.now))
    #expect(try world.view("reserved")?.leaseExpiry == before.0)
    #expect(try world.view("in-grace")?.leaseExpiry == before.1)
  }

  @Test func anUnusedReservationComesBackAndDoesNotCountAsUse() throws {
    let world = try World(pools: [World.pool(recycleAfterSessions: 1)])
    try world.put(world.instance("c-1"))
    _ = try world.acquire("s-1", reserve: 2_000)
    world.now += 2_000
    #expect(try world.endExpired() == ["s-1": "reservation ran out"])
    #expect(try world.figures().freeSlots == ["c-1": 1])
    // Without a given time a connection's session is reserved as its pool says.
    _ = try world.acquire("s-2")
    #expect(try world.view("s-2")?.leaseExpiry == world.now + 10_000)
  }

  // MARK: Uses

  @Test func anInstanceIsSpentAfterItsSessionsAndFreshInItsNextGeneration() throws {
    let world = try World(pools: [World.pool(slots: 2, recycleAfterSessions: 3)])
    try world.put(world.instance("c-1"))
    for number in 1...2 {
      _ = try world.acquire("s-\(number)", holder: "r-1")
      try world.detach("s-\(number)", holder: "r-1")
    }
    #expect(try world.figures().freeSlots == ["c-1": 2])
    _ = try world.acquire("s-3", holder: "r-1")
    #expect(try world.figures().freeSlots == [:])
    #expect(try world.acquire("s-4") == .busy)
    try world.detach("s-3", holder: "r-1")
    #expect(try world.figures().freeSlots == [:])
    // Saying again that it is ready does not help.
    try world.put(world.instance("c-1", port: 50_009))
    #expect(try world.figures().freeSlots == [:])
    try world.put(world.instance("c-1", generation: 2))
    #expect(try world.figures().freeSlots == ["c-1": 2])
  }

  @Test func aSessionCountsOnceHoweverOftenItIsAttached() throws {
    let world = try World(pools: [World.pool(recycleAfterSessions: 2)])
    try world.put(world.instance("c-1"))
    _ = try world.acquire("s-1", origin: .rest)
    for _ in 0..<3 {
      _ = try world.attach("s-1", holder: "r-1")
      try world.detach("s-1", holder: "r-1")
    }
    _ = try world.end("s-1")
    #expect(try world.figures().freeSlots == ["c-1": 1])
    _ = try world.acquire("s-2", origin: .rest, countsAsUse: true)
    _ = try world.end("s-2")
    #expect(try world.figures().freeSlots == [:])
  }

  @Test func aPoolThatAllowsMoreUsesBringsItsSpentInstancesBack() throws {
    let world = try World(pools: [World.pool(recycleAfterSessions: 1)])
    try world.put(world.instance("c-1"))
    _ = try world.acquire("s-1", holder: "r-1")
    try world.detach("s-1", holder: "r-1")
    #expect(try world.figures().freeSlots == [:])
    try world.declare([World.pool(recycleAfterSessions: 2)])
    #expect(try world.figures().freeSlots == ["c-1": 1])
  }

  @Test func aNewGenerationEndsTheSessionsOfTheOneBefore() throws {
    let world = try World()
    try world.put(world.instance("c-1"))
    _ = try world.acquire("s-1", origin: .rest)
    try world.put(world.instance("c-1", generation: 2))
    #expect(try world.view("s-1") == nil)
    #expect(try world.figures() == PoolFigures(freeSlots: ["c-1": 1], leases: 0, waiting: 0, oldestWaiting: nil))
  }

  // MARK: Lists

  @Test func sessionsAreListedWithTheirLeases() throws {
    let world = try World(pools: [World.pool(slots: 5)])
    try world.put(world.instance("c-1"))
    for number in 1...5 {
      _ = try world.acquire("s-\(number)", holder: number == 3 ? "r-1" : nil, reserve: 1_000)
      world.now += 1
    }
    let page = try world.connection.run(world.leases.list(offset: 1, limit: 2))
    #expect(page.map(\.record.id) == ["s-2", "s-3"])
    #expect(page.map(\.state) == [.reserved, .active])
    #expect(page.last?.holders == ["r-1"])
    #expect(try world.connection.run(world.leases.list(offset: 4, limit: 10)).map(\.record.id) == ["s-5"])
    #expect(try world.connection.run(world.leases.count()) == 5)
  }
}
