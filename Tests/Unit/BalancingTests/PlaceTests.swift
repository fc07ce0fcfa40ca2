// Places at instances and the line before them, and the two tiers of a pool.
import Balancing
import TestSupport
import Testing

/// A queue that `#expect` can look at.
private final class Line {
  private var queue: PlaceQueue
  init(limit: Int) { queue = PlaceQueue(limit: limit) }
  var limit: Int {
    get { queue.limit }
    set { queue.limit = newValue }
  }
  var waitingCount: Int { queue.waitingCount }
  var isWaitedForAny: Bool { queue.isWaitedForAny }
  func taken(at instance: UInt64) -> Int { queue.taken(at: instance) }
  func enter(_ instance: UInt64) -> Bool { queue.enter(instance) }
  func wait(_ waiter: PlaceQueue.Waiter) { queue.wait(waiter) }
  func cancel(worker: Int, ticket: UInt64) -> Bool { queue.cancel(worker: worker, ticket: ticket) }
  func leave(_ instance: UInt64) { queue.leave(instance) }
  func give(_ instance: UInt64) -> PlaceQueue.Waiter? { queue.give(instance) }
}

extension Pool {
  fileprivate func leads(isRetry: Bool) -> Bool { balancer.leads(isRetry: isRetry, now: now) }
  fileprivate var isAvailable: Bool { balancer.isAvailable }
  fileprivate func takes(_ place: Int32) -> Bool { balancer.takes(place) }
  fileprivate var candidates: [Int32] { (0..<balancer.candidateCount).map { balancer.candidate($0) } }
}

@Suite struct PlaceQueueTests {
  private func waiter(_ ticket: UInt64, _ instance: UInt64? = nil) -> PlaceQueue.Waiter {
    PlaceQueue.Waiter(worker: 0, ticket: ticket, instance: instance)
  }

  @Test func whoWaitsLongestGoesFirstAndNobodyPasses() {
    let queue = Line(limit: 1)
    #expect(queue.enter(7))
    #expect(!queue.enter(7))
    for ticket in 1...3 { queue.wait(waiter(UInt64(ticket))) }
    queue.leave(7)
    // The place is free, but three wait for it.
    #expect(!queue.enter(7))
    #expect(queue.give(7)?.ticket == 1)
    #expect(queue.give(7) == nil)
    #expect(queue.cancel(worker: 0, ticket: 2))
    #expect(!queue.cancel(worker: 0, ticket: 1))
    #expect(!queue.cancel(worker: 1, ticket: 3))
    queue.leave(7)
    #expect(queue.give(7)?.ticket == 3)
    #expect(queue.waitingCount == 0 && queue.taken(at: 7) == 1)
  }

  @Test func whoIsBoundWaitsForItsInstanceAndOthersPassItElsewhere() {
    let queue = Line(limit: 1)
    #expect(queue.enter(1) && queue.enter(2))
    queue.wait(waiter(1, 1))
    queue.leave(2)
    #expect(queue.give(2) == nil)
    #expect(!queue.isWaitedForAny && queue.enter(2))
    queue.wait(waiter(2))
    queue.leave(1)
    #expect(queue.give(1)?.ticket == 1)
    queue.leave(1)
    #expect(queue.give(1)?.ticket == 2)
  }

  @Test func aLimitThatIsRaisedOrLiftedLetsMoreIn() {
    let queue = Line(limit: 1)
    #expect(queue.enter(1))
    queue.wait(waiter(1))
    queue.wait(waiter(2))
    queue.limit = 2
    #expect(queue.give(1)?.ticket == 1)
    #expect(queue.give(1) == nil)
    queue.limit = 0
    #expect(queue.give(1)?.ticket == 2)
    #expect(queue.enter(1))
    for _ in 0..<4 { queue.leave(1) }
    #expect(queue.taken(at: 1) == 0)
  }

  /// A list and a count that are as simple as can be, through random lives.
  @Test(arguments: 1...20) func agreesWithAModel(_ seed: Int) {
    var random = SplitMix64(seed: UInt64(seed))
    let queue = Line(limit: 2)
    var taken: [UInt64: Int] = [:]
    var line: [PlaceQueue.Waiter] = []
    var next: UInt64 = 0
    for _ in 0..<5_000 {
      let instance = UInt64.random(in: 0..<4, using: &random)
      switch Int.random(in: 0..<10, using: &random) {
      case 0..<5:
        let isBound = Bool.random(using: &random)
        let mayEnter =
          taken[instance, default: 0] < 2 && !line.contains { $0.instance == nil || $0.instance == instance }
        #expect(queue.enter(instance) == mayEnter)
        if mayEnter {
          taken[instance, default: 0] += 1
        } else {
          next += 1
          line.append(waiter(next, isBound ? instance : nil))
          queue.wait(line.last!)
        }
      case 5..<8 where taken[instance, default: 0] > 0:
        queue.leave(instance)
        taken[instance]! -= 1
        let expected = line.firstIndex { $0.instance == nil || $0.instance == instance }
        #expect(queue.give(instance) == expected.map { line[$0] })
        if let expected {
          line.remove(at: expected)
          taken[instance]! += 1
        }
      default:
        guard let gone = line.randomElement(using: &random) else { continue }
        #expect(queue.cancel(worker: 0, ticket: gone.ticket))
        line.removeAll { $0 == gone }
      }
      #expect(queue.waitingCount == line.count)
      #expect(queue.isWaitedForAny == line.contains { $0.instance == nil })
      for instance in UInt64(0)..<4 { #expect(queue.taken(at: instance) == taken[instance, default: 0]) }
    }
  }
}

@Suite struct TierTests {
  @Test func backupsStandInOnlyWhileNobodyIsWell() {
    let pool = Pool(weights: [1, 1], settings { $0.consecutiveFailures = 1 })
    #expect(pool.leads(isRetry: false) && pool.isAvailable)
    pool.request(at: 0, .failure)
    #expect(pool.leads(isRetry: true))
    #expect(pool.takes(1) && !pool.takes(0) && pool.candidates == [1])
    pool.request(at: 1, .failure)
    #expect(!pool.leads(isRetry: false) && !pool.isAvailable)
    // When their time is over one request in eight finds out, and no further attempt does.
    pool.now += 10_000
    for _ in 0..<20 { #expect(!pool.leads(isRetry: true)) }
    var leading = 0
    for _ in 0..<32 where pool.leads(isRetry: false) {
      leading += 1
      pool.request(at: pool.pick(), .neutral)
    }
    // The first one at once.
    #expect(leading == 4)
    while !pool.leads(isRetry: false) {}
    let place = pool.pick()
    pool.request(at: place, .success)
    #expect(pool.leads(isRetry: true))
  }
}
