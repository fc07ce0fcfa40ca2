// A thread and a place for threads to meet: what RedisClient needs of pthreads. Calls to Redis block, so they may not
// run on Swift's cooperative pool.
import Glibc

/// A mutex with a condition variable around some state.
@safe final class Monitor<State>: @unchecked Sendable {
  private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
  private let condition = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)
  private var state: State

  init(_ state: State) {
    self.state = state
    unsafe pthread_mutex_init(mutex, nil)
    // Waits are measured on the monotonic clock: a corrected wall clock must not stretch them.
    var attributes = pthread_condattr_t()
    unsafe pthread_condattr_init(&attributes)
    unsafe pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
    unsafe pthread_cond_init(condition, &attributes)
    unsafe pthread_condattr_destroy(&attributes)
  }

  deinit {
    unsafe pthread_cond_destroy(condition)
    unsafe pthread_mutex_destroy(mutex)
    unsafe condition.deallocate()
    unsafe mutex.deallocate()
  }

  /// Changes the state; `wake` wakes every waiting thread.
  func withLock<R>(wake: Bool = false, _ body: (inout State) -> R) -> R {
    unsafe pthread_mutex_lock(mutex)
    defer { unsafe pthread_mutex_unlock(mutex) }
    let result = body(&state)
    if wake { unsafe pthread_cond_broadcast(condition) }
    return result
  }

  /// Waits until `body` gives something; nil when `milliseconds` (if given) are over first.
  func wait<R>(milliseconds: Int? = nil, _ body: (inout State) -> R?) -> R? {
    var end = timespec()
    if let milliseconds {
      unsafe clock_gettime(CLOCK_MONOTONIC, &end)
      let nanoseconds = end.tv_nsec + milliseconds % 1_000 * 1_000_000
      end.tv_sec += milliseconds / 1_000 + nanoseconds / 1_000_000_000
      end.tv_nsec = nanoseconds % 1_000_000_000
    }
    unsafe pthread_mutex_lock(mutex)
    defer { unsafe pthread_mutex_unlock(mutex) }
    while true {
      if let result = body(&state) { return result }
      if milliseconds == nil {
        unsafe pthread_cond_wait(condition, mutex)
      } else if unsafe pthread_cond_timedwait(condition, mutex, &end) == ETIMEDOUT {
        return body(&state)
      }
    }
  }
}

/// Starts a detached thread.
func startThread(_ body: @escaping @Sendable () -> Void) {
  final class Start {
    let body: @Sendable () -> Void
    init(_ body: @escaping @Sendable () -> Void) { self.body = body }
  }
  var attributes = pthread_attr_t()
  unsafe pthread_attr_init(&attributes)
  defer { unsafe pthread_attr_destroy(&attributes) }
  unsafe pthread_attr_setdetachstate(&attributes, Int32(PTHREAD_CREATE_DETACHED))
  var thread = pthread_t()
  let start = unsafe Unmanaged.passRetained(Start(body)).toOpaque()
  let code = unsafe pthread_create(
    &thread, &attributes,
    { argument in
      unsafe Unmanaged<Start>.fromOpaque(argument!).takeRetainedValue().body()
      return nil
    }, start)
  precondition(code == 0, "no thread: \(errorText(code)); raise the limit of processes")
}
