// When a pool may try again after launches went wrong. Without it a Chrome that cannot start (a missing library, a full
// disk) would be started in a tight loop and take the host down with it. The supervisor keeps one history for each pool.

/// How long a pool waits before the next launch when launches keep failing.
package struct RestartPolicy: Sendable, Equatable {
  /// The wait after the first failure; each further failure doubles it.
  package var initialMilliseconds: Int
  /// The longest wait, so that a pool comes back by itself soon after its cause is mended.
  package var maximumMilliseconds: Int
  /// An instance that ran this long before it died was no failed launch: it is replaced at once.
  package var stableAfterMilliseconds: Int

  package init(
    initialMilliseconds: Int = 500, maximumMilliseconds: Int = 30_000, stableAfterMilliseconds: Int = 10_000
  ) {
    self.initialMilliseconds = initialMilliseconds
    self.maximumMilliseconds = maximumMilliseconds
    self.stableAfterMilliseconds = stableAfterMilliseconds
  }

  /// The wait after so many failures in a row; 0 after none.
  package func delayMilliseconds(afterFailures failures: Int) -> Int {
    guard failures > 0 else { return 0 }
    // Beyond 30 doublings every sensible maximum is reached; the bound keeps the shift within an Int.
    let factor = 1 << Swift.min(failures - 1, 30)
    let (product, overflow) = initialMilliseconds.multipliedReportingOverflow(by: factor)
    return overflow ? maximumMilliseconds : Swift.min(product, maximumMilliseconds)
  }
}

/// The failures of one pool's launches. Times are Unix milliseconds.
package struct RestartHistory: Sendable, Equatable {
  /// Failures since an instance was last stable.
  package private(set) var failures = 0
  package private(set) var lastFailureAt = 0

  package init() {}

  /// A launch went wrong, or an instance died by itself soon after it.
  package mutating func failed(now: Int) {
    failures += 1
    lastFailureAt = now
  }

  /// An instance has become ready: what was wrong is over.
  package mutating func succeeded() { failures = 0 }

  /// An instance ended that nobody had told to; `clean` means that it said goodbye with status 0, as Chrome does when a
  /// client closes it.
  package mutating func exited(startedAt: Int, clean: Bool, now: Int, by policy: RestartPolicy) {
    if !clean && now - startedAt < policy.stableAfterMilliseconds { failed(now: now) }
  }

  /// When the next launch may be tried. A clock that was set back does not extend the wait beyond one delay.
  package func nextLaunchAt(by policy: RestartPolicy, now: Int) -> Int {
    let delay = policy.delayMilliseconds(afterFailures: failures)
    return Swift.min(lastFailureAt, now) + delay
  }

  package func mayLaunch(by policy: RestartPolicy, now: Int) -> Bool { nextLaunchAt(by: policy, now: now) <= now }
}
