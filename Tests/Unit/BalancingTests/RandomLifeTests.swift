// Random lives of a pool: members come and go, requests of every method begin, are answered and end in every way, time
// passes. After each step the balancer keeps its promises, and it agrees with a model that is as simple as can be.
import Balancing
import TestSupport
import Testing

/// A circuit breaker and a count per member, written down as the rules are told.
private struct Model {
  struct Circuit {
    var state = MemberState.Circuit.closed
    var probing = false
    var until = 0
    var failures = 0
    var inARow = 0
    var lastDuration = 0
    var closedAt = 0
    /// Changes with each change of the state: what belongs to an earlier one counts no more.
    var version = 0
  }
  struct Request {
    var turn: Turn
    var instance: Int
    var version: Int
    var isProbe: Bool
    var counts: Bool
    var before = 0
    var answered: Outcome?
  }
  var settings = BalancerSettings()
  /// Instances that are members, by place (the place of an instance never changes here).
  var listed: [Int: BalancerMember] = [:]
  var circuits: [Int: Circuit] = [:]
  var requests: [Request] = []
  var versions = 0

  func active(_ instance: Int) -> Int { requests.count { $0.instance == instance } }
  var weighted: [Int] { listed.filter { $0.value.weight > 0 }.map(\.key) }
  var isPanicking: Bool {
    let usable = weighted.count { circuits[$0]!.state == .closed }
    return usable * 100 < settings.panicPercent * weighted.count
  }

  mutating func change(_ instance: Int, _ body: (inout Circuit) -> Void) {
    versions += 1
    body(&circuits[instance]!)
    circuits[instance]!.version = versions
  }

  mutating func open(_ instance: Int, _ now: Int) {
    let settings = settings
    change(instance) {
      var duration = settings.ejectionBaseMilliseconds
      for _ in 0..<$0.inARow where duration < settings.ejectionMaximumMilliseconds { duration *= 2 }
      $0.lastDuration = min(duration, settings.ejectionMaximumMilliseconds)
      $0.state = .open
      $0.probing = false
      $0.until = now + $0.lastDuration
      $0.inARow += 1
      $0.failures = 0
    }
  }

  mutating func result(_ request: inout Request, _ outcome: Outcome, _ now: Int) {
    guard listed[request.instance] != nil, var circuit = circuits[request.instance] else { return }
    guard request.counts, request.version == circuit.version else { return }
    switch (outcome, request.isProbe) {
    case (.neutral, false): return
    case (.neutral, true): circuits[request.instance]!.probing = false
    case (.failure, true): open(request.instance, now)
    case (.success, true):
      change(request.instance) {
        $0.state = .closed
        $0.probing = false
        $0.failures = 0
        $0.closedAt = now
      }
      request.version = versions
      request.isProbe = false
    case (.success, false):
      request.before = circuit.failures
      circuits[request.instance]!.failures = 0
    case (.failure, false):
      circuit.failures = max(circuit.failures, request.before) + 1
      if settings.consecutiveFailures > 0, circuit.failures >= settings.consecutiveFailures {
        if now - circuit.closedAt >= circuit.lastDuration { circuit.inARow = 0 }
        circuits[request.instance] = circuit
        open(request.instance, now)
      } else {
        circuits[request.instance] = circuit
      }
    }
  }
}

@Suite struct RandomLifeTests {
  /// Each kind is another pool: with and without slow start, panic, unequal weights.
  @Test(arguments: 0..<8) func promisesHoldInEveryLife(kind: Int) throws {
    let seed = SplitMix64.printedSeed(for: "random life of a pool, kind \(kind)")
    _ = try live(kind: kind, steps: 10_000, seed: seed)
  }

  /// Such lives have something to show. Always the same ones: a pool that happens to be empty for long, or whose members
  /// bear many failures, may see little of it.
  @Test(arguments: 0..<8) func everythingHappensInALife(kind: Int) throws {
    let counters = try live(kind: kind, steps: 6_250, seed: 1)
    #expect(counters.ejections > 30 && counters.probes > 30 && counters.recoveries > 10, "\(counters)")
    if kind & 2 == 0 { #expect(counters.panicPicks > 20) } else { #expect(counters.emptyPicks > 20) }
  }

  private func live(kind: Int, steps: Int, seed: UInt64) throws -> BalancerCounters {
    var random = SplitMix64(seed: seed &+ UInt64(kind))
    var model = Model()
    model.settings.slowStartMilliseconds = kind & 1 == 0 ? 0 : 3_000
    model.settings.panicPercent = kind & 2 == 0 ? 50 : 0
    model.settings.consecutiveFailures = random.below(4) + 1
    model.settings.ejectionBaseMilliseconds = 500
    model.settings.ejectionMaximumMilliseconds = 6_000
    let hasWeights = kind & 4 != 0
    let pool = Pool([], model.settings, methods: .all, seed: seed)
    for step in 0..<steps {
      switch random.below(1_000) {
      case 0..<450: try begin(pool, &model, &random)
      case 450..<600: answer(pool, &model, &random)
      case 600..<966: end(pool, &model, &random)
      case 966..<970: change(pool, &model, &random, hasWeights: hasWeights)
      default: pool.now += random.below(800)
      }
      let problem = check(pool, model)
      try #require(problem == nil, "step \(step): \(problem!)")
    }
    let counters = pool.counters
    let ends = model.requests.indices
    for index in ends { pool.ended(&model.requests[index].turn, .success) }
    for place in 0..<12 where pool.isMember(Int32(place)) { #expect(pool.state(Int32(place)).active == 0) }
    return counters
  }

  /// A request of any method, at times a retry or one that must go to a certain member.
  private func begin(_ pool: Pool, _ model: inout Model, _ random: inout SplitMix64) throws {
    let method = BalancingMethod.allCases[random.below(BalancingMethod.allCases.count)]
    let avoiding = random.chance(20) ? Int32(random.below(12)) : -1
    var place: Int32
    if random.chance(10) {
      place = Int32(random.below(13))
      if !pool.admits(place) { place = -1 }
    } else {
      place = pool.pick(
        method, hash: random.next(), avoiding: avoiding, sequence: random.chance(50) ? random.next() : nil)
      try #require(place < 0 || place != avoiding)
      try #require(place < 0 || model.listed[Int(place)]!.weight > 0)
      if place < 0 { try expectNobody(pool, model, method, avoiding) }
    }
    guard place >= 0 else { return }
    let instance = Int(place)
    // The balancer looks at the clock when it is asked: what is over now is half-open.
    if model.circuits[instance]!.state == .open, model.circuits[instance]!.until <= pool.now {
      model.change(instance) { $0.state = .halfOpen }
    }
    let circuit = model.circuits[instance]!
    let mayProbe = circuit.state == .halfOpen && !circuit.probing
    try #require(circuit.state == .closed || mayProbe || model.isPanicking, "an ejected member was picked")
    let turn = pool.began(place)
    try #require(turn.isProbe == mayProbe)
    if mayProbe { model.change(instance) { $0.probing = true } }
    model.requests.append(
      .init(
        turn: turn, instance: instance, version: model.circuits[instance]!.version, isProbe: mayProbe,
        counts: circuit.state == .closed || mayProbe))
  }

  /// Nobody was picked: then there is nobody, or only who must be avoided.
  private func expectNobody(_ pool: Pool, _ model: Model, _ method: BalancingMethod, _ avoiding: Int32) throws {
    let others = model.weighted.filter { $0 != Int(avoiding) }
    if model.isPanicking { return try #require(others.isEmpty) }
    try #require(others.allSatisfy { model.circuits[$0]!.state != .closed })
    // Those whose time was over a while ago would have been probes.
    let isProbe = { (instance: Int) in
      pool.state(Int32(instance)).circuit == .halfOpen && !model.circuits[instance]!.probing
    }
    try #require(avoiding >= 0 || !others.contains(where: isProbe))
  }

  private func answer(_ pool: Pool, _ model: inout Model, _ random: inout SplitMix64) {
    guard !model.requests.isEmpty else { return }
    let index = random.below(model.requests.count)
    guard model.requests[index].answered == nil else { return }
    let outcome = outcome(&random, model.requests[index].instance, pool.now)
    pool.answered(&model.requests[index].turn, outcome, microseconds: random.below(100_000))
    var request = model.requests[index]
    model.result(&request, outcome, pool.now)
    request.answered = outcome
    model.requests[index] = request
  }

  private func end(_ pool: Pool, _ model: inout Model, _ random: inout SplitMix64) {
    guard !model.requests.isEmpty else { return }
    var request = model.requests.remove(at: random.below(model.requests.count))
    let outcome = outcome(&random, request.instance, pool.now)
    pool.ended(&request.turn, outcome, microseconds: random.below(1_000))
    if request.answered == nil || request.answered == .success && outcome == .failure {
      model.result(&request, outcome, pool.now)
    }
  }

  /// Some instances fail more often than others, and now and then most of them do.
  private func outcome(_ random: inout SplitMix64, _ instance: Int, _ now: Int) -> Outcome {
    if random.chance(10) { return .neutral }
    return random.chance(instance % 3 == 0 || now / 4_000 % 3 == 0 ? 75 : 10) ? .failure : .success
  }

  /// Another list of members: some go, some come, some restart, weights change.
  private func change(_ pool: Pool, _ model: inout Model, _ random: inout SplitMix64, hasWeights: Bool) {
    for instance in 0..<12 where random.chance(25) {
      if let member = model.listed[instance] {
        switch random.below(4) {
        case 0: model.listed[instance]!.weight = hasWeights ? [0, 1, 3, 10][random.below(4)] : 1
        case 1:
          model.listed[instance]!.generation = member.generation + 1
          model.versions += 1
          model.circuits[instance] = .init(version: model.versions)
        default: model.listed[instance] = nil
        }
      } else if model.active(instance) == 0 || random.chance(80) {
        model.versions += 1
        model.listed[instance] = BalancerMember(
          place: Int32(instance), key: StableHash.of("instance-\(instance)"), generation: 1,
          weight: hasWeights ? random.below(3) : 1)
        model.circuits[instance] = .init(version: model.versions)
      }
    }
    pool.update(model.listed.values.sorted { $0.key < $1.key })
    if random.chance(20) { pool.balancer.setLoad(Int32(random.below(12)), cpu: random.below(120), memory: -1) }
  }

  private func check(_ pool: Pool, _ model: Model) -> String? {
    if let problem = pool.violation { return problem }
    for instance in 0..<12 {
      guard model.listed[instance] != nil else {
        if pool.isMember(Int32(instance)) { return "\(instance) is a member" }
        continue
      }
      let state = pool.state(Int32(instance))
      let circuit = model.circuits[instance]!
      if state.active != model.active(instance) { return "\(instance): \(state.active) active" }
      // An open one becomes half-open when somebody asks.
      let isOver = circuit.state == .open && circuit.until <= pool.now && state.circuit == .halfOpen
      if state.circuit != circuit.state, !isOver { return "\(instance): \(state.circuit), not \(circuit.state)" }
      if state.circuit == .open, state.ejectedUntil != circuit.until { return "\(instance): \(state) \(circuit)" }
      if state.consecutiveFailures != circuit.failures { return "\(instance): \(state) \(circuit)" }
    }
    return nil
  }
}
