// The part of a pool's configuration that says when its instances are replaced. docs/recycling.md explains it.
import Domain
import Routing

extension ControlSettings {
  /// Reads what concerns recycling into a pool whose kind, runtime, slots and size are known.
  func readRecycling(_ spec: inout PoolSpec, _ file: inout FileSection?) throws(SettingsError) {
    let day = 86_400_000
    func number(_ key: String, _ path: WritableKeyPath<PoolSpec, Int>, in range: ClosedRange<Int>) throws(SettingsError)
    {
      if let value = try file?.value(key) { spec[keyPath: path] = try value.int(in: range) }
    }
    try number("recycleAfterRequests", \.recycling.afterRequests, in: 0...1_000_000_000)
    try number("recycleAfterMilliseconds", \.recycling.afterMilliseconds, in: 0...365 * day)
    try number("recycleJitterPercent", \.recycling.jitterPercent, in: 0...90)
    spec.recycling.drain = Self.usualDrain(of: spec)
    try number("drainMinimumMilliseconds", \.recycling.drain.minimumMilliseconds, in: 0...day)
    try number("drainTimeoutMilliseconds", \.recycling.drain.timeoutMilliseconds, in: 0...7 * day)
    if case .fixed(let servers) = spec.runtime {
      // There is no other server that could come first, and nobody knows what memory these use.
      spec.recycling.maxSurge = 0
      spec.recycling.maxUnavailable = 1
      if spec.recycling.hasThresholds, let place = file?.place, !servers.servers.allSatisfy(\.canRestart) {
        throw SettingsError(
          "\(place): recycling needs servers that can be restarted: give each restart, or start and stop")
      }
    } else {
      try number("recycleAboveMemoryMegabytes", \.recycling.aboveMemoryMegabytes, in: 0...10_000_000)
      try number("maxSurge", \.recycling.maxSurge, in: 0...1_000)
      if spec.recycling.maxSurge == 0 { spec.recycling.maxUnavailable = 1 }
    }
    // With one instance and no surge, recycling means that there is none for a while.
    if spec.recycling.maxSurge == 0, spec.max == 1 { spec.recycling.minReady = 0 }
    try number("maxUnavailable", \.recycling.maxUnavailable, in: 0...10_000)
    try number("minReady", \.recycling.minReady, in: 0...10_000)
  }

  /// Sessions end at limits of their own. A browser without them is looked at first (discovery) and connected to then.
  private static func usualDrain(of spec: PoolSpec) -> DrainPolicy {
    guard spec.slots == 0 else { return DrainPolicy() }
    return DrainPolicy(
      minimumMilliseconds: spec.kind == .cdp ? 10_000 : 0, timeoutMilliseconds: DrainPolicy.usualTimeoutMilliseconds)
  }
}
