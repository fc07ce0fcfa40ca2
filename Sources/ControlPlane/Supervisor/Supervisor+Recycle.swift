// Worn instances and their successors, and who still uses an instance: what Reconciler/Recycling.swift needs to know, and
// the two actions that it has of its own. The figures are those that replicas flush (State/Traffic.swift).
import Domain
import Logging
import Posix
import Reconciler
import Redis
import Routing
import Runtimes
import State

/// What Redis knows of the use of one instance.
struct InstanceUse: Sendable {
  let counters: InstanceCounters
  /// Replicas that may still send requests to it, or have some under way.
  let replicas: Int
}

extension InstanceRecord {
  /// Why it is in its state, unless that is `ready`.
  package static let reasonLabel = "reason"
  /// Why it is to be replaced, once that was decided.
  package static let recyclingLabel = "recycling"
  /// The instance that it was started to replace.
  package static let replacesLabel = "replaces"
}

extension Supervisor {
  /// How long the stop of an instance waits for replicas that do not confirm: longer than one that has died is believed
  /// alive.
  private static let confirmMilliseconds = Upkeep.silenceMilliseconds + 1_000

  // MARK: What is known

  /// What is known of instances of one pool, where anybody goes by it.
  func uses(of records: [InstanceRecord], pool: String) async throws(RedisError) -> [String: InstanceUse] {
    guard !records.isEmpty else { return [:] }
    let spec = spec(of: pool)
    let countsRequests = spec?.slots ?? 0 == 0
    guard countsRequests || spec?.recycling.hasThresholds == true || spec?.recycleAfterSessions ?? 0 > 1 else {
      return [:]
    }
    let leaves = countsRequests && records.contains { $0.state == .draining || $0.state == .stopping }
    // The replicas first: one that comes in between is asked for at the next look.
    let replicas = leaves ? try await redis.run(replicas.list()).map(\.id) : []
    let counters = try await redis.run(Traffic(keys: keys).counters(of: records.map(\.id)))
    var uses: [String: InstanceUse] = [:]
    for (record, counters) in zip(records, counters) {
      uses[record.id] = InstanceUse(
        counters: counters, replicas: Self.using(record, counters, among: replicas, ignoringActive: false))
    }
    return uses
  }

  /// How many of the replicas have not let go of an instance that is on its way out.
  private static func using(
    _ record: InstanceRecord, _ counters: InstanceCounters, among replicas: [String], ignoringActive: Bool
  ) -> Int {
    replicas.count { replica in
      guard let line = counters.replicas[replica], line.generation == record.generation else { return true }
      let knows = line.state == .stopping || (line.state == .draining && record.state == .draining)
      return !knows || (line.active > 0 && !ignoringActive)
    }
  }

  /// Adds to what the reconciler is told of an instance.
  func observe(_ use: InstanceUse?, of entry: Managed, _ observed: ObservedInstance) -> ObservedInstance {
    var observed = observed
    observed.recycling = entry.record.labels[InstanceRecord.recyclingLabel]
    observed.replaces = entry.record.labels[InstanceRecord.replacesLabel]
    observed.drainingSince = entry.drainingSince
    guard let use else { return observed }
    let numbers = use.counters.numbers
    let requests = numbers["requests"] ?? 0
    if instances[entry.record.id]?.token == entry.token {
      instances[entry.record.id]?.requestRate.look(requests, now: Clock.unixMilliseconds)
    }
    observed.wear = Wear(
      requests: requests, requestsPerSecond: instances[entry.record.id]?.requestRate.perSecond ?? 0,
      sessions: numbers["sessions"] ?? 0, memoryBytes: numbers["memoryBytes"] ?? 0)
    if spec(of: entry.record.pool)?.slots ?? 0 == 0 {
      observed.active = use.counters.active(generation: entry.record.generation)
    }
    observed.replicasUsing = use.replicas
    return observed
  }

  // MARK: What is done

  /// The launch of the successor of an instance, which goes on until that is ready; nil when it has gone.
  func replacement(of id: String, reason: String) async -> WantedLaunch? {
    guard await mark(id, reason: reason, replacement: "first") else { return nil }
    return WantedLaunch(replaces: id, reason: "it replaces \(id): \(reason)")
  }

  /// No more clients for a worn instance.
  func recycle(_ id: String, reason: String) async {
    guard await mark(id, reason: reason, replacement: "after"),
      instances[id]?.apply(.drain, reason: reason) == true
    else { return }
    logger.info("instance drains", metadata: ["instance": "\(id)", "reason": "\(reason)"])
    await save(id)
    bell.ring()
  }

  /// Puts on record why an instance is to be replaced, so that every control plane shows it and the next leader goes on
  /// with it. False when it has gone.
  private func mark(_ id: String, reason: String, replacement: String) async -> Bool {
    guard let entry = instances[id] else { return false }
    guard entry.record.labels[InstanceRecord.recyclingLabel] == nil else { return true }
    instances[id]?.record.labels[InstanceRecord.recyclingLabel] = reason
    if let cause = RecycleCause(reason: reason) {
      metrics.count(entry.record.pool) { $0.recycles[cause, default: 0] += 1 }
    }
    instances[id]?.isUnsaved = true
    logger.info(
      "instance is recycled", metadata: ["instance": "\(id)", "reason": "\(reason)", "replacement": "\(replacement)"])
    await save(id)
    await record(
      "instance.recycling", id, reason: reason, fields: ["pool": entry.record.pool, "replacement": replacement])
    return instances[id]?.token == entry.token
  }

  /// Whether an instance that ended is started again under its name: a fixed server that was worn.
  func comesBack(_ entry: Managed, spec: PoolSpec?) -> Bool {
    spec?.runtime.isFixed == true && entry.record.labels[InstanceRecord.recyclingLabel] != nil
  }

  /// Waits until every replica routes by the record that says `stopping`, and nothing is under way any more: requests
  /// that are bound to an instance reach it as long as it drains. `entry` is the instance as it was before.
  func waitUntilUnused(_ entry: Managed, stopping record: InstanceRecord) async {
    // Clients with slots hold leases, which are gone by now; who starts or has lost its stop's leader has no clients.
    guard spec(of: record.pool)?.slots ?? 0 == 0, entry.record.state != .starting, entry.record.state != .stopping
    else { return }
    // Who is cut off is not waited for, but nobody shall come after that.
    let timeout = spec(of: record.pool)?.recycling.drain.timeoutMilliseconds ?? 0
    let drained = Clock.unixMilliseconds - (entry.drainingSince ?? Clock.unixMilliseconds)
    let cuts = entry.order?.force == true || entry.record.state != .draining || (timeout > 0 && drained >= timeout)
    let deadline = Deadline(milliseconds: Self.confirmMilliseconds)
    while !deadline.hasPassed {
      let seen = bell.rings
      do throws(RedisError) {
        let known = try await redis.run(replicas.list()).map(\.id)
        guard let counters = try await redis.run(Traffic(keys: keys).counters(of: [record.id])).first else { return }
        if Self.using(record, counters, among: known, ignoringActive: cuts) == 0 { return }
      } catch {
        // Nobody hears of anything now.
        return
      }
      await bell.wait(after: seen, pool: record.pool, milliseconds: 100)
    }
    logger.warning(
      "an instance is stopped although replicas did not let go of it", metadata: ["instance": "\(record.id)"])
  }
}
