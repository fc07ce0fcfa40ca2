// Where a fixed server is, as the two forms of configuration write it, and how it becomes an instance.
import Routing

/// A fixed server: an address literal or a name that is resolved when the file is read, and a port.
package struct ServerAddress: Sendable, Equatable, CustomStringConvertible {
  /// In lower case, IPv6 without brackets.
  package let host: String
  package let port: Int

  /// What is wrong with a host; nil when it is an address literal or a name.
  static func problem(host: String) -> String? {
    let lower = host.lowercased()
    let isBareIPv6 = lower.utf8.count { $0 == UInt8(ascii: ":") } >= 2 && !lower.hasPrefix("[")
    guard !lower.contains("*"), HostPattern.problem(isBareIPv6 ? "[\(lower)]" : lower) == nil else {
      return "must be a host name or an address, without a scheme and a port"
    }
    return nil
  }

  /// Takes a host that ``problem(host:)`` has nothing against.
  init(host: String, port: Int) {
    let lower = host.lowercased()
    self.host = lower.hasPrefix("[") ? String(lower.dropFirst().dropLast()) : lower
    self.port = port
  }

  /// Reads `http://host:port`; without a port it is 80.
  init(url: String) throws(Problem) {
    let expected = Problem(reason: "must be a URL like http://10.0.0.1:8080")
    let lower = url.lowercased()
    if lower.hasPrefix("https://") {
      throw Problem(
        reason: "must be an http:// URL: Berth speaks plain HTTP to its servers and ends TLS towards clients itself")
    }
    guard lower.hasPrefix("http://") else { throw expected }
    var authority = lower.dropFirst(7)
    if authority.hasSuffix("/") { authority = authority.dropLast() }
    guard !authority.contains(where: { "/?#".contains($0) }) else {
      throw Problem(reason: "must be a URL without a path; give the route replacePrefix for one")
    }
    guard !authority.contains("@") else { throw Problem(reason: "must be a URL without user and password") }
    var port = 80
    // A colon inside brackets belongs to the address.
    if let colon = authority.lastIndex(of: ":"), !authority[colon...].contains("]") {
      guard let number = Int(authority[authority.index(after: colon)...]), (1...65_535).contains(number) else {
        throw expected
      }
      port = number
      authority = authority[..<colon]
    }
    guard authority.hasPrefix("[") || !authority.contains(":"), Self.problem(host: String(authority)) == nil else {
      throw expected
    }
    self.init(host: String(authority), port: port)
  }

  struct Problem: Error { let reason: String }

  package var description: String { host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)" }

  /// The server as a member of a pool; its id says where it is.
  func instance(pool: String, weight: Int) -> InstanceRecord {
    InstanceRecord(id: "\(pool)/\(self)", pool: pool, host: host, port: port, slots: 0, weight: weight)
  }
}

/// How a fixed server is asked whether it is well, where nobody but the replica itself can find out.
package struct HealthCheck: Sendable, Equatable {
  /// What is asked for; any status from 200 to 399 is well. Nil: a TCP connection is enough.
  package var path: String?
  /// Nil = as the process was told.
  package var intervalMilliseconds: Int?
  package var timeoutMilliseconds = 2_000
  /// Failed checks in a row after which a server gets no more requests.
  package var failures = 2
  /// Good checks in a row after which it gets them again.
  package var successes = 2

  package init() {}

  /// Reads `health:` of a file.
  init(_ fields: inout Fields) throws(RecordError) {
    path = try fields.optionalString("path")
    intervalMilliseconds = try fields.optionalInt("intervalMilliseconds", in: Self.intervals)
    timeoutMilliseconds = try fields.int("timeoutMilliseconds", in: 10...60_000, or: 2_000)
    failures = try fields.int("failures", in: 1...1_000, or: 2)
    successes = try fields.int("successes", in: 1...1_000, or: 2)
    try fields.finish()
    guard let path else { return }
    guard path.utf8.first == UInt8(ascii: "/"), path.utf8.count <= PathPattern.maximumBytes,
      path.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F })
    else { throw fields.error("path", "must be a path that begins with /, without spaces") }
  }

  /// 0 = no checks.
  package static let intervals = 0...86_400_000
}
