// Writing: straight to the kernel, and what it does not take into `outbound` until it does.
import HTTPWire
import Posix
import ProxyMachine
import TLS

extension Worker {
  /// Sends plain bytes or keeps them in order behind what waits already. False: the connection is broken.
  @inline(__always) func send(_ fd: Int32, _ bytes: UnsafeRawPointer, _ count: Int) -> Bool {
    if s.slab[fd].seals { return unsafe encrypt(fd, bytes, count) }
    return unsafe sendRaw(fd, bytes, count)
  }

  /// A head in `headOutput` and what follows it, with one system call where there is no TLS. A short rest is copied behind
  /// the head: that is cheaper than a second piece for sendmsg(2).
  func sendHead(_ fd: Int32, _ headCount: Int, _ body: UnsafeRawPointer, _ bodyCount: Int) -> Bool {
    let head = unsafe UnsafeRawPointer(s.headOutput)
    if bodyCount <= 2_048, headCount + bodyCount <= s.headOutputCapacity {
      if bodyCount > 0 {
        unsafe UnsafeMutableRawPointer(s.headOutput + headCount).copyMemory(from: body, byteCount: bodyCount)
      }
      return unsafe send(fd, head, headCount + bodyCount)
    }
    if s.slab[fd].seals {
      // Behind the head as much as fills its record, so that the records of both leave in one piece.
      let lead = min(TLSServerConnection.maximumRecord - headCount % TLSServerConnection.maximumRecord, bodyCount)
      guard headCount + lead <= s.headOutputCapacity else {
        return unsafe send(fd, head, headCount) && send(fd, body, bodyCount)
      }
      unsafe UnsafeMutableRawPointer(s.headOutput + headCount).copyMemory(from: body, byteCount: lead)
      return unsafe encrypt(fd, head, headCount + lead, body + lead, bodyCount - lead)
    }
    guard s.slab[fd].outbound.isEmpty, s.slab[fd].isWritable else {
      return unsafe send(fd, head, headCount) && send(fd, body, bodyCount)
    }
    var sent = unsafe Socket.send(fd, head, headCount, body, bodyCount)
    if sent < 0 {
      guard sent == Errno.again else { return false }
      sent = 0
    }
    if sent < headCount {
      blocked(fd)
      unsafe s.slab[fd].outbound.append(head + sent, headCount - sent, s.pool)
      unsafe s.slab[fd].outbound.append(body, bodyCount, s.pool)
    } else if sent < headCount + bodyCount {
      blocked(fd)
      let offset = sent - headCount
      unsafe s.slab[fd].outbound.append(body + offset, bodyCount - offset, s.pool)
    }
    return true
  }

  @inline(__always) private func sendRaw(_ fd: Int32, _ bytes: UnsafeRawPointer, _ count: Int) -> Bool {
    var sent = 0
    if s.slab[fd].outbound.isEmpty, s.slab[fd].isWritable {
      sent = unsafe Socket.send(fd, bytes, count)
      if sent < 0 {
        guard sent == Errno.again else { return false }
        sent = 0
      }
    }
    if sent < count {
      blocked(fd)
      unsafe s.slab[fd].outbound.append(bytes + sent, count - sent, s.pool)
    }
    return true
  }

  /// The kernel takes no more for now.
  func blocked(_ fd: Int32) {
    s.slab[fd].isWritable = false
    watch(fd)
  }

  private func encrypt(_ fd: Int32, _ bytes: UnsafeRawPointer, _ count: Int) -> Bool {
    unsafe encrypt(fd, bytes, count, bytes, 0)
  }

  /// Encrypts one run of bytes and then another, and sends the records of both together as far as the scratch holds them.
  private func encrypt(
    _ fd: Int32, _ first: UnsafeRawPointer, _ firstCount: Int, _ second: UnsafeRawPointer, _ secondCount: Int
  ) -> Bool {
    guard let tls = s.slab[fd].tls, let window = s.window else { preconditionFailure("a TLS client has both") }
    var taken = 0
    let total = firstCount + secondCount
    unsafe window.setInput(nil, count: 0)
    unsafe window.setOutput(s.cipherOutput, capacity: s.cipherOutputCapacity)
    while taken < total {
      let piece =
        unsafe taken < firstCount
        ? UnsafeRawBufferPointer(start: first + taken, count: firstCount - taken)
        : UnsafeRawBufferPointer(start: second + (taken - firstCount), count: total - taken)
      guard case .bytes(let more) = unsafe tls.write(piece, window) else { return false }
      taken += more
      // Less than the piece means that the scratch is full.
      if more < piece.count {
        guard sendCiphertext(fd, window.outputCount) else { return false }
        unsafe window.setOutput(s.cipherOutput, capacity: s.cipherOutputCapacity)
      }
    }
    return sendCiphertext(fd, window.outputCount)
  }

  /// Sends the first bytes of the ciphertext scratch as they are.
  func sendCiphertext(_ fd: Int32, _ count: Int) -> Bool {
    count == 0 ? true : unsafe sendRaw(fd, s.cipherOutput, count)
  }

  /// Writes what waits. False when the connection ended here: broken, or closed after its last byte.
  func flush(_ fd: Int32) -> Bool {
    while !s.slab[fd].outbound.isEmpty {
      let sent = unsafe Socket.send(fd, s.slab[fd].outbound.pointer, Int(s.slab[fd].outbound.count))
      if sent == Errno.again {
        s.slab[fd].isWritable = false
        return true
      }
      guard sent >= 0 else {
        writeFailed(fd)
        return false
      }
      s.slab[fd].moved = true
      s.slab[fd].outbound.consume(sent, s.pool)
      if s.slab[fd].kind == .client { s.slab[fd].unsent = Int32.max }
    }
    return flushed(fd)
  }

  /// Nothing waits any more: what was put off until then happens now, and the other side may send again.
  private func flushed(_ fd: Int32) -> Bool {
    if s.slab[fd].endsOutput { endOutput(fd) }
    if s.slab[fd].kind == .client, s.slab[fd].machine.phase == .finishing {
      finishNow(fd)
      return s.slab[fd].kind == .client
    }
    let peer = s.slab[fd].peer
    if peer >= 0 {
      if s.slab[peer].pipeBytes > 0 || s.slab[peer].body.mode != .idle {
        pump(peer)
      } else if s.slab[peer].kind == .instance, s.slab[peer].isReadable, !s.slab[peer].isConnecting {
        advanceInstance(peer)
      }
    }
    return s.slab[fd].kind != .free
  }

  /// Ends our direction after the last byte: FIN, and close_notify before it.
  func endOutput(_ fd: Int32, closesNext: Bool = false) {
    guard s.slab[fd].outbound.isEmpty else {
      s.slab[fd].endsOutput = true
      return
    }
    guard !s.slab[fd].outputEnded else { return }
    s.slab[fd].endsOutput = false
    if let tls = s.slab[fd].tls, let window = s.window {
      unsafe window.setInput(nil, count: 0)
      unsafe window.setOutput(s.cipherOutput, capacity: s.cipherOutputCapacity)
      if !tls.shutdown(window), tls.awaitsRoom {
        s.slab[fd].endsOutput = true
        return blocked(fd)
      }
      _ = sendCiphertext(fd, window.outputCount)
    }
    s.slab[fd].outputEnded = true
    if !closesNext { Socket.shutdownWrite(fd) }
  }

  /// An instance takes no more of a request. It may have answered before it stopped reading (RFC 9112 §9.6), so what it
  /// sent is read to its end, and only then it is lost.
  func writeFailed(_ fd: Int32) {
    let client = s.slab[fd].peer
    guard s.slab[fd].kind == .instance, client >= 0, s.slab[client].machine.phase == .exchanging, !s.slab[fd].inputEnded
    else { return broken(fd) }
    s.slab[client].body.mode = .idle
    s.slab[fd].outbound.free(s.pool)
    s.slab[fd].isReadable = true
    advanceInstance(fd)
  }

  /// A read or write said that the connection is no more.
  func broken(_ fd: Int32) {
    if s.slab[fd].kind == .client {
      closeClient(fd, .clientReset)
    } else {
      let client = s.slab[fd].peer
      if client >= 0 { instanceLost(client, .reset) } else { closeInstance(fd) }
    }
  }
}
