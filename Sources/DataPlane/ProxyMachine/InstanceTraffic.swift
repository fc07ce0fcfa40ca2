// What a replica has sent to each instance, from Engine's counters to RouteFeed's coordinator, which adds it up over all
// replicas in Redis. The daemon joins the two.

/// Counts of one instance. Those of requests and errors only grow, until they begin anew.
package struct InstanceTraffic: Sendable, Equatable {
  package var instance: String
  package var pool: String
  /// Requests and tunnels that were sent to it, or should have been.
  package var requests: Int
  /// Those of them that it failed: faults of its connections, and responses of 500 and above.
  package var errors: Int
  /// Those of them that are under way.
  package var active: Int

  package init(instance: String, pool: String, requests: Int, errors: Int, active: Int) {
    self.instance = instance
    self.pool = pool
    self.requests = requests
    self.errors = errors
    self.active = active
  }
}

/// The counts of all instances at one moment.
package struct TrafficReport: Sendable {
  package var instances: [InstanceTraffic]
  /// What is under way at instances that have no counters of their own, because there are too many.
  package var otherActive: Int

  package init(instances: [InstanceTraffic] = [], otherActive: Int = 0) {
    self.instances = instances
    self.otherActive = otherActive
  }
}
