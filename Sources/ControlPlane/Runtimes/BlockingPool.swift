// Threads of our own for calls that block (probes, /proc, removing directories), so that the cooperative threads, of
// which there are as many as cores, never wait for a peer. Used by the runtimes and the supervisor.
private import Glibc
import Posix
import Synchronization

/// A fixed number of threads, started when they are first needed, with one queue.
package final class BlockingPool: Sendable {
  /// The pool of this process: probes mostly wait, so there are more threads than cores.
  package static let shared = BlockingPool(threads: 8)

  private struct State {
    var jobs: [@Sendable () -> Void] = []
    var idle = 0
    var started = 0
  }
  private let state = Mutex(State())
  private let work = Semaphore()
  private let limit: Int

  package init(threads: Int) { limit = threads }

  /// Runs `body` on one of the threads.
  package func run<Result: Sendable, Failure: Error>(
    _ body: @escaping @Sendable () throws(Failure) -> Result
  ) async throws(Failure) -> Result {
    let outcome = await withCheckedContinuation {
      (continuation: CheckedContinuation<Swift.Result<Result, Failure>, Never>) in
      submit {
        do throws(Failure) {
          continuation.resume(returning: .success(try body()))
        } catch {
          continuation.resume(returning: .failure(error))
        }
      }
    }
    return try outcome.get()
  }

  private func submit(_ job: @escaping @Sendable () -> Void) {
    let starts = state.withLock { state in
      state.jobs.append(job)
      guard state.idle < state.jobs.count && state.started < limit else { return false }
      state.started += 1
      return true
    }
    if starts { start() }
    work.signal()
  }

  private func start() { _ = Thread.start("blocking") { [self] in loop() } }

  private func loop() {
    while true {
      state.withLock { $0.idle += 1 }
      work.wait()
      let job = state.withLock { state in
        state.idle -= 1
        return state.jobs.isEmpty ? nil : state.jobs.removeFirst()
      }
      job?()
    }
  }
}

/// A counting semaphore (sem_overview(7)).
@safe private final class Semaphore: Sendable {
  private nonisolated(unsafe) let semaphore: UnsafeMutablePointer<sem_t>

  init() {
    unsafe semaphore = UnsafeMutablePointer<sem_t>.allocate(capacity: 1)
    unsafe sem_init(semaphore, 0, 0)
  }
  deinit {
    unsafe sem_destroy(semaphore)
    unsafe semaphore.deallocate()
  }
  func signal() { unsafe sem_post(semaphore) }
  func wait() { while unsafe sem_wait(semaphore) != 0 && errno == EINTR {} }
}
