// The PROXY protocol, versions 1 and 2 (haproxy.org/download/2.9/doc/proxy-protocol.txt): a header before a
// connection's first byte that says who the client of a proxy is. Read by the engine from listed peers, before TLS and
// HTTP; written towards the instances of pools that ask for it.

/// Why the first bytes of a connection are no PROXY header. The text says what the peer must change.
package enum ProxyProtocolError: UInt8, Error, Sendable, CaseIterable, BitwiseCopyable {
  case notPresent, lineTooLong, badLine, badAddress, badPort, badVersion, badCommand, badLength, tooLong

  package var sentence: String {
    switch self {
    case .notPresent: "The connection does not begin with a PROXY header. Let the proxy send one, or do not list it."
    case .lineTooLong: "The PROXY line is longer than \(ProxyProtocol.longestLine) bytes."
    case .badLine: "The PROXY line is malformed."
    case .badAddress: "The PROXY header holds something that is no address."
    case .badPort: "The PROXY header holds something that is no port."
    case .badVersion: "The PROXY header is of a version other than 1 and 2."
    case .badCommand: "The PROXY header has a command other than LOCAL and PROXY."
    case .badLength: "The PROXY header is too short for the addresses that it announces."
    case .tooLong: "The PROXY header is longer than \(ProxyProtocol.longestHeader) bytes."
    }
  }
}

package enum ProxyProtocol {
  /// A line of version 1 with its CR LF, by the specification.
  package static let longestLine = 107
  /// A header of version 2 with its extensions: far more than proxies send, far less than the 64 KiB that it could say.
  package static let longestHeader = 4_096
  /// The most that ``write(version:source:destination:into:)`` writes.
  package static let longestWritten = longestLine

  /// What a header says. Without addresses (LOCAL, UNKNOWN, protocols other than TCP) the connection's own ones hold.
  package struct Header: Sendable, Equatable, BitwiseCopyable {
    /// Bytes of the header; what follows them belongs to the connection.
    package var byteCount: Int
    package var source: PeerAddress?
    package var destination: PeerAddress?

    package init(byteCount: Int, source: PeerAddress? = nil, destination: PeerAddress? = nil) {
      self.byteCount = byteCount
      self.source = source
      self.destination = destination
    }
  }

  package enum Outcome: Sendable, Equatable {
    /// Everything so far fits a header that is not complete yet.
    case needsMore
    case complete(Header)
    case failed(ProxyProtocolError)
  }

  /// Reads the header that a connection begins with.
  package static func parse(_ bytes: Span<UInt8>) -> Outcome {
    if matches(bytes, "PROXY ") {
      return bytes.count < 6 ? .needsMore : parseLine(bytes)
    }
    if matches(bytes, "\r\n\r\n\0\r\nQUIT\n") {
      return bytes.count < 16 ? .needsMore : parseBinary(bytes)
    }
    return .failed(.notPresent)
  }

  /// Whether the bytes and the text agree as far as both go.
  private static func matches(_ bytes: Span<UInt8>, _ text: StaticString) -> Bool {
    text.withUTF8Buffer { text in
      for index in 0..<min(bytes.count, text.count) where unsafe bytes[index] != text[index] { return false }
      return true
    }
  }

  // MARK: Version 1

  private static func parseLine(_ bytes: Span<UInt8>) -> Outcome {
    var end = 6
    let limit = min(bytes.count, longestLine)
    while end < limit, bytes[end] != 0x0D {
      guard bytes[end] != 0x0A else { return .failed(.badLine) }
      end += 1
    }
    guard end + 1 < limit else { return bytes.count >= longestLine ? .failed(.lineTooLong) : .needsMore }
    guard bytes[end + 1] == 0x0A else { return .failed(.badLine) }
    var position = 6
    /// The next word, which one space or the line's end follows.
    func word() -> Slice? {
      guard position < end else { return nil }
      let start = position
      while position < end, bytes[position] != 0x20 { position += 1 }
      let word = Slice(start, position - start)
      if position < end {
        position += 1
        guard position < end else { return nil }
      }
      return word
    }
    guard let family = word() else { return .failed(.badLine) }
    // Whatever follows UNKNOWN is to be ignored.
    if bytes.isExactly(family, "UNKNOWN") { return .complete(Header(byteCount: end + 2)) }
    let isIPv4 = bytes.isExactly(family, "TCP4")
    guard isIPv4 || bytes.isExactly(family, "TCP6") else { return .failed(.badLine) }
    guard let from = word(), let to = word(), let fromPort = word(), let toPort = word(), position == end else {
      return .failed(.badLine)
    }
    guard let sourcePort = decimalNumber(bytes, fromPort, atMost: 65_535),
      let destinationPort = decimalNumber(bytes, toPort, atMost: 65_535)
    else { return .failed(.badPort) }
    func address(_ text: Slice, _ port: Int) -> PeerAddress? {
      isIPv4
        ? PeerAddress(ipv4: bytes, text, port: UInt16(port)) : PeerAddress(ipv6: bytes, text, port: UInt16(port))
    }
    guard let source = address(from, sourcePort), let destination = address(to, destinationPort) else {
      return .failed(.badAddress)
    }
    return .complete(Header(byteCount: end + 2, source: source, destination: destination))
  }

  // MARK: Version 2

  private static func parseBinary(_ bytes: Span<UInt8>) -> Outcome {
    guard bytes[12] >> 4 == 2 else { return .failed(.badVersion) }
    let command = bytes[12] & 0xF
    guard command <= 1 else { return .failed(.badCommand) }
    let length = Int(number(bytes, 14, 2))
    guard 16 + length <= longestHeader else { return .failed(.tooLong) }
    /// Two addresses and two ports; extensions (type, length, value) behind them are skipped.
    let needed =
      switch bytes[13] {
      case 0x11: 12
      case 0x21: 36
      default: 0
      }
    guard command == 0 || length >= needed else { return .failed(.badLength) }
    guard bytes.count >= 16 + length else { return .needsMore }
    var header = Header(byteCount: 16 + length)
    if command == 1, needed == 12 {
      header.source = PeerAddress(ipv4: UInt32(number(bytes, 16, 4)), port: UInt16(number(bytes, 24, 2)))
      header.destination = PeerAddress(ipv4: UInt32(number(bytes, 20, 4)), port: UInt16(number(bytes, 26, 2)))
    } else if command == 1, needed == 36 {
      header.source = PeerAddress(
        ipv6: number(bytes, 16, 8), number(bytes, 24, 8), port: UInt16(number(bytes, 48, 2)))
      header.destination = PeerAddress(
        ipv6: number(bytes, 32, 8), number(bytes, 40, 8), port: UInt16(number(bytes, 50, 2)))
    }
    return .complete(header)
  }

  private static func number(_ bytes: Span<UInt8>, _ start: Int, _ count: Int) -> UInt64 {
    var value: UInt64 = 0
    for index in start..<start + count { value = value << 8 | UInt64(bytes[index]) }
    return value
  }

  // MARK: Writing

  /// Writes a header. Without addresses it says that the connection is the proxy's own (UNKNOWN, LOCAL); addresses of
  /// two families are both written as IPv6.
  /// - Returns: bytes written, or nil when `out` is too small.
  package static func write(
    version: Int, source: PeerAddress?, destination: PeerAddress?, into out: inout MutableSpan<UInt8>
  ) -> Int? {
    var writer = ByteWriter()
    var ends: (source: PeerAddress, destination: PeerAddress)?
    if let source, let destination {
      ends = source.family == destination.family ? (source, destination) : (source.mapped, destination.mapped)
    }
    if version == 1 { writeLine(ends, &writer, &out) } else { writeBinary(ends, &writer, &out) }
    return writer.result
  }

  private static func writeLine(
    _ ends: (source: PeerAddress, destination: PeerAddress)?, _ writer: inout ByteWriter,
    _ out: inout MutableSpan<UInt8>
  ) {
    guard let ends else { return writer.append("PROXY UNKNOWN\r\n", &out) }
    writer.append(ends.source.family == .ipv4 ? "PROXY TCP4 " : "PROXY TCP6 ", &out)
    ends.source.writeText(&writer, &out)
    writer.append(0x20, &out)
    ends.destination.writeText(&writer, &out)
    writer.append(0x20, &out)
    writer.append(decimal: Int(ends.source.port), &out)
    writer.append(0x20, &out)
    writer.append(decimal: Int(ends.destination.port), &out)
    writer.append("\r\n", &out)
  }

  private static func writeBinary(
    _ ends: (source: PeerAddress, destination: PeerAddress)?, _ writer: inout ByteWriter,
    _ out: inout MutableSpan<UInt8>
  ) {
    writer.append("\r\n\r\n\0\r\nQUIT\n", &out)
    guard let ends else { return writer.append("\u{20}\0\0\0", &out) }
    func append(_ value: UInt64, _ count: Int) {
      for index in 0..<count {
        writer.append(UInt8(truncatingIfNeeded: value >> UInt64((count - 1 - index) * 8)), &out)
      }
    }
    writer.append(0x21, &out)
    if ends.source.family == .ipv4 {
      writer.append("\u{11}\0\u{0C}", &out)
      append(ends.source.low, 4)
      append(ends.destination.low, 4)
    } else {
      writer.append("\u{21}\0\u{24}", &out)
      append(ends.source.high, 8)
      append(ends.source.low, 8)
      append(ends.destination.high, 8)
      append(ends.destination.low, 8)
    }
    append(UInt64(ends.source.port), 2)
    append(UInt64(ends.destination.port), 2)
  }
}
