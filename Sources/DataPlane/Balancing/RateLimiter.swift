// Requests per second of each client, shared by the workers of a process without a lock.

import Synchronization

/// The generic cell rate algorithm (a token bucket that is one number, the time at which the bucket will be full again)
/// over a table of fixed size. A bucket that is full says nothing, so that forgetting it changes nothing: entries are
/// reused only then. When all entries that a client could have are busy with others, it is admitted, and ``overflows``
/// counts it. Two clients share an entry with a probability of 8 in 2^20, for as long as both are busy.
package final class RateLimiter: Sendable {
  /// Microseconds: 101 days, then times begin anew. An entry lies at most ``horizon`` ahead, and whatever lies elsewhere
  /// on the circle is past.
  private static let timeBits: UInt64 = 43
  private static let horizon: UInt64 = 1 << 32
  private static let attempts = 256

  private let table: ClientTable

  /// - Parameters:
  ///   - capacity: clients (and routes) at a time, rounded up to a power of two; 8 bytes each
  ///   - seed: secret random number of the process, so that nobody can choose addresses that share an entry
  package init(capacity: Int = 65_536, seed: UInt64) {
    table = ClientTable(capacity: capacity, valueBits: Self.timeBits, seed: seed)
  }

  /// Admits a request or says after how many milliseconds (at least 1) it would be admitted.
  /// - Parameters:
  ///   - key: hash of client and route (``ClientAddress/hash`` and ``StableHash/combine(_:_:)``)
  ///   - ratePerSecond: this replica's share: the route's rate divided by the number of replicas
  ///   - burst: requests that may come at once, at least 1. More than the rate brings in half an hour counts as that
  /// - Returns: 0 = admitted
  package func admit(_ key: UInt64, ratePerSecond: Double, burst: Int, nowMicroseconds: Int) -> Int {
    // Rounded up, so that never more than the rate is admitted.
    let longest = Double(Self.horizon / 2 - 1)
    let interval = UInt64(min((1_000_000 / max(ratePerSecond, 1e-9)).rounded(.up), longest))
    let tolerance = min(UInt64(max(burst, 1) - 1) &* interval, Self.horizon / 2 - 1)
    let now = UInt64(bitPattern: Int64(nowMicroseconds)) & Self.mask
    let home = table.home(of: key)
    for _ in 0..<Self.attempts {
      if let (index, word) = table.find(home) {
        let ahead = Self.ahead(table.value(word), of: now)
        if ahead > tolerance { return Int((ahead - tolerance + 999) / 1_000) }
        let next = (now + ahead + interval) & Self.mask
        if table.replace(index, word, by: table.word(home, next)) { return 0 }
        continue
      }
      switch table.claim(home, value: (now + interval) & Self.mask, isFree: { Self.ahead($0, of: now) == 0 }) {
      case .claimed: return 0
      case .again: continue
      case .full:
        table.overflowed()
        return 0
      }
    }
    // Others were always faster: practically impossible, and no reason to refuse anybody.
    table.overflowed()
    return 0
  }

  private static var mask: UInt64 { 1 << timeBits - 1 }

  /// How far the time lies ahead; 0 = past.
  @inline(__always) private static func ahead(_ time: UInt64, of now: UInt64) -> UInt64 {
    let distance = (time &- now) & mask
    return distance <= horizon ? distance : 0
  }

  /// Requests that were admitted only because the table was full.
  package var overflows: UInt64 { table.overflows.load(ordering: .relaxed) }
}
