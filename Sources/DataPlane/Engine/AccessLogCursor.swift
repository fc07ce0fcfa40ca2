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

  @inline(__always) mutating func copy(_ from: UnsafeRawPointer, _ count: Int) {
    unsafe UnsafeMutableRawPointer(place).copyMemory(from: from, byteCount: count)
    unsafe place += count
  }

  // MARK: Numbers

  @inline(__always) mutating func number(_ value: Int) { number(UInt64(max(value, 0))) }

  @inline(__always) mutating func number(_ value: UInt64) {
    if value < 10 { return byte(UInt8(ascii: "0") &+ UInt8(truncatingIfNeeded: value)) }
    let count = Self.digitCount(value)
    unsafe place += count
    var rest = value
    var at = unsafe place
    // 32-bit division is several times faster, and nearly all numbers fit.
    if rest <= UInt64(UInt32.max) {
      var small = UInt32(truncatingIfNeeded: rest)
      for _ in 0..<count {
        unsafe at -= 1
        unsafe at.pointee = UInt8(ascii: "0") &+ UInt8(truncatingIfNeeded: small % 10)
        small /= 10
      }
    } else {
      for _ in 0..<count {
        unsafe at -= 1
        unsafe at.pointee = UInt8(ascii: "0") &+ UInt8(truncatingIfNeeded: rest % 10)
        rest /= 10
      }
    }
  }

  private static func digitCount(_ value: UInt64) -> Int {
    var count = 1
    var rest = value
    while rest >= 10_000 {
      rest /= 10_000
      count += 4
    }
    if rest >= 1_000 { return count + 3 }
    if rest >= 100 { return count + 2 }
    return rest >= 10 ? count + 1 : count
  }

  /// With leading zeros.
  @inline(__always) mutating func digits(_ value: Int, width: Int) {
    var rest = UInt32(truncatingIfNeeded: value)
    for offset in (0..<width).reversed() {
      unsafe place[offset] = UInt8(ascii: "0") &+ UInt8(truncatingIfNeeded: rest % 10)
      rest /= 10
    }
    unsafe place += width
  }

  // MARK: Addresses

  /// `192.0.2.1:443` or `[2001:db8::1]:443`. IPv4 in IPv6 is written as IPv4.
  @inline(__always) mutating func address(_ address: borrowing SocketAddress) {
    // sockaddr_in(7) has its address at offset 4, sockaddr_in6(7) at 8; both have the port at 2.
    let port = address.port
    let isIPv6 = address.isIPv6
    unsafe withUnsafeBytes(of: address) { bytes in
      if !isIPv6 {
        unsafe four(bytes.baseAddress! + 4)
      } else {
        let six = unsafe bytes.baseAddress! + 8
        let isMapped =
          unsafe six.loadUnaligned(as: UInt64.self) == 0 && (six + 8).loadUnaligned(as: UInt32.self) == 0xFFFF_0000
        if isMapped { unsafe four(six + 12) } else { unsafe self.six(six) }
      }
    }
    byte(UInt8(ascii: ":"))
    number(port)
  }

  @inline(__always) private mutating func four(_ bytes: UnsafeRawPointer) {
    for index in 0..<4 {
      if index > 0 { byte(UInt8(ascii: ".")) }
      let value = unsafe bytes.load(fromByteOffset: index, as: UInt8.self)
      if value >= 100 { byte(UInt8(ascii: "0") + value / 100) }
      if value >= 10 { byte(UInt8(ascii: "0") + value / 10 % 10) }
      byte(UInt8(ascii: "0") + value % 10)
    }
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
  @inline(__always) mutating func escaped(_ from: UnsafeRawPointer, _ count: Int) {
    var index = 0
    // Eight bytes at a time as long as all of them stand for themselves.
    while index + 8 <= count {
      let word = unsafe from.loadUnaligned(fromByteOffset: index, as: UInt64.self)
      guard Self.isPlain(word) else { break }
      unsafe UnsafeMutableRawPointer(place).storeBytes(of: word, as: UInt64.self)
      unsafe place += 8
      index += 8
    }
    while index < count {
      let value = unsafe from.load(fromByteOffset: index, as: UInt8.self)
      if value >= 0x20, value < 0x7F, value != UInt8(ascii: "\""), value != UInt8(ascii: "\\") {
        byte(value)
      } else {
        escape(value)
      }
      index += 1
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
}
