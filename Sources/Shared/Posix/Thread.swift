// A thread of our own (pthread): workers, the coordinator and every caller of blocking Redis live on one.
import CLinux
private import Glibc

@safe package struct Thread: @unchecked Sendable {
  private let handle: pthread_t

  /// Starts a thread with all signals blocked, so that only the main thread handles them.
  /// - Parameter name: at most 15 bytes, seen in `top -H` (pthread_setname_np(3)).
  package static func start(_ name: String, _ body: sending @escaping () -> Void) -> Thread {
    var old = sigset_t()
    var all = sigset_t()
    unsafe sigfillset(&all)
    _ = unsafe pthread_sigmask(SIG_SETMASK, &all, &old)
    defer { unsafe pthread_sigmask(SIG_SETMASK, &old, nil) }
    let box = unsafe Unmanaged.passRetained(Body(name: String(name.prefix(15)), run: body))
    var handle = pthread_t()
    let result = unsafe pthread_create(
      &handle, nil,
      { argument in
        let body = unsafe Unmanaged<Body>.fromOpaque(argument!).takeRetainedValue()
        unsafe clinux_name_thread(body.name)
        body.run()
        return nil
      }, unsafe box.toOpaque())
    precondition(result == 0, "pthread_create fails only when the machine has no room for a thread")
    return Thread(handle: handle)
  }

  package func join() { pthread_join(handle, nil) }

  private final class Body {
    let name: String
    let run: () -> Void
    init(name: String, run: @escaping () -> Void) {
      self.name = name
      self.run = run
    }
  }
}
