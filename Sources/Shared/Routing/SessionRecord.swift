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
  /// Milliseconds that it stays when its last socket has gone; nil = only hard and idle limit count. A session of a
  /// connection that says nothing ends with its last socket.
  package var graceMilliseconds: Int?
  package var metadata: [String: String]
  /// What its browser was launched with, where that is not the pool's own.
  package var launch: LaunchOptions?

  package init(
    id: String, pool: String, origin: Origin, instance: String = "", host: String = "", port: Int = 0,
    browser: String? = nil, url: String? = nil, createdAt: Int, expiresAt: Int, idleLimitMilliseconds: Int = 0,
    graceMilliseconds: Int? = nil, metadata: [String: String] = [:]
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
      graceMilliseconds: try fields.optionalInt("graceMilliseconds", in: 0...Int.max),
      metadata: try fields.strings("metadata"))
    if var section = try fields.section("launch") { launch = try LaunchOptions(&section) }
    try fields.finish()
    guard self.id == id else { throw RecordError("session \"\(id)\": \"sessionId\" says \"\(self.id)\"") }
  }

  /// Longer metadata is kept and shown, but sessions are not found by it.
  package static let longestSearchedValue = 256

  /// Whether sessions can be found by a field of their metadata: it becomes part of a Redis key.
  package static func isSearchable(name: String, value: String) -> Bool {
    isSearchable(name: name) && (1...longestSearchedValue).contains(value.utf8.count)
  }

  /// 1 to 64 letters, digits, `_`, `-` and `.`.
  package static func isSearchable(name: String) -> Bool {
    (1...64).contains(name.utf8.count)
      && name.utf8.allSatisfy { byte in
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
          UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "_"), UInt8(ascii: "-"), UInt8(ascii: "."):
          true
        default: false
        }
      }
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
    if let graceMilliseconds { object["graceMilliseconds"] = .int(graceMilliseconds) }
    if let launch { object["launch"] = launch.json }
    if !metadata.isEmpty { object["metadata"] = .object(JSONObject(sorting: metadata)) }
    return .object(object)
  }
}
