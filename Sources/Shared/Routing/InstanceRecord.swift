// One running backend of a pool, as it is registered in Redis and in routes files.
package import JSON

/// The states of an instance; only the reconciler changes one.
package enum InstanceState: String, Sendable, CaseIterable {
  case starting, ready, unhealthy, draining, stopping
}

/// One running backend of a pool.
package struct InstanceRecord: Sendable, Equatable {
  package var id: String
  package var pool: String
  /// Address that replicas connect to (IPv4 or IPv6 literal), or `unix:` and a path.
  package var host: String
  /// 0 for a unix socket.
  package var port: Int
  /// Counts restarts under one id, from 1.
  package var generation: Int
  package var state: InstanceState
  package var slots: Int
  /// Its share of requests beside the others of its pool; 0 = only clients that are bound to it.
  package var weight: Int
  /// Whether it gets requests only while no other instance of its pool takes any.
  package var isBackup = false
  /// When it was started, Unix milliseconds.
  package var startedAt: Int
  /// GUID of this very Chrome (`/devtools/browser/<guid>`); nil for other kinds and before readiness.
  package var browser: String?
  /// Process id and its start time in clock ticks since boot (proc(5), field 22): together they name one process.
  package var pid: Int?
  package var pidStart: Int?
  package var labels: [String: String]
  /// The session that it was launched for: nobody else gets it; nil = it is anybody's.
  package var session: String?

  package static let weights = 0...256

  package init(
    id: String, pool: String, host: String, port: Int, generation: Int = 1, state: InstanceState = .ready,
    slots: Int = 1, weight: Int = 1, startedAt: Int = 0, browser: String? = nil, pid: Int? = nil,
    pidStart: Int? = nil, labels: [String: String] = [:]
  ) {
    self.id = id
    self.pool = pool
    self.host = host
    self.port = port
    self.generation = generation
    self.state = state
    self.slots = slots
    self.weight = weight
    self.startedAt = startedAt
    self.browser = browser
    self.pid = pid
    self.pidStart = pidStart
    self.labels = labels
  }

  package init(id: String, json: JSON) throws(RecordError) {
    var fields = try Fields(json, of: "instance \"\(id)\"")
    try self.init(id: id, &fields)
  }

  /// Reads all fields and refuses others.
  package init(id: String, _ fields: inout Fields) throws(RecordError) {
    let (written, pool, host) = (
      try fields.string("id", or: id), try fields.string("pool"), try fields.string("host")
    )
    let isUnix = host.hasPrefix("unix:")
    self.init(
      id: written, pool: pool, host: host,
      port: try fields.int("port", in: isUnix ? 0...0 : 1...65_535, or: isUnix ? 0 : nil),
      generation: try fields.int("generation", in: 0...Int.max, or: 1),
      state: try fields.choice("state", or: InstanceState.ready), slots: try fields.int("slots", in: 0...10_000, or: 0),
      weight: try fields.int("weight", in: Self.weights, or: 1),
      startedAt: try fields.int("startedAt", in: 0...Int.max, or: 0), browser: try fields.optionalString("browser"),
      pid: fields.json("pid")?.int, pidStart: fields.json("pidStart")?.int, labels: try fields.strings("labels"))
    session = try fields.optionalString("session")
    isBackup = try fields.bool("backup", or: false)
    try fields.finish()
    guard self.id == id else { throw fields.error("id", "says \"\(self.id)\"") }
  }

  package var json: JSON {
    var object: JSONObject = [
      "id": .string(id), "pool": .string(pool), "host": .string(host), "port": .int(port),
      "generation": .int(generation), "state": .string(state.rawValue), "slots": .int(slots),
      "startedAt": .int(startedAt),
    ]
    object.set("weight", weight, unless: 1)
    object.set("browser", browser)
    if let pid { object["pid"] = .int(pid) }
    if let pidStart { object["pidStart"] = .int(pidStart) }
    object.set("session", session)
    object.set("backup", isBackup, unless: false)
    if !labels.isEmpty { object["labels"] = .object(JSONObject(sorting: labels)) }
    return .object(object)
  }
}
