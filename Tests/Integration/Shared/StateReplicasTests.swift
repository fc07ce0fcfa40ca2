// Heartbeats of replicas against a real Redis, and what becomes of the sessions of one that falls silent.
import Redis
import Routing
import State
import TestSupport
import Testing

@Suite struct StateReplicasTests {
  private func beat(_ world: World, _ id: String, figures: [String: String] = [:], touched: [String] = []) throws
    -> Bool
  {
    try world.connection.run(world.replicas.beat(id: id, figures: figures, touched: touched, now: world.now))
  }

  private func list(_ world: World) throws -> [ReplicaBeat] { try world.connection.run(world.replicas.list()) }

  @Test func beatsAndFiguresAreKept() throws {
    let world = try World()
    #expect(try !beat(world, "r-2", figures: ["clients": "7", "old": "x"]))
    world.now += 1_000
    #expect(try !beat(world, "r-1"))
    #expect(try beat(world, "r-2", figures: ["clients": "8"]))
    // A beat that was sent again after a lost answer gives the same answer.
    #expect(try !beat(world, "r-1"))
    #expect(
      try list(world) == [ReplicaBeat(id: "r-1", lastBeat: world.now), ReplicaBeat(id: "r-2", lastBeat: world.now)])
    let figures = try world.connection.run(world.replicas.figures(id: "r-2"))
    #expect(figures == ["clients": "8", "at": "\(world.now)", "since": "\(world.now - 1_000)"])
  }

  @Test func aBeatTouchesSessions() throws {
    let world = try World(pools: [World.pool(slots: 2, idle: 10_000)])
    try world.put(world.instance("c-1"))
    _ = try world.acquire("busy", holder: "r-1")
    _ = try world.acquire("silent", holder: "r-1")
    world.now += 9_000
    _ = try beat(world, "r-1", figures: ["a": "1", "b": "2"], touched: ["busy", "unknown"])
    world.now += 1_000
    #expect(try world.endExpired() == ["silent": "idle limit"])
    #expect(try world.view("busy")?.leaseExpiry == world.now + 9_000)
  }

  @Test func aSilentReplicaLosesItsSessionsAndLearnsOfIt() throws {
    let world = try World(pools: [World.pool(slots: 4, grace: 5_000), World.pool("strict")])
    try world.put(world.instance("c-1"))
    try world.put(world.instance("s-1", pool: "strict"))
    _ = try beat(world, "r-1")
    _ = try beat(world, "r-2")
    _ = try world.acquire("graceful", holder: "r-1")
    _ = try world.acquire("both", holder: "r-1")
    _ = try world.attach("both", holder: "r-2")
    _ = try world.acquire("rest", origin: .rest)
    _ = try world.attach("rest", holder: "r-1")
    _ = try world.acquire("strict", pool: "strict", holder: "r-1")
    _ = try world.acquire("other", holder: "r-2")
    let lastBeat = world.now
    world.now += 4_000
    _ = try beat(world, "r-2")

    // It has beaten after the leader looked: nothing happens.
    #expect(
      try world.connection.run(world.replicas.forget(id: "r-1", ifSilentSince: lastBeat - 1, now: world.now)) == [])
    #expect(try world.view("strict") != nil)

    let lost = try world.connection.run(world.replicas.forget(id: "r-1", ifSilentSince: lastBeat, now: world.now))
    #expect(lost.sorted() == ["both", "graceful", "rest", "strict"])
    #expect(try world.view("strict") == nil)
    #expect(try world.view("graceful")?.state == .grace)
    #expect(try world.view("graceful")?.leaseExpiry == world.now + 5_000)
    #expect(try world.view("rest")?.state == .idle)
    #expect(try world.view("both")?.holders == ["r-2"])
    #expect(try world.view("both")?.state == .active)
    #expect(try world.view("other")?.holders == ["r-2"])
    #expect(try list(world).map(\.id) == ["r-2"])
    #expect(try world.connection.run(world.replicas.forget(id: "r-1", now: world.now)) == [])

    // It was only slow: its next beat says that it must attach again.
    #expect(try !beat(world, "r-1"))
    #expect(try world.attach("graceful", holder: "r-1").isGranted)
    #expect(try world.attach("strict", holder: "r-1") == .unknown)
    world.now += 1_000
    #expect(try beat(world, "r-1"))
  }

  @Test func aReplicaThatNeverBeatIsForgottenTooWhenItHoldsSessions() throws {
    let world = try World()
    try world.put(world.instance("c-1"))
    _ = try world.acquire("s-1", holder: "crashed-early")
    #expect(try list(world) == [ReplicaBeat(id: "crashed-early", lastBeat: world.now)])
    // It lives after all: its first beat is its first.
    #expect(try !beat(world, "crashed-early"))
    #expect(try world.connection.run(world.replicas.forget(id: "crashed-early", now: world.now)) == ["s-1"])
    #expect(try world.figures().freeSlots == ["c-1": 1])
  }
}
