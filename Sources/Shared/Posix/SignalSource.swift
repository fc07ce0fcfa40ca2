// Signals as something that a poll loop waits for: the data plane's main thread takes them beside other events.
import CLinux

/// SIGTERM, SIGINT, SIGHUP and SIGUSR1, blocked for every thread that starts after it was made.
package struct SignalSource: ~Copyable {
  package enum Signal: Sendable { case end, reload, reopenLogs }

  /// Readable when a signal came.
  package let descriptor: Int32

  /// Call it on the main thread before any other thread starts.
  package init() {
    descriptor = clinux_child_signals()
    precondition(descriptor >= 0, "signalfd fails only without descriptors or memory")
  }

  deinit { Socket.close(descriptor) }

  /// The next signal that came, nil when none did.
  package func next() -> Signal? {
    while true {
      switch clinux_child_next_signal(descriptor) {
      case 15, 2: return .end
      case 1: return .reload
      case 10: return .reopenLogs
      // A child's end, which is nobody's business here, and SIGUSR2, which must not kill.
      case 17, 12: continue
      default: return nil
      }
    }
  }
}
