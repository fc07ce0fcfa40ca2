// How an instance is chosen for a request to a pool without exclusive slots, and the load that one strategy goes by.

/// What a route's `strategy` may be. docs/configuration.md says when each one is right.
package enum Strategy: String, Sendable, CaseIterable {
  /// In turn by weight, each worker for itself.
  case roundRobin = "round_robin"
  /// In turn over all replicas: workers take blocks of one index that Redis counts.
  case globalRoundRobin = "global_round_robin"
  /// The fewest requests under way for its weight.
  case leastConnections = "least_connections"
  /// The better of two that are drawn at random ("power of two choices").
  case powerOfTwo = "p2c"
  case random
  /// By the client's address, consistently: few clients move when instances come or go.
  case ipHash = "ip_hash"
  /// By a header of the request (`hashOn`), consistently.
  case headerHash = "header_hash"
  /// By a cookie of the request (`hashOn`), consistently.
  case cookieHash = "cookie_hash"
  /// The shortest time to a response of late, for the requests under way.
  case responseTime = "response_time"
  /// The least CPU and memory in use, as the control plane measures it.
  case resources = "resources"

  /// Whether it needs the name of a header or cookie.
  package var needsHashOn: Bool { self == .headerHash || self == .cookieHash }
}

/// How busy an instance is: CPU in percent of its limit, or without one of one processor (more than 100 when it keeps several
/// busy), memory in percent of its limit, or of its host without one. The control plane writes it to `berth:load`, replicas read it for the
/// strategy `resources`.
package struct InstanceLoad: Sendable, Equatable {
  package var cpuPercent: Double
  package var memoryPercent: Double

  package init(cpuPercent: Double, memoryPercent: Double) {
    self.cpuPercent = cpuPercent
    self.memoryPercent = memoryPercent
  }

  /// Reads `cpu memory`, e.g. `12.5 40`; nil when it is anything else.
  package init?(text: String) {
    let words = text.split(separator: " ", omittingEmptySubsequences: false)
    guard words.count == 2, let cpu = Double(words[0]), let memory = Double(words[1]),
      cpu >= 0, cpu < .infinity, memory >= 0, memory < .infinity
    else { return nil }
    self.init(cpuPercent: cpu, memoryPercent: memory)
  }

  /// With one decimal, as finer differences are noise.
  package var text: String { Self.text(cpuPercent) + " " + Self.text(memoryPercent) }

  private static func text(_ percent: Double) -> String { "\((percent * 10).rounded() / 10)" }
}
