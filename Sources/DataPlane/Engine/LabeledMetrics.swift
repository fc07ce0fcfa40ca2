// Counters per route, pool and instance, with a bound on how many of each there can be. A worker adds to rows of its own
// memory (WorkerLabels); which name has which row is settled when a routing table is compiled (LabelNames). The admin
// port's pages and the access log read both.
import Glibc
private import Posix
import Synchronization

/// The place of a name's numbers. Row 0 stands for every name that found no place.
package typealias LabelRow = UInt16

package enum RouteCounter: Int, CaseIterable, Sendable {
  case responses1xx, responses2xx, responses3xx, responses4xx, responses5xx, bytesFromClients, bytesToClients
  case retries, retriesRefused, rateLimited, connectionsLimited, bodiesRefused, addressesDenied
  /// Requests and tunnels under way. While it is above 0 the row keeps its name.
  case activeNow
}

package enum PoolCounter: Int, CaseIterable, Sendable {
  case requests, retries, withoutInstance, panics
  case queueWaits, queueMicroseconds, queueFull, queueTimeouts, queueUnavailable
  case activeNow, waitingNow
}

package enum InstanceCounter: Int, CaseIterable, Sendable {
  case responses1xx, responses2xx, responses3xx, responses4xx, responses5xx, bytesFromClients, bytesToClients
  case connectFailures, connectTimeouts, firstByteTimeouts, resets, earlyCloses, badResponses, cutBodies
  case connections, connectMicroseconds, ejections
  /// Of those failures, the ones that are nobody's: a kept connection or a tunnel that ended.
  case blameless
  /// Attempts at it, tunnels included; counted when they begin.
  case requests
  case activeNow
  // What a worker sets every second, for /instances. 0 = nothing to tell.
  /// Weight in thousandths, after slow start.
  case weightNow
  case responseMicrosecondsNow
  case keptConnectionsNow
  /// Monotonic milliseconds until which this worker sends it nothing.
  case ejectedUntilNow
}

extension InstanceCounter {
  /// What an instance does that it should not.
  static let errors: [InstanceCounter] = [
    .responses5xx, .connectFailures, .connectTimeouts, .firstByteTimeouts, .resets, .earlyCloses, .badResponses,
    .cutBodies,
  ]
}

/// How many names have a row of their own, row 0 not counted. Memory per worker is about 450 bytes a row.
package struct LabelLimits: Sendable {
  package var routes = 256
  package var pools = 128
  package var instances = 1_024
  package init(routes: Int = 256, pools: Int = 128, instances: Int = 1_024) {
    self.routes = routes
    self.pools = pools
    self.instances = instances
  }
}

/// The numbers of one worker: a plain value that the worker keeps; the memory belongs to ``LabeledMetrics``. One thread
/// adds, any thread reads.
@safe package struct WorkerLabels: @unchecked Sendable {
  private let memory: UnsafeMutableRawPointer
  private let cells: UnsafeMutablePointer<Atomic<UInt64>>
  private let limits: LabelLimits

  /// Buckets of the durations of routes: as of ``WorkerMetrics/durationBounds``.
  package static let routeBuckets = WorkerMetrics.durationBounds.count + 1
  /// Buckets of the durations of instances, each four times the last: there may be a thousand instances.
  package static let instanceBounds = (0..<11).map { 256 << (2 * $0) }
  package static let instanceBuckets = instanceBounds.count + 1

  // A row: its counters, the sum of its durations in microseconds, its buckets. Rows begin at a cache line.
  private static let routeStride = roundUp(RouteCounter.allCases.count + 1 + routeBuckets)
  private static let poolStride = roundUp(PoolCounter.allCases.count)
  private static let instanceStride = roundUp(InstanceCounter.allCases.count + 1 + instanceBuckets)
  private static func roundUp(_ count: Int) -> Int { (count + 7) & ~7 }

  private let poolBase: Int
  private let instanceBase: Int

  init(_ limits: LabelLimits) {
    self.limits = limits
    poolBase = (limits.routes + 1) * Self.routeStride
    instanceBase = poolBase + (limits.pools + 1) * Self.poolStride
    let count = instanceBase + (limits.instances + 1) * Self.instanceStride
    // Zeroed by the kernel page by page: only rows that are used cost memory.
    guard let memory = unsafe calloc(count + 8, 8) else { preconditionFailure("no memory for the labelled counters") }
    unsafe self.memory = memory
    unsafe cells = memory.alignedUp(toMultipleOf: 64).bindMemory(to: Atomic<UInt64>.self, capacity: count)
  }

  func free() { unsafe Glibc.free(memory) }

  @inline(__always) private func bump(_ index: Int, _ amount: Int) {
    let value = unsafe cells[index].load(ordering: .relaxed)
    unsafe cells[index].store(value &+ UInt64(bitPattern: Int64(amount)), ordering: .relaxed)
  }

  @inline(__always) private func place(_ counter: RouteCounter, _ row: LabelRow) -> Int {
    precondition(Int(row) <= limits.routes, "no such row")
    return Int(row) * Self.routeStride + counter.rawValue
  }
  @inline(__always) private func place(_ counter: PoolCounter, _ row: LabelRow) -> Int {
    precondition(Int(row) <= limits.pools, "no such row")
    return poolBase + Int(row) * Self.poolStride + counter.rawValue
  }
  @inline(__always) private func place(_ counter: InstanceCounter, _ row: LabelRow) -> Int {
    precondition(Int(row) <= limits.instances, "no such row")
    return instanceBase + Int(row) * Self.instanceStride + counter.rawValue
  }

  // MARK: The worker's calls

  @inline(__always) package func add(_ counter: RouteCounter, route: LabelRow, _ amount: Int = 1) {
    bump(place(counter, route), amount)
  }
  @inline(__always) package func add(_ counter: PoolCounter, pool: LabelRow, _ amount: Int = 1) {
    bump(place(counter, pool), amount)
  }
  @inline(__always) package func add(_ counter: InstanceCounter, instance: LabelRow, _ amount: Int = 1) {
    bump(place(counter, instance), amount)
  }
  /// For those that end in `Now` and are no sums.
  @inline(__always) package func set(_ counter: InstanceCounter, instance: LabelRow, _ value: Int) {
    unsafe cells[place(counter, instance)].store(UInt64(clamping: value), ordering: .relaxed)
  }

  /// A request to a route begins: its head is read and matched.
  @inline(__always) package func began(route: LabelRow, pool: LabelRow) {
    add(.activeNow, route: route)
    add(.activeNow, pool: pool)
    add(.requests, pool: pool)
  }
  /// It ends, answered or not; `status` 0 = no answer at all, 101 = a tunnel was made (its duration is not a response's).
  @inline(__always) package func ended(
    route: LabelRow, pool: LabelRow, status: Int, microseconds: Int, bytesFromClient: Int, bytesToClient: Int
  ) {
    add(.activeNow, route: route, -1)
    add(.activeNow, pool: pool, -1)
    let row = place(RouteCounter.responses1xx, route)
    if status >= 100 {
      bump(row + min(status / 100, 5) - 1, 1)
      if status != 101 {
        let bucket = min(max(0, Self.bits(microseconds) - 6), WorkerMetrics.durationBounds.count)
        took(row + RouteCounter.allCases.count, bucket, microseconds)
      }
    }
    bump(row + RouteCounter.bytesFromClients.rawValue, bytesFromClient)
    bump(row + RouteCounter.bytesToClients.rawValue, bytesToClient)
  }
  /// The same of one attempt at an instance; ``add(_:instance:_:)`` of `activeNow` began it.
  @inline(__always) package func ended(
    instance: LabelRow, status: Int, microseconds: Int, bytesFromClient: Int, bytesToClient: Int
  ) {
    let row = place(InstanceCounter.responses1xx, instance)
    bump(row + InstanceCounter.activeNow.rawValue, -1)
    if status >= 100 {
      bump(row + min(status / 100, 5) - 1, 1)
      if status != 101 {
        let bucket = min(max(0, (Self.bits(microseconds) - 7) / 2), Self.instanceBounds.count)
        took(row + InstanceCounter.allCases.count, bucket, microseconds)
      }
    }
    bump(row + InstanceCounter.bytesFromClients.rawValue, bytesFromClient)
    bump(row + InstanceCounter.bytesToClients.rawValue, bytesToClient)
  }

  /// The smallest n for which the duration is at most 2 to the power of n.
  @inline(__always) private static func bits(_ microseconds: Int) -> Int {
    Int.bitWidth - max(microseconds - 1, 0).leadingZeroBitCount
  }

  @inline(__always) private func took(_ sum: Int, _ bucket: Int, _ microseconds: Int) {
    bump(sum, max(microseconds, 0))
    bump(sum + 1 + bucket, 1)
  }

  // MARK: Readers

  private func value(_ index: Int) -> UInt64 { unsafe cells[index].load(ordering: .relaxed) }
  package func value(_ counter: RouteCounter, route: LabelRow) -> UInt64 { value(place(counter, route)) }
  package func value(_ counter: PoolCounter, pool: LabelRow) -> UInt64 { value(place(counter, pool)) }
  package func value(_ counter: InstanceCounter, instance: LabelRow) -> UInt64 { value(place(counter, instance)) }

  /// All cells of a row in order: counters, sum of durations, buckets.
  func cells(route: LabelRow) -> [UInt64] {
    row(place(RouteCounter.responses1xx, route), RouteCounter.allCases.count + 1 + Self.routeBuckets)
  }
  func cells(pool: LabelRow) -> [UInt64] { row(place(PoolCounter.requests, pool), PoolCounter.allCases.count) }
  func cells(instance: LabelRow) -> [UInt64] {
    row(place(InstanceCounter.responses1xx, instance), InstanceCounter.allCases.count + 1 + Self.instanceBuckets)
  }
  private func row(_ start: Int, _ count: Int) -> [UInt64] { (start..<start + count).map { value($0) } }
}
