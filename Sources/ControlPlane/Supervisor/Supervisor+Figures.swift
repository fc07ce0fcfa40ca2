// What the leader tells ControlMetrics: how its pools stand, why instances end, and the sessions that anybody made or ended,
// which it reads from the events of the deployment.
import Domain
import Posix
import Reconciler
import Redis
import Routing
import State

extension Supervisor {
  private static let eventsMilliseconds = 1_000
  private static let eventsPage = 1_000

  /// Sessions are made and ended by scripts that any process runs: the events are the one place that has them all. Those
  /// between two leaders are not counted.
  func countSessions() async throws(RedisError) {
    guard let position = eventPosition else {
      eventPosition = try await redis.run(events.recent(count: 1)).first?.streamID ?? "0-0"
      return
    }
    guard upkeep.isDue("events", every: Self.eventsMilliseconds) else { return }
    var last = position
    while true {
      let page = try await redis.run(events.after(last, count: Self.eventsPage))
      for event in page { count(event) }
      last = page.last?.streamID ?? last
      eventPosition = last
      if page.count < Self.eventsPage { return }
    }
  }

  private func count(_ event: State.Event) {
    let pool = event.fields["pool"] ?? ""
    switch event.type {
    case "session.created":
      guard let origin = SessionRecord.Origin(rawValue: event.reason) else { return }
      metrics.count(pool) { $0.sessionsCreated[origin, default: 0] += 1 }
    case "session.ended":
      metrics.count(pool) { $0.sessionsEnded[SessionEnd(reason: event.reason), default: 0] += 1 }
    default: break
    }
  }

  /// Whoever does not lead has nothing to say of pools.
  func standBy() {
    eventPosition = nil
    metrics.count { $0.standing = nil }
  }

  func tell(_ standings: [String: PoolStanding], token: Int) {
    var standing = LeaderStanding(token: token, isGateOpen: !gate.isWaiting)
    standing.replicas = upkeep.replicas.count
    standing.pools = standings
    metrics.count { [standing] in $0.standing = standing }
  }

  /// - Parameters:
  ///   - leases: held slots of its instances.
  ///   - active: what replicas told, by instance.
  func standing(of pool: String, leases: Int, freeSlots: Int, waiting: Int, active: [Int]) -> PoolStanding {
    var standing = PoolStanding()
    for entry in instances.values where entry.record.pool == pool {
      standing.instances[entry.record.state, default: 0] += 1
      if entry.record.state == .ready { standing.slots += entry.record.slots }
    }
    standing.leasedSlots = leases
    standing.freeSlots = freeSlots
    standing.waiting = waiting
    if !active.isEmpty { standing.active = active.reduce(0, +) }
    if let spec = spec(of: pool), let history = pools[pool]?.history {
      standing.condition = history.condition(by: spec.restart)
    }
    return standing
  }

  /// Why an instance is ended, from how it stands before its end begins.
  func cause(ofEnding entry: Managed) -> StopCause {
    if entry.exited != nil || entry.lost != nil { return .died }
    if entry.order != nil { return .order }
    if isStopping { return .shutdown }
    guard let spec = spec(of: entry.record.pool) else { return .undeclared }
    if entry.record.session != nil { return .session }
    switch entry.record.state {
    case .starting: return .launchFailed
    case .unhealthy: return .unhealthy
    case .ready, .draining, .stopping: break
    }
    if let recycling = entry.record.labels[InstanceRecord.recyclingLabel], RecycleCause(reason: recycling) != nil {
      return .recycled
    }
    let reason = entry.record.labels[InstanceRecord.reasonLabel]
    if reason == Scaler.idle || reason == Scaler.aboveMaximum { return .scaledDown }
    return spec.slots > 0 ? .used : .scaledDown
  }
}
