// What the reconciler is told about a pool and what it can command. The supervisor fills the one and carries out the
// other; neither holds anything that could not be written down in a test.
package import Domain
package import Routing

/// One instance as the supervisor sees it at this moment.
package struct ObservedInstance: Sendable, Equatable {
  package var id: String
  package var state: InstanceState
  package var generation: Int
  /// When it was started, Unix milliseconds.
  package var startedAt: Int
  /// Slots that clients hold.
  package var leases: Int
  /// Requests and connections that it has now, for pools without slots; nil when nobody has told.
  package var active: Int?
  /// Free slots when it is a member of the pool's slots, nil when it is not: then no client can get it.
  package var freeSlots: Int?
  /// Why its process has ended; nil while it runs.
  package var exited: String?
  /// Failed health checks in a row.
  package var failures: Int
  /// Replicas have told of failures too, so that fewer failed checks are enough.
  package var isSuspected = false
  /// What an operator asked for.
  package var order: InstanceOrder?
  /// Whether the supervisor is already busy with a command for it; such an instance is left alone.
  package var busy: Bool
  package var wear = Wear()
  /// Why it is to be replaced, once that was decided.
  package var recycling: String?
  /// The instance that it was started to replace.
  package var replaces: String?
  /// Since when it gets no more clients, Unix milliseconds.
  package var drainingSince: Int?
  /// Replicas that may still send requests to it, or have some under way; for instances that drain.
  package var replicasUsing = 0

  package init(
    id: String, state: InstanceState, generation: Int = 1, startedAt: Int = 0, leases: Int = 0, freeSlots: Int? = nil,
    active: Int? = nil, exited: String? = nil, failures: Int = 0, order: InstanceOrder? = nil, busy: Bool = false
  ) {
    self.id = id
    self.state = state
    self.generation = generation
    self.startedAt = startedAt
    self.leases = leases
    self.freeSlots = freeSlots
    self.active = active
    self.exited = exited
    self.failures = failures
    self.order = order
    self.busy = busy
  }
}

/// What an operator asked of one instance.
package struct InstanceOrder: Sendable, Equatable {
  package enum Kind: String, Sendable, CaseIterable { case stop, restart }
  package var kind: Kind
  /// Whether clients that hold a slot of it are cut off.
  package var force: Bool

  package init(_ kind: Kind, force: Bool = false) {
    self.kind = kind
    self.force = force
  }
}

/// An instance that ended because an operator asked for a restart: it comes back under its name.
package struct Restart: Sendable, Equatable {
  package var id: String
  package var generation: Int

  package init(id: String, generation: Int) {
    self.id = id
    self.generation = generation
  }
}

/// One pool at this moment.
package struct PoolObservation: Sendable, Equatable {
  package var instances: [ObservedInstance]
  /// Clients in the queue.
  package var waiting: Int
  package var history: RestartHistory
  package var restarts: [Restart]
  /// What the scaler has kept since the last look.
  package var memory: ScalingMemory

  package init(
    instances: [ObservedInstance] = [], waiting: Int = 0, history: RestartHistory = RestartHistory(),
    restarts: [Restart] = [], memory: ScalingMemory = ScalingMemory()
  ) {
    self.instances = instances
    self.waiting = waiting
    self.history = history
    self.restarts = restarts
    self.memory = memory
  }
}

/// One thing to do. Reasons go to events and log lines.
package enum Action: Sendable, Equatable {
  /// Start an instance; nil = a new one, else one that an operator restarted.
  case launch(Restart?, reason: String)
  /// Start an instance that takes the place of this one.
  case replace(id: String, reason: String)
  /// No more clients for it, as it is worn; its replacement is ready, or there will be none before it is gone.
  case recycle(id: String, reason: String)
  /// No more clients for it.
  case drain(id: String, reason: String)
  /// End its process.
  case stop(id: String, reason: String)
  /// Its process is gone: forget it, end its sessions, give back its port and directory.
  case remove(id: String, reason: String)

  /// The instance that this takes out of service; nil for a launch.
  package var instance: String? {
    switch self {
    case .launch, .replace: nil
    case .drain(let id, _), .stop(let id, _), .remove(let id, _), .recycle(let id, _): id
    }
  }

  package var isLaunch: Bool {
    switch self {
    case .launch, .replace: true
    case .drain, .stop, .remove, .recycle: false
    }
  }
}

/// What is to be done about a pool now.
package struct Decision: Sendable, Equatable {
  package var actions: [Action]
  /// To be handed in again as ``PoolObservation/memory``.
  package var memory: ScalingMemory
  /// When to look again although nothing happened, Unix milliseconds.
  package var lookAgainAt: Int?
  /// Clients wait, and nothing but `max` keeps the pool from starting instances for them.
  package var isFull = false

  mutating func lookAgain(at time: Int) { lookAgainAt = Swift.min(lookAgainAt ?? time, time) }
}
