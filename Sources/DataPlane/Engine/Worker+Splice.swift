// Long plain pieces by splice(2): from socket to pipe to socket, without a copy in user space. Pipes are pooled and are
// empty whenever they go back.
import CLinux
import HTTPWire
import Posix
import ProxyMachine

struct Pipe {
  var readEnd: Int32
  var writeEnd: Int32
  var capacity: Int
}

extension Worker {
  /// Whether the next pieces of this direction may be spliced: plain on both sides, no framing inside the bytes, and worth it.
  func maySplice(_ source: Int32, _ target: Int32) -> Bool {
    switch s.spliceMode {
    case .never: return false
    case .always: break
    case .auto: if !s.slab[source].isRemote && !s.slab[target].isRemote { return false }
    }
    guard s.slab[source].tls == nil, !s.slab[target].seals, s.slab[source].inbound.isEmpty,
      !s.slab[target].makesJob, s.slab[source].browserClose == .none
    else { return false }
    switch s.slab[source].body.mode {
    case .tunnel, .untilClose: return true
    case .length: return s.slab[source].body.remaining > UInt64(s.limits.largestPiece)
    case .idle, .chunked, .collect: return false
    }
  }

  func beginSplice(_ source: Int32) {
    if s.freePipes.isEmpty {
      guard s.pipes.count < s.limits.pooledPipes else { return }
      var ends: (Int32, Int32) = (-1, -1)
      let capacity = unsafe withUnsafeMutablePointer(to: &ends) { ends in
        unsafe ends.withMemoryRebound(to: Int32.self, capacity: 2) { unsafe clinux_pipe($0, Int32(s.limits.pipeBytes)) }
      }
      guard capacity > 0 else { return }
      s.pipes.append(Pipe(readEnd: ends.0, writeEnd: ends.1, capacity: Int(capacity)))
      s.freePipes.append(Int32(s.pipes.count - 1))
    }
    s.slab[source].pipe = s.freePipes.removeLast()
  }

  /// Fills and empties the direction's pipe. False: one side blocks, or the direction is over.
  func spliceOn(_ source: Int32, _ target: Int32) -> Bool {
    let pipe = s.pipes[Int(s.slab[source].pipe)]
    while s.slab[source].pipeBytes > 0 {
      let moved = Int(clinux_splice(pipe.readEnd, target, UInt64(s.slab[source].pipeBytes), 0))
      if moved == Errno.again {
        blocked(target)
        return false
      }
      guard moved > 0 else {
        writeFailed(target)
        return false
      }
      s.slab[source].pipeBytes -= Int32(moved)
      s.slab[source].moved = true
      s.metrics.add(.splicedBytes, moved)
      s.metrics.add(s.slab[source].kind == .client ? .bytesFromClients : .bytesToClients, moved)
      if s.slab[source].kind == .client {
        s.slab[source].story.bytesFromClient += UInt64(moved)
      } else {
        s.slab[target].story.bytesToClient += UInt64(moved)
      }
      progress(source, target)
    }
    guard maySplice(source, target), s.slab[source].isReadable else {
      // The rest, or the next burst, goes through the buffer again.
      endSplice(source)
      return true
    }
    var wanted = UInt64(pipe.capacity)
    if s.slab[source].body.mode == .length { wanted = min(wanted, s.slab[source].body.remaining - 1) }
    let read = Int(clinux_splice(source, pipe.writeEnd, wanted, 1))
    if read > 0 {
      s.slab[source].pipeBytes = Int32(read)
      if s.slab[source].body.mode == .length { s.slab[source].body.remaining -= UInt64(read) }
      return true
    }
    // Would-block, the end and errors are all told again by the ordinary read.
    if read == Errno.again { s.slab[source].isReadable = s.slab[source].peerEnds }
    endSplice(source)
    return true
  }

  private func endSplice(_ source: Int32) {
    let pipe = s.slab[source].pipe
    guard pipe >= 0 else { return }
    s.slab[source].pipe = -1
    s.slab[source].pieceShift = UInt8(s.limits.smallestPiece.trailingZeroBitCount)
    s.freePipes.append(pipe)
  }

  /// A connection with a pipe ends: bytes that are still inside must not reach another connection.
  func abandonPipe(_ fd: Int32) {
    let index = s.slab[fd].pipe
    guard index >= 0 else { return }
    s.slab[fd].pipe = -1
    if s.slab[fd].pipeBytes > 0 {
      let pipe = s.pipes[Int(index)]
      var left = Int(s.slab[fd].pipeBytes)
      while left > 0 {
        let count = unsafe Socket.readPipe(pipe.readEnd, s.input, min(left, s.limits.largestPiece))
        precondition(count > 0, "a pipe holds what was spliced into it")
        left -= count
      }
      s.slab[fd].pipeBytes = 0
    }
    s.freePipes.append(index)
  }

  func closePipes() {
    for pipe in s.pipes {
      Socket.close(pipe.readEnd)
      Socket.close(pipe.writeEnd)
    }
    s.pipes = []
    s.freePipes = []
  }
}
