// A block of client addresses of a route's `allow` and `deny`, as two numbers and their masks: checked where routes are
// read, compared by the engine. Posix' AddressRange is the same for flags; this room reads no system headers.

package struct AddressBlock: Sendable, Equatable, BitwiseCopyable {
  private let high, low: UInt64
  private let highMask, lowMask: UInt64

  /// Parses an IPv4 or IPv6 address, perhaps with `/bits`; nil when it is neither or bits behind the prefix are set.
  package init?(_ text: String) {
    let parts = text.split(separator: "/", omittingEmptySubsequences: false)
    guard (1...2).contains(parts.count) else { return nil }
    let isIPv6 = parts[0].contains(":")
    guard let number = isIPv6 ? Self.six(parts[0]) : Self.four(parts[0]).map({ (0, 0xFFFF_0000_0000 | UInt64($0)) })
    else { return nil }
    let width = isIPv6 ? 128 : 32
    var bits = width
    if parts.count == 2 {
      guard let number = Self.decimal(parts[1], atMost: width) else { return nil }
      bits = number
    }
    bits += 128 - width
    highMask = Self.mask(min(bits, 64))
    lowMask = Self.mask(max(bits - 64, 0))
    (high, low) = number
    guard high & highMask == high, low & lowMask == low else { return nil }
  }

  /// - Parameter high: first half of the address, first octet highest; an IPv4 address as `::ffff:a.b.c.d`
  @inline(__always) package func contains(_ high: UInt64, _ low: UInt64) -> Bool {
    (high ^ self.high) & highMask | (low ^ self.low) & lowMask == 0
  }

  private static func mask(_ bits: Int) -> UInt64 { bits == 0 ? 0 : ~0 << UInt64(64 - bits) }

  /// Digits without a sign; no leading zeros, which some read as octal.
  private static func decimal(_ text: Substring, atMost limit: Int) -> Int? {
    guard (1...3).contains(text.utf8.count), text.utf8.allSatisfy({ (0x30...0x39).contains($0) }),
      text.utf8.count == 1 || text.utf8.first != 0x30, let number = Int(text), number <= limit
    else { return nil }
    return number
  }

  private static func four(_ text: Substring) -> UInt32? {
    let parts = text.split(separator: ".", omittingEmptySubsequences: false)
    guard parts.count == 4 else { return nil }
    var number: UInt32 = 0
    for part in parts {
      guard let octet = decimal(part, atMost: 255) else { return nil }
      number = number << 8 | UInt32(octet)
    }
    return number
  }

  /// RFC 4291 §2.2.
  private static func six(_ text: Substring) -> (UInt64, UInt64)? {
    let halves = text.split(separator: "::", omittingEmptySubsequences: false)
    guard (1...2).contains(halves.count), let front = groups(halves[0], mayEndInFour: halves.count == 1),
      let back = halves.count == 2 ? groups(halves[1], mayEndInFour: true) : []
    else { return nil }
    let missing = 8 - front.count - back.count
    guard halves.count == 2 ? missing >= 1 : missing == 0 else { return nil }
    let all = front + [UInt16](repeating: 0, count: missing) + back
    func half(_ groups: ArraySlice<UInt16>) -> UInt64 { groups.reduce(0) { $0 << 16 | UInt64($1) } }
    return (half(all[..<4]), half(all[4...]))
  }

  private static func groups(_ text: Substring, mayEndInFour: Bool) -> [UInt16]? {
    if text.isEmpty { return [] }
    var groups: [UInt16] = []
    let parts = text.split(separator: ":", omittingEmptySubsequences: false)
    for (index, part) in parts.enumerated() {
      if mayEndInFour, index == parts.count - 1, part.contains("."), let four = four(part) {
        groups += [UInt16(truncatingIfNeeded: four >> 16), UInt16(truncatingIfNeeded: four)]
      } else {
        guard (1...4).contains(part.utf8.count), part.utf8.first != UInt8(ascii: "+"),
          part.utf8.first != UInt8(ascii: "-"),
          let group = UInt16(part, radix: 16)
        else { return nil }
        groups.append(group)
      }
    }
    return groups
  }
}
