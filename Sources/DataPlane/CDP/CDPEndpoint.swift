// Which of Chrome's endpoints a request is for, and what Chrome is asked instead. Engine classifies each request to a
// `cdp` pool with this before it asks for a slot, and takes the path for the instance from it.

/// What a request to a `cdp` pool wants: a scope (which Chrome) and an action (which of its endpoints).
package struct CDPEndpoint: Sendable, Equatable {
  /// Which Chrome the path names.
  package enum Scope: Sendable, Equatable {
    /// None: discovery at the pool's own address, or a URL that names a browser or target itself.
    case root
    /// `/session/<id>/…`
    case session(String)
    /// `/instance/<id>/…`
    case instance(String)
  }

  package enum Action: Sendable, Equatable {
    /// `/json/version`
    case version
    /// `/json` and `/json/list`
    case list
    /// `/json/new?<url>`, by any verb: Chrome itself answers 405 to all but PUT.
    case new
    case activate(target: String)
    case close(target: String)
    /// `/json/protocol`
    case protocolDescription
    /// A WebSocket to `/devtools/browser/<guid>`.
    case browser(String)
    /// A WebSocket to `/devtools/page/<id>`.
    case page(String)
    /// A WebSocket to the scope itself, or to `/chromium` or `/chrome` at the root: the browser of the session that it
    /// names, or a Chrome for this connection.
    case connect
    /// A static file of DevTools, below `/devtools/`.
    case frontend
    /// A debugger's path without an upgrade to WebSocket: 426.
    case upgradeRequired
    /// Nothing that Chrome or Berth knows; also HTTP at the scope itself.
    case other
    /// Never passed on: 400. The text says what is wrong, e.g. `the session id is malformed`.
    case invalid(String)
  }

  package let scope: Scope
  package let action: Action
  /// The path below the scope, starting with `/`, as the client wrote it.
  package let path: String
  /// Whether the answer has a body at all, i.e. the method is not HEAD.
  package let hasAnswerBody: Bool

  /// `path` is the part below the route's prefix, without query. The method is compared without regard to case.
  package init(method: some Sequence<UInt8>, path bytes: some Collection<UInt8>, isUpgrade: Bool) {
    hasAnswerBody = !method.elementsEqual("HEAD".utf8, by: { $0 & 0xDF == $1 })
    let whole = String(decoding: bytes, as: UTF8.self)
    var segments = Self.segments(of: whole)
    // A request target is visible ASCII (RFC 9112, 3.2); anything else would not reach Chrome as it was written.
    guard bytes.isEmpty || bytes.first == UInt8(ascii: "/"), bytes.allSatisfy({ $0 > 0x20 && $0 < 0x7F }),
      !segments.contains(where: Self.isDots)
    else {
      (scope, action, path) = (.root, .invalid("the path is malformed"), whole)
      return
    }
    guard segments.count >= 2, segments[0] == "session" || segments[0] == "instance" else {
      (scope, path) = (.root, whole.isEmpty ? "/" : whole)
      action = Self.action(segments, scope: scope, isUpgrade: isUpgrade)
      return
    }
    let kind = segments[0]
    let id = String(segments[1])
    scope = kind == "session" ? .session(id) : .instance(id)
    let below = whole[segments[1].endIndex...]
    path = below.isEmpty ? "/" : String(below)
    segments.removeFirst(2)
    action =
      Self.isID(id)
      ? Self.action(segments, scope: scope, isUpgrade: isUpgrade) : .invalid("the \(kind) id is malformed")
  }

  package init(method: String, path: String, isUpgrade: Bool) {
    self.init(method: method.utf8, path: path.utf8, isUpgrade: isUpgrade)
  }

  /// Whether a 200 answer names addresses and so goes through ``CDPAnswer``.
  package var isRewritten: Bool {
    switch action {
    case .version, .list, .new: hasAnswerBody
    default: false
    }
  }

  /// Session, instance, target and browser ids: 1 to 128 of `[0-9A-Za-z._-]`.
  package static func isID(_ text: some StringProtocol) -> Bool {
    let bytes = text.utf8
    return (1...128).contains(bytes.count)
      && bytes.allSatisfy { byte in
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "a")...UInt8(ascii: "z"),
          UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "-"):
          true
        default: false
        }
      }
  }

  /// What stands between slashes. One trailing slash means nothing (Playwright asks for `/json/version/`).
  private static func segments(of path: String) -> [Substring] {
    var segments = path.split(separator: "/", omittingEmptySubsequences: false).dropFirst()
    if segments.last == "" { segments.removeLast() }
    return Array(segments)
  }

  /// Whether a URL parser (Chrome's) would take the segment for `.` or `..` and so see another path than Berth.
  private static func isDots(_ segment: Substring) -> Bool {
    var dots = 0
    var rest = segment.utf8[...]
    while let byte = rest.first {
      if byte == UInt8(ascii: ".") {
        rest = rest.dropFirst()
      } else if rest.count >= 3 && rest.prefix(3).elementsEqual("%2E".utf8, by: { $0 == $1 || $0 & 0xDF == $1 }) {
        rest = rest.dropFirst(3)
      } else {
        return false
      }
      dots += 1
    }
    return dots == 1 || dots == 2
  }

  private static func action(_ segments: [Substring], scope: Scope, isUpgrade: Bool) -> Action {
    switch segments.first {
    case nil: return isUpgrade ? .connect : .other
    case "chromium", "chrome": return isUpgrade && segments.count == 1 && scope == .root ? .connect : .other
    case "json": return json(segments.dropFirst(), isUpgrade: isUpgrade)
    case "devtools": return devtools(segments.dropFirst(), isUpgrade: isUpgrade)
    default: return .other
    }
  }

  private static func json(_ segments: ArraySlice<Substring>, isUpgrade: Bool) -> Action {
    let action: Action
    switch (segments.first, segments.count) {
    case (nil, _), ("list", 1): action = .list
    case ("version", 1): action = .version
    case ("new", 1): action = .new
    case ("protocol", 1): action = .protocolDescription
    case ("activate", 2), ("close", 2):
      guard isID(segments.last!) else { return .invalid("the target id is malformed") }
      let target = String(segments.last!)
      action = segments.first == "close" ? .close(target: target) : .activate(target: target)
    default: return .other
    }
    // Chrome would ignore the upgrade; an answer that is neither tunnelled nor rewritten helps nobody.
    return isUpgrade ? .invalid("there is no WebSocket at this path") : action
  }

  private static func devtools(_ segments: ArraySlice<Substring>, isUpgrade: Bool) -> Action {
    guard let kind = segments.first, segments.count == 2, kind == "browser" || kind == "page" else {
      return isUpgrade ? .other : .frontend
    }
    guard isID(segments.last!) else { return .invalid("the \(kind == "page" ? "target" : "browser") id is malformed") }
    guard isUpgrade else { return .upgradeRequired }
    return kind == "page" ? .page(String(segments.last!)) : .browser(String(segments.last!))
  }
}

extension CDPEndpoint {
  /// The request target that Chrome gets. `browser` is the GUID of the Chrome that was chosen, `query` what stood after
  /// the client's `?`; nil when there is none to ask (no GUID for ``Action/connect``, an invalid request).
  ///
  /// Debugger paths lose their query, because Chrome takes it for a part of the id. Everywhere else only `token` is
  /// dropped; in `/json/new?<url>` only where the client put Berth's own: in front of or behind the URL, whose own
  /// parameters are not ours.
  package func target(browser: String?, query: String?) -> String? {
    switch action {
    case .version: return "/json/version" + Self.suffix(query)
    case .list: return "/json/list" + Self.suffix(query)
    case .new: return "/json/new" + Self.suffixOfNew(query)
    case .activate(let target): return "/json/activate/\(target)" + Self.suffix(query)
    case .close(let target): return "/json/close/\(target)" + Self.suffix(query)
    case .protocolDescription: return "/json/protocol" + Self.suffix(query)
    case .browser(let guid): return "/devtools/browser/\(guid)"
    case .page(let target): return "/devtools/page/\(target)"
    case .connect: return browser.map { "/devtools/browser/\($0)" }
    case .frontend, .other: return path + Self.suffix(query)
    case .upgradeRequired, .invalid: return nil
    }
  }

  private static func isToken(_ parameter: Substring) -> Bool { parameter == "token" || parameter.hasPrefix("token=") }

  private static func suffix(_ query: String?) -> String {
    guard let query else { return "" }
    let kept = query.split(separator: "&", omittingEmptySubsequences: false).filter { !isToken($0) }
    return kept.isEmpty ? "" : "?" + kept.joined(separator: "&")
  }

  private static func suffixOfNew(_ query: String?) -> String {
    guard let query else { return "" }
    var parts = query.split(separator: "&", omittingEmptySubsequences: false)[...]
    if let first = parts.first, isToken(first) {
      parts.removeFirst()
    } else if let last = parts.last, isToken(last) {
      parts.removeLast()
    }
    return parts.isEmpty ? "" : "?" + parts.joined(separator: "&")
  }
}
