// epoll(7) and eventfd(2) for the workers' loops.
import CLinux
private import Glibc

/// An epoll instance, with room for one batch of events. A token packs a descriptor with the generation of its slot, so that an event for a closed and
/// reused descriptor is seen to be stale.
@safe package struct Poller: ~Copyable {
  package let descriptor: Int32
  private let events: UnsafeMutablePointer<clinux_epoll_event>
  package static let capacity = 512

  package init() {
    descriptor = clinux_epoll_create()
    precondition(descriptor >= 0, "epoll_create1 fails only without descriptors or memory")
    unsafe events = .allocate(capacity: Self.capacity)
  }

  deinit {
    unsafe events.deallocate()
    Socket.close(descriptor)
  }

  package struct Token: Sendable, Equatable {
    package let fd: Int32
    package let generation: UInt32
    package init(fd: Int32, generation: UInt32) {
      self.fd = fd
      self.generation = generation
    }
    @inline(__always) package init(packed: UInt64) {
      fd = Int32(truncatingIfNeeded: packed)
      generation = UInt32(truncatingIfNeeded: packed >> 32)
    }
    @inline(__always) package var packed: UInt64 { UInt64(generation) << 32 | UInt64(UInt32(bitPattern: fd)) }
  }

  package struct Readiness: OptionSet, Sendable {
    package let rawValue: UInt32
    @inline(__always) package init(rawValue: UInt32) { self.rawValue = rawValue }
    @inline(__always) package func holdsAny(_ others: Readiness) -> Bool { rawValue & others.rawValue != 0 }
    package static let input = Readiness(rawValue: UInt32(CLINUX_EPOLLIN))
    package static let output = Readiness(rawValue: UInt32(CLINUX_EPOLLOUT))
    package static let error = Readiness(rawValue: UInt32(CLINUX_EPOLLERR))
    package static let hangup = Readiness(rawValue: UInt32(CLINUX_EPOLLHUP))
    // Sets that are asked for on every event are written as bits: a set made from an array literal is made at run time.
    /// Anything that a read will tell.
    package static let anyInput = Readiness(rawValue: 0x2019)
    /// The peer sends no more, or the connection is broken.
    package static let anyEnd = Readiness(rawValue: 0x2018)
    /// What a connection attempt ends with.
    package static let connected = Readiness(rawValue: 0x1C)
    /// The peer will send no more.
    package static let inputEnd = Readiness(rawValue: UInt32(CLINUX_EPOLLRDHUP))
  }

  /// Watches a connection edge-triggered for both directions; it is registered once and never modified.
  @inline(__always) package func addEdgeTriggered(_ token: Token) {
    let bits = Readiness([.input, .output, .inputEnd]).rawValue | UInt32(CLINUX_EPOLLET)
    let result = clinux_epoll_add(descriptor, token.fd, bits, token.packed)
    precondition(result == 0, "epoll_ctl(ADD) of an open, unregistered descriptor fails only without memory")
  }

  /// Watches level-triggered for input: listeners and eventfds.
  package func addInput(_ token: Token) {
    let result = clinux_epoll_add(descriptor, token.fd, Readiness.input.rawValue, token.packed)
    precondition(result == 0, "epoll_ctl(ADD) of an open, unregistered descriptor fails only without memory")
  }

  package func remove(_ fd: Int32) { _ = clinux_epoll_delete(descriptor, fd) }

  /// Waits at most so many milliseconds (-1: no limit) and calls back for each event.
  @inline(__always) package func wait(milliseconds: Int32, _ body: (Token, Readiness) -> Void) {
    let count = unsafe clinux_epoll_wait(descriptor, events, Int32(Self.capacity), milliseconds)
    guard count > 0 else {
      precondition(count == 0 || count == -EINTR, "epoll_wait fails only for bad arguments")
      return
    }
    for index in 0..<Int(count) {
      let event = unsafe events[index]
      body(Token(packed: event.token), Readiness(rawValue: event.events))
    }
  }
}

/// An eventfd: wakes a loop from another thread.
package struct Doorbell: Sendable {
  package let descriptor: Int32

  package init() {
    descriptor = clinux_eventfd()
    precondition(descriptor >= 0, "eventfd fails only without descriptors or memory")
  }

  package func ring() {
    var one: UInt64 = 1
    // A full counter means that it rings already.
    _ = unsafe write(descriptor, &one, 8)
  }

  package func silence() {
    var value: UInt64 = 0
    _ = unsafe read(descriptor, &value, 8)
  }

  package func close() { Socket.close(descriptor) }
}
