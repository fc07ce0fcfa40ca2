// Writes the pieces of a log line into memory that is known to have room: literals, numbers, addresses, JSON strings. A
// value of its own, so that its place stays in a register; AccessLogLines makes one for each line.
import Glibc
import Posix

@safe struct ByteCursor {
  private(set) var place: UnsafeMutablePointer<UInt8>

  init(_ place: UnsafeMutablePointer<UInt8>) { unsafe self.place = place }

  @inline(__always) mutating func byte(_ value: UInt8) {
    unsafe place.pointee = value
    unsafe place += 1
  }

  @inline(__always) mutating func literal(_ text: StaticString) {
    unsafe place.update(from: text.utf8Start, count: text.utf8CodeUnitCount)
    unsafe place += text.utf8CodeUnitCount
  }

  /// Copies in pieces of 16 bytes, up to 15 bytes more than asked for, which both sides must have room for.
  @inline(__always) mutating func copy(_ from: UnsafeRawPointer, _ count: Int) {
    var offset = 0
    while offset < count {
      unsafe UnsafeMutableRawPointer(place).storeBytes(
        of: from.loadUnaligned(fromByteOffset: offset, as: SIMD16<UInt8>.self), toByteOffset: offset,
        as: SIMD16<UInt8>.self)
      offset += 16
    }
    unsafe place += count
  }

  // MARK: Numbers

  @inline(__always) mutating func number(_ value: Int) { number(UInt64(max(value, 0))) }

  @inline(__always) mutating func number(_ value: UInt64) {
    if value < 100_000_000 { eight(Self.digits(value)) } else { long(value) }
  }

  private mutating func long(_ value: UInt64) {
    let (high, low) = value.quotientAndRemainder(dividingBy: 100_000_000)
    number(high)
    unsafe UnsafeMutableRawPointer(place).storeBytes(of: Self.digits(low) | Self.zeros, as: UInt64.self)
    unsafe place += 8
  }

  /// Writes eight digits without the zeros before the first other one.
  @inline(__always) private mutating func eight(_ digits: UInt64) {
    let skipped = min(digits.trailingZeroBitCount / 8, 7)
    unsafe UnsafeMutableRawPointer(place).storeBytes(
      of: (digits | Self.zeros) >> UInt64(skipped * 8), as: UInt64.self)
    unsafe place += 8 - skipped
  }

  private static let zeros: UInt64 = 0x3030_3030_3030_3030

  /// The eight digits of a number below 10⁸, one a byte, the first in the lowest byte. All pairs, then all digits, are
  /// divided at once: 10486 / 2²⁰ is 1/100 closely enough for numbers below 10,000, 103 / 2¹⁰ is 1/10 for those below 100.
  @inline(__always) static func digits(_ value: UInt64) -> UInt64 {
    let high = value / 10_000
    let fours = high | (value &- high &* 10_000) << 32
    let hundreds = (fours &* 10_486) >> 20 & 0x0000_007F_0000_007F
    let pairs = (fours &- hundreds &* 100) << 16 | hundreds
    let tens = (pairs &* 103) >> 10 & 0x000F_000F_000F_000F
    return (pairs &- tens &* 10) << 8 | tens
  }

  /// With leading zeros, at most eight digits. Writes up to seven bytes more than the digits.
  @inline(__always) mutating func digits(_ value: Int, width: Int) {
    let ascii = Self.digits(UInt64(truncatingIfNeeded: value)) | Self.zeros
    unsafe UnsafeMutableRawPointer(place).storeBytes(of: ascii >> UInt64(8 * (8 - width)), as: UInt64.self)
    unsafe place += width
  }

  // MARK: Addresses

  /// `192.0.2.1:443` or `[2001:db8::1]:443`. IPv4 in IPv6 is written as IPv4.
  @inline(__always) mutating func address(_ address: borrowing SocketAddress) {
    // Both sockaddr_in(7) and sockaddr_in6(7) begin with family and port; the address is at offset 4 or 8.
    unsafe withUnsafeBytes(of: address) { bytes in
      let start = bytes.baseAddress!
      if unsafe start.load(as: UInt16.self) != UInt16(AF_INET6) {
        unsafe four(start + 4)
      } else if unsafe start.load(fromByteOffset: 8, as: UInt64.self) == 0,
        unsafe start.load(fromByteOffset: 16, as: UInt32.self) == 0xFFFF_0000
      {
        unsafe four(start + 20)
      } else {
        unsafe six(start + 8)
      }
      byte(UInt8(ascii: ":"))
      unsafe number(UInt64(start.load(fromByteOffset: 2, as: UInt16.self).byteSwapped))
    }
  }

  @inline(__always) private mutating func four(_ bytes: UnsafeRawPointer) {
    for index in 0..<4 {
      if index > 0 { byte(UInt8(ascii: ".")) }
      unsafe octet(UInt32(bytes.load(fromByteOffset: index, as: UInt8.self)))
    }
  }

  @inline(__always) private mutating func octet(_ value: UInt32) {
    let hundreds = (value &* 41) >> 12
    let rest = value &- hundreds &* 100
    let tens = (rest &* 103) >> 10
    let digits = hundreds | tens << 8 | (rest &- tens &* 10) << 16
    let skipped: UInt32 = value < 10 ? 2 : value < 100 ? 1 : 0
    unsafe UnsafeMutableRawPointer(place).storeBytes(of: (digits | 0x30_3030) >> (skipped &* 8), as: UInt32.self)
    unsafe place += Int(3 &- skipped)
  }

  /// RFC 5952: the first of the longest runs of two or more zero groups is left out.
  private mutating func six(_ bytes: UnsafeRawPointer) {
    var groups = InlineArray<8, UInt16>(repeating: 0)
    for index in 0..<8 {
      groups[index] = unsafe UInt16(bigEndian: bytes.loadUnaligned(fromByteOffset: index * 2, as: UInt16.self))
    }
    var run = 0..<0
    var start = 0
    while start < 8 {
      var end = start
      while end < 8, groups.span[end] == 0 { end += 1 }
      if end - start > max(run.count, 1) { run = start..<end }
      start = end + 1
    }
    byte(UInt8(ascii: "["))
    var index = 0
    while index < 8 {
      if index == run.lowerBound, !run.isEmpty {
        literal("::")
        index = run.upperBound
        continue
      }
      if index > 0, index != run.upperBound || run.isEmpty { byte(UInt8(ascii: ":")) }
      let group = groups.span[index]
      var shift = group >= 0x1000 ? 12 : group >= 0x100 ? 8 : group >= 0x10 ? 4 : 0
      while shift >= 0 {
        byte(Self.hex(UInt8(truncatingIfNeeded: group >> UInt16(shift)) & 15))
        shift -= 4
      }
      index += 1
    }
    byte(UInt8(ascii: "]"))
  }

  @inline(__always) private static func hex(_ value: UInt8) -> UInt8 {
    value < 10 ? UInt8(ascii: "0") + value : UInt8(ascii: "a") + value - 10
  }

  // MARK: Strings

  /// Bytes inside a JSON string (RFC 8259 section 7). Quotes, backslashes, control bytes and bytes beyond ASCII are written
  /// as escapes, one a byte, because what clients send need not be UTF-8. At most six bytes come of one.
  /// Reads up to seven bytes more than asked for.
  @inline(__always) mutating func escaped(_ from: UnsafeRawPointer, _ count: Int) {
    var offset = 0
    while offset < count {
      var word = unsafe from.loadUnaligned(fromByteOffset: offset, as: UInt64.self)
      let left = count - offset
      // What follows the text is none of its business: taken for zero digits, which are plain.
      if left < 8 { word = word & ~(~0 << UInt64(8 * left)) | Self.zeros << UInt64(8 * left) }
      if Self.isPlain(word) {
        unsafe UnsafeMutableRawPointer(place).storeBytes(of: word, as: UInt64.self)
        unsafe place += min(left, 8)
      } else {
        escape(word, min(left, 8))
      }
      offset += 8
    }
  }

  private mutating func escape(_ word: UInt64, _ count: Int) {
    for index in 0..<count {
      let value = UInt8(truncatingIfNeeded: word >> UInt64(8 * index))
      if value >= 0x20, value < 0x7F, value != UInt8(ascii: "\""), value != UInt8(ascii: "\\") {
        byte(value)
      } else {
        escape(value)
      }
    }
  }

  private mutating func escape(_ value: UInt8) {
    if value == UInt8(ascii: "\"") || value == UInt8(ascii: "\\") {
      byte(UInt8(ascii: "\\"))
      return byte(value)
    }
    literal("\\u00")
    byte(Self.hex(value >> 4))
    byte(Self.hex(value & 15))
  }

  /// True only if each of eight bytes is from 0x20 to 0x7E and neither a quote nor a backslash.
  @inline(__always) static func isPlain(_ word: UInt64) -> Bool {
    let ones: UInt64 = 0x0101_0101_0101_0101
    let tops: UInt64 = 0x8080_8080_8080_8080
    let below = word &- ones &* 0x20
    let quote = word ^ ones &* 0x22
    let backslash = word ^ ones &* 0x5C
    let delete = word ^ ones &* 0x7F
    // A byte that is zero lends from its neighbour, so its top bit comes to be set although it was not.
    let found = below | (quote &- ones) & ~quote | (backslash &- ones) & ~backslash | (delete &- ones) & ~delete
    return (found | word) & tops == 0
  }

  /// Where a byte is first, or `count`. Reads up to seven bytes more than asked for.
  @inline(__always) static func find(_ byte: UInt8, _ from: UnsafeRawPointer, _ count: Int) -> Int {
    let ones: UInt64 = 0x0101_0101_0101_0101
    var offset = 0
    while offset < count {
      let others = unsafe from.loadUnaligned(fromByteOffset: offset, as: UInt64.self) ^ ones &* UInt64(byte)
      // The lowest set bit is right; those above it may come of a borrow.
      let found = (others &- ones) & ~others & 0x8080_8080_8080_8080
      if found != 0 { return min(offset + found.trailingZeroBitCount / 8, count) }
      offset += 8
    }
    return count
  }
}
