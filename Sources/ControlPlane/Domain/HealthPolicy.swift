// How the instances of a pool are checked: in four depths, each of which proves what the ones before it cannot. Settings
// makes it from the configuration; InstanceHealth and HealthSchedule are the rules that go by it.

/// What a check looks at. A check of one depth goes through those before it, and says at which one it failed.
package enum HealthDepth: Int, Sendable, CaseIterable, Comparable {
  /// Its process or container runs. No check is needed to notice an end: the kernel and the engines tell of it.
  case process
  /// Something accepts connections at its port.
  case tcp
  /// It answers as itself: `/json/version` with the GUID of this very Chrome, or the pool's path.
  case http
  /// A browser answers Browser.getVersion over its WebSocket.
  case cdp

  package static func < (a: HealthDepth, b: HealthDepth) -> Bool { a.rawValue < b.rawValue }

  /// As events and log lines call it.
  package var name: String {
    switch self {
    case .process: "process"
    case .tcp: "TCP"
    case .http: "HTTP"
    case .cdp: "CDP"
    }
  }
}

/// When an instance is asked whether it is well, and how many bad answers mean something. Durations are milliseconds.
package struct HealthPolicy: Sendable, Equatable {
  /// One depth's numbers.
  package struct Depth: Sendable, Equatable {
    /// Time between two checks that go so deep; 0 = none are made on its account.
    package var intervalMilliseconds: Int
    /// How long this part of a check may take.
    package var timeoutMilliseconds: Int
    /// Failures in a row at this depth after which an instance gets no more clients.
    package var failures: Int

    package init(intervalMilliseconds: Int, timeoutMilliseconds: Int, failures: Int) {
      self.intervalMilliseconds = intervalMilliseconds
      self.timeoutMilliseconds = timeoutMilliseconds
      self.failures = failures
    }
  }

  /// Of the depth HTTP.
  package var intervalMilliseconds: Int
  package var timeoutMilliseconds: Int
  package var failures: Int
  /// Good checks in a row after which it gets clients again.
  package var successes: Int
  /// Failures in a row at one depth after which an idle instance is replaced; `.max` = never.
  package var failuresBeforeReplacement: Int
  /// What is asked of kind `http` and `vnc`: any status from 200 to 499 is a sign of life.
  package var path: String
  package var tcp = Depth(intervalMilliseconds: 2_000, timeoutMilliseconds: 1_000, failures: 2)
  /// For kind `cdp` only.
  package var cdp = Depth(intervalMilliseconds: 30_000, timeoutMilliseconds: 5_000, failures: 2)

  package init(
    intervalMilliseconds: Int = 5_000, timeoutMilliseconds: Int = 2_000, failures: Int = 2, successes: Int = 2,
    failuresBeforeReplacement: Int = 6, path: String = "/"
  ) {
    self.intervalMilliseconds = intervalMilliseconds
    self.timeoutMilliseconds = timeoutMilliseconds
    self.failures = failures
    self.successes = successes
    self.failuresBeforeReplacement = failuresBeforeReplacement
    self.path = path
  }

  package subscript(depth: HealthDepth) -> Depth {
    switch depth {
    // There is no doubt about an end, and no wait for it.
    case .process: Depth(intervalMilliseconds: 0, timeoutMilliseconds: 0, failures: 1)
    case .tcp: tcp
    case .http:
      Depth(
        intervalMilliseconds: intervalMilliseconds, timeoutMilliseconds: timeoutMilliseconds, failures: failures)
    case .cdp: cdp
    }
  }

  /// Failures in a row at this depth that take a ready instance out of service. When replicas have told of failures as
  /// well, there are two witnesses, and one failed check is enough.
  package func threshold(_ depth: HealthDepth, isSuspected: Bool) -> Int { isSuspected ? 1 : self[depth].failures }

  /// Failures in a row after which an idle instance is replaced. With replicas' word, as many as otherwise take one out
  /// of service.
  package func replacement(isSuspected: Bool) -> Int {
    guard isSuspected, failuresBeforeReplacement != .max else { return failuresBeforeReplacement }
    return Swift.min(failuresBeforeReplacement, failures)
  }
}
