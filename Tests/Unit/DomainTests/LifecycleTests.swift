// The lifecycle machine, the restart policy and the session limits: every transition and every edge of the numbers.
// HealthTests.swift has the checks.
import Domain
import Routing
import Testing

/// `#expect` cannot call what changes its receiver.
private func hold(_ truth: Bool, sourceLocation: SourceLocation = #_sourceLocation) {
  #expect(truth, sourceLocation: sourceLocation)
}

@Suite struct LifecycleTests {
  /// The whole table: state, event, what follows ("-" = refused, "gone" = gone).
  static let table: [(InstanceState, [InstanceLifecycle.Event: String])] = [
    (.starting, [.answered: "ready", .stop: "stopping", .exited: "gone"]),
    (.ready, [.failed: "unhealthy", .drain: "draining", .stop: "stopping", .exited: "gone"]),
    (.unhealthy, [.recovered: "ready", .drain: "draining", .stop: "stopping", .exited: "gone"]),
    (.draining, [.stop: "stopping", .exited: "gone"]),
    (.stopping, [.exited: "gone"]),
  ]

  @Test func everyTransitionIsAsTheTableSays() {
    #expect(Self.table.count == InstanceState.allCases.count)
    for (state, transitions) in Self.table {
      for event in InstanceLifecycle.Event.allCases {
        var lifecycle = InstanceLifecycle(state)
        let applied = lifecycle.apply(event)
        let got = !applied ? "-" : lifecycle.state?.rawValue ?? "gone"
        #expect(got == transitions[event] ?? "-", "\(state) on \(event)")
        if !applied { #expect(lifecycle.state == state) }
      }
    }
  }

  @Test func nothingHappensToWhatIsGone() {
    var lifecycle = InstanceLifecycle(.ready)
    hold(lifecycle.apply(.exited))
    for event in InstanceLifecycle.Event.allCases { hold(!lifecycle.apply(event)) }
    #expect(lifecycle.state == nil)
  }
}

@Suite struct RestartPolicyTests {
  let policy = RestartPolicy(initialMilliseconds: 500, maximumMilliseconds: 30_000, stableAfterMilliseconds: 10_000)

  @Test func delaysDoubleUpToTheMaximum() {
    let delays = (0...9).map { policy.delayMilliseconds(afterFailures: $0) }
    #expect(delays == [0, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000])
    #expect(policy.delayMilliseconds(afterFailures: Int.max) == 30_000)
    #expect(
      RestartPolicy(initialMilliseconds: Int.max / 2, maximumMilliseconds: 9).delayMilliseconds(afterFailures: 40) == 9)
  }

  @Test func aCrashLoopIsSlowedAndASuccessEndsIt() {
    var history = RestartHistory()
    #expect(history.mayLaunch(by: policy, now: 0))
    history.failed(now: 1_000)
    #expect(!history.mayLaunch(by: policy, now: 1_499))
    #expect(history.mayLaunch(by: policy, now: 1_500))
    history.failed(now: 1_500)
    #expect(history.nextLaunchAt(by: policy, now: 1_500) == 2_500)
    history.succeeded()
    #expect(history.mayLaunch(by: policy, now: 1_500))
  }

  @Test func onlyAnEarlyUncleanEndCounts() {
    var history = RestartHistory()
    history.exited(startedAt: 0, clean: true, now: 5, by: policy)
    history.exited(startedAt: 0, clean: false, now: 10_000, by: policy)
    #expect(history.failures == 0)
    history.exited(startedAt: 0, clean: false, now: 9_999, by: policy)
    #expect(history.failures == 1)
  }

  @Test func failedLaunchesAreOverWithTheFirstThatSucceeds() {
    var history = RestartHistory()
    for n in 1...4 {
      history.failed(now: n)
      #expect(history.condition(by: policy) == .backingOff)
    }
    history.failed(now: 5)
    #expect(history.condition(by: policy) == .crashLooping)
    history.succeeded()
    #expect(history.condition(by: policy) == .ok && history.mayLaunch(by: policy, now: 5))
  }

  @Test func instancesThatDieEarlyAreACrashLoopAlthoughTheyBecomeReady() {
    var history = RestartHistory()
    for n in 1...5 {
      history.succeeded()
      history.exited(startedAt: n * 1_000, clean: false, now: n * 1_000 + 10, by: policy)
    }
    #expect(history.failures == 5 && history.condition(by: policy) == .crashLooping)
    #expect(history.nextLaunchAt(by: policy, now: 5_010) == 5_010 + 8_000)
    // One that is ready again has yet to live; one that was started before the last failure shows nothing.
    history.succeeded()
    #expect(history.condition(by: policy) == .crashLooping)
    history.lives(startedAt: 100, now: 100_000, by: policy)
    history.lives(startedAt: 6_000, now: 15_999, by: policy)
    history.proved(startedAt: 5_009)
    #expect(history.condition(by: policy) == .crashLooping)
    history.lives(startedAt: 6_000, now: 16_000, by: policy)
    #expect(history.condition(by: policy) == .ok)
    // So does one that was ended because its work was done.
    history.exited(startedAt: 20_000, clean: false, now: 20_001, by: policy)
    history.proved(startedAt: 20_002)
    #expect(history.failures == 0)
  }

  @Test func withoutRoomAPoolWaitsButIsNotBroken() {
    var history = RestartHistory()
    for n in 1...20 { history.failed(.noRoom, now: n) }
    #expect(history.condition(by: policy) == .backingOff)
    #expect(history.nextLaunchAt(by: policy, now: 20) == 30_020)
    history.succeeded()
    #expect(history.condition(by: policy) == .ok)
  }

  @Test func inACrashLoopOneLaunchAtATimeFindsOut() {
    var history = RestartHistory()
    #expect(history.launches(of: 7, beside: 3, by: policy) == 7)
    for _ in 0..<5 { history.failed(now: 1) }
    #expect(history.launches(of: 7, beside: 0, by: policy) == 1)
    #expect(history.launches(of: 7, beside: 1, by: policy) == 0)
    #expect(history.launches(of: 7, beside: 2, by: policy) == 0)
    #expect(history.launches(of: 0, beside: 0, by: policy) == 0)
  }

  @Test func aClockSetBackDoesNotStopAPoolForLonger() {
    var history = RestartHistory()
    history.failed(now: 1_000_000)
    #expect(history.nextLaunchAt(by: policy, now: 1_000) == 1_500)
  }
}

@Suite struct PoolSpecTests {
  @Test func placeholdersAreFilledInEverywhere() {
    let text = ProcessSpec.expand(
      "--a={port},{port} {dir}/{id} {unknown} {{port}} {", port: 51_000, directory: "/d", id: "i-1")
    #expect(text == "--a=51000,51000 /d/i-1 {unknown} {51000} {")
    // What a value contains is not expanded again.
    #expect(ProcessSpec.expand("{id}", port: 1, directory: "/d", id: "{port}") == "{port}")
    #expect(ProcessSpec.expand("", port: 1, directory: "/d", id: "i") == "")
  }

  @Test func namesArePlainInKeysAndDirectories() {
    for good in ["a", "chrome", "chrome-2", "a_b", String(repeating: "x", count: 40)] { #expect(PoolSpec.isName(good)) }
    for bad in ["", "Chrome", "a b", "a/b", "a:b", "..", "é", String(repeating: "x", count: 41)] {
      #expect(!PoolSpec.isName(bad), "\(bad)")
    }
  }

  @Test func contradictionsAreNamed() {
    func spec(_ change: (inout PoolSpec) -> Void) -> String? {
      var spec = PoolSpec(name: "p", kind: .cdp, runtime: .process(ProcessSpec()))
      change(&spec)
      return spec.contradiction
    }
    #expect(spec { _ in } == nil)
    #expect(spec { $0.min = 9 } == "min (9) is greater than max (8)")
    #expect(
      spec {
        $0.max = 0
        $0.min = 0
      } == "max must be at least 1")
    #expect(spec { $0.spare = 9 }?.contains("spare (9)") == true)
    #expect(
      spec {
        $0.spare = 16
        $0.slots = 2
      } == nil)
    #expect(spec { $0.slots = 0 }?.contains("recycleAfterSessions") == true)
    #expect(spec { $0.sessions.idleMilliseconds = 2_000_000 }?.contains("idleLimitMilliseconds") == true)
    #expect(spec { $0.sessions.hardMaximumMilliseconds = 9 }?.contains("hardLimitMaximumMilliseconds (9)") == true)
  }

  @Test func replicasGetTheNumbersOfThePool() {
    var spec = PoolSpec(name: "p", kind: .cdp, runtime: .process(ProcessSpec()), slots: 3, recycleAfterSessions: 7)
    spec.sessions = SessionLimits(
      hardMilliseconds: 5_000, idleMilliseconds: 4_000, reservationMilliseconds: 300, graceMilliseconds: 20,
      hardMaximumMilliseconds: 6_000, graceMaximumMilliseconds: 9)
    spec.queue = QueueLimits(timeoutMilliseconds: 11, limit: 12)
    var record = PoolRecord(
      name: "p", kind: .cdp, slots: 3, recycleAfterSessions: 7, reservationMilliseconds: 300, graceMilliseconds: 20,
      hardLimitMilliseconds: 5_000, idleLimitMilliseconds: 4_000, queueTimeoutMilliseconds: 11, queueLimit: 12)
    record.hardLimitMaximumMilliseconds = 6_000
    #expect(spec.record == record)
  }
}

@Suite struct SessionLimitsTests {
  let limits = SessionLimits(hardMilliseconds: 60_000, idleMilliseconds: 0)

  @Test func whatIsNotAskedForIsThePools() throws {
    #expect(try limits.resolve(timeout: nil, idleTimeout: nil) == SessionLimits.Resolved(60_000, 0))
    let idle = SessionLimits(hardMilliseconds: 60_000, idleMilliseconds: 30_000)
    #expect(try idle.resolve(timeout: 10_000, idleTimeout: nil) == SessionLimits.Resolved(10_000, 10_000))
  }

  @Test(
    arguments: [(0, nil), (999, nil), (-1, nil), (60_001, nil), (nil, 999), (5_000, 5_001), (nil, 60_001)]
      as [(Int?, Int?)])
  func whatIsOutOfRangeIsRefusedWithTheRange(timeout: Int?, idle: Int?) {
    #expect {
      try limits.resolve(timeout: timeout, idleTimeout: idle)
    } throws: { error in
      "\(error)".contains("must be from 1000 to ")
    }
  }

  @Test func edgesAreAllowed() throws {
    #expect(try limits.resolve(timeout: 1_000, idleTimeout: 1_000) == SessionLimits.Resolved(1_000, 1_000))
    #expect(
      try limits.resolve(timeout: 60_000, idleTimeout: 60_000) == SessionLimits.Resolved(60_000, 60_000))
  }

  @Test func aMaximumLetsClientsAskForMoreThanTheDefault() throws {
    let wide = SessionLimits(hardMilliseconds: 60_000, hardMaximumMilliseconds: 90_000)
    #expect(try wide.resolve(timeout: nil, idleTimeout: nil).hardMilliseconds == 60_000)
    #expect(try wide.resolve(timeout: 90_000, idleTimeout: nil).hardMilliseconds == 90_000)
    #expect(throws: SessionLimits.Refusal.self) { try wide.resolve(timeout: 90_001, idleTimeout: nil) }
    #expect(throws: SessionLimits.Refusal.self) { try wide.checkKeepAlive(timeout: 90_001) }
    #expect(throws: SessionLimits.Refusal.self) { try wide.checkKeepAlive(timeout: 999) }
    #expect(throws: SessionLimits.Refusal.self) { try limits.checkKeepAlive(timeout: 60_001) }
    try wide.checkKeepAlive(timeout: 90_000)
  }

  @Test func aGraceIsWithinThePoolsMaximumOrTheSessionsLife() throws {
    #expect(try limits.resolve(timeout: nil, idleTimeout: nil, grace: 0).graceMilliseconds == 0)
    #expect(try limits.resolve(timeout: 5_000, idleTimeout: nil, grace: 5_000).graceMilliseconds == 5_000)
    let strict = SessionLimits(hardMilliseconds: 60_000, graceMaximumMilliseconds: 7_000)
    #expect(try strict.resolve(timeout: 5_000, idleTimeout: nil, grace: 7_000).graceMilliseconds == 7_000)
    let refusal = #expect(throws: SessionLimits.Refusal.self) {
      try strict.resolve(timeout: nil, idleTimeout: nil, grace: 7_001)
    }
    #expect(refusal?.description == "\"grace\" must be from 0 to 7000 milliseconds, not 7001")
    for grace in [-1, 5_001] {
      #expect(throws: SessionLimits.Refusal.self) {
        try limits.resolve(timeout: 5_000, idleTimeout: nil, grace: grace)
      }
    }
  }
}
