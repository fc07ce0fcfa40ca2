// The doorbell of a control plane: rung for every message of `berth:wake` and by the supervisor's own tasks, waited for
// by the reconciler and by clients in a queue. A ring between two looks is never lost, because waiters say up to which
// ring they have looked.
package import Logging
package import Redis
package import Routing
import Runtimes
import Synchronization

package final class WakeBell: Sendable {
  /// One call of `wait`, from its beginning to its end.
  private enum Waiting {
    case undecided
    case waiting(String?, CheckedContinuation<Void, Never>)
    case released
  }
  private struct State {
    var rings = 0
    /// Number of the last ring of each pool, and of the last one for all of them.
    var pools: [String: Int] = [:]
    var everybody = 0
    var waiting: [Int: Waiting] = [:]
    var nextWaiter = 0

    mutating func release(_ id: Int) -> CheckedContinuation<Void, Never>? {
      guard let old = waiting[id] else { return nil }
      waiting[id] = .released
      if case .waiting(_, let continuation) = old { return continuation }
      return nil
    }
  }
  private let state = Mutex(State())

  package init() {}

  /// To be taken before looking at what the bell is about, and handed to ``wait(after:pool:milliseconds:)`` afterwards.
  package var rings: Int { state.withLock { $0.rings } }

  /// Something changed; nil = in no particular pool, which wakes everybody.
  package func ring(pool: String? = nil) {
    let woken = state.withLock { state in
      state.rings += 1
      if let pool { state.pools[pool] = state.rings } else { state.everybody = state.rings }
      var woken: [CheckedContinuation<Void, Never>] = []
      for (id, entry) in state.waiting {
        guard case .waiting(let wanted, _) = entry, wanted == nil || pool == nil || wanted == pool else { continue }
        if let continuation = state.release(id) { woken.append(continuation) }
      }
      return woken
    }
    for continuation in woken { continuation.resume() }
  }

  /// Returns when the bell was rung (for this pool) since `after`, after that time, or when the task is cancelled.
  package func wait(after seen: Int, pool: String? = nil, milliseconds: Int) async {
    let id = state.withLock { state in
      state.nextWaiter += 1
      state.waiting[state.nextWaiter] = .undecided
      return state.nextWaiter
    }
    let timer = Task {
      do { try await Task.sleep(for: .milliseconds(milliseconds)) } catch { return }
      self.release(id)
    }
    await withTaskCancellationHandler {
      await withCheckedContinuation { (continuation: CheckedContinuation<Void, Never>) in
        let over = state.withLock { state in
          let last = pool.map { max(state.pools[$0] ?? 0, state.everybody) } ?? state.rings
          guard last <= seen, case .undecided = state.waiting[id] else { return true }
          state.waiting[id] = .waiting(pool, continuation)
          return false
        }
        if over { continuation.resume() }
      }
    } onCancel: {
      release(id)
    }
    timer.cancel()
    state.withLock { _ = $0.waiting.removeValue(forKey: id) }
  }

  /// Ends one wait, also one that has not begun to wait yet.
  private func release(_ id: Int) {
    let continuation = state.withLock { state in state.release(id) }
    continuation?.resume()
  }
}

/// Rings the bell for what comes through Redis, on a thread of its own; connects again whenever the connection is lost.
package struct WakeListener: Sendable {
  private let url: RedisURL
  private let channel: String
  private let bell: WakeBell
  private let logger: Logger
  private let interrupter: RedisInterrupter

  package init(url: RedisURL, keys: Keys, bell: WakeBell, logger: Logger) throws(RedisError) {
    self.url = url
    channel = keys.wake
    self.bell = bell
    self.logger = logger
    interrupter = try RedisInterrupter()
  }

  /// Runs until ``stop()``.
  package func run() async { await BlockingPool(threads: 1).run { self.listen() } }

  package func stop() { interrupter.interrupt() }

  private func listen() {
    var backoff = Backoff()
    while !interrupter.isInterrupted {
      do throws(RedisError) {
        let connection = try RedisConnection(
          url: url, options: RedisOptions(connectTimeoutMilliseconds: 2_000, commandTimeoutMilliseconds: 3_000),
          interrupter: interrupter)
        try connection.subscribe([channel])
        backoff.reset()
        // What was said while nobody listened is not said again.
        bell.ring()
        while true {
          if let message = try connection.nextMessage(timeoutMilliseconds: 60_000) { bell.ring(pool: message.payload) }
        }
      } catch {
        if error == .interrupted { return }
        logger.debug("the wake channel is lost", metadata: ["error": "\(error)"])
        _ = interrupter.wait(milliseconds: backoff.next(random: .random(in: 0 ... .max)))
      }
    }
  }
}
