// An address of a connection's end as a plain value, and its text: read from and written into PROXY headers, written as
// the client's address into X-Forwarded-For and Forwarded.

package struct PeerAddress: Sendable, Equatable, Hashable, BitwiseCopyable {
  package enum Family: UInt8, Sendable, BitwiseCopyable { case ipv4, ipv6 }

  package let family: Family
  /// The first eight bytes of an IPv6 address as a number; 0 for IPv4.
  package let high: UInt64
  /// The last eight bytes of an IPv6 address, or all four of IPv4.
  package let low: UInt64
  package let port: UInt16

  package init(ipv4: UInt32, port: UInt16) {
    family = .ipv4
    high = 0
    low = UInt64(ipv4)
    self.port = port
  }

  package init(ipv6 high: UInt64, _ low: UInt64, port: UInt16) {
    family = .ipv6
    self.high = high
    self.low = low
    self.port = port
  }

  /// Bytes that the longest text needs: an IPv6 address that ends with an IPv4 address.
  package static let longestText = 45

  /// The same address in IPv6: IPv4 mapped (RFC 4291 §2.5.5.2).
  var mapped: PeerAddress { family == .ipv6 ? self : PeerAddress(ipv6: 0, 0xFFFF_0000_0000 | low, port: port) }

  /// One of the eight groups of an IPv6 address.
  func group(_ index: Int) -> UInt16 {
    UInt16(truncatingIfNeeded: (index < 4 ? high : low) >> UInt64(48 - index % 4 * 16))
  }
}

// MARK: Writing

extension PeerAddress {
  /// Writes the address without its port, IPv6 as RFC 5952 recommends. Returns the bytes written, or nil without room.
  package func writeText(into out: inout MutableSpan<UInt8>) -> Int? {
    var writer = ByteWriter()
    writeText(&writer, &out)
    return writer.result
  }

  func writeText(_ writer: inout ByteWriter, _ out: inout MutableSpan<UInt8>) {
    if family == .ipv4 { return Self.writeIPv4(UInt32(truncatingIfNeeded: low), &writer, &out) }
    if high == 0, low >> 32 == 0xFFFF {
      writer.append("::ffff:", &out)
      return Self.writeIPv4(UInt32(truncatingIfNeeded: low), &writer, &out)
    }
    let zeros = longestZeros()
    var index = 0
    while index < 8 {
      if index == zeros.start, zeros.count > 1 {
        writer.append("::", &out)
        index += zeros.count
      } else {
        if index > 0, index != zeros.start + zeros.count || zeros.count < 2 { writer.append(UInt8(ascii: ":"), &out) }
        Self.writeHexadecimal(group(index), &writer, &out)
        index += 1
      }
    }
  }

  /// The first of the longest runs of zero groups.
  private func longestZeros() -> (start: Int, count: Int) {
    var best = (start: -1, count: 0)
    var index = 0
    while index < 8 {
      var end = index
      while end < 8, group(end) == 0 { end += 1 }
      if end - index > best.count { best = (index, end - index) }
      index = max(end, index + 1)
    }
    return best
  }

  private static func writeIPv4(_ address: UInt32, _ writer: inout ByteWriter, _ out: inout MutableSpan<UInt8>) {
    for index in 0..<4 {
      if index > 0 { writer.append(UInt8(ascii: "."), &out) }
      writer.append(decimal: Int(address >> UInt32(24 - index * 8) & 0xFF), &out)
    }
  }

  private static func writeHexadecimal(_ group: UInt16, _ writer: inout ByteWriter, _ out: inout MutableSpan<UInt8>) {
    var shift: UInt16 = 12
    while shift > 0, group >> shift == 0 { shift -= 4 }
    while true {
      let digit = UInt8(truncatingIfNeeded: group >> shift & 0xF)
      writer.append(digit < 10 ? 0x30 + digit : 0x57 + digit, &out)
      if shift == 0 { return }
      shift -= 4
    }
  }
}

// MARK: Reading

extension PeerAddress {
  /// Reads dotted decimal: four numbers of 0 to 255 without leading zeros, which some read as octal.
  init?(ipv4 bytes: Span<UInt8>, _ slice: Slice, port: UInt16) {
    var address: UInt32 = 0
    var position = slice.lower
    for part in 0..<4 {
      if part > 0 {
        guard position < slice.upper, bytes[position] == UInt8(ascii: ".") else { return nil }
        position += 1
      }
      let start = position
      while position < slice.upper, isDigit(bytes[position]) { position += 1 }
      guard let number = decimalNumber(bytes, Slice(start, position - start), atMost: 255) else { return nil }
      address = address << 8 | UInt32(number)
    }
    guard position == slice.upper else { return nil }
    self.init(ipv4: address, port: port)
  }

  /// Reads the text of RFC 4291 §2.2: eight groups, a run of zeros as `::`, the last two groups perhaps as IPv4.
  init?(ipv6 bytes: Span<UInt8>, _ slice: Slice, port: UInt16) {
    var groups = Groups()
    var position = slice.lower
    /// Groups before `::`.
    var gap = -1
    var needsGroup = true
    if slice.count >= 2, bytes[position] == UInt8(ascii: ":") {
      guard bytes[position + 1] == UInt8(ascii: ":") else { return nil }
      gap = 0
      needsGroup = false
      position += 2
    }
    while position < slice.upper {
      let start = position
      var value: UInt16 = 0
      while position < slice.upper, let digit = hexadecimalDigit(bytes[position]) {
        guard position - start < 4 else { return nil }
        value = value << 4 | UInt16(digit)
        position += 1
      }
      if position < slice.upper, bytes[position] == UInt8(ascii: "."), groups.count <= 6 {
        guard let last = PeerAddress(ipv4: bytes, Slice(start, slice.upper - start), port: 0) else { return nil }
        groups.append(UInt16(truncatingIfNeeded: last.low >> 16))
        groups.append(UInt16(truncatingIfNeeded: last.low))
        position = slice.upper
        needsGroup = false
        break
      }
      guard position > start, groups.count < 8 else { return nil }
      groups.append(value)
      needsGroup = false
      guard position < slice.upper else { break }
      guard bytes[position] == UInt8(ascii: ":") else { return nil }
      position += 1
      needsGroup = true
      if position < slice.upper, bytes[position] == UInt8(ascii: ":") {
        guard gap < 0 else { return nil }
        gap = groups.count
        needsGroup = false
        position += 1
      }
    }
    guard !needsGroup, gap < 0 ? groups.count == 8 : groups.count < 8, let (high, low) = groups.opened(at: gap) else {
      return nil
    }
    self.init(ipv6: high, low, port: port)
  }

  /// Up to eight groups in two words, the last one lowest.
  private struct Groups {
    var high: UInt64 = 0
    var low: UInt64 = 0
    var count = 0

    mutating func append(_ group: UInt16) {
      high = high << 16 | low >> 48
      low = low << 16 | UInt64(group)
      count += 1
    }

    /// All eight, with zeros in the place of `::`.
    func opened(at gap: Int) -> (UInt64, UInt64)? {
      guard gap >= 0 else { return (high, low) }
      var result = Groups()
      for index in 0..<8 {
        let behind = index - (8 - (count - gap))
        if index < gap {
          result.append(group(index))
        } else {
          result.append(behind < 0 ? 0 : group(gap + behind))
        }
      }
      return (result.high, result.low)
    }

    private func group(_ index: Int) -> UInt16 {
      let fromEnd = count - 1 - index
      return UInt16(truncatingIfNeeded: (fromEnd < 4 ? low : high) >> UInt64(fromEnd % 4 * 16))
    }
  }
}

/// A decimal number without sign and leading zeros.
func decimalNumber(_ bytes: Span<UInt8>, _ slice: Slice, atMost limit: Int) -> Int? {
  guard slice.count > 0, slice.count <= 5, slice.count == 1 || bytes[slice.lower] != UInt8(ascii: "0") else {
    return nil
  }
  var value = 0
  for index in slice.lower..<slice.upper {
    guard isDigit(bytes[index]) else { return nil }
    value = value * 10 + Int(bytes[index] - 0x30)
  }
  return value <= limit ? value : nil
}

func hexadecimalDigit(_ byte: UInt8) -> UInt8? {
  switch byte {
  case 0x30...0x39: byte - 0x30
  case 0x41...0x46: byte - 0x41 + 10
  case 0x61...0x66: byte - 0x61 + 10
  default: nil
  }
}
