// Bodies and tunnels: bytes from one side to the other, with backpressure, followed to the end of their message.
import HTTPWire
import Posix
import ProxyMachine

extension Worker {
  /// Counts bytes of a body as they pass. Returns how many belong to it and whether it ends with them; nil: malformed.
  @inline(__always) func follow(_ fd: Int32, _ bytes: Span<UInt8>) -> (take: Int, ended: Bool)? {
    switch s.slab[fd].body.mode {
    case .idle: return (0, true)
    case .length, .collect:
      let take = min(UInt64(bytes.count), s.slab[fd].body.remaining)
      s.slab[fd].body.remaining -= take
      return (Int(take), s.slab[fd].body.remaining == 0)
    case .chunked:
      switch s.slab[fd].body.chunks.scan(bytes) {
      case .more: return (bytes.count, false)
      case .ended(let count): return (count, true)
      case .failed: return nil
      }
    case .untilClose, .tunnel: return (bytes.count, false)
    }
  }

  /// Moves what has come on a connection to its peer, until one side blocks or its turn is over.
  func pump(_ source: Int32) {
    var rounds = 0
    while s.slab[source].kind != .free, s.slab[source].body.mode != .idle {
      let target = s.slab[source].peer
      guard target >= 0, !s.slab[target].isConnecting, s.slab[target].outbound.isEmpty else { return }
      if s.slab[source].browserClose != .none, s.slab[source].body.mode == .tunnel { return pumpFrames(source, target) }
      if s.slab[source].body.mode == .collect { return collectMore(source, target) }
      if s.slab[source].pipe >= 0 {
        guard spliceOn(source, target) else { return }
        continue
      }
      dropHeldHeadForBody(source)
      if !s.slab[source].inbound.isEmpty {
        guard forwardInbound(source, target) else { return }
        continue
      }
      if rounds == s.limits.roundsPerTurn { return later(source) }
      rounds += 1
      let isTLS = s.slab[source].tls != nil
      let piece = 1 << Int(s.slab[source].pieceShift)
      let capacity = isTLS ? min(piece + 32_768, s.limits.largestPiece) : piece
      switch unsafe receive(source, s.input, capacity) {
      case .wouldBlock: return
      case .end: return inputEnded(source, target)
      case .reset: return broken(source)
      case .bytes(let count):
        guard unsafe forward(source, target, s.input, count) else { return }
        adapt(source, filled: count >= piece, target)
      }
    }
  }

  /// The next piece is larger while reads fill it and the target keeps up, and small again when it does not, so that a
  /// slow reader never holds more than a small one.
  @inline(__always) private func adapt(_ source: Int32, filled: Bool, _ target: Int32) {
    guard s.slab[source].kind != .free, s.slab[target].kind != .free else { return }
    if !s.slab[target].outbound.isEmpty {
      s.slab[source].pieceShift = UInt8(s.limits.smallestPiece.trailingZeroBitCount)
    } else if filled {
      if 1 << Int(s.slab[source].pieceShift) < s.limits.largestPiece {
        s.slab[source].pieceShift += 1
      }
      if maySplice(source, target) { beginSplice(source) }
    }
  }

  private func dropHeldHeadForBody(_ source: Int32) {
    guard s.slab[source].heldHead > 0 else { return }
    s.slab[source].machine.bodyForwarded()
    dropHeldHead(source)
  }

  /// Bytes of a body that were read together with something before them.
  private func forwardInbound(_ source: Int32, _ target: Int32) -> Bool {
    guard let (take, ended) = follow(source, s.slab[source].inbound.span) else { return malformed(source) }
    if s.slab[source].bodyRoom != UInt64.max, !takesBody(source, take) { return tooLarge(source) }
    if take > 0 {
      s.slab[source].moved = true
      if s.slab[source].kind == .client {
        s.slab[source].story.bytesFromClient += UInt64(take)
      } else {
        s.slab[target].story.bytesToClient += UInt64(take)
      }
      guard unsafe send(target, s.slab[source].inbound.pointer, take) else {
        writeFailed(target)
        return false
      }
      s.slab[source].inbound.consume(take, s.pool)
    }
    if ended { bodyEnded(source, target) }
    return !ended
  }

  @inline(__always)
  private func forward(_ source: Int32, _ target: Int32, _ bytes: UnsafeRawPointer, _ count: Int) -> Bool {
    let span = unsafe Span<UInt8>(_unsafeStart: bytes.assumingMemoryBound(to: UInt8.self), count: count)
    guard let (take, ended) = follow(source, span) else { return malformed(source) }
    if s.slab[source].bodyRoom != UInt64.max, !takesBody(source, take) { return tooLarge(source) }
    s.slab[source].moved = true
    let isClient = s.slab[source].kind == .client
    s.metrics.add(isClient ? .bytesFromClients : .bytesToClients, take)
    if isClient {
      s.slab[source].story.bytesFromClient += UInt64(take)
    } else {
      s.slab[target].story.bytesToClient += UInt64(take)
      if s.slab[target].makesJob { readJob(target, span.extracting(0..<take)) }
    }
    guard unsafe send(target, bytes, take) else {
      writeFailed(target)
      return false
    }
    if take < count {
      if isClient {
        // The next request of a pipelining client.
        unsafe s.slab[source].inbound.append(bytes + take, count - take, s.pool)
      } else {
        s.slab[source].isDirty = true
      }
    }
    if ended {
      bodyEnded(source, target)
      return false
    }
    progress(source, target)
    return true
  }

  /// Puts off the client's deadline.
  @inline(__always) func progress(_ source: Int32, _ target: Int32) {
    let client = s.slab[source].kind == .client ? source : target
    if s.slab[client].bodyDue != 0 { return bodyProgress(source, target, client) }
    // A half-closed tunnel lives on only while bytes flow.
    if s.slab[client].wait == .linger { return wait(client, .linger) }
    wait(client, s.slab[client].isTunnel ? .tunnel : .body)
  }

  private func malformed(_ source: Int32) -> Bool {
    if s.slab[source].kind == .client {
      if s.slab[source].machine.mayAnswer { refuseBadBody(source) } else { closeClient(source, .badRequest) }
    } else {
      closeClient(s.slab[source].peer, .badResponse)
    }
    return false
  }

  /// A chunked request body has passed its route's limit; one with a length was refused before any of it went on.
  private func tooLarge(_ client: Int32) -> Bool {
    if s.slab[client].machine.mayAnswer { refuseLargeBody(client) } else { closeClient(client, .bodyTooLarge) }
    return false
  }

  private func bodyEnded(_ source: Int32, _ target: Int32) {
    if s.slab[source].kind == .client {
      s.slab[source].body.mode = .idle
      s.slab[source].bodyDue = 0
      if case .complete(let action) = s.slab[source].machine.requestBodyEnded() {
        completed(source, action)
      } else if !s.slab[source].machine.responseHasStarted {
        wait(source, .firstByte)
      }
    } else {
      responseEnded(source, target, .none)
    }
  }

  /// The source sends no more, in the middle of a body or a tunnel.
  func inputEnded(_ source: Int32, _ target: Int32) {
    if s.slab[source].kind == .client {
      switch s.slab[source].machine.clientEnd(insideHead: false) {
      case .close(let reason): closeClient(source, reason)
      case .halfCloseInstance:
        s.slab[source].body.mode = .idle
        endOutput(target)
        wait(source, .linger)
        s.slab[source].closeReason = .tunnelEnded
      case .halfCloseClient, .none: break
      }
      return
    }
    if s.slab[source].body.mode == .untilClose { return responseEnded(source, target, .untilClose) }
    guard s.slab[target].machine.phase == .tunneling else { return instanceLost(target, .closed) }
    switch s.slab[target].machine.tunnelInstanceEnd() {
    case .halfCloseClient:
      s.slab[source].body.mode = .idle
      endOutput(target)
      wait(target, .linger)
      s.slab[target].closeReason = .tunnelEnded
    case .close(let reason): closeClient(target, reason)
    case .halfCloseInstance, .none: break
    }
  }
}
