// Fields of routes and pools that have a meaning but no effect in this version: each is named in the log when a table
// comes, so that nobody relies on it. What is built leaves this list.
import Routing

extension RoutingTable {
  /// Sentences, one a route, pool or instance, in a stable order; empty when everything that is asked for is done.
  var unsupported: [String] {
    var found: [String] = []
    func note(_ owner: String, _ fields: [(String, Bool)]) {
      let names = fields.filter(\.1).map(\.0)
      if !names.isEmpty { found.append("\(owner): \(names.joined(separator: ", "))") }
    }
    for route in routes {
      note(
        "route \(route.id)",
        [
          ("strategy \(route.strategy.rawValue)", ![.roundRobin, .leastConnections, .random].contains(route.strategy)),
          ("stickyCookie", route.stickyCookie != nil), ("jobAffinity", route.jobAffinity),
          ("requestsPerSecond", route.requestsPerSecond > 0), ("connectionsPerClient", route.connectionsPerClient > 0),
          ("retryBudgetPercent", route.retryBudgetPercent != 20),
        ])
    }
    for pool in pools.values.sorted(by: { $0.name < $1.name }) {
      note(
        "pool \(pool.name)",
        [
          ("proxyProtocol", pool.proxyProtocol != 0), ("slowStartMilliseconds", pool.slowStartMilliseconds != 0),
          ("ejection", pool.ejection != Ejection()), ("panicPercent", pool.panicPercent != 50),
        ])
    }
    let weighted = instances.count { $0.weight != 1 }
    if weighted > 0 { found.append("\(weighted) instances: weight") }
    return found
  }
}
