// How much a route may retry: so that a failing pool does not get its load multiplied by its clients' proxies.

/// One worker's budget of one route: retries are at most a share of the requests of the last ten seconds, plus a floor.
package struct RetryBudget: Sendable, BitwiseCopyable {
  /// - Parameters:
  ///   - percent: retries per hundred requests
  ///   - floorPerSecond: what a quiet route may retry in any case
  package init(percent: Int, floorPerSecond: Int = 3) {}

  /// A request came in (not a retry of one).
  package mutating func requested(now: Int) {}

  /// Whether a request may be tried again; if so, the retry is counted.
  package mutating func spend(now: Int) -> Bool { true }
}
