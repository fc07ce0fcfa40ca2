// Tunnels to browsers: a client may end its own use of a browser, not the browser.
import CDP
import HTTPWire
import Posix
import ProxyMachine
import Routing

/// What Browser.close from a client means.
enum BrowserClose: UInt8, BitwiseCopyable {
  /// The connection is no tunnel to a browser.
  case none
  /// The client has the browser for itself: its session ends.
  case endsSession
  /// Others use the browser, too: the client's connection ends.
  case endsConnection
  /// Others use the browser, and the connection is a tab's: the tab is closed.
  case endsPage
}

extension Visit {
  var browserClose: BrowserClose {
    guard speaksDevTools else { return .none }
    if pool.slots == 1 { return .endsSession }
    if case .page = endpoint.action { return .endsPage }
    return .endsConnection
  }
}

extension Worker {
  /// Moves what a client sends to its browser, frame by frame as far as they have to be looked at.
  func pumpFrames(_ source: Int32, _ target: Int32) {
    for _ in 0..<s.limits.roundsPerTurn {
      guard s.slab[source].kind == .client, s.slab[target].kind == .instance, s.slab[target].outbound.isEmpty else {
        return
      }
      // The beginning of a frame that was too short to be looked at stands first.
      let held = Int(s.slab[source].inbound.count)
      if held > 0 { unsafe s.input.copyMemory(from: s.slab[source].inbound.pointer, byteCount: held) }
      var count = 0
      var ends = false
      if s.slab[source].heldFrames || held == 0 {
        let isTLS = s.slab[source].tls != nil
        let piece = 1 << Int(s.slab[source].pieceShift)
        let room = min((isTLS ? piece + 32_768 : piece), s.inputCapacity - held)
        switch unsafe receive(source, s.input + held, room) {
        case .wouldBlock: return
        case .end: ends = true
        case .reset: return broken(source)
        case .bytes(let more): count = more
        }
      }
      s.slab[source].heldFrames = false
      s.slab[source].inbound.consume(held, s.pool)
      if ends {
        // A frame that was cut short goes on as it is.
        if held > 0 {
          guard unsafe send(target, s.input, held) else { return writeFailed(target) }
        }
        return inputEnded(source, target)
      }
      guard passFrames(source, target, held + count) else { return }
    }
    later(source)
  }

  /// Passes what stands in the scratch. False: the tunnel has ended, or waits.
  private func passFrames(_ source: Int32, _ target: Int32, _ count: Int) -> Bool {
    let bytes = unsafe Span<UInt8>(_unsafeStart: s.input.assumingMemoryBound(to: UInt8.self), count: count)
    var offset = 0
    var closing: (id: Int, session: String?)?
    var skipped = 0
    loop: while offset < count {
      switch s.slab[source].frames.next(bytes.extracting(offset..<count)) {
      case .pass(let more): offset += more
      case .needsMore: break loop
      case .closesBrowser(let id, let byteCount, let session):
        closing = (id, session)
        skipped = byteCount
        break loop
      }
    }
    s.slab[source].moved = true
    s.metrics.add(.bytesFromClients, offset)
    s.slab[source].story.bytesFromClient += UInt64(offset)
    if offset > 0 {
      guard unsafe send(target, s.input, offset) else {
        writeFailed(target)
        return false
      }
    }
    let rest = count - offset - skipped
    if rest > 0 {
      unsafe s.slab[source].inbound.append(s.input + offset + skipped, rest, s.pool)
      s.slab[source].heldFrames = closing == nil
    }
    progress(source, target)
    guard let closing else { return true }
    return closeBrowser(source, target, id: closing.id, session: closing.session)
  }

  /// The client has asked the browser to close. True: its tunnel goes on.
  private func closeBrowser(_ source: Int32, _ target: Int32, id: Int, session: String?) -> Bool {
    s.metrics.add(.browserCloses)
    if s.slab[source].browserClose == .endsPage {
      let frame = ClientFrames.closePage(id: id)
      guard unsafe frame.withUnsafeBytes({ unsafe send(target, $0.baseAddress!, $0.count) }) else {
        writeFailed(target)
        return false
      }
      return true
    }
    if s.slab[source].browserClose == .endsSession, s.slab[source].session >= 0 {
      s.coordinator.notify(.end(session: s.sessions.id(s.slab[source].session)))
    }
    dropInstance(source, reuse: false)
    s.slab[source].machine.finishTunnel()
    let answer = ClientFrames.answer(id: id, session: session)
    guard unsafe answer.withUnsafeBytes({ unsafe send(source, $0.baseAddress!, $0.count) }) else {
      closeClient(source, .clientReset)
      return false
    }
    finish(source, .browserClosed)
    return false
  }
}
