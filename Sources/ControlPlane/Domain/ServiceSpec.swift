// What an operator declares about a swarm: its managers, and what a pool's services are like beyond their containers.
// Settings makes both from the configuration; the Swarm runtime carries them out.

/// The swarm of a deployment.
package struct SwarmSettings: Sendable, Equatable {
  /// Marks the services of this deployment in a swarm that others use too.
  package var owner: String
  /// Names the swarm in the label `host` of instances and in Redis' keys of ports.
  package var name: String
  /// Where its managers listen; one after the other is asked until one answers.
  package var managers: [EngineEndpoint]
  /// Where replicas reach the ports of nodes that are not reached at the address that Swarm knows, by name or id.
  package var addresses: [String: String]
  /// Of all nodes: which one a task comes to is known only after its port was chosen.
  package var portRange: ClosedRange<Int>
  /// How long a node may be down, or all managers out of reach, before it is no longer waited for.
  package var graceMilliseconds: Int
  /// Instances that may be there at once.
  package var capacity: Int
  /// Instances that may start there at the same time.
  package var concurrentLaunches: Int

  package init(
    owner: String, name: String = "swarm", managers: [EngineEndpoint], addresses: [String: String] = [:],
    portRange: ClosedRange<Int>, graceMilliseconds: Int = 60_000, capacity: Int = 200, concurrentLaunches: Int = 8
  ) {
    self.owner = owner
    self.name = name
    self.managers = managers
    self.addresses = addresses
    self.portRange = portRange
    self.graceMilliseconds = graceMilliseconds
    self.capacity = capacity
    self.concurrentLaunches = concurrentLaunches
  }
}

/// What the services of a pool are like, one for each instance.
package struct ServiceSpec: Sendable, Equatable {
  package var container: ContainerSpec
  /// Where Swarm may place them, e.g. `node.labels.browsers==true`; none = on every node.
  package var constraints: [String] = []
  /// What the scheduler sets aside on the node for each; nil = as much as the container may use.
  package var reservedMegabytes: Int?
  package var reservedMilliCPUs: Int?

  package init(container: ContainerSpec) { self.container = container }
}

/// A directory in memory as a service can have it: of the options that `mount` knows, only these.
package struct MemoryMount: Sendable, Equatable {
  package var sizeBytes: Int?
  package var mode: Int?

  /// Reads e.g. `size=512m,mode=1777`; nil when it says anything else.
  package init?(options: String) {
    for option in options.split(separator: ",") {
      let parts = option.split(separator: "=", maxSplits: 1)
      guard parts.count == 2 else { return nil }
      switch parts[0] {
      case "size":
        guard let bytes = Self.bytes(parts[1]) else { return nil }
        sizeBytes = bytes
      case "mode":
        guard let bits = Int(parts[1], radix: 8), (0...0o7777).contains(bits) else { return nil }
        mode = bits
      default: return nil
      }
    }
  }

  private static func bytes(_ text: Substring) -> Int? {
    let units: [(Character, Int)] = [("k", 10), ("m", 20), ("g", 30)]
    let unit = units.first { text.lowercased().last == $0.0 }
    guard let number = Int(unit == nil ? text : text.dropLast()), (1...1 << 30).contains(number) else { return nil }
    return number << (unit?.1 ?? 0)
  }
}
