// Where Redis is, as REDIS_URL says it. Parsed by the daemons at their start; its description is safe to log.

/// Why a REDIS_URL is refused; never shows the password.
package struct RedisURLError: Error, Equatable, Sendable, CustomStringConvertible {
  package let description: String
  init(_ what: String) {
    description =
      "REDIS_URL: \(what); expected is redis://[[user]:password@]host[:port][/database], rediss://… for TLS "
      + "(with ?ca=FILE or ?verify=no if need be), unix:/path/to/socket[?db=number], or "
      + "redis+sentinel://[[user]:password@]sentinel[:port],sentinel[:port]…/master[/database] (rediss+sentinel:// for TLS)"
  }
}

package struct RedisURL: Sendable, Equatable, CustomStringConvertible, CustomDebugStringConvertible {
  package enum Place: Sendable, Equatable {
    case tcp(host: String, port: Int)
    case unix(path: String)
    /// Wherever these sentinels say that the master is.
    case sentinel(Sentinels)
  }
  /// Who knows where the master is.
  package struct Sentinels: Sendable, Equatable {
    package struct Address: Sendable, Hashable {
      package var host: String
      package var port: Int
      package init(host: String, port: Int) {
        self.host = host
        self.port = port
      }
    }
    package var addresses: [Address]
    /// The name by which they know it.
    package var master: String
    /// Their own, which are not those of Redis.
    package var user: String?
    package var password: String?

    package init(addresses: [Address], master: String, user: String? = nil, password: String? = nil) {
      self.addresses = addresses
      self.master = master
      self.user = user
      self.password = password
    }
  }
  package struct TLS: Sendable, Equatable {
    /// Certificates to trust instead of the system's, PEM.
    package var caFile: String?
    /// false accepts any certificate.
    package var verify: Bool

    package init(caFile: String? = nil, verify: Bool = true) {
      self.caFile = caFile
      self.verify = verify
    }
  }

  package var place: Place
  /// nil: no TLS.
  package var tls: TLS?
  package var user: String?
  package var password: String?
  package var database: Int

  /// One server, e.g. a sentinel.
  init(host: String, port: Int, tls: TLS?, user: String?, password: String?) {
    place = .tcp(host: host, port: port)
    self.tls = tls
    self.user = user
    self.password = password
    database = 0
  }

  package init(parsing text: String) throws(RedisURLError) {
    guard let colon = text.firstIndex(of: ":") else { throw RedisURLError("there is no scheme") }
    let scheme = text[..<colon].lowercased()
    let asksSentinels = ["redis+sentinel", "rediss+sentinel", "redis-sentinel", "rediss-sentinel"].contains(scheme)
    guard asksSentinels || ["redis", "rediss", "unix"].contains(scheme) else {
      throw RedisURLError("unknown scheme \"\(scheme)\"")
    }
    var rest = text[text.index(after: colon)...]
    // Some clients write the master's name there: redis-sentinel://host,host/0#mymaster.
    var fragment: Substring?
    if asksSentinels, let mark = rest.lastIndex(of: "#") {
      fragment = rest[rest.index(after: mark)...]
      rest = rest[..<mark]
    }
    guard !rest.contains("#") else { throw RedisURLError("there is a # in it; write %23 within a password") }

    var settings: [String: String] = [:]
    if let mark = rest.lastIndex(of: "?") {
      for setting in rest[rest.index(after: mark)...].split(separator: "&") {
        let parts = setting.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
        guard parts.count == 2 else { throw RedisURLError("a setting after ? has no value") }
        settings[String(parts[0])] = try Self.decode(parts[1], "a setting after ?")
      }
      rest = rest[..<mark]
    }

    user = nil
    password = nil
    var databaseText = settings.removeValue(forKey: "db")
    let hasAuthority = rest.hasPrefix("//")
    if hasAuthority { rest = rest.dropFirst(2) }
    // The last @ before the path, as a password may hold one.
    if hasAuthority {
      let authority = scheme == "unix" ? rest[..<(rest.firstIndex(of: "@") ?? rest.startIndex)] : rest[...]
      if let at = (scheme == "unix" ? rest.firstIndex(of: "@") : authority.lastIndex(of: "@")) {
        let credentials = rest[..<at]
        let parts = credentials.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
        let name = try Self.decode(parts[0], "the user")
        if parts.count == 2 {
          user = name.isEmpty ? nil : name
          password = try Self.decode(parts[1], "the password")
        } else {
          throw RedisURLError("a user needs a password; a password alone is written as :password@")
        }
        if password == "" { throw RedisURLError("the password is empty") }
        rest = rest[rest.index(after: at)...]
      }
    }

    if scheme == "unix" {
      let path = try Self.decode(rest, "the path")
      guard path.hasPrefix("/") else { throw RedisURLError("the socket's path must begin with /") }
      guard path.utf8.count < 108 else { throw RedisURLError("the socket's path is longer than 107 bytes") }
      place = .unix(path: path)
      tls = nil
    } else {
      guard hasAuthority else { throw RedisURLError("\(scheme): must be followed by //") }
      var hostAndPort = rest
      var path = rest[rest.endIndex...]
      if let slash = rest.firstIndex(of: "/") {
        hostAndPort = rest[..<slash]
        path = rest[rest.index(after: slash)...]
      }
      if asksSentinels {
        var sentinels = try Self.sentinels(hostAndPort, path: &path, fragment: fragment)
        sentinels.user = settings.removeValue(forKey: "sentinelUser")
        sentinels.password = settings.removeValue(forKey: "sentinelPassword")
        guard sentinels.user == nil || sentinels.password != nil else {
          throw RedisURLError("sentinelUser needs a sentinelPassword")
        }
        place = .sentinel(sentinels)
      } else {
        let (host, port) = try Self.address(hostAndPort, defaultPort: 6_379)
        place = .tcp(host: host, port: port)
      }
      if !path.isEmpty { databaseText = String(path) }
      tls = nil
      if scheme.hasPrefix("rediss") {
        let verify = settings.removeValue(forKey: "verify") ?? "yes"
        guard ["yes", "no"].contains(verify) else { throw RedisURLError("verify must be yes or no") }
        tls = TLS(caFile: settings.removeValue(forKey: "ca"), verify: verify == "yes")
      }
    }

    database = 0
    if let databaseText {
      guard let number = Int(databaseText), (0...1_000_000).contains(number) else {
        throw RedisURLError("the database \"\(databaseText)\" is not a number")
      }
      database = number
    }
    if let unknown = settings.keys.sorted().first { throw RedisURLError("unknown setting \"\(unknown)\"") }
  }

  private static let maximumSentinels = 32

  /// Takes the master's name from the path (`/master/database`) unless the fragment has it (`/database#master`).
  private static func sentinels(
    _ text: Substring, path: inout Substring, fragment: Substring?
  ) throws(RedisURLError) -> Sentinels {
    var addresses: [Sentinels.Address] = []
    for one in text.split(separator: ",", omittingEmptySubsequences: false) {
      let (host, port) = try address(one, defaultPort: 26_379)
      addresses.append(Sentinels.Address(host: host, port: port))
    }
    guard addresses.count <= maximumSentinels else {
      throw RedisURLError("more than \(maximumSentinels) sentinels are named; three are enough")
    }
    var name = fragment ?? ""
    if fragment == nil {
      name = path.prefix { $0 != "/" }
      path = path.dropFirst(name.count + 1)
    }
    let master = try decode(name, "the master's name")
    guard !master.isEmpty, !master.contains(where: \.isWhitespace) else {
      throw RedisURLError("the name by which the sentinels know the master is missing: …/mymaster")
    }
    return Sentinels(addresses: addresses, master: master)
  }

  private static func address(_ text: Substring, defaultPort: Int) throws(RedisURLError) -> (String, Int) {
    var host = text
    var portText: Substring?
    if text.hasPrefix("[") {
      guard let end = text.firstIndex(of: "]") else { throw RedisURLError("the [ of an IPv6 address is not closed") }
      host = text[text.index(after: text.startIndex)..<end]
      let after = text[text.index(after: end)...]
      guard after.isEmpty || after.hasPrefix(":") else { throw RedisURLError("unexpected text after ]") }
      if !after.isEmpty { portText = after.dropFirst() }
    } else if let colon = text.lastIndex(of: ":") {
      guard text.firstIndex(of: ":") == colon else { throw RedisURLError("an IPv6 address must stand in [ ]") }
      host = text[..<colon]
      portText = text[text.index(after: colon)...]
    }
    guard !host.isEmpty else { throw RedisURLError("there is no host") }
    guard let portText else { return (String(host), defaultPort) }
    guard let port = Int(portText), (1...65_535).contains(port) else {
      throw RedisURLError("the port must be a number from 1 to 65535")
    }
    return (String(host), port)
  }

  private static func decode(_ text: Substring, _ what: String) throws(RedisURLError) -> String {
    var bytes: [UInt8] = []
    var rest = text.utf8[...]
    while let byte = rest.popFirst() {
      guard byte == UInt8(ascii: "%") else {
        bytes.append(byte)
        continue
      }
      guard rest.count >= 2, let value = UInt8(String(decoding: rest.prefix(2), as: UTF8.self), radix: 16) else {
        throw RedisURLError("% in \(what) must be followed by two hexadecimal digits; write %25 for %")
      }
      bytes.append(value)
      rest = rest.dropFirst(2)
    }
    guard let decoded = String(validating: bytes, as: UTF8.self) else { throw RedisURLError("\(what) is not UTF-8") }
    return decoded
  }

  /// Where Redis is, without user and password.
  package var description: String {
    switch place {
    case .unix(let path): "unix:\(path)" + (database == 0 ? "" : "?db=\(database)")
    case .tcp(let host, let port):
      (tls == nil ? "redis://" : "rediss://") + Self.text(host, port) + (database == 0 ? "" : "/\(database)")
    case .sentinel(let sentinels):
      (tls == nil ? "redis+sentinel://" : "rediss+sentinel://")
        + sentinels.addresses.map { Self.text($0.host, $0.port) }.joined(separator: ",") + "/" + sentinels.master
        + (database == 0 ? "" : "/\(database)")
    }
  }
  private static func text(_ host: String, _ port: Int) -> String {
    (host.contains(":") ? "[\(host)]" : host) + ":\(port)"
  }
  package var debugDescription: String { description }
}
