// Every Redis key name of a deployment. Nothing else builds a key: docs/redis-keys.md says what each one holds.

/// The names of the Redis keys of one deployment.
package struct Keys: Sendable, Equatable {
  /// What every key starts with, `berth:` by default. On Redis Cluster a hash tag, e.g. `{berth}:`.
  package let prefix: String

  package init(prefix: String = "berth:") { self.prefix = prefix }

  // Ports of one host.
  package func portsFree(host: String) -> String { "\(prefix)ports:\(host):free" }
  package func portsAllocated(host: String) -> String { "\(prefix)ports:\(host):allocated" }
  package func portsOwner(host: String) -> String { "\(prefix)ports:\(host):owner" }
  package func portsByOwner(host: String) -> String { "\(prefix)ports:\(host):by-owner" }
  package func portsQuarantined(host: String) -> String { "\(prefix)ports:\(host):quarantined" }
  package func portsRange(host: String) -> String { "\(prefix)ports:\(host):range" }

  // What the replicas route by.
  package var pools: String { prefix + "pools" }
  package var routes: String { prefix + "routes" }
  package var instances: String { prefix + "instances" }
  /// API keys by name, as digests.
  package var apiKeys: String { prefix + "keys" }
  package var changes: String { prefix + "changes" }

  // Slots, leases and sessions.
  package func slots(pool: String) -> String { "\(prefix)pool:\(pool):slots" }
  package func leases(pool: String) -> String { "\(prefix)pool:\(pool):leases" }
  package func waiting(pool: String) -> String { "\(prefix)pool:\(pool):waiting" }
  package func waitingExpiry(pool: String) -> String { "\(prefix)pool:\(pool):waiting-expiry" }
  package func lease(session: String) -> String { "\(prefix)lease:\(session)" }
  package func leaseTargets(session: String) -> String { "\(prefix)lease:\(session):targets" }
  package func instanceSessions(instance: String) -> String { "\(prefix)instance:\(instance):sessions" }
  /// What a session's metadata is found by, so that it goes with the session.
  package func leaseMetadata(session: String) -> String { "\(prefix)lease:\(session):metadata" }
  /// A session that asks for an instance of its own with options, and those of a pool by arrival.
  package func launch(session: String) -> String { "\(prefix)launch:\(session)" }
  package func launches(pool: String) -> String { "\(prefix)pool:\(pool):launches" }
  /// The sessions with this metadata; `field` is `name=value`.
  package func metadata(_ field: String) -> String { "\(prefix)metadata:\(field)" }
  /// Sessions that have ended lately: nobody puts them back after a loss of data.
  package var ended: String { prefix + "ended" }
  /// Creates by the API key that was shown (empty = none) and their idempotency key, and all those keys by age. Names of
  /// API keys have no colon.
  package var idempotencyPrefix: String { prefix + "idempotency:" }
  package func idempotency(_ key: String, of apiKey: String = "") -> String { "\(idempotencyPrefix)\(apiKey):\(key)" }
  package var idempotencyKeys: String { prefix + "idempotency-keys" }
  package func counters(instance: String) -> String { "\(prefix)counters:\(instance)" }
  package func target(_ id: String) -> String { "\(prefix)target:\(id)" }
  /// Counts the turns of a pool's global_round_robin.
  package func cursor(pool: String) -> String { "\(prefix)pool:\(pool):cursor" }
  /// Which instance made a job.
  package func job(_ id: String, pool: String) -> String { "\(prefix)job:\(pool):\(id)" }
  /// How busy instances are, for the strategy resources.
  package var load: String { prefix + "load" }
  package var sessions: String { prefix + "sessions" }
  /// What stands before a session's id: plain `session:` for the default prefix, as the disposable-browser seed documents it.
  package var sessionPrefix: String { prefix == "berth:" ? "session:" : prefix + "session:" }
  package func session(_ id: String) -> String { sessionPrefix + id }

  // Replicas and control planes.
  package var replicas: String { prefix + "replicas" }
  package func replica(_ id: String) -> String { "\(prefix)replica:\(id)" }
  package func replicaSessions(_ id: String) -> String { "\(prefix)replica:\(id):sessions" }
  package var leader: String { prefix + "leader" }
  package var leaderToken: String { prefix + "leader:token" }
  /// Who led last.
  package var leaderLast: String { prefix + "leader:last" }
  /// The Redis process in which slots may be given away; see Leadership.
  package var gate: String { prefix + "gate" }
  /// What operators asked of instances through any control plane, until the leader has done it.
  package var orders: String { prefix + "orders" }
  /// The weights that operators gave to instances.
  package var weights: String { prefix + "weights" }
  /// What replicas have seen instances do wrong, until the leader has taken it.
  package var reports: String { prefix + "reports" }
  /// The pools whose launches fail, and why.
  package var troubles: String { prefix + "troubles" }

  // What happened, and the doorbell.
  package var events: String { prefix + "events" }
  /// A pub/sub channel, not a key: a message says that slots, leases, queues or instances of the named pool changed.
  package var wake: String { prefix + "wake" }
}
