// The gate of slots and the fence of ports, against a real Redis: what a Redis that has forgotten something does not give
// away, and what a leader that is none any more cannot do.
import Redis
import Routing
import State
import TestSupport
import Testing

@Suite struct StateGateTests {
  private func look(_ world: World) throws -> LeaderLook { try world.connection.run(world.leadership.look()) }

  @Test func theGateIsOpenUntilSomebodyShutsIt() throws {
    let world = try World()
    try world.put(world.instance("c-1"))
    #expect(try look(world).gate == .missing)
    #expect(try look(world).leader == Leader(id: "control-1", token: 1))
    #expect(try look(world).redis.count == 40)
    guard case .granted = try world.acquire("s-1") else { throw FixtureError("no slot without a gate") }
    try world.connection.run(world.leases.end(session: "s-1", reason: "test", now: world.now))

    try world.connection.run(world.leadership.shutGate(fence: world.fence))
    #expect(try look(world).gate == .shut)
    #expect(try world.acquire("s-2") == .busy)
    #expect(try world.acquire("s-2", queue: true) == .queued(position: 1))
    // Who waits hears of its opening.
    let listener = try world.redis.connect()
    try listener.subscribe([world.keys.wake])
    try world.connection.run(world.leadership.openGate(fence: world.fence))
    #expect(try listener.nextMessage(timeoutMilliseconds: 5_000)?.payload == "chrome")
    #expect(try look(world).gate == .open)
    guard case .granted = try world.acquire("s-2", queue: true) else { throw FixtureError("no slot") }
  }

  @Test func aSessionThatHasItsSlotKeepsItBehindAShutGate() throws {
    let world = try World()
    try world.put(world.instance("c-1"))
    guard case .granted(let record) = try world.acquire("s-1", holder: "r-1") else { throw FixtureError("no slot") }
    try world.connection.run(world.leadership.shutGate(fence: world.fence))
    for command in [
      world.leases.attach(session: "s-1", holder: "r-2", now: world.now),
      world.leases.claim(instance: "c-1", session: world.session("s-2"), holder: "r-2", now: world.now),
      world.leases.restore(record, holder: "r-1", now: world.now),
    ] {
      guard case .granted(let again) = try world.connection.run(command) else { throw FixtureError("it lost its slot") }
      #expect(again.id == "s-1")
    }
    try world.connection.run(world.leases.end(session: "s-1", reason: "test", now: world.now))
    // A claim of a free browser is a new slot.
    #expect(
      try world.connection.run(
        world.leases.claim(instance: "c-1", session: world.session("s-2"), holder: "r-2", now: world.now)) == .busy)
  }

  @Test func aRedisThatComesBackWithAnOldStateGivesNothingAway() throws {
    let world = try World()
    try world.put(world.instance("c-1"))
    try world.connection.run(world.leadership.openGate(fence: world.fence))
    let before = try look(world).redis
    try world.redis.command("SAVE")
    // Acknowledged, and lost with the process.
    guard case .granted(let lost) = try world.acquire("s-1", holder: "r-1") else { throw FixtureError("no slot") }
    try world.redis.restart()
    let connection = try world.redis.connect()
    let after = try connection.run(world.leadership.look())
    #expect(after.redis != before && after.gate == .shut && after.leader?.id == "control-1")
    func acquire(_ id: String) throws -> Grant {
      try connection.run(
        world.leases.acquire(
          world.session(id), holder: "r-2", reserveMilliseconds: nil, queue: false, now: world.now))
    }
    #expect(try acquire("s-2") == .busy)
    guard case .granted = try connection.run(world.leases.restore(lost, holder: "r-1", now: world.now)) else {
      throw FixtureError("it was not put back")
    }
    try connection.run(world.leadership.openGate(fence: world.fence))
    #expect(try acquire("s-2") == .busy)
    #expect(try connection.run(world.leases.figures(pool: "chrome", now: world.now)).freeSlots == ["c-1": 0])
  }

  @Test func aLiveSessionComesBackAlsoWhereOldDataNamesTheOneBefore() throws {
    let world = try World()
    try world.put(world.instance("c-1"))
    _ = try world.acquire("before", holder: "r-1")
    // What r-2 has a socket of, since "before" went; Redis does not know either.
    var live = world.session("now")
    live.instance = "c-1"
    let restore = world.leases.restore(live, holder: "r-2", now: world.now)
    #expect(try world.connection.run(restore) == .busy, "in a Redis that is trusted")
    try world.connection.run(world.leadership.shutGate(fence: world.fence))
    #expect(try world.connection.run(restore) == .queued(position: 1), "r-1 may have it")
    _ = try world.connection.run(world.replicas.settle(id: "r-1", holding: [], now: world.now))
    guard case .granted = try world.connection.run(restore) else { throw FixtureError("it was not put back") }
    // One that nobody holds is in nobody's way.
    try world.connection.run(world.leases.end(session: "now", reason: "test", now: world.now))
    try world.connection.run(world.leadership.openGate(fence: world.fence))
    _ = try world.acquire("rest")
    try world.connection.run(world.leadership.shutGate(fence: world.fence))
    var other = world.session("later")
    other.instance = "c-1"
    guard
      case .granted = try world.connection.run(world.leases.restore(other, holder: "r-2", now: world.now))
    else { throw FixtureError("it was not put back") }
    #expect(try world.connection.run(world.leases.get(session: "rest")) == nil)
  }

  @Test func aReplicaSaysWhatItHoldsAndRedisBelievesInNothingElse() throws {
    let world = try World()
    for id in ["c-1", "c-2", "c-3"] { try world.put(world.instance(id)) }
    for id in ["kept", "gone"] { _ = try world.acquire(id, holder: "r-1") }
    _ = try world.acquire("another's", holder: "r-2")
    let gone = try world.connection.run(world.replicas.settle(id: "r-1", holding: ["kept", "unknown"], now: world.now))
    #expect(gone == ["gone"])
    #expect(try world.connection.run(world.leases.get(session: "gone")) == nil)
    for id in ["kept", "another's"] { #expect(try world.connection.run(world.leases.get(session: id)) != nil) }
    #expect(try world.connection.run(world.replicas.settle(id: "r-1", holding: ["kept"], now: world.now)).isEmpty)
  }

  @Test func onlyTheLeaderMovesTheGate() throws {
    let world = try World()
    let other = Fence(token: 1, id: "control-2")
    for command in [world.leadership.shutGate(fence: other), world.leadership.openGate(fence: other)] {
      let error = failure { () throws(RedisError) in try world.connection.run(command) }
      #expect(error?.isFenced == true)
    }
    #expect(try look(world).gate == .missing)
  }

  @Test func aLeaderLearnsWhetherAnotherOneHasLedInBetween() throws {
    let world = try World()
    func campaign(_ id: String) throws -> Fence {
      try #require(try world.connection.run(world.leadership.campaign(id: id, ttlMilliseconds: 60_000)))
    }
    func resign(_ fence: Fence) throws {
      try world.connection.run(world.leadership.resign(id: fence.id, fence: fence))
    }
    #expect(world.fence.predecessor == nil)
    try resign(world.fence)
    let again = try campaign("control-1")
    #expect(again.predecessor == "control-1")
    try resign(again)
    let second = try campaign("control-2")
    // A question whose answer was lost is asked again.
    #expect(try campaign("control-2").predecessor == "control-1")
    try resign(second)
    #expect(try campaign("control-1").predecessor == "control-2")
    try world.redis.flush()
    #expect(try campaign("control-1").predecessor == nil)
  }

  @Test func whoDoesNotLeadTouchesNoPort() throws {
    let world = try World()
    let mine = Ports(keys: world.keys, host: "h", fence: world.fence)
    try world.connection.run(mine.configure(range: 50_000...50_003, now: world.now))
    let port = try #require(try world.connection.run(mine.allocate(owner: "c-1", now: world.now)))
    let before = try world.connection.run(mine.list())
    let stale = Ports(keys: world.keys, host: "h", fence: Fence(token: 1, id: "control-0"))
    func refused<R: Sendable>(_ command: Command<R>) throws {
      let error = failure { () throws(RedisError) in try world.connection.run(command) }
      #expect(error?.isFenced == true, "\(command.body.name)")
    }
    try refused(stale.configure(range: 1...2, now: world.now))
    try refused(stale.allocate(owner: "c-2", now: world.now))
    try refused(stale.release(port: port, owner: "c-1", now: world.now))
    try refused(stale.renew(port: port, owner: "c-1", now: world.now))
    try refused(stale.quarantine(port: port, owner: "c-1", until: world.now + 1, now: world.now))
    try refused(stale.adopt(port: 50_003, owner: "c-1", now: world.now))
    try refused(stale.reclaim(keeping: [], olderThan: world.now + 1, now: world.now))
    #expect(try world.connection.run(mine.list()) == before)
    #expect(try world.connection.run(mine.figures()) == PortFigures(free: 3, allocated: 1, quarantined: 0))
  }
}
