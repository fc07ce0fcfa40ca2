// A pool as replicas need to know it. The control plane writes it, replicas and routes files read it.
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

/// When an instance that fails is left out for a while, as each replica sees it.
package struct Ejection: Sendable, Equatable {
  /// Failures in a row; 0 = never for those.
  package var consecutiveFailures: Int
  /// Share of failed requests over a window with a minimum of requests; 0 = never for that.
  package var errorPercent: Int
  /// How long the first ejection lasts; each further one lasts that much longer.
  package var baseMilliseconds: Int
  package var maximumMilliseconds: Int

  package init(
    consecutiveFailures: Int = 5, errorPercent: Int = 0, baseMilliseconds: Int = 10_000,
    maximumMilliseconds: Int = 300_000
  ) {
    self.consecutiveFailures = consecutiveFailures
    self.errorPercent = errorPercent
    self.baseMilliseconds = baseMilliseconds
    self.maximumMilliseconds = maximumMilliseconds
  }

  package init(_ fields: inout Fields) throws(RecordError) {
    let standard = Ejection()
    self.init(
      consecutiveFailures: try fields.int(
        "consecutiveFailures", in: 0...10_000, or: standard.consecutiveFailures),
      errorPercent: try fields.int("errorPercent", in: 0...100, or: standard.errorPercent),
      baseMilliseconds: try fields.int("baseMilliseconds", in: 100...86_400_000, or: standard.baseMilliseconds),
      maximumMilliseconds: try fields.int(
        "maximumMilliseconds", in: 100...86_400_000, or: standard.maximumMilliseconds))
    try fields.finish()
    guard baseMilliseconds <= maximumMilliseconds else {
      throw fields.error(
        "maximumMilliseconds", "must not be less than baseMilliseconds (\(baseMilliseconds)); raise it or lower that")
    }
  }

  var json: JSONObject {
    let standard = Ejection()
    var object = JSONObject()
    object.set("consecutiveFailures", consecutiveFailures, unless: standard.consecutiveFailures)
    object.set("errorPercent", errorPercent, unless: standard.errorPercent)
    object.set("baseMilliseconds", baseMilliseconds, unless: standard.baseMilliseconds)
    object.set("maximumMilliseconds", maximumMilliseconds, unless: standard.maximumMilliseconds)
    return object
  }
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
  /// The longest life of a session that asks for no other.
  package var hardLimitMilliseconds: Int
  /// The longest life that a client may ask for, at once or by keepalive; 0 = as `hardLimitMilliseconds`.
  package var hardLimitMaximumMilliseconds = 0
  /// How long a session may move no byte; 0 = as long as the hard limit.
  package var idleLimitMilliseconds: Int
  /// How long a client waits for a slot before it gets 503, unless its route says otherwise.
  package var queueTimeoutMilliseconds: Int
  /// How many clients may wait, over all routes and replicas, before the next one gets 429.
  package var queueLimit: Int
  /// Version of the PROXY protocol that is sent to instances; 0 = none.
  package var proxyProtocol = 0
  /// Requests that one instance may have at a time at one replica; further ones wait. 0 = as many as come.
  package var maxConnections = 0
  /// How long a new instance takes to get its full share of requests.
  package var slowStartMilliseconds = 0
  package var ejection = Ejection()
  /// When fewer members than this share would be left, ejection is ignored.
  package var panicPercent = 50
  /// Failures of an instance within a second after which a replica tells the control plane; 0 = never.
  package var reportFailures = 1
  /// Whether statuses of 500 to 599 are such failures.
  package var reportServerErrors = false

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
    try self.init(name: name, &fields)
  }

  /// Reads all fields and refuses others.
  package init(name: String, _ fields: inout Fields) throws(RecordError) {
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
    hardLimitMaximumMilliseconds = try fields.int("hardLimitMaximumMilliseconds", in: 0...30 * day, or: 0)
    try readBalancing(&fields)
    try readReporting(&fields)
    try fields.finish()
    guard self.name == name else { throw fields.error("name", "says \"\(self.name)\"") }
  }

  /// The fields that say how requests are spread over the instances. Shared with the control plane's settings.
  package mutating func readBalancing(_ fields: inout Fields) throws(RecordError) {
    proxyProtocol = try fields.int("proxyProtocol", in: 0...2, or: 0)
    maxConnections = try fields.int("maxConnections", in: 0...1_000_000, or: 0)
    guard maxConnections == 0 || (kind == .http && slots == 0) else {
      throw fields.error("maxConnections", "is for pools of kind http without slots; elsewhere slots are the limit")
    }
    slowStartMilliseconds = try fields.int("slowStartMilliseconds", in: 0...3_600_000, or: 0)
    panicPercent = try fields.int("panicPercent", in: 0...100, or: 50)
    if var section = try fields.section("ejection") { ejection = try Ejection(&section) }
  }

  /// The fields that say what replicas tell the control plane; routes files have none.
  package mutating func readReporting(_ fields: inout Fields) throws(RecordError) {
    reportFailures = try fields.int("reportFailures", in: 0...1_000_000, or: 1)
    reportServerErrors = try fields.bool("reportServerErrors", or: false)
  }

  package var json: JSON {
    var object: JSONObject = [
      "name": .string(name), "kind": .string(kind.rawValue), "slots": .int(slots),
      "recycleAfterSessions": .int(recycleAfterSessions), "reservationMilliseconds": .int(reservationMilliseconds),
      "graceMilliseconds": .int(graceMilliseconds), "hardLimitMilliseconds": .int(hardLimitMilliseconds),
      "idleLimitMilliseconds": .int(idleLimitMilliseconds),
      "queueTimeoutMilliseconds": .int(queueTimeoutMilliseconds), "queueLimit": .int(queueLimit),
    ]
    object.set("hardLimitMaximumMilliseconds", hardLimitMaximumMilliseconds, unless: 0)
    object.set("proxyProtocol", proxyProtocol, unless: 0)
    object.set("maxConnections", maxConnections, unless: 0)
    object.set("slowStartMilliseconds", slowStartMilliseconds, unless: 0)
    if ejection != Ejection() { object["ejection"] = .object(ejection.json) }
    object.set("panicPercent", panicPercent, unless: 50)
    object.set("reportFailures", reportFailures, unless: 1)
    object.set("reportServerErrors", reportServerErrors, unless: false)
    return .object(object)
  }
}

/// How requests are spread over the instances of a pool.
package struct PoolBalancing: Sendable, Equatable {
  package var proxyProtocol = 0
  package var maxConnections = 0
  package var slowStartMilliseconds = 0
  package var ejection = Ejection()
  package var panicPercent = 50
  package var reportFailures = 1
  package var reportServerErrors = false
  package init() {}
}

extension PoolRecord {
  /// The fields that a pool's declaration passes on unchanged.
  package var balancing: PoolBalancing {
    get {
      var balancing = PoolBalancing()
      balancing.proxyProtocol = proxyProtocol
      balancing.maxConnections = maxConnections
      balancing.slowStartMilliseconds = slowStartMilliseconds
      balancing.ejection = ejection
      balancing.panicPercent = panicPercent
      balancing.reportFailures = reportFailures
      balancing.reportServerErrors = reportServerErrors
      return balancing
    }
    set {
      proxyProtocol = newValue.proxyProtocol
      maxConnections = newValue.maxConnections
      slowStartMilliseconds = newValue.slowStartMilliseconds
      ejection = newValue.ejection
      panicPercent = newValue.panicPercent
      reportFailures = newValue.reportFailures
      reportServerErrors = newValue.reportServerErrors
    }
  }

  /// Names appear in Redis keys, URLs, directories and log lines, so they are kept to what is plain in all of these.
  package static func isName(_ text: String) -> Bool {
    (1...40).contains(text.utf8.count)
      && text.utf8.allSatisfy { byte in
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"),
          UInt8(ascii: "_"):
          true
        default: false
        }
      }
  }
}
