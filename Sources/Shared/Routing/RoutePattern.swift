// The forms of a host and a path, what is wrong with one, and which of two is the more specific. Workers compile these
// into their own arrays; the table puts routes in the order of this file, so that the first match is the right one.

/// A route's host: exact, or `*.example.com` for everything below that name.
package enum HostPattern {
  /// What is wrong with a host in lower case; nil when nothing is.
  package static func problem(_ host: String) -> String? {
    if host == "*" { return "must be left out to mean every host" }
    if host.utf8.first == UInt8(ascii: "[") {
      let inside = host.utf8.dropFirst().dropLast()
      let isAddress =
        host.utf8.last == UInt8(ascii: "]") && inside.count { $0 == UInt8(ascii: ":") } >= 2
        && inside.allSatisfy { byte in "0123456789abcdef:.".utf8.contains(byte) }
      return isAddress ? nil : "must be an IPv6 address in brackets without a port, e.g. [::1]"
    }
    let name = host.hasPrefix("*.") ? host.dropFirst(2) : host[...]
    if name.contains("*") { return "may have a * only as its whole first label, e.g. *.example.com" }
    if name.contains(":") { return "must be a host name without a port" }
    if name.contains("/") { return "must be a host name alone, without scheme and path" }
    let labels = name.utf8.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
    let areLabels = labels.allSatisfy { label in
      (1...63).contains(label.count)
        && label.allSatisfy { byte in
          switch byte {
          case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"),
            UInt8(ascii: "_"):
            true
          default: false
          }
        }
    }
    guard areLabels, host.utf8.count <= 253 else {
      return "must be a host name like api.example.com, or *.example.com for every name below it"
    }
    return nil
  }

  package static func isWildcard(_ host: String) -> Bool { host.hasPrefix("*.") }
}

/// A route's path: a prefix of whole segments. A `*` stands for exactly one segment, at the end for all the rest, and
/// also for nothing: `/api/*` matches what `/api` matches.
package enum PathPattern {
  package static let maximumBytes = 2_048

  /// What is wrong with a path; nil when nothing is.
  package static func problem(_ path: String) -> String? {
    guard path.utf8.first == UInt8(ascii: "/"), !path.contains("?"), !path.contains("#") else {
      return "must start with / and have no query"
    }
    guard path.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F }) else {
      return "must be visible ASCII as it stands in a request; write other characters as %XX"
    }
    guard path.utf8.count <= maximumBytes else { return "must not be longer than \(maximumBytes) bytes" }
    guard !segments(path).contains(where: isDotSegment) else {
      return "must not have . or .. as a segment: requests with one are refused, so it would never match"
    }
    guard segments(path).allSatisfy({ $0 == "*" || !$0.contains("*") }) else {
      return "may have a * only as a whole segment, e.g. /users/*/photo or /api/*"
    }
    return nil
  }

  /// What stands before the first `*`, without a slash at its end; the whole path when there is none. This is what
  /// `stripPrefix` and `replacePrefix` take off: `/api` for `/api/*` and for `/api/`, nothing for `/`.
  package static func prefix(_ path: String) -> Substring {
    let literal = path.firstIndex(of: "*").map { path[..<$0] } ?? path[...]
    return literal.hasSuffix("/") ? literal.dropLast() : literal
  }

  /// Greater = more specific: bytes that must be there from the beginning, then segments that must be there as
  /// written, then segments of any content.
  static func specificity(_ path: String) -> (literal: Int, exact: Int, any: Int) {
    let literal = path.contains("*") ? prefix(path).utf8.count : path.utf8.count
    var segments = segments(path)
    if segments.last == "*" { segments.removeLast() }
    return (literal, segments.count { $0 != "*" }, segments.count { $0 == "*" })
  }

  private static func segments(_ path: String) -> [Substring] { path.split(separator: "/") }

  /// `.` or `..`, percent-encoded or not.
  private static func isDotSegment(_ segment: Substring) -> Bool {
    let plain = segment.lowercased().split(separator: "%2e", omittingEmptySubsequences: false).joined(separator: ".")
    return plain == "." || plain == ".."
  }
}

extension RouteRecord {
  /// Whether this one is tried before the other: exact hosts, then wildcards from the longest, then routes for every
  /// host; within a host from the most specific path; at last by id.
  func isBefore(_ other: RouteRecord) -> Bool {
    let (mine, theirs) = (hostRank, other.hostRank)
    if mine != theirs { return mine > theirs }
    let (path, otherPath) = (PathPattern.specificity(path), PathPattern.specificity(other.path))
    return path != otherPath ? path > otherPath : id < other.id
  }

  /// Exact hosts need no order among themselves, as only one of them can match.
  private var hostRank: Int {
    guard let host else { return 0 }
    return HostPattern.isWildcard(host) ? host.utf8.count : Int.max
  }
}
