// Follows an engine on a thread of its own: its stream of events says at once which container has ended, a ping says that
// it still lives, and after every interruption the list of containers says what was missed. Started by DockerRuntime.
import Domain
import JSON
import Logging
import Posix
import Synchronization

extension Engine {
  private static let contactMilliseconds = 3_000
  /// How often the loop looks at its own end while nothing happens.
  private static let pauseMilliseconds = 250
  /// How often an engine without events is asked whether it lives: one behind a broken network says nothing either.
  private static let pingMilliseconds = 2_000
  private static let longestBackoffMilliseconds = 2_000
  private static let listMilliseconds = 10_000

  func startWatching() { _ = Thread.start("engine") { [self] in watch() } }

  func stopWatching() { state.withLock { $0.isOver = true } }

  private var isOver: Bool { state.withLock(\.isOver) }

  private func watch() {
    var backoff = 100
    while !isOver {
      do throws(EngineError) {
        try follow()
        backoff = 100
      } catch {
        lost(error)
        sleep(milliseconds: backoff)
        backoff = min(backoff * 2, Self.longestBackoffMilliseconds)
      }
    }
  }

  private func sleep(milliseconds: Int) {
    let deadline = Deadline(milliseconds: milliseconds)
    while !isOver, !deadline.hasPassed { Kernel.pause(milliseconds: min(50, max(1, deadline.millisecondsLeft))) }
  }

  /// Follows until the stream ends.
  private func follow() throws(EngineError) {
    let contact = Deadline(milliseconds: Self.contactMilliseconds)
    try greet(contact)
    let filters: JSON = [
      "type": ["container"], "event": ["die", "destroy"],
      "label": marks,
    ]
    let events = try EngineConnection(host.endpoint, deadline: contact)
    try events.send(
      "GET", try api.versioned("/events?filters=\(EngineAPI.escaped(filters.text))", contact), body: nil,
      deadline: contact)
    guard events.status == 200 else { throw EngineError(status: events.status, "its events answered \(events.status)") }
    // The stream is open before the list is asked for, so nothing falls between them.
    try learn()
    found()
    var line: [UInt8] = []
    var quiet = 0
    while !isOver {
      guard events.hasInput(withinMilliseconds: Self.pauseMilliseconds) else {
        quiet += Self.pauseMilliseconds
        if quiet >= Self.pingMilliseconds {
          quiet = 0
          try call("GET", "/_ping", deadline: Deadline(milliseconds: Self.contactMilliseconds))
        }
        continue
      }
      quiet = 0
      guard let piece = try events.piece(Deadline(milliseconds: Self.contactMilliseconds)) else {
        throw EngineError("the engine ended its stream of events")
      }
      for byte in piece {
        guard byte == UInt8(ascii: "\n") else {
          line.append(byte)
          continue
        }
        if let event = try? JSON(parsing: line) { heard(event) }
        line = []
      }
    }
  }

  /// Takes the list of containers as the truth about all that were known before it was asked for.
  @discardableResult func learn() throws(EngineError) -> [JSON] {
    let before = state.withLock { Set($0.containers.keys).union($0.waiters.keys) }
    let list = try list(Deadline(milliseconds: Self.listMilliseconds))
    var running: Set<String> = []
    for entry in list {
      guard let id = entry["Id"]?.string, let instance = entry["Labels"]?[ContainerLabels.instance]?.string else {
        continue
      }
      // One that was made and not started yet is about to be.
      switch entry["State"]?.string ?? "" {
      case "running", "created", "paused", "restarting":
        running.insert(id)
        state.withLock { state in
          if state.containers[id] == nil { state.containers[id] = Container(instance: instance) }
        }
      default:
        // The list says it in words, e.g. "Exited (137) 3 seconds ago".
        let code = (entry["Status"]?.string ?? "").split(whereSeparator: { $0 == "(" || $0 == ")" }).dropFirst().first
        ended(id, instance: instance, InstanceExit(status: code.flatMap { Int($0) }))
        running.insert(id)
      }
    }
    for id in before.subtracting(running) { gone(id) }
    return list
  }

  private func heard(_ event: JSON) {
    guard let id = event["Actor"]?["ID"]?.string ?? event["id"]?.string else { return }
    let attributes = event["Actor"]?["Attributes"]
    switch event["Action"]?.string ?? event["status"]?.string {
    case "die":
      let status = attributes?["exitCode"]?.string.flatMap { Int($0) }
      ended(id, instance: attributes?[ContainerLabels.instance]?.string ?? "", InstanceExit(status: status))
    case "destroy": gone(id)
    default: break
    }
  }

  // MARK: What is known of containers

  /// A container was started by this process.
  func started(_ id: String, instance: String) {
    state.withLock { state in
      // It may have ended already, and the event been faster than the answer.
      if state.containers[id] == nil { state.containers[id] = Container(instance: instance) }
    }
  }

  private func ended(_ id: String, instance: String, _ exit: InstanceExit) {
    let waiters = state.withLock { state in
      if state.containers[id]?.exit == nil { state.containers[id] = Container(instance: instance, exit: exit) }
      return state.waiters.removeValue(forKey: id) ?? []
    }
    for waiter in waiters { waiter.resume(returning: exit) }
  }

  /// A container does not exist any more.
  func gone(_ id: String) {
    let (waiters, exit) = state.withLock { state in
      let exit = state.containers.removeValue(forKey: id)?.exit
      return (state.waiters.removeValue(forKey: id) ?? [], exit)
    }
    for waiter in waiters { waiter.resume(returning: exit ?? Self.removed) }
  }

  private static let removed = InstanceExit(reason: "its container was removed")

  /// How a container ended; nil while it lives as far as is known.
  func exit(of id: String) -> InstanceExit? {
    state.withLock { state in
      if let container = state.containers[id] { return container.exit }
      return state.trouble == nil ? Self.removed : nil
    }
  }

  /// Returns when a container has ended, was removed, or its engine was silent for the grace time.
  func waitForExit(of id: String) async -> InstanceExit {
    await withCheckedContinuation { continuation in
      let exit = state.withLock { state -> InstanceExit? in
        if let container = state.containers[id] {
          if let exit = container.exit { return exit }
        } else if state.trouble == nil {
          return Self.removed
        }
        state.waiters[id, default: []].append(continuation)
        return nil
      }
      if let exit { continuation.resume(returning: exit) }
    }
  }

  // MARK: What is known of the engine

  func found() {
    let before = state.withLock { state in
      let before = state.trouble
      state.trouble = nil
      return before
    }
    if before != nil { logger.notice("engine answers", metadata: ["endpoint": "\(host.endpoint)"]) }
  }

  private func lost(_ error: EngineError) {
    let (isNews, waiters) = state.withLock { state in
      let isNews = state.trouble == nil || api.version == nil && state.trouble != error.description
      if state.trouble == nil { state.silentSince = .now }
      state.trouble = error.description
      guard state.silentSince.duration(to: .now) >= .milliseconds(settings.graceMilliseconds) else {
        return (isNews, [CheckedContinuation<InstanceExit, Never>]())
      }
      let waiters = state.waiters.values.flatMap { $0 }
      state.waiters = [:]
      return (isNews, waiters)
    }
    if isNews {
      logger.error(
        "engine cannot be reached: it gets no new instances, and those it has count as gone when it stays away",
        metadata: ["reason": "\(error)", "graceMilliseconds": "\(settings.graceMilliseconds)"])
    }
    let exit = InstanceExit(
      reason: "its engine \(host.name) has not answered for \(settings.graceMilliseconds / 1_000) seconds")
    for waiter in waiters { waiter.resume(returning: exit) }
  }
}
