// The snapshot that workers route by, and the mutable state that a feed keeps to make the next one.

/// An immutable routing table. A feed makes it, every worker holds one and compiles it into its own arrays.
package final class RoutingTable: Sendable {
  package let pools: [String: PoolRecord]
  /// In the order in which they are tried; see ``RouteRecord/isBefore(_:)``.
  package let routes: [RouteRecord]
  package let instances: [InstanceRecord]
  /// The keys that open routes.
  package let apiKeys: [KeyRecord]
  private let byID: [String: Int]
  private let byBrowser: [String: Int]

  package init(
    pools: [PoolRecord], routes: [RouteRecord], instances: [InstanceRecord], apiKeys: [KeyRecord] = []
  ) {
    self.apiKeys = apiKeys
    self.pools = Dictionary(pools.map { ($0.name, $0) }, uniquingKeysWith: { _, last in last })
    self.routes = routes.sorted { $0.isBefore($1) }
    self.instances = instances.sorted { $0.id < $1.id }
    byID = Dictionary(self.instances.enumerated().map { ($1.id, $0) }, uniquingKeysWith: { first, _ in first })
    byBrowser = Dictionary(
      self.instances.enumerated().compactMap { index, instance in instance.browser.map { ($0, index) } },
      uniquingKeysWith: { first, _ in first })
  }

  package func instance(id: String) -> InstanceRecord? { byID[id].map { instances[$0] } }
  /// The instance whose Chrome printed this GUID.
  package func instance(browser: String) -> InstanceRecord? { byBrowser[browser].map { instances[$0] } }
}

/// The pools, routes and instances of a deployment while changes come in one by one.
package struct RoutingState: Sendable {
  package var pools: [String: PoolRecord]
  package var routes: [String: RouteRecord]
  package var instances: [String: InstanceRecord]
  package var apiKeys: [String: KeyRecord]

  package init(
    pools: [PoolRecord] = [], routes: [RouteRecord] = [], instances: [InstanceRecord] = [], apiKeys: [KeyRecord] = []
  ) {
    self.apiKeys = Dictionary(apiKeys.map { ($0.id, $0) }, uniquingKeysWith: { _, last in last })
    self.pools = Dictionary(pools.map { ($0.name, $0) }, uniquingKeysWith: { _, last in last })
    self.routes = Dictionary(routes.map { ($0.id, $0) }, uniquingKeysWith: { _, last in last })
    self.instances = Dictionary(instances.map { ($0.id, $0) }, uniquingKeysWith: { _, last in last })
  }

  package var table: RoutingTable {
    RoutingTable(
      pools: Array(pools.values), routes: Array(routes.values), instances: Array(instances.values),
      apiKeys: Array(apiKeys.values))
  }
}
