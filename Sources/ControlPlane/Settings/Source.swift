// Where a setting came from, so that every complaint names its line, variable or flag; and the readers of single values.

import Routing

/// What is wrong with the configuration, as one sentence that begins with the place.
package struct SettingsError: Error, Equatable, Sendable, CustomStringConvertible {
  package let description: String
  package init(_ description: String) { self.description = description }
}

/// A value as it was written, and where.
struct Written {
  let text: String
  /// E.g. `berth.yaml:3: maxSessions`, `variable MAX_SESSIONS`, `flag --max-sessions`.
  let place: String

  func wrong(_ expected: String) -> SettingsError { SettingsError("\(place): must be \(expected), not \"\(text)\"") }

  func int(in range: ClosedRange<Int>) throws(SettingsError) -> Int {
    guard let number = Int(text), range.contains(number) else {
      throw wrong("a whole number from \(range.lowerBound) to \(range.upperBound)")
    }
    return number
  }

  func bool() throws(SettingsError) -> Bool {
    guard let flag = Fields.flag(text) else { throw wrong("true or false") }
    return flag
  }

  func choice<Choice: RawRepresentable & CaseIterable>(_: Choice.Type) throws(SettingsError) -> Choice
  where Choice.RawValue == String {
    guard let choice = Choice(rawValue: text) else {
      throw wrong("one of " + Choice.allCases.map(\.rawValue).joined(separator: ", "))
    }
    return choice
  }

  func nonEmpty() throws(SettingsError) -> String {
    guard !text.isEmpty else { throw wrong("given") }
    return text
  }

  /// An id that shows in keys and lines.
  func identifier() throws(SettingsError) -> String {
    let allowed = text.utf8.allSatisfy { byte in
      switch byte {
      case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
        UInt8(ascii: "0")...UInt8(ascii: "9"),
        UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: "."):
        true
      default: false
      }
    }
    guard allowed, (1...100).contains(text.utf8.count) else { throw wrong("1 to 100 letters, digits, -, _ or .") }
    return text
  }

  func endpoint() throws(SettingsError) -> Endpoint {
    guard let endpoint = Endpoint(text) else { throw wrong("an address and port like 127.0.0.1:3000 or [::1]:3000") }
    return endpoint
  }

  /// An http or https URL without path, query and final slash.
  func origin() throws(SettingsError) -> String {
    var url = Substring(text)
    while url.hasSuffix("/") { url = url.dropLast() }
    let rest = url.hasPrefix("https://") ? url.dropFirst(8) : url.hasPrefix("http://") ? url.dropFirst(7) : ""
    guard !rest.isEmpty, !rest.contains(where: { "/?#@ \\".contains($0) }) else {
      throw wrong("a URL like https://browsers.example.org or http://127.0.0.1:8080")
    }
    return String(url)
  }
}

/// An address to listen at.
package struct Endpoint: Sendable, Equatable, CustomStringConvertible {
  package var host: String
  package var port: Int

  package init(host: String, port: Int) {
    self.host = host
    self.port = port
  }

  /// Reads `host:port` or `[v6]:port`.
  package init?(_ text: String) {
    guard let colon = text.lastIndex(of: ":"), let port = Int(text[text.index(after: colon)...]),
      (1...65_535).contains(port)
    else { return nil }
    var host = text[..<colon]
    if host.hasPrefix("[") && host.hasSuffix("]") {
      host = host.dropFirst().dropLast()
    } else if host.contains(":") {
      return nil
    }
    guard !host.isEmpty, !host.contains(where: { "/ []".contains($0) }) else { return nil }
    self.init(host: String(host), port: port)
  }

  /// Whether only this host can connect.
  package var isLoopback: Bool {
    host == "localhost" || host == "::1"
      || (host.hasPrefix("127.") && host.split(separator: ".", omittingEmptySubsequences: false).count == 4
        && host.split(separator: ".").allSatisfy { UInt8($0) != nil })
  }

  package var description: String { host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)" }
}
