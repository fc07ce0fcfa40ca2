// Blocks of addresses: what they hold, and what is no block.
import Posix
import Testing

@Suite("Blocks of addresses")
struct AddressRangeTests {
  private func address(_ host: String) throws -> SocketAddress { try #require(SocketAddress(host: host, port: 80)) }

  @Test("each prefix length holds exactly its addresses", arguments: 0...32)
  func fourPrefixes(bits: Int) throws {
    // 170.170.170.170 has every other bit set, so each length has a neighbour that differs in the next bit up.
    let full: UInt32 = 0xAAAA_AAAA
    let network = bits == 0 ? 0 : full & ~0 << UInt32(32 - bits)
    func text(_ number: UInt32) -> String {
      [24, 16, 8, 0].map { String(number >> UInt32($0) & 0xFF) }.joined(separator: ".")
    }
    let range = try #require(AddressRange("\(text(network))/\(bits)"))
    for changed in 0..<32 {
      let other = network ^ 1 << UInt32(31 - changed)
      #expect(range.contains(try address(text(other))) == (changed >= bits), "bit \(changed)")
      #expect(range.contains(try address("::ffff:" + text(other))) == (changed >= bits), "bit \(changed), mapped")
    }
  }

  @Test("each IPv6 prefix length holds exactly its addresses", arguments: 0...128)
  func sixPrefixes(bits: Int) throws {
    func text(_ flags: [Bool]) -> String {
      stride(from: 0, to: 128, by: 16).map { start in
        String(flags[start..<start + 16].reduce(0) { $0 << 1 | ($1 ? 1 : 0) }, radix: 16)
      }.joined(separator: ":")
    }
    // 2001:db8::/32 and zeros is far from the IPv4-mapped block.
    let documentation: [Bool] = (0..<128).map { $0 < 32 && 0x2001_0DB8 >> (31 - $0) & 1 == 1 && $0 < bits }
    let range = try #require(AddressRange("\(text(documentation))/\(bits)"))
    for changed in 0..<128 {
      var other = documentation
      other[changed].toggle()
      #expect(range.contains(try address(text(other))) == (changed >= bits), "bit \(changed)")
    }
  }

  @Test("a single address is a block of one, and ports do not count")
  func single() throws {
    let range = try #require(AddressRange("127.0.0.1"))
    #expect(range.contains(try #require(SocketAddress("127.0.0.1:9"))))
    #expect(!range.contains(try address("127.0.0.2")))
    #expect(AddressRange("127.0.0.1/32") == range)
    #expect(AddressRange("::ffff:127.0.0.1") == range)
    #expect(try #require(AddressRange("::1")).contains(address("::1")))
    #expect(try !#require(AddressRange("0.0.0.0/0")).contains(address("2001:db8::1")))
    #expect(try #require(AddressRange("::/0")).contains(address("10.1.2.3")))
  }

  @Test(
    "what is no block is refused",
    arguments: [
      "", "/", "/8", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/+8", "10.0.0.0/8/8", "10.0.0/8", "::/129",
      "example.com", "10.0.0.0/८", "10.0.0.0/99999999999999999999", " 10.0.0.0/8", "10.0.0.1/8", "2001:db8::1/64",
    ])
  func refused(text: String) { #expect(AddressRange(text) == nil) }

  @Test("bits behind the prefix lead to a suggestion")
  func suggestions() {
    #expect(AddressRange.suggestion(for: "10.1.2.3/8") == "10.0.0.0/8")
    #expect(AddressRange.suggestion(for: "192.168.1.130/25") == "192.168.1.128/25")
    #expect(AddressRange.suggestion(for: "2001:db8::1/64") == "2001:db8::/64")
    #expect(AddressRange.suggestion(for: "10.0.0.0/8") == nil)
    #expect(AddressRange.suggestion(for: "nonsense") == nil)
  }
}
