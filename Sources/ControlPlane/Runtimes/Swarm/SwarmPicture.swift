// What is known of a swarm: our services, their tasks and the nodes, and what follows from it when a new look is taken:
// which instance has ended, and why. A value without I/O and clock; Swarm keeps one and SwarmWatch feeds it.
package import JSON

/// One run of a service's container on a node. Ours has no second one: Swarm is told never to start it again.
package struct SwarmTask: Sendable, Equatable {
  package var id: String
  package var service: String
  package var instance: String
  /// nil until it was placed.
  package var node: String?
  package var state: String
  package var wanted: String
  /// What went wrong, in Swarm's words.
  package var error: String?
  package var container: String?
  package var exitCode: Int?
  package var memoryBytes: Int?
  package var milliCPUs: Int?

  /// Reads an entry of `/tasks`; nil when it is not one of ours.
  package init?(_ entry: JSON) {
    let spec = entry["Spec"]
    guard let id = entry["ID"]?.string, let service = entry["ServiceID"]?.string,
      let instance = spec?["ContainerSpec"]?["Labels"]?[ContainerLabels.instance]?.string,
      let state = entry["Status"]?["State"]?.string
    else { return nil }
    self.id = id
    self.service = service
    self.instance = instance
    self.state = state
    func text(_ json: JSON?) -> String? { json?.string.flatMap { $0.isEmpty ? nil : $0 } }
    func positive(_ json: JSON?) -> Int? { json?.int.flatMap { $0 > 0 ? $0 : nil } }
    node = text(entry["NodeID"])
    wanted = entry["DesiredState"]?.string ?? ""
    error = text(entry["Status"]?["Err"])
    let status = entry["Status"]?["ContainerStatus"]
    container = text(status?["ContainerID"])
    exitCode = status?["ExitCode"]?.int
    let limits = spec?["Resources"]?["Limits"]
    memoryBytes = positive(limits?["MemoryBytes"])
    milliCPUs = positive(limits?["NanoCPUs"]).map { max(1, $0 / 1_000_000) }
  }

  /// Docker Engine API, TaskState: it will never run again.
  package var isOver: Bool {
    ["complete", "shutdown", "failed", "rejected", "remove", "orphaned"].contains(state)
  }
  package var isRunning: Bool { state == "running" }
  /// The scheduler has found no node so far.
  package var isUnplaced: Bool { node == nil && !isOver }

  /// How it ended; nil while it has not.
  package func exit(node name: String) -> InstanceExit? {
    switch state {
    case "complete": return InstanceExit(status: exitCode ?? 0)
    case "failed":
      let usual = "task: non-zero exit (\(exitCode ?? 0))"
      guard let error, !error.hasPrefix(usual) else {
        let more = error?.dropFirst(usual.count) ?? ""
        return InstanceExit(status: exitCode, reason: "its container exited with status \(exitCode ?? 0)\(more)")
      }
      // Before a container has run, its status is none of its own.
      return InstanceExit(reason: "its task failed on node \(name): \(error)")
    case "rejected": return InstanceExit(reason: "node \(name) refused its task: \(error ?? "without a reason")")
    case "shutdown", "remove", "orphaned":
      return InstanceExit(
        reason: "Swarm ended its task (node \(name) was drained or was down, or somebody scaled its service)"
          + (error.map { ": \($0)" } ?? ""))
    default: return nil
    }
  }
}

/// A machine of the swarm.
package struct SwarmNode: Sendable, Equatable {
  package var id: String
  package var name: String
  /// Where it is reached; nil = Swarm does not say.
  package var address: String?
  package var isDown: Bool
  /// Since when it was seen to be down without a break, milliseconds of the monotonic clock.
  package var downSince: Int?

  /// One that Swarm does not list any more.
  package init(missing id: String) {
    self.id = id
    name = id
    isDown = true
  }

  /// Reads an entry of `/nodes`.
  package init?(_ entry: JSON) {
    guard let id = entry["ID"]?.string else { return nil }
    self.id = id
    name = entry["Description"]?["Hostname"]?.string.flatMap { $0.isEmpty ? nil : $0 } ?? id
    let state = entry["Status"]?["State"]?.string
    isDown = state == "down" || state == "disconnected"
    // A manager that leads says 0.0.0.0 of itself, and what the others know of it stands elsewhere.
    let manager = entry["ManagerStatus"]?["Addr"]?.string.map(Self.host)
    address = [entry["Status"]?["Addr"]?.string, manager].compactMap { $0 }.first(where: Self.isSpecific)
  }

  private static func isSpecific(_ address: String) -> Bool { !["", "0.0.0.0", "::", "<nil>"].contains(address) }

  /// Of `10.0.0.7:2377` or `[fd00::7]:2377`.
  private static func host(_ address: String) -> String {
    guard let colon = address.lastIndex(of: ":") else { return address }
    return String(address[..<colon].filter { $0 != "[" && $0 != "]" })
  }
}

/// Why Swarm's scheduler has found no node, as it says itself.
package enum SwarmRefusal {
  package static func cause(_ error: String) -> LaunchFailure.Cause {
    // The scheduler's word, and those of the engine's proxy and allocator on the node.
    let taken = ["host-mode port already in use", "port is already allocated", "address already in use"]
    if taken.contains(where: { error.contains($0) }) { return .portTaken }
    return error.contains("no suitable node") ? .noRoom : .other
  }
}

/// All of it.
package struct SwarmPicture: Sendable, Equatable {
  package struct Service: Sendable, Equatable {
    package var instance: String
    /// Swarm makes it a moment after the service.
    package var task: SwarmTask?
    package var exit: InstanceExit?
  }

  package private(set) var services: [String: Service] = [:]
  package private(set) var nodes: [String: SwarmNode] = [:]
  /// All tasks of ours, also of services that are being removed.
  package private(set) var tasks: [SwarmTask] = []

  package static let removed = InstanceExit(reason: "its service was removed")

  package init() {}

  /// A service is there of which no task may be known yet.
  package mutating func expect(_ id: String, instance: String) {
    if services[id] == nil { services[id] = Service(instance: instance) }
  }

  package mutating func forget(_ id: String) { services[id] = nil }

  package func name(of node: String?) -> String { node.map { nodes[$0]?.name ?? $0 } ?? "?" }

  /// Takes a list of tasks as the truth about all that were known before it was asked for. Returns what has ended since.
  package mutating func see(tasks seen: [SwarmTask], before: Set<String>) -> [String: InstanceExit] {
    tasks = seen
    var ended: [String: InstanceExit] = [:]
    for task in seen {
      expect(task.service, instance: task.instance)
      // Should there be several, the one that lives counts.
      if let known = services[task.service]?.task, known.id != task.id, task.isOver { continue }
      services[task.service]?.task = task
      guard services[task.service]?.exit == nil, let exit = task.exit(node: name(of: task.node)) else { continue }
      services[task.service]?.exit = exit
      ended[task.service] = exit
    }
    let there = Set(seen.map(\.service))
    for id in before where !there.contains(id) {
      if let service = services[id], service.task == nil { continue }
      ended[id] = services[id]?.exit ?? Self.removed
      services[id] = nil
    }
    return ended
  }

  package mutating func see(nodes seen: [SwarmNode], now: Int) {
    var next: [String: SwarmNode] = [:]
    for node in seen { next[node.id] = node }
    for id in Set(tasks.compactMap(\.node)) where next[id] == nil { next[id] = SwarmNode(missing: id) }
    for (id, node) in next where node.isDown { next[id]?.downSince = nodes[id]?.downSince ?? now }
    nodes = next
  }

  /// Whether a node has been down for longer than it is waited for.
  package func isGone(_ node: String?, now: Int, graceMilliseconds: Int) -> Bool {
    guard let node, let since = nodes[node]?.downSince else { return false }
    return now - since >= graceMilliseconds
  }

  /// Ends what runs on nodes that are gone. Returns what has ended by that.
  package mutating func giveUp(now: Int, graceMilliseconds: Int) -> [String: InstanceExit] {
    var ended: [String: InstanceExit] = [:]
    for (id, service) in services where service.exit == nil {
      guard isGone(service.task?.node, now: now, graceMilliseconds: graceMilliseconds) else { continue }
      let exit = InstanceExit(
        reason: "its node \(name(of: service.task?.node)) has been down for \(graceMilliseconds / 1_000) seconds")
      services[id]?.exit = exit
      ended[id] = exit
    }
    return ended
  }

  /// Whether something of an instance still runs, or may come to run, where that is waited for.
  package func holds(instance: String, service: String?, now: Int, graceMilliseconds: Int) -> Bool {
    tasks.contains { task in
      (task.instance == instance || task.service == service) && !task.isOver
        && !isGone(task.node, now: now, graceMilliseconds: graceMilliseconds)
    }
  }
}
