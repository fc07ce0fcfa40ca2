// The birth of a container: image → create → start → its own answer. What fails after "create" is removed by whoever asked
// for the launch (see stop), by the container's name if its id never came back.
package import Domain
import JSON
import Logging
import Posix
package import Routing
import Synchronization

extension DockerRuntime {
  private static let createMilliseconds = 60_000
  /// How long a pull may say nothing.
  private static let pullSilenceMilliseconds = 60_000
  private static let pullReportMilliseconds = 5_000

  package func launch(_ plan: LaunchPlan) async throws(LaunchFailure) -> Launched {
    guard case .container(let container) = plan.spec.runtime, let engine = engine(plan.host) else {
      throw LaunchFailure(.other, "there is no engine \(plan.host)")
    }
    try await provide(container, pool: plan.spec.name, at: engine)
    let name = ContainerRequest.name(owner: settings.owner, instance: plan.id)
    let id = try await pool.run { () throws(LaunchFailure) -> String in
      do throws(EngineError) {
        let deadline = Deadline(milliseconds: Self.createMilliseconds)
        let body = ContainerRequest.body(
          plan, container: container, seccomp: self.profiles[plan.spec.name], owner: self.settings.owner,
          host: engine.host, now: Clock.unixMilliseconds)
        let id = try self.create(name, body, at: engine, deadline)
        try engine.call("POST", "/containers/\(id)/start", allowing: [304], deadline: deadline)
        engine.started(id, instance: plan.id)
        return id
      } catch {
        throw Self.failure(error, at: engine)
      }
    }
    return .container(id)
  }

  private func create(
    _ name: String, _ body: JSON, at engine: Engine, _ deadline: Deadline
  ) throws(EngineError) -> String {
    let path = "/containers/create?name=\(EngineAPI.escaped(name))"
    let answer: JSON
    do throws(EngineError) {
      answer = try engine.call("POST", path, body: body, deadline: deadline)
    } catch {
      // What an earlier instance of this name left is not for this one.
      guard error.status == 409 else { throw error }
      try engine.call(
        "DELETE", "/containers/\(EngineAPI.escaped(name))?force=1&v=1", allowing: [404], deadline: deadline)
      answer = try engine.call("POST", path, body: body, deadline: deadline)
    }
    guard let id = answer["Id"]?.string else {
      throw EngineError("\(engine.host.endpoint): it made a container without id")
    }
    return id
  }

  private static func failure(_ error: EngineError, at engine: Engine) -> LaunchFailure {
    let text = error.description
    // The words of the engine's proxy and of its allocator.
    let taken = ["port is already allocated", "address already in use"].contains { text.contains($0) }
    return LaunchFailure(taken ? .portTaken : .other, "engine \(engine.host.name): \(text)")
  }

  // MARK: Images

  /// Makes sure that the image is there. One pull at a time for each image and engine; the others wait for it.
  private func provide(_ container: ContainerSpec, pool name: String, at engine: Engine) async throws(LaunchFailure) {
    let image = container.image
    while true {
      let answer = await pool.run { () -> Result<Bool, EngineError> in
        do throws(EngineError) {
          try engine.call(
            "GET", "/images/\(EngineAPI.escaped(image))/json", deadline: Deadline(milliseconds: 10_000))
          return .success(true)
        } catch {
          return error.status == 404 ? .success(false) : .failure(error)
        }
      }
      switch answer {
      case .success(true): return
      case .success(false): break
      case .failure(let error): throw Self.failure(error, at: engine)
      }
      guard container.pull == .missing else {
        throw LaunchFailure(
          .other,
          "image \(image) is not on engine \(engine.host.name), and pool \(name) has pull: never; build or load it there"
        )
      }
      let mine = engine.state.withLock { $0.pulls.insert(image).inserted }
      guard mine else {
        try? await Task.sleep(for: .milliseconds(200))
        if Task.isCancelled { throw LaunchFailure(.other, "the launch was given up") }
        continue
      }
      let problem = await pulls.run { self.pull(image, at: engine) }
      _ = engine.state.withLock { $0.pulls.remove(image) }
      if let problem {
        throw LaunchFailure(
          .other,
          "image \(image) is not on engine \(engine.host.name) and cannot be pulled: \(problem); build or load it there, "
            + "or see that the engine reaches its registry")
      }
    }
  }

  /// Pulls an image and tells the log how far it is. Returns why it cannot be had.
  private func pull(_ image: String, at engine: Engine) -> String? {
    engine.logger.notice("image is pulled", metadata: ["image": "\(image)"])
    do throws(EngineError) {
      let deadline = Deadline(milliseconds: Self.pullSilenceMilliseconds)
      let connection = try EngineConnection(engine.host.endpoint, deadline: deadline)
      let path = try engine.api.versioned("/images/create?\(ContainerRequest.pullQuery(image))", deadline)
      try connection.send("POST", path, body: nil, deadline: deadline)
      guard connection.status == 200 else {
        let body = try connection.rest(limit: 1 << 20, deadline)
        return EngineAPI.message(EngineAPI.Answer(status: connection.status, json: (try? JSON(parsing: body)) ?? .null))
      }
      var progress = PullProgress()
      var report = Deadline(milliseconds: Self.pullReportMilliseconds)
      var line: [UInt8] = []
      while let piece = try connection.piece(Deadline(milliseconds: Self.pullSilenceMilliseconds)) {
        for byte in piece {
          guard byte == UInt8(ascii: "\n") else {
            line.append(byte)
            continue
          }
          if let json = try? JSON(parsing: line) { progress.read(json) }
          line = []
        }
        if report.hasPassed {
          report = Deadline(milliseconds: Self.pullReportMilliseconds)
          engine.logger.info(
            "image is pulled",
            metadata: [
              "image": "\(image)", "megabytes": "\(progress.downloadedMegabytes)", "of": "\(progress.knownMegabytes)",
            ])
        }
      }
      if let failure = progress.failure { return failure }
      engine.logger.notice("image is there", metadata: ["image": "\(image)"])
      return nil
    } catch {
      return error.description
    }
  }

  // MARK: Readiness

  package func awaitReady(
    _ record: InstanceRecord, spec: PoolSpec, milliseconds: Int
  ) async throws(LaunchFailure) -> String? {
    guard let container = record.container, let engine = engine(of: record) else {
      throw LaunchFailure(.other, "it has no container")
    }
    return try await Readiness.wait(for: record, spec: spec, milliseconds: milliseconds) {
      engine.exit(of: container)
    } lines: {
      await self.lastLines(of: record)
    }
  }
}
