// An instance's birth: port → record → process → proof → ready. Every way out that is not ready gives back the port and
// leaves no process, and who it belongs to is on record before it exists, so that a crash at any point leaks nothing.
import Domain
import Logging
import Posix
import Reconciler
import Redis
import Routing
import Runtimes
import State

extension Supervisor {
  /// Ports that are tried before a launch fails; each that is taken is put aside.
  private static let portAttempts = 8
  /// How long a port that something else has is put aside; a closed listener's last connections linger as long.
  private static let quarantineMilliseconds = 60_000

  /// Begins a launch; returns at once.
  func launch(_ spec: PoolSpec, restart: Restart?) {
    let id = restart?.id ?? newName(spec.name)
    if let restart { pools[spec.name]?.restarts.removeAll { $0 == restart } }
    let record = InstanceRecord(
      id: id, pool: spec.name, host: configuration.address, port: 0, generation: restart?.generation ?? 1,
      state: .starting, slots: spec.slots, startedAt: Clock.unixMilliseconds,
      labels: [Self.hostLabel: configuration.host])
    insert(record)
    instances[id]?.busy = true
    guard let token = instances[id]?.token else { return }
    Task { await self.performLaunch(id, token: token, spec: spec) }
  }

  /// A name that no instance has: the pool's, and eight hexadecimal digits.
  private func newName(_ pool: String) -> String {
    while true {
      let digits = String(UInt32.random(in: 0...UInt32.max), radix: 16)
      let name = pool + "-" + String(repeating: "0", count: 8 - digits.count) + digits
      if instances[name] == nil { return name }
    }
  }

  /// The entry of a launch, unless somebody else has taken it over.
  private func entry(_ id: String, _ token: Int) -> Managed? { instances[id].flatMap { $0.token == token ? $0 : nil } }

  private func performLaunch(_ id: String, token: Int, spec: PoolSpec) async {
    let started = ContinuousClock.now
    for _ in 0..<Self.portAttempts {
      guard entry(id, token) != nil else { return }
      let port: Int
      do throws(RedisError) {
        guard let free = try await redis.run(ports.allocate(owner: id, now: Clock.unixMilliseconds)) else {
          let range = configuration.portRange
          await giveUp(
            id, token, spec,
            "all ports from \(range.lowerBound) to \(range.upperBound) are taken; make the range larger")
          return
        }
        port = free
      } catch {
        // Redis is away: not the pool's fault, the next look tries again.
        logger.debug("no port", metadata: ["instance": "\(id)", "error": "\(error)"])
        forget(id, token)
        return
      }
      let conflict = await BlockingPool.shared.run { BindProbe.conflict(port: port) }
      if let conflict {
        await quarantine(port, of: id, reason: conflict)
        continue
      }
      switch await attempt(id, token: token, spec: spec, port: port) {
      case .ready:
        let milliseconds = (ContinuousClock.now - started).milliseconds
        logger.info(
          "instance ready", metadata: ["instance": "\(id)", "port": "\(port)", "milliseconds": "\(milliseconds)"])
        return
      case .failed(let failure) where failure.cause == .portTaken:
        guard let record = entry(id, token)?.record else { return }
        _ = await runtime.stop(record, kind: spec.kind, graceMilliseconds: 0, force: true)
        await quarantine(port, of: id, reason: failure.description)
        instances[id]?.record.pid = nil
        instances[id]?.record.pidStart = nil
      case .failed(let failure):
        await giveUp(id, token, spec, failure.description)
        return
      case .notOurs:
        return
      }
    }
    await giveUp(id, token, spec, "\(Self.portAttempts) ports in a row are taken by something else")
  }

  private enum Outcome {
    case ready
    case failed(LaunchFailure)
    /// Another leader has taken over: process, port and record are its business.
    case notOurs
  }

  private func attempt(_ id: String, token: Int, spec: PoolSpec, port: Int) async -> Outcome {
    guard entry(id, token) != nil else { return .notOurs }
    instances[id]?.record.port = port
    instances[id]?.isUnsaved = true
    await save(id)
    guard let saved = entry(id, token) else { return .notOurs }
    guard !saved.isUnsaved else {
      // Redis is away: not the pool's fault, and nothing exists yet but a port that will be reclaimed.
      forget(id, token)
      return .notOurs
    }
    let identity: ProcessIdentity
    do throws(LaunchFailure) {
      identity = try await runtime.launch(LaunchPlan(id: id, spec: spec, port: port))
    } catch {
      return .failed(error)
    }
    guard entry(id, token) != nil else { return .notOurs }
    instances[id]?.record.pid = identity.pid
    instances[id]?.record.pidStart = identity.start
    instances[id]?.isUnsaved = true
    if let record = entry(id, token)?.record { await runtime.remember(record) }
    await save(id)
    return await proof(id, token: token, spec: spec)
  }

  /// Waits until the instance answers, and makes it ready.
  private func proof(_ id: String, token: Int, spec: PoolSpec) async -> Outcome {
    guard let record = entry(id, token)?.record else { return .notOurs }
    let elapsed = max(0, Clock.unixMilliseconds - record.startedAt)
    let left = max(1, spec.launchTimeoutMilliseconds - elapsed)
    let browser: String?
    do throws(LaunchFailure) {
      browser = try await runtime.awaitReady(record, spec: spec, milliseconds: left)
    } catch {
      return entry(id, token) == nil ? .notOurs : .failed(error)
    }
    guard entry(id, token) != nil, instances[id]?.apply(.answered, reason: "") == true else { return .notOurs }
    instances[id]?.record.browser = browser
    instances[id]?.busy = false
    instances[id]?.nextCheck = .now + .milliseconds(spec.health.intervalMilliseconds)
    pools[spec.name, default: PoolMemory()].history.succeeded()
    watch(id)
    if let record = instances[id]?.record { await runtime.remember(record) }
    await save(id)
    bell.ring()
    return .ready
  }

  /// Goes on with a launch whose control plane died after the start of the process.
  func resumeLaunch(_ id: String, spec: PoolSpec) {
    guard let token = instances[id]?.token else { return }
    instances[id]?.busy = true
    Task {
      switch await self.proof(id, token: token, spec: spec) {
      case .ready: self.logger.info("an interrupted launch is done", metadata: ["instance": "\(id)"])
      case .failed(let failure): await self.giveUp(id, token, spec, failure.description)
      case .notOurs: break
      }
    }
  }

  /// A launch has failed: everything of it goes, and the pool waits a little before the next one.
  private func giveUp(_ id: String, _ token: Int, _ spec: PoolSpec, _ reason: String) async {
    guard let record = entry(id, token)?.record else { return }
    pools[spec.name, default: PoolMemory()].history.failed(now: Clock.unixMilliseconds)
    let failures = pools[spec.name]?.history.failures ?? 0
    logger.error(
      "launch failed",
      metadata: [
        "instance": "\(id)", "pool": "\(spec.name)", "reason": "\(reason)", "failures": "\(failures)",
        "retryMilliseconds": "\(spec.restart.delayMilliseconds(afterFailures: failures))",
      ])
    await self.record("instance.launch_failed", id, reason: reason, fields: ["pool": spec.name])
    await finish(record, token: token, reason: "its launch failed: " + reason, force: true)
  }

  private func quarantine(_ port: Int, of id: String, reason: String) async {
    logger.warning("port put aside", metadata: ["port": "\(port)", "reason": "\(reason)"])
    let now = Clock.unixMilliseconds
    do throws(RedisError) {
      try await redis.run(ports.quarantine(port: port, owner: id, until: now + Self.quarantineMilliseconds, now: now))
    } catch {
      logger.debug("a port is not put aside", metadata: ["port": "\(port)", "error": "\(error)"])
    }
    await self.record("port.quarantined", String(port), reason: reason, fields: ["host": configuration.host])
  }

  /// Drops an entry that nobody but the memory knows of.
  func forget(_ id: String, _ token: Int) {
    if instances[id]?.token == token { instances[id] = nil }
    bell.ring()
  }
}

extension Duration {
  var milliseconds: Int { Int(components.seconds) * 1_000 + Int(components.attoseconds / 1_000_000_000_000_000) }
}
