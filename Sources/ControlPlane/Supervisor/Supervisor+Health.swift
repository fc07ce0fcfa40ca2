// Health checks: a loop of their own, so that an instance is asked when its check is due, whatever else the leader does;
// and what replicas report, which brings a check forward. The rules are Domain's InstanceHealth.swift.
import Domain
import Logging
import Posix
import Redis
import Routing
import Runtimes
import State

extension Supervisor {
  /// The shortest and the longest time between two looks at what is due.
  private static let shortestPauseMilliseconds = 20
  private static let longestPauseMilliseconds = 250

  /// Checks what is due, until it is cancelled. Who does not lead knows no instances, and checks none.
  func runChecks() async {
    while !Task.isCancelled {
      checkHealth()
      let now = Clock.monotonicMilliseconds
      let due = instances.values.lazy.filter { !$0.busy && !$0.isChecking }.map(\.schedule.next).min() ?? .max
      let pause = due == .max ? Self.longestPauseMilliseconds : due - now
      let bounded = min(max(pause, Self.shortestPauseMilliseconds), Self.longestPauseMilliseconds)
      do { try await Task.sleep(for: .milliseconds(bounded)) } catch { return }
    }
  }

  /// For an instance that comes into the memory.
  func schedule(adopting record: InstanceRecord) -> HealthSchedule {
    // A pool that is not declared has no checks.
    let policy = spec(of: record.pool)?.health ?? HealthPolicy()
    return HealthSchedule(
      adoptedAt: Clock.monotonicMilliseconds, by: policy, hasBrowser: record.browser != nil,
      // One that is out of service is asked for all at once.
      random: record.state == .unhealthy ? 0 : UInt64.random(in: 0 ... .max))
  }

  private func checkHealth() {
    let now = Clock.monotonicMilliseconds
    for (id, entry) in instances where !entry.busy && !entry.isChecking && entry.exited == nil {
      guard let depth = entry.schedule.depth(at: now), let spec = spec(of: entry.record.pool),
        runtime.wasStarted(entry.record)
      else { continue }
      instances[id]?.isChecking = true
      let record = entry.record
      Task { [runtime] in
        let problem = await runtime.check(record, spec: spec, depth: depth)
        await self.checked(id, token: entry.token, spec: spec, depth: depth, problem: problem)
      }
    }
  }

  private func checked(
    _ id: String, token: Int, spec: PoolSpec, depth: HealthDepth, problem: HealthProblem?
  ) async {
    guard var entry = instances[id], entry.token == token else { return }
    metrics.count(spec.name) { counters in
      counters.healthChecks += 1
      if let problem { counters.failedHealthChecks[problem.depth, default: 0] += 1 }
    }
    let now = Clock.monotonicMilliseconds
    let verdict: HealthVerdict = problem.map { .ill(at: $0.depth) } ?? .well(upTo: depth)
    let isSuspected = entry.suspicion.isAlive(at: now)
    let isUnhealthy = entry.record.state == .unhealthy
    let finding = entry.health.checked(verdict, by: spec.health, isUnhealthy: isUnhealthy, isSuspected: isSuspected)
    if problem == nil, depth >= .http { entry.suspicion.isRefuted() }
    entry.schedule.checked(
      verdict, depth: depth, cause: entry.health.cause, by: spec.health, isSuspected: isSuspected, now: now,
      random: UInt64.random(in: 0 ... .max))
    entry.isChecking = false
    instances[id] = entry
    guard !entry.busy, entry.exited == nil else { return }
    if isUnhealthy, entry.health.failures == spec.health.replacement(isSuspected: isSuspected) { bell.ring() }
    guard let finding else { return }
    let reason = problem.map { "\($0.depth.name): \($0.reason)" } ?? "it answers again"
    guard instances[id]?.apply(finding == .failed ? .failed : .recovered, reason: reason) == true else { return }
    logger.warning(
      "instance \(finding == .failed ? "unhealthy" : "recovered")",
      metadata: ["instance": "\(id)", "reason": "\(reason)", "reported": "\(isSuspected)"])
    await save(id)
    bell.ring()
  }

  /// What replicas have seen since the last look: those instances are checked at once.
  func readReports() async throws(RedisError) {
    for faults in try await redis.run(reports.take()) {
      let id = faults.instance
      guard let entry = instances[id], entry.record.state == .ready || entry.record.state == .unhealthy else {
        continue
      }
      let now = Clock.monotonicMilliseconds
      guard let (isNews, checks) = instances[id]?.suspicion.reported(now: now) else { continue }
      if checks { instances[id]?.schedule.hurry(now: now) }
      guard isNews else { continue }
      logger.notice(
        "replicas report failures", metadata: ["instance": "\(id)", "failures": "\(faults.text)"])
      await record("instance.reported", id, reason: faults.text, fields: ["pool": entry.record.pool])
    }
    checkHealth()
  }
}
