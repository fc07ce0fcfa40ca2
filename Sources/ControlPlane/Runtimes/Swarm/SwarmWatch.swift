// Follows a swarm on a thread of its own. Its events tell of services and nodes but not of tasks, so that tasks and nodes
// are asked for: every second, and several times a second while a launch or a stop is under way. Started by SwarmRuntime.
import Domain
import JSON
import Logging
import Posix
import Synchronization

extension Swarm {
  private static let contactMilliseconds = 3_000
  private static let pauseMilliseconds = 1_000
  private static let hurriedPauseMilliseconds = 100
  /// How often the loop looks whether somebody is in a hurry.
  private static let stepMilliseconds = 20
  private static let longestBackoffMilliseconds = 2_000

  func startWatching() { _ = Thread.start("swarm") { [self] in watch() } }

  func stopWatching() { state.withLock { $0.isOver = true } }

  private var isOver: Bool { state.withLock(\.isOver) }

  private func watch() {
    var backoff = 100
    while !isOver {
      do throws(EngineError) {
        try look()
        backoff = 100
        pause(milliseconds: Self.pauseMilliseconds, hurried: Self.hurriedPauseMilliseconds)
      } catch {
        lost(error)
        pause(milliseconds: backoff, hurried: backoff)
        backoff = min(backoff * 2, Self.longestBackoffMilliseconds)
      }
    }
  }

  private func pause(milliseconds: Int, hurried: Int) {
    let begin = ContinuousClock.now
    while !isOver {
      let limit = state.withLock { $0.hurried > 0 } ? hurried : milliseconds
      let left = limit - begin.duration(to: .now).wholeMilliseconds
      guard left > 0 else { return }
      Kernel.pause(milliseconds: min(Self.stepMilliseconds, left))
    }
  }

  /// Asks for tasks and nodes and takes them as the truth about what was known before.
  func look() throws(EngineError) {
    let (number, before) = state.withLock { state in
      state.begun += 1
      return (state.begun, Set(state.picture.services.keys).union(state.waiters.keys))
    }
    let tasks = try tasks(milliseconds: Self.contactMilliseconds)
    let nodes = try nodesIfDue(for: tasks)
    let now = Clock.monotonicMilliseconds
    let (waiters, wasTrouble) = state.withLock { state in
      // The survey's look and this thread's may overtake each other.
      guard number > state.finished else {
        return ([([CheckedContinuation<InstanceExit, Never>], InstanceExit)](), false)
      }
      var ended = state.picture.see(tasks: tasks, before: before)
      if let nodes { state.picture.see(nodes: nodes, now: now) }
      ended.merge(state.picture.giveUp(now: now, graceMilliseconds: settings.graceMilliseconds)) { first, _ in first }
      state.finished = number
      let wasTrouble = state.trouble != nil
      state.trouble = nil
      let waiters = ended.map { (state.waiters.removeValue(forKey: $0) ?? [], $1) }
      return (waiters, wasTrouble)
    }
    for (waiters, exit) in waiters { for waiter in waiters { waiter.resume(returning: exit) } }
    if wasTrouble { logger.notice("swarm answers", metadata: ["nodes": "\(nodes?.count ?? 0)"]) }
  }

  /// Nodes change seldom, and their list is long: once a second, and when a task is on one that is not known.
  private func nodesIfDue(for tasks: [SwarmTask]) throws(EngineError) -> [SwarmNode]? {
    let isDue = state.withLock { state in
      let knowsAll = tasks.allSatisfy { $0.node.map { state.picture.nodes[$0] != nil } ?? true }
      return !knowsAll || state.trouble != nil || ContinuousClock.now >= state.askForNodesAt
    }
    guard isDue else { return nil }
    let nodes = try nodes(milliseconds: Self.contactMilliseconds)
    state.withLock { $0.askForNodesAt = .now + .milliseconds(Self.pauseMilliseconds) }
    return nodes
  }

  /// The number of the first look that sees all that was done before this call.
  var nextLook: Int { state.withLock { $0.begun + 1 } }

  /// Whether such a look is done.
  func hasLooked(_ number: Int) -> Bool { state.withLock { $0.finished >= number } }

  /// A swarm without managers runs on: what it runs lives as long as it answers, see docs/decisions.
  private func lost(_ error: EngineError) {
    let isNews = state.withLock { state in
      let isNews = state.trouble == nil || state.trouble == State().trouble
      if state.trouble == nil { state.silentSince = .now }
      state.trouble = error.description
      return isNews
    }
    guard isNews else { return }
    logger.error(
      "no manager of the swarm can be asked: it gets no new instances, and those it has live as long as they answer",
      metadata: ["reason": "\(error)"])
  }

  // MARK: Figures

  /// The engine of a node, if it is one of the managers that are configured; only a container's own engine knows what it
  /// uses.
  func engine(ofNode node: String) -> EngineAPI? {
    state.withLock { state in state.nodes.first { $0.value == node }.map { managers[$0.key] } }
  }

  /// Finds out which nodes the managers are, now and then, as long as some are not known.
  func learnManagers() {
    let unknown = state.withLock { state -> [Int] in
      guard state.nodes.count < managers.count, ContinuousClock.now >= state.askForManagersAt else { return [] }
      state.askForManagersAt = .now + .seconds(30)
      return managers.indices.filter { state.nodes[$0] == nil }
    }
    for index in unknown {
      let deadline = Deadline(milliseconds: Self.contactMilliseconds)
      guard let info = try? managers[index].call("GET", "/info", deadline: deadline),
        let node = info["Swarm"]?["NodeID"]?.string, !node.isEmpty
      else { continue }
      state.withLock { $0.nodes[index] = node }
    }
  }
}
