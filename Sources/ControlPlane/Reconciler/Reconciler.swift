// Decides what to do about a pool: a pure function from what is wanted and what is there to commands. The supervisor
// calls it on every tick and every wake; calling it again without a change gives the same answer or none.
package import Domain
import Routing

/// The rules, in the order in which they are applied.
package enum Reconciler {
  /// - Parameters:
  ///   - spec: nil when the pool is no longer declared: all of its instances are drained.
  ///   - launchBudget: how many more launches may run at once on this host; starts that happen together slow each
  ///     other down until all of them time out.
  ///   - now: Unix milliseconds.
  package static func decide(
    spec: PoolSpec?, observed: PoolObservation, launchBudget: Int, now: Int
  ) -> Decision {
    var decision = Decision(actions: [])
    var census = Census()
    for instance in observed.instances {
      if let action = duty(to: instance, spec: spec) { decision.actions.append(action) }
      census.count(instance, spec: spec, leaving: decision.actions.last.map { $0.ends(instance.id) } ?? false)
    }
    guard let spec else { return decision }

    let wanted = spec.spare + observed.waiting
    scaleDown(spec: spec, observed: observed, census: census, wantedFree: wanted, now: now, into: &decision)
    scaleUp(
      spec: spec, observed: observed, census: census, wantedFree: wanted, launchBudget: launchBudget, now: now,
      into: &decision)
    return decision
  }

  /// What must be done about one instance whatever the rest of the pool looks like.
  private static func duty(to instance: ObservedInstance, spec: PoolSpec?) -> Action? {
    guard !instance.busy else { return nil }
    if let exited = instance.exited { return .remove(id: instance.id, reason: exited) }
    let held = instance.leases > 0
    if let order = instance.order {
      let reason = order.kind == .restart ? "restart was asked for" : "stop was asked for"
      if order.force && instance.state != .stopping { return .stop(id: instance.id, reason: reason) }
      if instance.state == .ready || instance.state == .unhealthy { return .drain(id: instance.id, reason: reason) }
      if instance.state == .starting { return .stop(id: instance.id, reason: reason) }
    }
    switch instance.state {
    case .starting:
      // A launch that this supervisor is busy with is never seen here; this is one that its supervisor died over.
      return .stop(id: instance.id, reason: "its launch was given up")
    case .ready:
      guard let spec else { return .drain(id: instance.id, reason: "its pool is no longer declared") }
      if isSpent(instance, spec: spec) && !held {
        return .drain(id: instance.id, reason: "its \(spec.recycleAfterSessions) sessions are over")
      }
      return nil
    case .unhealthy:
      guard let spec else { return .drain(id: instance.id, reason: "its pool is no longer declared") }
      if !held && instance.failures >= spec.health.replacement(isSuspected: instance.isSuspected) {
        return .stop(id: instance.id, reason: "it failed \(instance.failures) health checks in a row")
      }
      return nil
    case .draining:
      return held ? nil : .stop(id: instance.id, reason: "it is drained")
    case .stopping:
      // Again by a new leader, when the one that began has died.
      return .stop(id: instance.id, reason: "its stop was not finished")
    }
  }

  /// A ready instance that no client can get any more: it has served the sessions it was good for.
  private static func isSpent(_ instance: ObservedInstance, spec: PoolSpec) -> Bool {
    spec.slots > 0 && instance.state == .ready && instance.freeSlots == nil
  }

  private static func scaleDown(
    spec: PoolSpec, observed: PoolObservation, census: Census, wantedFree: Int, now: Int, into decision: inout Decision
  ) {
    // Instances above `max` (it was lowered) go first, idle ones before those in use, which are drained.
    var excess = Swift.max(0, census.usable - spec.max)
    for instance in census.idle.prefix(excess) + census.inUse.prefix(Swift.max(0, excess - census.idle.count)) {
      decision.actions.append(.drain(id: instance, reason: "the pool has more than max instances"))
    }
    excess = Swift.min(excess, census.idle.count)
    let idle = census.idle.dropFirst(excess)

    let dispensable = Swift.max(
      0, Swift.min(census.usable - excess - spec.min, surplus(spec: spec, census: census, wantedFree: wantedFree)))
    guard dispensable > 0, !idle.isEmpty else { return }
    // A clock that was set back starts the wait anew instead of stretching it.
    let since = Swift.min(observed.surplusSince ?? now, now)
    decision.surplusSince = since
    guard now - since >= spec.scaleDownAfterMilliseconds else {
      decision.lookAgainAt = since + spec.scaleDownAfterMilliseconds
      return
    }
    for instance in idle.prefix(dispensable) {
      decision.actions.append(.drain(id: instance, reason: "more instances are idle than needed"))
    }
  }

  /// Idle instances that could go and still leave the wanted free slots.
  private static func surplus(spec: PoolSpec, census: Census, wantedFree: Int) -> Int {
    guard spec.slots > 0 else { return census.usable - Swift.max(spec.min, 1) }
    return (census.freeSlots - wantedFree) / spec.slots
  }

  private static func scaleUp(
    spec: PoolSpec, observed: PoolObservation, census: Census, wantedFree: Int, launchBudget: Int, now: Int,
    into decision: inout Decision
  ) {
    let room = spec.max - census.existing
    var wanted = Swift.max(0, spec.min - census.usable)
    if spec.slots > 0 {
      let missing = wantedFree - census.freeSlots - census.comingSlots
      if missing > 0 { wanted = Swift.max(wanted, (missing + spec.slots - 1) / spec.slots) }
    } else if wantedFree > 0, census.usable == 0 {
      wanted = Swift.max(wanted, 1)
    }
    wanted = Swift.max(wanted, observed.restarts.count)
    let launches = observed.history.launches(
      of: Swift.min(wanted, room, launchBudget), beside: census.starting, by: spec.restart)
    guard launches > 0 else { return }
    guard observed.history.mayLaunch(by: spec.restart, now: now) else {
      decision.lookAgainAt = observed.history.nextLaunchAt(by: spec.restart, now: now)
      return
    }
    for index in 0..<launches {
      decision.actions.append(.launch(index < observed.restarts.count ? observed.restarts[index] : nil))
    }
  }
}

/// The instances of a pool, counted by what they are good for.
private struct Census {
  /// All that take up room, those on their way out included.
  var existing = 0
  /// Those that serve clients now or soon.
  var usable = 0
  /// Free slots that a client could have now.
  var freeSlots = 0
  /// Those that are starting.
  var starting = 0
  /// Their free slots.
  var comingSlots = 0
  /// Ready instances that nobody holds, the youngest first: the oldest stays, its caches are warm.
  var idle: [String] = []
  var inUse: [String] = []
  private var started: [String: Int] = [:]

  mutating func count(_ instance: ObservedInstance, spec: PoolSpec?, leaving: Bool) {
    existing += 1
    if instance.state == .starting { starting += 1 }
    guard let spec, !leaving, instance.exited == nil, instance.order == nil else { return }
    switch instance.state {
    case .starting:
      usable += 1
      comingSlots += spec.slots
    case .ready:
      usable += 1
      freeSlots += instance.freeSlots ?? 0
      started[instance.id] = instance.startedAt
      if instance.leases == 0 { insert(instance.id, into: &idle) } else { insert(instance.id, into: &inUse) }
    case .unhealthy, .draining, .stopping:
      break
    }
  }

  private func insert(_ id: String, into list: inout [String]) {
    let mine = (started[id] ?? 0, id)
    let index = list.firstIndex { (started[$0] ?? 0, $0) < mine } ?? list.endIndex
    list.insert(id, at: index)
  }
}

extension Action {
  /// Whether this takes the instance out of service.
  func ends(_ instance: String) -> Bool {
    switch self {
    case .launch: false
    case .drain(let id, _), .stop(let id, _), .remove(let id, _): id == instance
    }
  }
}
