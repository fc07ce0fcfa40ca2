// The records that pass between the planes through Redis: pools, routes, instances. One record is one JSON object.
// The control plane writes them, replicas and `berth-data --routes FILE` read them.
package import JSON

/// What a pool's instances speak, and so how the data plane treats their paths, Host and Origin.
package enum PoolKind: String, Sendable, CaseIterable {
  /// Chrome's DevTools protocol: discovery is rewritten, Host and Origin are replaced, tunnels are sessions.
  case cdp
  /// A desktop in a browser (noVNC): HTTP and WebSocket below a session's path.
  case vnc
  /// Anything that speaks HTTP: Host is kept.
  case http
}

/// How an instance of a pool is chosen for a request that needs no exclusive slot.
package enum Strategy: String, Sendable, CaseIterable {
  case roundRobin = "round_robin"
  case leastConnections = "least_connections"
  case random
}

/// A named class of identical backends, as replicas need to know it. Durations are milliseconds.
package struct PoolRecord: Sendable, Equatable {
  package var name: String
  package var kind: PoolKind
  /// Clients that one instance may serve at once: 1 = exclusive, 0 = no limit and no sessions.
  package var slots: Int
  /// Sessions after which an instance is replaced; 0 = never. Counted when a client first reaches the browser.
  package var recycleAfterSessions: Int
  /// How long discovery holds a slot for the WebSocket that should follow.
  package var reservationMilliseconds: Int
  /// How long a session without a socket is kept when it was not made through REST.
  package var graceMilliseconds: Int
  /// The longest life of a session.
  package var hardLimitMilliseconds: Int
  /// How long a session may move no byte; 0 = as long as the hard limit.
  package var idleLimitMilliseconds: Int
  /// How long a client waits for a slot before it gets 503.
  package var queueTimeoutMilliseconds: Int
  /// How many clients may wait before the next one gets 429.
  package var queueLimit: Int

  package init(
    name: String, kind: PoolKind, slots: Int, recycleAfterSessions: Int = 0, reservationMilliseconds: Int = 10_000,
    graceMilliseconds: Int = 0, hardLimitMilliseconds: Int = 1_800_000, idleLimitMilliseconds: Int = 0,
    queueTimeoutMilliseconds: Int = 30_000, queueLimit: Int = 1_000
  ) {
    self.name = name
    self.kind = kind
    self.slots = slots
    self.recycleAfterSessions = recycleAfterSessions
    self.reservationMilliseconds = reservationMilliseconds
    self.graceMilliseconds = graceMilliseconds
    self.hardLimitMilliseconds = hardLimitMilliseconds
    self.idleLimitMilliseconds = idleLimitMilliseconds
    self.queueTimeoutMilliseconds = queueTimeoutMilliseconds
    self.queueLimit = queueLimit
  }

  package init(name: String, json: JSON) throws(RecordError) {
    var fields = try Fields(json, of: "pool \"\(name)\"")
    let day = 86_400_000
    self.init(
      name: try fields.string("name", or: name), kind: try fields.choice("kind", or: PoolKind.http),
      slots: try fields.int("slots", in: 0...10_000, or: 0),
      recycleAfterSessions: try fields.int("recycleAfterSessions", in: 0...1_000_000_000, or: 0),
      reservationMilliseconds: try fields.int("reservationMilliseconds", in: 100...600_000, or: 10_000),
      graceMilliseconds: try fields.int("graceMilliseconds", in: 0...day, or: 0),
      hardLimitMilliseconds: try fields.int("hardLimitMilliseconds", in: 100...30 * day, or: 1_800_000),
      idleLimitMilliseconds: try fields.int("idleLimitMilliseconds", in: 0...30 * day, or: 0),
      queueTimeoutMilliseconds: try fields.int("queueTimeoutMilliseconds", in: 0...day, or: 30_000),
      queueLimit: try fields.int("queueLimit", in: 0...1_000_000, or: 1_000))
    try fields.finish()
    guard self.name == name else { throw RecordError("pool \"\(name)\": \"name\" says \"\(self.name)\"") }
  }

  package var json: JSON {
    [
      "name": .string(name), "kind": .string(kind.rawValue), "slots": .int(slots),
      "recycleAfterSessions": .int(recycleAfterSessions), "reservationMilliseconds": .int(reservationMilliseconds),
      "graceMilliseconds": .int(graceMilliseconds), "hardLimitMilliseconds": .int(hardLimitMilliseconds),
      "idleLimitMilliseconds": .int(idleLimitMilliseconds),
      "queueTimeoutMilliseconds": .int(queueTimeoutMilliseconds), "queueLimit": .int(queueLimit),
    ]
  }
}

/// Host and path prefix → pool.
package struct RouteRecord: Sendable, Equatable {
  package var id: String
  /// Exact host in lower case without port; nil = every host.
  package var host: String?
  /// Path prefix, starting with `/`; it matches whole segments (`/api` matches `/api` and `/api/x`, not `/apix`).
  package var path: String
  package var pool: String
  package var strategy: Strategy
  /// Whether the prefix is taken off before the instance sees the path.
  package var stripPrefix: Bool

  package init(
    id: String, host: String? = nil, path: String = "/", pool: String, strategy: Strategy = .roundRobin,
    stripPrefix: Bool = false
  ) {
    self.id = id
    self.host = host
    self.path = path
    self.pool = pool
    self.strategy = strategy
    self.stripPrefix = stripPrefix
  }

  package init(id: String, json: JSON) throws(RecordError) {
    var fields = try Fields(json, of: "route \"\(id)\"")
    self.init(
      id: try fields.string("id", or: id), host: try fields.optionalString("host")?.lowercased(),
      path: try fields.string("path", or: "/"), pool: try fields.string("pool"),
      strategy: try fields.choice("strategy", or: Strategy.roundRobin),
      stripPrefix: try fields.bool("stripPrefix", or: false))
    try fields.finish()
    guard self.id == id else { throw RecordError("route \"\(id)\": \"id\" says \"\(self.id)\"") }
    guard path.utf8.first == UInt8(ascii: "/"), !path.contains("?"), !path.contains("#") else {
      throw RecordError("route \"\(id)\": \"path\" must start with / and have no query")
    }
  }

  package var json: JSON {
    var object: JSONObject = ["id": .string(id)]
    if let host { object["host"] = .string(host) }
    object["path"] = .string(path)
    object["pool"] = .string(pool)
    object["strategy"] = .string(strategy.rawValue)
    object["stripPrefix"] = .bool(stripPrefix)
    return .object(object)
  }
}

/// The states of an instance; only the reconciler changes one.
package enum InstanceState: String, Sendable, CaseIterable {
  case starting, ready, unhealthy, draining, stopping
}

/// One running backend of a pool.
package struct InstanceRecord: Sendable, Equatable {
  package var id: String
  package var pool: String
  /// Address that replicas connect to (IPv4 or IPv6 literal).
  package var host: String
  package var port: Int
  /// Counts restarts under one id, from 1.
  package var generation: Int
  package var state: InstanceState
  package var slots: Int
  /// When it was started, Unix milliseconds.
  package var startedAt: Int
  /// GUID of this very Chrome (`/devtools/browser/<guid>`); nil for other kinds and before readiness.
  package var browser: String?
  /// Process id and its start time in clock ticks since boot (proc(5), field 22): together they name one process.
  package var pid: Int?
  package var pidStart: Int?
  package var labels: [String: String]

  package init(
    id: String, pool: String, host: String, port: Int, generation: Int = 1, state: InstanceState = .ready,
    slots: Int = 1, startedAt: Int = 0, browser: String? = nil, pid: Int? = nil, pidStart: Int? = nil,
    labels: [String: String] = [:]
  ) {
    self.id = id
    self.pool = pool
    self.host = host
    self.port = port
    self.generation = generation
    self.state = state
    self.slots = slots
    self.startedAt = startedAt
    self.browser = browser
    self.pid = pid
    self.pidStart = pidStart
    self.labels = labels
  }

  package init(id: String, json: JSON) throws(RecordError) {
    var fields = try Fields(json, of: "instance \"\(id)\"")
    self.init(
      id: try fields.string("id", or: id), pool: try fields.string("pool"), host: try fields.string("host"),
      port: try fields.int("port", in: 1...65_535), generation: try fields.int("generation", in: 0...Int.max, or: 1),
      state: try fields.choice("state", or: InstanceState.ready), slots: try fields.int("slots", in: 0...10_000, or: 0),
      startedAt: try fields.int("startedAt", in: 0...Int.max, or: 0), browser: try fields.optionalString("browser"),
      pid: fields.json("pid")?.int, pidStart: fields.json("pidStart")?.int, labels: try fields.strings("labels"))
    try fields.finish()
    guard self.id == id else { throw RecordError("instance \"\(id)\": \"id\" says \"\(self.id)\"") }
  }

  package var json: JSON {
    var object: JSONObject = [
      "id": .string(id), "pool": .string(pool), "host": .string(host), "port": .int(port),
      "generation": .int(generation), "state": .string(state.rawValue), "slots": .int(slots),
      "startedAt": .int(startedAt),
    ]
    if let browser { object["browser"] = .string(browser) }
    if let pid { object["pid"] = .int(pid) }
    if let pidStart { object["pidStart"] = .int(pidStart) }
    if !labels.isEmpty { object["labels"] = .object(JSONObject(sorting: labels)) }
    return .object(object)
  }
}
