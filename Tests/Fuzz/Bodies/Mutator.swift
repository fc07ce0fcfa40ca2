// Changes corpus entries from a seed: what libFuzzer does without looking at coverage. Used by the replay in the tests,
// and by the driver where the toolchain has no libFuzzer.

package struct Mutator: RandomNumberGenerator {
  private var state: UInt64
  package init(seed: UInt64) { state = seed }

  package mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }

  /// Words that matter to the readers, so that chance need not spell them.
  package static let words = [
    "\r\n", "\n", "\r", "\r\n\r\n", " ", "\t", ":", ",", ";", "\0", "chunked", "Transfer-Encoding: chunked\r\n",
    "Content-Length: 5\r\n", "Content-Length: 0\r\n", "Host: a\r\n", "Connection: close\r\n",
    "Connection: Upgrade\r\nUpgrade: websocket\r\n", "HTTP/1.0", "HTTP/1.1 ", "101", "204", "http://", "/../", "%2e",
    "0\r\n\r\n", "0\r\n", "FFFFFFFFFFFFFFF", "[::1]", "_", "#", "?", "*", "OPTIONS", "HEAD", "PROXY TCP4 ", "TCP6",
    "X-Forwarded-For: 1\r\n", "Expect: 100-continue\r\n", "Max-Forwards: 0\r\n", "UNKNOWN",
  ].map { Array($0.utf8) }

  /// Another entry made of this one; the first byte, which names its body, stays.
  package mutating func mutate(_ entry: [UInt8], with others: [[UInt8]]) -> [UInt8] {
    var bytes = Array(entry.dropFirst())
    for _ in 0..<Int.random(in: 1...4, using: &self) {
      let place = Int.random(in: 0...bytes.count, using: &self)
      let end = min(bytes.count, place + Int.random(in: 0...16, using: &self))
      switch Int.random(in: 0..<7, using: &self) {
      case 0 where place < bytes.count: bytes[place] = UInt8.random(in: 0...255, using: &self)
      case 1 where place < bytes.count: bytes[place] ^= 1 << UInt8.random(in: 0..<8, using: &self)
      case 2: bytes.removeSubrange(place..<end)
      case 3: bytes.insert(contentsOf: Array(bytes[place..<end]), at: place)
      case 4:
        if let other = others.randomElement(using: &self), other.first == entry.first {
          let cut = Int.random(in: 1...other.count, using: &self)
          bytes = Array(bytes[..<place] + other[cut...])
        }
      default: bytes.insert(contentsOf: Self.words.randomElement(using: &self)!, at: place)
      }
    }
    return Array(entry.prefix(1) + bytes.prefix(4_096))
  }
}
