// Hashes that are the same in every process: replicas must agree where a client, a cookie or a job belongs.

package enum StableHash {
  /// Hash of bytes. Not keyed: where an attacker gains by collisions, `seed` has to be secret.
  package static func of(_ bytes: Span<UInt8>, seed: UInt64 = 0) -> UInt64 {
    var hash = seed ^ 0xA076_1D64_78BD_642F
    var offset = 0
    while bytes.count - offset >= 8 {
      hash = combine(hash, word(bytes, offset, 8))
      offset += 8
    }
    hash = combine(hash, word(bytes, offset, bytes.count - offset))
    return mix(hash ^ UInt64(bytes.count))
  }

  package static func of(_ text: String, seed: UInt64 = 0) -> UInt64 { of(Array(text.utf8).span, seed: seed) }

  /// One hash of two, in which each bit of both counts.
  @inline(__always) package static func combine(_ a: UInt64, _ b: UInt64) -> UInt64 {
    // Both halves of the full product: a multiplication alone would never move a bit downwards.
    let product = (a ^ 0xE703_7ED1_A0B4_28DB).multipliedFullWidth(by: mix(b) | 1)
    return product.high ^ product.low
  }

  /// A bijection of 64 bits after which each bit depends on all: the finalizer of SplitMix64.
  @inline(__always) package static func mix(_ value: UInt64) -> UInt64 {
    var z = value &+ 0x9E37_79B9_7F4A_7C15
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }

  @inline(__always) private static func word(_ bytes: Span<UInt8>, _ offset: Int, _ count: Int) -> UInt64 {
    var word: UInt64 = 0
    for index in 0..<count { word |= UInt64(bytes[offset + index]) << UInt64(8 * index) }
    return word
  }
}

/// A client's address, as limits and `ip_hash` tell clients apart: IPv4 whole, IPv6 by its /64, as one site has that much.
package struct ClientAddress: Sendable, Equatable, BitwiseCopyable {
  /// The upper half of the address, or for IPv4 the lower half of its mapped form (`::ffff:a.b.c.d`): the one begins with
  /// the bits of a routed network, the other with sixteen zeros, so that they never meet.
  package let network: UInt64

  /// - Parameter address: as a number, first octet highest
  package init(v4 address: UInt32) { network = 0xFFFF_0000_0000 | UInt64(address) }

  /// The two halves of an IPv6 address as numbers, first octet highest. An IPv4 address that is mapped into IPv6
  /// (`::ffff:a.b.c.d`, as a dual-stack listener sees it) is the IPv4 address.
  package init(v6 high: UInt64, _ low: UInt64) {
    network = high == 0 && low >> 32 == 0xFFFF ? low : high
  }

  package var hash: UInt64 { StableHash.mix(network) }
}

/// Random numbers from the caller's state, which must not be 0.
enum Random {
  /// xorshift64*: a nanosecond, and its upper bits are good, which are the ones that ``below(_:_:)`` uses.
  @inline(__always) static func next(_ state: inout UInt64) -> UInt64 {
    var x = state
    x ^= x << 13
    x ^= x >> 7
    x ^= x << 17
    state = x
    return x &* 0x2545_F491_4F6C_DD1D
  }

  /// Evenly from 0..<bound, by multiplication instead of division.
  @inline(__always) static func below(_ bound: Int, _ state: inout UInt64) -> Int {
    Int(truncatingIfNeeded: next(&state).multipliedFullWidth(by: UInt64(bound)).high)
  }
}
