// What workers ask of the coordinator about slots and sessions, and what comes back. Engine's workers send and receive
// these, RouteFeed's coordinators answer them; neither imports the other. None of it is on the way of a request to an
// unlimited pool.
package import Routing

/// A question that a worker cannot answer from its own snapshot. The coordinator answers each one exactly once, unless
/// the worker cancels it first; the answer may take as long as the pool's queue timeout.
package struct SlotRequest: Sendable {
  package enum Kind: Sendable, Equatable {
    /// A new implicit session on any instance of the pool. `reserve`: discovery, no socket holds it yet.
    case acquire(pool: String, reserve: Bool, countsAsUse: Bool)
    /// A WebSocket to `/devtools/browser/<guid>`: takes over a reserved session of that Chrome, and holds it.
    case claim(browser: String)
    /// A WebSocket below `/session/<id>`: holds the session.
    case attach(session: String)
    /// An HTTP request below `/session/<id>`: only where it lives; holds nothing.
    case look(session: String)
    /// A further discovery on the connection that the session was reserved for: where it lives, as long as no WebSocket
    /// took it over. After that the connection asks for another client, as HTTP clients keep and share connections.
    case reserved(session: String)
    /// A WebSocket to a bare `/devtools/page/<id>` that a discovery answer named before: holds the target's session.
    case target(id: String)
    /// Which instance made this job, for a route with job affinity; holds nothing. Answered by a
    /// ``JobOwner``: within milliseconds as long as Redis answers, so who asks should not wait for long.
    case job(id: String, pool: String)
  }
  package let kind: Kind
  /// Names the waiting connection within its worker.
  package let ticket: UInt64
  /// Index of the worker that gets the answer.
  package let worker: Int
  /// How long the client may wait for a slot, when its route says so; nil = as long as the pool says. For `acquire` only.
  package let queueTimeoutMilliseconds: Int?

  package init(kind: Kind, ticket: UInt64, worker: Int, queueTimeoutMilliseconds: Int? = nil) {
    self.kind = kind
    self.ticket = ticket
    self.worker = worker
    self.queueTimeoutMilliseconds = queueTimeoutMilliseconds
  }
}

package enum SlotRefusal: Sendable, Equatable {
  /// No such session, browser, target or pool: 404.
  case unknown
  /// Somebody else's exclusive instance: 409.
  case busy
  /// As many clients wait as the pool allows: 429.
  case queueFull
  /// Waited as long as the pool allows: 503.
  case timedOut
  /// No Redis, so no new exclusive slot can be given safely: 503.
  case unavailable
}

package enum SlotAnswer: Sendable {
  case granted(SessionRecord)
  case refused(SlotRefusal)
}

/// Where a job is.
package enum JobOwner: Sendable, Equatable {
  case instance(String)
  /// Nobody has seen its birth, or it is longer ago than jobs are remembered: any instance may answer for it.
  case unknown
  /// Redis does not answer, so nobody can say: any instance is tried.
  case unavailable
}

/// What a worker tells the coordinator without waiting for an answer.
package enum SlotNotice: Sendable, Equatable {
  /// The worker no longer wants the answer to this request; if a slot was granted meanwhile, it is given back.
  case cancel(ticket: UInt64, worker: Int)
  /// One socket that held the session (acquire without reserve, claim, attach, target) has gone.
  case release(session: String)
  /// The client has ended its session: it is over for everybody.
  case end(session: String)
  /// Bytes moved on the session since the last such notice (sent at most once a second for a session).
  case activity(session: String)
  /// A discovery answer named these targets to the session's client.
  case targets([String], session: String)
  /// The worker needs indexes of a pool for global_round_robin. A block may come back by ``WorkerInbox/lend(block:pool:)``;
  /// while Redis is away none comes, and the worker goes on by its own count. Sent again after a second without a block.
  case borrow(pool: String, worker: Int)
  /// An instance's answer gave this id to a new job. Sent before the answer goes on to the client, who may ask another
  /// replica about the job at once.
  case job(id: String, pool: String, instance: String)
}

/// The coordinator as workers see it. Calls return at once and may come from any thread.
package protocol Coordinator: AnyObject, Sendable {
  func submit(_ request: SlotRequest)
  func notify(_ notice: SlotNotice)
}

/// A worker as the coordinator sees it. Calls return at once and may come from any thread.
package protocol WorkerInbox: AnyObject, Sendable {
  func deliver(_ answer: SlotAnswer, ticket: UInt64)
  func deliver(_ owner: JobOwner, ticket: UInt64)
  /// The session is over: its sockets are closed with this reason.
  func end(session: String, reason: String)
  func replace(table: RoutingTable)
  /// How busy instances are, by id, for the strategy `resources`; comes every few seconds while some route has it, and
  /// replaces what was known before. An instance that is missing has not been measured.
  func update(loads: [String: InstanceLoad])
  /// How many replicas are alive, this one included: at least 1. Comes at the start and when it changes.
  func update(replicas: Int)
  /// Indexes of a pool that nobody else gets.
  func lend(block: Range<UInt64>, pool: String)
  /// How many of the tables that ``replace(table:)`` brought are taken: no request begins by an older one any more.
  var tablesTaken: Int { get }
}
