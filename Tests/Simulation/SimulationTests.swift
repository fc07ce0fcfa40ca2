// A thousand lives of a deployment, each from one seed. `BERTH_SEED=n` plays one of them and tells what happens;
// docs/simulation.md is the guide.
import Glibc
import Redis
import State
import Synchronization
import TestSupport
import Testing

@Suite(.serialized) struct SimulationTests {
  private struct Result {
    var problems: [String]
    var trace: [String]
    var commands: Int
    var clients: Int
    var served: Int
  }

  private static func play(_ seed: UInt64, _ redis: RedisFixture, mutation: Mutation? = nil, tells: Bool = false) throws
    -> Result
  {
    let connection = try redis.connect()
    _ = try connection.run(Command(.words(["FLUSHALL"])) { $0 })
    let result = Mutex<Result?>(nil)
    Task(executorPreference: Simulated.clockwork) { @Sendable @Simulated in
      let scene = Scene(seed: seed, mutation: mutation, connection: connection, tells: tells)
      await scene.play()
      result.withLock {
        $0 = Result(
          problems: scene.problems, trace: scene.trace, commands: scene.wire.commands,
          clients: scene.clients.values.reduce(0, +),
          served: scene.served)
      }
    }
    Simulated.clockwork.runToTheEnd()
    return try #require(result.withLock { $0 }, "seed \(seed): the simulation stands still")
  }

  private static func number(_ variable: String) -> UInt64? {
    unsafe getenv(variable).flatMap { unsafe UInt64(String(cString: $0)) }
  }

  @Test func aThousandSeeds() throws {
    let redis = try RedisFixture()
    if let seed = Self.number("BERTH_SEED") {
      let result = try Self.play(seed, redis, tells: true)
      #expect(result.problems == [], "BERTH_SEED=\(seed)")
      return
    }
    let first = Self.number("BERTH_SEEDS_FROM") ?? 1
    let count = Self.number("BERTH_SEEDS") ?? 1_000
    var commands = 0
    var clients = 0
    var served = 0
    var failed = 0
    for seed in first..<first + count {
      let result = try Self.play(seed, redis)
      commands += result.commands
      clients += result.clients
      served += result.served
      guard let problem = result.problems.first else { continue }
      Issue.record("seed \(seed): \(problem); BERTH_SEED=\(seed) make test FILTER=Simulation tells how it came to that")
      failed += 1
      if failed == 3 { break }
    }
    print("simulation: \(count) seeds, \(commands) commands, \(served) of \(clients) clients served")
    #expect(served > clients / 3)
  }

  @Test func aSeedGivesTheSameLifeEachTime() throws {
    let redis = try RedisFixture()
    for seed in UInt64(1)...3 {
      let first = try Self.play(seed, redis)
      let again = try Self.play(seed, redis)
      #expect(first.trace == again.trace, "seed \(seed)")
      #expect(first.commands == again.commands, "seed \(seed)")
    }
  }

  /// A simulation that finds nothing proves nothing: each of these bugs must be found within some seeds.
  @Test(arguments: Mutation.allCases) func aBugOnPurposeIsFound(mutation: Mutation) throws {
    let redis = try RedisFixture()
    for seed in UInt64(1)...200 {
      if let problem = try Self.play(seed, redis, mutation: mutation).problems.first {
        print("simulation: \(mutation) is found by seed \(seed): \(problem)")
        return
      }
    }
    Issue.record("\(mutation) was not found")
  }
}
