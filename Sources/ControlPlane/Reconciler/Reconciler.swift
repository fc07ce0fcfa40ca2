// Decides what to do about a pool: a pure function from what is wanted and what is there to commands. The supervisor
// calls it on every tick and every wake; calling it again without a change gives the same answer or none. What each
// instance needs by itself is decided here, how many there should be in Scaler.swift.
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
    var decision = Decision(actions: [], memory: observed.memory)
    decision.memory.surplusSince = nil
    for instance in observed.instances {
      if let action = duty(to: instance, spec: spec, now: now, into: &decision) { decision.actions.append(action) }
    }
    guard let spec else { return decision }

    decision.memory.demand.look(at: observed.instances, spec: spec, now: now)
    let stand = Recycling.Stand(observed.instances)
    let census = Census(
      observed.instances, spec: spec,
      leaving: Set(decision.actions.compactMap(\.instance)).union(stand.successors.keys))
    let need = Scaler.need(spec: spec, observed: observed, memory: decision.memory, census: census)
    Scaler.scaleDown(spec: spec, observed: observed, census: census, need: need, now: now, into: &decision)
    Scaler.scaleUp(
      spec: spec, observed: observed, census: census, need: need, launchBudget: launchBudget, now: now,
      into: &decision)
    Recycling.decide(
      spec: spec, observed: observed, stand: stand, launchBudget: launchBudget, now: now, into: &decision)
    return decision
  }

  /// What must be done about one instance whatever the rest of the pool looks like.
  private static func duty(
    to instance: ObservedInstance, spec: PoolSpec?, now: Int, into decision: inout Decision
  ) -> Action? {
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
      switch Recycling.drain(of: instance, spec: spec, now: now) {
      case .isOver(let reason): return .stop(id: instance.id, reason: reason)
      case .goesOn(let time):
        if let time { decision.lookAgain(at: time) }
        return nil
      }
    case .stopping:
      // Again by a new leader, when the one that began has died.
      return .stop(id: instance.id, reason: "its stop was not finished")
    }
  }

  /// A ready instance that no client can get any more: it has served the sessions it was good for.
  private static func isSpent(_ instance: ObservedInstance, spec: PoolSpec) -> Bool {
    spec.slots > 0 && instance.state == .ready && instance.freeSlots == nil
  }
}
