// Slots and sessions as workers get them: two coordinators against one real Redis.
import ProxyMachine
import Redis
import RouteFeed
import Routing
import State
import TestSupport
import Testing

@Suite("Route feed: slots")
struct RouteFeedSlotTests {
  @Test("records become tables at every worker, and follow every change")
  func tables() throws {
    let deployment = try FeedDeployment(instances: ["a", "b"])
    let (one, two) = try (
      FeedReplica("r1", url: deployment.redis.unixURL), FeedReplica("r2", url: deployment.redis.tcpURL)
    )
    for replica in [one, two] {
      try replica.routes("a", "b")
      #expect(replica.worker.table?.pools["chrome"] == World.pool())
      #expect(replica.worker.table?.routes.map(\.id) == ["chrome"])
    }
    try deployment.put("c")
    try deployment.remove("a")
    for replica in [one, two] { try replica.routes("b", "c") }
    // A burst: every change arrives, in fewer tables than changes.
    let before = one.coordinator.counters
    for number in 0..<300 { try deployment.put("x\(number)") }
    try waitUntil("the burst is routed") { one.worker.table?.instances.count == 302 }
    let after = one.coordinator.counters
    #expect(after.changes - before.changes == 300)
    #expect(after.tables - before.tables < 300)
    #expect(one.coordinator.table === one.worker.table)
  }

  @Test("a connection gets a session of its own, and its end gives the slot back")
  func implicitSession() throws {
    let deployment = try FeedDeployment(pools: [World.pool(idle: 5_000)])
    let replica = try FeedReplica("r1", url: deployment.redis.unixURL)
    try replica.routes("a")
    let record = try replica.worker.granted(replica.acquire())
    // A version 4 UUID in lower case.
    let parts = record.id.split(separator: "-")
    #expect(parts.map(\.count) == [8, 4, 4, 4, 12])
    #expect(record.id == record.id.lowercased() && parts[2].first == "4" && "89ab".contains(parts[3].first!))
    #expect(record.instance == "a" && record.browser == "guid-a" && record.port == 50_000)
    #expect(record.origin == .connection && record.idleLimitMilliseconds == 5_000)
    #expect(record.expiresAt - record.createdAt == 1_800_000)
    let view = try #require(try deployment.view(record.id))
    #expect(view.state == .active && view.holders == ["r1"] && view.record == record)
    #expect(try deployment.figures().freeSlots == ["a": 0])

    try waitUntil("the figures show it") { replica.coordinator.counters.held == 1 }
    replica.release(record.id)
    try waitUntil("the slot is free") { try deployment.figures().freeSlots == ["a": 1] }
    #expect(try deployment.view(record.id) == nil)
    try waitUntil("the worker hears of the end") { replica.worker.reason(of: record.id) != nil }
    try waitUntil("nothing is held") { replica.coordinator.counters.held == 0 }
  }

  @Test("an unknown pool, a pool without sessions and an unknown id are refused")
  func unknown() throws {
    let deployment = try FeedDeployment(pools: [World.pool(), World.pool("web", slots: 0)])
    let replica = try FeedReplica("r1", url: deployment.redis.unixURL)
    try replica.routes("a")
    #expect(try replica.worker.refused(replica.acquire("other")) == .unknown)
    #expect(try replica.worker.refused(replica.acquire("web")) == .unknown)
    for kind in [
      SlotRequest.Kind.claim(browser: "guid-x"), .attach(session: "x"), .look(session: "x"), .target(id: "x"),
    ] {
      #expect(try replica.worker.refused(replica.ask(kind)) == .unknown)
      #expect(try replica.worker.refused(replica.ask(kind)) == .unknown)
    }
  }

  @Test("clients wait in the order in which they came, across replicas")
  func order() throws {
    let deployment = try FeedDeployment()
    // They never ask again by themselves: it is the doorbell that brings the slot.
    let replicas = try ["r1", "r2"].map {
      try FeedReplica($0, url: deployment.redis.unixURL, retryMilliseconds: 3_600_000)
    }
    for replica in replicas { try replica.routes("a") }
    var holder = (replicas[0], try replicas[0].worker.granted(replicas[0].acquire()).id)
    var queue: [(replica: FeedReplica, ticket: UInt64)] = []
    for index in 0..<6 {
      let replica = replicas[(index + 1) % 2 == 0 || index == 3 ? 0 : 1]
      queue.append((replica, replica.acquire()))
      try waitUntil("client \(index) waits") { try deployment.figures().waiting == index + 1 }
    }
    try waitUntil("the figures show them") { replicas.map { $0.coordinator.counters.waiting }.reduce(0, +) == 6 }
    for (index, next) in queue.enumerated() {
      holder.0.release(holder.1)
      holder = (next.replica, try next.replica.worker.granted(next.ticket).id)
      for later in queue[(index + 1)...] { #expect(later.replica.worker.answers(later.ticket).isEmpty) }
    }
    #expect(replicas.map { $0.coordinator.counters.queued }.reduce(0, +) == 6)
  }

  @Test("a full queue refuses, and so does the end of patience")
  func limits() throws {
    var pool = World.pool(queueLimit: 1)
    pool.queueTimeoutMilliseconds = 2_000
    let deployment = try FeedDeployment(pools: [pool])
    let replica = try FeedReplica("r1", url: deployment.redis.unixURL)
    try replica.routes("a")
    let held = try replica.worker.granted(replica.acquire())
    let waiting = replica.acquire()
    try waitUntil("it waits") { try deployment.figures().waiting == 1 }
    let tooMany = replica.acquire()
    #expect(try replica.worker.refused(tooMany) == .queueFull)
    #expect(try replica.worker.refused(waiting) == .timedOut)
    // Not by `figures`, which forgets waiters that have been silent for long.
    try waitUntil("the queue is empty") {
      try deployment.redis.command("ZCARD", deployment.keys.waiting(pool: "chrome")) == .int(0)
    }
    // The slot goes to nobody who has gone.
    replica.release(held.id)
    try waitUntil("the slot is free") { try deployment.figures().freeSlots == ["a": 1] }

    pool.queueTimeoutMilliseconds = 0
    try deployment.declare([pool])
    try waitUntil("the pool has changed") { replica.worker.table?.pools["chrome"]?.queueTimeoutMilliseconds == 0 }
    _ = try replica.worker.granted(replica.acquire())
    #expect(try replica.worker.refused(replica.acquire()) == .timedOut)
    let counters = replica.coordinator.counters
    #expect(counters.queueFull == 1 && counters.timedOut == 2)
  }

  @Test("who goes away while waiting leaves the queue; who is granted meanwhile gives it back")
  func cancelled() throws {
    let deployment = try FeedDeployment()
    let replica = try FeedReplica("r1", url: deployment.redis.unixURL)
    try replica.routes("a")
    let held = try replica.worker.granted(replica.acquire())
    let (first, second) = (replica.acquire(), replica.acquire())
    try waitUntil("both wait") { try deployment.figures().waiting == 2 }
    replica.cancel(first)
    try waitUntil("one has left") { try deployment.figures().waiting == 1 }
    replica.release(held.id)
    let next = try replica.worker.granted(second)
    #expect(replica.worker.answers(first).isEmpty)
    // The answer was sent, and crosses the cancel.
    replica.cancel(second)
    try waitUntil("the slot is free") { try deployment.figures().freeSlots == ["a": 1] }
    #expect(try deployment.view(next.id) == nil)
    // A reservation that nobody wants goes at once, not when it runs out.
    let reservation = replica.acquire(reserve: true)
    let reserved = try replica.worker.granted(reservation)
    #expect(try deployment.view(reserved.id)?.state == .reserved)
    replica.cancel(reservation)
    try waitUntil("the slot is free again") { try deployment.figures().freeSlots == ["a": 1] }
  }

  @Test("requests and their cancels in any interleaving leave nothing behind")
  func cancelStorm() throws {
    let deployment = try FeedDeployment(instances: ["a", "b", "c"])
    let replicas = try [
      FeedReplica("r1", url: deployment.redis.unixURL), FeedReplica("r2", url: deployment.redis.unixURL),
    ]
    for replica in replicas { try replica.routes("a", "b", "c") }
    var random = SplitMix64(seed: SplitMix64.printedSeed(for: "cancelStorm"))
    for _ in 0..<200 {
      let replica = replicas.randomElement(using: &random)!
      let ticket = replica.acquire(reserve: Bool.random(using: &random))
      switch Int.random(in: 0..<3, using: &random) {
      case 0: replica.cancel(ticket)
      case 1:
        try waitUntil("it is answered or waits") {
          let counters = replica.coordinator.counters
          return !replica.worker.answers(ticket).isEmpty || counters.waiting > 0
        }
        replica.cancel(ticket)
      default:
        let other = replica.acquire()
        replica.cancel(ticket)
        replica.cancel(other)
      }
    }
    try waitUntil("nobody waits and nothing is held") {
      let figures = try deployment.figures()
      return figures.waiting == 0 && figures.leases == 0 && figures.freeSlots == ["a": 1, "b": 1, "c": 1]
    }
    for replica in replicas { try waitUntil("nothing is held") { replica.coordinator.counters.held == 0 } }
  }

  @Test("a WebSocket takes over what a discovery at another replica reserved")
  func claims() throws {
    let deployment = try FeedDeployment(pools: [World.pool(slots: 2)])
    let (one, two) = try (
      FeedReplica("r1", url: deployment.redis.unixURL), FeedReplica("r2", url: deployment.redis.unixURL)
    )
    for replica in [one, two] { try replica.routes("a") }
    let reserved = try one.worker.granted(one.acquire(reserve: true))
    let claimed = try two.worker.granted(two.ask(.claim(browser: "guid-a")))
    #expect(claimed.id == reserved.id)
    #expect(try deployment.view(claimed.id)?.holders == ["r2"])
    let other = try one.worker.granted(one.ask(.claim(browser: "guid-a")))
    #expect(other.id != claimed.id)
    #expect(try two.worker.refused(two.ask(.claim(browser: "guid-a"))) == .busy)
    // A client whose reservation was taken over has nothing to give back.
    two.release(claimed.id)
    one.release(other.id)
    try waitUntil("both slots are free") { try deployment.figures().freeSlots == ["a": 2] }
  }

  @Test("a session is let go of with its last socket here, not before, and stays where others hold it")
  func sockets() throws {
    let deployment = try FeedDeployment()
    let (one, two) = try (
      FeedReplica("r1", url: deployment.redis.unixURL), FeedReplica("r2", url: deployment.redis.unixURL)
    )
    for replica in [one, two] { try replica.routes("a") }
    try deployment.createSession("rest-1")
    // Known or not yet: the first look asks Redis.
    #expect(try one.worker.granted(one.ask(.look(session: "rest-1"))).id == "rest-1")
    _ = try one.worker.granted(one.ask(.attach(session: "rest-1")))
    let unseen = one.ask(.attach(session: "rest-1"))
    _ = try one.worker.granted(unseen)
    _ = try two.worker.granted(two.ask(.claim(browser: "guid-a")))
    _ = try one.worker.granted(one.ask(.attach(session: "rest-1")))
    func holders() throws -> [String]? { try deployment.view("rest-1")?.holders }
    #expect(try holders() == ["r1", "r2"])
    one.release("rest-1")
    one.cancel(unseen)
    // Answered after the two above were dealt with.
    _ = try one.worker.refused(one.ask(.target(id: "nobody")))
    #expect(try holders() == ["r1", "r2"])
    one.release("rest-1")
    try waitUntil("r1 has let go") { try holders() == ["r2"] }
    two.release("rest-1")
    try waitUntil("r2 has let go") { try holders() == [] }
    let view = try #require(try deployment.view("rest-1"))
    #expect(view.state == .idle)
  }

  @Test("a client that comes back in the moment in which its last socket goes keeps its session")
  func reconnect() throws {
    let deployment = try FeedDeployment()
    let replica = try FeedReplica("r1", url: deployment.redis.unixURL)
    try replica.routes("a")
    let record = try replica.worker.granted(replica.acquire())
    for _ in 0..<50 {
      // While the coordinator is busy with the first, the other two come together.
      _ = replica.ask(.target(id: "nobody"))
      let ticket = replica.ask(.attach(session: record.id))
      replica.release(record.id)
      _ = try replica.worker.granted(ticket)
    }
    #expect(try deployment.view(record.id)?.holders == ["r1"])
    #expect(replica.worker.reason(of: record.id) == nil)
  }

  @Test("a target that a discovery named leads to its session at any replica")
  func targets() throws {
    let deployment = try FeedDeployment()
    let (one, two) = try (
      FeedReplica("r1", url: deployment.redis.unixURL), FeedReplica("r2", url: deployment.redis.unixURL)
    )
    for replica in [one, two] { try replica.routes("a") }
    let record = try one.worker.granted(one.acquire())
    one.coordinator.notify(.targets(["T1", "T2"], session: record.id))
    #expect(try one.worker.granted(one.ask(.target(id: "T1"))).id == record.id)
    try waitUntil("the target is known to all") {
      try deployment.run(Targets(keys: deployment.keys).session(of: "T2")) == record.id
    }
    #expect(try two.worker.granted(two.ask(.target(id: "T2"))).id == record.id)
    #expect(try deployment.view(record.id)?.holders == ["r1", "r2"])
  }

  @Test("a session that is ended by somebody is over at every worker, with the reason")
  func ended() throws {
    let deployment = try FeedDeployment()
    let replica = try FeedReplica("r1", url: deployment.redis.unixURL)
    try replica.routes("a")
    let record = try replica.worker.granted(replica.acquire())
    try deployment.run(deployment.leases.end(session: record.id, reason: "operator", now: deployment.now))
    try waitUntil("the worker is told") { replica.worker.reason(of: record.id) == "operator" }
    // Its sockets close and are told; that must not touch the next session.
    let next = try replica.worker.granted(replica.acquire())
    replica.release(record.id)
    #expect(try replica.worker.refused(replica.ask(.attach(session: record.id))) == .unknown)
    #expect(try deployment.view(next.id)?.holders == ["r1"])
    try deployment.remove("a")
    try waitUntil("the instance's session ends") { replica.worker.reason(of: next.id) == "test" }
  }

  @Test("the heartbeat tells figures, and that bytes moved")
  func heartbeat() throws {
    let deployment = try FeedDeployment(pools: [World.pool(idle: 60_000)])
    let replica = try FeedReplica("r1", url: deployment.redis.unixURL)
    try replica.routes("a")
    let record = try replica.worker.granted(replica.acquire())
    let seen = try #require(try deployment.view(record.id)?.lastAccessed)
    // More than once: the first beat may come in the millisecond of the session's birth.
    try waitUntil("it is touched") {
      replica.coordinator.notify(.activity(session: record.id))
      return try deployment.view(record.id)!.lastAccessed > seen
    }
    let replicas = Replicas(keys: deployment.keys)
    #expect(try deployment.run(replicas.list()).map(\.id) == ["r1"])
    try waitUntil("the figures are there") {
      let figures = try deployment.run(replicas.figures(id: "r1"))
      return figures["color"] == "blue" && figures["heldSessions"] == "1"
    }
  }

  @Test("who waits asks again without the doorbell, and so stays in the queue")
  func retries() throws {
    let deployment = try FeedDeployment()
    let replica = try FeedReplica("r1", url: deployment.redis.unixURL, retryMilliseconds: 100)
    try replica.routes("a")
    let held = try replica.worker.granted(replica.acquire())
    let waiting = replica.acquire()
    try waitUntil("it waits") { try deployment.figures().waiting == 1 }
    func believedUntil() throws -> Int {
      let reply = try deployment.redis.command(
        "ZRANGE", deployment.keys.waitingExpiry(pool: "chrome"), "0", "0", "WITHSCORES")
      return try reply.pairs(of: "ZRANGE")[0].value.int(of: "ZRANGE")
    }
    let before = try believedUntil()
    try waitUntil("it has shown that it lives") { try believedUntil() > before }
    // A slot that becomes free without a sound.
    try deployment.redis.command(
      "DEL", deployment.keys.lease(session: held.id), deployment.keys.instanceSessions(instance: "a"))
    try deployment.redis.command("ZADD", deployment.keys.slots(pool: "chrome"), "1", "a")
    #expect(try replica.worker.granted(waiting).instance == "a")
  }

  @Test("a replica that was taken for dead holds its sessions again")
  func forgotten() throws {
    let deployment = try FeedDeployment()
    let replica = try FeedReplica("r1", url: deployment.redis.unixURL)
    try replica.routes("a")
    try deployment.createSession("rest-1")
    _ = try replica.worker.granted(replica.ask(.attach(session: "rest-1")))
    let replicas = Replicas(keys: deployment.keys)
    try waitUntil("it beats") {
      try deployment.run(replicas.list()).map(\.id) == ["r1"] && replica.coordinator.counters.held == 1
    }
    let forgotten = try deployment.run(replicas.forget(id: "r1", now: deployment.now))
    #expect(forgotten == ["rest-1"])
    try waitUntil("it holds it again") { try deployment.view("rest-1")?.holders == ["r1"] }
    #expect(replica.worker.reason(of: "rest-1") == nil)
  }

  @Test("a replica that stops refuses who waits and gives everything back at once")
  func stopping() throws {
    let deployment = try FeedDeployment()
    let replica = try FeedReplica("r1", url: deployment.redis.unixURL)
    try replica.routes("a")
    _ = try replica.worker.granted(replica.acquire())
    let waiting = replica.acquire()
    try waitUntil("it waits") { try deployment.figures().waiting == 1 }
    #expect(replica.coordinator.stop(timeoutMilliseconds: 20_000))
    #expect(try replica.worker.refused(waiting) == .unavailable)
    let figures = try deployment.figures()
    #expect(figures.waiting == 0 && figures.leases == 0)
    #expect(try deployment.run(Replicas(keys: deployment.keys).list()).isEmpty)
    #expect(try replica.worker.refused(replica.acquire()) == .unavailable)
    #expect(replica.coordinator.stop(timeoutMilliseconds: 20_000))
  }
}
