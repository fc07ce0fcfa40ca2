// When a crashed child is started again, and when not.
import Launcher
import Testing

@Suite struct CrashPolicyTests {
  @Test func aFirstCrashIsHealedAtOnceAndFurtherOnesLater() {
    var policy = CrashPolicy()
    let crash = Ending.killed(signal: 11)
    #expect(policy.ended(crash, ranMilliseconds: 10) == .restart(afterMilliseconds: 200))
    #expect(policy.ended(crash, ranMilliseconds: 10) == .restart(afterMilliseconds: 400))
    #expect(policy.ended(crash, ranMilliseconds: 10) == .restart(afterMilliseconds: 800))
    #expect(policy.ended(crash, ranMilliseconds: 10) == .restart(afterMilliseconds: 1_600))
    #expect(policy.ended(crash, ranMilliseconds: 10) == .giveUp(crashes: 5))
  }

  @Test func aChildThatRanLongEnoughStartsAfresh() {
    var policy = CrashPolicy()
    for _ in 0..<100 {
      let decision = policy.ended(.exited(status: 1), ranMilliseconds: CrashPolicy.stableAfterMilliseconds)
      #expect(decision == .restart(afterMilliseconds: CrashPolicy.firstDelayMilliseconds))
    }
  }

  @Test func aRefusedConfigurationIsNotTriedAgain() {
    for status: Int32 in [64, 78] {
      var policy = CrashPolicy()
      #expect(policy.ended(.exited(status: status), ranMilliseconds: 60_000) == .giveUp(crashes: 1))
    }
  }

  @Test func aWaitStatusIsRead() {
    #expect(Ending(waitStatus: 0) == .exited(status: 0))
    #expect(Ending(waitStatus: 3 << 8) == .exited(status: 3))
    #expect(Ending(waitStatus: 9) == .killed(signal: 9))
    #expect(Ending(waitStatus: 11 | 0x80) == .killed(signal: 11), "a core dump is a signal too")
  }
}
