// Chrome's answers to /json/version, /json/list and /json/new: collected, rewritten field by field to the client's own
// origin, and given as an answer of ours.
import CDP
import HTTPWire
import ProxyMachine
import Routing

enum Collecting {
  case no, yes
  /// It should be rewritten but cannot be: passing it on would show the client an address that bypasses us.
  case impossible
}

extension Visit {
  /// Whether the instance's answer is to be rewritten.
  func collects(status: Int, framing: BodyFraming, _ limits: EngineLimits) -> Collecting {
    guard speaksDevTools, endpoint.isRewritten, status == 200 else { return .no }
    guard case .length(let count) = framing, count <= UInt64(limits.discoveryBytes) else {
      return framing == .none ? .no : .impossible
    }
    return .yes
  }
}

extension Worker {
  /// Looks at the answer's head before the exchange machine does: as long as nothing of it goes out, ours can replace it.
  /// True: the answer is being collected, or was refused.
  func collects(_ fd: Int32, _ client: Int32, _ bytes: Span<UInt8>) -> Bool {
    guard let visit = s.visits[client], !s.slab[client].machine.isHead else { return false }
    switch visit.collects(status: s.head.status, framing: s.head.framing, s.limits) {
    case .no: return false
    case .impossible:
      answer(client, 502, "The browser's discovery answer is too large or has no length.", .badResponse, closes: true)
      return true
    case .yes:
      s.slab[fd].body = BodyState(s.head.framing)
      s.slab[fd].body.mode = .collect
      wait(client, .firstByte)
      turnAnswered(client, status: 200)
      collect(fd, client, visit, bytes.extracting(s.head.byteCount..<bytes.count))
      return true
    }
  }

  private func collect(_ fd: Int32, _ client: Int32, _ visit: Visit, _ bytes: Span<UInt8>) {
    guard let (take, ended) = follow(fd, bytes) else { return closeClient(client, .internalError) }
    visit.collected.reserveCapacity(visit.collected.count + take)
    for index in 0..<take { visit.collected.append(bytes[index]) }
    if ended { rewritten(client, visit) }
  }

  /// More of an answer that is being collected.
  func collectMore(_ fd: Int32, _ client: Int32) {
    guard let visit = s.visits[client] else { return closeClient(client, .internalError) }
    while s.slab[fd].kind == .instance, s.slab[fd].body.mode == .collect {
      switch unsafe receive(fd, s.input, s.limits.smallestPiece) {
      case .wouldBlock: return
      case .end: return instanceLost(client, .closed)
      case .reset: return instanceLost(client, .reset)
      case .bytes(let count):
        let bytes = unsafe Span<UInt8>(_unsafeStart: s.input.assumingMemoryBound(to: UInt8.self), count: count)
        collect(fd, client, visit, bytes)
      }
    }
  }

  private func rewritten(_ client: Int32, _ visit: Visit) {
    s.metrics.add(.discoveries)
    do {
      let answer = try CDPAnswer(rewriting: visit.collected, of: visit.endpoint.action, for: visit.origin)
      if let session = visit.session, !answer.targets.isEmpty {
        s.coordinator.notify(.targets(answer.targets, session: session.id))
      }
      self.answer(
        client, 200, contentType: "application/json; charset=UTF-8", body: answer.bytes, .responseComplete,
        closes: false)
    } catch {
      answer(client, 502, "The browser's discovery answer cannot be understood: \(error)", .badResponse, closes: true)
    }
  }
}
