// The coordinator of a replica without Redis: routes from a file (`berth-data --routes FILE`). Pools without a limit of
// slots work as ever; what would need a session is refused, because nobody keeps them. Two threads watch the file's
// servers: "health" checks them, "names" looks their names up again. docs/routes-files.md is the operator's view.
import Glibc
package import Observability
package import Posix
package import ProxyMachine
package import RouteFiles
package import Routing
import Synchronization

package final class FileCoordinator: RouteSource {
  package let path: String
  private struct State {
    var watch: ServerWatch
    /// What workers have.
    var table: RoutingTable
    var inboxes: [any WorkerInbox] = []
    var counters = CoordinatorCounters()
    var threads = 0
    var isStopping = false
  }
  private let state: Mutex<State>
  /// Held while a table is made and handed out, so that an older one never overtakes a newer one.
  private let publishing = Mutex(())
  private let log: LogWriter?
  private let lookup: @Sendable (String) -> NameLookup.Answer
  /// Rung when there is something to be done before its time: one for each thread, and one for who waits for their end.
  private let healthBell = Doorbell()
  private let namesBell = Doorbell()
  private let endBell = Doorbell()

  /// A file larger than this is no routes file.
  package static let maximumBytes = 16 << 20
  /// How long the names of a file may take before it is served without them.
  package static let lookupMilliseconds = 3_000
  /// How often servers are checked and names looked up when nothing else is said.
  package static let defaultIntervalMilliseconds = 30_000

  /// Reads the file, and looks its names up.
  /// - Parameters:
  ///   - intervalMilliseconds: between checks of a server and lookups of a name; 0 = never.
  ///   - lookup: for tests.
  package init(
    path: String, intervalMilliseconds: Int = defaultIntervalMilliseconds, log: LogWriter? = nil,
    lookup: @escaping @Sendable (String) -> NameLookup.Answer = { NameLookup.addresses(of: $0) }
  ) throws(RouteFileError) {
    self.path = path
    self.log = log
    self.lookup = lookup
    var watch = ServerWatch(try Self.read(path), intervalMilliseconds: intervalMilliseconds)
    let answers = Self.answers(to: watch.names, lookup)
    _ = watch.resolved(answers.mapValues(\.addresses), now: Clock.monotonicMilliseconds)
    state = Mutex(State(watch: watch, table: watch.table))
    tell(of: watch.file, missing: watch.namesWithoutAddress, answers)
  }

  deinit { for bell in [healthBell, namesBell, endBell] { bell.close() } }

  package func start(inboxes: [any WorkerInbox]) {
    state.withLock {
      $0.inboxes = inboxes
      $0.threads = 2
    }
    for inbox in inboxes { inbox.update(replicas: 1) }
    publish()
    run("health") { $0.watchHealth() }
    run("names") { $0.watchNames() }
  }

  private func run(_ name: String, _ body: @escaping @Sendable (FileCoordinator) -> Void) {
    _ = Thread.start(name) { [self] in
      body(self)
      state.withLock { $0.threads -= 1 }
      endBell.ring()
    }
  }

  @discardableResult package func stop(timeoutMilliseconds: Int) -> Bool {
    state.withLock { $0.isStopping = true }
    healthBell.ring()
    namesBell.ring()
    let deadline = Clock.monotonicMilliseconds + timeoutMilliseconds
    while state.withLock({ $0.threads > 0 }) {
      let left = deadline - Clock.monotonicMilliseconds
      guard left > 0 else { return false }
      endBell.wait(milliseconds: left)
      endBell.silence()
    }
    return true
  }

  /// Reads the file anew (SIGHUP) and looks its names up. When it cannot be read, the table stays as it was.
  package func reload() throws(RouteFileError) {
    let file = try Self.read(path)
    let interval = state.withLock { $0.watch.intervalMilliseconds }
    let answers = Self.answers(to: ServerWatch(file, intervalMilliseconds: interval).names, lookup)
    let missing = state.withLock { state in
      state.watch.replace(file, answers.mapValues(\.addresses), now: Clock.monotonicMilliseconds)
      return state.watch.namesWithoutAddress
    }
    tell(of: file, missing: missing, answers)
    publish()
    healthBell.ring()
    namesBell.ring()
  }

  package var table: RoutingTable? { state.withLock { $0.table } }
  package var counters: CoordinatorCounters {
    state.withLock { state in
      var counters = state.counters
      counters.connected = true
      counters.hasRedis = false
      counters.unhealthyServers = state.watch.unhealthy
      return counters
    }
  }

  private func publish() {
    publishing.withLock { _ in
      let (table, inboxes) = state.withLock { state in
        state.table = state.watch.table
        state.counters.tables += 1
        return (state.table, state.inboxes)
      }
      for inbox in inboxes { inbox.replace(table: table) }
    }
  }

  // MARK: What workers ask

  package func submit(_ request: SlotRequest) {
    if case .job = request.kind {
      // What this process has seen itself, workers know without it.
      let inbox = state.withLock { $0.inboxes.indices.contains(request.worker) ? $0.inboxes[request.worker] : nil }
      inbox?.deliver(.unknown, ticket: request.ticket)
      return
    }
    let (inbox, refusal) = state.withLock { state in
      let refusal: SlotRefusal
      switch request.kind {
      case .acquire(let pool, _, _): refusal = Self.refusal(state.table.pools[pool])
      case .claim(let browser):
        let instance = state.table.instance(browser: browser)
        refusal = Self.refusal(instance.flatMap { [table = state.table] in table.pools[$0.pool] })
      case .attach, .look, .reserved, .target, .job: refusal = .unknown
      }
      state.counters.requests += 1
      state.counters.count(refusal)
      let inbox = state.inboxes.indices.contains(request.worker) ? state.inboxes[request.worker] : nil
      return (inbox, refusal)
    }
    inbox?.deliver(.refused(refusal), ticket: request.ticket)
  }

  /// Exclusive slots need Redis; a pool without them has no sessions at all.
  private static func refusal(_ pool: PoolRecord?) -> SlotRefusal { (pool?.slots ?? 0) > 0 ? .unavailable : .unknown }

  /// Nothing is held and nothing is counted across replicas, so there is nothing to be told.
  package func notify(_ notice: SlotNotice) {}

  // MARK: Health

  private func watchHealth() {
    while true {
      let now = Clock.monotonicMilliseconds
      let (probes, next) = state.withLock { state in
        (state.isStopping ? nil : state.watch.takeDue(limit: ServerProbes.limit, now: now), state.watch.nextCheck)
      }
      guard let probes else { return }
      guard !probes.isEmpty else {
        healthBell.wait(milliseconds: next.map { max(1, $0 - now) } ?? Int(Int32.max))
        healthBell.silence()
        continue
      }
      let outcomes = ServerProbes.run(probes)
      let after = Clock.monotonicMilliseconds
      var hasChanged = false
      for probe in probes {
        let problem = outcomes[probe.id] ?? nil
        let (change, place) = state.withLock { state in
          state.counters.healthChecks += 1
          if problem != nil { state.counters.healthChecksFailed += 1 }
          return (state.watch.checked(probe.id, problem: problem, now: after), state.watch.place(of: probe.id))
        }
        guard let change else { continue }
        hasChanged = true
        let fields: KeyValuePairs<String, LogValue> = [
          "instance": .string(probe.id), "place": .string(place ?? path),
          "reason": .string(problem ?? "it answers again"),
        ]
        if change { log?.info("a server is well again", fields) } else { log?.warning("a server is unhealthy", fields) }
      }
      if hasChanged { publish() }
    }
  }

  // MARK: Names

  private func watchNames() {
    while true {
      let (interval, hasMissing, hasNames) = state.withLock {
        ($0.watch.intervalMilliseconds, !$0.watch.namesWithoutAddress.isEmpty, !$0.watch.names.isEmpty)
      }
      var pause = hasNames && interval > 0 ? interval : Int(Int32.max)
      if hasMissing { pause = min(pause, ServerWatch.missingNameMilliseconds) }
      namesBell.wait(milliseconds: pause)
      namesBell.silence()
      let (names, missing, isStopping) = state.withLock {
        ($0.watch.names, $0.watch.namesWithoutAddress, $0.isStopping)
      }
      if isStopping { return }
      let answers = Self.answers(to: names, lookup)
      let hasChanged = state.withLock { state in
        state.watch.resolved(answers.mapValues(\.addresses), now: Clock.monotonicMilliseconds)
      }
      guard hasChanged else { continue }
      for name in missing where answers[name]?.addresses.isEmpty == false {
        log?.info("a name has an address now", ["name": .string(name)])
      }
      publish()
      healthBell.ring()
    }
  }

  private static func answers(to names: [String], _ lookup: @escaping @Sendable (String) -> NameLookup.Answer)
    -> [String: NameLookup.Answer]
  { NameLookup.resolve(names, withinMilliseconds: lookupMilliseconds, lookup: lookup) }

  /// What has no effect in a file, and which names nobody knows: neither is a reason not to serve the rest.
  private func tell(of file: RouteFile, missing: [String], _ answers: [String: NameLookup.Answer]) {
    guard let log else { return }
    for warning in file.warnings {
      log.warning("a routes file has more than can be served", ["place": .string(warning)])
    }
    for name in missing {
      let instance = file.instances.first { $0.host == name }
      let problem = answers[name].map { $0.problem ?? "no address" } ?? "no answer within \(Self.lookupMilliseconds) ms"
      log.warning(
        "a name has no address; its server gets no requests until it has one",
        [
          "name": .string(name), "reason": .string(problem),
          "place": .string(instance.flatMap { file.places[$0.id] } ?? path),
        ])
    }
  }

  // MARK: The file

  private static func read(_ path: String) throws(RouteFileError) -> RouteFile {
    func problem() -> RouteFileError {
      RouteFileError("\(path): \(unsafe String(cString: strerror(errno)))")
    }
    let file = unsafe open(path, O_RDONLY | O_CLOEXEC)
    guard file >= 0 else { throw problem() }
    defer { close(file) }
    var bytes: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 65_536)
    while true {
      let count = unsafe Glibc.read(file, &buffer, buffer.count)
      if count < 0 && errno == EINTR { continue }
      guard count >= 0 else { throw problem() }
      if count == 0 { break }
      bytes += buffer[..<count]
      guard bytes.count <= maximumBytes else { throw RouteFileError("\(path): larger than \(maximumBytes) bytes") }
    }
    guard let text = String(validating: bytes, as: UTF8.self) else {
      throw RouteFileError("\(path): must be UTF-8 text")
    }
    return try RouteFile(text, file: path)
  }
}
