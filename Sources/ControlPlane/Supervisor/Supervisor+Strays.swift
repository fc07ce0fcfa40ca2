// What runs or lies about although no record names it: a launch whose control plane died, hung or lost the lead between
// the record and the process. The leader looks for it on all hosts that it reaches, a standby on its own.
import Logging
import Posix
import Redis
import Routing
import Runtimes
import State

extension Supervisor {
  private static let ownStraysMilliseconds = 10_000
  /// Looks in a row at which a standby has to find nobody who knows an instance before it ends it.
  private static let ownStraysLooks = 3

  /// Called by the leader every few seconds. Nobody knows what it finds, or it stands on another host than its instance.
  func removeStrays() {
    Task { [runtime] in
      for holding in await runtime.holdings() where await self.isStray(holding) {
        self.logger.notice(
          "what an unknown instance left is removed",
          metadata: ["instance": "\(holding.instance)", "host": "\(holding.host ?? self.configuration.host)"])
        await runtime.remove(holding)
        await self.record("instance.reaped", holding.instance, reason: "nobody owns it")
      }
    }
  }

  private func isStray(_ holding: Holding) async -> Bool {
    // Asked before the memory is: who does not lead any more knows nothing.
    guard let term = await lease.current, term.number == termNumber else { return false }
    guard let entry = instances[holding.instance] else { return true }
    let host = entry.record.labels[InstanceRecord.hostLabel] ?? configuration.host
    if host != holding.host ?? configuration.host { return true }
    guard let unit = holding.unit else { return false }
    return !entry.busy && entry.record.unit != unit
  }

  /// A standby's own host is perhaps nobody else's: what its own launches of a former term left there would stay until it
  /// leads again. Every process of an instance has a record before it exists and is gone before its record is; so what
  /// has none, at several looks at a Redis that has all its data, is left over. A session that was put back keeps it.
  func removeOwnStrays() async {
    guard upkeep.isDue("own strays", every: Self.ownStraysMilliseconds) else { return }
    let found = Set(await runtime.holdings().filter { $0.host == nil }.map(\.instance))
    do throws(RedisError) {
      let look = try await redis.run(Leadership(keys: keys).look())
      guard look.leader != nil, look.gate == .open else {
        upkeep.strayLooks = [:]
        return
      }
      let unknown = found.subtracting(try await redis.run(facts.registered()))
      upkeep.strayLooks = upkeep.strayLooks.filter { unknown.contains($0.key) }
      for id in unknown.sorted() {
        upkeep.strayLooks[id, default: 0] += 1
        guard upkeep.strayLooks[id, default: 0] >= Self.ownStraysLooks,
          try await redis.run(facts.leases(of: [id])) == [0], await lease.anotherLeads
        else { continue }
        logger.notice("what an unknown instance left here is removed", metadata: ["instance": "\(id)"])
        await runtime.remove(Holding(instance: id, host: nil, unit: nil))
        await record("instance.reaped", id, reason: "nobody owns it")
        upkeep.strayLooks[id] = nil
      }
    } catch {
      upkeep.strayLooks = [:]
    }
  }
}
