// Reading: from the kernel, through TLS when there is one, into memory that the caller names.
import HTTPWire
import Posix
import ProxyMachine
import TLS

/// What a read brought.
enum Received {
  case bytes(Int)
  case wouldBlock
  /// The peer sends no more.
  case end
  case reset
}

extension Worker {
  /// Reads what may be a head into a client's `inbound`.
  func receiveHead(_ fd: Int32) -> Received {
    if s.slab[fd].tls != nil {
      let result = unsafe receive(fd, s.input, s.limits.smallestPiece)
      if case .bytes(let count) = result { unsafe s.slab[fd].inbound.append(s.input, count, s.pool) }
      return result
    }
    if s.slab[fd].inbound.room < 512 { s.slab[fd].inbound.reserve(BufferPool.blockBytes, s.pool) }
    let result = unsafe receive(fd, s.slab[fd].inbound.end, s.slab[fd].inbound.room)
    if case .bytes(let count) = result { s.slab[fd].inbound.filled(count) }
    if s.slab[fd].inbound.isEmpty { s.slab[fd].inbound.free(s.pool) }
    return result
  }

  /// Reads plain bytes. TLS needs room for more than a record: see ``receive(_:_:_:_:)``.
  @inline(__always) func receive(_ fd: Int32, _ buffer: UnsafeMutableRawPointer, _ capacity: Int) -> Received {
    if s.slab[fd].inputEnded { return .end }
    if let tls = s.slab[fd].tls { return unsafe receive(fd, tls, buffer, capacity) }
    guard s.slab[fd].isReadable else { return .wouldBlock }
    let count = unsafe Socket.receive(fd, buffer, capacity)
    return received(fd, count, capacity)
  }

  @inline(__always) private func received(_ fd: Int32, _ count: Int, _ capacity: Int) -> Received {
    if count > 0 {
      // A short read means drained, unless the peer has ended: then the FIN is still to be read.
      if count < capacity, !s.slab[fd].peerEnds { s.slab[fd].isReadable = false }
      return .bytes(count)
    }
    s.slab[fd].isReadable = false
    if count == 0 {
      s.slab[fd].inputEnded = true
      return .end
    }
    return count == Errno.again ? .wouldBlock : .reset
  }

  /// Ciphertext into the scratch for it: bytes, 0 for would-block, or negative at the end.
  func receiveCiphertext(_ fd: Int32) -> Int {
    switch unsafe received(fd, Socket.receive(fd, s.cipherInput, s.limits.smallestPiece), s.limits.smallestPiece) {
    case .bytes(let count): count
    case .wouldBlock: 0
    case .end: Errno.brokenPipe
    case .reset: Errno.connectionReset
    }
  }

  private func receive(
    _ fd: Int32, _ tls: TLSServerConnection, _ buffer: UnsafeMutableRawPointer, _ capacity: Int
  ) -> Received {
    guard let window = s.window else { preconditionFailure("a worker with TLS clients has a window") }
    // Plaintext is never longer than its ciphertext, but a part of a record may be held from before: with room for
    // that one as well, nothing is left inside, where no poller would see it.
    let size = min(capacity - TLSServerConnection.maximumRecord - 512, s.limits.largestPiece)
    precondition(size > 0, "TLS is read into more than a record's room")
    while s.slab[fd].isReadable {
      switch unsafe received(fd, Socket.receive(fd, s.cipherInput, size), size) {
      case .wouldBlock: return .wouldBlock
      case .end: return .end
      case .reset: return .reset
      case .bytes(let ciphertext):
        unsafe window.setInput(s.cipherInput, count: ciphertext)
        unsafe window.setOutput(s.cipherOutput, capacity: s.cipherOutputCapacity)
        var filled = 0
        reading: while true {
          let room = unsafe UnsafeMutableRawBufferPointer(start: buffer + filled, count: capacity - filled)
          switch unsafe tls.read(into: room, window) {
          case .bytes(let more):
            filled += more
            precondition(filled < capacity, "plaintext is never longer than its ciphertext and one record")
            if !tls.mayGiveMore(window) { break reading }
          case .wantRead: break reading
          case .closed:
            s.slab[fd].inputEnded = true
            break reading
          case .failed:
            _ = sendCiphertext(fd, window.outputCount)
            return .reset
          }
        }
        // Key updates and alerts are answered inside read.
        if window.outputCount > 0, !sendCiphertext(fd, window.outputCount) { return .reset }
        if filled > 0 { return .bytes(filled) }
        if s.slab[fd].inputEnded { return .end }
      }
    }
    return .wouldBlock
  }
}
