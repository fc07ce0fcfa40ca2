// What workers count. Each worker writes its own numbers without locks, the admin thread reads and adds them up.
package import ProxyMachine
import Synchronization

/// The counters of one worker that are not closes. Cases that end in `Now` are gauges.
package enum Counter: Int, CaseIterable, Sendable {
  case accepted, requests, responses1xx, responses2xx, responses3xx, responses4xx, responses5xx
  case bytesFromClients, bytesToClients, retries, instanceConnections, instanceReuses, instanceClosesIdle
  case tlsResumed, tlsPlainHTTP, tlsNotTLS, tlsVersion, tlsCipher, tlsClientCertificate, tlsAlert, tlsGone, tlsTimeout
  case tlsOffloaded, tunnels, splicedBytes, discoveries, tlsHandshakes, tlsFailures, acceptFailures
  case browserCloses, retriesRefused, requestsRefused, connectionsRefused, unauthorized, originsRefused
  case placesRefused, addressesDenied, redirects
  case ejections, recoveries, panicPicks
  case ejectedNow, clientsNow, instancesNow, tunnelsNow, bufferedBytesNow
}

/// The cells that a worker adds to: pointers, so that no reference is counted on its way. They belong to ``WorkerMetrics``.
@safe struct WorkerCells: @unchecked Sendable {
  fileprivate let counters: UnsafeMutablePointer<Atomic<UInt64>>
  fileprivate let closes: UnsafeMutablePointer<Atomic<UInt64>>
  /// One more than there are bounds, and the sum behind them.
  fileprivate let durations: UnsafeMutablePointer<Atomic<UInt64>>

  fileprivate init() {
    unsafe counters = Self.make(Counter.allCases.count)
    unsafe closes = Self.make(CloseReason.allCases.count)
    unsafe durations = Self.make(WorkerMetrics.durationBounds.count + 2)
  }

  fileprivate func free() {
    unsafe counters.deallocate()
    unsafe closes.deallocate()
    unsafe durations.deallocate()
  }

  private static func make(_ count: Int) -> UnsafeMutablePointer<Atomic<UInt64>> {
    let pointer = UnsafeMutablePointer<Atomic<UInt64>>.allocate(capacity: count)
    for index in 0..<count { unsafe (pointer + index).initialize(to: Atomic(0)) }
    return unsafe pointer
  }

  /// Only the owning worker writes, so a load and a store do what an atomic addition would, without its bus lock.
  @inline(__always) private func bump(_ cell: UnsafeMutablePointer<Atomic<UInt64>>, _ amount: Int) {
    let value = unsafe cell.pointee.load(ordering: .relaxed)
    unsafe cell.pointee.store(value &+ UInt64(bitPattern: Int64(amount)), ordering: .relaxed)
  }

  @inline(__always) func add(_ counter: Counter, _ amount: Int = 1) { unsafe bump(counters + counter.rawValue, amount) }
  func set(_ counter: Counter, _ value: Int) {
    unsafe counters[counter.rawValue].store(UInt64(max(value, 0)), ordering: .relaxed)
  }
  func closed(_ reason: CloseReason) { unsafe bump(closes + Int(reason.rawValue), 1) }
  @inline(__always) func took(microseconds: Int) {
    let bounds = WorkerMetrics.durationBoundCount
    let bucket = max(0, Int.bitWidth - max(microseconds - 1, 0).leadingZeroBitCount - 6)
    unsafe bump(durations + min(bucket, bounds), 1)
    unsafe bump(durations + bounds + 1, max(microseconds, 0))
  }
}

/// The numbers of one worker. One thread adds, any thread reads; values are relaxed atomics.
@safe package final class WorkerMetrics: Sendable {
  let cells = WorkerCells()

  /// Upper bounds of the request duration's buckets, in microseconds; the last one has no bound.
  package static let durationBounds = (0..<durationBoundCount).map { 64 << $0 }
  static let durationBoundCount = 22

  init() {}

  deinit { cells.free() }

  package func value(_ counter: Counter) -> UInt64 { unsafe cells.counters[counter.rawValue].load(ordering: .relaxed) }
  package func value(_ reason: CloseReason) -> UInt64 {
    unsafe cells.closes[Int(reason.rawValue)].load(ordering: .relaxed)
  }
  /// Requests by bucket, not cumulative; one more than ``durationBounds``.
  package var durationCounts: [UInt64] {
    (0...Self.durationBounds.count).map { unsafe cells.durations[$0].load(ordering: .relaxed) }
  }
  package var durationSumMicroseconds: UInt64 {
    unsafe cells.durations[Self.durationBoundCount + 1].load(ordering: .relaxed)
  }
}
