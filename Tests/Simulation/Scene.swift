// One deployment in simulated time: a real Redis, and all that stands around it played by one seed. Something goes wrong
// all the time, then it stops going wrong, and then the deployment must come to rest by itself.
import Domain
import Reconciler
import Redis
import Routing
import State
import TestSupport

/// The process that does this is dead: its tasks end here.
struct Died: Error {}
/// Redis did not answer.
struct Away: Error {}

/// A program of the deployment. A dead one does nothing more, a paused one (SIGSTOP, a host that swaps) nothing for a while:
/// what it asked for is answered, and it hears of that late.
@Simulated final class Process {
  let name: String
  var isAlive = true
  var pausedUntil = 0
  init(_ name: String) { self.name = name }
}

/// What may go wrong in a scene, in percent of the occasions.
struct Faults {
  var lostRequests = 0
  var lostAnswers = 0
  var slowAnswers = 0
  var failedLaunches = 0
  var lostLaunches = 0
  var crashes = 0
  var hangs = 0
  var leaderCrashes = 0
  var leaderPauses = 0
  var replicaCrashes = 0
  var redisOutages = 0
  var orders = 0

  static let none = Faults()

  /// Some scenes are quiet, most have a few kinds of trouble, a few have all of them.
  init(_ random: inout SplitMix64) {
    guard random.chance(90) else { return }
    let all = random.chance(10)
    for kind: WritableKeyPath<Faults, Int> in [
      \.lostRequests, \.lostAnswers, \.slowAnswers, \.failedLaunches, \.lostLaunches, \.crashes, \.hangs,
      \.leaderCrashes, \.leaderPauses, \.replicaCrashes, \.redisOutages, \.orders,
    ] where all || random.chance(25) { self[keyPath: kind] = Int.random(in: 3...25, using: &random) }
  }
  private init() {}
}

extension SplitMix64 {
  mutating func chance(_ percent: Int) -> Bool { percent > 0 && Int.random(in: 0..<100, using: &self) < percent }
}

@Simulated final class Scene {
  static let start = 1_700_000_000_000
  let seed: UInt64
  let mutation: Mutation?
  private(set) var pools: [PoolSpec]
  /// Instances that a pool may have besides its `max` while worn ones are replaced.
  private let surge: [String: Int]
  /// Whether clients and requests come.
  private(set) var isBusy = true
  let ports: ClosedRange<Int>
  let totalLaunches: Int
  let hostLaunches: Int
  var random: SplitMix64
  var faults: Faults
  let wasQuiet: Bool
  private(set) var problems: [String] = []
  private(set) var trace: [String] = []
  let isTold: Bool
  private(set) var isOver = false
  /// Rung whenever Redis has changed.
  var rings = 0
  private var names = 0
  private var offset: Int

  private(set) var wire: Wire!
  private(set) var runtime: SimulatedRuntime!
  var leaders: [SimulatedLeader] = []
  var replicas: [SimulatedReplica] = []
  var redisAwayUntil = 0
  /// The value of `berth:leader`, and when it expires: the one time that Redis measures itself, so it is played here.
  var leader: String?
  var leaderUntil = 0
  /// Clients, by what became of them.
  var clients: [String: Int] = [:]
  /// Those that have not gone yet.
  var present = 0
  var served = 0
  var gaveUp = 0
  var adopted: [String: Int] = [:]
  /// What operators asked for, by instance.
  var orders: [String: InstanceOrder] = [:]

  init(seed: UInt64, mutation: Mutation?, connection: RedisConnection, tells: Bool) {
    self.seed = seed
    self.mutation = mutation
    isTold = tells
    var random = SplitMix64(seed: seed)
    pools = Scene.pools(&random)
    surge = Dictionary(
      uniqueKeysWithValues: pools.map { ($0.name, $0.recycling.hasThresholds ? $0.recycling.maxSurge : 0) })
    let most = pools.reduce(0) { $0 + $1.max } + surge.values.reduce(0, +)
    // Sometimes there are not enough ports for all.
    ports = 50_000...(50_000 + Swift.max(1, most + Int.random(in: -1...6, using: &random)) - 1)
    totalLaunches = Int.random(in: 1...6, using: &random)
    hostLaunches = Int.random(in: 1...4, using: &random)
    faults = Faults(&random)
    wasQuiet = [
      faults.lostRequests, faults.lostAnswers, faults.failedLaunches, faults.lostLaunches, faults.crashes, faults.hangs,
      faults.leaderCrashes, faults.leaderPauses, faults.replicaCrashes, faults.redisOutages, faults.orders,
    ].allSatisfy { $0 == 0 }
    self.random = random
    offset = Scene.start - Simulated.clockwork.now
    wire = Wire(self, connection: connection)
    runtime = SimulatedRuntime(self)
  }

  private static func pools(_ random: inout SplitMix64) -> [PoolSpec] {
    var pools: [PoolSpec] = []
    func pool(_ name: String, kind: PoolKind, slots: Int, recycle: Int) {
      var spec = PoolSpec(
        name: name, kind: kind, runtime: .process(ProcessSpec()), slots: slots, recycleAfterSessions: recycle)
      spec.max = Int.random(in: 1...4, using: &random)
      spec.min = Int.random(in: slots == 0 ? 1...spec.max : 0...spec.max, using: &random)
      spec.spare = Int.random(in: 0...Swift.min(2, spec.max), using: &random)
      spec.sessions = SessionLimits(
        hardMilliseconds: Int.random(in: 3_000...9_000, using: &random),
        idleMilliseconds: random.chance(30) ? 2_000 : 0, reservationMilliseconds: 1_000,
        graceMilliseconds: random.chance(30) ? 500 : 0)
      spec.queue = QueueLimits(
        timeoutMilliseconds: Int.random(in: 3_000...40_000, using: &random), limit: random.chance(10) ? 2 : 1_000)
      spec.launchTimeoutMilliseconds = 3_000
      spec.stopGraceMilliseconds = 500
      spec.scaling.downAfterMilliseconds = Int.random(in: 0...3_000, using: &random)
      spec.health = HealthPolicy(intervalMilliseconds: 1_000, failures: 2, successes: 2, failuresBeforeReplacement: 4)
      spec.restart = RestartPolicy(
        initialMilliseconds: 100, maximumMilliseconds: 1_500, stableAfterMilliseconds: 1_000)
      if recycle != 1, random.chance(60) { wear(&spec, &random) }
      pools.append(spec)
    }
    /// Its instances are worn by age, or by requests where clients have no slots; replaced before or after they go.
    func wear(_ spec: inout PoolSpec, _ random: inout SplitMix64) {
      if spec.slots > 0 || random.chance(50) {
        spec.recycling.afterMilliseconds = Int.random(in: 1_500...5_000, using: &random)
      } else {
        spec.recycling.afterRequests = Int.random(in: 10...60, using: &random)
      }
      spec.recycling.maxSurge = Int.random(in: 1...2, using: &random)
      if spec.max > 1, random.chance(25) {
        spec.recycling.maxSurge = 0
        spec.recycling.maxUnavailable = 1
      }
      if spec.slots == 0, random.chance(30) { spec.recycling.drain.timeoutMilliseconds = 1_000 }
    }
    pool("single", kind: .cdp, slots: 1, recycle: 1)
    if random.chance(50) {
      pool(
        "shared", kind: .cdp, slots: Int.random(in: 1...3, using: &random),
        recycle: [0, 0, 4].randomElement(using: &random)!)
    }
    if random.chance(30) { pool("web", kind: .http, slots: 0, recycle: 0) }
    return pools
  }

  // MARK: What all use

  var now: Int { Simulated.clockwork.now + offset }

  /// Sleeps in simulated time; a dead process does not wake.
  func sleep(_ milliseconds: Int, _ process: Process) async throws {
    await Simulated.clockwork.wait(until: Simulated.clockwork.now + milliseconds)
    while !isOver, process.isAlive, process.pausedUntil > now {
      await Simulated.clockwork.wait(until: Simulated.clockwork.now + process.pausedUntil - now)
    }
    if isOver || !process.isAlive { throw Died() }
  }

  /// Time in which nobody acts: a message is on its way.
  func transit(_ milliseconds: Int) async throws {
    await Simulated.clockwork.wait(until: Simulated.clockwork.now + milliseconds)
    if isOver { throw Died() }
  }

  /// Runs something beside; it ends with its process.
  func spawn(_ body: @escaping @Simulated () async throws -> Void) {
    Task(executorPreference: Simulated.clockwork) { @Sendable @Simulated in
      do { try await body() } catch is Died {} catch { self.problem("a task ended with \(error)") }
    }
  }

  func name(_ prefix: String) -> String {
    names += 1
    return "\(prefix)-\(names)"
  }

  /// The most instances that a pool may have at any time.
  func most(of spec: PoolSpec) -> Int { spec.max + surge[spec.name, default: 0] }

  /// Nothing is worn any more, so that it can come to rest.
  func endWear() {
    isBusy = false
    for index in pools.indices {
      pools[index].recycling.afterMilliseconds = 0
      pools[index].recycling.afterRequests = 0
    }
  }

  func draw(_ range: ClosedRange<Int>) -> Int { Int.random(in: range, using: &random) }
  func chance(_ percent: Int) -> Bool { random.chance(percent) }
  func spec(of pool: String) -> PoolSpec? { pools.first { $0.name == pool } }

  func tell(_ line: @autoclosure () -> String) {
    let line = "\(now - Scene.start) \(line())"
    if isTold { print(line) }
    trace.append(line)
    if trace.count > 400 { trace.removeFirst(200) }
  }

  /// An invariant is broken: the scene is over.
  func problem(_ what: String) {
    guard !isOver else { return }
    tell("PROBLEM: " + what)
    problems.append(what)
    isOver = true
  }

  func close() { isOver = true }
}
