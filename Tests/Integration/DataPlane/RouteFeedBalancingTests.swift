// What replicas balance by as one: blocks of turns, the number of replicas, loads of instances, and queue timeouts of
// routes. Coordinators against one real Redis.
import ProxyMachine
import Redis
import Routing
import State
import TestSupport
import Testing

@testable import RouteFeed

@Suite("Route feed: balancing") struct RouteFeedBalancingTests {
  // MARK: Turns

  @Test("blocks of turns are never lent twice, and cover all turns")
  func blocks() throws {
    let deployment = try FeedDeployment(pools: [World.pool(), World.pool("web", slots: 0)])
    let replicas = try ["r1", "r2"].map { try FeedReplica($0, url: deployment.redis.unixURL) }
    for replica in replicas { try replica.routes("a") }
    for _ in 0..<10 {
      for replica in replicas {
        for pool in ["web", "chrome"] { replica.coordinator.notify(.borrow(pool: pool, worker: 0)) }
      }
    }
    for pool in ["web", "chrome"] {
      try waitUntil("all blocks of \(pool) came") { replicas.allSatisfy { $0.worker.blocks(pool).count == 10 } }
      let blocks = replicas.flatMap { $0.worker.blocks(pool) }.sorted { $0.lowerBound < $1.lowerBound }
      let starts: [UInt64] = (0..<20).map { $0 * 256 }
      #expect(blocks.map(\.lowerBound) == starts)
      #expect(blocks.allSatisfy { $0.count == 256 })
    }
    #expect(replicas[0].coordinator.counters.blocks == 20)
  }

  @Test("a pool that is not there has no turns, and leaves none")
  func noPool() throws {
    let deployment = try FeedDeployment(pools: [World.pool(), World.pool("web", slots: 0)])
    let replica = try FeedReplica("r1", url: deployment.redis.unixURL)
    try replica.routes("a")
    // For a worker that is not there, too: nobody to tell.
    for notice in [
      SlotNotice.borrow(pool: "other", worker: 0), .borrow(pool: "web", worker: 9), .borrow(pool: "web", worker: 0),
    ] { replica.coordinator.notify(notice) }
    try waitUntil("the block came") { replica.worker.blocks("web") == [256..<512] }
    #expect(replica.worker.blocks("other").isEmpty && replica.coordinator.counters.blocks == 1)
    #expect(try deployment.redis.keyspace().filter { $0.contains(":cursor ") } == ["berth:pool:web:cursor (string)"])
    try deployment.declare([World.pool()])
    #expect(try deployment.redis.keyspace().contains { $0.contains(":cursor ") } == false)
  }

  @Test("without Redis no block comes, and asking again later brings one")
  func blocksWithoutRedis() throws {
    let deployment = try FeedDeployment()
    let relay = try FeedRelay(deployment.redis)
    defer { relay.close() }
    let replica = try FeedReplica("r1", url: relay.url)
    try replica.routes("a")
    relay.cut()
    replica.coordinator.notify(.borrow(pool: "chrome", worker: 0))
    // What is asked after it is answered, so it has been dealt with.
    #expect(try replica.worker.refused(replica.acquire()) == .unavailable)
    #expect(replica.worker.blocks("chrome").isEmpty)
    relay.mend()
    try waitUntil("a block comes again") {
      replica.coordinator.notify(.borrow(pool: "chrome", worker: 0))
      return !replica.worker.blocks("chrome").isEmpty
    }
  }

  // MARK: Replicas

  @Test("workers know how many replicas are alive")
  func replicas() throws {
    let deployment = try FeedDeployment()
    let one = try FeedReplica("r1", url: deployment.redis.unixURL)
    try one.routes("a")
    #expect(one.worker.replicas == [1])
    let two = try FeedReplica("r2", url: deployment.redis.unixURL)
    for replica in [one, two] {
      try waitUntil("\(replica.id) counts two") { replica.worker.replicas == [1, 2] }
      #expect(replica.coordinator.counters.replicas == 2)
    }
    #expect(two.coordinator.stop(timeoutMilliseconds: 5_000))
    try waitUntil("one is left") { one.worker.replicas == [1, 2, 1] }
    // One that fell silent without a goodbye counts no longer than its beat is young.
    let replicas = Replicas(keys: deployment.keys)
    try deployment.run(replicas.beat(id: "dead", figures: [:], touched: [], now: deployment.now - 60_000))
    try deployment.run(replicas.beat(id: "alive", figures: [:], touched: [], now: deployment.now + 60_000))
    try waitUntil("the living one is counted") { one.worker.replicas == [1, 2, 1, 2] }
  }

  // MARK: Loads

  private func load(_ cpu: Double, _ memory: Double) -> InstanceLoad {
    InstanceLoad(cpuPercent: cpu, memoryPercent: memory)
  }

  @Test("loads come to workers, change, and go with their instance")
  func loads() throws {
    let deployment = try FeedDeployment(instances: ["a", "b"])
    let balancing = Balancing(keys: deployment.keys)
    try deployment.declare([World.pool()], strategy: .resources)
    try deployment.run(balancing.put(loads: ["a": load(112.34, 5), "b": load(0, 99.96), "gone": load(1, 1)]))
    let replica = try FeedReplica("r1", url: deployment.redis.unixURL)
    try waitUntil("the loads came") { replica.worker.loads == ["a": load(112.3, 5), "b": load(0, 100)] }
    try deployment.remove("a")
    try deployment.run(balancing.put(loads: ["b": load(50, 50)]))
    try waitUntil("they changed") { replica.worker.loads == ["b": load(50, 50)] }
    // One that the leader cannot measure any more goes although it is still there.
    try deployment.put("c")
    try deployment.run(balancing.put(loads: ["c": load(7, 7)]))
    try waitUntil("the old one has gone") { replica.worker.loads == ["c": load(7, 7)] }
    try deployment.run(balancing.put(loads: [:]))
    try waitUntil("all have gone") { replica.worker.loads == [:] }
    try deployment.run(balancing.put(loads: ["b": load(50, 50)]))
    // Somebody's hand: what cannot be read counts as not measured.
    try deployment.redis.command("HSET", deployment.keys.load, "b", "much")
    try waitUntil("it is not known") { replica.worker.loads == [:] }
    let life = try deployment.redis.command("PTTL", deployment.keys.load).int(of: "PTTL")
    #expect((1...Balancing.loadLifeMilliseconds).contains(life))
  }

  @Test("loads are read only when a route goes by them")
  func noLoads() throws {
    let deployment = try FeedDeployment()
    try deployment.run(Balancing(keys: deployment.keys).put(loads: ["a": load(1, 2)]))
    let replica = try FeedReplica("r1", url: deployment.redis.unixURL)
    try replica.routes("a")
    // The first beat counts replicas; loads would have been read with it.
    let other = try FeedReplica("r2", url: deployment.redis.unixURL)
    try waitUntil("replicas were counted") { replica.worker.replicas.last == 2 && other.worker.replicas.last == 2 }
    #expect(replica.worker.loads.isEmpty)
    try deployment.declare([World.pool()], strategy: .resources)
    try waitUntil("a route goes by them now") {
      // They do not live for ever.
      try deployment.run(Balancing(keys: deployment.keys).put(loads: ["a": load(1, 2)]))
      return replica.worker.loads == ["a": load(1, 2)]
    }
  }

  // MARK: Queue timeouts of routes

  private func ask(_ replica: FeedReplica, timeout: Int?) -> UInt64 {
    replica.ask(.acquire(pool: "chrome", reserve: false, countsAsUse: false), queueTimeout: timeout)
  }

  @Test("a route may wait shorter than its pool, or not at all")
  func shorter() throws {
    var pool = World.pool()
    pool.queueTimeoutMilliseconds = 60_000
    let deployment = try FeedDeployment(pools: [pool])
    let replica = try FeedReplica("r1", url: deployment.redis.unixURL)
    try replica.routes("a")
    _ = try replica.worker.granted(replica.acquire())
    #expect(try replica.worker.refused(ask(replica, timeout: 0)) == .timedOut)
    #expect(replica.coordinator.counters.queued == 0)
    #expect(try replica.worker.refused(ask(replica, timeout: 30)) == .timedOut)
    #expect(replica.coordinator.counters.queued == 1)
    // Nobody else is taken for somebody who waits.
    try waitUntil("it is taken out of the queue") { try deployment.figures().waiting == 0 }
    let patient = ask(replica, timeout: nil)
    try waitUntil("it waits") { replica.coordinator.counters.waiting == 1 }
    try deployment.put("b")
    #expect(try replica.worker.granted(patient).instance == "b")
  }

  @Test("a route may wait where its pool does not let anybody")
  func longer() throws {
    var pool = World.pool()
    pool.queueTimeoutMilliseconds = 0
    let deployment = try FeedDeployment(pools: [pool])
    let replica = try FeedReplica("r1", url: deployment.redis.unixURL)
    try replica.routes("a")
    _ = try replica.worker.granted(replica.acquire())
    #expect(try replica.worker.refused(replica.acquire()) == .timedOut)
    let patient = ask(replica, timeout: 60_000)
    try waitUntil("it waits") { replica.coordinator.counters.waiting == 1 }
    try deployment.put("b")
    #expect(try replica.worker.granted(patient).instance == "b")
  }

  @Test("the pool's limit of waiting clients counts those of all routes")
  func globalLimit() throws {
    var pool = World.pool()
    pool.queueLimit = 2
    let deployment = try FeedDeployment(pools: [pool])
    let replicas = try ["r1", "r2"].map { try FeedReplica($0, url: deployment.redis.unixURL) }
    for replica in replicas { try replica.routes("a") }
    _ = try replicas[0].worker.granted(replicas[0].acquire())
    for (replica, timeout) in zip(replicas, [nil, 60_000]) {
      _ = ask(replica, timeout: timeout)
      try waitUntil("it waits") { replica.coordinator.counters.waiting == 1 }
    }
    #expect(try replicas[0].worker.refused(ask(replicas[0], timeout: 60_000)) == .queueFull)
  }
}
