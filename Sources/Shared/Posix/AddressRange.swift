// A block of addresses in CIDR notation, e.g. 10.0.0.0/8 or fd00::/8: who is trusted, who must send what.

package struct AddressRange: Sendable, Equatable {
  /// IPv4 addresses stand as IPv4-mapped ones (RFC 4291 §2.5.5.2), so that ::ffff:10.0.0.1 is 10.0.0.1.
  private let address: [UInt8]
  private let bits: Int

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
    self.bits = bits + (128 - width)
    address = parsed.mappedBytes
    for bit in self.bits..<128 where address[bit / 8] & (0x80 >> UInt8(bit % 8)) != 0 { return nil }
  }

  package func contains(_ other: SocketAddress) -> Bool {
    let bytes = other.mappedBytes
    for index in 0..<bits / 8 where bytes[index] != address[index] { return false }
    let rest = bits % 8
    guard rest > 0 else { return true }
    let mask = UInt8(truncatingIfNeeded: 0xFF00 >> rest)
    return (bytes[bits / 8] ^ address[bits / 8]) & mask == 0
  }
}
