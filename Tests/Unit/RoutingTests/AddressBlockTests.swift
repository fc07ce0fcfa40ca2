// Blocks of addresses of a route's allow and deny, as they are written and what they hold.
import Routing
import Testing

@Suite struct AddressBlockTests {
  private func four(_ a: UInt64, _ b: UInt64, _ c: UInt64, _ d: UInt64) -> (UInt64, UInt64) {
    (0, 0xFFFF_0000_0000 | a << 24 | b << 16 | c << 8 | d)
  }

  @Test func blocksHoldTheirAddresses() throws {
    let net = try #require(AddressBlock("10.1.0.0/16"))
    #expect(net.contains(0, four(10, 1, 255, 3).1) && !net.contains(0, four(10, 2, 0, 0).1))
    #expect(!net.contains(0x2001_0DB8_0000_0000, four(10, 1, 0, 0).1))
    let one = try #require(AddressBlock("192.0.2.7"))
    #expect(one.contains(0, four(192, 0, 2, 7).1) && !one.contains(0, four(192, 0, 2, 8).1))
    let six = try #require(AddressBlock("2001:db8:0:1::/64"))
    #expect(six.contains(0x2001_0DB8_0000_0001, .max) && !six.contains(0x2001_0DB8_0000_0002, 0))
    #expect(AddressBlock("::ffff:192.0.2.7") == one)
    let everyFour = try #require(AddressBlock("0.0.0.0/0"))
    #expect(everyFour.contains(0, four(8, 8, 8, 8).1) && !everyFour.contains(1, 1))
    let all = try #require(AddressBlock("::/0"))
    #expect(all.contains(0, four(8, 8, 8, 8).1) && all.contains(.max, .max))
    #expect(AddressBlock("::1")?.contains(0, 1) == true)
    #expect(AddressBlock("1:2:3:4:5:6:7:8")?.contains(0x0001_0002_0003_0004, 0x0005_0006_0007_0008) == true)
  }

  @Test(arguments: [
    "", "/", "/8", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/+8", "10.0.0.0/8/8", "10.0.0/8", "::/129",
    "example.com", "10.0.0.0/८", " 10.0.0.0/8", "10.0.0.1/8", "2001:db8::1/64", "1::2::3", ":::", "1:2:3", "::g",
    "1:2:3:4:5:6:7:8:9", "1:2:3:4:5:6:7::8:9", "010.0.0.1", "256.0.0.1", "::+1", "[::1]", "10.0.0.0/08", ":1",
  ]) func otherTextsAreNone(_ text: String) { #expect(AddressBlock(text) == nil) }
}
