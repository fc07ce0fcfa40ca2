// The pools of the configuration file. Without any there is one pool of Chromes.
import Domain
import Routing

extension ControlSettings {
  /// The pool that is there when the configuration declares none.
  private static let defaultPool = "chrome"

  mutating func readPools(_ top: inout FileSection?) throws(SettingsError) {
    if var declared = try top?.section("pools") {
      for name in declared.names {
        guard PoolSpec.isName(name) else {
          throw SettingsError(
            "\(declared.place(of: name)): a pool's name must be 1 to 40 lower-case letters, digits, - or _")
        }
        var section = try declared.section(name)
        pools.append(try pool(name, &section))
      }
      guard !pools.isEmpty else { throw SettingsError("\(declared.place): at least one pool must be declared") }
    } else {
      var none: FileSection?
      pools = [try pool(Self.defaultPool, &none)]
    }
  }

  private func pool(_ name: String, _ file: inout FileSection?) throws(SettingsError) -> PoolSpec {
    let kind = try file?.value("kind").map { (value) throws(SettingsError) in try value.choice(PoolKind.self) } ?? .cdp
    let runtimeName =
      try file?.value("runtime").map { (value) throws(SettingsError) in try value.choice(RuntimeName.self) } ?? .process
    let place = file?.place ?? "pools.\(name)"
    let runtime = try runtime(runtimeName, kind: kind, &file)
    // A Chrome serves one client and is thrown away; any other server serves everybody for as long as it runs.
    var spec = PoolSpec(
      name: name, kind: kind, runtime: runtime, slots: kind == .http ? 0 : 1,
      recycleAfterSessions: kind == .http ? 0 : 1,
      sessions: SessionLimits(hardMilliseconds: sessionTimeoutMilliseconds))

    func number(_ key: String, _ path: WritableKeyPath<PoolSpec, Int>, in range: ClosedRange<Int>) throws(SettingsError)
    {
      if let value = try file?.value(key) { spec[keyPath: path] = try value.int(in: range) }
    }
    let day = 86_400_000
    try number("slots", \.slots, in: 0...10_000)
    // One that several share is not thrown away after the first of them.
    if spec.slots != 1 { spec.recycleAfterSessions = 0 }
    if case .fixed(let servers) = runtime {
      Self.settle(&spec, servers: servers)
    } else {
      try number("min", \.min, in: 0...10_000)
      try number("max", \.max, in: 1...10_000)
      try number("spare", \.spare, in: 0...10_000)
    }
    try number("recycleAfterSessions", \.recycleAfterSessions, in: 0...1_000_000_000)
    try readRecycling(&spec, &file)
    try number("hardLimitMilliseconds", \.sessions.hardMilliseconds, in: SessionLimits.shortestMilliseconds...30 * day)
    try number("hardLimitMaximumMilliseconds", \.sessions.hardMaximumMilliseconds, in: 0...30 * day)
    try number("graceMaximumMilliseconds", \.sessions.graceMaximumMilliseconds, in: 0...day)
    try number("idleLimitMilliseconds", \.sessions.idleMilliseconds, in: 0...30 * day)
    try number("reservationMilliseconds", \.sessions.reservationMilliseconds, in: 100...600_000)
    try number("graceMilliseconds", \.sessions.graceMilliseconds, in: 0...day)
    try number("queueTimeoutMilliseconds", \.queue.timeoutMilliseconds, in: 0...day)
    try number("queueLimit", \.queue.limit, in: 0...1_000_000)
    try number("launchTimeoutMilliseconds", \.launchTimeoutMilliseconds, in: 100...3_600_000)
    try number("stopGraceMilliseconds", \.stopGraceMilliseconds, in: 0...600_000)
    try number("scaleDownAfterMilliseconds", \.scaling.downAfterMilliseconds, in: 0...day)
    try number("targetActive", \.scaling.targetActive, in: 0...1_000_000)
    try number("healthIntervalMilliseconds", \.health.intervalMilliseconds, in: 100...3_600_000)
    try number("healthTimeoutMilliseconds", \.health.timeoutMilliseconds, in: 10...60_000)
    try number("healthFailures", \.health.failures, in: 1...1_000)
    try number("healthSuccesses", \.health.successes, in: 1...1_000)
    try number("healthFailuresBeforeReplacement", \.health.failuresBeforeReplacement, in: 1...10_000)
    try number("healthTCPIntervalMilliseconds", \.health.tcp.intervalMilliseconds, in: 0...3_600_000)
    try number("healthTCPTimeoutMilliseconds", \.health.tcp.timeoutMilliseconds, in: 10...60_000)
    try number("healthTCPFailures", \.health.tcp.failures, in: 1...1_000)
    try number("healthCDPIntervalMilliseconds", \.health.cdp.intervalMilliseconds, in: 0...3_600_000)
    try number("healthCDPTimeoutMilliseconds", \.health.cdp.timeoutMilliseconds, in: 10...60_000)
    try number("healthCDPFailures", \.health.cdp.failures, in: 1...1_000)
    try number("restartInitialMilliseconds", \.restart.initialMilliseconds, in: 0...600_000)
    try number("restartMaximumMilliseconds", \.restart.maximumMilliseconds, in: 0...day)
    try number("restartStableAfterMilliseconds", \.restart.stableAfterMilliseconds, in: 0...day)
    try number("restartCrashLoopAfter", \.restart.crashLoopAfter, in: 1...1_000)
    if let value = try file?.value("healthPath") {
      guard value.text.hasPrefix("/"), !value.text.contains(where: { $0 == " " || $0.isNewline }) else {
        throw value.wrong("a path that begins with /")
      }
      spec.health.path = value.text
    }
    spec.launches = try Self.launchPolicy(&file, runtime)
    var record = spec.record
    try file?.record { (fields: inout Fields) throws(RecordError) in
      try record.readBalancing(&fields)
      try record.readReporting(&fields)
    }
    spec.balancing = record.balancing
    try file?.finish()
    if case .fixed(let servers) = runtime, spec.recycleAfterSessions > 0,
      !servers.servers.allSatisfy(\.canRestart)
    {
      throw SettingsError(
        "\(place): recycleAfterSessions needs servers that can be restarted: give each restart, or start and stop")
    }
    if let contradiction = spec.contradiction { throw SettingsError("\(place): \(contradiction)") }
    return spec
  }
}
