// The queue of a pool against a real Redis: first come, first served, across replicas and whatever their clocks say.
import Redis
import Routing
import State
import TestSupport
import Testing

@Suite struct StateQueueTests {
  @Test func whoComesFirstIsServedFirstAlsoWithinOneMillisecond() throws {
    let world = try World()
    try world.put(world.instance("c-1"))
    _ = try world.acquire("has-it", holder: "r-1")
    // Names in the opposite order of arrival, all in the same millisecond, and the last one's clock is behind.
    #expect(try world.acquire("z", queue: true) == .queued(position: 1))
    #expect(try world.acquire("m", queue: true) == .queued(position: 2))
    world.now -= 3
    #expect(try world.acquire("a", queue: true) == .queued(position: 3))
    world.now += 3
    #expect(try world.figures().waiting == 3)
    #expect(try world.figures().oldestWaiting == world.now)

    _ = try world.end("has-it")
    // A slot is free, but not for a newcomer, nor for the second in line.
    #expect(try world.acquire("newcomer") == .busy)
    #expect(try world.acquire("newcomer", queue: true) == .queued(position: 4))
    #expect(try world.acquire("m", queue: true) == .queued(position: 2))
    #expect(try world.acquire("z", queue: true).isGranted)
    #expect(try world.acquire("m", queue: true) == .queued(position: 1))
  }

  @Test func withTwoFreeSlotsTheSecondInLineNeedNotWaitForTheFirst() throws {
    let world = try World()
    for id in ["first", "second", "third"] { _ = try world.acquire(id, queue: true) }
    try world.put(world.instance("c-1"))
    try world.put(world.instance("c-2"))
    #expect(try world.acquire("third", queue: true) == .queued(position: 3))
    #expect(try world.acquire("second", queue: true).isGranted)
    #expect(try world.acquire("third", queue: true) == .queued(position: 2))
    #expect(try world.acquire("first", queue: true).isGranted)
  }

  @Test func freeSlotsOfSharedInstancesCountOneByOne() throws {
    let world = try World(pools: [World.pool(slots: 3)])
    for id in ["1", "2", "3", "4"] { _ = try world.acquire(id, queue: true) }
    try world.put(world.instance("c-1"))
    #expect(try world.acquire("4", queue: true) == .queued(position: 4))
    for id in ["3", "2", "1"] { #expect(try world.acquire(id, queue: true).isGranted) }
    #expect(try world.acquire("4", queue: true) == .queued(position: 1))
  }

  @Test func aClaimDoesNotOvertakeTheQueue() throws {
    let world = try World()
    #expect(try world.acquire("waits", queue: true) == .queued(position: 1))
    try world.put(world.instance("c-1"))
    #expect(try world.claim("c-1", as: "newcomer", holder: "r-1") == .busy)
    #expect(try world.acquire("newcomer", instance: "c-1") == .busy)
    #expect(try world.acquire("waits", queue: true).isGranted)
  }

  @Test func aDeadWaiterDoesNotBlockTheQueueAndALivingOneKeepsItsPlace() throws {
    let world = try World()
    _ = try world.acquire("dead", queue: true)
    _ = try world.acquire("alive", queue: true)
    world.now += 4_000
    #expect(try world.acquire("alive", queue: true) == .queued(position: 2))
    world.now += 1_001
    #expect(try world.figures().waiting == 1)
    try world.put(world.instance("c-1"))
    #expect(try world.acquire("alive", queue: true).isGranted)
  }

  @Test func aNewcomerPurgesADeadQueueItself() throws {
    let world = try World()
    for number in 0..<1_200 { _ = try world.acquire("dead-\(number)", pool: "chrome", queue: true) }
    #expect(try world.figures().waiting == 1_000)
    world.now += 5_001
    try world.put(world.instance("c-1"))
    #expect(try world.acquire("newcomer").isGranted)
    #expect(try world.figures().waiting == 0)
  }

  @Test func aWaiterThatAsksLateKeepsItsPlaceWhenNobodyForgotItYet() throws {
    let world = try World()
    _ = try world.acquire("late", queue: true)
    world.now += 60_000
    #expect(try world.acquire("late", queue: true) == .queued(position: 1))
    #expect(try world.acquire("next", queue: true) == .queued(position: 2))
  }

  @Test func theQueueHasALimitAndTicketsCanBeGivenBack() throws {
    let world = try World(pools: [World.pool(queueLimit: 2)])
    _ = try world.acquire("one", queue: true)
    _ = try world.acquire("two", queue: true)
    #expect(try world.acquire("three", queue: true) == .queueFull(waiting: 2))
    #expect(try world.acquire("two", queue: true) == .queued(position: 2))
    try world.connection.run(world.leases.cancelWaiting(session: "one", pool: "chrome"))
    try world.connection.run(world.leases.cancelWaiting(session: "one", pool: "chrome"))
    #expect(try world.acquire("three", queue: true) == .queued(position: 2))
    // A last try without waiting gives the ticket back too.
    #expect(try world.acquire("two") == .busy)
    #expect(try world.acquire("three", queue: true) == .queued(position: 1))
  }

  @Test func theDoorbellRingsForEverythingThatAWaiterOrTheControlPlaneWaitsFor() throws {
    let world = try World(pools: [World.pool(grace: 1_000)])
    let listener = try world.redis.connect()
    try listener.subscribe([world.keys.wake])
    func rings(_ what: String, _ action: () throws -> Void) throws {
      try action()
      let message = try listener.nextMessage(timeoutMilliseconds: 10_000)
      #expect(message?.payload == "chrome", "\(what)")
      // Once is enough.
      #expect(try listener.nextMessage(timeoutMilliseconds: 1) == nil, "\(what)")
    }
    try rings("a client waits") { _ = try world.acquire("s-1", queue: true) }
    try rings("an instance came") { try world.put(world.instance("c-1")) }
    try rings("a lease was taken") { _ = try world.acquire("s-1", reserve: 1_000, queue: true) }
    try rings("a use was counted") { _ = try world.attach("s-1", holder: "r-1") }
    try rings("a session ended") { _ = try world.end("s-1") }
    _ = try world.acquire("s-2", holder: "r-1")
    while try listener.nextMessage(timeoutMilliseconds: 50) != nil {}
    try rings("a client waits again") { _ = try world.acquire("s-3", queue: true) }
    try rings("a waiter left") { try world.connection.run(world.leases.cancelWaiting(session: "s-3", pool: "chrome")) }
    try rings("an instance changed") { try world.put(world.instance("c-1", state: .draining)) }
    try rings("an instance went") { try world.remove("c-1") }
    try rings("a pool changed") { try world.declare([World.pool(queueLimit: 7)]) }
  }
}
