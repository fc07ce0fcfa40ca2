// Bugs on purpose: the simulation is worth something as long as it finds these. Each is a small change of a script or of
// what the leader does, as a careless edit would make it.

enum Mutation: String, CaseIterable {
  /// An instance's port is not given back.
  case portIsKept
  /// The port is given back before the process has ended.
  case portIsFreeTooEarly
  case maxIsIgnored
  case maxIsOffByOne
  case spareIsIgnored
  case queueIsNotSeen
  case nothingIsStopped
  /// A slot is free as long as the instance is ready.
  case slotsAreNotCounted
  case usesAreNotCounted
  case queueHasNoOrder
  case sessionsDoNotExpire
  case deadReplicasAreKept
  case fenceIsIgnored
  case orphansAreKept
  case backoffIsIgnored
  case launchesAreNotCounted
  case minIsIgnored
  case scaleDownFlaps
  /// An instance whose removal was begun while Redis was away is put back on record, or stays in the memory forever. It was.
  case unfinishedAreRestored
  /// A worn instance goes although its successor is not there.
  case successorsAreNotAwaited
  /// An instance is stopped while replicas have requests under way to it.
  case replicasAreNotAsked

  /// What it changes in which script.
  var rewriting: [String: (from: String, to: String)] {
    switch self {
    case .slotsAreNotCounted:
      let change = (from: "math.max(0, slots - call('ZCARD', instance_sessions_key(id)))", to: "slots")
      return ["leases.acquire": change, "registry.put": change]
    case .usesAreNotCounted:
      let change = (from: "call('HINCRBY', counters_key(lease.instance), 'sessions', 1)", to: "")
      return ["leases.acquire": change, "leases.attach": change, "leases.claim": change]
    case .queueHasNoOrder:
      return ["leases.acquire": (from: "if free <= before then return nil end", to: "if free <= 0 then return nil end")]
    case .fenceIsIgnored:
      return ["registry.put": (from: "if fenced then return fenced end", to: "")]
    default: return [:]
    }
  }
}
