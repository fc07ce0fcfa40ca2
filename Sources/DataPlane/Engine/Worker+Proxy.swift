// The PROXY protocol: read from listed peers before anything else of a connection, written towards the instances of pools
// that ask for it.
import HTTPWire
import Observability
import Posix
import ProxyMachine

extension Worker {
  /// Looks at the header that a listed peer's connection begins with, without taking more than it from the kernel: what
  /// follows may be TLS. True: it is complete, and the connection goes on as its client's.
  func readProxyHeader(_ fd: Int32) -> Bool {
    guard s.slab[fd].isReadable else { return false }
    let count = unsafe Socket.peek(fd, s.input, ProxyProtocol.longestHeader)
    guard count > 0 else {
      if count == Errno.again {
        s.slab[fd].isReadable = false
      } else {
        closeClient(fd, count == 0 ? .clientAborted : .clientReset)
      }
      return false
    }
    let bytes = unsafe Span<UInt8>(_unsafeStart: s.input.assumingMemoryBound(to: UInt8.self), count: count)
    switch ProxyProtocol.parse(bytes) {
    case .needsMore:
      // What was seen stays in the kernel; the next bytes are a new event.
      if s.slab[fd].peerEnds { closeClient(fd, .clientAborted) } else { s.slab[fd].isReadable = false }
      return false
    case .failed(let error):
      s.log.warning(
        "a connection was closed",
        [
          "reason": .string(CloseReason.badProxyHeader.label), "error": .string(error.sentence),
          "peer": .string(s.slab[fd].address.host),
        ])
      closeClient(fd, .badProxyHeader)
      return false
    case .complete(let header):
      _ = unsafe Socket.receive(fd, s.input, header.byteCount)
      s.slab[fd].awaitsProxyHeader = false
      if let source = header.source {
        setAddress(fd, SocketAddress(source))
        s.destinations[fd] = header.destination
      }
      return true
    }
  }

  /// Who the client is, by its connection or by the header of a proxy before it.
  func setAddress(_ fd: Int32, _ address: SocketAddress) {
    s.slab[fd].address = address
    s.slab[fd].isTrusted = s.trustedProxies.holds(address)
  }

  /// Writes the header for a new connection to the instance of the client's request into `headOutput`; its bytes.
  func writeProxyHeader(_ fd: Int32) -> Int {
    let route = s.slab[fd].route
    guard route >= 0, !s.slab[fd].story.isReused, s.slab[fd].peer >= 0 else { return 0 }
    let version = Int(s.table.pools[Int(s.table.routes[Int(route)].pool)].proxyProtocol)
    guard version > 0 else { return 0 }
    // It tells of this client, so that no other one may use the connection.
    s.slab[s.slab[fd].peer].isDirty = true
    let destination = s.destinations[fd] ?? PeerAddress(Socket.localAddress(fd))
    var output = unsafe MutableSpan(_unsafeStart: s.headOutput, count: s.headOutputCapacity)
    return ProxyProtocol.write(
      version: version, source: PeerAddress(s.slab[fd].address), destination: destination, into: &output) ?? 0
  }
}
