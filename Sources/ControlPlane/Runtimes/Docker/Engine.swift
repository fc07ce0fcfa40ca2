// One container engine as the Docker runtime sees it: the calls of its API that Berth needs, and what is known of it and
// of our containers there. EngineWatch.swift keeps the knowledge fresh; DockerRuntime asks and commands.
import Domain
import JSON
import Logging
import Synchronization

final class Engine: Sendable {
  let host: EngineHost
  let api: EngineAPI
  let settings: EngineSettings
  let logger: Logger

  /// What our containers bear: two hosts of the settings may be one engine.
  var marks: JSON { ContainerLabels.marks(owner: settings.owner, host: host.name) }

  /// A container of ours.
  struct Container: Sendable, Equatable {
    var instance: String
    /// nil while it runs.
    var exit: InstanceExit?
    /// What it may use at most; nil = not asked yet.
    var limits: ContainerLimits?
  }

  struct State {
    /// Why it cannot be used now; nil = it can.
    var trouble: String? = "it has not been reached yet"
    /// Since when it has not answered.
    var silentSince = ContinuousClock.now
    var containers: [String: Container] = [:]
    var waiters: [String: [CheckedContinuation<InstanceExit, Never>]] = [:]
    var processors = 1
    var memoryBytes = 0
    var load = 0.0
    var lastTotal: (cpuMilliseconds: Int, at: ContinuousClock.Instant)?
    var isOver = false
    /// Pulls that are under way, by image, with those who wait for them.
    var pulls: Set<String> = []
  }
  let state = Mutex(State())

  init(_ host: EngineHost, settings: EngineSettings, logger: Logger) {
    self.host = host
    api = EngineAPI(host.endpoint)
    self.settings = settings
    var logger = logger
    logger[metadataKey: "engine"] = "\(host.name)"
    self.logger = logger
  }

  var trouble: String? { state.withLock(\.trouble) }

  /// For how long it has not answered, milliseconds; 0 when it does.
  var silentMilliseconds: Int {
    state.withLock { $0.trouble == nil ? 0 : max(1, ($0.silentSince.duration(to: .now)).wholeMilliseconds) }
  }

  // MARK: Calls. They block.

  /// Agrees on a version and reads how large the engine's host is.
  func greet(_ deadline: Deadline) throws(EngineError) {
    try api.greet(deadline)
    let info = try call("GET", "/info", deadline: deadline)
    state.withLock { state in
      state.processors = max(1, info["NCPU"]?.int ?? 1)
      state.memoryBytes = info["MemTotal"]?.int ?? 0
    }
  }

  @discardableResult func call(
    _ method: String, _ path: String, body: JSON? = nil, allowing: Set<Int> = [], deadline: Deadline
  ) throws(EngineError) -> JSON {
    try api.call(method, path, body: body, allowing: allowing, deadline: deadline)
  }

  /// Our containers, those that have ended too.
  func list(_ deadline: Deadline) throws(EngineError) -> [JSON] {
    let filters: JSON = ["label": marks]
    let answer = try call(
      "GET", "/containers/json?all=1&filters=\(EngineAPI.escaped(filters.text))", deadline: deadline)
    return answer.array ?? []
  }

  /// The last lines of a container's output; empty when there are none.
  func logTail(_ container: String, _ deadline: Deadline) -> [String] {
    api.logTail(of: "/containers/\(container)", deadline)
  }
}
