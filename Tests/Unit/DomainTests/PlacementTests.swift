// Which engine a new container goes to.
import Domain
import Testing

@Suite struct PlacementTests {
  private typealias Candidate = Placement.Candidate

  @Test func theMostRoomWins() throws {
    #expect(
      try Placement.choose([
        Candidate(name: "a", capacity: 10, used: 9), Candidate(name: "b", capacity: 5, used: 1, load: 0.9),
        Candidate(name: "c", capacity: 100, used: 99),
      ]) == "b")
  }

  @Test func ofEqualsTheLeastLoadedWins() throws {
    #expect(
      try Placement.choose([
        Candidate(name: "a", capacity: 4, used: 1, load: 0.5), Candidate(name: "b", capacity: 3, used: 0, load: 0.4),
      ]) == "b")
  }

  @Test func whatIsOutOfReachOrFullIsLeftOut() throws {
    #expect(
      try Placement.choose([
        Candidate(name: "a", trouble: "it hung up", capacity: 10, used: 0), Candidate(name: "b", capacity: 2, used: 3),
        Candidate(name: "c", capacity: 1, used: 0, load: 1),
      ]) == "c")
  }

  @Test func whereAsManyStartAsMayAnotherIsTakenOrItWaits() throws {
    let busy = Candidate(name: "a", capacity: 10, used: 2, launching: 2, concurrentLaunches: 2)
    let other = Candidate(name: "b", capacity: 3, used: 2, launching: 1, concurrentLaunches: 2)
    #expect(try Placement.choose([busy, other]) == "b")
    let full = Candidate(name: "c", capacity: 1, used: 1)
    #expect(
      throws: Placement.NoPlace(reason: "every engine with room has its launches", isOnlyForNow: true)
    ) { try Placement.choose([busy, full]) }
  }

  @Test func noPlaceSaysWhyForEach() {
    #expect(
      throws: Placement.NoPlace(
        reason: "no engine can take it: a: it hung up; b has its 2 instances")
    ) {
      try Placement.choose([
        Candidate(name: "b", capacity: 2, used: 2), Candidate(name: "a", trouble: "it hung up", capacity: 10, used: 0),
      ])
    }
  }

  /// Whatever the order and the numbers: the answer is the same, can be used, and nothing usable has more room.
  @Test func theAnswerDependsOnNothingElse() throws {
    var random = SystemRandomNumberGenerator()
    for _ in 0..<500 {
      let all = (0..<Int.random(in: 1...6, using: &random)).map { index in
        Candidate(
          name: "e\(index)", trouble: Bool.random(using: &random) ? nil : "away", capacity: Int.random(in: 1...4),
          used: Int.random(in: 0...5), load: Double(Int.random(in: 0...3)) / 3)
      }
      let usable = all.filter { $0.trouble == nil && $0.used < $0.capacity }
      let chosen = try? Placement.choose(all)
      #expect(chosen == (try? Placement.choose(all.shuffled())))
      #expect((chosen == nil) == usable.isEmpty)
      guard let one = usable.first(where: { $0.name == chosen }) else { continue }
      for other in usable {
        let (mine, its) = (one.capacity - one.used, other.capacity - other.used)
        #expect(mine > its || mine == its && one.load <= other.load)
      }
    }
  }
}
