// When slots may be given away again after Redis lost its data: the rule alone.
import Supervisor
import Testing

@Suite struct GateKeeperTests {
  private func verdict(
    _ milliseconds: Int, known: Set<String> = [], beating: Set<String> = [], settled: Set<String> = [],
    guards: Bool = true
  ) -> GateKeeper.Verdict {
    GateKeeper.verdict(
      after: milliseconds, guardsSomething: guards, known: known, beating: beating, settled: settled)
  }

  @Test func whereThereIsNothingToGuardNobodyWaits() {
    #expect(verdict(0, known: ["r"], guards: false) == .open(missing: []))
  }

  @Test func allHaveToSayThatTheyAreDoneAndNotAtOnce() {
    let all: Set<String> = ["a", "b"]
    #expect(verdict(GateKeeper.leastMilliseconds - 1, known: all, beating: all, settled: all) == .wait)
    #expect(verdict(GateKeeper.leastMilliseconds, known: all, beating: all, settled: all) == .open(missing: []))
    #expect(verdict(GateKeeper.leastMilliseconds, known: all, beating: all, settled: ["a"]) == .wait)
    // One that was not there before counts too.
    #expect(verdict(GateKeeper.leastMilliseconds, known: ["a"], beating: all, settled: ["a"]) == .wait)
  }

  @Test func unknownReplicasGetTimeToCome() {
    #expect(verdict(GateKeeper.unknownMilliseconds - 1) == .wait)
    #expect(verdict(GateKeeper.unknownMilliseconds) == .open(missing: []))
  }

  @Test func oneThatDoesNotComeBackIsWaitedForAsLongAsItMayLive() {
    #expect(verdict(GateKeeper.silentMilliseconds - 1, known: ["a", "b"], beating: ["b"], settled: ["b"]) == .wait)
    #expect(
      verdict(GateKeeper.silentMilliseconds, known: ["a", "b"], beating: ["b"], settled: ["b"])
        == .open(missing: ["a"]))
  }

  @Test func oneThatBeatsAndSaysNothingIsWaitedForLongerButNotForEver() {
    #expect(verdict(GateKeeper.mostMilliseconds - 1, known: ["a"], beating: ["a"]) == .wait)
    #expect(verdict(GateKeeper.mostMilliseconds, known: ["a"], beating: ["a"]) == .open(missing: ["a"]))
  }
}
