// A heap of members that knows where each one is, so that any of them can be moved or taken out in O(log n). The balancer
// has up to three: whose turn is next, who has the least load, whose ejection ends first.

struct MemberHeap: Sendable {
  /// Smaller keys come first, equal ones by `order`. Both are compared as distances, so that they may wrap around.
  struct Entry: BitwiseCopyable, Sendable {
    var key: UInt64
    var order: UInt64
    var member: Int32

    @inline(__always) func precedes(_ other: Entry) -> Bool {
      let distance = Int64(bitPattern: key &- other.key)
      if distance != 0 { return distance < 0 }
      return Int64(bitPattern: order &- other.order) < 0
    }
  }

  /// Four children each: half the levels of a binary heap, and siblings share cache lines.
  private var entries: [Entry] = []
  /// Where a member's entry is; -1 = nowhere.
  private var positions: [Int32] = []

  /// Empties the heap and makes room for members 0..<count.
  mutating func reset(count: Int) {
    entries.removeAll(keepingCapacity: true)
    entries.reserveCapacity(count)
    positions = [Int32](repeating: -1, count: count)
  }

  var count: Int { entries.count }
  var top: Entry? { entries.isEmpty ? nil : entries[0] }

  /// The first entry that is not this member's: the top, or the first of its children.
  @inline(__always) func top(except member: Int32) -> Entry? {
    guard !entries.isEmpty else { return nil }
    guard entries[0].member == member else { return entries[0] }
    guard entries.count > 1 else { return nil }
    return entries[firstChild(of: 0)]
  }

  func entry(of member: Int) -> Entry? {
    guard positions.indices.contains(member), positions[member] >= 0 else { return nil }
    return entries[Int(positions[member])]
  }

  mutating func insert(_ entry: Entry) {
    entries.append(entry)
    rise(entry, from: entries.count - 1)
  }

  mutating func remove(_ member: Int) {
    let position = Int(positions[member])
    guard position >= 0 else { return }
    positions[member] = -1
    let last = entries.removeLast()
    if position < entries.count { place(last, near: position) }
  }

  /// Gives a member that is in the heap a new key.
  @inline(__always) mutating func update(_ member: Int, key: UInt64, order: UInt64) {
    let position = Int(positions[member])
    guard position >= 0 else { return }
    place(Entry(key: key, order: order, member: Int32(truncatingIfNeeded: member)), near: position)
  }

  private mutating func place(_ entry: Entry, near position: Int) {
    if position > 0, entry.precedes(entries[(position - 1) >> 2]) {
      rise(entry, from: position)
    } else {
      sink(entry, from: position)
    }
  }

  private mutating func rise(_ entry: Entry, from start: Int) {
    var position = start
    while position > 0 {
      let parent = (position - 1) >> 2
      guard entry.precedes(entries[parent]) else { break }
      set(entries[parent], at: position)
      position = parent
    }
    set(entry, at: position)
  }

  private mutating func sink(_ entry: Entry, from start: Int) {
    var position = start
    while 4 * position + 1 < entries.count {
      let child = firstChild(of: position)
      guard entries[child].precedes(entry) else { break }
      set(entries[child], at: position)
      position = child
    }
    set(entry, at: position)
  }

  @inline(__always) private func firstChild(of position: Int) -> Int {
    let children = 4 * position + 1
    var best = children
    for child in children + 1..<max(min(children + 4, entries.count), children + 1) {
      if entries[child].precedes(entries[best]) { best = child }
    }
    return best
  }

  @inline(__always) private mutating func set(_ entry: Entry, at position: Int) {
    entries[position] = entry
    positions[Int(entry.member)] = Int32(truncatingIfNeeded: position)
  }

  /// What is wrong with the heap, for tests.
  var violation: String? {
    for position in entries.indices {
      let parent = max(position - 1, 0) >> 2
      if entries[position].precedes(entries[parent]) { return "entry \(position) is too low" }
      if positions[Int(entries[position].member)] != position { return "entry \(position) is not where it should be" }
    }
    let known = positions.count { $0 >= 0 }
    return known == entries.count ? nil : "\(known) positions for \(entries.count) entries"
  }
}
