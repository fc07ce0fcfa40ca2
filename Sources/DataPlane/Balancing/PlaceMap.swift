// Which member has a place: places number all instances of a worker, members only those of a pool. A hash table, as an
// array by place would cost each of many pools the size of the largest table.

struct PlaceMap: Sendable {
  /// Place in the upper half, member in the lower; all ones = empty.
  private var entries: [UInt64] = [.max]
  private var shift: UInt32 = 31

  /// Empties the map; at most half of it is used by `count` members, so that a look costs one step or two.
  mutating func reset(count: Int) {
    let bits = max(1, Int.bitWidth - (2 * count).leadingZeroBitCount)
    entries = [UInt64](repeating: .max, count: 1 << bits)
    shift = UInt32(32 - bits)
  }

  @inline(__always) private func start(_ place: Int32) -> Int {
    Int((UInt32(bitPattern: place) &* 0x9E37_79B9) >> shift)
  }

  @inline(__always) func member(at place: Int32) -> Int? {
    guard place >= 0 else { return nil }
    var index = start(place) & (entries.count - 1)
    while true {
      let entry = entries[index]
      if entry == .max { return nil }
      if UInt32(truncatingIfNeeded: entry >> 32) == UInt32(bitPattern: place) {
        return Int(truncatingIfNeeded: entry & 0xFFFF_FFFF)
      }
      index = (index + 1) & (entries.count - 1)
    }
  }

  /// The place must not be in the map.
  mutating func insert(_ place: Int32, member: Int) {
    var index = start(place) & (entries.count - 1)
    while entries[index] != .max { index = (index + 1) & (entries.count - 1) }
    entries[index] = UInt64(UInt32(bitPattern: place)) << 32 | UInt64(member)
  }
}
