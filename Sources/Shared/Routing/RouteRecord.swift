// Host and path → pool, and how requests on that way are balanced, limited and changed. The control plane writes it,
// replicas and routes files read it; docs/configuration.md lists the fields for people.
package import JSON

/// Host and path → pool. Durations are milliseconds, 0 = the data plane's own default unless it says otherwise.
package struct RouteRecord: Sendable, Equatable {
  package var id: String
  /// In lower case without port: exact, or `*.example.com` for one or more labels before it; nil = every host.
  package var host: String?
  /// A prefix of whole segments, perhaps with `*`; see ``PathPattern``.
  package var path: String
  package var pool: String
  package var strategy: Strategy
  /// Whether the path's prefix is taken off before the instance sees it; see ``PathPattern/prefix(_:)``.
  package var stripPrefix: Bool
  /// Stands where the prefix stood; implies stripping.
  package var replacePrefix: String?
  /// Header or cookie that `header_hash` or `cookie_hash` goes by.
  package var hashOn: String?
  /// Name of a cookie that binds a client to an instance.
  package var stickyCookie: String?
  /// Firecrawl: a job id leads back to the instance that made it.
  package var jobAffinity = false
  /// Whether a client may ask for a WebSocket.
  package var upgrades = true
  package var accessLog = true
  /// Whether a client must show a key (or a session's id) here; nil = as the deployment says.
  package var auth: Bool?
  /// Origins from which a browser may open a WebSocket here besides the route's own, e.g. `https://app.example.com`; `*` = all.
  package var origins: [String] = []
  /// Further attempts at another instance.
  package var retries = 2
  /// Retries may be at most this share of the route's recent requests, and a few more.
  package var retryBudgetPercent = 20
  package var connectTimeoutMilliseconds = 0
  package var firstByteTimeoutMilliseconds = 0
  package var bodyTimeoutMilliseconds = 0
  package var tunnelIdleMilliseconds = 0
  /// How long a client waits for a slot; nil = as long as the pool says, 0 = not at all.
  package var queueTimeoutMilliseconds: Int?
  /// Of one client over all replicas; 0 = no limit.
  package var requestsPerSecond = 0
  /// Requests that one client may make at once; 0 = as many as a second allows.
  package var burst = 0
  /// Of one client at one replica at the same time; 0 = no limit.
  package var connectionsPerClient = 0
  /// Larger request bodies get 413; 0 = no limit.
  package var bodyBytes = 0
  /// Request bodies that come more slowly than this are refused; 0 = however slowly they come, nil = as the data plane says.
  package var minBodyBytesPerSecond: Int?
  /// Blocks of addresses: only clients of the first may come, unless it is empty, and none of the second.
  package var allow: [String] = []
  package var deny: [String] = []
  /// The port of https:// that plain requests are sent to; nil = they are served.
  package var redirectPort: Int?
  package var requestHeaders = HeaderRules()
  package var responseHeaders = HeaderRules()

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
    try self.init(id: id, &fields)
  }

  /// Reads all fields and refuses others.
  package init(id: String, _ fields: inout Fields) throws(RecordError) {
    let written = try fields.string("id", or: id)
    try self.init(id: id, pool: try fields.string("pool"), &fields)
    try fields.finish()
    guard written == id else { throw fields.error("id", "says \"\(written)\"") }
  }

  /// Reads all fields but id and pool, and checks them. Shared with the control plane's settings and routes files,
  /// which have fields of their own beside these and call ``Fields/finish()`` themselves.
  package init(id: String, pool: String, _ fields: inout Fields) throws(RecordError) {
    self.init(
      id: id, host: try fields.optionalString("host")?.lowercased(), path: try fields.string("path", or: "/"),
      pool: pool, strategy: try fields.choice("strategy", or: Strategy.roundRobin),
      stripPrefix: try fields.bool("stripPrefix", or: false))
    replacePrefix = try fields.optionalString("replacePrefix")
    hashOn = try fields.optionalString("hashOn")
    stickyCookie = try fields.optionalString("stickyCookie")
    jobAffinity = try fields.bool("jobAffinity", or: false)
    upgrades = try fields.bool("upgrades", or: true)
    accessLog = try fields.bool("accessLog", or: true)
    auth = try fields.optionalBool("auth")
    origins = try fields.list("origins").map { $0.lowercased() }
    retries = try fields.int("retries", in: 0...10, or: 2)
    retryBudgetPercent = try fields.int("retryBudgetPercent", in: 0...100, or: 20)
    let day = 86_400_000
    connectTimeoutMilliseconds = try fields.int("connectTimeoutMilliseconds", in: 0...600_000, or: 0)
    firstByteTimeoutMilliseconds = try fields.int("firstByteTimeoutMilliseconds", in: 0...day, or: 0)
    bodyTimeoutMilliseconds = try fields.int("bodyTimeoutMilliseconds", in: 0...day, or: 0)
    tunnelIdleMilliseconds = try fields.int("tunnelIdleMilliseconds", in: 0...30 * day, or: 0)
    queueTimeoutMilliseconds = try fields.optionalInt("queueTimeoutMilliseconds", in: 0...day)
    requestsPerSecond = try fields.int("requestsPerSecond", in: 0...1_000_000, or: 0)
    burst = try fields.int("burst", in: 0...1_000_000, or: 0)
    connectionsPerClient = try fields.int("connectionsPerClient", in: 0...1_000_000, or: 0)
    bodyBytes = try fields.int("bodyBytes", in: 0...1 << 50, or: 0)
    minBodyBytesPerSecond = try fields.optionalInt("minBodyBytesPerSecond", in: 0...1_000_000_000)
    allow = try fields.list("allow")
    deny = try fields.list("deny")
    if let text = try fields.optionalString("redirect") { redirectPort = try Self.redirectPort(text, fields) }
    if var section = try fields.section("requestHeaders") { requestHeaders = try HeaderRules(&section) }
    if var section = try fields.section("responseHeaders") { responseHeaders = try HeaderRules(&section) }
    try check(fields)
  }

  /// What has to hold between fields, and the forms of text.
  private func check(_ fields: Fields) throws(RecordError) {
    if let problem = host.flatMap(HostPattern.problem) { throw fields.error("host", problem) }
    if let problem = PathPattern.problem(path) { throw fields.error("path", problem) }
    if let replacePrefix {
      if let problem = PathPattern.problem(replacePrefix) { throw fields.error("replacePrefix", problem) }
      guard !replacePrefix.contains("*") else { throw fields.error("replacePrefix", "must be a path without *") }
    }
    switch (strategy.needsHashOn, hashOn) {
    case (true, nil):
      throw fields.error("hashOn", "must name the header or cookie that strategy \(strategy.rawValue) goes by")
    case (false, .some):
      throw fields.error(
        "hashOn", "is only for the strategies header_hash and cookie_hash; choose one of them or leave it out")
    case (true, let name?) where !isToken(name):
      throw fields.error("hashOn", "must be the name of a header or cookie, without spaces and separators")
    default: break
    }
    if let stickyCookie, !isToken(stickyCookie) {
      throw fields.error("stickyCookie", "must be the name of a cookie, without spaces and separators")
    }
    for (name, blocks) in [("allow", allow), ("deny", deny)] {
      guard blocks.count <= Self.addressBlocks else {
        throw fields.error(name, "must not name more than \(Self.addressBlocks) blocks, and names \(blocks.count)")
      }
      for block in blocks where AddressBlock(block) == nil {
        throw fields.error(
          name,
          "must be a list of addresses and blocks like 10.0.0.0/8 or fd00::/8 without bits behind the prefix, not "
            + "\"\(block)\"")
      }
    }
    for origin in origins where origin != "*" && !isOrigin(origin) {
      throw fields.error("origins", "must be a list of origins like https://app.example.com, or *, not \"\(origin)\"")
    }
    guard burst == 0 || requestsPerSecond > 0 else {
      throw fields.error("burst", "needs requestsPerSecond; set that too, or leave it out")
    }
  }

  /// Blocks that one list of addresses may have: each request of the route is compared with all of them.
  package static let addressBlocks = 1_024

  /// Reads `https` or `https:8443`.
  private static func redirectPort(_ text: String, _ fields: Fields) throws(RecordError) -> Int {
    let parts = text.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
    let port = parts.count == 2 ? Int(parts[1]) : 443
    guard parts.first == "https", let port, (1...65_535).contains(port) else {
      throw fields.error("redirect", "must be https, or https:PORT when clients reach TLS at another port than 443")
    }
    return port
  }

  package var json: JSON {
    var object: JSONObject = ["id": .string(id)]
    object.set("host", host)
    object["path"] = .string(path)
    object["pool"] = .string(pool)
    object["strategy"] = .string(strategy.rawValue)
    object["stripPrefix"] = .bool(stripPrefix)
    object.set("replacePrefix", replacePrefix)
    object.set("hashOn", hashOn)
    object.set("stickyCookie", stickyCookie)
    object.set("jobAffinity", jobAffinity, unless: false)
    object.set("upgrades", upgrades, unless: true)
    object.set("accessLog", accessLog, unless: true)
    if let auth { object["auth"] = .bool(auth) }
    if !origins.isEmpty { object["origins"] = .array(origins.map { .string($0) }) }
    object.set("retries", retries, unless: 2)
    object.set("retryBudgetPercent", retryBudgetPercent, unless: 20)
    object.set("connectTimeoutMilliseconds", connectTimeoutMilliseconds, unless: 0)
    object.set("firstByteTimeoutMilliseconds", firstByteTimeoutMilliseconds, unless: 0)
    object.set("bodyTimeoutMilliseconds", bodyTimeoutMilliseconds, unless: 0)
    object.set("tunnelIdleMilliseconds", tunnelIdleMilliseconds, unless: 0)
    if let queueTimeoutMilliseconds { object["queueTimeoutMilliseconds"] = .int(queueTimeoutMilliseconds) }
    object.set("requestsPerSecond", requestsPerSecond, unless: 0)
    object.set("burst", burst, unless: 0)
    object.set("connectionsPerClient", connectionsPerClient, unless: 0)
    object.set("bodyBytes", bodyBytes, unless: 0)
    if let minBodyBytesPerSecond { object["minBodyBytesPerSecond"] = .int(minBodyBytesPerSecond) }
    if !allow.isEmpty { object["allow"] = .array(allow.map { .string($0) }) }
    if !deny.isEmpty { object["deny"] = .array(deny.map { .string($0) }) }
    if let redirectPort { object["redirect"] = .string(redirectPort == 443 ? "https" : "https:\(redirectPort)") }
    if !requestHeaders.isEmpty { object["requestHeaders"] = requestHeaders.json }
    if !responseHeaders.isEmpty { object["responseHeaders"] = responseHeaders.json }
    return .object(object)
  }
}

/// Scheme, host and perhaps a port, without anything behind (RFC 6454 §6.2); a browser's extensions have schemes of their own.
private func isOrigin(_ text: String) -> Bool {
  guard let colon = text.firstIndex(of: ":"), colon != text.startIndex, text[colon...].hasPrefix("://") else {
    return false
  }
  let host = text[colon...].dropFirst(3)
  return !host.isEmpty && !host.contains { "/?#@ *".contains($0) }
}
