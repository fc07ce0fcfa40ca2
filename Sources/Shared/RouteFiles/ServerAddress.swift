// Where a fixed server is, as the two forms of configuration write it, and how it becomes an instance.
import JSON
import Routing

/// A fixed server: an address literal or a name that is resolved when the file is read, and a port.
package struct ServerAddress: Sendable, Equatable, CustomStringConvertible {
  /// In lower case, IPv6 without brackets.
  package let host: String
  package let port: Int

  /// What is wrong with a host; nil when it is an address literal, a name, or `unix:` with a path.
  static func problem(host: String) -> String? {
    if host.hasPrefix("unix:") { return problem(unixPath: host.dropFirst(5)) }
    let lower = host.lowercased()
    let isBareIPv6 = lower.utf8.count { $0 == UInt8(ascii: ":") } >= 2 && !lower.hasPrefix("[")
    guard !lower.contains("*"), HostPattern.problem(isBareIPv6 ? "[\(lower)]" : lower) == nil else {
      return "must be a host name or an address, without a scheme and a port"
    }
    // No name ends in a number, so that these are addresses with something wrong (RFC 3696 §2).
    let last = lower.split(separator: ".").last ?? ""
    if !isBareIPv6, last.utf8.allSatisfy({ (0x30...0x39).contains($0) }), AddressBlock(lower) == nil {
      return "must be a host name or an address; an IPv4 address has four numbers from 0 to 255"
    }
    return nil
  }

  private static func problem(unixPath path: Substring) -> String? {
    guard path.hasPrefix("/"), path.utf8.count <= 107, path.utf8.allSatisfy({ $0 > 0x20 && $0 != 0x7F }) else {
      return "must be unix: and the whole path of a socket, at most 107 bytes, like unix:/run/app.sock"
    }
    return nil
  }

  /// Takes a host that ``problem(host:)`` has nothing against.
  init(host: String, port: Int) {
    guard !host.hasPrefix("unix:") else {
      self.host = host
      self.port = 0
      return
    }
    let lower = host.lowercased()
    self.host = lower.hasPrefix("[") ? String(lower.dropFirst().dropLast()) : lower
    self.port = port
  }

  /// Reads `http://host:port`; without a port it is 80. Or `unix:/path`.
  init(url: String) throws(Problem) {
    let expected = Problem(reason: "must be a URL like http://10.0.0.1:8080")
    if url.hasPrefix("unix:") {
      if let problem = Self.problem(host: url) { throw Problem(reason: problem) }
      self.init(host: url, port: 0)
      return
    }
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

  package var description: String {
    if host.hasPrefix("unix:") { return host }
    return host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
  }

  /// The server as a member of a pool; its id says where it is.
  func instance(pool: String, weight: Int, isBackup: Bool) -> InstanceRecord {
    var instance = InstanceRecord(
      id: "\(pool)/\(self)", pool: pool, host: host, port: port, slots: 0, weight: weight)
    instance.isBackup = isBackup
    return instance
  }
}

/// How a fixed server is asked whether it is well, where nobody but the replica itself can find out.
package struct HealthCheck: Sendable, Equatable {
  /// What is asked for. Nil: a connection is enough.
  package var path: String?
  /// The statuses that are well.
  package var expect: [ClosedRange<Int>] = [200...399]
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
    let expected = fields.json("expect")
    if let expected { expect = try Self.statuses(expected, fields) }
    try fields.finish()
    guard let path else {
      guard expected == nil else { throw fields.error("expect", "needs a path; without one there is no status") }
      return
    }
    guard path.utf8.first == UInt8(ascii: "/"), path.utf8.count <= PathPattern.maximumBytes,
      path.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F })
    else { throw fields.error("path", "must be a path that begins with /, without spaces") }
  }

  /// 0 = no checks.
  package static let intervals = 0...86_400_000

  /// `204`, `200-299`, or a list of these.
  private static func statuses(_ json: JSON, _ fields: Fields) throws(RecordError) -> [ClosedRange<Int>] {
    var ranges: [ClosedRange<Int>] = []
    for entry in json.array ?? [json] {
      let text = entry.string ?? entry.int.map { String($0) } ?? ""
      let ends = text.split(separator: "-", omittingEmptySubsequences: false).map { Int($0) ?? 0 }
      guard (1...2).contains(ends.count), ends.allSatisfy({ (100...599).contains($0) }), ends[0] <= ends[ends.count - 1]
      else { throw fields.error("expect", "must be a status like 204, a range like 200-299, or a list of these") }
      ranges.append(ends[0]...ends[ends.count - 1])
    }
    guard !ranges.isEmpty else { throw fields.error("expect", "must name at least one status") }
    return ranges
  }
}
