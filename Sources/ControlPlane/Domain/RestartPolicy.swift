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
  /// Failed launches and early deaths in a row after which the pool is said to be crash looping.
  package var crashLoopAfter: Int

  package init(
    initialMilliseconds: Int = 500, maximumMilliseconds: Int = 30_000, stableAfterMilliseconds: Int = 10_000,
    crashLoopAfter: Int = 5
  ) {
    self.initialMilliseconds = initialMilliseconds
    self.maximumMilliseconds = maximumMilliseconds
    self.stableAfterMilliseconds = stableAfterMilliseconds
    self.crashLoopAfter = crashLoopAfter
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

/// How a pool's launches go.
package enum PoolCondition: String, Sendable, CaseIterable {
  case ok
  /// The last launch failed, and the next one waits.
  case backingOff = "backing_off"
  /// So many failed in a row that its image or command must be broken: one launch at a time finds out whether it still is.
  case crashLooping = "crash_looping"
}

/// The failures of one pool's launches. Times are Unix milliseconds.
package struct RestartHistory: Sendable, Equatable {
  /// What went wrong.
  package enum Failure: Sendable, Equatable, CaseIterable {
    /// It was started, or should have been, and did not become ready.
    case launch
    /// It became ready and died soon after.
    case death
    /// There was no engine, slot or port for it: nothing was started.
    case noRoom
  }

  /// Failures in a row by kind.
  package private(set) var failedLaunches: Int
  package private(set) var earlyDeaths: Int
  package private(set) var refusals: Int
  package private(set) var lastFailureAt: Int

  package init(failedLaunches: Int = 0, earlyDeaths: Int = 0, refusals: Int = 0, lastFailureAt: Int = 0) {
    self.failedLaunches = failedLaunches
    self.earlyDeaths = earlyDeaths
    self.refusals = refusals
    self.lastFailureAt = lastFailureAt
  }

  /// All failures in a row: they make the wait.
  package var failures: Int { failedLaunches + earlyDeaths + refusals }
  /// Those of them that speak against the pool's image or command.
  package var crashes: Int { failedLaunches + earlyDeaths }

  package mutating func failed(_ failure: Failure = .launch, now: Int) {
    switch failure {
    case .launch: failedLaunches += 1
    case .death: earlyDeaths += 1
    case .noRoom: refusals += 1
    }
    lastFailureAt = now
  }

  /// An instance has become ready. What dies soon after that has yet to show that it lives: see ``proved(startedAt:)``.
  package mutating func succeeded() {
    failedLaunches = 0
    refusals = 0
  }

  /// An instance ended that nobody had told to; `clean` means that it said goodbye with status 0 to a client that had it.
  package mutating func exited(startedAt: Int, clean: Bool, now: Int, by policy: RestartPolicy) {
    if !clean && now - startedAt < policy.stableAfterMilliseconds { failed(.death, now: now) }
  }

  /// A ready instance has lived for long enough, and was started after the last failure.
  package mutating func lives(startedAt: Int, now: Int, by policy: RestartPolicy) {
    if now - startedAt >= policy.stableAfterMilliseconds { proved(startedAt: startedAt) }
  }

  /// An instance that was started after the last failure has done all that was asked of it.
  package mutating func proved(startedAt: Int) {
    if startedAt >= lastFailureAt { earlyDeaths = 0 }
  }

  package func condition(by policy: RestartPolicy) -> PoolCondition {
    if crashes >= policy.crashLoopAfter { return .crashLooping }
    return failures > 0 ? .backingOff : .ok
  }

  /// When the next launch may be tried. A clock that was set back does not extend the wait beyond one delay.
  package func nextLaunchAt(by policy: RestartPolicy, now: Int) -> Int {
    let delay = policy.delayMilliseconds(afterFailures: failures)
    return Swift.min(lastFailureAt, now) + delay
  }

  package func mayLaunch(by policy: RestartPolicy, now: Int) -> Bool { nextLaunchAt(by: policy, now: now) <= now }

  /// Of so many launches that are wanted, those that may begin beside `starting` others: in a crash loop one at a time.
  package func launches(of wanted: Int, beside starting: Int, by policy: RestartPolicy) -> Int {
    guard condition(by: policy) == .crashLooping else { return wanted }
    return Swift.max(0, Swift.min(wanted, 1 - starting))
  }
}
