// The end of a service: Browser.close, then its removal, upon which Swarm sends SIGTERM and after the grace SIGKILL; the
// instance is gone when its task is. A node that is down, and a swarm without managers, are waited for in bounds.
import Domain
import JSON
import Logging
import Posix
package import Routing

extension SwarmRuntime {
  private static let retryMilliseconds = 250
  private static let removeMilliseconds = 10_000
  /// Beyond the grace, for Swarm's and the node's own work.
  private static let endMilliseconds = 30_000

  package func stop(
    _ record: InstanceRecord, kind: PoolKind, graceMilliseconds: Int, force: Bool
  ) async -> String? {
    swarm.hurry()
    defer { swarm.calm() }
    if !force, kind == .cdp, let service = record.service, swarm.exit(of: service) == nil {
      await CDPClient.closeBrowser(of: record, within: graceMilliseconds)
      let deadline = Deadline(milliseconds: graceMilliseconds)
      while swarm.exit(of: service) == nil, !deadline.hasPassed, swarm.trouble == nil { await Self.pause(5) }
    }
    let name = record.service ?? ContainerRequest.name(owner: settings.owner, instance: record.id)
    return await remove(name, instance: record.id, graceMilliseconds: graceMilliseconds)
  }

  /// Removes a service by id or name and waits until nothing of the instance runs. Returns what would not go away.
  private func remove(_ name: String, instance: String, graceMilliseconds: Int) async -> String? {
    while let problem = await removeNow(name) {
      guard problem.isSilence else { return "swarm \(settings.name): \(problem)" }
      // It counts as living until the grace is over; then it is removed when a manager is back: see holdings().
      if swarm.silentMilliseconds >= settings.graceMilliseconds {
        logger.warning("a service is left until a manager answers", metadata: ["service": "\(name)"])
        return nil
      }
      await Self.pause(Self.retryMilliseconds)
    }
    let look = swarm.nextLook
    let deadline = Deadline(milliseconds: graceMilliseconds + Self.endMilliseconds)
    while true {
      let now = Clock.monotonicMilliseconds
      let hasLooked = swarm.hasLooked(look)
      let isHeld = swarm.picture.holds(
        instance: instance, service: name, now: now, graceMilliseconds: settings.graceMilliseconds)
      if hasLooked, !isHeld { return nil }
      // Its node does not get done with it. One that is down is waited for as long as it counts as living.
      if deadline.hasPassed, swarm.trouble == nil, !isDown(nodeOf: instance) {
        return "swarm \(settings.name) does not get done with ending its task"
      }
      if swarm.silentMilliseconds >= settings.graceMilliseconds { return nil }
      await Self.pause(Self.pollMilliseconds)
    }
  }

  private static let pollMilliseconds = 20

  private func removeNow(_ name: String) async -> EngineError? {
    await pool.run { [swarm] () -> EngineError? in
      do throws(EngineError) {
        try swarm.call(
          "DELETE", "/services/\(EngineAPI.escaped(name))", allowing: [404], milliseconds: Self.removeMilliseconds)
        return nil
      } catch { return error }
    }
  }

  private func isDown(nodeOf instance: String) -> Bool {
    let picture = swarm.picture
    return picture.tasks.contains { task in
      task.instance == instance && !task.isOver && task.node.map { picture.nodes[$0]?.isDown == true } ?? false
    }
  }

  package func reap(orphan id: String) async -> String? {
    var left: [String] = []
    for service in await services() where service.instance == id {
      if let problem = await remove(service.id, instance: id, graceMilliseconds: 0) { left.append(problem) }
    }
    return left.isEmpty ? nil : left.joined(separator: "; ")
  }

  package func remove(_ holding: Holding) async {
    guard let service = holding.unit else { return }
    if let problem = await removeNow(service) {
      logger.warning("a service is left", metadata: ["reason": "\(problem)"])
    }
  }

  /// Not cancelled with its caller: what was begun to be ended must be ended.
  private static func pause(_ milliseconds: Int) async {
    await Task { try? await Task.sleep(for: .milliseconds(milliseconds)) }.value
  }
}
