// An instance's answer: read its head, decide, send it on; and the kept connections between requests.
import Balancing
import CDP
import HTTPWire
import Posix
import ProxyMachine

extension Worker {
  /// Goes on with an instance's connection that has something new.
  func advanceInstance(_ fd: Int32) {
    let client = s.slab[fd].peer
    guard client >= 0 else {
      return checkKept(fd)
    }
    switch s.slab[client].machine.phase {
    case .exchanging:
      if s.slab[client].machine.responseHasStarted || s.slab[fd].body.mode == .collect {
        pump(fd)
      } else {
        readResponse(fd, client)
      }
    case .tunneling: pump(fd)
    default: break
    }
  }

  /// Something is new on a kept connection. It has nothing to say but its end; anything else would answer a request nobody
  /// made. But an event may be older than the read that took its bytes, and a full buffer that drains is told as well.
  private func checkKept(_ fd: Int32) {
    guard s.slab[fd].isReadable else { return }
    if case .wouldBlock = unsafe receive(fd, s.input, s.limits.smallestPiece) { return }
    s.metrics.add(.instanceClosesIdle)
    closeInstance(fd)
  }

  private func readResponse(_ fd: Int32, _ client: Int32) {
    var rounds = 0
    while s.slab[fd].kind == .instance, s.slab[fd].peer == client, !s.slab[client].machine.responseHasStarted {
      // A client that does not read holds up an instance that sends interim answers without end.
      guard s.slab[client].outbound.isEmpty else { return }
      if rounds == s.limits.roundsPerTurn { return later(fd) }
      rounds += 1
      // What came before of an unfinished head stands first in the scratch, the new bytes behind it.
      let held = Int(s.slab[fd].inbound.count)
      if held > 0 { unsafe s.input.copyMemory(from: s.slab[fd].inbound.pointer, byteCount: held) }
      // As much as the last bodies of this connection came in: a head and a long body are one piece then.
      let room = min((1 << Int(s.slab[fd].pieceShift)) + 16_384, s.inputCapacity - held)
      let received = unsafe receive(fd, s.input + held, room)
      guard case .bytes(let count) = received else {
        switch received {
        case .wouldBlock, .bytes: return
        case .end: return instanceLost(client, held > 0 ? .brokenHead : .closed)
        case .reset: return instanceLost(client, held > 0 ? .brokenHead : .reset)
        }
      }
      if held > 0 { s.slab[fd].inbound.consume(held, s.pool) }
      if count == room, 1 << Int(s.slab[fd].pieceShift) < s.limits.largestPiece { s.slab[fd].pieceShift += 1 }
      if !takeResponse(fd, client, held + count) { return }
    }
  }

  /// Looks at what is in the scratch. True: more is to be read for the head.
  private func takeResponse(_ fd: Int32, _ client: Int32, _ count: Int) -> Bool {
    var offset = 0
    while true {
      let bytes = unsafe Span<UInt8>(
        _unsafeStart: (s.input + offset).assumingMemoryBound(to: UInt8.self), count: count - offset)
      switch s.parser.parse(.response, bytes, into: &s.head) {
      case .failed:
        instanceFailed(client, .badResponse)
        return false
      case .needsMore:
        if offset < count { unsafe s.slab[fd].inbound.append(s.input + offset, count - offset, s.pool) }
        return true
      case .complete: break
      }
      if collects(fd, client, bytes) { return false }
      let facts = ResponseFacts(
        status: s.head.status, framing: s.head.framing, keepsAlive: s.head.keepsAlive, upgrade: s.head.upgrade)
      switch s.slab[client].machine.responseRead(facts) {
      case .relayInterim:
        s.metrics.add(.responses1xx)
        guard unsafe sendResponseHead(client, bytes, closes: false, s.input, 0) else {
          closeClient(client, .clientReset)
          return false
        }
        offset += s.head.byteCount
      case .dropInterim: offset += s.head.byteCount
      case .relay(let framing, let closes):
        beginResponse(fd, client, bytes, framing, closes: closes, offset: offset, count: count)
        return false
      case .tunnel:
        beginTunnel(fd, client, bytes, offset: offset, count: count)
        return false
      case .fail(let action):
        dropInstance(client, reuse: false)
        switch action {
        case .answer(let status, let reason):
          answer(client, status, Self.sentence(of: reason), reason, closes: true)
        case .retry, .cut: closeClient(client, .badResponse)
        }
        return false
      }
    }
  }

  private func sendResponseHead(
    _ client: Int32, _ bytes: Span<UInt8>, closes: Bool, _ body: UnsafeRawPointer, _ bodyCount: Int
  ) -> Bool {
    var output = unsafe MutableSpan(_unsafeStart: s.headOutput, count: s.headOutputCapacity)
    var changes = ResponseChanges()
    changes.closes = closes
    changes.toVersion10 = s.slab[client].machine.isVersion10
    let route = s.slab[client].route >= 0 ? s.table.routes[Int(s.slab[client].route)] : CompiledRoute()
    let cookieCount = s.slab[client].setsCookie ? writeStickyCookie(client, route) : 0
    let cookie = unsafe Span<UInt8>(_unsafeStart: s.cookieOutput, count: cookieCount)
    let date = unsafe Span<UInt8>(_unsafeStart: s.date, count: HTTPDate.byteCount)
    guard
      let headBytes = s.head.writeResponse(
        bytes, changes: changes, date: date, setCookie: cookie, removed: s.table.bytes(route.responseRemoved),
        added: s.table.bytes(route.responseAdded), into: &output)
    else { return false }
    s.metrics.add(.bytesToClients, headBytes + bodyCount)
    s.slab[client].story.bytesToClient += UInt64(headBytes + bodyCount)
    s.slab[client].story.status = UInt16(s.head.status)
    if s.slab[client].story.firstByteMicroseconds < 0 {
      s.slab[client].story.firstByteMicroseconds = since(s.slab[client].requestStarted)
    }
    if s.head.status >= 200 || s.head.status == 101 { turnAnswered(client, status: s.head.status) }
    return unsafe sendHead(client, headBytes, body, bodyCount)
  }

  private func beginResponse(
    _ fd: Int32, _ client: Int32, _ bytes: Span<UInt8>, _ framing: BodyFraming, closes: Bool, offset: Int, count: Int
  ) {
    countStatus(s.head.status)
    s.slab[fd].body = BodyState(framing)
    let bodyStart = s.head.byteCount
    var take = 0
    var ended = true
    if s.slab[fd].body.mode != .idle {
      guard let followed = follow(fd, bytes.extracting(bodyStart..<bytes.count)) else {
        return closeClient(client, .badResponse)
      }
      (take, ended) = followed
    }
    if offset + bodyStart + take < count { s.slab[fd].isDirty = true }
    if s.slab[client].makesJob { beginJob(client, framing, bytes.extracting(bodyStart..<bodyStart + take)) }
    guard
      unsafe sendResponseHead(client, bytes, closes: closes, s.input + offset + bodyStart, take)
    else { return closeClient(client, .clientReset) }
    dropHeldHead(client)
    if ended {
      responseEnded(fd, client, framing)
    } else {
      wait(client, .body)
      pump(fd)
    }
  }

  private func countStatus(_ status: Int) {
    switch status {
    case ..<300: s.metrics.add(.responses2xx)
    case ..<400: s.metrics.add(.responses3xx)
    case ..<500: s.metrics.add(.responses4xx)
    default: s.metrics.add(.responses5xx)
    }
  }

  /// The response has been forwarded in full.
  func responseEnded(_ fd: Int32, _ client: Int32, _ framing: BodyFraming) {
    s.slab[fd].body.mode = .idle
    s.metrics.took(microseconds: Clock.monotonicMicroseconds - s.slab[client].requestStarted)
    completed(client, s.slab[client].machine.responseBodyEnded(framing: framing))
  }

  /// Both sides of an exchange are done.
  func completed(_ client: Int32, _ action: ExchangeMachine.CompleteAction) {
    endStory(client, .responseComplete)
    switch action {
    case .nextRequest(let reuse):
      dropInstance(client, reuse: reuse)
      endVisit(client)
      dropHeldHead(client)
      wait(client, .keepAlive)
      // A pipelined request, one that came while this one was answered, or close_notify, of which no event tells.
      if !s.slab[client].inbound.isEmpty || s.slab[client].isReadable || s.slab[client].inputEnded { later(client) }
    case .finish(let reason, let reuse):
      dropInstance(client, reuse: reuse)
      finish(client, reason)
    }
  }

  // MARK: Tunnels

  private func beginTunnel(_ fd: Int32, _ client: Int32, _ bytes: Span<UInt8>, offset: Int, count: Int) {
    let headBytes = s.head.byteCount
    let rest = count - offset - headBytes
    guard unsafe sendResponseHead(client, bytes, closes: false, s.input + offset + headBytes, rest) else {
      return closeClient(client, .clientReset)
    }
    dropHeldHead(client)
    s.slab[client].browserClose = s.visits[client]?.browserClose ?? .none
    s.slab[client].frames = ClientFrames()
    endVisit(client)
    s.metrics.add(.responses1xx)
    s.metrics.add(.tunnels)
    s.tunnels += 1
    s.slab[client].isTunnel = true
    s.slab[fd].body.mode = .tunnel
    s.slab[client].body.mode = .tunnel
    s.slab[client].bodyRoom = UInt64.max
    wait(client, .tunnel)
    pump(client)
    if s.slab[fd].kind == .instance, s.slab[fd].peer == client { pump(fd) }
  }

  // MARK: Kept connections

  /// Parts a client from its instance's connection, which is kept for the next request or closed.
  func dropInstance(_ client: Int32, reuse: Bool) {
    let place = s.slab[client].instance
    endTurn(client, .neutral)
    if place >= 0 {
      s.instances[Int(place)].active -= 1
      s.slab[client].instance = -1
    }
    let fd = s.slab[client].peer
    guard fd >= 0 else { return }
    s.slab[client].peer = -1
    s.slab[fd].peer = -1
    let usable =
      reuse && place >= 0 && s.instances[Int(place)].inTable && s.instances[Int(place)].keepsConnections
      && !s.isDraining && !s.slab[fd].isDirty
      && !s.slab[fd].peerEnds && !s.slab[fd].inputEnded && s.slab[fd].outbound.isEmpty && s.slab[fd].inbound.isEmpty
      && Int(s.instances[Int(place)].idleCount) < s.limits.idleInstanceConnections
    guard usable, isQuiet(fd) else { return closeInstance(fd) }
    s.slab[fd].body = BodyState()
    let head = s.instances[Int(place)].idleHead
    s.slab[fd].idleNext = head
    s.slab[fd].idlePrevious = -1
    if head >= 0 { s.slab[head].idlePrevious = fd }
    s.instances[Int(place)].idleHead = fd
    s.instances[Int(place)].idleCount += 1
    wait(fd, .instanceIdle)
  }

  /// Whether nothing has come behind a response. Whatever lies there unread would be taken for the next one's answer.
  private func isQuiet(_ fd: Int32) -> Bool {
    guard s.slab[fd].isReadable else { return true }
    if case .wouldBlock = unsafe receive(fd, s.input, 1) { return true }
    return false
  }

  func takeIdle(instance: Int32) -> Int32? {
    let fd = s.instances[Int(instance)].idleHead
    guard fd >= 0 else { return nil }
    unlinkIdle(fd)
    return fd
  }

  private func unlinkIdle(_ fd: Int32) {
    let place = Int(s.slab[fd].instance)
    let next = s.slab[fd].idleNext
    let previous = s.slab[fd].idlePrevious
    if previous >= 0 { s.slab[previous].idleNext = next } else { s.instances[place].idleHead = next }
    if next >= 0 { s.slab[next].idlePrevious = previous }
    s.slab[fd].idleNext = -1
    s.slab[fd].idlePrevious = -1
    s.instances[place].idleCount -= 1
  }

  func closeIdle(instance: Int32) {
    while s.instances[Int(instance)].idleHead >= 0 { closeInstance(s.instances[Int(instance)].idleHead) }
  }

  /// Closes an instance's connection that no client is joined to.
  func closeInstance(_ fd: Int32) {
    let place = s.slab[fd].instance
    let isIdle = place >= 0 && (s.slab[fd].idlePrevious >= 0 || s.instances[Int(place)].idleHead == fd)
    if isIdle { unlinkIdle(fd) }
    s.instanceConnections -= 1
    release(fd)
  }
}
