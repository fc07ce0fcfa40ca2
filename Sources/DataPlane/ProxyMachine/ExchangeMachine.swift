// The life of a client's connection as one explicit state machine without I/O: events go in, the next thing to do comes
// out. The engine executes, tests and fuzzers drive it from a table. Bytes never pass through here, only facts about them.
package import HTTPWire

/// Facts about a request that decide its way.
package struct RequestFacts: Sendable, Equatable, BitwiseCopyable {
  /// The client would keep its connection.
  package var keepsAlive: Bool
  package var hasBody: Bool
  package var isHead: Bool
  package var upgrades: Bool
  /// The method is idempotent (RFC 9110 §9.2.2), so a request that may have been seen may be sent once more.
  package var isIdempotent: Bool
  package var isVersion10: Bool
  /// Connections that the request may be tried on, at least 1.
  package var maximumAttempts: UInt8

  package init(
    keepsAlive: Bool = true, hasBody: Bool = false, isHead: Bool = false, upgrades: Bool = false,
    isIdempotent: Bool = true, isVersion10: Bool = false, maximumAttempts: UInt8 = 3
  ) {
    self.maximumAttempts = maximumAttempts
    self.keepsAlive = keepsAlive
    self.hasBody = hasBody
    self.isHead = isHead
    self.upgrades = upgrades
    self.isIdempotent = isIdempotent
    self.isVersion10 = isVersion10
  }
}

package struct ResponseFacts: Sendable, Equatable, BitwiseCopyable {
  package var status: Int
  /// Of the response as such; a response to HEAD has none whatever its head says.
  package var framing: BodyFraming
  package var keepsAlive: Bool
  package var upgrade: Upgrade

  package init(status: Int, framing: BodyFraming = .none, keepsAlive: Bool = true, upgrade: Upgrade = .none) {
    self.status = status
    self.framing = framing
    self.keepsAlive = keepsAlive
    self.upgrade = upgrade
  }
}

/// Why an instance could not be used for a request.
package enum InstanceFault: Sendable, Equatable, BitwiseCopyable {
  case connectFailed, connectTimeout
  /// It closed or reset the connection without a byte of the final response.
  case closed, reset
  /// It closed or reset the connection inside the response's head: it has seen the request.
  case brokenHead
  case firstByteTimeout, badResponse
}

/// The machine of one client connection. It starts again with each request of the connection.
package struct ExchangeMachine: Sendable, Equatable, BitwiseCopyable {
  package enum Phase: UInt8, Sendable, BitwiseCopyable {
    /// TLS clients only.
    case handshaking
    /// Between requests or inside a head.
    case readingHead
    /// The coordinator was asked for a slot.
    case awaitingSlot
    case connecting
    /// The request goes out and the response comes in, in any order.
    case exchanging
    case tunneling
    /// The last bytes for the client are on their way; then the connection ends.
    case finishing
    case closed
  }

  package private(set) var phase: Phase
  private var request = RequestFacts()
  private var requestDone = false
  private var responseStarted = false
  private var responseDone = false
  /// An interim response came: the instance has seen the request.
  private var interimSeen = false
  /// The client was told that its connection ends.
  private var toldClose = false
  private var instanceKeepsAlive = false
  /// The connection to the instance was used before: the instance may close it at the very moment of sending.
  private var reused = false
  private var bodySent = false
  /// Attempts made on instances for this request.
  package private(set) var attempts: UInt8 = 0
  private var draining = false
  /// Whether any request came on this connection.
  private var wasUsed = false
  private var clientEnded = false
  private var instanceEnded = false

  package init(isTLS: Bool) { phase = isTLS ? .handshaking : .readingHead }

  package mutating func handshakeFinished() {
    precondition(phase == .handshaking, "a handshake ends once")
    phase = .readingHead
  }

  // MARK: Request

  package enum RequestAction: Sendable, Equatable { case acquireSlot, connect }

  /// A whole head was read and routed. `exclusive`: its instance is found by the coordinator.
  package mutating func requestRead(_ facts: RequestFacts, exclusive: Bool) -> RequestAction {
    precondition(phase == .readingHead, "a head is read in readingHead only")
    wasUsed = true
    request = facts
    requestDone = !facts.hasBody
    responseStarted = false
    responseDone = false
    interimSeen = false
    toldClose = false
    instanceKeepsAlive = false
    bodySent = false
    instanceEnded = false
    attempts = 0
    phase = exclusive ? .awaitingSlot : .connecting
    return exclusive ? .acquireSlot : .connect
  }

  package mutating func slotGranted() {
    precondition(phase == .awaitingSlot, "a slot is granted to one who waits")
    phase = .connecting
  }

  /// Every instance that the request may go to is full: it waits for a place, at the first attempt or a further one.
  package mutating func awaitsPlace() {
    precondition(phase == .connecting, "an instance is chosen before there is a connection")
    phase = .awaitingSlot
  }

  /// A connection to the instance stands; the head goes out next.
  package mutating func connected(reused: Bool) {
    precondition(phase == .connecting, "a connection stands after connecting")
    self.reused = reused
    attempts += 1
    phase = .exchanging
  }

  /// Bytes of the body have gone to the instance, so the request cannot be sent again.
  package mutating func bodyForwarded() { bodySent = true }

  package enum BodyAction: Sendable, Equatable {
    case none
    case complete(CompleteAction)
  }
  package enum CompleteAction: Sendable, Equatable {
    /// Both are done: read the next request. The instance's connection goes back to its pool or is closed.
    case nextRequest(reuseInstance: Bool)
    /// Flush, then close.
    case finish(CloseReason, reuseInstance: Bool)
  }

  /// The request's body has been read and forwarded in full.
  package mutating func requestBodyEnded() -> BodyAction {
    requestDone = true
    return responseDone ? .complete(complete()) : .none
  }

  // MARK: Response

  package enum ResponseAction: Sendable, Equatable {
    /// 1xx: relay the head, another one follows.
    case relayInterim
    /// 1xx that the client would not understand: skip the head, another one follows.
    case dropInterim
    /// Relay the head and then the body by this framing. `closes`: tell the client that its connection ends.
    case relay(BodyFraming, closes: Bool)
    /// 101: relay the head, then bytes pass both ways as they are.
    case tunnel
    case fail(FaultAction)
  }

  package mutating func responseRead(_ facts: ResponseFacts) -> ResponseAction {
    precondition(phase == .exchanging && !responseStarted, "one final response follows a request")
    if facts.status == 101 {
      guard request.upgrades, facts.upgrade == .webSocket else { return .fail(fault(.badResponse)) }
      responseStarted = true
      phase = .tunneling
      return .tunnel
    }
    if facts.status < 200 {
      interimSeen = true
      return request.isVersion10 ? .dropInterim : .relayInterim
    }
    let framing = request.isHead ? BodyFraming.none : facts.framing
    // An HTTP/1.0 client cannot read the chunked coding, which its instance was not to use (RFC 9112 §6.1).
    if request.isVersion10, framing == .chunked { return .fail(fault(.badResponse)) }
    responseStarted = true
    instanceKeepsAlive = facts.keepsAlive && facts.framing != .untilClose && !request.upgrades
    toldClose = closesAfterResponse(framing)
    return .relay(framing, closes: toldClose)
  }

  /// Whether the client's connection cannot go on after this response.
  private func closesAfterResponse(_ framing: BodyFraming) -> Bool {
    toldClose || !request.keepsAlive || draining || framing == .untilClose || request.upgrades || !requestDone
      || clientEnded
  }

  /// The response's body has been read and forwarded in full.
  package mutating func responseBodyEnded(framing: BodyFraming) -> CompleteAction {
    responseDone = true
    // An early answer: the client was told that the connection ends, the rest of its body is not read.
    return complete(framing: framing)
  }

  private mutating func complete(framing: BodyFraming = .none) -> CompleteAction {
    let reuse = instanceKeepsAlive && requestDone
    if closesAfterResponse(framing) {
      phase = .finishing
      return .finish(draining ? .drained : .responseComplete, reuseInstance: reuse)
    }
    readNextHead()
    return .nextRequest(reuseInstance: reuse)
  }

  /// What was known of the last request says nothing of the next one, which may be refused before it is known.
  private mutating func readNextHead() {
    phase = .readingHead
    request = RequestFacts()
  }

  // MARK: Faults

  package enum FaultAction: Sendable, Equatable {
    /// Nothing of the request can have been acted on, or it is idempotent: connect again.
    case retry
    /// Nothing was sent to the client yet: answer with this status (``answeredLocally(closes:)``), then close.
    case answer(status: Int, CloseReason)
    /// The client has part of a response: it must notice that the rest is missing, so the connection is cut.
    case cut(CloseReason)
  }

  /// The instance failed this request. `budgetAllows`: the route has not used up what it may spend on further attempts.
  package mutating func fault(_ fault: InstanceFault, budgetAllows: Bool = true) -> FaultAction {
    if responseStarted {
      phase = .closed
      return .cut(fault == .reset ? .instanceReset : fault == .badResponse ? .badResponse : .cutBody)
    }
    if mayRetry(after: fault), budgetAllows {
      phase = .connecting
      return .retry
    }
    switch fault {
    case .connectFailed: return .answer(status: 502, .connectFailed)
    case .connectTimeout: return .answer(status: 504, .connectTimeout)
    case .closed, .brokenHead: return .answer(status: 502, .instanceClosedEarly)
    case .reset: return .answer(status: 502, .instanceReset)
    case .firstByteTimeout: return .answer(status: 504, .firstByteTimeout)
    case .badResponse: return .answer(status: 502, .badResponse)
    }
  }

  private mutating func mayRetry(after fault: InstanceFault) -> Bool {
    switch fault {
    case .connectFailed, .connectTimeout:
      attempts += 1  // this attempt never got as far as ``connected(reused:)``
      return attempts < request.maximumAttempts
    case .closed, .reset:
      // A kept connection that ends without a byte was most likely closed before the request came (RFC 9112 §9.3.1).
      return reused && !bodySent && !interimSeen && request.isIdempotent && attempts < request.maximumAttempts
    case .brokenHead, .firstByteTimeout, .badResponse: return false
    }
  }

  /// The proxy itself answers (no route, refused slot, bad request, discovery): flush, then close or go on.
  package mutating func answeredLocally(closes: Bool) -> CompleteAction {
    precondition(phase != .closed && phase != .tunneling, "an answer needs a waiting client")
    responseStarted = true
    responseDone = true
    if closes || !request.keepsAlive || draining || !requestDone || clientEnded || request.upgrades {
      phase = .finishing
      return .finish(draining ? .drained : .responseComplete, reuseInstance: false)
    }
    readNextHead()
    return .nextRequest(reuseInstance: false)
  }

  // MARK: Ends

  package enum EndAction: Sendable, Equatable {
    case none
    /// Tell the instance that the client sends no more (shutdown of one direction).
    case halfCloseInstance
    case halfCloseClient
    case close(CloseReason)
  }

  /// The client sends no more (FIN). `insideHead`: some bytes of a head had come.
  package mutating func clientEnd(insideHead: Bool) -> EndAction {
    clientEnded = true
    switch phase {
    case .handshaking, .readingHead: return close(insideHead ? .clientAborted : .clientClosed)
    case .awaitingSlot: return close(.clientAborted)
    case .connecting, .exchanging:
      // A client may end its side after a whole request and still wait for the answer (RFC 9112 §9.6).
      return requestDone ? .none : close(.clientAborted)
    case .tunneling: return instanceEnded ? close(.tunnelEnded) : .halfCloseInstance
    case .finishing: return .none
    case .closed: return .none
    }
  }

  /// A tunnel's instance sends no more.
  package mutating func tunnelInstanceEnd() -> EndAction {
    precondition(phase == .tunneling, "other ends of an instance are faults or the end of a body")
    instanceEnded = true
    return clientEnded ? close(.tunnelEnded) : .halfCloseClient
  }

  /// Berth itself ends a tunnel, with last words for the client.
  package mutating func finishTunnel() {
    precondition(phase == .tunneling, "only a tunnel ends like this")
    phase = .finishing
  }

  package mutating func close(_ reason: CloseReason) -> EndAction {
    phase = .closed
    return .close(reason)
  }

  /// Stops offering more requests. An idle connection is to be closed at once. One that has not been used yet is not idle:
  /// its first request is on the way, and a client does not expect to be cut off before it. The wait for a head bounds it.
  /// `keepsIdle`: nor is an idle one closed, but with the answer to its next request, which may be on the way.
  package mutating func drain(insideHead: Bool, keepsIdle: Bool = false) -> EndAction {
    draining = true
    return phase == .readingHead && !insideHead && wasUsed && !keepsIdle ? close(.drained) : .none
  }

  /// Whether the client waits for an answer of which it has no byte yet.
  package var mayAnswer: Bool {
    switch phase {
    case .readingHead, .awaitingSlot, .connecting: true
    case .exchanging: !responseStarted
    case .handshaking, .tunneling, .finishing, .closed: false
    }
  }
  package var isVersion10: Bool { request.isVersion10 }
  package var isHead: Bool { request.isHead }
  package var upgrades: Bool { request.upgrades }
  package var requestIsDone: Bool { requestDone }
  /// The request was read to its end, and its client wants no other one on this connection.
  package var awaitsOnlyItsAnswer: Bool { phase == .exchanging && requestDone && !request.keepsAlive }
  package var responseHasStarted: Bool { responseStarted }
}
