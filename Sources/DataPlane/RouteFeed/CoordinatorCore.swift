// What the three threads of a RedisCoordinator share: who they are, what is known of the deployment, the way to the
// workers, and the counters.
import Observability
import Posix
import ProxyMachine
import Redis
import Routing
import Synchronization

/// The names of threads that a coordinator runs.
enum CoordinatorThread: Int, CaseIterable {
  case commands, feed, wake
  var name: String {
    switch self {
    case .commands: "coordinator"
    case .feed: "route-feed"
    case .wake: "wake"
    }
  }
}

final class CoordinatorCore: Sendable {
  let url: RedisURL
  let options: RedisOptions
  let keys: Keys
  let replica: String
  let log: LogWriter
  let figures: @Sendable () -> [String: String]
  let faults: @Sendable () -> [WitnessedFaults]
  let traffic: @Sendable () -> TrafficReport
  /// How often who waits asks again without being woken; well below the 5 s after which Redis takes a waiter for dead.
  let retryMilliseconds: Int
  let jobRetryMilliseconds: Int
  let mailbox: Mailbox
  private let interrupters: [RedisInterrupter]

  /// What is known of the deployment.
  struct View {
    /// The table that workers have; nil before the first snapshot.
    var table: RoutingTable?
    /// The tables that workers were given and may still route by, with their numbers.
    var given: [(number: Int, table: RoutingTable)] = []
    var sessions: [String: SessionRecord] = [:]
    /// Counts how often the feed lost Redis, and the count for which all that is held here was put into Redis again.
    /// When they are equal, the word of Redis is final; otherwise what it does not know may be alive all the same.
    var losses = 0
    var settledLosses = -1
    var isTrusted: Bool { settledLosses == losses }
  }
  private let view = Mutex(View())
  private let inboxes = Mutex<[any WorkerInbox]>([])
  private let counted = Mutex(CoordinatorCounters())
  private let running = Mutex(0)
  private let threadEnded = Doorbell()

  init(
    url: RedisURL, options: RedisOptions, keys: Keys, replica: String, log: LogWriter, mailboxLimit: Int,
    retryMilliseconds: Int, jobRetryMilliseconds: Int, figures: @escaping @Sendable () -> [String: String],
    faults: @escaping @Sendable () -> [WitnessedFaults] = { [] },
    traffic: @escaping @Sendable () -> TrafficReport
  ) throws(RedisError) {
    self.url = url
    self.options = options
    self.keys = keys
    self.replica = replica
    self.log = log
    self.figures = figures
    self.faults = faults
    self.traffic = traffic
    self.retryMilliseconds = retryMilliseconds
    self.jobRetryMilliseconds = jobRetryMilliseconds
    mailbox = Mailbox(limit: mailboxLimit)
    var interrupters: [RedisInterrupter] = []
    for _ in CoordinatorThread.allCases { interrupters.append(try RedisInterrupter()) }
    self.interrupters = interrupters
  }

  deinit { threadEnded.close() }

  func interrupter(_ thread: CoordinatorThread) -> RedisInterrupter { interrupters[thread.rawValue] }

  /// A new connection of this thread; counts it, or its failure.
  func connect(_ thread: CoordinatorThread) throws(RedisError) -> RedisConnection {
    var options = options
    options.clientName = "\(replica)-\(thread.name)"
    do throws(RedisError) {
      let connection = try RedisConnection(url: url, options: options, interrupter: interrupter(thread))
      count { $0.connects += 1 }
      return connection
    } catch {
      if error != .interrupted { count { $0.redisFailures += 1 } }
      throw error
    }
  }

  // MARK: What is known

  func withView<R: Sendable>(_ body: (inout sending View) -> sending R) -> R { view.withLock { body(&$0) } }
  var table: RoutingTable? { view.withLock { $0.table } }
  func session(_ id: String) -> SessionRecord? { view.withLock { $0.sessions[id] } }
  var isTrusted: Bool { view.withLock { $0.isTrusted } }
  var losses: Int { view.withLock { $0.losses } }
  func distrust() { view.withLock { $0.losses += 1 } }
  func trust(after losses: Int) { view.withLock { $0.settledLosses = losses } }

  // MARK: The workers

  func setInboxes(_ new: [any WorkerInbox]) { inboxes.withLock { $0 = new } }

  func deliver(_ answer: SlotAnswer, _ key: TicketKey) {
    count { counters in
      switch answer {
      case .granted: counters.granted += 1
      case .refused(let refusal): counters.count(refusal)
      }
    }
    let inbox = inboxes.withLock { $0.indices.contains(key.worker) ? $0[key.worker] : nil }
    inbox?.deliver(answer, ticket: key.ticket)
  }

  func deliver(_ owner: JobOwner, _ key: TicketKey) {
    count { $0.count(owner) }
    let inbox = inboxes.withLock { $0.indices.contains(key.worker) ? $0[key.worker] : nil }
    inbox?.deliver(owner, ticket: key.ticket)
  }

  func end(_ session: String, reason: String) {
    for inbox in inboxes.withLock({ $0 }) { inbox.end(session: session, reason: reason) }
  }

  var workers: [any WorkerInbox] { inboxes.withLock { $0 } }

  /// Hands a new table to every worker.
  func publish(_ table: RoutingTable) {
    withView { view in
      view.table = table
      // Workers that do not take one of them for so long have worse troubles.
      if view.given.count >= Self.givenLimit { view.given.removeFirst(Self.givenLimit / 2) }
      view.given.append(((view.given.last?.number ?? 0) + 1, table))
    }
    count { $0.tables += 1 }
    for inbox in inboxes.withLock({ $0 }) { inbox.replace(table: table) }
    mailbox.tableChanged()
  }
  private static let givenLimit = 1_024

  /// The newest table that all workers route by, and the newest that they were given; nil before they have one.
  func tablesInForce() -> (inForce: RoutingTable, newest: RoutingTable)? {
    let taken = workers.map(\.tablesTaken).min() ?? 0
    return withView { view in
      while view.given.count > 1, view.given[1].number <= taken { view.given.removeFirst() }
      guard let first = view.given.first, let last = view.given.last, first.number <= taken else { return nil }
      return (first.table, last.table)
    }
  }

  // MARK: Counters

  func count(_ body: (inout CoordinatorCounters) -> Void) { counted.withLock { body(&$0) } }

  var counters: CoordinatorCounters {
    var counters = counted.withLock { $0 }
    let isTrusted: Bool
    (counters.sessions, isTrusted) = view.withLock { ($0.sessions.count, $0.isTrusted) }
    counters.connected = counters.connected && isTrusted
    return counters
  }

  // MARK: Threads

  func start(_ thread: CoordinatorThread, _ body: @escaping @Sendable (CoordinatorCore) -> Void) {
    running.withLock { $0 += 1 }
    _ = Thread.start(thread.name) { [self] in
      body(self)
      running.withLock { $0 -= 1 }
      threadEnded.ring()
    }
  }

  func interrupt(_ threads: CoordinatorThread...) { for thread in threads { interrupter(thread).interrupt() } }

  /// Whether all threads ended within the time.
  func waitForThreads(milliseconds: Int) -> Bool {
    let end = Clock.monotonicMilliseconds + milliseconds
    while running.withLock({ $0 > 0 }) {
      let left = end - Clock.monotonicMilliseconds
      guard left > 0 else { return false }
      threadEnded.wait(milliseconds: left)
      threadEnded.silence()
    }
    return true
  }
}
