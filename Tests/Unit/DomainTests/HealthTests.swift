// The rules of health checks: what failures at each depth mean, when the next check is due, what replicas' word changes.
import Domain
import Routing
import Testing

/// `#expect` cannot call what changes its receiver.
private func hold(_ truth: Bool, sourceLocation: SourceLocation = #_sourceLocation) {
  #expect(truth, sourceLocation: sourceLocation)
}

@Suite struct InstanceHealthTests {
  let policy = HealthPolicy(failures: 2, successes: 2)

  @Test func oneFailedCheckIsForgiven() {
    var health = InstanceHealth()
    hold(health.checked(.ill(at: .http), by: policy, isUnhealthy: false) == nil)
    hold(health.checked(.well(upTo: .http), by: policy, isUnhealthy: false) == nil)
    hold(health.checked(.ill(at: .http), by: policy, isUnhealthy: false) == nil)
    hold(health.checked(.ill(at: .http), by: policy, isUnhealthy: false) == .failed)
    #expect(health.failures == 2 && health.cause == .http)
    hold(health.checked(.ill(at: .http), by: policy, isUnhealthy: true) == nil)
    #expect(health.failures == 3)
    hold(health.checked(.well(upTo: .http), by: policy, isUnhealthy: true) == nil)
    hold(health.checked(.well(upTo: .http), by: policy, isUnhealthy: true) == .recovered)
    #expect(health == InstanceHealth())
  }

  @Test func aBadCheckBetweenGoodOnesBeginsTheRecoveryAnew() {
    var health = InstanceHealth(cause: .http)
    hold(health.checked(.well(upTo: .http), by: policy, isUnhealthy: true) == nil)
    hold(health.checked(.ill(at: .tcp), by: policy, isUnhealthy: true) == nil)
    hold(health.checked(.well(upTo: .http), by: policy, isUnhealthy: true) == nil)
    hold(health.checked(.well(upTo: .http), by: policy, isUnhealthy: true) == .recovered)
  }

  @Test func anOpenPortIsNoSignOfLifeForOneThatDoesNotAnswer() {
    var health = InstanceHealth()
    hold(health.checked(.ill(at: .http), by: policy, isUnhealthy: false) == nil)
    // Port checks in between neither forgive the silence …
    for _ in 0..<5 { hold(health.checked(.well(upTo: .tcp), by: policy, isUnhealthy: false) == nil) }
    hold(health.checked(.ill(at: .http), by: policy, isUnhealthy: false) == .failed)
    // … nor end it.
    for _ in 0..<5 { hold(health.checked(.well(upTo: .tcp), by: policy, isUnhealthy: true) == nil) }
    #expect(health.failures(at: .http) == 2)
  }

  @Test func aHangingBrowserComesBackOnlyByADeepCheck() {
    var health = InstanceHealth()
    hold(health.checked(.ill(at: .cdp), by: policy, isUnhealthy: false) == nil)
    hold(health.checked(.well(upTo: .http), by: policy, isUnhealthy: false) == nil)
    hold(health.checked(.ill(at: .cdp), by: policy, isUnhealthy: false) == .failed)
    for _ in 0..<9 { hold(health.checked(.well(upTo: .http), by: policy, isUnhealthy: true) == nil) }
    // Worse comes in between: the deep check is still what counts.
    hold(health.checked(.ill(at: .tcp), by: policy, isUnhealthy: true) == nil)
    #expect(health.cause == .cdp)
    hold(health.checked(.well(upTo: .cdp), by: policy, isUnhealthy: true) == nil)
    hold(health.checked(.well(upTo: .cdp), by: policy, isUnhealthy: true) == .recovered)
  }

  @Test func eachDepthHasItsThresholdAndAnEndHasNone() {
    var policy = HealthPolicy(failures: 3)
    policy.tcp.failures = 1
    var health = InstanceHealth()
    hold(health.checked(.ill(at: .http), by: policy, isUnhealthy: false) == nil)
    hold(health.checked(.ill(at: .tcp), by: policy, isUnhealthy: false) == .failed)
    health = InstanceHealth()
    hold(health.checked(.ill(at: .process), by: policy, isUnhealthy: false) == .failed)
    // What failed deeper is well when a check fails before it? No: it was not looked at.
    health = InstanceHealth()
    hold(health.checked(.ill(at: .cdp), by: policy, isUnhealthy: false) == nil)
    hold(health.checked(.ill(at: .http), by: policy, isUnhealthy: false) == nil)
    #expect(health.failures(at: .cdp) == 1 && health.failures(at: .http) == 1)
  }

  @Test func withReplicasWordOneFailedCheckIsEnough() {
    var health = InstanceHealth()
    hold(health.checked(.ill(at: .http), by: policy, isUnhealthy: false, isSuspected: true) == .failed)
    #expect(HealthPolicy(failures: 2, failuresBeforeReplacement: 6).replacement(isSuspected: false) == 6)
    #expect(HealthPolicy(failures: 2, failuresBeforeReplacement: 6).replacement(isSuspected: true) == 2)
    #expect(HealthPolicy(failures: 9, failuresBeforeReplacement: 6).replacement(isSuspected: true) == 6)
    // A server that nobody can start anew is kept whatever anybody says.
    #expect(HealthPolicy(failuresBeforeReplacement: .max).replacement(isSuspected: true) == .max)
  }

  @Test func anAdoptedUnhealthyOneNeedsAnAnswer() {
    var health = InstanceHealth()
    for _ in 0..<5 { hold(health.checked(.well(upTo: .tcp), by: policy, isUnhealthy: true) == nil) }
    hold(health.checked(.well(upTo: .http), by: policy, isUnhealthy: true) == nil)
    hold(health.checked(.well(upTo: .http), by: policy, isUnhealthy: true) == .recovered)
    health = InstanceHealth(cause: .cdp)
    for _ in 0..<5 { hold(health.checked(.well(upTo: .http), by: policy, isUnhealthy: true) == nil) }
  }

  @Test func aDrainingInstanceIsNotRevivedByGoodChecks() {
    var lifecycle = InstanceLifecycle(.unhealthy)
    hold(lifecycle.apply(.drain))
    hold(!lifecycle.apply(.recovered))
    #expect(lifecycle.state == .draining)
  }
}

@Suite struct HealthScheduleTests {
  /// Half of the spread, which is nothing.
  func middle(_ interval: Int) -> UInt64 { UInt64(interval / 5) }

  private func policy(_ change: (inout HealthPolicy) -> Void = { _ in }) -> HealthPolicy {
    var policy = HealthPolicy(intervalMilliseconds: 5_000)
    change(&policy)
    return policy
  }

  @Test func afterAnAnswerEachDepthHasItsTurn() {
    let schedule = HealthSchedule(answeredAt: 1_000, by: policy(), hasBrowser: true)
    #expect(schedule.next == 3_000)
    #expect(schedule.depth(at: 2_999) == nil)
    #expect(schedule.depth(at: 3_000) == .tcp)
    #expect(schedule.depth(at: 6_000) == .http)
    #expect(schedule.depth(at: 31_000) == .cdp)
    #expect(schedule.deepest == .cdp)
  }

  @Test func depthsThatAreOffAreNeverDue() {
    let off = policy { $0.tcp.intervalMilliseconds = 0 }
    let schedule = HealthSchedule(answeredAt: 0, by: off, hasBrowser: false)
    #expect(schedule.depth(at: 4_999) == nil && schedule.depth(at: .max - 1) == .http && schedule.deepest == .http)
    let noDeep = HealthSchedule(answeredAt: 0, by: policy { $0.cdp.intervalMilliseconds = 0 }, hasBrowser: true)
    #expect(noDeep.deepest == .http)
  }

  @Test func anAdoptedInstanceIsAskedAtOnceButNotAllForTheirBrowsers() {
    let schedule = HealthSchedule(adoptedAt: 100, by: policy(), hasBrowser: true, random: 7_000)
    #expect(schedule.depth(at: 100) == .http)
    #expect(schedule.depth(at: 7_100) == .cdp)
    #expect(HealthSchedule(adoptedAt: 100, by: policy(), hasBrowser: true, random: 0).depth(at: 100) == .cdp)
  }

  @Test func aDeepCheckIsTheTurnOfAllBeforeIt() {
    var schedule = HealthSchedule(adoptedAt: 0, by: policy(), hasBrowser: true, random: 0)
    schedule.checked(
      .well(upTo: .cdp), depth: .cdp, cause: nil, by: policy(), isSuspected: false, now: 10, random: 0)
    // A fifth early.
    #expect(schedule.depth(at: 10 + 1_599) == nil && schedule.depth(at: 10 + 1_600) == .tcp)
    #expect(schedule.depth(at: 10 + 3_999) == .tcp && schedule.depth(at: 10 + 4_000) == .http)
    #expect(schedule.depth(at: 10 + 23_999) == .http && schedule.depth(at: 10 + 24_000) == .cdp)
  }

  @Test func turnsSpreadOverAFifthEitherWay() {
    for random in [UInt64(0), 1, 1_999, 2_000, 2_001, .max] {
      var schedule = HealthSchedule(answeredAt: 0, by: policy { $0.tcp.intervalMilliseconds = 0 }, hasBrowser: false)
      schedule.checked(
        .well(upTo: .http), depth: .http, cause: nil, by: policy(), isSuspected: false, now: 0, random: random)
      #expect((4_000...6_000).contains(schedule.next), "\(random): \(schedule.next)")
    }
  }

  @Test func aFailedDeepCheckIsRepeatedSoon() {
    var schedule = HealthSchedule(adoptedAt: 0, by: policy(), hasBrowser: true, random: 0)
    schedule.checked(
      .ill(at: .cdp), depth: .cdp, cause: nil, by: policy(), isSuspected: false, now: 0, random: middle(5_000))
    #expect(schedule.depth(at: 5_000) == .cdp)
    // Also while it keeps the instance out of service.
    schedule.checked(
      .well(upTo: .cdp), depth: .cdp, cause: .cdp, by: policy(), isSuspected: false, now: 5_000, random: middle(5_000))
    #expect(schedule.depth(at: 10_000) == .cdp)
    // A check that did not come so far leaves it due.
    schedule.checked(
      .ill(at: .tcp), depth: .tcp, cause: .cdp, by: policy(), isSuspected: false, now: 10_000, random: middle(2_000))
    #expect(schedule.depth(at: 10_000) == .cdp)
  }

  @Test func aReportBringsAllForwardAndAFailureIsFollowedAtOnce() {
    var schedule = HealthSchedule(answeredAt: 0, by: policy(), hasBrowser: true)
    schedule.hurry(now: 500)
    #expect(schedule.depth(at: 500) == .cdp)
    schedule.checked(
      .ill(at: .http), depth: .cdp, cause: .http, by: policy(), isSuspected: true, now: 600, random: middle(1_000))
    #expect(schedule.depth(at: 1_599) == nil && schedule.depth(at: 1_600) == .cdp)
    // It does not put off what is due sooner, and does not switch on what is off.
    var off = HealthSchedule(answeredAt: 0, by: policy { $0.cdp.intervalMilliseconds = 0 }, hasBrowser: true)
    off.hurry(now: 9_000)
    #expect(off.next == 2_000 && off.depth(at: 9_000) == .http)
  }
}

@Suite struct SuspicionTests {
  @Test func manyReportsAreOneCheckASecondAndOneEvent() {
    var suspicion = Suspicion()
    #expect(!suspicion.isAlive(at: 0))
    var events = 0
    var checks = 0
    for now in stride(from: 0, to: 5_000, by: 10) {
      let (isNews, checksNow) = suspicion.reported(now: now)
      events += isNews ? 1 : 0
      checks += checksNow ? 1 : 0
    }
    #expect(events == 1 && checks == 5)
    #expect(suspicion.isAlive(at: 4_990 + 9_999) && !suspicion.isAlive(at: 4_990 + 10_000))
  }

  @Test func aGoodCheckRefutesIt() {
    var suspicion = Suspicion()
    hold(suspicion.reported(now: 100) == (true, true))
    suspicion.isRefuted()
    #expect(!suspicion.isAlive(at: 101))
    // The next report is news again, but the rate of checks holds.
    hold(suspicion.reported(now: 200) == (true, false))
  }
}
