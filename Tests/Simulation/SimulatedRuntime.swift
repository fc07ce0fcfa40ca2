// A container engine: it starts things a little late, sometimes not at all, sometimes without anybody hearing of it; what
// runs may die or hang. It knows nothing of Redis.
import Domain

@Simulated final class SimulatedRuntime {
  struct Container {
    let number: Int
    let instance: String
    let pool: String
    let host: String
    let port: Int
    let generation: Int
    var readyAt: Int
    var isAlive = true
    var hangsUntil = 0
    /// Sessions whose clients have reached it.
    var sessions: Set<String> = []
  }
  enum Failure: Error {
    case portTaken
    case other
  }
  private unowned let scene: Scene
  private(set) var containers: [Int: Container] = [:]
  private var watchers: [Int: [() -> Void]] = [:]
  private var next = 0

  init(_ scene: Scene) { self.scene = scene }

  var living: [Container] { containers.values.filter(\.isAlive).sorted { $0.number < $1.number } }
  func living(instance: String) -> Container? { living.last { $0.instance == instance } }
  func isAlive(_ number: Int?) -> Bool { number.flatMap { containers[$0]?.isAlive } ?? false }
  func hasPort(_ port: Int, of host: String) -> Bool { living.contains { $0.port == port && $0.host == host } }

  /// Starts a container. Its answer may be an error although it starts, a little later.
  func launch(
    instance: String, pool: String, host: String, port: Int, generation: Int, by process: Process
  ) async throws -> Int {
    try await scene.transit(scene.draw(0...60))
    if hasPort(port, of: host) {
      try await scene.sleep(1, process)
      throw Failure.portTaken
    }
    if scene.chance(scene.faults.failedLaunches) {
      try await scene.sleep(scene.draw(1...100), process)
      throw Failure.other
    }
    if scene.chance(scene.faults.lostLaunches) {
      let late = scene.draw(0...1_500)
      scene.spawn {
        try await self.scene.transit(late)
        if !self.hasPort(port, of: host) { _ = self.create(instance, pool, host, port, generation) }
      }
      try await scene.sleep(scene.draw(100...1_000), process)
      throw Failure.other
    }
    let number = create(instance, pool, host, port, generation)
    try await scene.sleep(scene.draw(0...20), process)
    return number
  }

  private func create(_ instance: String, _ pool: String, _ host: String, _ port: Int, _ generation: Int) -> Int {
    next += 1
    var container = Container(
      number: next, instance: instance, pool: pool, host: host, port: port, generation: generation,
      readyAt: scene.now + scene.draw(50...900))
    // Some never answer, and some die before they do.
    if scene.chance(scene.faults.failedLaunches / 2) { container.readyAt = .max }
    containers[next] = container
    scene.tell("container \(next) of \(instance) at \(host):\(port)")
    if scene.chance(scene.faults.crashes / 2) {
      let (number, life) = (next, scene.draw(0...2_000))
      scene.spawn {
        try await self.scene.transit(life)
        self.die(number)
      }
    }
    return next
  }

  func awaitReady(_ number: Int, milliseconds: Int, by process: Process) async throws {
    let deadline = scene.now + milliseconds
    while scene.now < deadline {
      guard let container = containers[number], container.isAlive else { throw Failure.other }
      if container.readyAt <= scene.now { return }
      try await scene.sleep(Swift.min(Swift.max(1, container.readyAt - scene.now), 300, deadline - scene.now), process)
    }
    throw Failure.other
  }

  func isWell(_ number: Int?) -> Bool {
    guard let number, let container = containers[number] else { return false }
    return container.isAlive && container.hangsUntil <= scene.now
  }

  /// Ends whatever bears the name; false when something would not go.
  func stop(instance: String, by process: Process) async throws -> Bool {
    try await scene.transit(scene.draw(0...300))
    if scene.chance(scene.faults.lostLaunches / 2) {
      try await scene.sleep(scene.draw(10...300), process)
      return false
    }
    for container in living where container.instance == instance { die(container.number, isStop: true) }
    try await scene.sleep(scene.draw(0...50), process)
    return true
  }

  /// Ends this very container.
  func remove(_ number: Int, by process: Process) async throws {
    try await scene.transit(scene.draw(0...50))
    die(number, isStop: true)
    try await scene.sleep(1, process)
  }

  func die(_ number: Int, isStop: Bool = false) {
    guard containers[number]?.isAlive == true else { return }
    scene.tell("container \(number) \(isStop ? "is ended" : "dies")")
    containers[number]?.isAlive = false
    for watcher in watchers.removeValue(forKey: number) ?? [] { watcher() }
  }

  func hang(_ number: Int, until time: Int) { containers[number]?.hangsUntil = time }

  /// Calls back when it has ended, also when it has already.
  func whenEnded(_ number: Int, _ body: @escaping () -> Void) {
    if isAlive(number) { watchers[number, default: []].append(body) } else { body() }
  }

  /// A client of the session reaches what runs there.
  func reach(instance: String, port: Int, session: String) {
    guard let container = living.last(where: { $0.instance == instance && $0.port == port }) else { return }
    containers[container.number]?.sessions.insert(session)
    let count = containers[container.number]?.sessions.count ?? 0
    if let spec = scene.spec(of: container.pool), spec.slots == 1, spec.recycleAfterSessions == 1, count > 1 {
      scene.problem("\(count) clients have had container \(container.number) of \(instance), which is good for one")
    }
  }
}
