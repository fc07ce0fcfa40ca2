import Observability
// The thread that follows the records of a deployment: a snapshot, then every change after it, made into routing tables
// for the workers and the map of sessions. It also finds out, after Redis was away, what became of that history.
import Posix
import Redis
import Routing
import State

/// Used by the feed thread only.
final class FeedReader {
  /// Workers compile each table they get; bursts of changes make one table in this time.
  static let tableIntervalMilliseconds = 10
  /// How many changes one round trip brings.
  static let page = 1_000
  /// How long XREAD waits; each time around the stream is checked for trimming and loss.
  static let blockMilliseconds = 1_000
  /// When Redis came back empty: how long after the first pools came the old table stays for want of instances.
  static let rebuildMilliseconds = 10_000

  private let core: CoordinatorCore
  private let registry: Registry
  private let queries: FeedQueries
  /// What Redis says, while the last published table may be older (coalescing) or kept (after a loss).
  private var state = RoutingState()
  /// The last change that is in `state`; nil before the first snapshot.
  private var position: String?
  private var isDirty = false
  private var publishedAt = Int.min / 2
  /// Redis lost its data and is being filled again: since when it has pools (monotonic), nil before.
  private var rebuilding: (Bool, poolsSince: Int?) = (false, nil)
  /// Sessions that Redis lost and nobody has put back yet, and until when that is waited for (monotonic).
  private var doubtful: (sessions: Set<String>, until: Int) = ([], 0)

  init(_ core: CoordinatorCore) {
    self.core = core
    registry = Registry(keys: core.keys)
    queries = FeedQueries(keys: core.keys)
  }

  func run() {
    var backoff = Backoff()
    var wasConnected = true
    while true {
      do throws(RedisError) {
        let connection = try core.connect(.feed)
        if !wasConnected { core.log.info("Redis is back", ["url": .string(core.url.description)]) }
        wasConnected = true
        try follow(connection) { backoff.reset() }
      } catch {
        core.distrust()
        if error == .interrupted { return }
        if wasConnected {
          core.log.warning(
            "Redis is away; known sessions and shared pools go on",
            ["url": .string(core.url.description), "error": .string(error.description)])
        }
        wasConnected = false
        if core.interrupter(.feed).wait(milliseconds: backoff.next(random: UInt64.random(in: 0 ... .max))) { return }
      }
    }
  }

  private func follow(_ connection: RedisConnection, _ began: () -> Void) throws(RedisError) {
    if let position {
      try resume(try queries.continuity(after: position, on: connection), connection)
    } else {
      try load(connection, endsMissing: false)
      core.mailbox.reconcile(lost: false, losses: core.losses)
    }
    began()
    while true {
      if try !catchUp(connection) {
        try resume(try queries.continuity(after: position ?? "0-0", on: connection), connection)
      }
      publishIfDue()
      forgetDoubtful()
      let isDue = isDirty && !rebuilding.0
      let pause =
        isDue
        ? max(1, publishedAt + Self.tableIntervalMilliseconds - Clock.monotonicMilliseconds) : Self.blockMilliseconds
      // Only a bell: the entries are read by catchUp, which notices when some are gone.
      _ = try connection.readStream(
        key: core.keys.changes, after: position ?? "0-0", count: 1,
        blockMilliseconds: min(pause, Self.blockMilliseconds))
    }
  }

  private func resume(_ continuity: Continuity, _ connection: RedisConnection) throws(RedisError) {
    switch continuity {
    case .whole:
      guard try catchUp(connection) else {
        return try resume(try queries.continuity(after: position ?? "0-0", on: connection), connection)
      }
    case .trimmed:
      core.log.warning("changes were missed, all records are read anew")
      try load(connection, endsMissing: true)
    case .lost:
      core.log.warning("Redis lost data; what lives here is put back")
      core.distrust()
      rebuilding = (true, nil)
      try load(connection, endsMissing: false)
    }
    core.mailbox.reconcile(lost: continuity == .lost, losses: core.losses)
  }

  /// Applies what came after the position; false when some of that is gone.
  private func catchUp(_ connection: RedisConnection) throws(RedisError) -> Bool {
    while true {
      let page: ChangePage
      do throws(RedisError) {
        page = try connection.run(registry.changes(after: position ?? "0-0", limit: Self.page))
      } catch {
        guard case .state(let problem) = error else { throw error }
        // An entry that nobody can read would be met again and again; a snapshot goes around it.
        core.log.error("a change cannot be read, all records are read anew", ["error": .string(problem.description)])
        core.count { $0.invalidRecords += 1 }
        try load(connection, endsMissing: true)
        return true
      }
      switch page {
      case .changes(let changes):
        for change in changes { apply(change) }
        if changes.count < Self.page { return true }
        publishIfDue()
      case .lost: return false
      }
    }
  }

  /// Reads everything. `endsMissing`: sessions that are not there any more have been ended.
  private func load(_ connection: RedisConnection, endsMissing: Bool) throws(RedisError) {
    let snapshot = try connection.run(registry.snapshot())
    for problem in snapshot.invalid { core.log.error("a record was left out", ["error": .string(problem)]) }
    core.count {
      $0.snapshots += 1
      $0.invalidRecords += snapshot.invalid.count
    }
    state = RoutingState(
      pools: snapshot.pools, routes: snapshot.routes, instances: snapshot.instances, apiKeys: snapshot.apiKeys)
    position = snapshot.streamID
    isDirty = true
    let now = Clock.unixMilliseconds
    let missing = core.withView { view -> [String] in
      var sessions: [String: SessionRecord] = [:]
      for record in snapshot.sessions { sessions[record.id] = record }
      let missing = view.sessions.filter { sessions[$0.key] == nil }
      if !endsMissing { for (id, record) in missing where record.expiresAt > now { sessions[id] = record } }
      view.sessions = sessions
      return Array(missing.keys)
    }
    if endsMissing {
      for id in missing { core.mailbox.ended(id) }
    } else {
      doubtful = (Set(missing), Clock.monotonicMilliseconds + Self.rebuildMilliseconds)
    }
  }

  private func apply(_ change: Change) {
    position = change.streamID
    core.count { $0.changes += 1 }
    do throws(RecordError) {
      switch change.kind {
      case .pool:
        state.pools[change.id] = try change.json.map { (json) throws(RecordError) in
          try PoolRecord(name: change.id, json: json)
        }
        isDirty = true
      case .route:
        state.routes[change.id] = try change.json.map { (json) throws(RecordError) in
          try RouteRecord(id: change.id, json: json)
        }
        isDirty = true
      case .instance:
        state.instances[change.id] = try change.json.map { (json) throws(RecordError) in
          try InstanceRecord(id: change.id, json: json)
        }
        isDirty = true
      case .key:
        state.apiKeys[change.id] = try change.json.map { (json) throws(RecordError) in
          try KeyRecord(id: change.id, json: json)
        }
        isDirty = true
      case .session:
        let record = try change.json.map { (json) throws(RecordError) in try SessionRecord(id: change.id, json: json) }
        core.withView { $0.sessions[change.id] = record }
        doubtful.sessions.remove(change.id)
        if record == nil { core.mailbox.ended(change.id) }
      }
    } catch {
      // What was known before stays, as for a snapshot's unreadable records nothing better is known.
      core.log.error("a changed record was left out", ["error": .string(error.description)])
      core.count { $0.invalidRecords += 1 }
    }
  }

  /// Sessions of replicas that did not come back either.
  private func forgetDoubtful() {
    guard !doubtful.sessions.isEmpty, Clock.monotonicMilliseconds >= doubtful.until else { return }
    core.withView { [ids = doubtful.sessions] view in for id in ids { view.sessions[id] = nil } }
    doubtful.sessions = []
  }

  private func publishIfDue() {
    let now = Clock.monotonicMilliseconds
    guard isDirty, now - publishedAt >= Self.tableIntervalMilliseconds else { return }
    publishedAt = now
    if rebuilding.0 {
      guard isRebuilt(now) else { return }
      rebuilding = (false, nil)
    }
    isDirty = false
    core.publish(state.table)
  }

  /// Whether the new state can replace the table from before the loss: an empty one would take working backends away
  /// from clients until the control plane has registered them again.
  private func isRebuilt(_ now: Int) -> Bool {
    guard let old = core.table, !old.pools.isEmpty else { return true }
    guard !state.pools.isEmpty else { return false }
    let since = rebuilding.poolsSince ?? now
    rebuilding.poolsSince = since
    if now - since >= Self.rebuildMilliseconds { return true }
    // Keys that are not back yet would shut their clients out.
    if !old.apiKeys.isEmpty, state.apiKeys.isEmpty { return false }
    let served = Set(state.instances.values.map(\.pool))
    return Set(old.instances.map(\.pool)).subtracting(served).isDisjoint(with: state.pools.keys)
  }
}
