// A hash table of fixed size that threads share without locks: what RateLimiter and ClientCounter know of each client.

import Synchronization

/// Sets of eight 64-bit words, one cache line each. A key has its place in one set. A word is, from the top:
/// ```
/// tag of the key (never 0) │ pending, 1 bit │ value
/// ```
/// so that tag and value change together in one atomic step. Two threads that enter the same new key at the same time
/// might put it into two words; `claim` excludes that without a lock: a word is first entered as pending, and becomes
/// valid only after a look at the whole set. Who finds another pending word of its key strikes it out; who finds a valid
/// one withdraws. So the one that becomes valid has seen no other, and all that came later have seen it.
@safe final class ClientTable: Sendable {
  static let ways = 8

  private nonisolated(unsafe) let words: UnsafeMutablePointer<Atomic<UInt64>>
  private let setCount: Int
  private let seed: UInt64
  let valueBits: UInt64
  /// Makes each pending word different from all others, so that nobody takes another one's for its own.
  private let nonce = Atomic<UInt64>(0)
  /// Requests and connections that were let in uncounted because their set was full.
  let overflows = Atomic<UInt64>(0)

  init(capacity: Int, valueBits: UInt64, seed: UInt64) {
    var sets = 1
    while sets * Self.ways < capacity, sets < 1 << 20 { sets *= 2 }
    setCount = sets
    self.valueBits = valueBits
    self.seed = seed
    let count = sets * Self.ways
    let memory = UnsafeMutableRawPointer.allocate(byteCount: count * 8, alignment: 64)
    unsafe words = memory.bindMemory(to: Atomic<UInt64>.self, capacity: count)
    for index in 0..<count { unsafe (words + index).initialize(to: Atomic(0)) }
  }

  deinit { unsafe words.deallocate() }

  /// Where a key belongs: the index of its set's first word, and its tag.
  struct Home {
    let first: Int
    let tag: UInt64
  }

  @inline(__always) func home(of key: UInt64) -> Home {
    let hash = StableHash.mix(key ^ seed)
    // The set is made of the lower bits, the tag of the upper ones; they have none in common.
    return Home(first: Int(hash & UInt64(setCount - 1)) * Self.ways, tag: max(hash >> (valueBits + 1), 1))
  }

  var capacity: Int { setCount * Self.ways }
  private var pendingBit: UInt64 { 1 << valueBits }
  @inline(__always) func value(_ word: UInt64) -> UInt64 { word & (pendingBit - 1) }
  @inline(__always) func isPending(_ word: UInt64) -> Bool { word & pendingBit != 0 }
  @inline(__always) func word(_ home: Home, _ value: UInt64) -> UInt64 { home.tag << (valueBits + 1) | value }
  @inline(__always) private func belongs(_ word: UInt64, to home: Home) -> Bool { word >> (valueBits + 1) == home.tag }

  @inline(__always) func load(_ index: Int) -> UInt64 { unsafe words[index].load(ordering: .acquiring) }

  /// True when the word was as expected, and is now the new one.
  @inline(__always) func replace(_ index: Int, _ expected: UInt64, by word: UInt64) -> Bool {
    unsafe words[index].compareExchange(expected: expected, desired: word, ordering: .sequentiallyConsistent).exchanged
  }

  /// The key's valid word, if it has one.
  @inline(__always) func find(_ home: Home) -> (index: Int, word: UInt64)? {
    for index in home.first..<home.first + Self.ways {
      let word = load(index)
      if belongs(word, to: home), !isPending(word) { return (index, word) }
    }
    return nil
  }

  enum Claim {
    case claimed(index: Int)
    /// Somebody was faster, or a word changed meanwhile: look again.
    case again
    /// All words belong to others that need them.
    case full
  }

  /// Enters a key that `find` did not find.
  /// - Parameter isFree: whether a valid word may be overwritten, as forgetting it loses nothing
  @inline(__always) func claim(_ home: Home, value: UInt64, isFree: (UInt64) -> Bool) -> Claim {
    var free = -1
    var old: UInt64 = 0
    for index in home.first..<home.first + Self.ways {
      let word = load(index)
      if word == 0 || !isPending(word) && isFree(self.value(word)) {
        free = index
        old = word
        if word == 0 { break }
      }
    }
    guard free >= 0 else { return .full }
    let number = nonce.wrappingAdd(1, ordering: .relaxed).newValue
    let pending = self.word(home, pendingBit | number & (pendingBit - 1))
    guard replace(free, old, by: pending) else { return .again }
    for index in home.first..<home.first + Self.ways where index != free {
      while true {
        let other = unsafe words[index].load(ordering: .sequentiallyConsistent)
        guard belongs(other, to: home) else { break }
        if !isPending(other) {
          _ = replace(free, pending, by: 0)
          return .again
        }
        if replace(index, other, by: 0) { break }
      }
    }
    return replace(free, pending, by: self.word(home, value)) ? Claim.claimed(index: free) : .again
  }

  func overflowed() { overflows.wrappingAdd(1, ordering: .relaxed) }
}
