// Instances that are launched for one session each, because it asked for options. They are no part of what the scaler
// counts; they take room of the same pool. Pure functions that Supervisor+Tailored.swift calls at each look.
package import Domain
import Routing

package enum Tailored {
  /// What is to be launched now, and how much of the pool's `max` the others may not have.
  package struct Plan: Sendable, Equatable {
    /// The sessions, in their order.
    package var launches: [String]
    /// Instances that are there for a session or will be.
    package var room: Int
    /// Requests wait only because nothing more may be launched this way.
    package var isAtLimit: Bool

    package init(launches: [String], room: Int, isAtLimit: Bool) {
      self.launches = launches
      self.room = room
      self.isAtLimit = isAtLimit
    }
  }

  /// - Parameters:
  ///   - requests: sessions that wait for an instance, in their order.
  ///   - served: sessions that an instance was launched for.
  ///   - existing: such instances, those that stop included.
  ///   - others: all other instances of the pool, those that stop included.
  ///   - budget: launches that may begin now.
  package static func plan(
    spec: PoolSpec, requests: [String], served: Set<String>, existing: Int, others: Int, budget: Int
  ) -> Plan {
    let open = requests.filter { !served.contains($0) }
    let allowed = Swift.max(0, spec.tailoredLimit - existing)
    let wanted = Swift.min(open.count, allowed)
    // The others make room: idle ones are drained, as the pool has more than its `max` then.
    let free = Swift.max(0, spec.max - existing - others)
    return Plan(
      launches: Array(open.prefix(Swift.min(wanted, free, Swift.max(0, budget)))), room: existing + wanted,
      isAtLimit: open.count > allowed)
  }

  /// What must be done about such an instance.
  /// - Parameter isAwaited: whether its session's client still asks for it.
  package static func duty(to instance: ObservedInstance, isAwaited: Bool, spec: PoolSpec?) -> Action? {
    guard !instance.busy else { return nil }
    if let exited = instance.exited { return .remove(id: instance.id, reason: exited) }
    let held = instance.leases > 0
    if let order = instance.order {
      let reason = order.kind == .restart ? "restart was asked for" : "stop was asked for"
      if order.force, instance.state != .stopping { return .stop(id: instance.id, reason: reason) }
      if instance.state == .ready || instance.state == .unhealthy { return .drain(id: instance.id, reason: reason) }
    }
    switch instance.state {
    case .starting: return .stop(id: instance.id, reason: "its launch was given up")
    case .ready where held || (isAwaited && spec != nil): return nil
    case .ready: return .drain(id: instance.id, reason: "the session that it was launched for is over")
    case .unhealthy:
      guard !held, let spec else { return nil }
      guard isAwaited else { return .stop(id: instance.id, reason: "the session that it was launched for is over") }
      return instance.failures >= spec.health.failuresBeforeReplacement
        ? .stop(id: instance.id, reason: "it failed \(instance.failures) health checks in a row") : nil
    case .draining: return held ? nil : .stop(id: instance.id, reason: "it is drained")
    case .stopping: return .stop(id: instance.id, reason: "its stop was not finished")
    }
  }
}
