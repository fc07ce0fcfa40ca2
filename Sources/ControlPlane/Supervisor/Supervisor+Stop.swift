// An instance's end: no more clients → process → record → port, in this order, so that at no point a port is free whose
// process runs, or a process runs that nobody knows of. Before its process ends, every replica has let go of it.
import Domain
import Logging
import Posix
import Reconciler
import Redis
import Routing
import Runtimes
import State

extension Supervisor {
  /// Begins to end an instance, dead or alive; returns at once.
  func end(_ id: String, reason: String) {
    guard let entry = instances[id], !entry.busy else { return }
    instances[id]?.busy = true
    let cause = entry.endCause ?? cause(ofEnding: entry)
    logger.info("instance stops", metadata: ["instance": "\(id)", "reason": "\(reason)"])
    Task {
      // It may be off the record by now, and must not come back.
      if entry.removalBegan {
        self.instances[id]?.isUnsaved = false
      } else {
        guard await self.announceStop(id, token: entry.token, reason: reason) else { return }
      }
      guard let record = self.instances[id]?.record, self.instances[id]?.token == entry.token else { return }
      if entry.exited == nil, entry.lost == nil { await self.waitUntilUnused(entry, stopping: record) }
      await self.finish(
        record, token: entry.token, cause: cause, reason: reason, force: entry.exited != nil || entry.lost != nil)
    }
  }

  /// Says in Redis that an instance stops, before anything is done to it: whoever leads next stops it too, and one that
  /// does not lead any more, and cannot say it, leaves it alone. True when it was said.
  func announceStop(_ id: String, token: Int, reason: String) async -> Bool {
    guard instances[id]?.token == token else { return false }
    if let entry = instances[id], entry.removalBegan || entry.record.port == 0 {
      // It may be off the record by now and must not come back, or it has never been on it.
      _ = instances[id]?.apply(.stop, reason: reason)
      instances[id]?.isUnsaved = false
      return true
    }
    // One that stops already is said to once more: it may be another one's decision by now.
    if instances[id]?.apply(.stop, reason: reason) != true { instances[id]?.isUnsaved = true }
    await save(id)
    // Somebody else may be about to write it; that is a matter of milliseconds, or of Redis' own limit.
    for _ in 0..<1_000 where instances[id]?.token == token && instances[id]?.isSaving == true {
      try? await Task.sleep(for: .milliseconds(5))
    }
    guard let entry = instances[id], entry.token == token else { return false }
    guard entry.isUnsaved || entry.isSaving else { return true }
    // The next look tries again, if this one still leads.
    instances[id]?.busy = false
    return false
  }

  /// Ends the process and forgets the instance everywhere. What fails is tried again at a later look.
  func finish(_ record: InstanceRecord, token: Int, cause: StopCause, reason: String, force: Bool) async {
    let id = record.id
    if instances[id]?.token == token { instances[id]?.endCause = cause }
    let spec = spec(of: record.pool)
    let kind = spec?.kind ?? (record.browser == nil ? .http : .cdp)
    let left = await runtime.stop(
      record, kind: kind, graceMilliseconds: spec?.stopGraceMilliseconds ?? 5_000, force: force)
    guard let entry = instances[id], entry.token == token else { return }
    if let left {
      logger.error("instance does not end", metadata: ["instance": "\(id)", "reason": "\(left)"])
      instances[id]?.busy = false
      return
    }
    guard let fence = await lease.current?.fence else {
      // Its process is gone; the next look of whoever leads finds that out and forgets it.
      instances[id]?.lost = reason
      instances[id]?.busy = false
      return
    }
    await keepFromSaving(id, token)
    do throws(RedisError) {
      let now = Clock.unixMilliseconds
      try await redis.run(registry.remove(instance: id, reason: reason, fence: fence, now: now))
      if record.port > 0, let ports = ports(of: record, fence) {
        try await redis.run(ports.release(port: record.port, owner: id, now: now))
      }
      if entry.order != nil { try await redis.run(orders.done(instance: id, fence: fence)) }
    } catch {
      logger.warning("an instance is not forgotten yet", metadata: ["instance": "\(id)", "error": "\(error)"])
      if instances[id]?.token == token {
        instances[id]?.lost = reason
        instances[id]?.removalBegan = true
        instances[id]?.isSaving = false
        instances[id]?.busy = false
      }
      return
    }
    // One that was launched for a session would come back as anybody's.
    if entry.order?.kind == .restart || comesBack(entry, spec: spec), record.session == nil {
      pools[record.pool, default: PoolMemory()].restarts.append(Restart(id: id, generation: record.generation + 1))
    }
    logger.info("instance gone", metadata: ["instance": "\(id)", "reason": "\(reason)"])
    metrics.count(record.pool) { $0.stops[cause, default: 0] += 1 }
    forget(id, token)
  }

  /// From here on nothing of the instance is written any more: what is on its way over another connection would come
  /// after its removal.
  private func keepFromSaving(_ id: String, _ token: Int) async {
    while let entry = instances[id], entry.token == token, entry.isSaving {
      let seen = bell.rings
      await bell.wait(after: seen, milliseconds: 10)
    }
    if instances[id]?.token == token { instances[id]?.isSaving = true }
  }

  /// Operators' orders that Redis holds.
  func readOrders(_ term: Term) async throws(RedisError) {
    for (id, order) in try await redis.run(orders.all()) {
      guard let entry = instances[id] else {
        try await redis.run(orders.done(instance: id, fence: term.fence))
        continue
      }
      if entry.order != order {
        logger.notice(
          "order", metadata: ["instance": "\(id)", "order": "\(order.kind.rawValue)", "force": "\(order.force)"])
        instances[id]?.order = order
      }
    }
    // An operator's word goes before the configuration's.
    let weights = try await redis.run(orders.weights())
    for (id, entry) in instances {
      guard let weight = weights[id] ?? runtime.weight(of: entry.record), entry.record.weight != weight else {
        continue
      }
      logger.notice("weight", metadata: ["instance": "\(id)", "weight": "\(weight)"])
      instances[id]?.record.weight = weight
      instances[id]?.isUnsaved = true
      await save(id)
    }
  }

  /// Drains and ends all instances, for an exit that leaves nothing behind. Sessions get the drain time to finish. Also
  /// without Redis, which may be gone already: then processes and directories go, and the records with the next leader.
  func endAll() async {
    // A leader that died a moment ago is followed first: what it left is this one's to end. One that lives is not
    // disturbed.
    let following = Deadline(milliseconds: LeaderLease.ttlMilliseconds + 1_000)
    while await lease.current == nil, await lease.anotherLeads, !following.hasPassed {
      let seen = bell.rings
      await bell.wait(after: seen, milliseconds: 100)
    }
    if let term = await lease.current {
      if termNumber != term.number, (try? await takeOver(term)) != nil { termNumber = term.number }
    } else if await lease.anotherLeads {
      return
    }
    let deadline = Deadline(milliseconds: configuration.drainMilliseconds)
    for id in instances.keys.sorted() where instances[id]?.apply(.drain, reason: "the control plane stops") == true {
      await save(id)
    }
    while !deadline.hasPassed {
      let ids = instances.keys.sorted()
      guard let held = try? await redis.run(facts.leases(of: ids)), held.contains(where: { $0 > 0 }) else { break }
      let seen = bell.rings
      await bell.wait(after: seen, milliseconds: 100)
    }
    await withDiscardingTaskGroup { group in
      for id in instances.keys {
        group.addTask { await self.endNow(id) }
      }
    }
    // Launches and stops that ran already come to their end by themselves.
    let last = Deadline(milliseconds: 20_000)
    while !instances.isEmpty && !last.hasPassed {
      for id in instances.keys where instances[id]?.busy == false { await endNow(id) }
      let seen = bell.rings
      await bell.wait(after: seen, milliseconds: 50)
    }
    if !instances.isEmpty {
      logger.error("instances are left", metadata: ["instances": "\(instances.keys.sorted().joined(separator: ", "))"])
    }
    // Nothing is launched any more, so a port that nobody here knows is one that a cut-off launch has left.
    if let term = await lease.current { try? await reclaimPorts(term, olderThan: Clock.unixMilliseconds + 1) }
  }

  private func endNow(_ id: String) async {
    guard let entry = instances[id], !entry.busy else { return }
    _ = instances[id]?.apply(.stop, reason: "the control plane stops")
    instances[id]?.busy = true
    guard let record = instances[id]?.record else { return }
    await finish(record, token: entry.token, cause: .shutdown, reason: "the control plane stops", force: false)
    // Redis is gone: the process has ended, and that is what counts here.
    if instances[id]?.token == entry.token, instances[id]?.lost != nil { instances[id] = nil }
  }
}
