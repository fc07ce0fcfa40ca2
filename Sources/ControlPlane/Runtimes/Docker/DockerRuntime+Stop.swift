// The end of a container: Browser.close, then SIGTERM, then SIGKILL, and only when it is removed the instance is gone. An
// engine that does not answer is waited for as long as its instances are believed to live.
import Domain
import JSON
import Logging
package import Routing

extension DockerRuntime {
  private static let retryMilliseconds = 250
  /// Beyond the grace, for the engine's own work.
  private static let removeMilliseconds = 20_000

  package func stop(
    _ record: InstanceRecord, kind: PoolKind, graceMilliseconds: Int, force: Bool
  ) async -> String? {
    guard let engine = engine(of: record) else { return nil }
    let name = record.container ?? ContainerRequest.name(owner: settings.owner, instance: record.id)
    if !force, let container = record.container, engine.exit(of: container) == nil {
      if kind == .cdp, record.browser != nil {
        await CDPClient.closeBrowser(of: record, within: graceMilliseconds)
        await waitUntilEnded(container, at: engine, within: graceMilliseconds)
      }
      if engine.exit(of: container) == nil {
        let path = "/containers/\(container)/stop?t=\((graceMilliseconds + 999) / 1_000)"
        await pool.run {
          let deadline = Deadline(milliseconds: graceMilliseconds + Self.removeMilliseconds)
          _ = try? engine.call("POST", path, allowing: [304, 404], deadline: deadline)
        }
      }
    }
    return await remove(name, at: engine)
  }

  private func waitUntilEnded(_ container: String, at engine: Engine, within milliseconds: Int) async {
    let deadline = Deadline(milliseconds: milliseconds)
    while engine.exit(of: container) == nil, !deadline.hasPassed, engine.trouble == nil {
      await Self.pause(5)
    }
  }

  /// Removes a container by id or name. Returns what would not go away.
  private func remove(_ name: String, at engine: Engine) async -> String? {
    let deadline = Deadline(milliseconds: Self.removeMilliseconds)
    while true {
      let outcome = await pool.run { () -> Result<Bool, EngineError> in
        do throws(EngineError) {
          try engine.call(
            "DELETE", "/containers/\(EngineAPI.escaped(name))?force=1&v=1", allowing: [404],
            deadline: Deadline(milliseconds: Self.removeMilliseconds))
          return .success(true)
        } catch {
          // Somebody removes it at this moment.
          return error.status == 409 ? .success(false) : .failure(error)
        }
      }
      switch outcome {
      case .success(true):
        engine.gone(name)
        return nil
      case .success(false):
        if deadline.hasPassed { return "engine \(engine.host.name) does not get done with removing its container" }
      case .failure(let error) where !error.isSilence:
        return "engine \(engine.host.name): \(error)"
      case .failure:
        // It counts as living until the grace is over; then its engine removes it when it is back: see holdings().
        if engine.silentMilliseconds >= settings.graceMilliseconds {
          engine.logger.warning("a container is left until its engine answers", metadata: ["container": "\(name)"])
          return nil
        }
      }
      await Self.pause(Self.retryMilliseconds)
    }
  }

  package func reap(orphan id: String) async -> String? {
    var left: [String] = []
    for engine in engines where engine.trouble == nil {
      let list = await pool.run { (try? engine.list(Deadline(milliseconds: 10_000))) ?? [] }
      for entry in list where entry["Labels"]?[ContainerLabels.instance]?.string == id {
        guard let container = entry["Id"]?.string else { continue }
        if let problem = await remove(container, at: engine) { left.append(problem) }
      }
    }
    return left.isEmpty ? nil : left.joined(separator: "; ")
  }

  package func remove(_ holding: Holding) async {
    guard let container = holding.unit, let engine = engine(holding.host) else { return }
    if let problem = await remove(container, at: engine) {
      engine.logger.warning("a container is left", metadata: ["reason": "\(problem)"])
    }
  }

  /// Not cancelled with its caller: what was begun to be ended must be ended.
  private static func pause(_ milliseconds: Int) async {
    await Task { try? await Task.sleep(for: .milliseconds(milliseconds)) }.value
  }
}
