// One swarm as the Swarm runtime sees it: its managers, of which any will do, the calls of their API that Berth needs, and
// what is known of our services. SwarmWatch.swift keeps the knowledge fresh; SwarmRuntime asks and commands.
import Domain
import JSON
import Logging
import Synchronization

final class Swarm: Sendable {
  let settings: SwarmSettings
  let managers: [EngineAPI]
  let logger: Logger

  struct State {
    /// The manager that answered last.
    var current = 0
    /// Why it cannot be used now; nil = it can.
    var trouble: String? = "it has not been reached yet"
    /// Since when no manager has answered.
    var silentSince = ContinuousClock.now
    var picture = SwarmPicture()
    var waiters: [String: [CheckedContinuation<InstanceExit, Never>]] = [:]
    /// Counts looks that were begun, and names the last that was finished.
    var begun = 0
    var finished = 0
    /// Launches and stops under way, which want to know at once.
    var hurried = 0
    /// Which node each manager's engine is, by its place in the list, for its containers' figures.
    var nodes: [Int: String] = [:]
    var askForManagersAt = ContinuousClock.now
    var askForNodesAt = ContinuousClock.now
    var isOver = false
  }
  let state = Mutex(State())

  init(_ settings: SwarmSettings, logger: Logger) {
    self.settings = settings
    managers = settings.managers.map(EngineAPI.init)
    var logger = logger
    logger[metadataKey: "swarm"] = "\(settings.name)"
    self.logger = logger
  }

  var trouble: String? { state.withLock(\.trouble) }

  /// For how long no manager has answered, milliseconds; 0 when one does.
  var silentMilliseconds: Int {
    state.withLock { $0.trouble == nil ? 0 : max(1, ($0.silentSince.duration(to: .now)).wholeMilliseconds) }
  }

  /// What the manager that answers speaks; nil before the first contact.
  var version: APIVersion? { managers[state.withLock(\.current)].version }

  // MARK: Calls. They block.

  /// Asks the manager that answered last, then the others. A call may so be made twice: names are unique in a swarm, and
  /// what is removed twice is removed. An error without status says that none could be asked.
  @discardableResult func call(
    _ method: String, _ path: String, body: JSON? = nil, allowing: Set<Int> = [], milliseconds: Int
  ) throws(EngineError) -> JSON {
    let first = state.withLock(\.current)
    var failures: [String] = []
    for index in (first..<first + managers.count).map({ $0 % managers.count }) {
      let manager = managers[index]
      do throws(EngineError) {
        let answer = try manager.call(
          method, path, body: body, allowing: allowing, deadline: Deadline(milliseconds: milliseconds))
        if index != first { use(index) }
        return answer
      } catch {
        guard Self.isManagersTrouble(error) else { throw error }
        if error.isSilence { manager.forgetVersion() }
        let text = error.description
        failures.append(text.contains("\(manager.endpoint)") ? text : "\(manager.endpoint): \(text)")
      }
    }
    throw EngineError("no manager of the swarm can be asked: " + failures.joined(separator: "; "))
  }

  private func use(_ index: Int) {
    state.withLock { $0.current = index }
    logger.notice("another manager is asked", metadata: ["manager": "\(managers[index].endpoint)"])
  }

  /// Whether another manager may do better: this one is silent, no manager any more, or without a leader.
  static func isManagersTrouble(_ error: EngineError) -> Bool {
    guard let status = error.status else { return true }
    let words = [
      "does not have a leader", "code = Unavailable", "code = DeadlineExceeded", "context deadline exceeded",
    ]
    return status == 503 || status >= 500 && words.contains { error.description.contains($0) }
  }

  private var filters: String {
    let filters: JSON = ["label": ContainerLabels.marks(owner: settings.owner, host: settings.name)]
    return "filters=" + EngineAPI.escaped(filters.text)
  }

  /// Our services.
  func services(milliseconds: Int) throws(EngineError) -> [JSON] {
    try call("GET", "/services?\(filters)", milliseconds: milliseconds).array ?? []
  }

  func tasks(milliseconds: Int) throws(EngineError) -> [SwarmTask] {
    (try call("GET", "/tasks?\(filters)", milliseconds: milliseconds).array ?? []).compactMap(SwarmTask.init)
  }

  func nodes(milliseconds: Int) throws(EngineError) -> [SwarmNode] {
    (try call("GET", "/nodes", milliseconds: milliseconds).array ?? []).compactMap(SwarmNode.init)
  }

  /// The last lines of a service's output; empty when there are none, or its node does not send them in time.
  func logTail(_ service: String, milliseconds: Int) -> [String] {
    guard trouble == nil else { return [] }
    let manager = managers[state.withLock(\.current)]
    return manager.logTail(of: "/services/\(service)", Deadline(milliseconds: milliseconds))
  }

  // MARK: What is known

  var picture: SwarmPicture { state.withLock(\.picture) }

  /// A service was made by this process.
  func expect(_ service: String, instance: String) {
    state.withLock { $0.picture.expect(service, instance: instance) }
  }

  /// How a service ended; nil while it lives as far as is known.
  func exit(of service: String) -> InstanceExit? {
    state.withLock { state in
      if let known = state.picture.services[service] { return known.exit }
      return state.trouble == nil ? SwarmPicture.removed : nil
    }
  }

  /// Returns when a service has ended, was removed, or its node was down for the grace time.
  func waitForExit(of service: String) async -> InstanceExit {
    await withCheckedContinuation { continuation in
      let exit = state.withLock { state -> InstanceExit? in
        if let known = state.picture.services[service] {
          if let exit = known.exit { return exit }
        } else if state.trouble == nil {
          return SwarmPicture.removed
        }
        state.waiters[service, default: []].append(continuation)
        return nil
      }
      if let exit { continuation.resume(returning: exit) }
    }
  }

  /// Where replicas reach the ports of a node; nil = nobody knows.
  func address(of node: String?) -> String? {
    guard let node else { return nil }
    let known = picture.nodes[node]
    return settings.addresses[node] ?? known.flatMap { settings.addresses[$0.name] ?? $0.address }
  }

  func name(of node: String?) -> String { picture.name(of: node) }

  /// Looks are taken in short order until as many ``calm()`` have come.
  func hurry() { state.withLock { $0.hurried += 1 } }
  func calm() { state.withLock { $0.hurried -= 1 } }
}
