// Which request goes where: a pure function, so that an unknown path (404) and a known path with a wrong method (405)
// are told apart in one place. docs/rest.md describes every route.

/// A request that the REST API knows.
package enum APIRoute: Sendable, Equatable {
  case health
  case ready
  case status
  case metrics
  case createSession
  case sessions
  case sessionStats
  case session(String)
  case endSession(String)
  case keepAlive(String)
  case pools
  case instances
  case instance(String)
  case changeInstance(String)
  case stopInstance(String)
  case restartInstance(String)
  case keys
  case createKey
  case deleteKey(String)

  package enum Match: Sendable, Equatable {
    case route(APIRoute)
    /// The path is known, with these methods.
    case methodNotAllowed([String])
    case notFound
  }

  /// Ids that Berth hands out are shorter and plainer than this.
  private static func isID(_ text: Substring) -> Bool {
    !text.isEmpty && text.utf8.count <= 100
      && text.utf8.allSatisfy { byte in
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
          UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: "."):
          true
        default: false
        }
      }
  }

  /// `path` without query.
  package static func match(method: String, path: String) -> Match {
    var parts = path.split(separator: "/", omittingEmptySubsequences: false).dropFirst()
    if parts.last == "" && parts.count > 1 { parts = parts.dropLast() }
    let words = Array(parts)
    var methods: [(String, APIRoute)] = []
    switch words.count {
    case 1 where words[0] == "metrics": methods = [("GET", .metrics)]
    case 2 where words[0] == "api":
      switch words[1] {
      case "health": methods = [("GET", .health)]
      case "ready": methods = [("GET", .ready)]
      case "status": methods = [("GET", .status)]
      case "sessions": methods = [("GET", .sessions)]
      case "pools": methods = [("GET", .pools)]
      case "instances": methods = [("GET", .instances)]
      case "keys": methods = [("GET", .keys), ("POST", .createKey)]
      default: break
      }
    case 3 where words[0] == "api":
      switch (words[1], words[2]) {
      case ("session", "create"): methods = [("POST", .createSession)]
      case ("sessions", "stats"): methods = [("GET", .sessionStats)]
      case ("session", let id) where isID(id):
        methods = [("GET", .session(String(id))), ("DELETE", .endSession(String(id)))]
      case ("keys", let id) where isID(id): methods = [("DELETE", .deleteKey(String(id)))]
      case ("instances", let id) where isID(id):
        methods = [
          ("GET", .instance(String(id))), ("PATCH", .changeInstance(String(id))),
          ("DELETE", .stopInstance(String(id))),
        ]
      default: break
      }
    case 4 where words[0] == "api":
      switch (words[1], words[3]) {
      case ("session", "keepalive") where isID(words[2]): methods = [("POST", .keepAlive(String(words[2])))]
      case ("instances", "restart") where isID(words[2]): methods = [("POST", .restartInstance(String(words[2])))]
      default: break
      }
    default: break
    }
    guard !methods.isEmpty else { return .notFound }
    // HEAD is GET whose body is left out when it is sent.
    let wanted = method == "HEAD" ? "GET" : method
    if let found = methods.first(where: { $0.0 == wanted }) { return .route(found.1) }
    return .methodNotAllowed(methods.map(\.0))
  }
}
