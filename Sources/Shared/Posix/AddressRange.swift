// A block of addresses in CIDR notation, e.g. 10.0.0.0/8 or fd00::/8: who is trusted, who must send what. Workers ask it once
// a connection, so it is two numbers and their masks.

package struct AddressRange: Sendable, Equatable, BitwiseCopyable {
  private let high, low: UInt64
  private let highMask, lowMask: UInt64

  /// Parses `address/bits` or a single address; nil when it is neither, or bits behind the prefix are set.
  package init?(_ text: String) {
    guard let (range, isExact) = Self.parse(text), isExact else { return nil }
    self = range
  }

  /// What was probably meant by a text that is refused because bits behind the prefix are set.
  package static func suggestion(for text: String) -> String? {
    guard let (range, isExact) = parse(text), !isExact else { return nil }
    let slash = text.firstIndex(of: "/") ?? text.endIndex
    return range.first(isIPv6: text[..<slash].contains(":")) + text[slash...]
  }

  package func contains(_ address: SocketAddress) -> Bool {
    let (high, low) = address.number
    return (high ^ self.high) & highMask | (low ^ self.low) & lowMask == 0
  }

  private init(_ number: (high: UInt64, low: UInt64), bits: Int) {
    highMask = Self.mask(min(bits, 64))
    lowMask = Self.mask(max(bits - 64, 0))
    high = number.high & highMask
    low = number.low & lowMask
  }

  private static func mask(_ bits: Int) -> UInt64 { bits == 0 ? 0 : ~0 << UInt64(64 - bits) }

  private static func parse(_ text: String) -> (range: AddressRange, isExact: Bool)? {
    let parts = text.split(separator: "/", omittingEmptySubsequences: false)
    guard (1...2).contains(parts.count), let parsed = SocketAddress(host: String(parts[0]), port: 0) else { return nil }
    let width = parsed.isIPv6 ? 128 : 32
    var bits = width
    if parts.count == 2 {
      guard parts[1].utf8.allSatisfy({ (0x30...0x39).contains($0) }), let number = Int(parts[1]),
        (0...width).contains(number)
      else { return nil }
      bits = number
    }
    let range = AddressRange(parsed.number, bits: bits + 128 - width)
    return (range, parsed.number == (range.high, range.low))
  }

  /// Its first address.
  private func first(isIPv6: Bool) -> String {
    var parts: [String] = []
    guard isIPv6 else {
      for shift: UInt64 in [24, 16, 8, 0] { parts.append(String(low >> shift & 0xFF)) }
      return parts.joined(separator: ".")
    }
    for half in [high, low] {
      for shift: UInt64 in [48, 32, 16, 0] { parts.append(String(half >> shift & 0xFFFF, radix: 16)) }
    }
    let text = parts.joined(separator: ":")
    return SocketAddress(host: text, port: 0)?.host ?? text
  }
}
