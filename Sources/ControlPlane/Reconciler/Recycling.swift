// Which instances are worn and are to be replaced, and the next step of each replacement: its successor is started first
// and the old one drained when that is ready (surge), or, where that cannot be, the old one goes first, within limits.
// Pure functions that the reconciler calls at every look; docs/recycling.md says the same with formulas and examples.
import Domain
import Routing

/// What an instance has gone through, as far as it was told.
package struct Wear: Sendable, Equatable {
  /// Of this generation, over all replicas.
  package var requests: Int
  package var requestsPerSecond: Double
  package var sessions: Int
  package var memoryBytes: Int

  package init(requests: Int = 0, requestsPerSecond: Double = 0, sessions: Int = 0, memoryBytes: Int = 0) {
    self.requests = requests
    self.requestsPerSecond = requestsPerSecond
    self.sessions = sessions
    self.memoryBytes = memoryBytes
  }
}

/// How fast the requests of an instance come: smoothed over some seconds, as replicas tell once a second.
package struct RequestRate: Sendable, Equatable {
  static let smoothingMilliseconds = 3_000.0
  package private(set) var perSecond = 0.0
  private var last: (requests: Int, at: Int)?

  package init() {}

  package mutating func look(_ requests: Int, now: Int) {
    guard let last, now > last.at, requests >= last.requests else {
      if last.map({ requests < $0.requests || now < $0.at }) ?? true { last = (requests, now) }
      return
    }
    let elapsed = Double(now - last.at)
    let latest = Double(requests - last.requests) / elapsed * 1_000
    perSecond += (latest - perSecond) * elapsed / (elapsed + Self.smoothingMilliseconds)
    self.last = (requests, now)
  }

  package static func == (a: RequestRate, b: RequestRate) -> Bool {
    a.perSecond == b.perSecond && a.last?.requests == b.last?.requests && a.last?.at == b.last?.at
  }
}

/// Which of its thresholds an instance has reached. The reasons in events and records begin with these words, by which
/// they are counted.
package enum RecycleCause: String, Sendable, CaseIterable {
  case requests = "it has served"
  case sessions = "it has had"
  case age = "it has run for"
  case memory = "it uses"

  func told(_ figures: String) -> String { "\(rawValue) \(figures)" }

  /// nil for a reason that does not stem from ``Recycling``.
  package init?(reason: String) {
    guard let cause = Self.allCases.first(where: { reason.hasPrefix($0.rawValue) }) else { return nil }
    self = cause
  }
}

package enum Recycling {
  // MARK: Thresholds

  /// A threshold as it is for one instance: up to `jitterPercent` lower. Always the same for the same generation of the
  /// same instance, so that neither a second look nor another leader changes it.
  package static func limit(_ threshold: Int, of id: String, generation: Int, jitterPercent: Int) -> Int {
    // FNV-1a over the name, then SplitMix64's finalizer, whose upper bits are as good as drawn.
    var hash: UInt64 = 0xCBF2_9CE4_8422_2325
    for byte in "\(id)#\(generation)".utf8 { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01B3 }
    hash = (hash ^ (hash >> 30)) &* 0xBF58_476D_1CE4_E5B9
    hash = (hash ^ (hash >> 27)) &* 0x94D0_49BB_1331_11EB
    hash ^= hash >> 31
    let drawn = Double(hash >> 11) / Double(UInt64(1) << 53)
    return Swift.max(1, threshold - Int(Double(threshold) * Double(jitterPercent) / 100 * drawn))
  }

  /// Why an instance is to be replaced now; nil when it is good for more.
  /// - Parameter launchMilliseconds: how long its replacement takes to be ready, when that is started first: requests
  ///   that will come meanwhile count already, but for no more than half of the threshold.
  static func reason(_ instance: ObservedInstance, spec: PoolSpec, launchMilliseconds: Int, now: Int) -> String? {
    let policy = spec.recycling
    func limit(_ threshold: Int) -> Int {
      Self.limit(threshold, of: instance.id, generation: instance.generation, jitterPercent: policy.jitterPercent)
    }
    let wear = instance.wear
    let age = now - instance.startedAt
    if policy.afterRequests > 0 {
      let most = limit(policy.afterRequests)
      let ahead = Swift.min(Int(wear.requestsPerSecond * Double(launchMilliseconds) / 1_000), most / 2)
      if wear.requests >= most {
        return RecycleCause.requests.told("\(wear.requests) requests, and was good for \(most)")
      }
      if wear.requests + ahead >= most {
        return RecycleCause.requests.told(
          "\(wear.requests) requests, and \(most) will be reached while its replacement starts")
      }
    }
    if spec.slots > 0, spec.recycleAfterSessions > 0 {
      // At the pool's own number replicas stop using it; to be replaced before that it must have one of its own.
      let most = limit(spec.recycleAfterSessions)
      if most < spec.recycleAfterSessions, wear.sessions >= most {
        return RecycleCause.sessions.told("\(wear.sessions) sessions, and was good for \(most)")
      }
    }
    if policy.afterMilliseconds > 0, age >= limit(policy.afterMilliseconds) {
      return RecycleCause.age.told("\(age / 1_000) s")
    }
    if policy.aboveMemoryMegabytes > 0, age >= policy.memorySettlingMilliseconds {
      let most = limit(policy.aboveMemoryMegabytes)
      let used = wear.memoryBytes / 1_048_576
      if used >= most {
        return RecycleCause.memory.told("\(used) MB of memory, and was to use less than \(most)")
      }
    }
    return nil
  }

  /// When a ready instance is due by its age; nil when it never is.
  private static func dueAt(_ instance: ObservedInstance, spec: PoolSpec) -> Int? {
    guard spec.recycling.afterMilliseconds > 0 else { return nil }
    return instance.startedAt
      + limit(
        spec.recycling.afterMilliseconds, of: instance.id, generation: instance.generation,
        jitterPercent: spec.recycling.jitterPercent)
  }

  // MARK: Drains

  /// What becomes of an instance that drains.
  enum Drain: Equatable {
    case goesOn(lookAgainAt: Int?)
    case isOver(reason: String)
  }

  static func drain(of instance: ObservedInstance, spec: PoolSpec?, now: Int) -> Drain {
    // Sessions of a pool that is no longer declared end at their limits.
    if spec == nil, instance.leases > 0 { return .goesOn(lookAgainAt: nil) }
    let policy = spec?.recycling.drain ?? DrainPolicy(timeoutMilliseconds: DrainPolicy.usualTimeoutMilliseconds)
    // A clock that was set back begins it anew.
    let since = Swift.min(instance.drainingSince ?? now, now)
    let cut = policy.timeoutMilliseconds > 0 ? since + policy.timeoutMilliseconds : nil
    if let cut, now >= cut { return .isOver(reason: "its drain took \(policy.timeoutMilliseconds) ms") }
    if instance.leases > 0 { return .goesOn(lookAgainAt: cut) }
    let earliest = since + policy.minimumMilliseconds
    if now < earliest { return .goesOn(lookAgainAt: earliest) }
    // Clients with slots hold leases; whether others are there only replicas can tell.
    if spec?.slots ?? 0 == 0, instance.replicasUsing > 0 { return .goesOn(lookAgainAt: cut) }
    return .isOver(reason: "it is drained")
  }

  // MARK: Replacements

  /// The replacements of a pool as they stand.
  struct Stand {
    /// Ready instances that have a successor already, starting or ready, by id.
    var successors: [String: ObservedInstance] = [:]

    init(_ instances: [ObservedInstance]) {
      var marked: [String: ObservedInstance] = [:]
      for instance in instances
      where instance.recycling != nil && instance.state == .ready && instance.exited == nil && instance.order == nil {
        marked[instance.id] = instance
      }
      for successor in instances where successor.exited == nil && successor.order == nil {
        guard successor.state == .starting || successor.state == .ready, let id = successor.replaces,
          // The name of one that came later, after a restart.
          let old = marked[id], successor.startedAt >= old.startedAt
        else { continue }
        // Of two the one that is ready counts.
        if successors[id]?.state != .ready { successors[id] = successor }
      }
    }

    /// Those that are as good as gone: their successors count in their place.
    var replaced: Set<String> { Set(successors.keys) }
  }

  /// Adds what is to be done to `decision`, which holds what was decided before: launches for clients come first.
  static func decide(
    spec: PoolSpec, observed: PoolObservation, stand: Stand, launchBudget: Int, now: Int, into decision: inout Decision
  ) {
    let policy = spec.recycling
    let leaving = Set(decision.actions.compactMap(\.instance))
    let instances = observed.instances
    var ready = instances.count { $0.isServing && !leaving.contains($0.id) }
    var launches = decision.actions.count { $0.isLaunch }
    // Those that are on their way out or in, also by what has just been decided. Not counted: who goes while its
    // successor is ready, which nobody misses, and successors.
    var out = instances.count { instance in
      switch instance.state {
      case .starting: !stand.successors.values.contains { $0.id == instance.id }
      case .draining, .stopping: !hasSuccessor(instance, instances)
      case .ready, .unhealthy: instance.exited != nil || leaving.contains(instance.id) || instance.order != nil
      }
    }
    out += observed.restarts.count
    out += decision.actions.count { if case .launch(nil, _) = $0 { true } else { false } }

    // The successor is ready: now it can go.
    for (id, successor) in stand.successors.sorted(by: { $0.key < $1.key }) where !leaving.contains(id) {
      guard let old = instances.first(where: { $0.id == id }), !old.busy, successor.state == .ready, !successor.busy,
        !leaving.contains(successor.id)
      else { continue }
      decision.actions.append(.recycle(id: id, reason: old.recycling ?? ""))
      ready -= 1
    }

    var surges = stand.successors.count
    // Those that have been marked first, then the oldest.
    let candidates = instances.filter {
      $0.isServing && !$0.busy && !leaving.contains($0.id) && !stand.replaced.contains($0.id)
    }
    .sorted { ($0.recycling == nil ? 1 : 0, $0.startedAt, $0.id) < ($1.recycling == nil ? 1 : 0, $1.startedAt, $1.id) }
    for instance in candidates {
      // Without slots left it is replaced by what is decided about the pool's size.
      if spec.slots > 0, instance.freeSlots == nil { continue }
      let canSurge = policy.maxSurge > 0 && !spec.runtime.isFixed
      guard
        let reason = instance.recycling
          ?? reason(
            instance, spec: spec, launchMilliseconds: canSurge ? observed.memory.launches.milliseconds : 0, now: now)
      else {
        if let due = dueAt(instance, spec: spec) { decision.lookAgain(at: due) }
        continue
      }
      let hasRoom = instances.count + launches < spec.max + policy.maxSurge
      if canSurge, surges < policy.maxSurge, hasRoom, launches < launchBudget {
        guard observed.history.mayLaunch(by: spec.restart, now: now) else {
          decision.lookAgain(at: observed.history.nextLaunchAt(by: spec.restart, now: now))
          continue
        }
        let starting = instances.count { $0.state == .starting } + launches
        guard observed.history.launches(of: 1, beside: starting, by: spec.restart) == 1 else { continue }
        decision.actions.append(.replace(id: instance.id, reason: reason))
        surges += 1
        launches += 1
      } else if out < policy.maxUnavailable, ready - 1 >= policy.minReady {
        decision.actions.append(.recycle(id: instance.id, reason: reason))
        out += 1
        ready -= 1
      }
    }
  }

  private static func hasSuccessor(_ old: ObservedInstance, _ instances: [ObservedInstance]) -> Bool {
    instances.contains { $0.replaces == old.id && $0.state == .ready && $0.startedAt >= old.startedAt }
  }
}

extension ObservedInstance {
  /// It takes clients, as far as is known.
  fileprivate var isServing: Bool { state == .ready && exited == nil && order == nil }
}
