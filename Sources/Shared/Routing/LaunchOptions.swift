// What a session asks of its own browser at its launch. REST reads it from a client, the leader from Redis; the pool's
// LaunchPolicy says what of it is allowed, and a runtime makes arguments and variables of it.
package import JSON

/// Options that only a browser's start can set for everything that it shows. nil = as the pool's browsers are.
package struct LaunchOptions: Sendable, Equatable {
  /// The size of its window in CSS pixels.
  package struct Viewport: Sendable, Equatable {
    package var width: Int
    package var height: Int

    package static let widths = 100...7_680
    package static let heights = 100...4_320

    package init(width: Int, height: Int) {
      self.width = width
      self.height = height
    }
  }

  /// Further arguments, as the pool allows them.
  package var arguments: [String] = []
  package var viewport: Viewport?
  package var userAgent: String?
  /// `scheme://host:port`.
  package var proxy: String?
  /// Like `de` or `de-CH`.
  package var locale: String?
  /// Like `Europe/Zurich`.
  package var timeZone: String?
  /// The name of a profile that its own is a copy of.
  package var snapshot: String?

  package static let maximumArguments = 50
  package static let maximumArgumentBytes = 4_096
  package static let maximumUserAgentBytes = 512

  package init() {}

  package var isEmpty: Bool { self == LaunchOptions() }

  /// Reads all fields and refuses others.
  package init(_ fields: inout Fields) throws(RecordError) {
    arguments = try fields.list("args")
    guard arguments.count <= Self.maximumArguments,
      arguments.reduce(0, { $0 + $1.utf8.count }) <= Self.maximumArgumentBytes
    else {
      throw fields.error(
        "args", "may have \(Self.maximumArguments) entries of \(Self.maximumArgumentBytes) bytes together")
    }
    guard arguments.allSatisfy({ $0.utf8.allSatisfy { $0 != 0 } }) else {
      throw fields.error("args", "must not have zero bytes")
    }
    if var section = try fields.section("viewport") {
      viewport = Viewport(
        width: try section.int("width", in: Viewport.widths), height: try section.int("height", in: Viewport.heights))
      try section.finish()
    }
    userAgent = try Self.text("userAgent", &fields, "1 to \(Self.maximumUserAgentBytes) printable ASCII characters") {
      (1...Self.maximumUserAgentBytes).contains($0.utf8.count) && $0.utf8.allSatisfy { (0x20...0x7E).contains($0) }
    }
    proxy = try Self.text(
      "proxy", &fields, "scheme://host:port with http, https, socks4 or socks5, and without user or password",
      Self.isProxy)
    locale = try Self.text("locale", &fields, "a language tag like de or de-CH", Self.isLocale)
    timeZone = try Self.text("timeZone", &fields, "the name of a time zone like Europe/Zurich", Self.isTimeZone)
    snapshot = try Self.text(
      "snapshot", &fields, "a name of 1 to 40 lower-case letters, digits, - or _", PoolRecord.isName)
    try fields.finish()
  }

  private static func text(
    _ name: String, _ fields: inout Fields, _ expected: String, _ fits: (String) -> Bool
  ) throws(RecordError) -> String? {
    guard let text = try fields.optionalString(name) else { return nil }
    guard fits(text) else { throw fields.error(name, "must be \(expected)") }
    return text
  }

  private static func isProxy(_ text: String) -> Bool {
    guard let scheme = ["http://", "https://", "socks4://", "socks5://"].first(where: { text.hasPrefix($0) }),
      let colon = text.lastIndex(of: ":"), let port = Int(text[text.index(after: colon)...]),
      (1...65_535).contains(port), text[text.index(after: colon)...].utf8.allSatisfy({ (0x30...0x39).contains($0) })
    else { return false }
    guard text.utf8.count <= 300, scheme.utf8.count <= text[..<colon].utf8.count else { return false }
    let host = text[..<colon].dropFirst(scheme.count)
    let name = host.hasPrefix("[") && host.hasSuffix("]") ? host.dropFirst().dropLast() : host
    let isBracketed = name.startIndex != host.startIndex
    return !name.isEmpty
      && name.utf8.allSatisfy { byte in
        isPlain(byte) || byte == UInt8(ascii: ".") || byte == UInt8(ascii: "-") || byte == UInt8(ascii: "_")
          || (isBracketed && byte == UInt8(ascii: ":"))
      }
  }

  private static func isPlain(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
      UInt8(ascii: "0")...UInt8(ascii: "9"):
      true
    default: false
    }
  }

  private static func isLocale(_ text: String) -> Bool {
    let parts = text.split(separator: "-", omittingEmptySubsequences: false)
    guard text.utf8.count <= 35, let language = parts.first, (2...3).contains(language.utf8.count),
      language.utf8.allSatisfy({ isPlain($0) && !(0x30...0x39).contains($0) })
    else { return false }
    return parts.dropFirst().allSatisfy { (2...8).contains($0.utf8.count) && $0.utf8.allSatisfy(isPlain) }
  }

  private static func isTimeZone(_ text: String) -> Bool {
    let parts = text.split(separator: "/", omittingEmptySubsequences: false)
    return text.utf8.count <= 64 && (1...3).contains(parts.count)
      && parts.allSatisfy { part in
        !part.isEmpty && part.utf8.first != UInt8(ascii: "-")
          && part.utf8.allSatisfy {
            isPlain($0) || $0 == UInt8(ascii: "_") || $0 == UInt8(ascii: "-") || $0 == UInt8(ascii: "+")
          }
      }
  }

  package var json: JSON {
    var object = JSONObject()
    if !arguments.isEmpty { object["args"] = .array(arguments.map(JSON.string)) }
    if let viewport { object["viewport"] = ["width": .int(viewport.width), "height": .int(viewport.height)] }
    object.set("userAgent", userAgent)
    object.set("proxy", proxy)
    object.set("locale", locale)
    object.set("timeZone", timeZone)
    object.set("snapshot", snapshot)
    return .object(object)
  }

  // MARK: What a Chrome is told

  /// The arguments of a Chrome, to follow those of its pool: of an argument that is given twice the last one holds.
  package var chromeArguments: [String] {
    var words = arguments
    if let viewport { words.append("--window-size=\(viewport.width),\(viewport.height)") }
    if let userAgent { words.append("--user-agent=\(userAgent)") }
    if let proxy { words.append("--proxy-server=\(proxy)") }
    if let locale {
      // The language of pages and of Accept-Language is an argument of its own: --lang is the browser's.
      let language = locale.split(separator: "-").first.map(String.init) ?? locale
      words += ["--lang=\(locale)", "--accept-lang=\(locale == language ? locale : "\(locale),\(language)")"]
    }
    return words
  }

  package var environment: [String: String] {
    var variables: [String: String] = [:]
    if let timeZone { variables["TZ"] = timeZone }
    // On Linux the browser's own language, which formats dates and numbers, is the system's.
    if let locale { variables["LANGUAGE"] = String(locale.map { $0 == "-" ? "_" : $0 }) }
    return variables
  }
}
