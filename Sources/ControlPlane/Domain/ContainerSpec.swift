// What an operator declares about containers: the engines that run them, and what a pool's containers are like. Settings
// makes both from the configuration; the Docker runtime carries them out.

/// The container engines of a deployment.
package struct EngineSettings: Sendable, Equatable {
  /// Marks the containers of this deployment on engines that others use too.
  package var owner: String
  /// How long an engine may be out of reach before its instances count as gone.
  package var graceMilliseconds: Int
  package var hosts: [EngineHost]

  package init(owner: String, graceMilliseconds: Int = 60_000, hosts: [EngineHost]) {
    self.owner = owner
    self.graceMilliseconds = graceMilliseconds
    self.hosts = hosts
  }
}

/// One engine, and what Berth may have of it.
package struct EngineHost: Sendable, Equatable {
  package var name: String
  package var endpoint: EngineEndpoint
  /// Where replicas reach the ports that this engine publishes.
  package var address: String
  /// The address of the engine's host that ports are published on.
  package var bind: String
  package var portRange: ClosedRange<Int>
  /// Instances that may be there at once.
  package var capacity: Int
  /// Instances that may start there at the same time.
  package var concurrentLaunches: Int

  package init(
    name: String, endpoint: EngineEndpoint, address: String = "127.0.0.1", bind: String = "127.0.0.1",
    portRange: ClosedRange<Int>, capacity: Int = 50, concurrentLaunches: Int = 2
  ) {
    self.name = name
    self.endpoint = endpoint
    self.address = address
    self.bind = bind
    self.portRange = portRange
    self.capacity = capacity
    self.concurrentLaunches = concurrentLaunches
  }
}

/// Where an engine listens.
package enum EngineEndpoint: Sendable, Equatable, CustomStringConvertible {
  case unix(path: String)
  case tcp(host: String, port: Int, tls: EngineTLS?)

  package var description: String {
    switch self {
    case .unix(let path): "unix://\(path)"
    case .tcp(let host, let port, _): "tcp://\(host.contains(":") ? "[\(host)]" : host):\(port)"
    }
  }

  /// Reads `unix:///path`, `tcp://host:port` and `tcp://[v6]:port`.
  package init?(_ text: String, tls: EngineTLS? = nil) {
    if text.hasPrefix("unix://") {
      let path = String(text.dropFirst("unix://".count))
      // An address of a socket has 108 bytes, one of them for its end.
      guard path.hasPrefix("/"), path.utf8.count <= 107, tls == nil else { return nil }
      self = .unix(path: path)
      return
    }
    guard text.hasPrefix("tcp://") else { return nil }
    let rest = text.dropFirst("tcp://".count)
    guard let colon = rest.lastIndex(of: ":"), let port = Int(rest[rest.index(after: colon)...]),
      (1...65_535).contains(port)
    else { return nil }
    var host = rest[..<colon]
    if host.hasPrefix("["), host.hasSuffix("]") {
      host = host.dropFirst().dropLast()
    } else if host.contains(":") {
      return nil
    }
    guard !host.isEmpty, !host.contains(where: { "/ []@?#".contains($0) }) else { return nil }
    self = .tcp(host: String(host), port: port, tls: tls)
  }
}

/// Files in PEM with which an engine and this control plane know each other.
package struct EngineTLS: Sendable, Equatable {
  /// nil = the system's trust store.
  package var caFile: String?
  package var certificateFile: String
  package var keyFile: String

  package init(caFile: String?, certificateFile: String, keyFile: String) {
    self.caFile = caFile
    self.certificateFile = certificateFile
    self.keyFile = keyFile
  }
}

/// What the containers of a pool are like. `{port}` and `{id}` in arguments and environment values stand for the port
/// inside of the container and the instance's id.
package struct ContainerSpec: Sendable, Equatable {
  package enum Pull: String, Sendable, CaseIterable { case missing, never }

  package var image: String
  package var pull = Pull.missing
  /// After the image's entry point; none = the image's own.
  package var arguments: [String] = []
  package var environment: [String: String] = [:]
  /// Where the server listens inside.
  package var port = 9_222
  /// The engines that may run it; none = all.
  package var hosts: [String] = []
  /// 0 = no limit.
  package var memoryMegabytes = 2_048
  /// Thousandths of a processor; 0 = no limit.
  package var milliCPUs = 0
  package var pids = 1_024
  /// A /dev/shm of 64 MB, the engine's default, crashes tabs.
  package var shmMegabytes = 1_024
  /// A file with a seccomp profile; nil = the engine's own, `unconfined` = none.
  package var seccomp: String?
  package var readOnly = false
  /// Directories in memory, with their options.
  package var tmpfs: [String: String] = [:]
  /// nil = the image's.
  package var user: String?
  /// Those that are kept of the engine's default ones.
  package var capabilities: [String] = []
  /// nil = the engine's default bridge.
  package var network: String?
  package var logDriver = "json-file"
  package var logOptions: [String: String] = ["max-size": "10m", "max-file": "1"]

  package init(image: String) { self.image = image }
}

/// Where a new container goes: a pure function of what is known about the engines.
package enum Placement {
  /// One engine at this moment.
  package struct Candidate: Sendable, Equatable {
    package var name: String
    /// Why it can take nothing now; nil = it can.
    package var trouble: String?
    package var capacity: Int
    /// Instances that are there or on their way, also out.
    package var used: Int
    /// The greater share of processors and memory that instances use, 0...1.
    package var load: Double
    /// Instances that start there, and how many may at the same time.
    package var launching: Int
    package var concurrentLaunches: Int

    package init(
      name: String, trouble: String? = nil, capacity: Int, used: Int, load: Double = 0, launching: Int = 0,
      concurrentLaunches: Int = .max
    ) {
      self.name = name
      self.trouble = trouble
      self.capacity = capacity
      self.used = used
      self.load = load
      self.launching = launching
      self.concurrentLaunches = concurrentLaunches
    }

    var free: Int { Swift.max(0, capacity - used) }
    var canLaunch: Bool { launching < concurrentLaunches }
  }

  /// Why there is no place, as a sentence.
  package struct NoPlace: Error, Equatable, Sendable {
    package let reason: String
    /// Some have room, but as many launches under way as they can bear.
    package let isOnlyForNow: Bool
    package init(reason: String, isOnlyForNow: Bool = false) {
      self.reason = reason
      self.isOnlyForNow = isOnlyForNow
    }
  }

  /// Of those that can be reached and have room, the one with the most room; of equals the least loaded one; of equals
  /// the first by name, so that the answer does not depend on the order.
  package static func choose(_ candidates: [Candidate]) throws(NoPlace) -> String {
    let roomy = candidates.filter { $0.trouble == nil && $0.free > 0 }
    let best = roomy.filter(\.canLaunch).min { a, b in
      if a.free != b.free { return a.free > b.free }
      if a.load != b.load { return a.load < b.load }
      return a.name < b.name
    }
    if let best { return best.name }
    if !roomy.isEmpty { throw NoPlace(reason: "every engine with room has its launches", isOnlyForNow: true) }
    let reasons = candidates.sorted { $0.name < $1.name }.map { candidate in
      candidate.trouble.map { "\(candidate.name): \($0)" }
        ?? "\(candidate.name) has its \(candidate.capacity) instances"
    }
    throw NoPlace(reason: "no engine can take it: " + reasons.joined(separator: "; "))
  }
}
