// `berth up`: starts Redis, the control plane and the replicas, waits until a Chrome is ready, heals crashes, and ends
// everything in order. One thread: it waits for signals and for the children's output, and does one thing at a time.
// The parent-death signal of the children belongs to this thread, so `run` must be called on the main thread.
internal import CLinux
internal import Glibc
internal import Posix

package final class Launcher {
  private let settings: LaunchSettings
  private let places: Places
  private let state: StateDirectory
  private let environment: [String: String]
  private let console = Console()
  private let signals: Int32
  private var children: [Child]
  private var phase: Phase
  private let startedAt = Clock.monotonicMilliseconds
  private var redisAnswered = false
  private var toldOfRedis = false
  /// Nonzero once something went wrong that no restart heals.
  private var exitStatus: Int32 = 0

  private enum Phase: Equatable {
    case starting(deadline: Int)
    case running
    /// Ends the children from the last role to the first; the deadline is of the role that ends now.
    case draining(ChildPlan.Role, deadline: Int)
    case over
  }

  /// A daemon that does not end after its own drain time gets this long before it is killed.
  static let stopGraceMilliseconds = 10_000
  /// The control plane stops every Chrome before it ends.
  static let controlStopMilliseconds = 30_000
  /// How often readiness is asked for while starting.
  static let probeMilliseconds = 50
  /// What an earlier run left gets this long to end by itself, as it was told to by the death of its parent.
  static let leftoverMilliseconds = 15_000

  package init(
    settings: LaunchSettings, places: Places, state: StateDirectory, environment: [String: String]
  ) throws(LaunchError) {
    self.settings = settings
    self.places = places
    self.state = state
    var environment = environment
    for name in LaunchSettings.ownVariables { environment[name] = nil }
    self.environment = environment
    children = settings.plan(places).map { Child(plan: $0, logPath: state.logs + "/\($0.name).log") }
    phase = .starting(deadline: Clock.monotonicMilliseconds + settings.readySeconds * 1000)
    // A terminal that went away must not end the drain half-way.
    signal(SIGPIPE, SIG_IGN)
    signals = clinux_child_signals()
    guard signals >= 0 else { throw LaunchError("cannot receive signals: \(System.message(-signals))") }
    // Chromes outlive a killed control plane; their next parent has to reap them, and init may be far away.
    _ = clinux_child_adopt_orphans()
  }

  /// Runs until Ctrl-C, SIGTERM or a failure that cannot be healed; returns the exit status.
  package func run() throws(LaunchError) -> Int32 {
    defer {
      if places.redisServer != nil { state.removeRedisSocket(places.redisSocket) }
      state.forgetChildren()
      state.release()
    }
    try endLeftovers()
    try checkPorts()
    while phase != .over {
      step()
      if phase != .over { System.wait(descriptors, milliseconds: pause) }
      readOutput()
      takeSignals()
      reap()
    }
    killOrphans()
    return exitStatus
  }

  // MARK: Before anything starts

  private func endLeftovers() throws(LaunchError) {
    let (left, socket) = state.leftovers()
    if !left.isEmpty {
      console.say("berth: an earlier run was killed; ending what it left: \(left.map(\.name).joined(separator: ", "))")
      for child in left { kill(child.pid, SIGTERM) }
      let deadline = Clock.monotonicMilliseconds + Launcher.leftoverMilliseconds
      while left.contains(where: \.lives), Clock.monotonicMilliseconds < deadline { System.wait([], milliseconds: 50) }
      for child in left where child.lives { kill(child.pid, SIGKILL) }
      while left.contains(where: \.lives) {
        guard Clock.monotonicMilliseconds < deadline + 5_000 else {
          throw LaunchError("process \(left.first(where: \.lives)?.pid ?? 0) of an earlier run does not end")
        }
        System.wait([], milliseconds: 50)
      }
    }
    if let socket { state.removeRedisSocket(socket) }
    state.forgetChildren()
  }

  private func checkPorts() throws(LaunchError) {
    for port in settings.listeningPorts {
      guard let reason = try Probe.whyUnusable(port) else { continue }
      throw LaunchError(
        "port \(port.port) of \(port.host), wanted for \(port.purpose), \(reason); "
          + "choose another with \(port.flag) or \(port.variable)")
    }
  }

  // MARK: One turn

  private var descriptors: [Int32] { [signals] + children.map(\.output).filter { $0 >= 0 } }

  /// How long nothing needs to be done by itself. nil = until something happens.
  private var pause: Int? {
    let now = Clock.monotonicMilliseconds
    switch phase {
    case .starting: return Launcher.probeMilliseconds
    case .draining(_, let deadline): return deadline - now
    case .running:
      return children.compactMap { child -> Int? in
        if case .waiting(let until) = child.state { until - now } else { nil }
      }.min()
    case .over: return 0
    }
  }

  private func step() {
    switch phase {
    case .starting(let deadline):
      startDue()
      guard case .starting = phase, isReady() else {
        if case .starting = phase, Clock.monotonicMilliseconds >= deadline { giveUpStarting() }
        return
      }
      phase = .running
      announce()
    case .running: startDue()
    case .draining(let role, let deadline):
      let left = children.indices.filter { children[$0].plan.role == role && children[$0].pid != nil }
      if left.isEmpty {
        drain(after: role)
      } else if Clock.monotonicMilliseconds >= deadline {
        for index in left {
          console.warn("berth: \(children[index].plan.name) does not end; killing it")
          children[index].signal(SIGKILL, group: true)
        }
        phase = .draining(role, deadline: Clock.monotonicMilliseconds + Launcher.stopGraceMilliseconds)
      }
    case .over: break
    }
  }

  /// Starts the children whose time has come. At first Redis alone, as the others would only complain without it.
  private func startDue() {
    let now = Clock.monotonicMilliseconds
    // Everything waits for Redis at first; later the daemons live through its absence by themselves.
    if case .starting = phase, !redisAnswered { askRedis() }
    for index in children.indices {
      guard case .waiting(let until) = children[index].state, until <= now else { continue }
      if case .starting = phase, children[index].plan.role != .redis, !redisAnswered { continue }
      do {
        try children[index].start(environment: environment)
        note()
      } catch {
        return fail("berth: \(error)")
      }
    }
  }

  private func askRedis() {
    let reason = Probe.whyRedisIsSilent(places.redisURL)
    redisAnswered = reason == nil
    // One's own Redis is just starting; about someone else's a person may have to do something.
    if let reason, places.redisServer == nil, !toldOfRedis {
      toldOfRedis = true
      console.warn("berth: waiting for Redis: \(reason)")
    }
  }

  private func note() {
    let running = children.compactMap { child in child.pid.map { (name: child.plan.name, pid: $0) } }
    state.note(running, redisSocket: places.redisSocket)
  }

  private func readOutput() {
    for index in children.indices {
      for line in children[index].readOutput() {
        guard let text = LogLine.forTerminal(line, of: children[index].plan.name, verbose: settings.verbose) else {
          continue
        }
        console.warn(text)
      }
    }
  }

  // MARK: Readiness

  private func isReady() -> Bool {
    for index in children.indices where !children[index].wasReady {
      children[index].wasReady = answers(children[index].plan, replica: index)
      if !children[index].wasReady { return false }
    }
    return Probe.status(host: settings.host, port: settings.controlPort, path: "/api/ready") == 200
  }

  private func answers(_ plan: ChildPlan, replica index: Int) -> Bool {
    switch plan.role {
    case .redis: redisAnswered
    case .control: Probe.status(host: settings.host, port: settings.controlPort, path: "/api/health") == 200
    case .data:
      Probe.status(
        host: settings.adminHost, port: settings.adminPort + index - (children.count - settings.replicas),
        path: "/readyz")
        == 200
    }
  }

  private func giveUpStarting() {
    let late = children.first { !$0.wasReady }
    var what = late.map { "\($0.plan.name) is not ready" } ?? "no browser is ready"
    if !redisAnswered, let reason = Probe.whyRedisIsSilent(places.redisURL) { what = "Redis is not ready (\(reason))" }
    fail("berth: \(what) after \(settings.readySeconds) s (--ready-seconds)", showing: late?.plan.name ?? "control")
  }

  private func announce() {
    let seconds = String(Double((Clock.monotonicMilliseconds - startedAt) / 10) / 100)
    for line in Announcement.lines(settings, places, seconds: seconds) { console.say(line) }
  }

  // MARK: Crashes

  private func reap() {
    while let (pid, ending) = System.reap() {
      // Anything else is an orphan that came to us, such as a Chrome whose control plane was killed.
      guard let index = children.firstIndex(where: { $0.pid == pid }) else { continue }
      for line in children[index].readOutput() {
        if let text = LogLine.forTerminal(line, of: children[index].plan.name, verbose: settings.verbose) {
          console.warn(text)
        }
      }
      ended(index, ending)
    }
  }

  private func ended(_ index: Int, _ ending: Ending) {
    guard case .running(_, let since) = children[index].state else { return }
    let name = children[index].plan.name
    children[index].state = .ended
    if case .draining = phase { return }
    if case .over = phase { return }
    switch children[index].policy.ended(ending, ranMilliseconds: Clock.monotonicMilliseconds - since) {
    case .restart(let delay):
      children[index].state = .waiting(untilMilliseconds: Clock.monotonicMilliseconds + delay)
      console.warn("berth: \(name) \(ending); its last lines:")
      showLog(of: name)
      console.warn("berth: starting \(name) again in \(delay) ms")
    case .giveUp(let crashes):
      fail(
        "berth: \(name) \(ending)" + (crashes > 1 ? ", for the \(crashes)th time in a row" : "") + "; giving up",
        showing: name)
    }
  }

  private func showLog(of name: String) {
    guard let child = children.first(where: { $0.plan.name == name }) else { return }
    for line in child.log.last { console.warn("  \(name)| \(line)") }
    console.warn("  (all of it: \(child.log.path))")
  }

  private func fail(_ text: String, showing name: String? = nil) {
    console.warn(text)
    if let name { showLog(of: name) }
    exitStatus = 1
    beginDraining()
  }

  // MARK: The end

  private func takeSignals() {
    while true {
      switch clinux_child_next_signal(signals) {
      case SIGINT, SIGTERM, SIGHUP: askedToEnd()
      case SIGCHLD: continue
      default: return
      }
    }
  }

  private func askedToEnd() {
    switch phase {
    case .starting, .running:
      console.say(
        "\nberth: ending; clients have up to \(settings.drainSeconds) s to finish (once more: at once)")
      beginDraining()
    case .draining(.data, _):
      for child in children where child.plan.role == .data { child.signal(SIGKILL, group: true) }
    case .draining(let role, _):
      // The control plane must not be cut off lightly: it is what ends the browsers.
      phase = .draining(role, deadline: min(Clock.monotonicMilliseconds + Launcher.stopGraceMilliseconds, deadline))
    case .over: break
    }
  }

  private var deadline: Int { if case .draining(_, let deadline) = phase { deadline } else { Int.max } }

  private func beginDraining() {
    guard phase != .over else { return }
    if case .draining = phase { return }
    for index in children.indices {
      if case .waiting = children[index].state { children[index].state = .ended }
    }
    stop(.data, within: settings.drainSeconds * 1000 + Launcher.stopGraceMilliseconds)
  }

  private func drain(after role: ChildPlan.Role) {
    switch role {
    case .data: stop(.control, within: Launcher.controlStopMilliseconds)
    case .control: stop(.redis, within: Launcher.stopGraceMilliseconds)
    case .redis:
      if exitStatus == 0 { console.say("berth: ended; nothing is left running") }
      phase = .over
    }
  }

  private func stop(_ role: ChildPlan.Role, within milliseconds: Int) {
    for child in children where child.plan.role == role { child.signal(SIGTERM) }
    phase = .draining(role, deadline: Clock.monotonicMilliseconds + milliseconds)
  }

  /// Descendants whose own parents died came to this process; in order or not, they end with it.
  private func killOrphans() {
    let deadline = Clock.monotonicMilliseconds + Launcher.stopGraceMilliseconds
    while Clock.monotonicMilliseconds < deadline {
      let orphans = System.children()
      if orphans.isEmpty { return }
      for pid in orphans { kill(pid, SIGKILL) }
      System.wait([], milliseconds: 10)
      while System.reap() != nil {}
    }
  }
}
