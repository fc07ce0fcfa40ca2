// Waits with a limit that the coordinator's threads need beside Redis' own.
import Glibc
import Posix

extension Doorbell {
  /// Waits until it rings, or the time is over, or a signal comes: the caller looks again in each case.
  func wait(milliseconds: Int) {
    var poller = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
    _ = unsafe poll(&poller, 1, Int32(clamping: milliseconds))
  }
}
