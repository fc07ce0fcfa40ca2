// A TCP proxy in front of a server that can be cut: the partition of one process from Redis. Used by tests that give each
// control plane or replica a way of its own.
import Glibc
import Posix
import Synchronization

package final class CutProxy: Sendable {
  package enum Mode: Sendable, Equatable {
    case open
    /// Connections end, new ones are ended at once.
    case cut
    /// Nothing passes and nobody is told: as behind a cable that was pulled. What was sent arrives when it is open again.
    case stalled
  }
  private let listener: Int32
  package let port: Int
  private let target: @Sendable () -> Int
  private let mode = Mutex(Mode.open)
  private let isOver = Atomic(false)

  /// - Parameter target: the port that connections go to from now on.
  package init(to target: @escaping @Sendable () -> Int) throws {
    guard let address = SocketAddress(host: "127.0.0.1", port: 0) else { throw FixtureError("no address") }
    let socket = Socket.listen(address, backlog: 64, sharesPort: false, defersAccept: false)
    guard socket >= 0 else { throw FixtureError("no port for a proxy") }
    listener = Int32(socket)
    port = Socket.localAddress(listener).port
    self.target = target
    _ = Thread.start("cut-proxy") { [self] in
      while !isOver.load(ordering: .relaxed) {
        guard Self.isReady(listener, milliseconds: 50) else { continue }
        var peer = SocketAddress()
        let client = Socket.accept(listener, from: &peer)
        if client >= 0 { serve(Int32(client)) }
      }
      Socket.close(listener)
    }
  }

  package convenience init(to redis: RedisFixture) throws { try self.init { redis.port } }

  /// Ends everything; the proxy's threads hold it alive until then.
  package func close() {
    set(.cut)
    isOver.store(true, ordering: .relaxed)
  }

  package func set(_ new: Mode) { mode.withLock { $0 = new } }
  private var current: Mode { mode.withLock { $0 } }

  private func serve(_ client: Int32) {
    guard current != .cut, let address = SocketAddress(host: "127.0.0.1", port: target()) else {
      return Socket.close(client)
    }
    let (result, _) = Socket.connect(address)
    guard result >= 0 else { return Socket.close(client) }
    let server = Int32(result)
    let ends = Ends()
    for (from, to) in [(client, server), (server, client)] {
      _ = Thread.start("cut-proxy-bytes") { [self] in
        move(from, to)
        shutdown(from, Int32(SHUT_RDWR))
        shutdown(to, Int32(SHUT_RDWR))
        guard ends.isLast else { return }
        Socket.close(client)
        Socket.close(server)
      }
    }
  }

  private final class Ends: Sendable {
    private let open = Mutex(2)
    var isLast: Bool {
      open.withLock {
        $0 -= 1
        return $0 == 0
      }
    }
  }

  /// Until one side ends, or the way is cut.
  private func move(_ from: Int32, _ to: Int32) {
    var buffer = [UInt8](repeating: 0, count: 65_536)
    while true {
      switch current {
      case .cut: return
      case .stalled:
        usleep(5_000)
        continue
      case .open: break
      }
      guard Self.isReady(from, milliseconds: 20) else { continue }
      // It may have been stalled while there was nothing to move.
      if current != .open { continue }
      let count = unsafe recv(from, &buffer, buffer.count, 0)
      if count < 0, errno == EAGAIN || errno == EINTR { continue }
      guard count > 0 else { return }
      var sent = 0
      while sent < count {
        let piece = unsafe buffer.withUnsafeBytes {
          unsafe send(to, $0.baseAddress! + sent, count - sent, Int32(MSG_NOSIGNAL))
        }
        if piece > 0 {
          sent += piece
        } else if errno == EAGAIN || errno == EINTR || errno == EINPROGRESS || errno == ENOTCONN {
          usleep(1_000)
        } else {
          return
        }
      }
    }
  }

  private static func isReady(_ socket: Int32, milliseconds: Int32) -> Bool {
    var entry = pollfd(fd: socket, events: Int16(POLLIN), revents: 0)
    return unsafe poll(&entry, 1, milliseconds) > 0
  }
}
