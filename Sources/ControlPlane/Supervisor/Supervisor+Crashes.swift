// Pools whose launches fail: what went wrong is counted, kept for whoever asks, and handed on to the next leader. The rules
// of waiting are Domain's RestartPolicy.swift.
import Domain
import Logging
import Posix
import Redis
import Routing
import Runtimes
import State

/// The last failure of a pool's launches.
struct PoolFailure: Sendable {
  var at: Int
  var instance: String
  var reason: String
  var log: [String]
}

extension Supervisor {
  /// A launch has failed, or an instance has died soon after it.
  func noteFailure(
    _ failure: RestartHistory.Failure, of id: String, _ spec: PoolSpec, reason: String, log: [String]
  ) {
    let now = Clock.unixMilliseconds
    var memory = pools[spec.name] ?? PoolMemory()
    if memory.history.failures == 0 { memory.troubleSince = now }
    memory.history.failed(failure, now: now)
    let trouble: LaunchTrouble =
      switch failure {
      case .launch: .launch
      case .death: .earlyDeath
      case .noRoom: .noRoom
      }
    metrics.count(spec.name) { $0.launchTroubles[trouble, default: 0] += 1 }
    memory.lastFailure = PoolFailure(at: now, instance: id, reason: reason, log: log)
    pools[spec.name] = memory
  }

  /// An instance ended that nobody had told to.
  func noteExit(of entry: Managed, _ exit: InstanceExit) {
    // What a client asked for may be what a browser dies of; the pool is not to blame.
    guard let spec = spec(of: entry.record.pool), entry.record.session == nil else { return }
    var history = pools[spec.name]?.history ?? RestartHistory()
    let before = history.failures
    // Goodbye with status 0 is a client's doing, if there was one.
    history.exited(
      startedAt: entry.record.startedAt, clean: exit.isClean && entry.wasUsed, now: Clock.unixMilliseconds,
      by: spec.restart)
    guard history.failures > before else { return }
    noteFailure(.death, of: entry.record.id, spec, reason: exit.description, log: exit.log)
  }

  /// The reconciler ends an instance that runs.
  func noteStop(of id: String, reason: String) {
    guard let entry = instances[id], !entry.busy, let spec = spec(of: entry.record.pool) else { return }
    let startedAt = entry.record.startedAt
    if entry.record.state == .draining, entry.health.failures == 0 {
      pools[spec.name]?.history.proved(startedAt: startedAt)
    } else if entry.record.state == .unhealthy, entry.order == nil,
      Clock.unixMilliseconds - startedAt < spec.restart.stableAfterMilliseconds
    {
      noteFailure(.death, of: id, spec, reason: reason, log: [])
      Task { [runtime] in
        let log = await runtime.lastLines(of: entry.record)
        if self.pools[spec.name]?.lastFailure?.instance == id { self.pools[spec.name]?.lastFailure?.log = log }
      }
    }
  }

  /// Those of a pool that have lived long enough show that it works.
  func noteSurvivors(of spec: PoolSpec, now: Int) {
    for entry in instances.values where entry.record.pool == spec.name && entry.record.state == .ready {
      pools[spec.name]?.history.lives(startedAt: entry.record.startedAt, now: now, by: spec.restart)
    }
  }

  /// Tells Redis of pools that got into trouble, or out of it.
  func tellTroubles(_ fence: Fence) async throws(RedisError) {
    for spec in configuration.pools {
      guard let memory = pools[spec.name] else { continue }
      let trouble = trouble(of: spec, memory)
      guard trouble != memory.toldTrouble else { continue }
      let now = Clock.unixMilliseconds
      try await redis.run(troubles.put(trouble, pool: spec.name, fence: fence, now: now))
      pools[spec.name]?.toldTrouble = trouble
      let looping = PoolCondition.crashLooping.rawValue
      switch (memory.toldTrouble?.state == looping, trouble?.state == looping) {
      case (false, true):
        metrics.count(spec.name) { $0.crashLoops += 1 }
        let failure = memory.lastFailure
        logger.error(
          "pool is crash looping: one launch at a time finds out whether it still fails",
          metadata: [
            "pool": "\(spec.name)", "failures": "\(memory.history.failures)", "reason": "\(failure?.reason ?? "")",
            "log": "\(failure?.log.joined(separator: " | ") ?? "")",
            "retryMilliseconds": "\(max(0, (trouble?.nextLaunchAt ?? now) - now))",
          ])
        await record(
          "pool.crash_looping", spec.name, reason: failure?.reason ?? "",
          fields: [
            "failures": String(memory.history.failures), "log": failure?.log.joined(separator: "\n") ?? "",
          ])
      case (true, false):
        logger.notice("pool is no longer crash looping", metadata: ["pool": "\(spec.name)"])
        await record("pool.recovered", spec.name, reason: trouble == nil ? "an instance is ready" : "")
      default: break
      }
    }
  }

  private func trouble(of spec: PoolSpec, _ memory: PoolMemory) -> PoolTrouble? {
    let history = memory.history
    let condition = history.condition(by: spec.restart)
    guard condition != .ok else { return nil }
    var trouble = PoolTrouble(pool: spec.name, state: condition.rawValue)
    trouble.failedLaunches = history.failedLaunches
    trouble.earlyDeaths = history.earlyDeaths
    trouble.refusals = history.refusals
    trouble.since = memory.troubleSince
    trouble.lastFailureAt = memory.lastFailure?.at ?? 0
    trouble.nextLaunchAt = trouble.lastFailureAt + spec.restart.delayMilliseconds(afterFailures: history.failures)
    trouble.instance = memory.lastFailure?.instance ?? ""
    trouble.reason = memory.lastFailure?.reason ?? ""
    trouble.log = memory.lastFailure?.log ?? []
    return trouble
  }

  /// A new term goes on counting where the one before was. Its first launch waits for nobody: what was wrong may have been
  /// mended with the restart.
  func restoreTroubles(_ fence: Fence) async throws(RedisError) {
    let known = try await redis.run(troubles.all())
    for (name, trouble) in known.sorted(by: { $0.key < $1.key }) where spec(of: name) == nil {
      try await redis.run(troubles.put(nil, pool: trouble.pool, fence: fence, now: Clock.unixMilliseconds))
    }
    for spec in configuration.pools {
      let trouble = known[spec.name]
      pools[spec.name, default: PoolMemory()].toldTrouble = trouble
      guard let trouble, pools[spec.name]?.history.failures == 0 else { continue }
      pools[spec.name]?.history = RestartHistory(
        failedLaunches: trouble.failedLaunches, earlyDeaths: trouble.earlyDeaths, refusals: trouble.refusals)
      pools[spec.name]?.troubleSince = trouble.since
      pools[spec.name]?.lastFailure = PoolFailure(
        at: trouble.lastFailureAt, instance: trouble.instance, reason: trouble.reason, log: trouble.log)
    }
  }
}
