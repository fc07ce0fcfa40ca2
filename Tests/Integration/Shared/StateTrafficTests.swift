// What replicas tell of their requests, against a real Redis: added up once, over all of them, for the right generation.
import Redis
import Routing
import State
import TestSupport
import Testing

@Suite struct StateTrafficTests {
  private func world() throws -> World {
    let world = try World(pools: [World.pool("web", slots: 0)])
    try world.put(world.instance("w-1", pool: "web"))
    return world
  }

  private func flush(_ world: World, _ replica: String, at: Int, _ entries: TrafficEntry...) throws {
    try world.connection.run(Traffic(keys: world.keys).flush(replica: replica, at: at, entries: entries))
  }

  private func counters(_ world: World, _ id: String = "w-1") throws -> InstanceCounters {
    try world.connection.run(Traffic(keys: world.keys).counters(of: [id]))[0]
  }

  private func entry(
    _ requests: Int, errors: Int = 0, active: Int = 0, generation: Int = 1, state: InstanceState = .ready,
    id: String = "w-1"
  ) -> TrafficEntry {
    TrafficEntry(
      instance: id, generation: generation, state: state, requests: requests, errors: errors, active: active)
  }

  @Test func requestsOfAllReplicasAreAddedUp() throws {
    let world = try world()
    try flush(world, "r-1", at: 10, entry(3, errors: 1, active: 2))
    try flush(world, "r-2", at: 10, entry(4))
    try flush(world, "r-1", at: 11, entry(5, active: 1))
    let counters = try counters(world)
    #expect(counters.numbers == ["requests": 12, "errors": 1])
    #expect(counters.active(generation: 1) == 1)
    #expect(counters.replicas["r-2"] == .init(generation: 1, state: .ready, active: 0))
    #expect(counters.active(generation: 2) == nil)
  }

  @Test func aFlushThatIsSentAgainCountsNothingTwice() throws {
    let world = try world()
    for _ in 0..<3 { try flush(world, "r-1", at: 10, entry(3, errors: 2, active: 1)) }
    #expect(try counters(world).numbers == ["requests": 3, "errors": 2])
    try flush(world, "r-1", at: 11, entry(3))
    #expect(try counters(world).numbers == ["requests": 6, "errors": 2])
  }

  @Test func whatIsGoneOrOfAnotherGenerationIsLeftOut() throws {
    let world = try world()
    try flush(world, "r-1", at: 10, entry(3), entry(9, id: "gone"), entry(7, generation: 2))
    #expect(try counters(world).numbers == ["requests": 3])
    #expect(try counters(world, "gone") == InstanceCounters())

    var next = world.instance("w-1", pool: "web")
    next.generation = 2
    try world.put(next)
    #expect(try counters(world) == InstanceCounters(), "a new generation begins anew")
    try flush(world, "r-1", at: 11, entry(3))
    #expect(try counters(world) == InstanceCounters(), "what came late is the old one's")
    try flush(world, "r-1", at: 12, entry(4, generation: 2))
    #expect(try counters(world).numbers == ["requests": 4])
    try world.remove("w-1")
    #expect(try world.remains().isEmpty)
  }

  @Test func whoIsForgottenHasNothingUnderWay() throws {
    let world = try world()
    try flush(world, "r-1", at: 10, entry(3, active: 5))
    try flush(world, "r-2", at: 10, entry(3, active: 1))
    try world.connection.run(world.replicas.forget(id: "r-1", now: world.now))
    #expect(try counters(world).active(generation: 1) == 1)
    #expect(try counters(world).numbers == ["requests": 6], "but what it sent was sent")
  }

  @Test func theBellRingsOnceWhenTheLastRequestIsOver() throws {
    let world = try world()
    let listener = try world.redis.connect()
    try listener.subscribe([world.keys.wake])
    func rings() throws -> Int {
      var count = 0
      // A message of another pool ends the look: what was published before it has come.
      try world.redis.command("PUBLISH", world.keys.wake, "end")
      while let message = try listener.nextMessage(timeoutMilliseconds: 10_000), message.payload != "end" {
        #expect(message.payload == "web")
        count += 1
      }
      return count
    }
    try flush(world, "r-1", at: 10, entry(3, active: 0))
    try flush(world, "r-1", at: 11, entry(0, active: 1, state: .draining))
    #expect(try rings() == 0)
    try flush(world, "r-1", at: 12, entry(0, active: 0, state: .draining))
    #expect(try rings() == 1)
    try flush(world, "r-1", at: 13, entry(0, active: 0, state: .draining))
    #expect(try rings() == 0)
    try flush(world, "r-1", at: 14, entry(0, active: 0, state: .stopping))
    #expect(try rings() == 1)
  }
}
