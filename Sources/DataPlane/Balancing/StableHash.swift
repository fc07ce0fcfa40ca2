// Hashes that are the same in every process: replicas must agree where a client, a cookie or a job belongs.

package enum StableHash {
  /// Hash of bytes. Not keyed: do not use it where an attacker gains by collisions, unless `seed` is secret.
  package static func of(_ bytes: Span<UInt8>, seed: UInt64 = 0) -> UInt64 { 0 }
  package static func of(_ text: String, seed: UInt64 = 0) -> UInt64 { 0 }
  /// One hash of two.
  package static func combine(_ a: UInt64, _ b: UInt64) -> UInt64 { a ^ b }
}

/// A client's address, as limits and `ip_hash` tell clients apart: IPv4 whole, IPv6 by its /64, as one site has that much.
package struct ClientAddress: Sendable, Equatable, BitwiseCopyable {
  package let network: UInt64

  /// - Parameter address: as a number, first octet highest
  package init(v4 address: UInt32) { network = UInt64(address) }
  /// The two halves of an IPv6 address as numbers, first octet highest. An IPv4 address that is mapped into IPv6
  /// (`::ffff:a.b.c.d`, as a dual-stack listener sees it) is the IPv4 address.
  package init(v6 high: UInt64, _ low: UInt64) { network = high }

  package var hash: UInt64 { network }
}
