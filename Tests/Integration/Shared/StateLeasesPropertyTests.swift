// Many replicas and REST callers in parallel on one Redis, in random order, with lost answers and lost replicas: slots are
// never exceeded, the books always balance, and in the end everything is free again and nothing is left behind.
import Glibc
import Redis
import Routing
import State
import Synchronization
import TestSupport
import Testing

@Suite struct StateLeasesPropertyTests {
  private static let pools = [
    World.pool("exclusive", grace: 0), World.pool("shared", slots: 3, idle: 1_000, grace: 100),
    World.pool("spent", slots: 2, recycleAfterSessions: 5),
  ]
  private static let instances = ["exclusive": 3, "shared": 2, "spent": 2]
  private static let replicas = 6
  private static let steps = 1_000

  private final class Book: Sendable {
    let clock = Mutex(1_700_000_000_000)
    let violations = Mutex<[String]>([])
    let granted = Mutex(0)
    let done = Mutex(false)

    func tick() -> Int {
      clock.withLock { clock in
        // So that limits of time, and the 5 s of a waiter, pass while the test runs.
        clock += 10
        return clock
      }
    }
    /// The first few say enough.
    func complain(_ what: String) {
      violations.withLock { violations in
        if violations.count < 10, !violations.contains(what) { violations.append(what) }
      }
    }
  }

  @Test func slotsAreNeverExceededAndAllComesBack() throws {
    let seed = SplitMix64.printedSeed(for: "leases")
    var random = SplitMix64(seed: seed)
    let world = try World(pools: Self.pools)
    for (pool, count) in Self.instances {
      for number in 1...count { try world.put(world.instance("\(pool)-\(number)", pool: pool)) }
    }
    let book = Book()
    let redis = world.redis
    let keys = world.keys
    let fence = world.fence
    let checker = TestThread { try Self.check(redis, keys, book) }
    let leader = TestThread { [seed = random.next()] in try Self.lead(redis, keys, fence, book, seed: seed) }
    var replicas: [TestThread<Void>] = []
    for number in 1...Self.replicas {
      let seed = random.next()
      replicas.append(TestThread { try Self.serve(redis, keys, book, replica: "r-\(number)", seed: seed) })
    }
    for replica in replicas { try replica.join() }
    book.done.withLock { $0 = true }
    try checker.join()
    try leader.join()
    #expect(book.violations.withLock { $0 } == [], "seed \(seed)")
    #expect(book.granted.withLock { $0 } > 500, "seed \(seed)")

    // Replicas go, limits of time pass, and the leader cleans up.
    for number in 1...Self.replicas {
      try world.connection.run(world.replicas.forget(id: "r-\(number)", now: book.tick()))
    }
    world.now = book.tick() + 10_000_000
    for pool in Self.pools {
      while try world.connection.run(world.leases.endExpired(pool: pool.name, now: world.now, limit: 3)).count > 0 {}
      let figures = try world.figures(pool.name)
      #expect(figures.leases == 0, "seed \(seed)")
      #expect(figures.waiting == 0, "seed \(seed)")
      if pool.recycleAfterSessions == 0 {
        #expect(figures.freeSlots.values.reduce(0, +) == pool.slots * (Self.instances[pool.name] ?? 0), "seed \(seed)")
        #expect(figures.freeSlots.count == Self.instances[pool.name], "seed \(seed)")
      }
    }
    for instance in try world.connection.run(world.registry.instances()) { try world.remove(instance.id) }
    #expect(try world.remains() == [], "seed \(seed)")
  }

  /// A replica, with REST calls among its work: random calls on random sessions, each sometimes sent twice.
  private static func serve(_ redis: RedisFixture, _ keys: Keys, _ book: Book, replica: String, seed: UInt64) throws {
    var random = SplitMix64(seed: seed)
    let connection = try redis.connect()
    let leases = Leases(keys: keys)
    var held: [String] = []
    var waiting: SessionRecord?

    func template(_ number: Int) -> SessionRecord {
      let pool = pools[Int.random(in: 0..<pools.count, using: &random)]
      let now = book.tick()
      return SessionRecord(
        id: "\(replica)-\(number)", pool: pool.name, origin: Bool.random(using: &random) ? .rest : .connection,
        createdAt: now, expiresAt: now + 2_000, idleLimitMilliseconds: pool.idleLimitMilliseconds,
        graceMilliseconds: Bool.random(using: &random) ? pool.graceMilliseconds : nil,
        metadata: Bool.random(using: &random) ? ["replica": replica] : [:])
    }
    /// Runs it, and one time in four again, as if the answer had been lost.
    func run<R: Sendable>(_ command: Command<R>) throws -> R {
      let first = try connection.run(command)
      return Int.random(in: 0..<4, using: &random) == 0 ? try connection.run(command) : first
    }
    func take(_ grant: Grant) {
      guard case .granted(let record) = grant else { return }
      book.granted.withLock { $0 += 1 }
      held.append(record.id)
    }

    for step in 0..<steps {
      let session = held.randomElement(using: &random) ?? "\(replica)-none"
      // Who waits asks again and again; a dead waiter would hold up everybody for five seconds.
      if let record = waiting, Int.random(in: 0..<3, using: &random) > 0 {
        let grant = try run(
          leases.acquire(record, holder: replica, reserveMilliseconds: nil, queue: true, now: book.tick()))
        if case .queued = grant {} else { waiting = nil }
        take(grant)
      }
      switch Int.random(in: 0..<12, using: &random) {
      case 0, 1, 2:
        let record = template(step)
        let queue = Bool.random(using: &random) && waiting == nil
        let grant = try run(
          leases.acquire(
            record, holder: Bool.random(using: &random) ? replica : nil,
            reserveMilliseconds: Bool.random(using: &random) ? 100 : nil, queue: queue,
            countsAsUse: Bool.random(using: &random), now: book.tick()))
        if case .queued = grant { waiting = record }
        take(grant)
      case 3:
        let record = template(step)
        let instance = "\(record.pool)-\(Int.random(in: 1...3, using: &random))"
        take(try run(leases.claim(instance: instance, session: record, holder: replica, now: book.tick())))
      case 4:
        take(try run(leases.attach(session: session, holder: replica, now: book.tick())))
      case 5, 6:
        try run(leases.detach(session: session, holder: replica, now: book.tick()))
      case 7, 8:
        _ = try run(leases.end(session: session, reason: "client", now: book.tick()))
        held.removeAll { $0 == session }
      case 9:
        try run(leases.touch(sessions: held.suffix(3), now: book.tick()))
      case 10:
        // Given up, and sometimes dead without a word.
        if let record = waiting, Int.random(in: 0..<20, using: &random) > 0 {
          try run(leases.cancelWaiting(session: record.id, pool: record.pool))
        }
        waiting = nil
      default:
        _ = try run(
          Replicas(keys: keys).beat(
            id: replica, figures: ["step": "\(step)"], touched: held.suffix(2), now: book.tick()))
      }
    }
  }

  /// The leader: ends what expired, forgets replicas, changes states and generations of instances, removes and adds some.
  private static func lead(_ redis: RedisFixture, _ keys: Keys, _ fence: Fence, _ book: Book, seed: UInt64) throws {
    var random = SplitMix64(seed: seed)
    let connection = try redis.connect()
    let registry = Registry(keys: keys)
    var next = book.clock.withLock { $0 }
    while !(book.done.withLock { $0 }) {
      // Once in a while, or nobody would get far.
      guard book.clock.withLock({ $0 }) >= next else {
        sched_yield()
        continue
      }
      next += Int.random(in: 10...400, using: &random)
      let pool = pools[Int.random(in: 0..<pools.count, using: &random)]
      let number = Int.random(in: 1...(instances[pool.name] ?? 1), using: &random)
      let id = "\(pool.name)-\(number)"
      switch Int.random(in: 0..<8, using: &random) {
      case 0:
        try connection.run(
          Replicas(keys: keys).forget(id: "r-\(Int.random(in: 1...replicas, using: &random))", now: book.tick()))
      case 1 where number == 1:
        try connection.run(registry.remove(instance: id, reason: "test", fence: fence, now: book.tick()))
      case 2, 3, 4:
        let states: [InstanceState] = [.ready, .ready, .ready, .unhealthy, .draining]
        let state = states[Int.random(in: 0..<states.count, using: &random)]
        try connection.run(
          registry.put(
            instance: InstanceRecord(
              id: id, pool: pool.name, host: "127.0.0.1", port: 50_000 + number,
              generation: Int.random(in: 1...2, using: &random), state: state, slots: pool.slots),
            fence: fence, now: book.tick()))
      default:
        _ = try connection.run(Leases(keys: keys).endExpired(pool: pool.name, now: book.tick(), limit: 5))
      }
    }
    // All are there and ready in the end.
    for pool in pools {
      for number in 1...(instances[pool.name] ?? 1) {
        try connection.run(
          registry.put(
            instance: InstanceRecord(
              id: "\(pool.name)-\(number)", pool: pool.name, host: "127.0.0.1", port: 50_000 + number, generation: 3,
              state: .ready, slots: pool.slots),
            fence: fence, now: book.tick()))
      }
    }
  }

  /// Looks at everything at one moment, again and again, and reports what does not balance.
  private static func check(_ redis: RedisFixture, _ keys: Keys, _ book: Book) throws {
    let connection = try redis.connect()
    let look = #"""
      local prefix, problems, seen, count = ARGV[1], {}, {}, 0
      local function problem(text) problems[#problems + 1] = text end
      local pools = redis.call('HGETALL', prefix .. 'pools')
      for i = 1, #pools, 2 do
        local pool, settings = pools[i], cjson.decode(pools[i + 1])
        local instances, held = redis.call('HGETALL', prefix .. 'instances'), 0
        for j = 1, #instances, 2 do
          local id, instance = instances[j], cjson.decode(instances[j + 1])
          if instance.pool == pool then
            local sessions = redis.call('ZRANGE', prefix .. 'instance:' .. id .. ':sessions', 0, -1)
            held = held + #sessions
            if #sessions > instance.slots then problem(id .. ' has ' .. #sessions .. ' sessions') end
            local uses = tonumber(redis.call('HGET', prefix .. 'counters:' .. id, 'sessions') or 0)
            local spent = settings.recycleAfterSessions > 0 and uses >= settings.recycleAfterSessions
            local free, expected = redis.call('ZSCORE', prefix .. 'pool:' .. pool .. ':slots', id), false
            if instance.state == 'ready' and not spent then expected = tostring(instance.slots - #sessions) end
            if free ~= expected then problem(id .. ' has ' .. tostring(free) .. ' free slots, not ' .. tostring(expected)) end
            for _, session in ipairs(sessions) do
              seen[session] = id
              if redis.call('HGET', prefix .. 'lease:' .. session, 'instance') ~= id then problem(session .. ' is not on ' .. id) end
              if not redis.call('ZSCORE', prefix .. 'pool:' .. pool .. ':leases', session) then problem(session .. ' has no expiry') end
              if not redis.call('ZSCORE', prefix .. 'sessions', session) then problem(session .. ' is not listed') end
              if redis.call('EXISTS', 'session:' .. session) == 0 then problem(session .. ' has no record') end
              local fields, active = redis.call('HGETALL', prefix .. 'lease:' .. session), false
              local state
              for k = 1, #fields, 2 do
                if fields[k] == 'state' then state = fields[k + 1] end
                if string.sub(fields[k], 1, 7) == 'holder:' then
                  active = true
                  if redis.call('SISMEMBER', prefix .. 'replica:' .. string.sub(fields[k], 8) .. ':sessions', session) == 0 then
                    problem(session .. ' is not among the sessions of its holder')
                  end
                end
              end
              if active ~= (state == 'active') then problem(session .. ' is ' .. state) end
            end
          end
        end
        if redis.call('ZCARD', prefix .. 'pool:' .. pool .. ':leases') ~= held then problem(pool .. ' has other leases than its instances') end
        local waiting, alive = prefix .. 'pool:' .. pool .. ':waiting', prefix .. 'pool:' .. pool .. ':waiting-expiry'
        if redis.call('ZCARD', waiting) ~= redis.call('ZCARD', alive) then problem(pool .. ' has waiters without expiry') end
        count = count + held
      end
      if redis.call('ZCARD', prefix .. 'sessions') ~= count then problem('other sessions are listed than held') end
      for replica = 1, 6 do
        for _, session in ipairs(redis.call('SMEMBERS', prefix .. 'replica:r-' .. replica .. ':sessions')) do
          if redis.call('HEXISTS', prefix .. 'lease:' .. session, 'holder:r-' .. replica) == 0 then
            problem('r-' .. replica .. ' has a session that it does not hold')
          end
        end
      end
      return problems
      """#
    while !(book.done.withLock { $0 }) {
      for problem in try connection.run(raw("EVAL", look, "0", keys.prefix)).strings(of: "look") {
        book.complain(problem)
      }
    }
  }

  // MARK: The queue

  @Test func whoeverHammersTheQueueOrderStays() throws {
    let seed = SplitMix64.printedSeed(for: "queue")
    var random = SplitMix64(seed: seed)
    let world = try World()
    try world.put(world.instance("c-1"))
    _ = try world.acquire("has-it", holder: "r-0")
    // Names in random order, arrivals within a few milliseconds.
    let names = (0..<24).map { "w-\($0)" }.shuffled(using: &random)
    for name in names {
      #expect(try world.acquire(name, queue: true).isGranted == false)
      world.now += Int.random(in: 0...1, using: &random)
    }
    let order = Mutex<[String]>([])
    let redis = world.redis
    let leases = world.leases
    let records = names.map { world.session($0) }
    let now = world.now
    var threads: [TestThread<Void>] = []
    // Each thread asks for its share of the waiters in an order of its own until all of them have had the slot.
    for group in 0..<4 {
      let seed = random.next()
      threads.append(
        TestThread { [records] in
          var random = SplitMix64(seed: seed)
          let connection = try redis.connect()
          var mine = records.enumerated().filter { $0.offset % 4 == group }.map(\.element)
          while !mine.isEmpty {
            let index = Int.random(in: 0..<mine.count, using: &random)
            let grant = try connection.run(
              leases.acquire(mine[index], holder: "r-\(group)", reserveMilliseconds: nil, queue: true, now: now))
            guard case .granted(let record) = grant else { continue }
            order.withLock { $0.append(record.id) }
            mine.remove(at: index)
            try connection.run(leases.detach(session: record.id, holder: "r-\(group)", now: now))
          }
        })
    }
    // Newcomers never overtake while somebody waits.
    let newcomer = TestThread { [template = world.session("newcomer")] in
      let connection = try redis.connect()
      while order.withLock({ $0.count }) < 24 {
        let grant = try connection.run(
          leases.acquire(template, holder: "r-9", reserveMilliseconds: nil, queue: false, now: now))
        if case .granted(let record) = grant {
          order.withLock { $0.append(record.id) }
          try connection.run(leases.detach(session: record.id, holder: "r-9", now: now))
        }
      }
    }
    #expect(try world.end("has-it"))
    for thread in threads { try thread.join() }
    try newcomer.join()
    let granted = order.withLock { $0 }
    #expect(Array(granted.prefix(24)) == names, "seed \(seed)")
  }
}
