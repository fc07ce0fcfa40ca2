// A member's response time as the `response_time` strategy judges by: it jumps to each peak at once and sinks slowly, so
// that a member that became slow is avoided from its first slow answer on.

struct ResponseTime: Sendable, BitwiseCopyable {
  /// How long it takes until half of a difference is forgotten. Long against a request, short against an outage.
  static let halfLifeMilliseconds = 5_000

  /// Microseconds; negative = none measured.
  private var smoothed: Float = -1
  private var at = 0

  init() {}

  var isKnown: Bool { smoothed >= 0 }

  /// - Parameter isFailure: quick failures are no quick answers, so they never lower the value.
  mutating func add(_ microseconds: Int, isFailure: Bool, now: Int) {
    let sample = Float(microseconds)
    if sample >= smoothed {
      smoothed = sample
    } else if isFailure {
      return
    } else {
      smoothed = sample + (smoothed - sample) * Self.remaining(after: now - at)
    }
    at = now
  }

  /// - Parameter isIdle: who has nothing under way may be tried again after a while; who has, and does not answer, may not.
  @inline(__always) func value(isIdle: Bool, now: Int) -> Float {
    isIdle ? smoothed * Self.remaining(after: now - at) : smoothed
  }

  /// 2^(-time / half-life), with a straight line between the halvings.
  @inline(__always) static func remaining(after milliseconds: Int) -> Float {
    if milliseconds <= 0 { return 1 }
    let halvings = milliseconds / halfLifeMilliseconds
    if halvings >= 32 { return 0 }
    let rest = Float(milliseconds - halvings * halfLifeMilliseconds) / Float(halfLifeMilliseconds)
    return (1 - rest / 2) / Float(1 << halvings)
  }
}
