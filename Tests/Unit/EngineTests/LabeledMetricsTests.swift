// Counters per name: bounded in number, right across tables that come and go, and a page that Prometheus can read.
import Posix
import Synchronization
import TestSupport
import Testing

@testable import Engine

@Suite("Labelled metrics")
struct LabeledMetricsTests {
  /// Time that a test sets.
  private final class TestClock: Sendable {
    private let time = Atomic<Int>(1_000)
    var now: Int { time.load(ordering: .relaxed) }
    func pass(_ milliseconds: Int) { time.add(milliseconds, ordering: .relaxed) }
  }

  private func small(_ clock: TestClock = TestClock(), workers: Int = 2) -> LabeledMetrics {
    LabeledMetrics(
      workers: workers, limits: LabelLimits(routes: 2, pools: 2, instances: 4), now: { clock.now })
  }

  @Test("numbers of all workers are added up by name")
  func sums() throws {
    let labels = small()
    let lease = labels.lease()
    let route = lease.row(route: "api")
    let pool = lease.row(pool: "web")
    let instance = lease.row(instance: "web-1", pool: "web")
    for worker in labels.workers {
      worker.began(route: route, pool: pool)
      worker.add(.activeNow, instance: instance)
      worker.ended(instance: instance, status: 204, microseconds: 1_025, bytesFromClient: 3, bytesToClient: 5)
      worker.ended(route: route, pool: pool, status: 503, microseconds: 65, bytesFromClient: 30, bytesToClient: 50)
      worker.began(route: route, pool: pool)
      worker.add(.retries, route: route, 2)
      worker.add(.queueMicroseconds, pool: pool, 1_000)
      worker.add(.resets, instance: instance)
    }
    let routes = labels.rows(.route)
    #expect(routes.map(\.name) == ["api"])
    #expect(routes[0][RouteCounter.responses5xx] == 2 && routes[0][RouteCounter.responses2xx] == 0)
    #expect(routes[0][RouteCounter.bytesFromClients] == 60 && routes[0][RouteCounter.bytesToClients] == 100)
    #expect(routes[0][RouteCounter.retries] == 4 && routes[0][RouteCounter.activeNow] == 2)
    #expect(routes[0].routeDurations.microseconds == 130)
    #expect(routes[0].routeDurations.counts == [0, 2] + [Int](repeating: 0, count: 21))
    let pools = labels.rows(.pool)
    #expect(pools[0][PoolCounter.requests] == 4 && pools[0][PoolCounter.activeNow] == 2)
    #expect(pools[0][PoolCounter.queueMicroseconds] == 2_000)
    let instances = labels.rows(.instance)
    #expect(instances.map(\.pool) == ["web"])
    #expect(instances[0][InstanceCounter.responses2xx] == 2 && instances[0][InstanceCounter.activeNow] == 0)
    #expect(instances[0][InstanceCounter.resets] == 2)
    #expect(instances[0].instanceDurations.counts == [0, 0, 2] + [Int](repeating: 0, count: 9))
  }

  @Test("each duration is in the bucket of the smallest bound that is not below it")
  func buckets() {
    let labels = small(workers: 1)
    let worker = labels.workers[0]
    var durations = [0, 1, -5, 1_000_000_000]
    for bound in WorkerMetrics.durationBounds + WorkerLabels.instanceBounds {
      durations += [bound - 1, bound, bound + 1]
    }
    var routeCounts = [Int](repeating: 0, count: WorkerLabels.routeBuckets)
    var instanceCounts = [Int](repeating: 0, count: WorkerLabels.instanceBuckets)
    for duration in durations {
      worker.ended(route: 0, pool: 0, status: 200, microseconds: duration, bytesFromClient: 0, bytesToClient: 0)
      worker.ended(instance: 0, status: 200, microseconds: duration, bytesFromClient: 0, bytesToClient: 0)
      routeCounts[WorkerMetrics.durationBounds.firstIndex { duration <= $0 } ?? routeCounts.count - 1] += 1
      instanceCounts[WorkerLabels.instanceBounds.firstIndex { duration <= $0 } ?? instanceCounts.count - 1] += 1
    }
    #expect(labels.rows(.route)[0].routeDurations.counts == routeCounts)
    #expect(labels.rows(.instance)[0].instanceDurations.counts == instanceCounts)
    // Tunnels and requests without an answer are no durations.
    worker.ended(route: 0, pool: 0, status: 101, microseconds: 7, bytesFromClient: 0, bytesToClient: 0)
    worker.ended(route: 0, pool: 0, status: 0, microseconds: 7, bytesFromClient: 0, bytesToClient: 0)
    #expect(labels.rows(.route)[0].routeDurations.counts == routeCounts)
    #expect(labels.rows(.route)[0][RouteCounter.responses1xx] == 1)
  }

  @Test("rows do not touch each other, nor those of another kind")
  func separation() {
    let labels = LabeledMetrics(workers: 1, limits: LabelLimits(routes: 3, pools: 3, instances: 3))
    let worker = labels.workers[0]
    var next = 1
    for row in LabelRow(0)...3 {
      for counter in RouteCounter.allCases {
        worker.add(counter, route: row, next)
        next += 1
      }
      for counter in PoolCounter.allCases {
        worker.add(counter, pool: row, next)
        next += 1
      }
      for counter in InstanceCounter.allCases {
        worker.add(counter, instance: row, next)
        next += 1
      }
    }
    next = 1
    for row in LabelRow(0)...3 {
      for counter in RouteCounter.allCases {
        #expect(worker.value(counter, route: row) == next)
        next += 1
      }
      for counter in PoolCounter.allCases {
        #expect(worker.value(counter, pool: row) == next)
        next += 1
      }
      for counter in InstanceCounter.allCases {
        #expect(worker.value(counter, instance: row) == next)
        next += 1
      }
    }
  }

  @Test("a name keeps its row and numbers from table to table")
  func nextTable() {
    let labels = small()
    var lease = labels.lease()
    let row = lease.row(route: "a")
    labels.workers[0].add(.retries, route: row)
    let next = labels.lease()
    #expect(next.row(route: "a") == row)
    lease = next
    #expect(labels.rows(.route).map(\.name) == ["a"])
    #expect(labels.rows(.route)[0][RouteCounter.retries] == 1)
  }

  @Test("the same instance id in another pool is another row")
  func instancesOfPools() {
    let labels = small()
    let lease = labels.lease()
    #expect(lease.row(instance: "a", pool: "x") != lease.row(instance: "a", pool: "y"))
    #expect(labels.row(instance: "a", pool: "y") == 2)
    #expect(labels.row(instance: "b", pool: "y") == nil)
  }

  @Test("beyond the bound names share the row of others, and those of that name always do")
  func bound() {
    let labels = small()
    let lease = labels.lease()
    #expect(lease.row(route: "a") == 1 && lease.row(route: "b") == 2)
    #expect(lease.row(route: "c") == 0 && lease.row(route: "d") == 0 && lease.row(route: "other") == 0)
    #expect(lease.row(pool: "other") == 0 && lease.row(pool: "p") == 1)
    #expect(labels.rows(.route).map(\.name) == ["a", "b"])
    labels.workers[1].add(.retries, route: 0)
    #expect(labels.rows(.route).map(\.name) == ["a", "b", "other"])
    #expect(labels.rows(.route)[2][RouteCounter.retries] == 1)
  }

  @Test("a row goes to another name when its own has been gone for long and nothing of it is under way")
  func reuse() {
    let clock = TestClock()
    let labels = small(clock)
    var first: LabelLease? = labels.lease()
    let a = first!.row(route: "a")
    _ = first!.row(route: "b")
    labels.workers[0].add(.retries, route: a, 7)
    labels.workers[0].began(route: a, pool: 0)
    first = nil
    // Shown to the last scrapes.
    #expect(labels.rows(.route).map(\.name) == ["a", "b"])
    clock.pass(LabeledMetrics.keptMilliseconds - 1)
    let early = labels.lease()
    #expect(early.row(route: "c") == 0)
    clock.pass(1)
    // "a" has a request under way: it is shown, and its row stays its own.
    #expect(labels.rows(.route).map(\.name) == ["a"])
    let second = labels.lease()
    let c = second.row(route: "c")
    #expect(c == 2 && second.row(route: "d") == 0)
    labels.workers[0].ended(route: a, pool: 0, status: 200, microseconds: 9, bytesFromClient: 0, bytesToClient: 0)
    clock.pass(1_000)
    #expect(second.row(route: "d") == a)
    labels.workers[1].add(.retries, route: a, 2)
    let rows = labels.rows(.route)
    #expect(rows.map(\.name) == ["d", "c"])
    // A new name begins at 0 with everything.
    #expect(rows[0][RouteCounter.retries] == 2 && rows[0][RouteCounter.responses2xx] == 0)
    #expect(rows[0].routeDurations.microseconds == 0 && rows[0].routeDurations.counts.allSatisfy { $0 == 0 })
    #expect(rows[1][RouteCounter.retries] == 0)
  }

  @Test("a name that comes back has its numbers again")
  func comesBack() {
    let clock = TestClock()
    let labels = small(clock)
    var lease: LabelLease? = labels.lease()
    labels.workers[0].add(.retries, route: lease!.row(route: "a"), 3)
    lease = nil
    clock.pass(LabeledMetrics.keptMilliseconds * 2)
    #expect(labels.rows(.route).isEmpty)
    let next = labels.lease()
    labels.workers[0].add(.retries, route: next.row(route: "a"))
    #expect(labels.rows(.route)[0][RouteCounter.retries] == 4)
  }

  @Test("as long as one worker's table names it, a name is there")
  func twoWorkers() {
    let clock = TestClock()
    let labels = small(clock)
    var first: LabelLease? = labels.lease()
    let second = labels.lease()
    #expect(first!.row(route: "a") == second.row(route: "a"))
    first = nil
    clock.pass(LabeledMetrics.keptMilliseconds * 2)
    #expect(labels.rows(.route).map(\.name) == ["a"])
    withExtendedLifetime(second) {}
  }

  @Test("ten thousand names, a hundred times other ones, neither grow memory nor take long")
  func manyNames() {
    let clock = TestClock()
    let labels = LabeledMetrics(workers: 2, now: { clock.now })
    var lease: LabelLease?
    func table(_ generation: Int) {
      let next = labels.lease()
      for index in 0..<1_000 {
        _ = next.row(route: "route-\(generation)-\(index)")
        labels.workers[0].add(
          .ejections, instance: next.row(instance: "instance-\(generation)-\(index * 2)", pool: "p"))
        labels.workers[0].add(
          .ejections, instance: next.row(instance: "instance-\(generation)-\(index * 2 + 1)", pool: "p"))
      }
      lease = next
    }
    var counted = 0
    for generation in 0..<30 {
      table(generation)
      clock.pass(LabeledMetrics.keptMilliseconds)
      #expect(labels.rows(.route).count <= 256)
      #expect(labels.rows(.instance).count <= 1_025)
      #expect(labels.names(.route).count == 257 && labels.names(.instance).count == 1_025)
      counted += 2_000
    }
    withExtendedLifetime(lease) {}
    // Nothing is counted twice or lost among the workers' cells.
    let cells = labels.workers[0]
    #expect((LabelRow(0)...1_024).reduce(0) { $0 + Int(cells.value(.ejections, instance: $1)) } == counted)
  }

  @Test("an empty row of others is not shown, and no name is empty")
  func empty() {
    #expect(small().rows(.instance).isEmpty)
    #expect(small().names(.pool) == ["other"])
  }
}
