// A block of addresses in CIDR notation, e.g. 10.0.0.0/8 or fd00::/8: who is trusted, who must send what. Plain numbers, as
// it is asked for every connection.

package struct AddressRange: Sendable, Equatable, BitwiseCopyable {
  /// IPv4 addresses stand as IPv4-mapped ones, so that ::ffff:10.0.0.1 is 10.0.0.1.
  private let high: UInt64
  private let low: UInt64
  private let highMask: UInt64
  private let lowMask: UInt64

  /// Parses `address/bits` or a single address; nil when it is neither, or bits behind the prefix are set.
  package init?(_ text: String) {
    let parts = text.split(separator: "/", omittingEmptySubsequences: false)
    guard (1...2).contains(parts.count), let parsed = SocketAddress(host: String(parts[0]), port: 0) else { return nil }
    let width = parsed.isIPv6 ? 128 : 32
    var bits = width
    if parts.count == 2 {
      guard parts[1].allSatisfy(\.isNumber), let number = Int(parts[1]), number <= width else { return nil }
      bits = number
    }
    bits += 128 - width
    // Shifts of Swift's integers beyond their width, or below zero, do what is meant here.
    highMask = UInt64.max << (64 - min(bits, 64))
    lowMask = UInt64.max << (128 - max(bits, 64))
    (high, low) = parsed.mapped
    guard high & ~highMask == 0, low & ~lowMask == 0 else { return nil }
  }

  @inline(__always) package func contains(_ other: SocketAddress) -> Bool {
    let address = other.mapped
    return (address.high ^ high) & highMask == 0 && (address.low ^ low) & lowMask == 0
  }
}
