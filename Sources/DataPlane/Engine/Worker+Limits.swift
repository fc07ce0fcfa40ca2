// What a route grants: whom it lets in and how, requests per second and connections per client, and further attempts within its
// budget.
import Balancing
import HTTPWire
import JSON
import Posix
import ProxyMachine
import Routing

extension Worker {
  /// Whether the client may make this request; if not, it has been answered. The request's head is in `s.head`.
  func admits(_ fd: Int32, _ route: CompiledRoute) -> Bool {
    let client = clientBits(fd)
    if s.table.holds(route.denied, client) || (!route.allowed.isEmpty && !s.table.holds(route.allowed, client)) {
      s.metrics.add(.addressesDenied)
      s.labels.add(.addressesDenied, route: route.row)
      _ = s.slab[fd].machine.requestRead(requestFacts(), exclusive: false)
      answer(fd, 403, "This route is not for clients of this address.", .addressDenied, closes: false, isLogged: false)
      return false
    }
    if route.redirectPort > 0, s.slab[fd].tls == nil, !cameByTLS(fd) {
      redirect(fd, port: Int(route.redirectPort))
      return false
    }
    let key = StableHash.combine(ClientAddress(v6: client.high, client.low).hash, route.limitKey)
    if route.connectionsPerClient > 0, !holdsPermit(fd, key, limit: Int(route.connectionsPerClient)) {
      s.metrics.add(.connectionsRefused)
      s.labels.add(.connectionsLimited, route: route.row)
      _ = s.slab[fd].machine.requestRead(requestFacts(), exclusive: false)
      answer(
        fd, 429, "This client has as many connections to this route as it may.", .tooManyConnections, closes: true,
        retryAfter: 1, isLogged: false)
      return false
    }
    guard route.requestsPerSecond > 0 else { return true }
    let replicas = max(s.replicas, 1)
    let burst = route.burst > 0 ? Int(route.burst) : Int(route.requestsPerSecond)
    let now = s.slab[fd].requestStarted
    let wait = unsafe s.rates._withUnsafeGuaranteedRef {
      $0.admit(
        key, ratePerSecond: Double(route.requestsPerSecond) / Double(replicas),
        burst: (burst + replicas - 1) / replicas, nowMicroseconds: now)
    }
    guard wait > 0 else { return true }
    s.metrics.add(.requestsRefused)
    s.labels.add(.rateLimited, route: route.row)
    _ = s.slab[fd].machine.requestRead(requestFacts(), exclusive: false)
    answer(
      fd, 429, "This client has sent as many requests to this route as it may for now.", .rateLimited, closes: false,
      retryAfter: (wait + 999) / 1_000, isLogged: false)
    return false
  }

  /// Whether a listed proxy says that its client came by https.
  private func cameByTLS(_ fd: Int32) -> Bool {
    guard s.slab[fd].isTrusted, let value = s.head.lastValue(of: .xForwardedProto) else { return false }
    return s.slab[fd].inbound.span.equals(value, "https")
  }

  /// Sends the client to the same address by https. 308: with the same method and body.
  private func redirect(_ fd: Int32, port: Int) {
    s.metrics.add(.redirects)
    let bytes = s.slab[fd].inbound.span
    var host = text(fd, Slice(s.head.authority.lower, hostBytes(bytes, s.head.authority)))
    let target = text(fd, s.head.path) + text(fd, s.head.query)
    let isWhole = s.head.isOptionsOfServer
    _ = s.slab[fd].machine.requestRead(requestFacts(), exclusive: false)
    guard !host.isEmpty else {
      return answer(
        fd, 400, "This address is served by https:// only; the request names no host.", .badRequest, closes: true)
    }
    if port != 443 { host += ":\(port)" }
    let location = "https://\(host)\(isWhole ? "/" : target.hasPrefix("/") ? target : "/" + target)"
    let body = JSON.object(["error": .string("This address is served by https:// only.")]).bytes
    answer(
      fd, 308, contentType: "application/json", body: body, .responseComplete, closes: false, location: location)
  }

  /// Bytes of an authority before its port.
  private func hostBytes(_ bytes: Span<UInt8>, _ authority: Slice) -> Int {
    var index = authority.upper
    while index > authority.lower {
      index -= 1
      // A colon before a bracket belongs to an IPv6 address.
      if bytes[index] == UInt8(ascii: "]") { break }
      if bytes[index] == UInt8(ascii: ":") { return index - authority.lower }
    }
    return Int(authority.count)
  }

  /// A connection counts for the last limited route that it was used on, until it ends.
  private func holdsPermit(_ fd: Int32, _ key: UInt64, limit: Int) -> Bool {
    guard !s.slab[fd].hasPermit || s.slab[fd].permitKey != key else { return true }
    leavePermit(fd)
    let entered = unsafe s.connectionCounts._withUnsafeGuaranteedRef { $0.enter(key, limit: limit) }
    guard let permit = entered else { return false }
    s.slab[fd].hasPermit = true
    s.slab[fd].permit = permit
    s.slab[fd].permitKey = key
    return true
  }

  func leavePermit(_ fd: Int32) {
    guard s.slab[fd].hasPermit else { return }
    s.slab[fd].hasPermit = false
    let permit = s.slab[fd].permit
    unsafe s.connectionCounts._withUnsafeGuaranteedRef { $0.leave(permit) }
  }

  /// The instance failed the client's request: what is to be done, within the route's budget of further attempts.
  func fault(_ fd: Int32, _ fault: InstanceFault) -> ExchangeMachine.FaultAction {
    let route = Int(s.slab[fd].route)
    guard route >= 0 else { return s.slab[fd].machine.fault(fault) }
    var budget = s.table.budgets[route]
    let allows = budget.spend(now: s.now)
    let before = s.slab[fd].machine
    let action = s.slab[fd].machine.fault(fault, budgetAllows: allows)
    if case .retry = action {
      s.table.budgets[route] = budget
    } else if !allows {
      var other = before
      if case .retry = other.fault(fault) {
        s.metrics.add(.retriesRefused)
        s.labels.add(.retriesRefused, route: s.slab[fd].story.route)
      }
    }
    return action
  }
}
