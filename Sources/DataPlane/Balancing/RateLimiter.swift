// Requests per second of each client, shared by the workers of a process without a lock.

/// The generic cell rate algorithm over a table of fixed size. An entry is idle when its client could send a whole burst,
/// so that forgetting it changes nothing: entries are reused only then. When all entries that a client could have are
/// busy with others, it is admitted and ``overflows`` counts it.
package final class RateLimiter: Sendable {
  /// - Parameters:
  ///   - capacity: clients (and routes) at a time, rounded up to a power of two; 8 bytes each
  ///   - seed: secret random number of the process, so that nobody can choose addresses that share an entry
  package init(capacity: Int = 65_536, seed: UInt64) {}

  /// Admits a request or says after how many milliseconds (at least 1) it would be admitted.
  /// - Parameters:
  ///   - key: hash of client and route (``ClientAddress/hash`` and ``StableHash/combine(_:_:)``)
  ///   - ratePerSecond: this replica's share: the route's rate divided by the number of replicas
  ///   - burst: requests that may come at once, at least 1
  /// - Returns: 0 = admitted
  package func admit(_ key: UInt64, ratePerSecond: Double, burst: Int, nowMicroseconds: Int) -> Int { 0 }

  /// Requests that were admitted only because the table was full.
  package var overflows: UInt64 { 0 }
}
