// Connections of each client at the same time, shared by the workers of a process without a lock.

/// Counts exactly as long as the table has room; then it admits, and ``overflows`` counts that.
package final class ClientCounter: Sendable {
  package init(capacity: Int = 65_536, seed: UInt64) {}

  /// What a client holds while it is connected. Keep it with the connection, give it to ``leave(_:)`` once.
  package struct Permit: Sendable, BitwiseCopyable {
    var entry: Int32
    /// Nothing to give back.
    package static var none: Permit { Permit(entry: -1) }
  }

  /// A permit, or nil when the client has `limit` connections already.
  package func enter(_ key: UInt64, limit: Int) -> Permit? { Permit.none }
  package func leave(_ permit: Permit) {}

  package var overflows: UInt64 { 0 }
}
