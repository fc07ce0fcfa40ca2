// The commands that the coordinator sends, each with what it is for, so that commands of all kinds share a round trip.
import Routing
import State

/// A request for a slot that may have to wait.
struct Waiter {
  let key: TicketKey
  /// The session's id, and so the ticket in Redis.
  let session: String
  let pool: String
  let reserve: Bool
  /// Whether it may wait at all when no slot is free.
  let queues: Bool
  let countsAsUse: Bool
  /// Monotonic milliseconds.
  let deadline: Int
  /// Whether an answer was lost: Redis may have given it a slot.
  var isUncertain = false
}

/// A WebSocket to a browser, by the GUID of its address.
struct Claim {
  let key: TicketKey
  let browser: String
  /// The session that is made if there is none to take over.
  let session: String
}

struct Operation {
  enum Purpose {
    case acquire(Waiter)
    case claim(Claim, instance: InstanceRecord)
    /// Which instance has the browser, when the table does not say.
    case findInstance(Claim)
    case attach(TicketKey, session: String)
    case look(TicketKey, session: String)
    case reserved(TicketKey)
    case target(TicketKey, target: String)
    case detach(session: String)
    case end(session: String)
    case cancelWaiting(session: String, pool: String)
    /// Nobody took up a reserved session: what state is it in?
    case giveBack(session: String)
    /// A claim whose answer was lost and whose client was refused: which session did it get?
    case settleClaim(Claim, instance: InstanceRecord)
    /// `losses`: when the feed asked for it, knowing the whole history; nil when the outcome decides nothing.
    case reattach(session: String, losses: Int?)
    case restore(SessionRecord)
    case reasons([String])
    case remember(target: String)
    case beat(touched: Set<String>)
    case borrow(pool: String, worker: Int)
    case rememberJob(JobName, instance: String)
    case findJob(JobQuestion)
    case countReplicas
    case readLoads
    /// Failures of so many instances.
    case report(Int)
    case flushTraffic
  }
  enum Outcome: Sendable {
    case nothing
    case flag(Bool)
    case text(String?)
    case grant(Grant)
    case view(SessionView?)
    case instances([InstanceRecord])
    case events([Event])
    case block(Range<UInt64>?)
    case count(Int)
    case loads([String: InstanceLoad])
  }
  let purpose: Purpose
  let command: Command<Outcome>

  init<R: Sendable>(_ purpose: Purpose, _ command: Command<R>, _ outcome: @escaping @Sendable (R) -> Outcome) {
    self.purpose = purpose
    self.command = Command(command.body, mayRepeat: command.mayRepeat) {
      [parse = command.parse] (reply: Reply) throws(StateError) in
      outcome(try parse(reply))
    }
  }
  init(_ purpose: Purpose, _ command: Command<Void>) { self.init(purpose, command) { _ in .nothing } }
  init(_ purpose: Purpose, _ command: Command<Grant>) { self.init(purpose, command) { .grant($0) } }
}
