// Many port allocators in parallel against one Redis, some of them killed at random points: no port is handed out twice
// and none is lost.
import Redis
import Routing
import State
import Synchronization
import TestSupport
import Testing

@Suite struct StatePortsPropertyTests {
  private static let range = 50_000...50_023
  private static let allocators = 6
  private static let kills = 60
  /// Calls between two kills, at most.
  private static let callsPerKill = 40

  /// What the test itself knows; `clock` gives every call a later time.
  private final class Book: Sendable {
    struct State {
      var clock = 1_700_000_000_000
      var calls = 0
      var stopping = false
      /// Who has which port, as its allocator was told.
      var held: [Int: String] = [:]
      var living: Set<String> = []
      var names = 0
      var violations: [String] = []
      var killedInFlight = 0
      var grants = 0
    }
    let state = Mutex(State())

    func tick() -> Int {
      state.withLock { state in
        state.clock += 1
        state.calls += 1
        return state.clock
      }
    }
    func newOwner() -> String {
      state.withLock { state in
        state.names += 1
        state.living.insert("owner-\(state.names)")
        return "owner-\(state.names)"
      }
    }
    var isStopping: Bool { state.withLock { $0.stopping } }
    /// The first few say enough.
    func complain(_ what: String) { state.withLock { if $0.violations.count < 10 { $0.violations.append(what) } } }
  }

  @Test func noPortIsHandedOutTwiceAndNoneIsLost() throws {
    let seed = SplitMix64.printedSeed(for: "ports")
    var random = SplitMix64(seed: seed)
    let redis = try RedisFixture()
    let connection = try redis.connect()
    let ports = Ports(keys: Keys(), host: "h")
    let book = Book()
    try connection.run(ports.configure(range: Self.range, now: book.tick()))

    let leader = TestThread { try Self.lead(redis, ports, book) }
    let checker = TestThread { try Self.check(redis, book) }
    typealias Allocator = (thread: TestThread<Void>, interrupter: RedisInterrupter)
    func start() throws -> Allocator {
      let interrupter = try RedisInterrupter()
      let seed = random.next()
      return (TestThread { try Self.allocate(redis, ports, book, interrupter, seed: seed) }, interrupter)
    }
    var allocators: [Allocator] = []
    for _ in 0..<Self.allocators { allocators.append(try start()) }
    for _ in 0..<Self.kills {
      let goal = book.state.withLock { $0.calls } + Int.random(in: 1...Self.callsPerKill, using: &random)
      try waitUntil("the allocators go on") { book.state.withLock { $0.calls } >= goal }
      let index = Int.random(in: 0..<allocators.count, using: &random)
      allocators[index].interrupter.interrupt()
      try allocators[index].thread.join()
      allocators[index] = try start()
    }
    book.state.withLock { $0.stopping = true }
    for allocator in allocators { try allocator.thread.join() }
    try leader.join()
    try checker.join()

    // What the killed ones had sent is done, too.
    try waitUntil("no connection but this one is left") {
      try connection.run(raw("CLIENT", "LIST")).text?.split(whereSeparator: \.isNewline).count == 1
    }
    let end = book.tick() + 1_000_000
    try connection.run(ports.reclaim(keeping: [], olderThan: end, now: end))
    let state = book.state.withLock { $0 }
    #expect(state.violations == [], "seed \(seed)")
    #expect(state.grants > 100, "seed \(seed)")
    #expect(state.killedInFlight > 0, "seed \(seed): no allocator was killed while it waited for an answer")
    #expect(try connection.run(ports.figures()) == PortFigures(free: Self.range.count, allocated: 0, quarantined: 0))
    let free = try connection.run(raw("ZRANGE", Keys().portsFree(host: "h"), "0", "-1")).strings(of: "free")
    #expect(free.compactMap { Int($0) }.sorted() == Array(Self.range), "seed \(seed)")
    #expect(try redis.keyspace() == ["berth:ports:h:free (zset)", "berth:ports:h:range (string)"])
  }

  /// One allocator's life: takes, renews, quarantines and releases ports, until it is killed or the test ends.
  private static func allocate(
    _ redis: RedisFixture, _ ports: Ports, _ book: Book, _ interrupter: RedisInterrupter, seed: UInt64
  ) throws {
    var random = SplitMix64(seed: seed)
    var mine: [(port: Int, owner: String)] = []
    var owners: Set<String> = []
    do throws(RedisError) {
      let connection = try RedisConnection(url: redis.unixURL, interrupter: interrupter)
      while !book.isStopping {
        let choice = Int.random(in: 0..<10, using: &random)
        if mine.isEmpty || choice < 5 {
          let owner = book.newOwner()
          owners.insert(owner)
          let port = try connection.run(ports.allocate(owner: owner, now: book.tick()))
          guard let port else { continue }
          // As after a lost answer: it is the same port.
          if choice == 0, try connection.run(ports.allocate(owner: owner, now: book.tick())) != port {
            book.complain("\(owner) got \(port) and then another one")
          }
          book.state.withLock { state in
            if let other = state.held[port] { state.violations.append("\(port) went to \(owner), \(other) has it") }
            state.held[port] = owner
            state.grants += 1
          }
          mine.append((port, owner))
        } else {
          let index = Int.random(in: 0..<mine.count, using: &random)
          let (port, owner) = mine[index]
          if choice == 5 {
            if try !connection.run(ports.renew(port: port, owner: owner, now: book.tick())) {
              book.complain("\(owner) lost \(port)")
            }
            continue
          }
          mine.remove(at: index)
          book.state.withLock { $0.held[port] = nil }
          let now = book.tick()
          let command =
            choice == 6
            ? ports.quarantine(port: port, owner: owner, until: now + 50, now: now)
            : ports.release(port: port, owner: owner, now: now)
          if try !connection.run(command) { book.complain("\(owner) could not give \(port) back") }
        }
      }
    } catch {
      guard error == .interrupted else { throw error }
      book.state.withLock { $0.killedInFlight += 1 }
    }
    // It is never seen again: what it had may be reclaimed from now on.
    book.state.withLock { state in
      for (port, _) in mine { state.held[port] = nil }
      state.living.subtract(owners)
    }
  }

  /// The leader: reclaims what unknown owners have. Owners that began after its look are younger than `olderThan`.
  private static func lead(_ redis: RedisFixture, _ ports: Ports, _ book: Book) throws {
    let connection = try redis.connect()
    while !book.isStopping {
      let cut = book.tick()
      let living = book.state.withLock { $0.living }
      for lease in try connection.run(ports.reclaim(keeping: Array(living), olderThan: cut, now: book.tick())) {
        if living.contains(lease.owner) { book.complain("\(lease.port) was taken from \(lease.owner), which lives") }
      }
    }
  }

  /// Looks at all sets at one moment, again and again: every port of the range is in exactly one of them.
  private static func check(_ redis: RedisFixture, _ book: Book) throws {
    let connection = try redis.connect()
    let keys = Keys()
    let look = """
      local owners, ports = redis.call('HGETALL', KEYS[4]), redis.call('HGETALL', KEYS[5])
      return {redis.call('ZRANGE', KEYS[1], 0, -1), redis.call('ZRANGE', KEYS[2], 0, -1),
        redis.call('ZRANGE', KEYS[3], 0, -1), owners, ports}
      """
    while !book.isStopping {
      let parts = try connection.run(
        raw(
          "EVAL", look, "5", keys.portsFree(host: "h"), keys.portsAllocated(host: "h"),
          keys.portsQuarantined(host: "h"), keys.portsOwner(host: "h"), keys.portsByOwner(host: "h"))
      ).list(of: "look", count: 5)
      let sets = try parts.prefix(3).map { try $0.strings(of: "look").compactMap { Int($0) } }
      if sets.flatMap(\.self).sorted() != Array(range) { book.complain("free, allocated, quarantined are \(sets)") }
      let owners = try parts[3].pairs(of: "owners").map { "\($0.name) \($0.value.text ?? "")" }
      let byOwner = try parts[4].pairs(of: "ports").map { "\($0.value.text ?? "") \($0.name)" }
      if owners.sorted() != byOwner.sorted() || owners.count != sets[1].count {
        book.complain("allocated \(sets[1]), owners \(owners), by owner \(byOwner)")
      }
    }
  }
}
