// The record under `session:<id>`: what the disposable-browser seed documents, and what replicas need to route a session.
package import JSON

/// A client's named reservation of a slot. Times are Unix milliseconds.
package struct SessionRecord: Sendable, Equatable {
  /// Who made it: REST (it outlives its sockets) or a connection (it ends with them, after the pool's grace).
  package enum Origin: String, Sendable, CaseIterable { case rest, connection }

  package var id: String
  package var pool: String
  package var origin: Origin
  package var instance: String
  package var host: String
  package var port: Int
  /// GUID of the session's Chrome; nil for other kinds.
  package var browser: String?
  /// Where people and programs reach it, e.g. `http://127.0.0.1:8080/session/<id>/`; nil when only its connection knows.
  package var url: String?
  package var createdAt: Int
  /// `createdAt` plus the hard limit.
  package var expiresAt: Int
  /// Milliseconds without a byte after which it ends; 0 = no such limit.
  package var idleLimitMilliseconds: Int
  /// Milliseconds that it stays when its last socket has gone. For REST sessions only hard and idle limit count.
  package var graceMilliseconds: Int
  package var metadata: [String: String]

  package init(
    id: String, pool: String, origin: Origin, instance: String = "", host: String = "", port: Int = 0,
    browser: String? = nil, url: String? = nil, createdAt: Int, expiresAt: Int, idleLimitMilliseconds: Int = 0,
    graceMilliseconds: Int = 0, metadata: [String: String] = [:]
  ) {
    self.id = id
    self.pool = pool
    self.origin = origin
    self.instance = instance
    self.host = host
    self.port = port
    self.browser = browser
    self.url = url
    self.createdAt = createdAt
    self.expiresAt = expiresAt
    self.idleLimitMilliseconds = idleLimitMilliseconds
    self.graceMilliseconds = graceMilliseconds
    self.metadata = metadata
  }

  package init(id: String, json: JSON) throws(RecordError) {
    var fields = try Fields(json, of: "session \"\(id)\"")
    self.init(
      id: try fields.string("sessionId", or: id), pool: try fields.string("pool"),
      origin: try fields.choice("origin", or: Origin.rest), instance: try fields.string("instance", or: ""),
      host: try fields.string("host", or: ""), port: try fields.int("port", in: 0...65_535, or: 0),
      browser: try fields.optionalString("browser"), url: try fields.optionalString("url"),
      createdAt: try fields.int("createdAt", in: 0...Int.max), expiresAt: try fields.int("expiresAt", in: 0...Int.max),
      idleLimitMilliseconds: try fields.int("idleLimitMilliseconds", in: 0...Int.max, or: 0),
      graceMilliseconds: try fields.int("graceMilliseconds", in: 0...Int.max, or: 0),
      metadata: try fields.strings("metadata"))
    try fields.finish()
    guard self.id == id else { throw RecordError("session \"\(id)\": \"sessionId\" says \"\(self.id)\"") }
  }

  package var json: JSON {
    var object: JSONObject = [
      "sessionId": .string(id), "pool": .string(pool), "origin": .string(origin.rawValue),
      "instance": .string(instance), "host": .string(host), "port": .int(port),
    ]
    if let browser { object["browser"] = .string(browser) }
    if let url { object["url"] = .string(url) }
    object["createdAt"] = .int(createdAt)
    object["expiresAt"] = .int(expiresAt)
    object["idleLimitMilliseconds"] = .int(idleLimitMilliseconds)
    object["graceMilliseconds"] = .int(graceMilliseconds)
    if !metadata.isEmpty { object["metadata"] = .object(JSONObject(sorting: metadata)) }
    return .object(object)
  }
}
