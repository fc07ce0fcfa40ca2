// Browsers with options of their own: what sessions asked for is read from Redis, an instance is launched for each of
// them, and it goes with its session. Tailored.swift decides, Launches.swift keeps the requests.
import Domain
import Logging
import Posix
import Reconciler
import Redis
import Routing
import Runtimes
import State

extension Supervisor {
  private var launchRequests: Launches { Launches(keys: keys) }

  /// What clients of each pool wait for. Read before the leases are: a request that is gone then was served, and its
  /// session is seen on its instance; the other way round it would look like one whose client has left.
  func readLaunchRequests() async throws(RedisError) -> [String: [LaunchRequest]] {
    var requests: [String: [LaunchRequest]] = [:]
    for spec in configuration.pools where spec.tailoredLimit > 0 {
      requests[spec.name] = try await redis.run(launchRequests.pending(pool: spec.name))
    }
    return requests
  }

  /// Looks after the instances of one pool that were launched for sessions and begins the launches that are due. Returns
  /// the pool as the others may use it: they share its `max`.
  func tailor(
    _ spec: PoolSpec?, _ requests: [LaunchRequest], observed: [ObservedInstance], others: Int
  ) async -> PoolSpec? {
    let awaited = Set(requests.filter { !$0.hasFailed }.map(\.session))
    for instance in observed {
      let session = instances[instance.id]?.record.session ?? ""
      if let action = Tailored.duty(to: instance, isAwaited: awaited.contains(session), spec: spec) {
        await perform(action)
      }
    }
    guard let spec else { return nil }
    let served = Set(instances.values.filter { $0.record.pool == spec.name }.compactMap(\.record.session))
    let plan = Tailored.plan(
      spec: spec, requests: requests.filter { !$0.hasFailed }.map(\.session), served: served,
      existing: observed.count, others: others, budget: launchBudget)
    if plan.isAtLimit != pools[spec.name, default: PoolMemory()].isTailoredFull {
      pools[spec.name, default: PoolMemory()].isTailoredFull = plan.isAtLimit
      if plan.isAtLimit {
        logger.warning(
          "no more instances with options", metadata: ["pool": "\(spec.name)", "limit": "\(spec.tailoredLimit)"])
        await record(
          "pool.launch_options_full", spec.name,
          reason: "clients wait, and the pool has its \(spec.tailoredLimit) instances with options")
      }
    }
    // A pool whose launches fail waits, whoever asks.
    let now = Clock.unixMilliseconds
    let mayLaunch = pools[spec.name]?.history.mayLaunch(by: spec.restart, now: now) ?? true
    for session in plan.launches where mayLaunch && !isStopping {
      guard let request = requests.first(where: { $0.session == session }),
        launch(spec, restart: nil, reason: "a session asked for launch options", for: request)
      else { break }
    }
    var left = spec
    left.max = max(0, spec.max - plan.room)
    return left
  }

  /// A launch for a session has failed. The pool is not to blame: its client hears of it, and others go on.
  func failed(_ session: String, _ spec: PoolSpec, id: String, _ reason: String) async {
    logger.error(
      "launch with options failed", metadata: ["instance": "\(id)", "pool": "\(spec.name)", "reason": "\(reason)"])
    await record("instance.launch_failed", id, reason: reason, fields: ["pool": spec.name])
    do throws(RedisError) {
      try await redis.run(launchRequests.fail(session: session, pool: spec.name, reason: reason))
    } catch {
      // The client's wait ends by itself, and before that the launch is tried again.
      logger.debug("a client is not told", metadata: ["instance": "\(id)", "error": "\(error)"])
    }
  }
}
