// Where workers and the other threads of the coordinator leave work for its command thread.
import Posix
import ProxyMachine
import Synchronization

/// What the command thread is asked to do.
enum Errand: Sendable {
  case request(SlotRequest)
  case notice(SlotNotice)
  /// The feed read that the session is over.
  case ended(session: String)
  /// The feed has a connection and the state of Redis is known: attach again what is held. `lost`: Redis came back with
  /// less than it had, so that what lives here is put back. `losses`: the feed's count, by which a stale word is known.
  /// `redis`: the process that it is about.
  case reconcile(Reconciliation)
}

struct Reconciliation: Sendable {
  var lost: Bool
  var losses: Int
  var redis: String?
  /// The command thread has looked for that process once.
  var wasRetried = false
}

final class Mailbox: Sendable {
  private struct State {
    var errands: [Errand] = []
    var requests = 0
    var jobs = 0
    var active: Set<String> = []
    var wakes: Set<String> = []
    var hasNewTable = false
    var stopping = false
    var isIdle: Bool { errands.isEmpty && wakes.isEmpty && !hasNewTable && !stopping }
  }
  struct Batch {
    var errands: [Errand] = []
    var wakes: Set<String> = []
    /// Sessions that moved bytes since the batch before.
    var active: Set<String> = []
    /// Workers were given another table.
    var hasNewTable = false
    var stopping = false
  }
  private let state = Mutex(State())
  private let doorbell = Doorbell()
  /// Requests that may wait for the thread; the next one is refused at once.
  private let limit: Int

  init(limit: Int) { self.limit = limit }
  deinit { doorbell.close() }

  /// False when the mailbox is full or its reader stops.
  func put(_ request: SlotRequest) -> Bool {
    append { state in
      guard state.requests < limit, !state.stopping else { return false }
      state.requests += 1
      state.errands.append(.request(request))
      return true
    }
  }

  /// Notices are never refused: there are at most a few for each socket, and a lost release would hold a slot. Only of
  /// new jobs there may be any number; false when there are too many, and it is forgotten.
  @discardableResult
  func put(_ notice: SlotNotice) -> Bool {
    var isKept = true
    _ = append { state in
      switch notice {
      case .activity(let session):
        state.active.insert(session)
        // Read with the next beat; nobody waits for it.
        return false
      case .job:
        isKept = state.jobs < limit
        guard isKept else { return false }
        state.jobs += 1
      case .cancel, .release, .end, .targets, .borrow: break
      }
      state.errands.append(.notice(notice))
      return true
    }
    return isKept
  }

  func ended(_ session: String) {
    _ = append { state in
      state.errands.append(.ended(session: session))
      return true
    }
  }

  func reconcile(_ word: Reconciliation) {
    _ = append { state in
      state.errands.append(.reconcile(word))
      return true
    }
  }

  func wake(pool: String) {
    _ = append { state in state.wakes.insert(pool).inserted }
  }

  func tableChanged() {
    _ = append { state in
      defer { state.hasNewTable = true }
      return !state.hasNewTable
    }
  }

  func stop() {
    _ = append { state in
      state.stopping = true
      return true
    }
  }

  private func append(_ body: (inout State) -> Bool) -> Bool {
    let (result, ring) = state.withLock { state in
      let wasIdle = state.isIdle
      let result = body(&state)
      return (result, result && wasIdle)
    }
    if ring { doorbell.ring() }
    return result
  }

  /// What has come, waiting no longer than so many milliseconds for it.
  func take(waitingMilliseconds: Int) -> Batch {
    let idle = state.withLock { $0.isIdle }
    if idle && waitingMilliseconds > 0 { doorbell.wait(milliseconds: waitingMilliseconds) }
    doorbell.silence()
    return state.withLock { state in
      defer {
        state.errands = []
        state.requests = 0
        state.jobs = 0
        state.wakes = []
        state.active = []
        state.hasNewTable = false
      }
      return Batch(
        errands: state.errands, wakes: state.wakes, active: state.active, hasNewTable: state.hasNewTable,
        stopping: state.stopping)
    }
  }
}
