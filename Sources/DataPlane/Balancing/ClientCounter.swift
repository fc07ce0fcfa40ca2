// Connections of each client at the same time, shared by the workers of a process without a lock.

import Synchronization

/// Counts exactly as long as the table has room; then it admits, and ``overflows`` counts that.
package final class ClientCounter: Sendable {
  private static let attempts = 256
  private let table: ClientTable

  /// - Parameters:
  ///   - capacity: clients at a time, rounded up to a power of two; 8 bytes each
  ///   - seed: secret random number of the process, so that nobody can choose addresses that share an entry
  package init(capacity: Int = 65_536, seed: UInt64) {
    table = ClientTable(capacity: capacity, valueBits: 24, seed: seed)
  }

  /// What a client holds while it is connected. Keep it with the connection, give it to ``leave(_:)`` once.
  package struct Permit: Sendable, BitwiseCopyable {
    var entry: Int32
    /// Nothing to give back.
    package static var none: Permit { Permit(entry: -1) }
  }

  /// A permit, or nil when the client has `limit` connections already.
  /// - Parameters:
  ///   - key: hash of the client, and of the route if limits of routes are to be apart
  ///   - limit: at least 1
  package func enter(_ key: UInt64, limit: Int) -> Permit? {
    let limit = UInt64(min(max(limit, 1), 1 << 24 - 1))
    let home = table.home(of: key)
    for _ in 0..<Self.attempts {
      if let (index, word) = table.find(home) {
        if table.value(word) >= limit { return nil }
        if table.replace(index, word, by: word + 1) { return Permit(entry: Int32(truncatingIfNeeded: index)) }
        continue
      }
      switch table.claim(home, value: 1, isFree: { _ in false }) {
      case .claimed(let index): return Permit(entry: Int32(truncatingIfNeeded: index))
      case .again: continue
      case .full:
        table.overflowed()
        return Permit.none
      }
    }
    table.overflowed()
    return Permit.none
  }

  /// The connection is closed. Its entry stays the client's until the last of its connections has left.
  package func leave(_ permit: Permit) {
    guard permit.entry >= 0 else { return }
    let index = Int(permit.entry)
    while true {
      let word = table.load(index)
      precondition(table.value(word) > 0 && !table.isPending(word), "a permit was given back twice")
      if table.replace(index, word, by: table.value(word) == 1 ? 0 : word - 1) { return }
    }
  }

  /// Connections of the client at this moment.
  package func count(_ key: UInt64) -> Int { table.find(table.home(of: key)).map { Int(table.value($0.word)) } ?? 0 }

  /// Connections that were admitted uncounted because the table was full.
  package var overflows: UInt64 { table.overflows.load(ordering: .relaxed) }
}
