// What each route does. Every control plane answers all of them, leader or not: it only talks to Redis, and what changes
// instances is an order there for the leader. Handlers+Sessions.swift has those of sessions.
package import Domain
import JSON
package import Logging
import Observability
import Reconciler
package import Redis
package import Routing
import State
package import Supervisor

/// What the REST API needs to know.
package struct APIConfiguration: Sendable {
  package var pools: [PoolSpec]
  /// Beginning of the URLs that are handed out, without final slash.
  package var publicURL: String
  package var maxSessions: Int
  /// Hosts whose ports the figures are about.
  package var portHosts: [String]
  /// Names this control plane.
  package var id: String
  package var processID: Int
  /// The keys of the keys file.
  package var declaredKeys: DeclaredKeys

  package init(
    pools: [PoolSpec], publicURL: String, maxSessions: Int, portHosts: [String], id: String, processID: Int,
    declaredKeys: DeclaredKeys = DeclaredKeys()
  ) {
    self.pools = pools
    self.publicURL = publicURL
    self.maxSessions = maxSessions
    self.portHosts = portHosts
    self.id = id
    self.processID = processID
    self.declaredKeys = declaredKeys
  }

  /// The pool of a session that names none.
  var defaultPool: PoolSpec? { pools.first { $0.kind == .cdp && $0.slots > 0 } ?? pools.first { $0.slots > 0 } }
}

package struct Handlers: Sendable {
  let configuration: APIConfiguration
  let redis: RedisClient
  let keys: Keys
  let bell: WakeBell
  let logger: Logger
  let leases: Leases
  let launches: Launches
  let idempotency: Idempotency
  let metrics: ControlMetrics
  let clock: @Sendable () -> Int

  /// `clock`: Unix milliseconds.
  package init(
    configuration: APIConfiguration, redis: RedisClient, keys: Keys, bell: WakeBell, logger: Logger,
    metrics: ControlMetrics = ControlMetrics(pools: []), clock: @escaping @Sendable () -> Int
  ) {
    self.configuration = configuration
    self.redis = redis
    self.keys = keys
    self.bell = bell
    self.logger = logger
    self.metrics = metrics
    self.clock = clock
    leases = Leases(keys: keys)
    launches = Launches(keys: keys)
    idempotency = Idempotency(keys: keys)
  }

  /// Answers a request without a body and with simple settings; the responder calls the others by their names.
  func answer(_ route: APIRoute, query: [String: String]) async throws(Refusal) -> Answer {
    switch route {
    case .health: try await health()
    case .ready: try await ready()
    case .status: try await status()
    case .metrics: MetricsPage(figures: metrics.figures).answer
    case .createSession, .changeInstance, .createKey, .keepAlive, .sessions:
      preconditionFailure("the responder reads their bodies and settings")
    case .sessionStats: try await sessionStats()
    case .session(let id): try await session(id)
    case .endSession(let id): try await endSession(id)
    case .pools: try await pools()
    case .instances: try await instances()
    case .instance(let id): try await instance(id)
    case .stopInstance(let id): try await order(.stop, id, query)
    case .restartInstance(let id): try await order(.restart, id, query)
    case .keys: try await keys()
    case .deleteKey(let id): try await deleteKey(id)
    }
  }

  func run<R: Sendable>(_ command: Command<R>) async throws(Refusal) -> R {
    do throws(RedisError) { return try await redis.run(command) } catch { throw Refusal(error) }
  }

  // MARK: Health

  private func health() async throws(Refusal) -> Answer {
    let active = try await run(leases.count())
    let leader = try await run(Leadership(keys: keys).current())
    return Answer([
      "status": "ok", "timestamp": .string(rfc3339(unixMilliseconds: clock())), "activeSessions": .int(active),
      "backendInstance": .string(configuration.id), "processId": .int(configuration.processID),
      "leader": leader.map { .string($0.id) } ?? .null,
    ])
  }

  /// Who leads, whether slots are given away, and which replicas that waits for.
  private func status() async throws(Refusal) -> Answer {
    let look = try await run(Leadership(keys: keys).look())
    let figures = metrics.figures
    var list: [JSON] = []
    let now = clock()
    for beat in try await run(Replicas(keys: keys).list()).sorted(by: { $0.id < $1.id }) {
      let settled = try await run(Replicas(keys: keys).figures(id: beat.id))[Replicas.settledFigure]
      list.append([
        "id": .string(beat.id), "silentFor": .int(max(0, now - beat.lastBeat)), "settled": .bool(settled == look.redis),
      ])
    }
    return Answer([
      "id": .string(configuration.id), "leads": .bool(figures.standing != nil),
      "leader": look.leader.map { .string($0.id) } ?? .null, "token": look.leader.map { .int($0.token) } ?? .null,
      "gate": .string(look.gate.rawValue), "redis": .string(look.redis), "replicas": .array(list),
      "disk": figures.diskProblem.map { .string($0) } ?? .null,
      "descriptors": figures.isShortOfDescriptors
        ? "none are left; raise the limit of open files (LimitNOFILE)" : .null,
    ])
  }

  /// Whether Redis takes writes, somebody leads, and every pool that is to have an instance at all times has a ready one:
  /// 200, else 503.
  private func ready() async throws(Refusal) -> Answer {
    let records = try await run(Registry(keys: keys).instances())
    let late = configuration.pools.filter { pool in
      pool.min > 0 && !records.contains { $0.pool == pool.name && $0.state == .ready }
    }
    let leader = try await run(Leadership(keys: keys).current())
    let trouble = await writeTrouble()
    let isReady = late.isEmpty && leader != nil && trouble == nil
    var object: JSONObject = [
      "ready": .bool(isReady), "waitingFor": .array(late.map { .string($0.name) }),
      "leader": leader.map { .string($0.id) } ?? .null,
    ]
    if let trouble { object["error"] = .string(trouble) }
    return Answer(isReady ? 200 : 503, .object(object))
  }

  /// Why Redis, which answers, takes no writes: everything that is there goes on, and nobody gets a session.
  private func writeTrouble() async -> String? {
    do throws(Refusal) {
      try await run(Leadership(keys: keys).write())
      return nil
    } catch { return error.message }
  }

  // MARK: Pools and instances

  private func pools() async throws(Refusal) -> Answer {
    let snapshot = try await run(Registry(keys: keys).snapshot())
    let troubles = try await run(Troubles(keys: keys).all())
    var list: [JSON] = []
    for pool in snapshot.pools.sorted(by: { $0.name < $1.name }) {
      let figures = try await run(leases.figures(pool: pool.name, now: clock()))
      var states = JSONObject()
      for state in InstanceState.allCases {
        states[state.rawValue] = .int(snapshot.instances.count { $0.pool == pool.name && $0.state == state })
      }
      var object: JSONObject = [
        "name": .string(pool.name), "kind": .string(pool.kind.rawValue), "slots": .int(pool.slots),
      ]
      // Another control plane may have declared a pool that this one does not know.
      if let spec = configuration.pools.first(where: { $0.name == pool.name }) {
        object["min"] = .int(spec.min)
        object["max"] = .int(spec.max)
        object["spare"] = .int(spec.spare)
      }
      object["ready"] = states["ready"]
      object["instances"] = .object(states)
      object["freeSlots"] = .int(figures.freeSlots.values.reduce(0, +))
      object["sessions"] = .int(figures.leases)
      object["waiting"] = .int(figures.waiting)
      object["state"] = .string(troubles[pool.name]?.state ?? PoolCondition.ok.rawValue)
      if let trouble = troubles[pool.name] { object["trouble"] = Self.describe(trouble) }
      list.append(.object(object))
    }
    return Answer(["pools": .array(list)])
  }

  /// Why a pool does not get its instances.
  private static func describe(_ trouble: PoolTrouble) -> JSON {
    [
      "failures": .int(trouble.failedLaunches + trouble.earlyDeaths + trouble.refusals),
      "since": .int(trouble.since), "nextLaunchAt": .int(trouble.nextLaunchAt),
      "lastFailure": [
        "at": .int(trouble.lastFailureAt), "instance": .string(trouble.instance), "reason": .string(trouble.reason),
        "log": .array(trouble.log.map(JSON.string)),
      ],
    ]
  }

  private func instances() async throws(Refusal) -> Answer {
    var list: [JSON] = []
    for record in try await run(Registry(keys: keys).instances()).sorted(by: { $0.id < $1.id }) {
      list.append(try await describe(record))
    }
    return Answer(["instances": .array(list)])
  }

  private func instance(_ id: String) async throws(Refusal) -> Answer {
    guard let record = try await run(Registry(keys: keys).instances()).first(where: { $0.id == id }) else {
      throw .noInstance(id)
    }
    return Answer(try await describe(record))
  }

  /// The record, and what its processes use by the last measurement.
  private func describe(_ record: InstanceRecord) async throws(Refusal) -> JSON {
    guard var object = record.json.object else { return record.json }
    let known = try await run(Traffic(keys: keys).counters(of: [record.id])).first ?? InstanceCounters()
    let counters = known.numbers
    object["sessions"] = .int(try await run(Orders(keys: keys).sessions(of: record.id)))
    object["uses"] = .int(counters["sessions"] ?? 0)
    for name in ["requests", "errors"] { object[name] = .int(counters[name] ?? 0) }
    object["active"] = known.active(generation: record.generation).map { .int($0) } ?? .null
    for name in ["cpuMilliseconds", "memoryBytes", "processes"] {
      object[name] = counters[name].map { .int($0) } ?? .null
    }
    for name in [InstanceRecord.reasonLabel, InstanceRecord.recyclingLabel, InstanceRecord.replacesLabel] {
      if let text = record.labels[name] { object[name] = .string(text) }
    }
    return .object(object)
  }

  func change(_ id: String, _ change: InstanceChange) async throws(Refusal) -> Answer {
    guard let record = try await run(Registry(keys: keys).instances()).first(where: { $0.id == id }),
      try await run(Orders(keys: keys).weigh(id, weight: change.weight, pool: record.pool))
    else { throw .noInstance(id) }
    logger.notice("weight given", metadata: ["instance": "\(id)", "weight": "\(change.weight)"])
    return Answer(202, ["message": .string("instance \(id) gets weight \(change.weight)")])
  }

  private func order(_ kind: InstanceOrder.Kind, _ id: String, _ query: [String: String]) async throws(Refusal)
    -> Answer
  {
    let force: Bool
    switch query["force"] {
    case nil, "false", "0": force = false
    case "true", "1": force = true
    case let other?: throw Refusal(400, "\"force\" must be true or false, not \"\(other)\"")
    }
    // A name that is written wrong must not look as if it had been heard.
    if let unknown = query.keys.sorted().first(where: { $0 != "force" && $0 != "token" }) {
      throw Refusal(400, "unknown query setting \"\(unknown)\"; known is force")
    }
    guard let record = try await run(Registry(keys: keys).instances()).first(where: { $0.id == id }),
      try await run(Orders(keys: keys).give(InstanceOrder(kind, force: force), to: id, pool: record.pool))
    else { throw .noInstance(id) }
    logger.notice("order given", metadata: ["instance": "\(id)", "order": "\(kind.rawValue)", "force": "\(force)"])
    let what = kind == .restart ? "restarts" : "stops"
    return Answer(
      202,
      ["message": .string(force ? "instance \(id) \(what) now" : "instance \(id) \(what) when its sessions are over")])
  }
}
