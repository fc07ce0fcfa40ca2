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

  /// Begins a launch; returns at once. False when there is no place for it, or its host has as many launches as it can
  /// bear: then the pool has to wait.
  func launch(
    _ spec: PoolSpec, restart: Restart?, replacing old: String? = nil, reason: String, for request: LaunchRequest? = nil
  ) -> Bool {
    let place: Place?
    do throws(LaunchFailure) {
      place = try runtime.place(spec, again: restart?.id, among: instances.values.map(\.record))
    } catch {
      if error.cause == .later { return false }
      failed(spec, id: restart?.id ?? spec.name, error)
      return false
    }
    if place == nil, hasItsLaunches { return false }
    let id = restart?.id ?? place?.id ?? newName(spec.name)
    if let restart { pools[spec.name]?.restarts.removeAll { $0 == restart } }
    var labels = place?.labels ?? [:]
    labels[InstanceRecord.hostLabel] = place?.host ?? configuration.host
    labels[InstanceRecord.replacesLabel] = old
    var record = InstanceRecord(
      id: id, pool: spec.name, host: place?.address ?? configuration.address, port: 0,
      generation: restart?.generation ?? 1, state: .starting, slots: spec.slots, weight: place?.weight ?? 1,
      startedAt: Clock.unixMilliseconds, labels: labels)
    record.session = request?.session
    insert(record)
    instances[id]?.busy = true
    instances[id]?.options = request?.options
    instances[id]?.reason = reason
    instances[id]?.launchBegan = .now
    metrics.count(spec.name) { $0.launches += 1 }
    guard let token = instances[id]?.token else { return true }
    Task {
      if let port = place?.port {
        await self.finishLaunch(
          id, token: token, spec: spec, await self.attempt(id, token: token, spec: spec, port: port))
      } else {
        await self.performLaunch(id, token: token, spec: spec, host: place?.host ?? self.configuration.host)
      }
    }
    return true
  }

  /// The end of a launch whose port was given, so that there is no other one to try.
  private func finishLaunch(_ id: String, token: Int, spec: PoolSpec, _ outcome: Outcome) async {
    switch outcome {
    case .ready: logger.info("instance ready", metadata: ["instance": "\(id)"])
    case .failed(let failure): await giveUp(id, token, spec, failure)
    case .notOurs: break
    }
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

  private func performLaunch(_ id: String, token: Int, spec: PoolSpec, host: String) async {
    let started = ContinuousClock.now
    for _ in 0..<Self.portAttempts {
      guard entry(id, token) != nil else { return }
      guard let fence = await lease.current?.fence, let ports = ports(of: host, fence),
        let range = portRange(of: host)
      else { return forget(id, token) }
      let port: Int
      do throws(RedisError) {
        guard let free = try await redis.run(ports.allocate(owner: id, now: Clock.unixMilliseconds)) else {
          await giveUp(
            id, token, spec,
            LaunchFailure(
              .noRoom,
              "all ports from \(range.lowerBound) to \(range.upperBound) are taken at \(host); make the range larger"))
          return
        }
        port = free
      } catch {
        // Redis is away: not the pool's fault, the next look tries again.
        logger.debug("no port", metadata: ["instance": "\(id)", "error": "\(error)"])
        forget(id, token)
        return
      }
      if let conflict = await runtime.conflict(host: host, port: port) {
        await quarantine(port, of: id, on: host, reason: conflict)
        continue
      }
      switch await attempt(id, token: token, spec: spec, port: port) {
      case .ready:
        let milliseconds = (ContinuousClock.now - started).milliseconds
        logger.info(
          "instance ready", metadata: ["instance": "\(id)", "port": "\(port)", "milliseconds": "\(milliseconds)"])
        return
      case .failed(let failure) where failure.cause == .portTaken:
        guard let record = entry(id, token)?.record, await lease.current != nil else { return forget(id, token) }
        _ = await runtime.stop(record, kind: spec.kind, graceMilliseconds: 0, force: true)
        await quarantine(port, of: id, on: host, reason: failure.description)
        instances[id]?.record.forgetLaunched()
        // It is not its own any more; if there is no other one, nothing may be written with it.
        instances[id]?.record.port = 0
      case .failed(let failure):
        await giveUp(id, token, spec, failure)
        return
      case .notOurs:
        return
      }
    }
    await giveUp(
      id, token, spec, LaunchFailure(.noRoom, "\(Self.portAttempts) ports in a row are taken by something else"))
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
    // This process may have stood still since. What is started all the same, because it stands still between this line
    // and the start, is ended by ``disown(_:_:_:)`` or by whoever leads then.
    guard await lease.current != nil else {
      forget(id, token)
      return .notOurs
    }
    let launched: Launched
    do throws(LaunchFailure) {
      launched = try await runtime.launch(
        LaunchPlan(
          id: id, spec: spec, port: port, generation: saved.record.generation,
          host: saved.record.labels[InstanceRecord.hostLabel] ?? "", options: saved.options))
    } catch {
      return .failed(error)
    }
    guard var record = entry(id, token)?.record else {
      await disown(saved.record, launched, spec)
      return .notOurs
    }
    launched.note(in: &record)
    // An image that had to be fetched first is not the instance's delay.
    record.startedAt = Clock.unixMilliseconds
    instances[id]?.record = record
    instances[id]?.isUnsaved = true
    if let record = entry(id, token)?.record { await runtime.remember(record) }
    await save(id)
    let outcome = await proof(id, token: token, spec: spec)
    if case .notOurs = outcome { await disown(record, launched, spec) }
    return outcome
  }

  /// Another control plane leads since this launch began. When it has taken the instance over, that is that; when not, it
  /// may have removed the record before the process was there, which nobody would know of.
  private func disown(_ record: InstanceRecord, _ launched: Launched, _ spec: PoolSpec) async {
    var record = record
    launched.note(in: &record)
    guard entry(record.id, record) == nil else { return }
    do throws(RedisError) {
      let known = try await redis.run(registry.instances()).first { $0.id == record.id }
      if let known, known.pid == record.pid, known.pidStart == record.pidStart, known.unit == record.unit {
        return
      }
    } catch {
      // Whoever leads on this host finds it: see removeStrays and removeOwnStrays.
      logger.warning("a launch is left to the new leader", metadata: ["instance": "\(record.id)", "error": "\(error)"])
      return
    }
    logger.notice(
      "a launch is taken back", metadata: ["instance": "\(record.id)", "reason": "another control plane leads"])
    _ = await runtime.stop(record, kind: spec.kind, graceMilliseconds: 0, force: true)
  }

  /// An entry of the memory that is about this very process or container.
  private func entry(_ id: String, _ record: InstanceRecord) -> Managed? {
    instances[id].flatMap {
      $0.record.pid == record.pid && $0.record.pidStart == record.pidStart && $0.record.unit == record.unit
        ? $0 : nil
    }
  }

  /// Waits until the instance answers, and makes it ready.
  private func proof(_ id: String, token: Int, spec: PoolSpec) async -> Outcome {
    guard let record = entry(id, token)?.record else { return .notOurs }
    let elapsed = max(0, Clock.unixMilliseconds - record.startedAt)
    let left = max(1, spec.launchTimeoutMilliseconds - elapsed)
    var browser: String?
    var notYet: String?
    do throws(LaunchFailure) {
      browser = try await runtime.awaitReady(record, spec: spec, milliseconds: left)
    } catch {
      guard entry(id, token) != nil else { return .notOurs }
      guard error.cause == .notYet else { return .failed(error) }
      notYet = error.description
    }
    guard entry(id, token) != nil, instances[id]?.apply(.answered, reason: "") == true else { return .notOurs }
    if notYet == nil, let entry = instances[id] {
      if let began = entry.launchBegan {
        let milliseconds = (ContinuousClock.now - began).milliseconds
        metrics.count(spec.name) { $0.becameReady(afterMilliseconds: milliseconds) }
      }
      if entry.record.session == nil { measureLaunch(of: entry, spec: spec) }
    }
    // Nobody hears of the state in between, as it is not saved.
    if let notYet { _ = instances[id]?.apply(.failed, reason: notYet) }
    instances[id]?.record.browser = browser
    instances[id]?.busy = false
    instances[id]?.schedule = HealthSchedule(
      answeredAt: Clock.monotonicMilliseconds, by: spec.health, hasBrowser: browser != nil)
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
      case .failed(let failure): await self.giveUp(id, token, spec, failure)
      case .notOurs: break
      }
    }
  }

  /// A launch has failed: everything of it goes, and the pool waits a little before the next one.
  private func giveUp(_ id: String, _ token: Int, _ spec: PoolSpec, _ failure: LaunchFailure) async {
    guard let record = entry(id, token)?.record else { return }
    if let session = record.session {
      metrics.count(spec.name) { $0.launchTroubles[.options, default: 0] += 1 }
      await failed(session, spec, id: id, failure.description)
    } else {
      failed(spec, id: id, failure)
    }
    let reason = "its launch failed: " + failure.description
    // Its time may have run out while this process stood still, and another leader made it ready.
    guard await announceStop(id, token: token, reason: reason), let record = entry(id, token)?.record else { return }
    await finish(record, token: token, cause: .launchFailed, reason: reason, force: true)
  }

  private func failed(_ spec: PoolSpec, id: String, _ failure: LaunchFailure) {
    let reason = failure.description
    noteFailure(failure.cause == .noRoom ? .noRoom : .launch, of: id, spec, reason: reason, log: failure.log)
    let failures = pools[spec.name]?.history.failures ?? 0
    logger.error(
      "launch failed",
      metadata: [
        "instance": "\(id)", "pool": "\(spec.name)", "reason": "\(reason)", "failures": "\(failures)",
        "retryMilliseconds": "\(spec.restart.delayMilliseconds(afterFailures: failures))",
      ])
    Task { await self.record("instance.launch_failed", id, reason: reason, fields: ["pool": spec.name]) }
  }

  private func quarantine(_ port: Int, of id: String, on host: String, reason: String) async {
    guard let fence = await lease.current?.fence, let ports = ports(of: host, fence) else { return }
    logger.warning("port put aside", metadata: ["port": "\(port)", "host": "\(host)", "reason": "\(reason)"])
    let now = Clock.unixMilliseconds
    do throws(RedisError) {
      try await redis.run(ports.quarantine(port: port, owner: id, until: now + Self.quarantineMilliseconds, now: now))
    } catch {
      logger.debug("a port is not put aside", metadata: ["port": "\(port)", "error": "\(error)"])
    }
    await self.record("port.quarantined", String(port), reason: reason, fields: ["host": host])
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
