// Instances that a test scripts, on loopback.
import Glibc
package import Posix
import Synchronization

/// An instance that does what a test says, connection by connection.
package final class ScriptedInstance: Sendable {
  package let address: SocketAddress
  private let listener: Int32

  package init() {
    let fd = Socket.listen(SocketAddress("127.0.0.1:0")!, backlog: 128, sharesPort: false, defersAccept: false)
    precondition(fd >= 0, "loopback has free ports")
    listener = Int32(fd)
    address = Socket.localAddress(listener)
  }

  deinit { Socket.close(listener) }

  /// The next connection that the engine makes; nil when none comes in half a minute.
  package func accept(withinMilliseconds limit: Int32 = 30_000) -> Peer? {
    var entry = pollfd(fd: listener, events: Int16(POLLIN), revents: 0)
    guard unsafe poll(&entry, 1, limit) == 1 else { return nil }
    var peer = SocketAddress()
    let fd = Socket.accept(listener, from: &peer)
    return fd >= 0 ? Peer(fd: Int32(fd)) : nil
  }
}

/// An instance that answers every request by a rule, each connection on a thread of its own, and counts them.
package final class AnsweringInstance: Sendable {
  package typealias Rule = @Sendable (_ head: String) -> String
  package let address: SocketAddress
  private let listener: Int32
  private let acceptor: Thread
  private let counting: Counting
  package final class Counting: Sendable { let requests = Atomic<Int>(0) }

  /// - Parameter rule: the whole response to a request's head; requests have no bodies that matter.
  package init(_ rule: @escaping Rule) {
    let fd = Socket.listen(SocketAddress("127.0.0.1:0")!, backlog: 128, sharesPort: false, defersAccept: false)
    precondition(fd >= 0, "loopback has free ports")
    let listener = Int32(fd)
    self.listener = listener
    address = Socket.localAddress(listener)
    let counting = Counting()
    self.counting = counting
    acceptor = Thread.start("test-instance") {
      var entry = pollfd(fd: listener, events: Int16(POLLIN), revents: 0)
      while unsafe poll(&entry, 1, -1) == 1 {
        var peer = SocketAddress()
        let fd = Socket.accept(listener, from: &peer)
        if fd == Errno.again { continue }
        guard fd >= 0 else { return }
        let connection = Peer(fd: Int32(fd))
        _ = Thread.start("test-connection") {
          while let head = connection.receive(upTo: "\r\n\r\n") {
            counting.requests.add(1, ordering: .relaxed)
            connection.send(rule(head))
          }
        }
      }
    }
  }

  /// Answers every request with 200 and this text.
  package convenience init(saying text: String) {
    self.init { _ in "HTTP/1.1 200 OK\r\nContent-Length: \(text.utf8.count)\r\n\r\n\(text)" }
  }

  package var requests: Int { counting.requests.load(ordering: .relaxed) }

  /// Refuses connections from now on.
  package func stop() { shutdown(listener, Int32(SHUT_RDWR)) }

  deinit {
    stop()
    acceptor.join()
    Socket.close(listener)
  }
}
