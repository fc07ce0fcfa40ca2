// The instances of a pool, counted by what they are good for: what the scaler's formulas are about.
import Domain
import Routing

struct Census {
  struct Member {
    var id: String
    var startedAt: Int
    var leases: Int
    var active: Int
  }
  /// All that take up room, those on their way out included.
  var existing = 0
  /// Those that serve clients now or soon.
  var usable = 0
  /// Those of them that are starting.
  var starting = 0
  /// Free slots that a client could have now.
  var freeSlots = 0
  /// Clients on instances that get no more of them: when those clients come again they need a slot elsewhere.
  var leavingLeases = 0
  /// Ready instances, those that can be spared best first: unused ones before those in use, the youngest of equals first,
  /// because the caches of the oldest are warm.
  var ready: [Member] = []

  init(_ instances: [ObservedInstance], spec: PoolSpec, leaving: Set<String>) {
    for instance in instances { count(instance, spec: spec, isLeaving: leaving.contains(instance.id)) }
    ready.sort { ($0.leases, $0.active, $1.startedAt, $1.id) < ($1.leases, $1.active, $0.startedAt, $0.id) }
  }

  private mutating func count(_ instance: ObservedInstance, spec: PoolSpec, isLeaving: Bool) {
    existing += 1
    guard instance.exited == nil else { return }
    guard !isLeaving, instance.order == nil else {
      leavingLeases += instance.leases
      return
    }
    switch instance.state {
    case .starting:
      usable += 1
      starting += 1
    case .ready:
      usable += 1
      freeSlots += instance.freeSlots ?? 0
      ready.append(
        Member(
          id: instance.id, startedAt: instance.startedAt, leases: instance.leases, active: instance.active ?? 0))
    case .unhealthy, .draining, .stopping:
      leavingLeases += instance.leases
    }
  }
}
