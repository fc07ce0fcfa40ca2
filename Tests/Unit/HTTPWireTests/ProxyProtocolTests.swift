// PROXY headers of both versions: what is read, wherever it is cut; what is refused; what is written reads the same.
import HTTPWire
import Testing

@Suite struct ProxyProtocolTests {
  static let v4 = PeerAddress(ipv4: 0xCB00_7109, port: 4_711)
  static let v4Server = PeerAddress(ipv4: 0x0A00_0001, port: 443)
  static let v6 = PeerAddress(ipv6: 0x2001_0DB8_0000_0000, 1, port: 65_535)
  static let v6Server = PeerAddress(ipv6: 0, 1, port: 0)
  static let signature: [UInt8] = [13, 10, 13, 10, 0, 13, 10, 0x51, 0x55, 0x49, 0x54, 10]

  static func header(_ count: Int, _ source: PeerAddress? = nil, _ destination: PeerAddress? = nil)
    -> ProxyProtocol.Outcome
  {
    .complete(.init(byteCount: count, source: source, destination: destination))
  }

  static let accepted: [([UInt8], ProxyProtocol.Outcome)] = [
    (Array("PROXY TCP4 203.0.113.9 10.0.0.1 4711 443\r\n".utf8), header(42, v4, v4Server)),
    (Array("PROXY TCP6 2001:db8::1 ::1 65535 0\r\n".utf8), header(36, v6, v6Server)),
    (Array("PROXY UNKNOWN\r\n".utf8), header(15)),
    (Array("PROXY UNKNOWN ff::1 whatever  it says \r\n".utf8), header(40)),
    (signature + [0x21, 0x11, 0, 12, 203, 0, 113, 9, 10, 0, 0, 1, 0x12, 0x67, 1, 187], header(28, v4, v4Server)),
    // Extensions are skipped, whatever they hold.
    (
      signature + [0x21, 0x11, 0, 16, 203, 0, 113, 9, 10, 0, 0, 1, 0x12, 0x67, 1, 187, 4, 0, 1, 9],
      header(32, v4, v4Server)
    ),
    (
      signature + [0x21, 0x21, 0, 36, 0x20, 0x01, 0x0D, 0xB8] + [UInt8](repeating: 0, count: 11) + [1]
        + [UInt8](repeating: 0, count: 15) + [1, 255, 255, 0, 0], header(52, v6, v6Server)
    ),
    (signature + [0x20, 0, 0, 0], header(16)), (signature + [0x20, 0x11, 0, 3, 1, 2, 3], header(19)),
    (signature + [0x21, 0, 0, 1, 9], header(17)), (signature + [0x21, 0x31, 0, 2, 9, 9], header(18)),
    (signature + [0x21, 0x12, 0, 0], header(16)),
  ]

  @Test(arguments: accepted.indices) func accepts(_ index: Int) {
    let (bytes, expected) = Self.accepted[index]
    let followed = bytes + Array("GET / HTTP/1.1\r\n".utf8)
    #expect(ProxyProtocol.parse(followed.span) == expected)
    for count in 0..<bytes.count {
      let part = Array(bytes[..<count])
      #expect(ProxyProtocol.parse(part.span) == .needsMore, "cut after \(count) bytes")
    }
  }

  static let refusedLines: [(String, ProxyProtocolError)] = [
    ("GET / HTTP/1.1\r\n\r\n", .notPresent), ("PROXX ", .notPresent), ("proxy TCP4 ", .notPresent),
    ("PROXY TCP4 203.0.113.9 10.0.0.1 4711 443\n", .badLine), ("PROXY TCP4 203.0.113.9 10.0.0.1 4711\r\n", .badLine),
    ("PROXY TCP4 203.0.113.9 10.0.0.1 4711 443 \r\n", .badLine),
    ("PROXY TCP4 203.0.113.9 10.0.0.1 4711 443 x\r\n", .badLine), ("PROXY TCP5 1.1.1.1 1.1.1.1 1 1\r\n", .badLine),
    ("PROXY  TCP4 1.1.1.1 1.1.1.1 1 1\r\n", .badLine), ("PROXY \r\n", .badLine), ("PROXY TCP4\r\n", .badLine),
    ("PROXY UNKNOWN\rX", .badLine), ("PROXY TCP4 1.1.1.1  1.1.1.1 1\r\n", .badPort),
    ("PROXY TCP4 1.1.1.1 1.1.1.1 1 1  \r\n", .badLine), ("PROXY TCP4  1.1.1.1 1 1\r\n", .badAddress),
    ("PROXY TCP4 ::1 ::1 1 1\r\n", .badAddress), ("PROXY TCP6 1.1.1.1 1.1.1.1 1 1\r\n", .badAddress),
    ("PROXY TCP4 1.1.1.01 1.1.1.1 1 1\r\n", .badAddress), ("PROXY TCP4 1.1.1.256 1.1.1.1 1 1\r\n", .badAddress),
    ("PROXY TCP4 1.1.1.1 1.1.1 1 1\r\n", .badAddress), ("PROXY TCP4 1.1.1.1 1.1.1.1 65536 1\r\n", .badPort),
    ("PROXY TCP4 1.1.1.1 1.1.1.1 1 -1\r\n", .badPort), ("PROXY TCP4 1.1.1.1 1.1.1.1 01 1\r\n", .badPort),
    ("PROXY UNKNOWN " + String(repeating: "x", count: 93), .lineTooLong),
    ("PROXY UNKNOWN " + String(repeating: "x", count: 92) + "\r", .lineTooLong),
  ]
  static let refusedHeaders: [([UInt8], ProxyProtocolError)] = [
    ([0x11, 0x11, 0, 0], .badVersion), ([0x31, 0x11, 0, 0], .badVersion), ([0x22, 0x11, 0, 12], .badCommand),
    ([0x21, 0x11, 0, 11], .badLength), ([0x21, 0x21, 0, 35], .badLength), ([0x20, 0, 0x10, 0], .tooLong),
  ]
  static let refused =
    refusedLines.map { (Array($0.0.utf8), $0.1) } + refusedHeaders.map { (signature + $0.0, $0.1) }

  @Test(arguments: refused.indices) func refuses(_ index: Int) {
    let (bytes, error) = Self.refused[index]
    #expect(ProxyProtocol.parse(bytes.span) == .failed(error))
    for count in 0..<bytes.count {
      let part = Array(bytes[..<count])
      let outcome = ProxyProtocol.parse(part.span)
      #expect(outcome == .needsMore || outcome == .failed(error), "cut after \(count) bytes: \(outcome)")
    }
    #expect(!error.sentence.isEmpty)
  }

  /// The longest line and header that are taken, to the byte.
  @Test func limitsAreExact() {
    let line = Array(("PROXY UNKNOWN " + String(repeating: "x", count: 91) + "\r\n").utf8)
    #expect(line.count == ProxyProtocol.longestLine)
    #expect(ProxyProtocol.parse(line.span) == Self.header(107))
    let header = Self.signature + [0x20, 0, 0x0F, 0xF0] + [UInt8](repeating: 0, count: 4_080)
    #expect(ProxyProtocol.parse(header.span) == Self.header(ProxyProtocol.longestHeader))
  }

  @Test(arguments: [1, 2]) func whatIsWrittenReadsTheSame(_ version: Int) {
    let mapped = PeerAddress(ipv6: 0, 0xFFFF_0000_0000 | Self.v4.low, port: Self.v4.port)
    let ends: [(PeerAddress?, PeerAddress?, PeerAddress?, PeerAddress?)] = [
      (Self.v4, Self.v4Server, Self.v4, Self.v4Server), (Self.v6, Self.v6Server, Self.v6, Self.v6Server),
      (Self.v4, Self.v6Server, mapped, Self.v6Server), (nil, Self.v4, nil, nil), (nil, nil, nil, nil),
    ]
    for (source, destination, readSource, readDestination) in ends {
      var output = [UInt8](repeating: 0, count: ProxyProtocol.longestWritten)
      var span = output.mutableSpan
      let written = ProxyProtocol.write(version: version, source: source, destination: destination, into: &span)
      guard let count = written else {
        Issue.record("the longest header has room")
        continue
      }
      let bytes = Array(output[..<count])
      #expect(ProxyProtocol.parse(bytes.span) == Self.header(count, readSource, readDestination))
      var short = [UInt8](repeating: 0, count: count - 1)
      var shortSpan = short.mutableSpan
      #expect(
        ProxyProtocol.write(version: version, source: source, destination: destination, into: &shortSpan) == nil)
    }
  }

  // MARK: Addresses

  private func text(_ address: PeerAddress) -> String? {
    var output = [UInt8](repeating: 0, count: PeerAddress.longestText)
    var span = output.mutableSpan
    return address.writeText(into: &span).map { String(decoding: output[..<$0], as: UTF8.self) }
  }

  /// Texts by RFC 5952 §4 and §5, and that the same address comes of them through a PROXY line.
  @Test(arguments: [
    (PeerAddress(ipv4: 0, port: 1), "0.0.0.0"), (PeerAddress(ipv4: 0xFFFF_FFFF, port: 1), "255.255.255.255"),
    (PeerAddress(ipv6: 0, 0, port: 1), "::"), (PeerAddress(ipv6: 0, 1, port: 1), "::1"),
    (PeerAddress(ipv6: 0x2001_0DB8_0000_0000, 0x0001_0000_0000_0001, port: 1), "2001:db8::1:0:0:1"),
    (PeerAddress(ipv6: 0x2001_0DB8_0000_0001, 0x0001_0001_0001_0001, port: 1), "2001:db8:0:1:1:1:1:1"),
    (PeerAddress(ipv6: 0x0001_0000_0000_0002, 0x0000_0000_0000_0003, port: 1), "1:0:0:2::3"),
    (PeerAddress(ipv6: 0xFE80_0000_0000_0000, 0, port: 1), "fe80::"),
    (
      PeerAddress(ipv6: 0xABCD_EF01_2345_6789, 0xABCD_EF01_2345_6789, port: 1),
      "abcd:ef01:2345:6789:abcd:ef01:2345:6789"
    ),
    (PeerAddress(ipv6: 0, 0xFFFF_CB00_7109, port: 1), "::ffff:203.0.113.9"),
  ]) func texts(_ address: PeerAddress, _ expected: String) {
    #expect(text(address) == expected)
    let family = address.family == .ipv4 ? "TCP4" : "TCP6"
    let line = Array("PROXY \(family) \(expected) \(expected) 1 1\r\n".utf8)
    #expect(ProxyProtocol.parse(line.span) == Self.header(line.count, address, address))
  }

  @Test(arguments: [
    "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "1::2::3", ":1", "1:", "12345::", "g::", "1:2:3:4:5:6:7:1.2.3.4", ":::",
    "1:2:3:4:5:6:7::8", "::1.2.3", "::1.2.3.4:1", "1.2.3.4::", ":", "::1%eth0", "[::1]",
  ]) func noAddresses(_ text: String) {
    let line = Array("PROXY TCP6 \(text) ::1 1 1\r\n".utf8)
    #expect(ProxyProtocol.parse(line.span) == .failed(.badAddress))
  }

  @Test(arguments: [
    ("1:2:3:4:5:6:1.2.3.4", "1:2:3:4:5:6:102:304"), ("0:0::0:0", "::"), ("1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:0"),
    ("::2:3:4:5:6:7:8", "0:2:3:4:5:6:7:8"), ("2001:DB8::", "2001:db8::"),
  ]) func otherTextsOfAddresses(_ other: String, _ expected: String) {
    let line = Array("PROXY TCP6 \(other) ::1 1 1\r\n".utf8)
    guard case .complete(let header) = ProxyProtocol.parse(line.span), let source = header.source else {
      Issue.record("\(other) is an address")
      return
    }
    #expect(text(source) == expected)
  }
}
