// What holds while Redis is away, and what becomes of sessions when it is back: with its data, with a part of its
// history, or empty.
import ProxyMachine
import Redis
import RouteFeed
import Routing
import State
import TestSupport
import Testing

@Suite("Route feed: outages")
struct RouteFeedOutageTests {
  /// Shorter waits than a daemon's, so that the tests need not wait for them.
  static let options = RedisOptions(connectTimeoutMilliseconds: 500, commandTimeoutMilliseconds: 2_000)

  @Test(
    "Redis is killed and comes back empty: nothing live is lost, and only new exclusive slots are refused meanwhile")
  func killed() throws {
    let deployment = try FeedDeployment(instances: ["a", "b", "c"])
    let replica = try FeedReplica("r1", url: deployment.redis.unixURL, options: Self.options)
    try replica.routes("a", "b", "c")
    try deployment.createSession("rest-1")
    try deployment.createSession("rest-2")
    _ = try replica.worker.granted(replica.ask(.attach(session: "rest-1")))
    let own = try replica.worker.granted(replica.acquire())
    let gone = replica.acquire()
    // Not only Redis must have it in the queue: a first question whose answer is lost is refused.
    try waitUntil("it waits") { replica.coordinator.counters.waiting == 1 }
    // The feed must have seen them: what is only in Redis is lost with it.
    try waitUntil("all are known") { replica.coordinator.counters.sessions == 3 }

    deployment.redis.kill()
    try waitUntil("the loss is noticed") { !replica.coordinator.counters.connected }
    #expect(try replica.worker.refused(replica.acquire()) == .unavailable)
    #expect(try replica.worker.refused(replica.acquire(reserve: true)) == .unavailable)
    #expect(try replica.worker.granted(replica.ask(.look(session: "rest-2"))).id == "rest-2")
    #expect(try replica.worker.granted(replica.ask(.attach(session: "rest-1"))).id == "rest-1")
    #expect(try replica.worker.granted(replica.ask(.claim(browser: "guid-\(own.instance)"))).id == own.id)
    let rest2 = try replica.worker.granted(replica.ask(.look(session: "rest-2")))
    // Nobody here has a socket of it, so a second client could be somewhere else.
    #expect(try replica.worker.refused(replica.ask(.claim(browser: "guid-\(rest2.instance)"))) == .unavailable)
    #expect(try replica.worker.refused(replica.ask(.look(session: "unheard-of"))) == .unavailable)
    #expect(replica.worker.table?.instances.count == 3)
    replica.cancel(gone)

    try deployment.redis.start()
    try waitUntil("it is back") { replica.coordinator.counters.connected }
    // Before the control plane is: an empty table would take the backends away from everybody.
    #expect(replica.worker.table?.instances.count == 3)
    #expect(try replica.worker.granted(replica.ask(.attach(session: own.id))).id == own.id)
    try deployment.lead()
    try deployment.declare([World.pool()])
    for id in ["a", "b", "c", "d"] { try deployment.put(id) }
    try replica.routes("a", "b", "c", "d")

    func check(_ session: String, _ instance: String, _ holders: [String]) throws {
      let view = try #require(try deployment.view(session), "\(session) is lost")
      #expect(view.record.instance == instance && view.holders == holders)
    }
    try waitUntil("what lives is known again") { try deployment.figures().leases == 3 }
    try check(own.id, own.instance, ["r1"])
    try check("rest-2", rest2.instance, [])
    #expect(try deployment.view("rest-1")?.holders == ["r1"])
    #expect(try deployment.figures().waiting == 0)
    for session in [own.id, "rest-1", "rest-2"] { #expect(replica.worker.reason(of: session) == nil) }
    #expect(replica.worker.answers(gone).isEmpty)
    // The one free slot is found, and no other.
    #expect(try replica.worker.granted(replica.acquire()).instance == "d")
    // Every socket counts that came while Redis was away.
    replica.release(own.id)
    replica.release(own.id)
    _ = try replica.worker.refused(replica.ask(.target(id: "nobody")))
    #expect(try deployment.view(own.id)?.holders == ["r1"])
    replica.release(own.id)
    try waitUntil("the last one lets go") { try deployment.view(own.id) == nil }
  }

  @Test("a client waits through an outage, and is served when Redis and its slots are back")
  func patience() throws {
    let deployment = try FeedDeployment()
    let relay = try FeedRelay(deployment.redis)
    defer { relay.close() }
    let replica = try FeedReplica("r1", url: relay.url, options: Self.options)
    try replica.routes("a")
    try deployment.createSession("rest-1")
    let waiting = replica.acquire()
    // Not only Redis must have it in the queue: a first question whose answer is lost is refused.
    try waitUntil("it waits") { replica.coordinator.counters.waiting == 1 }
    relay.cut()
    try waitUntil("the loss is noticed") { !replica.coordinator.counters.connected }
    try deployment.run(deployment.leases.end(session: "rest-1", reason: "test", now: deployment.now))
    relay.mend()
    let record = try replica.worker.granted(waiting)
    #expect(try deployment.view(record.id)?.holders == ["r1"])
  }

  @Test(
    "sessions that ended while a replica was cut off end there too; those it was forgotten for are held again",
    arguments: [false, true])
  func cutOff(trims: Bool) throws {
    let deployment = try FeedDeployment(instances: ["a", "b", "c"])
    let relay = try FeedRelay(deployment.redis)
    defer { relay.close() }
    let replica = try FeedReplica("r1", url: relay.url, options: Self.options)
    try replica.routes("a", "b", "c")
    try deployment.createSession("kept")
    try deployment.createSession("ended")
    for session in ["kept", "ended"] { _ = try replica.worker.granted(replica.ask(.attach(session: session))) }
    let own = try replica.worker.granted(replica.acquire())
    try deployment.put("idle")
    try deployment.createSession("unheld")
    try waitUntil("all are known") { replica.coordinator.counters.sessions == 4 }

    relay.cut()
    try waitUntil("the loss is noticed") { !replica.coordinator.counters.connected }
    // As the leader does with a replica that has fallen silent: its connection's session ends, REST sessions stay.
    let forgotten = try deployment.run(Replicas(keys: deployment.keys).forget(id: "r1", now: deployment.now))
    #expect(Set(forgotten) == ["kept", "ended", own.id])
    try deployment.run(deployment.leases.end(session: "ended", reason: "operator", now: deployment.now))
    try deployment.run(deployment.leases.end(session: "unheld", reason: "operator", now: deployment.now))
    try deployment.put("d")
    if trims { try deployment.redis.command("XTRIM", deployment.keys.changes, "MAXLEN", "1") }
    relay.mend()

    try replica.routes("a", "b", "c", "d", "idle")
    for session in ["ended", own.id, "unheld"] {
      try waitUntil("\(session) is over") { replica.worker.reason(of: session) != nil }
    }
    #expect(replica.worker.reason(of: "ended") == "operator")
    try waitUntil("the other is held again") { try deployment.view("kept")?.holders == ["r1"] }
    #expect(replica.worker.reason(of: "kept") == nil)
    #expect(replica.coordinator.counters.snapshots == (trims ? 2 : 1))
    #expect(try replica.worker.refused(replica.ask(.look(session: "ended"))) == .unknown)
    // Both slots are free for others.
    _ = try replica.worker.granted(replica.acquire())
    _ = try replica.worker.granted(replica.acquire())
  }

  @Test("sockets that go while Redis is away are told when it is back")
  func debts() throws {
    let deployment = try FeedDeployment(instances: ["a", "b"])
    let relay = try FeedRelay(deployment.redis)
    defer { relay.close() }
    let replica = try FeedReplica("r1", url: relay.url, options: Self.options)
    try replica.routes("a", "b")
    let (stays, goes) = try (replica.worker.granted(replica.acquire()), replica.worker.granted(replica.acquire()))
    try waitUntil("both are known") {
      replica.coordinator.counters.sessions == 2 && replica.coordinator.counters.held == 2
    }
    relay.cut()
    try waitUntil("the loss is noticed") { !replica.coordinator.counters.connected }
    replica.release(goes.id)
    replica.release(stays.id)
    // It comes back before Redis could be told.
    try waitUntil("both were let go of") { replica.coordinator.counters.held == 0 }
    _ = try replica.worker.granted(replica.ask(.attach(session: stays.id)))
    relay.mend()
    try waitUntil("the one is free") { try deployment.figures().leases == 1 }
    try waitUntil("it is trusted again") { replica.coordinator.counters.connected }
    #expect(try deployment.view(stays.id)?.holders == ["r1"])
    #expect(replica.worker.reason(of: stays.id) == nil)
  }

  @Test("a Redis that was emptied and filled again behind a replica's back is not mistaken for the old one")
  func rebuilt() throws {
    let deployment = try FeedDeployment()
    let relay = try FeedRelay(deployment.redis)
    defer { relay.close() }
    let replica = try FeedReplica("r1", url: relay.url, options: Self.options)
    try replica.routes("a")
    let own = try replica.worker.granted(replica.acquire())
    try waitUntil("it is known") { replica.coordinator.counters.sessions == 1 }
    relay.cut()
    try waitUntil("the loss is noticed") { !replica.coordinator.counters.connected }
    try deployment.redis.flush()
    try deployment.lead()
    try deployment.declare([World.pool()])
    for id in ["a", "b"] { try deployment.put(id) }
    relay.mend()
    try replica.routes("a", "b")
    try waitUntil("it is put back") { try deployment.view(own.id)?.holders == ["r1"] }
    #expect(replica.worker.reason(of: own.id) == nil)
    #expect(try replica.worker.granted(replica.acquire()).instance == "b")
  }

  @Test("a Redis that loses its data under open connections is noticed")
  func flushed() throws {
    let deployment = try FeedDeployment()
    let replica = try FeedReplica("r1", url: deployment.redis.unixURL)
    try replica.routes("a")
    let own = try replica.worker.granted(replica.acquire())
    try waitUntil("it is known") { replica.coordinator.counters.sessions == 1 }
    try deployment.redis.flush()
    try waitUntil("it is put back") { try deployment.view(own.id)?.holders == ["r1"] }
    #expect(replica.worker.reason(of: own.id) == nil)
    #expect(replica.worker.table?.instances.count == 1)
    try deployment.lead()
    try deployment.declare([World.pool()])
    try deployment.put("a")
    try deployment.put("b")
    try replica.routes("a", "b")
    #expect(try replica.worker.granted(replica.acquire()).instance == "b")
  }

  @Test("a Redis that hangs costs patience, not slots")
  func frozen() throws {
    let deployment = try FeedDeployment()
    let replica = try FeedReplica("r1", url: deployment.redis.unixURL, options: Self.options)
    try replica.routes("a")
    // So that the script is loaded, and the next command is one.
    replica.release(try replica.worker.granted(replica.acquire()).id)
    func count(_ type: String) throws -> Int {
      try deployment.run(Events(keys: deployment.keys).recent(count: 100)).count { $0.type == type }
    }
    try waitUntil("the first session is over") { try count("session.ended") == 1 }
    deployment.redis.freeze()
    let ticket = replica.acquire()
    #expect(try replica.worker.refused(ticket) == .unavailable)
    deployment.redis.thaw()
    try waitUntil("it is trusted again") { replica.coordinator.counters.connected }
    // A command that had reached the socket is executed although its client was refused, and is undone: the one slot can
    // only be granted again when it was.
    let record = try replica.worker.granted(replica.acquire())
    try waitUntil("that one alone is held") { try deployment.figures().leases == 1 }
    replica.release(record.id)
    try waitUntil("the slot is free") { try deployment.figures().freeSlots == ["a": 1] }
    try waitUntil("all that began has ended") { try count("session.created") == count("session.ended") }
  }

  @Test("without Redis from the start nothing is promised, and everything comes when it does")
  func late() throws {
    let redis = try RedisFixture()
    redis.kill()
    let replica = try FeedReplica("r1", url: redis.unixURL, options: Self.options)
    #expect(try replica.worker.refused(replica.acquire()) == .unavailable)
    #expect(try replica.worker.refused(replica.ask(.look(session: "x"))) == .unavailable)
    #expect(replica.coordinator.table == nil)
    try redis.start()
    let deployment = try FeedDeployment(redis)
    try replica.routes("a")
    _ = try replica.worker.granted(replica.acquire())
    #expect(try deployment.figures().leases == 1)
  }

  @Test("records and changes that nobody can read are left out, and the rest goes on")
  func unreadable() throws {
    let deployment = try FeedDeployment()
    try deployment.redis.command("HSET", deployment.keys.instances, "bad", "{\"id\":\"bad\"}")
    let replica = try FeedReplica("r1", url: deployment.redis.unixURL)
    try replica.routes("a")
    try deployment.redis.command("XADD", deployment.keys.changes, "*", "type", "instance", "id", "b", "json", "{}")
    try deployment.redis.command("XADD", deployment.keys.changes, "*", "type", "nonsense")
    try deployment.put("c")
    try replica.routes("a", "c")
    #expect(replica.coordinator.counters.invalidRecords >= 3)
  }
}
