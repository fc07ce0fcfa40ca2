// What an operator declares about a pool. Settings makes it from the configuration, the reconciler keeps it, a runtime
// launches by it, and its `record` is the part that replicas need to know.
package import Routing

/// A named class of identical instances and how many of them there should be. Durations are milliseconds.
package struct PoolSpec: Sendable, Equatable {
  package var name: String
  package var kind: PoolKind
  package var runtime: RuntimeSpec
  /// Clients that one instance serves at once: 1 = exclusive, 0 = no limit and no sessions.
  package var slots: Int
  /// Instances that are kept whether somebody needs them or not.
  package var min: Int
  /// Instances that may exist at once, those that start and stop included: what the host can bear.
  package var max: Int
  /// Free slots that are kept ready for the next client, as far as `max` allows.
  package var spare: Int
  /// Sessions after which an instance is replaced; 0 = never.
  package var recycleAfterSessions: Int
  package var sessions: SessionLimits
  package var queue: QueueLimits
  /// From the start of the process until it must have answered.
  package var launchTimeoutMilliseconds: Int
  /// How long each polite step of a stop (close, SIGTERM) may take before the next, harder one.
  package var stopGraceMilliseconds: Int
  package var scaling: ScalingPolicy
  package var health: HealthPolicy
  package var restart: RestartPolicy
  /// What clients may ask of their instances.
  package var launches = LaunchPolicy()
  package var recycling = RecyclePolicy()
  /// How replicas spread requests over the instances.
  package var balancing = PoolBalancing()

  package init(
    name: String, kind: PoolKind, runtime: RuntimeSpec, slots: Int = 1, min: Int = 1, max: Int = 8, spare: Int = 1,
    recycleAfterSessions: Int = 1, sessions: SessionLimits = SessionLimits(), queue: QueueLimits = QueueLimits(),
    launchTimeoutMilliseconds: Int = 30_000, stopGraceMilliseconds: Int = 5_000,
    scaling: ScalingPolicy = ScalingPolicy(), health: HealthPolicy = HealthPolicy(),
    restart: RestartPolicy = RestartPolicy()
  ) {
    self.name = name
    self.kind = kind
    self.runtime = runtime
    self.slots = slots
    self.min = min
    self.max = max
    self.spare = spare
    self.recycleAfterSessions = recycleAfterSessions
    self.sessions = sessions
    self.queue = queue
    self.launchTimeoutMilliseconds = launchTimeoutMilliseconds
    self.stopGraceMilliseconds = stopGraceMilliseconds
    self.scaling = scaling
    self.health = health
    self.restart = restart
  }

  /// What replicas route by.
  package var record: PoolRecord {
    var record = PoolRecord(
      name: name, kind: kind, slots: slots, recycleAfterSessions: recycleAfterSessions,
      reservationMilliseconds: sessions.reservationMilliseconds, graceMilliseconds: sessions.graceMilliseconds,
      hardLimitMilliseconds: sessions.hardMilliseconds, idleLimitMilliseconds: sessions.idleMilliseconds,
      queueTimeoutMilliseconds: queue.timeoutMilliseconds, queueLimit: queue.limit)
    record.hardLimitMaximumMilliseconds = sessions.hardMaximumMilliseconds
    record.balancing = balancing
    return record
  }

  package static func isName(_ text: String) -> Bool { PoolRecord.isName(text) }

  /// The first thing about the numbers that cannot work together, as a sentence; nil when all is well.
  package var contradiction: String? {
    if max < 1 { return "max must be at least 1" }
    if min > max { return "min (\(min)) is greater than max (\(max))" }
    if slots > 0, spare > max * slots {
      return "spare (\(spare)) is more free slots than max × slots (\(max * slots)) can ever give"
    }
    if slots == 0, min == 0, spare == 0 {
      return "with slots 0 nobody waits for an instance, so min or spare must be at least 1"
    }
    if slots > 0, scaling.targetActive > 0 { return "targetActive is for slots 0: this pool is scaled by its slots" }
    if slots == 0, recycleAfterSessions > 0 { return "recycleAfterSessions needs sessions, but slots is 0" }
    if let contradiction = recycling.contradiction(max: max) { return contradiction }
    if sessions.hardMaximumMilliseconds > 0, sessions.hardMaximumMilliseconds < sessions.hardMilliseconds {
      return
        "hardLimitMaximumMilliseconds (\(sessions.hardMaximumMilliseconds)) is shorter than hardLimitMilliseconds (\(sessions.hardMilliseconds))"
    }
    if sessions.idleMilliseconds > sessions.hardMilliseconds {
      return
        "idleLimitMilliseconds (\(sessions.idleMilliseconds)) is longer than hardLimitMilliseconds (\(sessions.hardMilliseconds))"
    }
    return nil
  }
}

/// How the instances of a pool are started.
package enum RuntimeSpec: Sendable, Equatable {
  case process(ProcessSpec)
  case container(ContainerSpec)
  case service(ServiceSpec)
  case fixed(FixedSpec)

  /// What its containers are like; nil = it has none.
  package var container: ContainerSpec? {
    switch self {
    case .container(let container): container
    case .service(let service): service.container
    default: nil
    }
  }

  package var isProcess: Bool { if case .process = self { true } else { false } }
  package var isFixed: Bool { if case .fixed = self { true } else { false } }
}

/// A program that is started once for each instance. `{port}`, `{dir}` and `{id}` in arguments and environment values
/// stand for the instance's port, its own directory and its id.
package struct ProcessSpec: Sendable, Equatable {
  /// A path, or a name that is looked up in PATH; nil = the first Chrome that is installed (kind `cdp` only).
  package var command: String?
  /// For kind `cdp` they follow those that Berth itself needs.
  package var arguments: [String]
  package var environment: [String: String]

  package init(command: String? = nil, arguments: [String] = [], environment: [String: String] = [:]) {
    self.command = command
    self.arguments = arguments
    self.environment = environment
  }

  /// Fills in the placeholders of one argument or environment value.
  package static func expand(_ text: String, port: Int, directory: String, id: String) -> String {
    var out = ""
    var rest = Substring(text)
    while let open = rest.firstIndex(of: "{") {
      out += rest[..<open]
      rest = rest[open...]
      let values = [("{port}", String(port)), ("{dir}", directory), ("{id}", id)]
      if let (name, value) = values.first(where: { rest.hasPrefix($0.0) }) {
        out += value
        rest = rest.dropFirst(name.count)
      } else {
        out += "{"
        rest = rest.dropFirst()
      }
    }
    return out + rest
  }
}
