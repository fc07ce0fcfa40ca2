// How many of the last ten seconds' events were special: requests that failed (ejection), requests that are retries
// (retry budget). Flat memory, constant time.

struct SlidingWindow: Sendable, BitwiseCopyable {
  static let seconds = 10

  /// One bucket per second: all events in the upper half, the special ones in the lower.
  private var buckets: InlineArray<10, UInt64>
  private var sum: UInt64 = 0
  private var second = 0
  /// The bucket of `second`.
  private var current = 0

  init() { buckets = InlineArray(repeating: 0) }

  /// Events of the window, after ``advance(to:)``.
  var total: Int { Int(sum >> 32) }
  var special: Int { Int(sum & 0xFFFF_FFFF) }

  /// Forgets what is older than the window. The sums are true until the next second.
  @inline(__always) mutating func advance(to now: Int) {
    let latest = now / 1_000
    if latest > second { turn(to: latest) }
  }

  private mutating func turn(to latest: Int) {
    if latest - second >= Self.seconds {
      self = SlidingWindow()
      second = latest
      return
    }
    var buckets = buckets.mutableSpan
    while second < latest {
      second += 1
      current = current + 1 == Self.seconds ? 0 : current + 1
      sum -= buckets[current]
      buckets[current] = 0
    }
  }

  @inline(__always) mutating func add(isSpecial: Bool) { add(1 << 32 | (isSpecial ? 1 : 0)) }

  /// An event that was added as an ordinary one turned out to be special.
  mutating func turnedSpecial() {
    if special < total { add(1) }
  }

  @inline(__always) private mutating func add(_ amount: UInt64) {
    var buckets = buckets.mutableSpan
    buckets[current] += amount
    sum += amount
  }
}
