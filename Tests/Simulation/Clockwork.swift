// Time that passes when nothing is left to do: everything of the simulation runs on one thread, in an order that only the
// seed decides. What waits for a moment is continued when all that is due before it has been done.
import Synchronization

/// Whoever is isolated to this actor lives in simulated time.
@globalActor actor Simulated {
  static let shared = Simulated()
  static let clockwork = Clockwork()
  nonisolated var unownedExecutor: UnownedSerialExecutor { unsafe Simulated.clockwork.asUnownedSerialExecutor() }
}

/// The executor of ``Simulated``, and of its tasks wherever they are isolated to nobody, as a continuation is: jobs in the order in which they came, then the earliest of those who wait.
final class Clockwork: SerialExecutor, TaskExecutor {
  private struct Timer {
    let at: Int
    let order: Int
    let continuation: CheckedContinuation<Void, Never>
  }
  private struct State {
    var jobs: [UnownedJob] = []
    var next = 0
    /// The latest first, so that the earliest is taken off the end.
    var timers: [Timer] = []
    var now = 0
    var order = 0
  }
  private let state = Mutex(State())

  /// Milliseconds since the beginning of time; scenes begin where they like.
  var now: Int { state.withLock { $0.now } }

  func enqueue(_ job: consuming ExecutorJob) {
    let job = UnownedJob(job)
    state.withLock { $0.jobs.append(job) }
  }

  /// Continues at that time, or at once when it is over; after all who wait for the same moment already.
  @Simulated func wait(until time: Int) async {
    await withCheckedContinuation { continuation in
      state.withLock { state in
        state.order += 1
        let timer = Timer(at: Swift.max(time, state.now), order: state.order, continuation: continuation)
        var low = 0
        var high = state.timers.count
        while low < high {
          let middle = (low + high) / 2
          if (state.timers[middle].at, state.timers[middle].order) > (timer.at, timer.order) {
            low = middle + 1
          } else {
            high = middle
          }
        }
        state.timers.insert(timer, at: low)
      }
    }
  }

  /// Runs on this thread until nobody waits any more. Called from outside of the simulation.
  func runToTheEnd() {
    while true {
      while let job = nextJob() { runOne(job) }
      let timer = state.withLock { state -> Timer? in
        guard let timer = state.timers.popLast() else { return nil }
        state.now = timer.at
        return timer
      }
      guard let timer else { return }
      timer.continuation.resume()
    }
  }

  private func runOne(_ job: UnownedJob) {
    unsafe job.runSynchronously(isolatedTo: asUnownedSerialExecutor(), taskExecutor: asUnownedTaskExecutor())
  }

  private func nextJob() -> UnownedJob? {
    state.withLock { state in
      guard state.next < state.jobs.count else {
        state.jobs.removeAll(keepingCapacity: true)
        state.next = 0
        return nil
      }
      defer { state.next += 1 }
      return state.jobs[state.next]
    }
  }
}
