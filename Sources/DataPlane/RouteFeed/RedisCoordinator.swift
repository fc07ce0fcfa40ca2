// The coordinator of a replica that lives with a control plane: routes, slots and sessions through Redis. The daemon makes
// one and gives it to the workers; they see only the protocol Coordinator.
//
// Three threads: "coordinator" runs the commands for slots and the heartbeat (CommandDesk.swift), "route-feed" follows
// the changes of records (FeedReader.swift), "wake" listens to the doorbell. With Redis away, workers keep their last
// table, known sessions stay reachable, and only what needs a new exclusive slot is refused.
package import Observability
import Posix
package import ProxyMachine
package import Redis
package import Routing

/// What the daemon needs of a coordinator, wherever the routes come from.
package protocol RouteSource: Coordinator {
  /// Begins to serve these workers; `SlotRequest.worker` is the index of one. Called once.
  func start(inboxes: [any WorkerInbox])
  /// Ends within about the time; false when something had to be left behind.
  @discardableResult func stop(timeoutMilliseconds: Int) -> Bool
  /// The table that workers have; nil until there is one.
  var table: RoutingTable? { get }
  var counters: CoordinatorCounters { get }
}

package final class RedisCoordinator: RouteSource {
  private let core: CoordinatorCore

  /// - `replica`: the id of this process in Redis; unique in the deployment.
  /// - `figures`: what the heartbeat tells beside the coordinator's own figures; called once a second from a thread of it.
  /// - `faults`: what instances did wrong since it was called last; called once a second from the same thread.
  /// - `traffic`: what workers have sent to instances; called at least once a second, from the same thread.
  /// - `retryMilliseconds`: how often who waits asks again without being woken; at most 2,000, or Redis takes it for dead.
  /// - `jobRetryMilliseconds`: after which Redis is asked once more about a job that it does not know.
  /// - `mailboxLimit`: requests that may wait for the coordinator; the next one is refused as unavailable.
  package init(
    url: RedisURL, keys: Keys, replica: String, log: LogWriter,
    options: RedisOptions = RedisOptions(connectTimeoutMilliseconds: 1_000, commandTimeoutMilliseconds: 3_000),
    mailboxLimit: Int = 65_536, retryMilliseconds: Int = 1_000, jobRetryMilliseconds: Int = 50,
    figures: @escaping @Sendable () -> [String: String] = { [:] },
    faults: @escaping @Sendable () -> [WitnessedFaults] = { [] },
    traffic: @escaping @Sendable () -> TrafficReport = { TrafficReport() }
  ) throws(RedisError) {
    core = try CoordinatorCore(
      url: url, options: options, keys: keys, replica: replica, log: log, mailboxLimit: mailboxLimit,
      retryMilliseconds: retryMilliseconds, jobRetryMilliseconds: jobRetryMilliseconds, figures: figures,
      faults: faults, traffic: traffic)
  }

  package func start(inboxes: [any WorkerInbox]) {
    core.setInboxes(inboxes)
    for inbox in inboxes { inbox.update(replicas: 1) }
    core.start(.commands) { CommandDesk($0).run() }
    core.start(.feed) { FeedReader($0).run() }
    core.start(.wake) { Self.listen($0) }
  }

  /// Refuses who waits, gives every slot of this replica back and says goodbye to Redis, in at most the time (and the
  /// time again for threads that hang); then everything is cut short.
  @discardableResult
  package func stop(timeoutMilliseconds: Int) -> Bool {
    core.interrupt(.feed, .wake)
    core.mailbox.stop()
    if core.waitForThreads(milliseconds: timeoutMilliseconds) { return true }
    core.interrupt(.commands)
    return core.waitForThreads(milliseconds: timeoutMilliseconds)
  }

  package var table: RoutingTable? { core.table }
  package var counters: CoordinatorCounters { core.counters }

  package func submit(_ request: SlotRequest) {
    core.count { $0.requests += 1 }
    let key = TicketKey(worker: request.worker, ticket: request.ticket)
    // Where a known session lives needs no thread and no Redis: pages of a desktop ask this for every file.
    if case .look(let id) = request.kind, let record = core.session(id) {
      core.deliver(.granted(record), key)
    } else if !core.mailbox.put(request) {
      if case .job = request.kind {
        core.deliver(JobOwner.unavailable, key)
      } else {
        core.deliver(.refused(.unavailable), key)
      }
    }
  }

  package func notify(_ notice: SlotNotice) {
    if !core.mailbox.put(notice) { core.count { $0.jobsDropped += 1 } }
  }

  /// What the wake thread does.
  private static func listen(_ core: CoordinatorCore) {
    var backoff = Backoff()
    while true {
      do throws(RedisError) {
        let connection = try core.connect(.wake)
        try connection.subscribe([core.keys.wake])
        backoff.reset()
        // Whatever rang while nobody listened.
        core.mailbox.wake(pool: CommandDesk.everyPool)
        while true {
          if let message = try connection.nextMessage(timeoutMilliseconds: 60_000) {
            core.mailbox.wake(pool: message.payload)
          }
        }
      } catch {
        let pause = backoff.next(random: UInt64.random(in: 0 ... .max))
        if core.interrupter(.wake).wait(milliseconds: pause) { return }
      }
    }
  }
}
