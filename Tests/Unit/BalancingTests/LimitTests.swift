// Retry budgets, rates and connections per client: never more than allowed, also when threads race.
import Balancing
import Synchronization
import TestSupport
import Testing

@Suite struct RetryBudgetTests {
  /// How many of a hundred retries are allowed.
  static func spend(_ budget: inout RetryBudget, now: Int) -> Int {
    var spent = 0
    for _ in 0..<100 where budget.spend(now: now) { spent += 1 }
    return spent
  }

  @Test func retriesAreAShareOfRecentRequests() {
    var budget = RetryBudget(percent: 20, floorPerSecond: 0)
    let before = Self.spend(&budget, now: 1_000_000)
    for _ in 0..<100 { budget.requested(now: 1_000_000) }
    let share = Self.spend(&budget, now: 1_004_000)
    // Ten seconds later neither the requests nor their retries count.
    let after = Self.spend(&budget, now: 1_010_000)
    for _ in 0..<10 { budget.requested(now: 1_011_000) }
    let new = Self.spend(&budget, now: 1_014_000)
    #expect([before, share, after, new] == [0, 20, 0, 2])
  }

  @Test func theFloorIsForQuietRoutes() {
    var budget = RetryBudget(percent: 0, floorPerSecond: 3)
    let spent = [50_000, 59_999, 60_000].map { Self.spend(&budget, now: $0) }
    #expect(spent == [30, 0, 30])
  }

  @Test func aFailingPoolGetsAFifthMore() {
    var budget = RetryBudget(percent: 20, floorPerSecond: 1)
    var retries = 0
    for request in 0..<100_000 {
      budget.requested(now: request)
      // Each request and each retry fails.
      while budget.spend(now: request) { retries += 1 }
    }
    #expect(retries > 19_000 && retries <= 20_000 + 10 * 11)
  }
}

@Suite struct RateLimiterTests {
  @Test func aBurstAndThenTheRate() {
    let limiter = RateLimiter(capacity: 64, seed: 1)
    var now = 1_000_000_000
    func admitted(_ requests: Int) -> Int {
      (0..<requests).count { _ in limiter.admit(7, ratePerSecond: 10, burst: 5, nowMicroseconds: now) == 0 }
    }
    #expect(admitted(20) == 5)
    #expect(limiter.admit(7, ratePerSecond: 10, burst: 5, nowMicroseconds: now) == 100)
    now += 99_500
    #expect(limiter.admit(7, ratePerSecond: 10, burst: 5, nowMicroseconds: now) == 1)
    now += 500
    #expect(admitted(20) == 1)
    now += 10_000_000
    #expect(admitted(20) == 5, "what was not used is not saved beyond the burst")
    // Others are not touched.
    #expect(limiter.admit(8, ratePerSecond: 10, burst: 5, nowMicroseconds: now) == 0)
    #expect(limiter.overflows == 0)
  }

  @Test(arguments: [(0.5, 1), (3, 1), (7, 20), (1_000, 100), (30_000, 1)])
  func neverMoreThanRateAndBurst(rate: Double, burst: Int) {
    let seed = SplitMix64.printedSeed(for: "rate limiter")
    var random = SplitMix64(seed: seed)
    let limiter = RateLimiter(capacity: 8, seed: seed)
    // Across the point where times begin anew.
    var now = (1 << 43) * 3 - Int(1e7 / rate)
    let start = now
    var admitted = 0
    var refused = 0
    for _ in 0..<20_000 {
      now += Int(random.next() % UInt64(6e5 / rate))
      let wait = limiter.admit(1, ratePerSecond: rate, burst: burst, nowMicroseconds: now)
      let allowed = Double(burst) + Double(now - start) / 1e6 * rate
      if wait == 0 {
        admitted += 1
        #expect(Double(admitted) <= allowed)
      } else {
        refused += 1
        // It is admitted after the time that was said, and not a millisecond before.
        if rate <= 1_000, random.chance(10) {
          #expect(limiter.admit(1, ratePerSecond: rate, burst: burst, nowMicroseconds: now + wait * 1_000 - 1_001) > 0)
          now += wait * 1_000
          #expect(limiter.admit(1, ratePerSecond: rate, burst: burst, nowMicroseconds: now) == 0)
          admitted += 1
        }
      }
    }
    #expect(now > (1 << 43) * 3)
    #expect(refused > 1_000)
    // And not much less: what is lost is the bursts that nobody used, and rounding to microseconds.
    #expect(Double(admitted) > 0.8 * Double(now - start) / 1e6 * rate)
  }

  @Test func extremesDoNoHarm() {
    let limiter = RateLimiter(capacity: 64, seed: 1)
    #expect(limiter.admit(1, ratePerSecond: 0, burst: 0, nowMicroseconds: 0) == 0)
    #expect(limiter.admit(1, ratePerSecond: 0, burst: 0, nowMicroseconds: 0) > 2_000_000)
    #expect(limiter.admit(2, ratePerSecond: 1e12, burst: .max, nowMicroseconds: .max) == 0)
    #expect(limiter.admit(3, ratePerSecond: .infinity, burst: 1, nowMicroseconds: -5) == 0)
    #expect(limiter.admit(4, ratePerSecond: 0.001, burst: .max, nowMicroseconds: 5) == 0)
    #expect(limiter.admit(4, ratePerSecond: 0.001, burst: .max, nowMicroseconds: 5) == 0)
  }

  @Test func fullSetsLetThrough() {
    let limiter = RateLimiter(capacity: 8, seed: 1)
    for client in 0..<8 { #expect(limiter.admit(UInt64(client), ratePerSecond: 1, burst: 1, nowMicroseconds: 0) == 0) }
    for client in 0..<8 { #expect(limiter.admit(UInt64(client), ratePerSecond: 1, burst: 1, nowMicroseconds: 0) > 0) }
    for _ in 0..<3 { #expect(limiter.admit(99, ratePerSecond: 1, burst: 1, nowMicroseconds: 0) == 0) }
    #expect(limiter.overflows == 3)
    // When the others are idle again, their entries are used.
    for client in 10..<18 {
      let key = UInt64(client)
      #expect(limiter.admit(key, ratePerSecond: 1, burst: 1, nowMicroseconds: 1_000_000) == 0)
      #expect(limiter.admit(key, ratePerSecond: 1, burst: 1, nowMicroseconds: 1_000_000) > 0)
    }
    #expect(limiter.overflows == 3)
  }

  /// Threads send for the same few clients, and then for the next ones, so that entries are made by several at once,
  /// left and reused all the time.
  @Test func racingThreadsNeverGetMore() throws {
    let seed = SplitMix64.printedSeed(for: "racing rate limiter")
    for round in 0..<80 {
      let limiter = RateLimiter(capacity: 8, seed: seed &+ UInt64(round))
      let clock = Number()
      let admitted = (0..<600).map { _ in Number() }
      let last = (0..<600).map { _ in Number() }
      let threads = (0..<4).map { thread in
        TestThread {
          var random = SplitMix64(seed: seed &+ UInt64(round * 10 + thread))
          for _ in 0..<5_000 {
            // A client is there for eight microseconds, and sends some eighty requests in them.
            let now = clock.add(random.below(10) == 0 ? 1 : 0)
            let client = now / 8 * 2 + random.below(2)
            if limiter.admit(UInt64(client), ratePerSecond: 500_000, burst: 2, nowMicroseconds: now) == 0 {
              admitted[client].add(1)
              last[client].raise(to: clock.value)
            }
          }
        }
      }
      for thread in threads { try thread.join() }
      // One request per two microseconds, and two at once. A thread that was stopped with an old time in its hand may
      // find the client forgotten, or all entries taken by those that come later in its eyes.
      var excess = 0
      for client in 0..<600 {
        let elapsed = max(last[client].value - client / 2 * 8, 0)
        excess += max(admitted[client].value - (2 + elapsed / 2), 0)
      }
      // On a machine with more to do than these four threads, some are stopped just there.
      #expect(excess <= limiter.overflows + 4, "round \(round)")
      #expect(admitted.count { $0.value >= 3 } > 200)
    }
  }
}

/// A number that threads add to.
private final class Number: Sendable {
  private let atomic: Atomic<Int>
  init(_ value: Int = 0) { atomic = Atomic(value) }
  @discardableResult func add(_ amount: Int) -> Int { atomic.add(amount, ordering: .sequentiallyConsistent).newValue }
  func raise(to value: Int) { _ = atomic.max(value, ordering: .sequentiallyConsistent) }
  var value: Int { atomic.load(ordering: .sequentiallyConsistent) }
}

@Suite struct ClientCounterTests {
  @Test func upToTheLimit() throws {
    let counter = ClientCounter(capacity: 64, seed: 1)
    let permits = try (0..<3).map { _ in try #require(counter.enter(5, limit: 3)) }
    #expect(counter.enter(5, limit: 3) == nil)
    #expect(counter.count(5) == 3 && counter.count(6) == 0)
    // Another one's limit is its own; a raised limit counts at once.
    let other = try #require(counter.enter(6, limit: 1))
    let fourth = try #require(counter.enter(5, limit: 4))
    counter.leave(fourth)
    counter.leave(other)
    for permit in permits { counter.leave(permit) }
    #expect(counter.count(5) == 0)
    counter.leave(.none)
    let again = try #require(counter.enter(5, limit: 1))
    #expect(counter.enter(5, limit: 1) == nil)
    counter.leave(again)
  }

  @Test func aFullTableLetsIn() throws {
    let counter = ClientCounter(capacity: 8, seed: 1)
    let permits = try (0..<8).map { try #require(counter.enter(UInt64($0), limit: 1)) }
    for _ in 0..<2 { counter.leave(try #require(counter.enter(100, limit: 1))) }
    #expect(counter.overflows == 2)
    counter.leave(permits[3])
    let permit = try #require(counter.enter(100, limit: 1))
    #expect(counter.enter(100, limit: 1) == nil)
    #expect(counter.enter(2, limit: 1) == nil)
    counter.leave(permit)
    #expect(counter.overflows == 2)
  }

  /// Threads come and go as few clients, so that entries appear and disappear all the time, often two for one client.
  @Test func racingThreadsCountExactly() throws {
    let seed = SplitMix64.printedSeed(for: "racing client counter")
    for round in 0..<80 {
      let counter = ClientCounter(capacity: 8, seed: seed &+ UInt64(round))
      let inside = (0..<3).map { _ in Number() }
      let highest = (0..<3).map { _ in Number() }
      let threads = (0..<4).map { thread in
        TestThread {
          var random = SplitMix64(seed: seed &+ UInt64(round * 10 + thread))
          var held: [(client: Int, permit: ClientCounter.Permit)] = []
          var refused = 0
          for _ in 0..<5_000 {
            if random.chance(50), let last = held.popLast() {
              // Counted out before it leaves, and in after it entered: the model never counts more than the counter.
              inside[last.client].add(-1)
              counter.leave(last.permit)
            } else {
              let client = random.below(3)
              if let permit = counter.enter(UInt64(client), limit: 2) {
                highest[client].raise(to: inside[client].add(1))
                held.append((client, permit))
              } else {
                refused += 1
              }
            }
          }
          for (client, permit) in held {
            inside[client].add(-1)
            counter.leave(permit)
          }
          return refused
        }
      }
      let refused = try threads.map { try $0.join() }.reduce(0, +)
      for client in 0..<3 {
        #expect(highest[client].value <= 2, "round \(round)")
        #expect(counter.count(UInt64(client)) == 0)
      }
      #expect(refused > 0)
      #expect(counter.overflows == 0)
      // Nothing was left behind: there is room for eight others.
      for client in 10..<18 { _ = counter.enter(UInt64(client), limit: 1) }
      #expect(counter.overflows == 0)
    }
  }
}
