// Who may use a route: clients that show a key, and browsers' pages that a route trusts. Called between a request's routing and
// its way to an instance. Keys are looked up by their digests, so that neither the table nor the time of a comparison tells one.
import HTTPWire
import Posix
import ProxyMachine
import Routing
import TLS

/// A key of the table.
struct CompiledKey: BitwiseCopyable {
  var digest = SHA256Digest()
  /// Unix milliseconds; `Int.max` = never.
  var expiresAt = Int.max

  init?(_ record: KeyRecord) {
    // Every scope opens routes: `admin` includes `session`.
    guard !record.scopes.isEmpty, let digest = SHA256Digest(hexadecimal: record.sha256) else { return nil }
    self.digest = digest
    expiresAt = record.expiresAt ?? Int.max
  }
}

extension Worker {
  /// Looks for a key of the table in the request's head, and notes where it stands, as it ends here.
  func hasKey(_ fd: Int32) -> Bool {
    let bytes = s.slab[fd].inbound.span
    var output = unsafe MutableSpan(_unsafeStart: s.keyBytes, count: KeyRecord.longestKey)
    let authorization = s.head.authorizationKey(bytes, into: &output)
    if isKnown(authorization) {
      s.slab[fd].keyPlace = .authorization
      return true
    }
    let token = s.head.tokenKey(bytes, into: &output)
    guard isKnown(token) else { return false }
    s.slab[fd].keyPlace = .query
    return true
  }

  /// Whether the first bytes of the scratch are a key. All keys are compared, whichever is the one.
  private func isKnown(_ count: Int) -> Bool {
    guard count >= KeyRecord.shortestKey else { return false }
    let digest = SHA256Digest(of: unsafe Span(_unsafeStart: s.keyBytes, count: count))
    var expiresAt = Int.min
    for index in 0..<s.table.apiKeys.count where s.table.apiKeys[index].digest == digest {
      expiresAt = max(expiresAt, s.table.apiKeys[index].expiresAt)
    }
    return expiresAt == Int.max || expiresAt > Clock.unixMilliseconds
  }

  func refuseWithoutKey(_ fd: Int32) {
    s.metrics.add(.unauthorized)
    answer(
      fd, 401, "This route asks for an API key: Authorization: Bearer <key>, the user of Basic, or ?token=<key>.",
      .unauthorized, closes: false, isLogged: false)
  }

  /// Whether a page in somebody's browser may ask for this. Browsers send an Origin with every WebSocket, and with whatever
  /// else is no plain GET of the page's own, and ask nobody for permission first (RFC 6455 §10.2, Fetch §3.1), so a page of
  /// anybody's could drive the browsers of a Berth that its reader can reach. An image of `/json/version` has none: its page
  /// cannot read the answer, but every one would take a slot. Programs send neither Origin nor Sec-Fetch-Site. A key, or the
  /// id of a session that was made over REST, is permission enough.
  func trustsOrigin(_ fd: Int32, route: Int) -> Bool {
    let bytes = s.slab[fd].inbound.span
    guard let origin = s.head.value(of: .origin) else {
      guard s.head.comesFromAnotherOrigin(bytes) else { return true }
      return lists(s.head.refererOrigin(bytes), fd, route: route)
    }
    let compiled = s.table.routes[route]
    // A name that leads here need not be ours: its owner can point it at any address (DNS rebinding).
    if compiled.namesHost || s.head.namesHostByAddress(bytes), s.head.originIsOwn(bytes, origin) { return true }
    return lists(origin, fd, route: route)
  }

  /// Whether a route lists the origin of a page; nil = one that does not say, which only `*` stands for.
  private func lists(_ origin: Slice?, _ fd: Int32, route: Int) -> Bool {
    let allowed = s.table.routeRecords[route].origins
    guard !allowed.isEmpty else { return false }
    let name = origin.map { text(fd, $0).lowercased() }
    return allowed.contains { $0 == "*" || $0 == name }
  }

  func refuseOrigin(_ fd: Int32) {
    s.metrics.add(.originsRefused)
    answer(
      fd, 403,
      "This route does not serve that page. Name its origin in the route's origins, or the route's host.",
      .badOrigin, closes: false)
  }
}
