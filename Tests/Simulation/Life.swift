// A scene from its first moment to its rest: the deployment starts, clients and trouble come, both end, and then everything
// must be as it should without anybody's help.
import Domain
import Reconciler
import Redis
import Routing
import State

extension Scene {
  private static let troubleMilliseconds = 7_000
  private static let restWithinMilliseconds = 60_000

  /// Plays the scene; its problems are in ``problems`` afterwards.
  func play() async {
    do {
      for number in 0..<2 { startLeader(number) }
      for _ in 0..<draw(1...2) { startReplica() }
      spawn { try await self.bringClients() }
      spawn { try await self.bringTrouble() }
      try await transit(Self.troubleMilliseconds)
      faults = .none
      endWear()
      for leader in leaders { leader.process.pausedUntil = 0 }
      redisAwayUntil = 0
      tell("from now on all is quiet")
      try await comeToRest()
    } catch is Died {} catch { problem("the scene ended with \(error)") }
    close()
  }

  func startLeader(_ number: Int) {
    let leader = SimulatedLeader(name("control"), scene: self)
    if number < leaders.count { leaders[number] = leader } else { leaders.append(leader) }
    leader.start()
  }

  private func startReplica() {
    let replica = SimulatedReplica(name("replica"), scene: self)
    replicas.append(replica)
    replica.start()
  }

  // MARK: Clients

  private func bringClients() async throws {
    let busy = draw(200...1_500)
    while now < Scene.start + Self.troubleMilliseconds {
      try await transit(draw(0...busy * 2))
      // Now and then many come at once.
      for _ in 0..<(chance(5) ? draw(2...6) : 1) { bringClient() }
    }
  }

  private func bringClient() {
    guard let spec = pools.filter({ $0.slots > 0 }).randomElement(using: &random),
      let replica = replicas.filter({ $0.process.isAlive }).randomElement(using: &random)
    else { return }
    clients[spec.name, default: 0] += 1
    let client = PoolSpecOfClient(
      name: spec.name, hard: spec.sessions.hardMilliseconds, idle: spec.sessions.idleMilliseconds,
      grace: spec.sessions.graceMilliseconds, patience: spec.queue.timeoutMilliseconds)
    let origin: SessionRecord.Origin = chance(30) ? .rest : .connection
    present += 1
    spawn {
      defer { self.present -= 1 }
      try await replica.serve(pool: client, origin: origin)
    }
  }

  // MARK: Trouble

  private func bringTrouble() async throws {
    while now < Scene.start + Self.troubleMilliseconds {
      try await transit(draw(100...900))
      if chance(faults.crashes), let victim = runtime.living.randomElement(using: &random) {
        runtime.die(victim.number)
      }
      if chance(faults.hangs), let victim = runtime.living.randomElement(using: &random) {
        runtime.hang(victim.number, until: now + draw(500...6_000))
      }
      if chance(faults.redisOutages) {
        tell("Redis is away")
        redisAwayUntil = now + draw(100...2_500)
      }
      if chance(faults.leaderCrashes / 2) {
        let number = draw(0...leaders.count - 1)
        tell("\(leaders[number].process.name) is killed")
        leaders[number].process.isAlive = false
        startLeader(number)
      }
      if chance(faults.leaderPauses), let leader = leaders.randomElement(using: &random) {
        tell("\(leader.process.name) is paused")
        leader.process.pausedUntil = now + draw(200...5_000)
      }
      if chance(faults.replicaCrashes / 2), let replica = replicas.randomElement(using: &random) {
        tell("\(replica.process.name) is killed")
        replica.process.isAlive = false
        replicas.removeAll { $0 === replica }
        startReplica()
      }
      if chance(faults.orders), let leader = leaders.first(where: { $0.current != nil }),
        let id = leader.entries.keys.sorted().randomElement(using: &random)
      {
        orders[id] = InstanceOrder(chance(50) ? .stop : .restart, force: chance(30))
        tell("order for \(id)")
      }
    }
  }

  // MARK: Rest

  private func comeToRest() async throws {
    let deadline = now + Self.restWithinMilliseconds
    var quiet = 0
    var launches = -1
    // It is at rest when it stays there for a while.
    while quiet < 6 {
      let begun = leaders.reduce(0) { $0 + $1.launches }
      let reason = whyNotAtRest() ?? (begun != launches && !isShortOfPorts ? "it starts instances" : nil)
      launches = begun
      quiet = reason == nil ? quiet + 1 : 0
      guard now < deadline else {
        problem("it does not come to rest: \(reason ?? "it does not stay")")
        return
      }
      try await transit(500)
    }
    tell("at rest")
    if wasQuiet, gaveUp > 0, pools.allSatisfy(hasTimeForAll) {
      problem("\(gaveUp) clients were not served although nothing went wrong")
    }
  }

  /// Whether the queue's time is enough for all clients of the pool even if they had come at once: each takes an instance's
  /// start and end, and stays for up to 1.2 s.
  private func hasTimeForAll(_ spec: PoolSpec) -> Bool {
    let slots = Swift.max(1, spec.slots) * spec.max
    return spec.queue.limit > 100 && !isShortOfPorts
      && (clients[spec.name, default: 0] / slots + 1) * 4_000 < spec.queue.timeoutMilliseconds
  }

  /// With fewer ports than instances somebody has to do without.
  private var isShortOfPorts: Bool { ports.count < pools.reduce(0) { $0 + most(of: $1) } }

  /// What is left to do; nil when everything is as it should be.
  private func whyNotAtRest() -> String? {
    let leading = leaders.filter { $0.current != nil && $0.termDone != nil }
    guard leading.count == 1, let leader = leading.first else { return "\(leading.count) lead" }
    for id in leader.entries.keys.sorted() {
      guard let entry = leader.entries[id] else { continue }
      if !entry.isSettled { return "\(id) is not settled" }
      if entry.record.state != .ready { return "\(id) is \(entry.record.state)" }
      if !runtime.isAlive(entry.container) { return "\(id) does not run" }
    }
    for spec in pools {
      let count = leader.entries.values.count { $0.record.pool == spec.name }
      let perInstance = Swift.max(1, spec.slots)
      let memory = leader.pools[spec.name]?.scaling ?? ScalingMemory()
      // Clients are expected as long as the last rush is not forgotten.
      let free = spec.spare + memory.demand.slots(within: memory.launches.milliseconds)
      let enough = Swift.max(spec.min, spec.slots == 0 ? 1 : (free + perInstance - 1) / perInstance)
      let room = Swift.min(enough, spec.max)
      if count > room || (count < room && !isShortOfPorts) {
        return "\(spec.name) has \(count) instances, \(room) are enough"
      }
      if case .int(let waiting) = wire.peek(["ZCARD", wire.keys.waiting(pool: spec.name)]), waiting > 0 {
        return "\(waiting) wait for \(spec.name)"
      }
      if spec.slots > 0, case .int(let usable) = wire.peek(["ZCARD", wire.keys.slots(pool: spec.name)]), usable < count
      {
        return "\(count - usable) instances of \(spec.name) have served their sessions"
      }
    }
    if case .int(let sessions) = wire.peek(["ZCARD", wire.keys.sessions]), sessions > 0 {
      return "\(sessions) sessions have not ended"
    }
    if let id = leader.entries.keys.sorted().first(where: { leader.entries[$0]?.recycling != nil }) {
      return "\(id) is worn"
    }
    if present > 0 { return "\(present) clients are there" }
    let known = Set(leader.entries.values.compactMap(\.container))
    if let orphan = runtime.living.first(where: { !known.contains($0.number) }) {
      return "container \(orphan.number) of \(orphan.instance) is nobody's"
    }
    if case .int(let registered) = wire.peek(["HLEN", wire.keys.instances]), registered != leader.entries.count {
      return "\(registered) instances are registered, \(leader.entries.count) are there"
    }
    if case .int(let taken) = wire.peek(["ZCARD", wire.keys.portsAllocated(host: SimulatedLeader.host)]),
      taken != leader.entries.count
    {
      return "\(taken) ports are taken by \(leader.entries.count) instances"
    }
    if case .int(let known) = wire.peek(["ZCARD", wire.keys.replicas]), known != replicas.count {
      return "\(known) replicas are known, \(replicas.count) live"
    }
    return nil
  }
}
