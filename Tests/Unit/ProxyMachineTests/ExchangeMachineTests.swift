// The machine of a client's connection, driven by a table of events: each row is a way that an exchange can go.
import HTTPWire
import ProxyMachine
import Testing

/// One event and what must come of it, as text, so that a row reads as the way it describes.
private enum Step {
  case request(RequestFacts, exclusive: Bool, becomes: ExchangeMachine.RequestAction)
  case slot
  case connected(reused: Bool)
  case bodyForwarded
  case requestEnd(ExchangeMachine.BodyAction)
  case response(ResponseFacts, becomes: ExchangeMachine.ResponseAction)
  case responseEnd(BodyFraming, ExchangeMachine.CompleteAction)
  case fault(InstanceFault, ExchangeMachine.FaultAction)
  case answered(closes: Bool, ExchangeMachine.CompleteAction)
  case clientEnd(insideHead: Bool, ExchangeMachine.EndAction)
  case instanceEnd(ExchangeMachine.EndAction)
  case drain(insideHead: Bool, ExchangeMachine.EndAction)
}

private let get = RequestFacts()
private let post = RequestFacts(hasBody: true, isIdempotent: false)
private let upgrade = RequestFacts(upgrades: true)
private let ok = ResponseFacts(status: 200, framing: .length(2))

private let ways: [(String, [Step], ExchangeMachine.Phase)] = [
  (
    "a kept exchange",
    [
      .request(get, exclusive: false, becomes: .connect), .connected(reused: false),
      .response(ok, becomes: .relay(.length(2), closes: false)),
      .responseEnd(.length(2), .nextRequest(reuseInstance: true)),
    ], .readingHead
  ),
  (
    "the client closes after one request",
    [
      .request(RequestFacts(keepsAlive: false), exclusive: false, becomes: .connect), .connected(reused: false),
      .response(ok, becomes: .relay(.length(2), closes: true)),
      .responseEnd(.length(2), .finish(.responseComplete, reuseInstance: true)),
    ], .finishing
  ),
  (
    "the instance ends its body by closing",
    [
      .request(get, exclusive: false, becomes: .connect), .connected(reused: false),
      .response(
        ResponseFacts(status: 200, framing: .untilClose, keepsAlive: false), becomes: .relay(.untilClose, closes: true)),
      .responseEnd(.untilClose, .finish(.responseComplete, reuseInstance: false)),
    ], .finishing
  ),
  (
    "HEAD has no body whatever its head says",
    [
      .request(RequestFacts(isHead: true), exclusive: false, becomes: .connect), .connected(reused: false),
      .response(ok, becomes: .relay(.none, closes: false)), .responseEnd(.none, .nextRequest(reuseInstance: true)),
    ], .readingHead
  ),
  (
    "interim answers come before the final one",
    [
      .request(post, exclusive: false, becomes: .connect), .connected(reused: false),
      .response(ResponseFacts(status: 100), becomes: .relayInterim),
      .response(ResponseFacts(status: 103), becomes: .relayInterim),
      .bodyForwarded, .requestEnd(.none), .response(ok, becomes: .relay(.length(2), closes: false)),
      .responseEnd(.length(2), .nextRequest(reuseInstance: true)),
    ], .readingHead
  ),
  (
    "an interim answer is nothing that HTTP/1.0 knows",
    [
      .request(RequestFacts(isVersion10: true), exclusive: false, becomes: .connect), .connected(reused: false),
      .response(ResponseFacts(status: 103), becomes: .dropInterim),
      .response(ok, becomes: .relay(.length(2), closes: false)),
    ], .exchanging
  ),
  (
    "the chunked coding is nothing that HTTP/1.0 knows",
    [
      .request(RequestFacts(isVersion10: true), exclusive: false, becomes: .connect), .connected(reused: false),
      .response(
        ResponseFacts(status: 200, framing: .chunked), becomes: .fail(.answer(status: 502, .badResponse))),
      .answered(closes: true, .finish(.responseComplete, reuseInstance: false)),
    ], .finishing
  ),
  (
    "but HEAD has no body that could be coded",
    [
      .request(RequestFacts(isHead: true, isVersion10: true), exclusive: false, becomes: .connect),
      .connected(reused: false),
      .response(ResponseFacts(status: 200, framing: .chunked), becomes: .relay(.none, closes: false)),
    ], .exchanging
  ),
  (
    "an instance that has answered in part has seen the request: no retry",
    [
      .request(get, exclusive: false, becomes: .connect), .connected(reused: true),
      .fault(.brokenHead, .answer(status: 502, .instanceClosedEarly)),
    ], .exchanging
  ),
  (
    "nor after an interim answer",
    [
      .request(get, exclusive: false, becomes: .connect), .connected(reused: true),
      .response(ResponseFacts(status: 103), becomes: .relayInterim),
      .fault(.closed, .answer(status: 502, .instanceClosedEarly)),
    ], .exchanging
  ),
  (
    "who was told that the connection ends sees it end, although its body came to an end meanwhile",
    [
      .request(post, exclusive: false, becomes: .connect), .connected(reused: false), .bodyForwarded,
      .response(ok, becomes: .relay(.length(2), closes: true)), .requestEnd(.none),
      .responseEnd(.length(2), .finish(.responseComplete, reuseInstance: true)),
    ], .finishing
  ),
  (
    "a bad response inside a body is named so",
    [
      .request(get, exclusive: false, becomes: .connect), .connected(reused: false),
      .response(ok, becomes: .relay(.length(2), closes: false)), .fault(.badResponse, .cut(.badResponse)),
    ], .closed
  ),
  (
    "an early answer ends the connection, the body is not read to its end",
    [
      .request(post, exclusive: false, becomes: .connect), .connected(reused: true), .bodyForwarded,
      .response(ResponseFacts(status: 413), becomes: .relay(.none, closes: true)),
      .responseEnd(.none, .finish(.responseComplete, reuseInstance: false)),
    ], .finishing
  ),
  (
    "a tunnel, ended by the client first",
    [
      .request(upgrade, exclusive: true, becomes: .acquireSlot), .slot, .connected(reused: false),
      .response(ResponseFacts(status: 101, upgrade: .webSocket), becomes: .tunnel),
      .clientEnd(insideHead: false, .halfCloseInstance), .instanceEnd(.close(.tunnelEnded)),
    ], .closed
  ),
  (
    "a tunnel, ended by the instance first",
    [
      .request(upgrade, exclusive: true, becomes: .acquireSlot), .slot, .connected(reused: false),
      .response(ResponseFacts(status: 101, upgrade: .webSocket), becomes: .tunnel), .instanceEnd(.halfCloseClient),
      .clientEnd(insideHead: false, .close(.tunnelEnded)),
    ], .closed
  ),
  (
    "a tunnel refused by the instance is an answer, and the connection ends",
    [
      .request(upgrade, exclusive: true, becomes: .acquireSlot), .slot, .connected(reused: false),
      .response(ResponseFacts(status: 404, framing: .length(3)), becomes: .relay(.length(3), closes: true)),
      .responseEnd(.length(3), .finish(.responseComplete, reuseInstance: false)),
    ], .finishing
  ),
  (
    "101 that nobody asked for",
    [
      .request(get, exclusive: false, becomes: .connect), .connected(reused: false),
      .response(ResponseFacts(status: 101, upgrade: .webSocket), becomes: .fail(.answer(status: 502, .badResponse))),
      .answered(closes: true, .finish(.responseComplete, reuseInstance: false)),
    ], .finishing
  ),
  (
    "a kept connection that the instance has just closed is replaced",
    [
      .request(get, exclusive: false, becomes: .connect), .connected(reused: true), .fault(.closed, .retry),
      .connected(reused: true), .fault(.reset, .retry), .connected(reused: true),
      .fault(.closed, .answer(status: 502, .instanceClosedEarly)),
      .answered(closes: true, .finish(.responseComplete, reuseInstance: false)),
    ], .finishing
  ),
  (
    "a fresh connection that ends without an answer may have acted: no retry",
    [
      .request(get, exclusive: false, becomes: .connect), .connected(reused: false),
      .fault(.closed, .answer(status: 502, .instanceClosedEarly)),
    ], .exchanging
  ),
  (
    "a POST on a kept connection is not sent twice",
    [
      .request(post, exclusive: false, becomes: .connect), .connected(reused: true),
      .fault(.closed, .answer(status: 502, .instanceClosedEarly)),
    ], .exchanging
  ),
  (
    "connections that do not come to stand are tried three times, whatever the method",
    [
      .request(post, exclusive: false, becomes: .connect), .fault(.connectFailed, .retry),
      .fault(.connectTimeout, .retry),
      .fault(.connectFailed, .answer(status: 502, .connectFailed)),
    ], .connecting
  ),
  (
    "a response that breaks off is cut, so that the client notices",
    [
      .request(get, exclusive: false, becomes: .connect), .connected(reused: true),
      .response(ok, becomes: .relay(.length(2), closes: false)), .fault(.closed, .cut(.cutBody)),
    ], .closed
  ),
  (
    "no answer in time is not tried again",
    [
      .request(get, exclusive: false, becomes: .connect), .connected(reused: true),
      .fault(.firstByteTimeout, .answer(status: 504, .firstByteTimeout)),
    ], .exchanging
  ),
  (
    "a client that goes while it waits in the queue",
    [
      .request(upgrade, exclusive: true, becomes: .acquireSlot), .clientEnd(insideHead: false, .close(.clientAborted)),
    ], .closed
  ),
  ("a client that goes between requests", [.clientEnd(insideHead: false, .close(.clientClosed))], .closed),
  ("a client that goes inside a head", [.clientEnd(insideHead: true, .close(.clientAborted))], .closed),
  (
    "a client that ends its side after a whole request still gets its answer",
    [
      .request(get, exclusive: false, becomes: .connect), .connected(reused: false),
      .clientEnd(insideHead: false, .none),
      .response(ok, becomes: .relay(.length(2), closes: true)),
      .responseEnd(.length(2), .finish(.responseComplete, reuseInstance: true)),
    ], .finishing
  ),
  (
    "a client that ends inside its body",
    [
      .request(post, exclusive: false, becomes: .connect), .connected(reused: false),
      .clientEnd(insideHead: false, .close(.clientAborted)),
    ], .closed
  ),
  (
    "drain closes who is idle",
    [
      .request(get, exclusive: false, becomes: .connect), .connected(reused: false),
      .response(ok, becomes: .relay(.length(2), closes: false)),
      .responseEnd(.length(2), .nextRequest(reuseInstance: true)), .drain(insideHead: false, .close(.drained)),
    ], .closed
  ),
  (
    "drain lets who has just come make the one request that it came for",
    [
      .drain(insideHead: false, .none), .request(get, exclusive: false, becomes: .connect), .connected(reused: false),
      .response(ok, becomes: .relay(.length(2), closes: true)),
      .responseEnd(.length(2), .finish(.drained, reuseInstance: true)),
    ], .finishing
  ),
  (
    "drain lets a request end and then closes",
    [
      .request(get, exclusive: false, becomes: .connect), .drain(insideHead: false, .none), .connected(reused: false),
      .response(ok, becomes: .relay(.length(2), closes: true)),
      .responseEnd(.length(2), .finish(.drained, reuseInstance: true)),
    ], .finishing
  ),
  (
    "an answer of ours keeps the connection",
    [
      .request(get, exclusive: true, becomes: .acquireSlot),
      .answered(closes: false, .nextRequest(reuseInstance: false)),
    ], .readingHead
  ),
  (
    "an answer of ours to a request with a body ends it",
    [
      .request(post, exclusive: true, becomes: .acquireSlot),
      .answered(closes: false, .finish(.responseComplete, reuseInstance: false)),
    ], .finishing
  ),
]

@Suite struct ExchangeMachineTests {
  @Test(arguments: ways.indices) func way(_ index: Int) {
    let (name, steps, phase) = ways[index]
    var machine = ExchangeMachine(isTLS: false)
    for (number, step) in steps.enumerated() {
      let at: Comment = "\(name), step \(number + 1)"
      switch step {
      case .request(let facts, let exclusive, let action):
        #expect(machine.requestRead(facts, exclusive: exclusive) == action, at)
      case .slot: machine.slotGranted()
      case .connected(let reused): machine.connected(reused: reused)
      case .bodyForwarded: machine.bodyForwarded()
      case .requestEnd(let action): #expect(machine.requestBodyEnded() == action, at)
      case .response(let facts, let action): #expect(machine.responseRead(facts) == action, at)
      case .responseEnd(let framing, let action): #expect(machine.responseBodyEnded(framing: framing) == action, at)
      case .fault(let fault, let action): #expect(machine.fault(fault) == action, at)
      case .answered(let closes, let action): #expect(machine.answeredLocally(closes: closes) == action, at)
      case .clientEnd(let insideHead, let action): #expect(machine.clientEnd(insideHead: insideHead) == action, at)
      case .instanceEnd(let action): #expect(machine.tunnelInstanceEnd() == action, at)
      case .drain(let insideHead, let action): #expect(machine.drain(insideHead: insideHead) == action, at)
      }
    }
    #expect(machine.phase == phase, "\(name): the end")
  }

  @Test func aRetryNeedsTheBudget() {
    var machine = ExchangeMachine(isTLS: false)
    _ = machine.requestRead(get, exclusive: false)
    #expect(machine.fault(.connectFailed, budgetAllows: true) == .retry)
    #expect(machine.fault(.connectFailed, budgetAllows: false) == .answer(status: 502, .connectFailed))
  }

  /// A request that is refused before it is known is not taken for one like the last.
  @Test func nothingIsKeptOfTheLastRequest() {
    var machine = ExchangeMachine(isTLS: false)
    _ = machine.requestRead(RequestFacts(isHead: true, isVersion10: true), exclusive: false)
    machine.connected(reused: false)
    _ = machine.responseRead(ok)
    #expect(machine.responseBodyEnded(framing: .none) == .nextRequest(reuseInstance: true))
    #expect(!machine.isHead && !machine.isVersion10 && machine.requestIsDone)
    _ = machine.requestRead(RequestFacts(isHead: true), exclusive: false)
    #expect(machine.answeredLocally(closes: false) == .nextRequest(reuseInstance: false))
    #expect(!machine.isHead)
  }

  @Test func handshakeComesFirst() {
    var machine = ExchangeMachine(isTLS: true)
    #expect(machine.phase == .handshaking)
    #expect(!machine.mayAnswer)
    machine.handshakeFinished()
    #expect(machine.phase == .readingHead)
    #expect(machine.mayAnswer)
  }

  @Test func everyCloseReasonHasALabelOfItsOwn() {
    let labels = CloseReason.allCases.map(\.label)
    #expect(Set(labels).count == labels.count)
    #expect(CloseReason.idleKeepAlive.label == "idle_keep_alive")
  }
}
