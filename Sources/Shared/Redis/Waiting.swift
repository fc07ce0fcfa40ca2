// Waiting for a socket with a limit, and the way to end such a wait from another thread.
import Glibc
import Synchronization

/// A point on the monotonic clock.
struct Deadline {
  private let end: Int

  init(milliseconds: Int) { end = Self.now + max(0, milliseconds) }

  /// 0 when the time is over.
  var remainingMilliseconds: Int { max(0, end - Self.now) }

  static var now: Int {
    var time = timespec()
    unsafe clock_gettime(CLOCK_MONOTONIC, &time)
    return time.tv_sec * 1_000 + time.tv_nsec / 1_000_000
  }
}

/// errno in words.
func errorText(_ number: Int32) -> String { unsafe String(cString: strerror(number)) }

/// Ends the waits of one thread, from any other, for good: when a daemon stops. It outlives the connections that the
/// thread makes; every later wait ends at once too.
package final class RedisInterrupter: Sendable {
  /// A pair of connected sockets: a byte in the second makes the first readable.
  private let ends: (waiting: Int32, ringing: Int32)
  private struct State {
    var interrupted = false
    var sockets: Set<Int32> = []
  }
  private let state = Mutex(State())

  package init() throws(RedisError) {
    var pair: [Int32] = [-1, -1]
    guard unsafe socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue) | socketFlags, 0, &pair) == 0 else {
      throw .connect("no socket for interrupting waits: \(errorText(errno)); raise the limit of open files")
    }
    ends = (pair[0], pair[1])
  }

  deinit {
    close(ends.waiting)
    close(ends.ringing)
  }

  package func interrupt() {
    state.withLock { state in
      guard !state.interrupted else { return }
      state.interrupted = true
      var byte: UInt8 = 1
      _ = unsafe write(ends.ringing, &byte, 1)
      // TLS waits for its socket alone.
      for socket in state.sockets { _ = shutdown(socket, Int32(SHUT_RDWR)) }
    }
  }

  package var isInterrupted: Bool { state.withLock { $0.interrupted } }

  /// Sleeps, e.g. between two tries to connect; true when it was interrupted.
  package func wait(milliseconds: Int) -> Bool {
    let deadline = Deadline(milliseconds: milliseconds)
    while !isInterrupted {
      var poller = pollfd(fd: ends.waiting, events: Int16(POLLIN), revents: 0)
      let ready = unsafe poll(&poller, 1, Int32(clamping: deadline.remainingMilliseconds))
      if ready == 0 { return isInterrupted }
    }
    return true
  }

  /// From now on an interruption shuts this socket down.
  func watch(_ socket: Int32) {
    state.withLock { state in
      state.sockets.insert(socket)
      if state.interrupted { _ = shutdown(socket, Int32(SHUT_RDWR)) }
    }
  }

  /// Before the socket is closed: its number may then become another one's.
  func unwatch(_ socket: Int32) { state.withLock { state in _ = state.sockets.remove(socket) } }

  /// Waits until the socket is ready for `events` (or broken, which its next use tells).
  func wait(for socket: Int32, events: Int32, _ deadline: Deadline) throws(RedisError) -> Bool {
    while true {
      var pollers = [
        pollfd(fd: socket, events: Int16(events), revents: 0),
        pollfd(fd: ends.waiting, events: Int16(POLLIN), revents: 0),
      ]
      let ready = unsafe poll(&pollers, 2, Int32(clamping: deadline.remainingMilliseconds))
      if ready < 0 && errno == EINTR { continue }
      precondition(ready >= 0, "poll refused its arguments")
      if pollers[1].revents != 0 { throw .interrupted }
      return ready > 0
    }
  }
}

/// SOCK_CLOEXEC and SOCK_NONBLOCK.
let socketFlags = Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
