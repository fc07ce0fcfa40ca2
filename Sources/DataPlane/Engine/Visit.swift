// A request to a pool whose instances are reached through sessions, or which speaks the DevTools protocol: what the plain
// way of a request need not know. One exists from such a request's head to the end of its answer or tunnel.
import CDP
import HTTPWire
import Posix
import Routing

final class Visit {
  let endpoint: CDPEndpoint
  let pool: PoolRecord
  /// Scheme, authority and path prefix by which the client reached us: what URLs in answers are made of.
  var origin: PublicOrigin
  /// The request's query without its `?`.
  let query: String?
  /// What the instance sees instead of the client's target.
  var upstreamTarget = ""
  /// What a browser sees as Host: its own address.
  var host = ""
  var address: SocketAddress?
  var session: SessionRecord?
  /// A discovery answer so far.
  var collected: [UInt8] = []
  /// Whether the coordinator counts this client's socket as holding the session.
  let holds: Bool
  /// How long the route lets clients wait for a slot; nil = as long as the pool does.
  let queueTimeoutMilliseconds: Int?
  /// A page of strangers asks: see ``Worker/trustsOrigin(_:route:)``.
  let isForeign: Bool

  init(
    endpoint: CDPEndpoint, pool: PoolRecord, origin: PublicOrigin, query: String?, holds: Bool,
    queueTimeoutMilliseconds: Int?, isForeign: Bool
  ) {
    self.isForeign = isForeign
    self.queueTimeoutMilliseconds = queueTimeoutMilliseconds
    self.endpoint = endpoint
    self.pool = pool
    self.origin = origin
    self.query = query
    self.holds = holds
  }

  /// Towards a browser Host and Origin are replaced, its paths are mapped and its discovery answers are rewritten.
  var speaksDevTools: Bool { pool.kind == .cdp }

  /// The target for the instance, or nil when the browser's own address is needed and not known.
  func target(browser: String?) -> String? {
    if speaksDevTools { return endpoint.target(browser: browser, query: query) }
    return endpoint.path + (query.map { "?" + $0 } ?? "")
  }

  /// The value of `token` in a query with its `?`, percent-decoded (RFC 3986 section 2.1); nil without one.
  static func token(in query: String) -> String? {
    for parameter in query.dropFirst().split(separator: "&") where parameter.hasPrefix("token=") {
      let encoded = Array(parameter.dropFirst(6).utf8)
      var bytes: [UInt8] = []
      var index = 0
      while index < encoded.count {
        if encoded[index] == UInt8(ascii: "%"), index + 2 < encoded.count,
          let byte = UInt8(String(decoding: encoded[index + 1...index + 2], as: UTF8.self), radix: 16)
        {
          bytes.append(byte)
          index += 3
        } else {
          bytes.append(encoded[index])
          index += 1
        }
      }
      return String(decoding: bytes, as: UTF8.self)
    }
    return nil
  }
}
