// The exchange machine under random legal events, beside a ledger of what has been said to whom: no answer twice, no
// request lost or read too early, no retry of what may have been acted on, no connection reused with bytes on their way.
import HTTPWire
import ProxyMachine

func fuzzExchange(_ bytes: [UInt8]) throws(FuzzFailure) {
  var events = Events(bytes: bytes)
  var life = Life(isTLS: events.next() & 1 != 0)
  while events.hasMore, life.machine.phase != .closed { try life.step(events.next(), &events) }
}

private struct Events {
  let bytes: [UInt8]
  var position = 0
  var hasMore: Bool { position < bytes.count }
  mutating func next() -> UInt8 {
    defer { position += 1 }
    return position < bytes.count ? bytes[position] : 0
  }
}

private struct Life {
  var machine: ExchangeMachine
  var request = RequestFacts()
  /// All of the request is known to have come; of a connection's first byte nothing is known.
  var requestDone = false
  var answerBegun = false
  var interim = false
  var bodySent = false
  var reused = false
  var attempts = 0
  var told = false
  var instanceKeeps = false
  var framing = BodyFraming.none
  var draining = false
  var wasUsed = false
  var clientEnded = false
  var instanceEnded = false

  init(isTLS: Bool) { machine = ExchangeMachine(isTLS: isTLS) }

  mutating func step(_ event: UInt8, _ events: inout Events) throws(FuzzFailure) {
    let flag = event & 0x10 != 0
    switch (event & 15, machine.phase) {
    case (0, .handshaking): machine.handshakeFinished()
    case (1, .readingHead), (2, .readingHead): try readRequest(events.next(), exclusive: flag)
    case (1, .awaitingSlot), (2, .awaitingSlot): machine.slotGranted()
    case (1, .connecting), (2, .connecting), (3, .connecting):
      reused = flag
      attempts += 1
      machine.connected(reused: flag)
      try check(machine.phase == .exchanging, "connected, and \(machine.phase)")
    case (4, .exchanging) where !requestDone:
      bodySent = true
      machine.bodyForwarded()
    case (5, .exchanging) where !requestDone:
      requestDone = true
      try check(machine.requestBodyEnded() == .none, "an exchange ended without its answer")
    case (6, .exchanging) where !answerBegun, (7, .exchanging) where !answerBegun:
      try readResponse(events.next(), events.next())
    case (6, .exchanging), (7, .exchanging):
      try ended(machine.responseBodyEnded(framing: framing), closes: told, reuse: instanceKeeps && requestDone)
    case (8, .connecting): try fail(flag ? .connectFailed : .connectTimeout, budget: event & 0x20 != 0)
    case (8, .exchanging):
      let faults: [InstanceFault] = [.closed, .reset, .brokenHead, .firstByteTimeout, .badResponse]
      try fail(faults[Int(event >> 5) % faults.count], budget: flag)
    case (9, _) where machine.mayAnswer: try answer(closes: flag)
    case (10, _): try endClient(insideHead: flag)
    case (11, .tunneling) where !instanceEnded:
      instanceEnded = true
      let action = machine.tunnelInstanceEnd()
      try check(action == (clientEnded ? .close(.tunnelEnded) : .halfCloseClient), "a tunnel's end: \(action)")
    case (12, _) where machine.phase != .handshaking:
      draining = true
      // A connection that has asked nothing yet may still do so once.
      let idle = machine.phase == .readingHead && !flag && wasUsed
      let action = machine.drain(insideHead: flag)
      try check(action == (idle ? .close(.drained) : .none), "drained \(action)")
    case (13, _) where flag && event & 0x20 != 0:
      try check(machine.close(.clientReset) == .close(.clientReset) && machine.phase == .closed, "not closed")
    default: break
    }
  }

  private mutating func readRequest(_ bits: UInt8, exclusive: Bool) throws(FuzzFailure) {
    wasUsed = true
    let hasBody = bits & 2 != 0
    request = RequestFacts(
      keepsAlive: bits & 1 != 0, hasBody: hasBody, isHead: bits & 4 != 0, upgrades: bits & 8 != 0 && !hasBody,
      isIdempotent: bits & 16 != 0, isVersion10: bits & 32 != 0, maximumAttempts: 1 + bits >> 6)
    requestDone = !hasBody
    (answerBegun, interim, bodySent, told, instanceKeeps, instanceEnded) = (false, false, false, false, false, false)
    attempts = 0
    let action = machine.requestRead(request, exclusive: exclusive)
    try check(action == (exclusive ? .acquireSlot : .connect), "a request leads to \(action)")
    try check(machine.mayAnswer && !machine.responseHasStarted, "a new request is answered already")
  }

  private mutating func readResponse(_ kind: UInt8, _ bits: UInt8) throws(FuzzFailure) {
    let statuses = [100, 101, 103, 200, 204, 304, 404, 500]
    let framings: [BodyFraming] = [.none, .length(5), .chunked, .untilClose]
    let facts = ResponseFacts(
      status: statuses[Int(kind & 7)], framing: framings[Int(kind >> 3 & 3)], keepsAlive: bits & 1 != 0,
      upgrade: [Upgrade.none, .webSocket, .other, .webSocket][Int(bits >> 1 & 3)])
    let action = machine.responseRead(facts)
    if facts.status == 101 {
      let agreed = request.upgrades && facts.upgrade == .webSocket
      guard agreed else { return try refused(action) }
      answerBegun = true
      return try check(action == .tunnel && machine.phase == .tunneling, "an agreed upgrade leads to \(action)")
    }
    if facts.status < 200 {
      interim = true
      return try check(action == (request.isVersion10 ? .dropInterim : .relayInterim), "1xx leads to \(action)")
    }
    framing = request.isHead ? .none : facts.framing
    if request.isVersion10, framing == .chunked { return try refused(action) }
    answerBegun = true
    told = endsConnection || framing == .untilClose
    instanceKeeps = facts.keepsAlive && facts.framing != .untilClose && !request.upgrades
    try check(action == .relay(framing, closes: told), "\(facts) leads to \(action)")
    try check(!machine.mayAnswer, "a second answer could follow")
  }

  /// An answer that is not believed becomes one of ours.
  private mutating func refused(_ action: ExchangeMachine.ResponseAction) throws(FuzzFailure) {
    try check(action == .fail(.answer(status: 502, .badResponse)), "a bad answer leads to \(action)")
    try answer(closes: true)
  }

  private var endsConnection: Bool {
    !request.keepsAlive || draining || request.upgrades || !requestDone || clientEnded
  }

  private mutating func ended(_ action: ExchangeMachine.CompleteAction, closes: Bool, reuse: Bool) throws(FuzzFailure) {
    if closes || endsConnection {
      let reason = draining ? CloseReason.drained : .responseComplete
      try check(action == .finish(reason, reuseInstance: reuse), "the last exchange ends with \(action)")
      try check(machine.phase == .finishing, "finished, and \(machine.phase)")
    } else {
      try check(action == .nextRequest(reuseInstance: reuse), "an exchange ends with \(action)")
      try check(machine.phase == .readingHead && requestDone, "the next request begins in \(machine.phase)")
      request = RequestFacts()
    }
    answerBegun = true
  }

  private mutating func answer(closes: Bool) throws(FuzzFailure) {
    try ended(machine.answeredLocally(closes: closes), closes: closes, reuse: false)
  }

  private mutating func fail(_ fault: InstanceFault, budget: Bool) throws(FuzzFailure) {
    let isConnect = fault == .connectFailed || fault == .connectTimeout
    if isConnect { attempts += 1 }
    let unseen =
      isConnect || ([.closed, .reset].contains(fault) && reused && !interim && !bodySent && request.isIdempotent)
    let action = machine.fault(fault, budgetAllows: budget)
    if answerBegun {
      guard case .cut = action, machine.phase == .closed else {
        throw FuzzFailure(description: "half an answer ends with \(action)")
      }
      return
    }
    if unseen, budget, attempts < Int(request.maximumAttempts) {
      return try check(action == .retry && machine.phase == .connecting, "a safe retry becomes \(action)")
    }
    let isLate = fault == .connectTimeout || fault == .firstByteTimeout
    guard case .answer(let status, _) = action, status == (isLate ? 504 : 502) else {
      throw FuzzFailure(description: "\(fault) after \(attempts) attempts becomes \(action)")
    }
    try answer(closes: true)
  }

  private mutating func endClient(insideHead: Bool) throws(FuzzFailure) {
    let before = machine.phase
    clientEnded = true
    let action = machine.clientEnd(insideHead: insideHead)
    switch before {
    case .handshaking, .readingHead:
      try check(action == .close(insideHead ? .clientAborted : .clientClosed), "an end between requests: \(action)")
    case .awaitingSlot: try check(action == .close(.clientAborted), "an end in a queue: \(action)")
    case .connecting, .exchanging:
      try check(action == (requestDone ? .none : .close(.clientAborted)), "an end under way: \(action)")
    case .tunneling:
      try check(action == (instanceEnded ? .close(.tunnelEnded) : .halfCloseInstance), "a tunnel's end: \(action)")
    case .finishing, .closed: try check(action == .none, "an end after the end: \(action)")
    }
  }
}
