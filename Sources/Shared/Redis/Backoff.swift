// How long to wait before the next try to connect. Used by RedisClient and by the threads that own a RedisConnection.

/// Exponential backoff with jitter: the delay is a random part, at least half, of a limit that doubles with every
/// failure up to a maximum. So many replicas do not all come back at once.
package struct Backoff: Sendable {
  package let firstMilliseconds: Int
  package let maximumMilliseconds: Int
  /// Failures since the last success.
  package private(set) var failures = 0

  package init(firstMilliseconds: Int = 50, maximumMilliseconds: Int = 2_000) {
    precondition(firstMilliseconds > 0 && maximumMilliseconds >= firstMilliseconds)
    self.firstMilliseconds = firstMilliseconds
    self.maximumMilliseconds = maximumMilliseconds
  }

  /// Counts a failure and says how many milliseconds to wait. `random` is any number, e.g. `UInt64.random(in: 0 ... .max)`.
  package mutating func next(random: UInt64) -> Int {
    var limit = firstMilliseconds
    for _ in 0..<min(failures, 40) where limit < maximumMilliseconds { limit *= 2 }
    limit = min(limit, maximumMilliseconds)
    failures += 1
    let half = limit / 2
    return half + Int(random % UInt64(limit - half + 1))
  }

  package mutating func reset() { failures = 0 }
}
