// How much a route may retry: so that a failing pool does not get its load multiplied when it can bear it least.

/// One worker's budget of one route: of the last ten seconds' requests at most a share is retried, plus a floor.
package struct RetryBudget: Sendable, BitwiseCopyable {
  private var window = SlidingWindow()
  private let percent: Int
  private let floor: Int

  /// - Parameters:
  ///   - percent: retries per hundred requests
  ///   - floorPerSecond: what a quiet route may retry in any case
  package init(percent: Int, floorPerSecond: Int = 3) {
    self.percent = max(percent, 0)
    floor = max(floorPerSecond, 0) * SlidingWindow.seconds
  }

  /// A request came in (not a retry of one).
  @inline(__always) package mutating func requested(now: Int) {
    window.advance(to: now)
    window.add(isSpecial: false)
  }

  /// Whether a request may be tried again; if so, the retry is counted.
  package mutating func spend(now: Int) -> Bool {
    window.advance(to: now)
    let requests = window.total - window.special
    guard window.special < floor + requests * percent / 100 else { return false }
    window.add(isSpecial: true)
    return true
  }
}
