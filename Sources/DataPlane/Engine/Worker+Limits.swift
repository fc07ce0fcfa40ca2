// What a route grants: requests per second and connections per client, and further attempts within its budget.
import Balancing
import HTTPWire
import Posix
import ProxyMachine
import Routing

extension Worker {
  /// Whether the client may make this request; if not, it has been answered. The request's head is in `s.head`.
  func admits(_ fd: Int32, _ route: CompiledRoute) -> Bool {
    let key = StableHash.combine(clientHash(fd), route.limitKey)
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
