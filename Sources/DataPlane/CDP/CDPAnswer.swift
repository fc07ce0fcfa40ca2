// Chrome's discovery answers, with every address in them changed to the one that the client used. Engine calls this with
// the whole body of a 200 answer to /json/version, /json, /json/list or /json/new (CDPEndpoint.isRewritten).
import JSON

/// Where the client reaches Berth, and so where the addresses in its answers must lead.
package struct PublicOrigin: Sendable, Equatable {
  /// Whether the client came by TLS: `wss:` then, and `wss=` in front-end links.
  package var secure: Bool
  /// The client's own Host, e.g. `browsers.example.org` or `127.0.0.1:8080`.
  package var authority: String
  /// What stands before `/devtools/page/<id>`: the route's own prefix, then `/session/<id>` or `/instance/<id>`.
  package var prefix: String
  /// What stands before `/devtools/browser/<guid>`: the route's own prefix alone after discovery at the root, because
  /// the GUID names the Chrome; else the same as ``prefix``.
  package var browserPrefix: String
  /// Appended as `?token=` to debugger addresses, because some clients can send no header. Not percent-encoded.
  package var token: String?

  package init(secure: Bool, authority: String, prefix: String, browserPrefix: String? = nil, token: String? = nil) {
    self.secure = secure
    self.authority = authority
    self.prefix = prefix
    self.browserPrefix = browserPrefix ?? prefix
    self.token = token
  }
}

/// Chrome's answer is not what Chrome answers: 502. The text says where.
package struct CDPAnswerError: Error, Equatable, Sendable, CustomStringConvertible {
  package let description: String
}

/// A rewritten answer.
package struct CDPAnswer: Sendable, Equatable {
  /// The new body: the same values in the same order as Chrome's, without white space between them.
  package let bytes: [UInt8]
  /// The targets that it names, in its order.
  package let targets: [String]

  /// Rewrites the answer to `action`, which is ``CDPEndpoint/Action/version``, `list` or `new`.
  package init(rewriting body: [UInt8], of action: CDPEndpoint.Action, for origin: PublicOrigin) throws(CDPAnswerError)
  {
    let answer: JSON
    do { answer = try JSON(parsing: body) } catch {
      throw CDPAnswerError(description: "the browser's answer is not JSON: \(error)")
    }
    switch action {
    case .version:
      guard var version = answer.object else { throw Self.unexpected("is no object") }
      guard version["webSocketDebuggerUrl"] != nil else { throw Self.unexpected("has no webSocketDebuggerUrl") }
      try Self.rewrite(&version, for: origin)
      (bytes, targets) = (JSON.object(version).bytes, [])
    case .new:
      guard var target = answer.object else { throw Self.unexpected("is no object") }
      guard let id = target["id"]?.string else { throw Self.unexpected("has no id") }
      try Self.rewrite(&target, for: origin)
      (bytes, targets) = (JSON.object(target).bytes, [id])
    case .list:
      guard let list = answer.array else { throw Self.unexpected("is no array") }
      var rewritten: [JSON] = []
      var ids: [String] = []
      for entry in list {
        guard var target = entry.object else { throw Self.unexpected("has an entry that is no object") }
        guard let id = target["id"]?.string else { throw Self.unexpected("has an entry without id") }
        // Chrome leaves webSocketDebuggerUrl out of an entry that cannot be debugged.
        try Self.rewrite(&target, for: origin)
        rewritten.append(.object(target))
        ids.append(id)
      }
      (bytes, targets) = (JSON.array(rewritten).bytes, ids)
    default: preconditionFailure("only version, list and new have addresses to rewrite")
    }
  }

  private static func unexpected(_ what: String) -> CDPAnswerError {
    CDPAnswerError(description: "the browser's answer \(what)")
  }

  private static func rewrite(_ object: inout JSONObject, for origin: PublicOrigin) throws(CDPAnswerError) {
    if let value = object["webSocketDebuggerUrl"] {
      guard let url = value.string, let path = debuggerPath(url) else {
        throw unexpected("has a webSocketDebuggerUrl that is no debugger's address")
      }
      let address = (origin.secure ? "wss://" : "ws://") + debugger(path, for: origin)
      object["webSocketDebuggerUrl"] = .string(join(address, token: origin.token))
    }
    if let value = object["devtoolsFrontendUrl"] {
      guard let url = value.string else { throw unexpected("has a devtoolsFrontendUrl that is no string") }
      object["devtoolsFrontendUrl"] = .string(try frontend(url, for: origin))
    }
  }

  /// The path of `ws://<host>/devtools/…`; nil for anything else.
  private static func debuggerPath(_ url: String) -> Substring? {
    for scheme in ["ws://", "wss://"] where url.hasPrefix(scheme) {
      return pathAfterHost(url.dropFirst(scheme.count))
    }
    return nil
  }

  private static func pathAfterHost(_ address: Substring) -> Substring? {
    guard let slash = address.firstIndex(of: "/") else { return nil }
    let path = address[slash...]
    return path.hasPrefix("/devtools/") ? path : nil
  }

  /// Host, prefix and path, as they follow `ws://` and `ws=`.
  private static func debugger(_ path: Substring, for origin: PublicOrigin) -> String {
    origin.authority + (path.hasPrefix("/devtools/browser/") ? origin.browserPrefix : origin.prefix) + path
  }

  /// A link to the DevTools front end: relative (`/devtools/inspector.html?ws=…`, served by Chrome and so by Berth) or on
  /// Google's server (`https://…?ws=…`). The latter never gets the token: following it would give the token away.
  private static func frontend(_ url: String, for origin: PublicOrigin) throws(CDPAnswerError) -> String {
    let relative = url.hasPrefix("/")
    let token = relative ? origin.token : nil
    let page: Substring
    var result: String
    if let mark = url.firstIndex(of: "?") {
      page = url[..<mark]
      var parts: [String] = []
      for part in url[url.index(after: mark)...].split(separator: "&", omittingEmptySubsequences: false) {
        guard part.hasPrefix("ws=") || part.hasPrefix("wss=") else {
          parts.append(String(part))
          continue
        }
        guard let path = pathAfterHost(part[part.firstIndex(of: "=")!...].dropFirst()) else {
          throw unexpected("has a devtoolsFrontendUrl without a debugger's address")
        }
        // The value is itself decoded once by the page, hence encoded once more than in an address.
        let address = debugger(path, for: origin)
        let secret = token.map { percentEncoded("?token=" + percentEncoded($0)) } ?? ""
        parts.append((origin.secure ? "wss=" : "ws=") + address + secret)
      }
      result = page + "?" + parts.joined(separator: "&")
    } else {
      page = url[...]
      result = url
    }
    guard relative else { return result }
    result = origin.prefix + result
    return join(result, token: token)
  }

  private static func join(_ url: String, token: String?) -> String {
    guard let token else { return url }
    return url + (url.contains("?") ? "&" : "?") + "token=" + percentEncoded(token)
  }

  /// Everything but RFC 3986's unreserved characters as %XX.
  private static func percentEncoded(_ text: String) -> String {
    let hex = Array("0123456789ABCDEF".utf8)
    var out: [UInt8] = []
    for byte in text.utf8 {
      switch byte {
      case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "a")...UInt8(ascii: "z"),
        UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "_"),
        UInt8(ascii: "~"):
        out.append(byte)
      default: out += [UInt8(ascii: "%"), hex[Int(byte >> 4)], hex[Int(byte & 15)]]
      }
    }
    return String(decoding: out, as: UTF8.self)
  }
}
