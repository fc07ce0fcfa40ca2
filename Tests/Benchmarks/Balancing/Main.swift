// What a request costs in the balancer, from 10 to 10,000 members: run it with
//   swift run -c release balancing-benchmark
// It prints nanoseconds per request (pick, began, answered and ended together) for each method and kind of pool. It asserts
// nothing: times depend on the machine, and on what else it does.
import Balancing

enum Kind: String, CaseIterable {
  case equal = "equal weights"
  case unequal = "unequal weights"
  case slowStart = "slow start"
  case ejected = "a third ejected"
}

struct Bench: ~Copyable {
  var balancer: PoolBalancer
  var now = 1_000_000
  var random: UInt64 = 88_172_645_463_325_252
  var number: UInt64 = 0
  var turns: [Turn]

  init(_ count: Int, _ kind: Kind, _ method: BalancingMethod) {
    var settings = BalancerSettings()
    settings.errorPercent = 50
    settings.ejectionBaseMilliseconds = 100_000_000
    settings.ejectionMaximumMilliseconds = 100_000_000
    if kind == .slowStart { settings.slowStartMilliseconds = 60_000 }
    balancer = PoolBalancer(settings, seed: 1)
    let members = (0..<count).map { place in
      BalancerMember(
        place: Int32(place), key: StableHash.mix(UInt64(place)), weight: kind == .unequal ? 1 + place % 7 : 1)
    }
    if kind == .slowStart { balancer.update([members[0]], methods: BalancingMethods(method), now: now) }
    balancer.update(members, methods: BalancingMethods(method), now: now)
    if kind == .ejected {
      for place in stride(from: 0, to: Int32(count), by: 3) {
        for _ in 0..<5 {
          var turn = balancer.began(place, now: now)
          balancer.ended(&turn, .failure, now: now)
        }
      }
    }
    // Two requests per member are under way all the time.
    turns = [Turn](repeating: Turn(), count: 2 * count)
  }

  mutating func run(_ requests: Int, _ method: BalancingMethod) {
    for _ in 0..<requests {
      number += 1
      if number & 63 == 0 { now += 1 }
      let slot = Int(number % UInt64(turns.count))
      balancer.answered(&turns[slot], .success, microseconds: Int(number & 1_023), now: now)
      balancer.ended(&turns[slot], .success, now: now)
      let place = balancer.pick(method, hash: number, now: now, random: &random, sequence: number)
      turns[slot] = balancer.began(place, now: now)
    }
  }
}

func nanoseconds(_ duration: Duration) -> Double {
  let (seconds, attoseconds) = duration.components
  return Double(seconds) * 1e9 + Double(attoseconds) / 1e9
}

func padded(_ text: String, _ width: Int) -> String {
  text + String(repeating: " ", count: max(0, width - text.count))
}

func rounded(_ value: Double) -> String { "\((value * 10).rounded() / 10)" }

@main struct Main {
  static let sizes = [10, 100, 1_000, 10_000]
  static let requests = 200_000

  static func main() {
    print("nanoseconds per request: pick, began, answered, ended")
    for kind in Kind.allCases {
      print("\n" + padded(kind.rawValue, 22) + sizes.map { padded("\($0)", 10) }.joined())
      for method in BalancingMethod.allCases {
        let cells = sizes.map { padded(rounded(measure($0, kind, method)), 10) }
        print(padded("\(method)", 22) + cells.joined())
      }
    }
    print("\n" + padded("update, milliseconds", 22) + sizes.map { padded("\($0)", 10) }.joined())
    for method in [BalancingMethod.roundRobin, .leastConnections, .hash] {
      print(padded("\(method)", 22) + sizes.map { padded(rounded(update($0, method)), 10) }.joined())
    }
    measureLimits()
  }

  /// The best of five, after a warm-up: what is more than that is not the balancer's.
  static func measure(_ count: Int, _ kind: Kind, _ method: BalancingMethod) -> Double {
    var bench = Bench(count, kind, method)
    bench.run(requests, method)
    var best = Double.infinity
    for _ in 0..<5 {
      let start = ContinuousClock.now
      bench.run(requests, method)
      best = min(best, nanoseconds(ContinuousClock.now - start) / Double(requests))
    }
    return best
  }

  /// One member more, with a ring: the dearest thing that a change of the routing table asks for.
  static func update(_ count: Int, _ method: BalancingMethod) -> Double {
    let members = (0...count).map { BalancerMember(place: Int32($0), key: StableHash.mix(UInt64($0))) }
    var balancer = PoolBalancer(BalancerSettings(), seed: 1)
    balancer.update(Array(members[..<count]), methods: BalancingMethods(method), now: 0)
    let start = ContinuousClock.now
    balancer.update(members, methods: BalancingMethods(method), now: 1)
    return nanoseconds(ContinuousClock.now - start) / 1e6
  }

  static func measureLimits() {
    let limiter = RateLimiter(seed: 1)
    let counter = ClientCounter(seed: 1)
    var budget = RetryBudget(percent: 20)
    var admitted = 0
    print("\n" + padded("nanoseconds, clients:", 22) + [1, 1_000, 50_000].map { padded("\($0)", 10) }.joined())
    func row(_ name: String, _ body: (UInt64, Int) -> Void) {
      let cells = [1, 1_000, 50_000].map { clients -> String in
        let start = ContinuousClock.now
        for number in 0..<requests { body(UInt64(number % clients), number) }
        return padded(rounded(nanoseconds(ContinuousClock.now - start) / Double(requests)), 10)
      }
      print(padded(name, 22) + cells.joined())
    }
    row("rate limit") { key, number in
      if limiter.admit(key, ratePerSecond: 100, burst: 10, nowMicroseconds: number) == 0 { admitted += 1 }
    }
    row("enter and leave") { key, _ in
      if let permit = counter.enter(key, limit: 10) { counter.leave(permit) }
    }
    row("retry budget") { _, number in
      budget.requested(now: number)
      if number & 7 == 0, budget.spend(now: number) { admitted += 1 }
    }
    print("(\(admitted) admitted)")
  }
}
