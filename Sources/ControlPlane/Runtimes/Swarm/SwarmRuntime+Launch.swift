// The birth of a service: create → its task is placed, prepared and started → its own answer. What fails after "create" is
// removed by whoever asked for the launch (see stop), by the service's name if its id never came back.
package import Domain
import JSON
import Logging
import Posix
package import Routing

extension SwarmRuntime {
  private static let createMilliseconds = 10_000
  private static let pollMilliseconds = 20
  /// How long the scheduler may find no node: one whose last task is just ending may have room in a moment.
  private static let placementMilliseconds = 3_000
  /// How long something else may have the port on every node that would do: another port may be free.
  private static let takenMilliseconds = 1_000
  /// How long a node may take to get an image and make a container of it. Nobody knows how far it is.
  private static let preparationMilliseconds = 600_000
  private static let reportMilliseconds = 10_000

  package func launch(_ plan: LaunchPlan) async throws(LaunchFailure) -> Launched {
    guard case .service(let service) = plan.spec.runtime else {
      throw LaunchFailure(.other, "pool \(plan.spec.name) has no services")
    }
    swarm.hurry()
    defer { swarm.calm() }
    let id = try await pool.run { () throws(LaunchFailure) -> String in
      let version = self.swarm.version ?? EngineAPI.oldestVersion
      if service.container.seccomp != nil, version < ServiceRequest.privileges {
        throw LaunchFailure(
          .other,
          "pool \(plan.spec.name) has a seccomp profile, which services can have from Engine API "
            + "\(ServiceRequest.privileges) (Docker 25) on, but the managers speak \(version): update them, or take "
            + "seccomp out of the pool, and give a Chrome arguments: [--no-sandbox]")
      }
      let body = ServiceRequest.body(
        plan, service: service, seccomp: self.profiles[plan.spec.name], version: version, owner: self.settings.owner,
        swarm: self.settings.name, now: Clock.unixMilliseconds)
      do throws(EngineError) {
        let id = try self.create(body, instance: plan.id)
        self.swarm.expect(id, instance: plan.id)
        return id
      } catch { throw self.failure(error.description) }
    }
    return .service(try await placed(id, plan))
  }

  private func create(_ body: JSON, instance: String) throws(EngineError) -> String {
    let answer: JSON
    do throws(EngineError) {
      answer = try swarm.call("POST", "/services/create", body: body, milliseconds: Self.createMilliseconds)
    } catch {
      guard error.status == 409, let name = body["Name"]?.string else { throw error }
      let path = "/services/\(EngineAPI.escaped(name))"
      let there = try swarm.call("GET", path, allowing: [404], milliseconds: Self.createMilliseconds)
      // The answer to the first attempt was lost, not the service.
      if let id = there["ID"]?.string, there["Spec"]?["Labels"] == body["Labels"] { return id }
      // What an earlier instance of this name left is not for this one.
      try swarm.call("DELETE", path, allowing: [404], milliseconds: Self.createMilliseconds)
      answer = try swarm.call("POST", "/services/create", body: body, milliseconds: Self.createMilliseconds)
    }
    guard let id = answer["ID"]?.string else { throw EngineError(status: 500, "it made a service without id") }
    return id
  }

  private func failure(_ text: String, log: [String] = []) -> LaunchFailure {
    LaunchFailure(SwarmRefusal.cause(text), "swarm \(settings.name): \(text)", log: log)
  }

  /// Follows a service's task to its node.
  private func placed(_ id: String, _ plan: LaunchPlan) async throws(LaunchFailure) -> RunningService {
    let preparation = Deadline(milliseconds: Self.preparationMilliseconds)
    var placement = Deadline(milliseconds: max(Self.placementMilliseconds, plan.spec.launchTimeoutMilliseconds))
    var refusal: String?
    var report = Deadline(milliseconds: Self.reportMilliseconds)
    while true {
      let trouble = swarm.trouble
      guard let service = swarm.picture.services[id] else {
        throw LaunchFailure(.other, "swarm \(settings.name): somebody removed its service")
      }
      if let exit = service.exit {
        throw failure(exit.description, log: exit.status == nil ? [] : await lastLines(ofService: id))
      }
      if let task = service.task, task.isRunning { return try running(id, task) }
      if let error = service.task?.error, service.task?.isUnplaced == true {
        if refusal == nil {
          let isTaken = SwarmRefusal.cause(error) == .portTaken
          placement = Deadline(milliseconds: isTaken ? Self.takenMilliseconds : Self.placementMilliseconds)
        }
        refusal = error
      } else if service.task?.isUnplaced == false {
        refusal = nil
        placement = preparation
      }
      if placement.hasPassed {
        if let trouble { throw failure(trouble) }
        throw failure(refusal ?? "its task is not started: it is \(service.task?.state ?? "not made")")
      }
      if report.hasPassed {
        report = Deadline(milliseconds: Self.reportMilliseconds)
        logger.info(
          "a task is waited for; a node that lacks the image fetches it",
          metadata: [
            "instance": "\(plan.id)", "node": "\(swarm.name(of: service.task?.node))",
            "state": "\(service.task?.state ?? "not made")", "reason": "\(trouble ?? refusal ?? "")",
          ])
      }
      do {
        try await Task.sleep(for: .milliseconds(Self.pollMilliseconds))
      } catch {
        throw LaunchFailure(.other, "the launch was given up")
      }
    }
  }

  private func running(_ id: String, _ task: SwarmTask) throws(LaunchFailure) -> RunningService {
    let node = swarm.name(of: task.node)
    guard let address = swarm.address(of: task.node) else {
      throw failure("it does not say at which address node \(node) is; name it in swarm.addresses")
    }
    return RunningService(id: id, task: task.id, node: node, address: address)
  }

  // MARK: Readiness

  package func awaitReady(
    _ record: InstanceRecord, spec: PoolSpec, milliseconds: Int
  ) async throws(LaunchFailure) -> String? {
    guard let service = record.service else { throw LaunchFailure(.other, "it has no service") }
    swarm.hurry()
    defer { swarm.calm() }
    return try await Readiness.wait(for: record, spec: spec, milliseconds: milliseconds) {
      swarm.exit(of: service)
    } lines: {
      await lastLines(ofService: service)
    }
  }
}
