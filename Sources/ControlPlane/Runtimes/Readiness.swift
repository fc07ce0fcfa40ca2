// Waits until an instance in a container answers as itself, and finds out who answers there. Used by the runtimes whose
// instances are containers, whoever starts those.
import Domain
import JSON
import Routing

enum Readiness {
  private static let pollMilliseconds = 20

  /// Asks until it answers; its browser GUID for kind `cdp`.
  /// - Parameters:
  ///   - ended: how its container ended, if it has.
  ///   - lines: the end of its log, for the failure.
  static func wait(
    for record: InstanceRecord, spec: PoolSpec, milliseconds: Int, ended: () -> InstanceExit?,
    lines: () async -> [String]
  ) async throws(LaunchFailure) -> String? {
    let deadline = Deadline(milliseconds: milliseconds)
    var reason = "it did not answer"
    while true {
      if let exit = ended() {
        throw LaunchFailure(.other, "its container ended before it was ready: \(exit)", log: await lines())
      }
      let left = min(max(1, deadline.millisecondsLeft), spec.health.timeoutMilliseconds)
      let answer = await BlockingPool.shared.run { ask(record, spec: spec, Deadline(milliseconds: left)) }
      switch answer {
      case .success(let browser):
        // Nobody else gets the port while the container runs.
        if ended() == nil { return browser }
      case .failure(let error): reason = error.description
      }
      if deadline.hasPassed {
        throw LaunchFailure(.other, "it was not ready within \(milliseconds) ms: \(reason)", log: await lines())
      }
      do {
        try await Task.sleep(for: .milliseconds(pollMilliseconds))
      } catch {
        throw LaunchFailure(.other, "the launch was given up")
      }
    }
  }

  private static func ask(
    _ record: InstanceRecord, spec: PoolSpec, _ deadline: Deadline
  ) -> Result<String?, ProbeError> {
    do throws(ProbeError) {
      return .success(try HealthProbe.identify(record.host, record.port, spec: spec, deadline: deadline))
    } catch {
      return .failure(error)
    }
  }

  /// With the browser that answers there, for a Redis that has lost everything.
  static func identified(_ record: InstanceRecord, pools: [PoolSpec], kind: String?) async -> InstanceRecord {
    guard kind == PoolKind.cdp.rawValue else { return record }
    var record = record
    let (host, port) = (record.host, record.port)
    let spec =
      pools.first { $0.name == record.pool && $0.kind == .cdp }
      ?? PoolSpec(name: record.pool, kind: .cdp, runtime: .process(ProcessSpec()))
    record.browser = await BlockingPool.shared.run {
      try? HealthProbe.identify(host, port, spec: spec, deadline: Deadline(milliseconds: 1_000))
    }
    // One that does not answer yet has to prove itself like any other.
    if record.browser == nil { record.state = .starting }
    return record
  }
}

/// The seccomp profiles of the pools that have their own.
enum SeccompProfiles {
  /// Their texts by pool: JSON, or the word `unconfined`.
  static func read(for pools: [PoolSpec]) throws(LaunchFailure) -> [String: String] {
    var profiles: [String: String] = [:]
    for pool in pools {
      guard let file = pool.runtime.container?.seccomp else { continue }
      profiles[pool.name] = try read(file, pool: pool.name)
    }
    return profiles
  }

  private static func read(_ file: String, pool: String) throws(LaunchFailure) -> String {
    if file == "unconfined" { return file }
    guard let bytes = Kernel.read(file) else {
      throw LaunchFailure(.other, "pool \(pool): the seccomp profile \(file) cannot be read")
    }
    guard let json = try? JSON(parsing: bytes), json["defaultAction"] != nil else {
      throw LaunchFailure(.other, "pool \(pool): \(file) is no seccomp profile: it must be JSON with a defaultAction")
    }
    return json.text
  }
}
