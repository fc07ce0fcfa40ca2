// Heads: the parser says the same of a head in pieces as of the whole, agrees with a second reader, and reads what the
// writer writes as the message that it was.
import HTTPWire

/// A head as far as two readers must agree on it.
struct ReadHead: Equatable, CustomStringConvertible {
  var byteCount: Int
  var start: [[UInt8]]
  var authority: [UInt8]
  var minorVersion: UInt8
  var framing: BodyFraming
  var keepsAlive: Bool
  var upgrade: Upgrade
  var names: [[UInt8]]
  var values: [[UInt8]]

  var description: String {
    "\(byteCount) \(start.map(shown)) authority \(shown(authority)) 1.\(minorVersion) \(framing) keeps \(keepsAlive) "
      + "\(upgrade) \(zip(names, values).map { shown($0) + "=" + shown($1) })"
  }
}

private func read(_ kind: MessageKind, _ head: borrowing Head, _ bytes: [UInt8]) -> ReadHead {
  func part(_ slice: Slice) -> [UInt8] { Array(bytes[slice.lower..<slice.upper]) }
  let start =
    kind == .request
    ? [part(head.method), part(head.path), part(head.query)] : [Array(String(head.status).utf8), part(head.reason)]
  var names: [[UInt8]] = []
  var values: [[UInt8]] = []
  for index in 0..<head.fieldCount {
    names.append(part(head.fields[index].name))
    values.append(part(head.fields[index].value))
  }
  return ReadHead(
    byteCount: head.byteCount, start: start, authority: kind == .request ? part(head.authority) : [],
    minorVersion: head.minorVersion, framing: head.framing, keepsAlive: head.keepsAlive, upgrade: head.upgrade,
    names: names, values: values)
}

func fuzzHead(_ kind: MessageKind, _ bytes: [UInt8]) throws(FuzzFailure) {
  var small = HTTPLimits()
  small.lineBytes = 48
  small.headBytes = 160
  for limits in [HTTPLimits(), small] { try samePieces(kind, bytes, HeadParser(limits: limits)) }
  guard bytes.count < HTTPLimits().lineBytes else { return }
  var head = Head()
  let result = HeadParser().parse(kind, bytes.span, into: &head)
  let naive = NaiveReader(kind: kind, bytes: bytes).read()
  if result == .complete {
    let strict = read(kind, head, bytes)
    try check(naive == strict, "two readers: \(strict) and \(naive.map { "\($0)" } ?? "refused")")
    if kind == .request { try rewrittenRequest(head, bytes) } else { try rewrittenResponse(head, bytes) }
  } else {
    try check(naive == nil, "\(result), but a second reader takes it: \(naive.map { "\($0)" } ?? "")")
  }
}

/// A head that is not complete yet stays so until something is decided, and what was decided stays.
private func samePieces(_ kind: MessageKind, _ bytes: [UInt8], _ parser: HeadParser) throws(FuzzFailure) {
  var head = Head()
  let whole = parser.parse(kind, bytes.span, into: &head)
  let wholeRead = whole == .complete ? read(kind, head, bytes) : nil
  var looked = 0
  for cut in cuts(bytes.count) {
    let piece = Array(bytes[..<cut])
    let result = parser.parse(kind, piece.span, into: &head)
    if result == .needsMore {
      looked = cut
      continue
    }
    // A bad byte may be told of at its line's end only, but never a head or a limit.
    let mustTell = [.complete, .failed(.lineTooLong), .failed(.headTooLarge)].contains(result)
    try check(
      !mustTell || parser.goesOn(piece.span, from: looked), "goesOn(from: \(looked)) misses \(result) at \(cut)")
    try check(result == whole, "\(result) after \(cut) bytes, \(whole) of all \(bytes.count)")
    if result == .complete { try check(read(kind, head, piece) == wholeRead, "another head after \(cut) bytes") }
    return
  }
}

private func rewrittenRequest(_ head: borrowing Head, _ bytes: [UInt8]) throws(FuzzFailure) {
  for choice in UInt8(0)..<4 {
    var changes = RequestChanges()
    changes.upgrades = head.upgrade == .webSocket
    changes.forwarding.trustsPeer = choice & 1 != 0
    changes.forwarding.xForwarded = true
    changes.forwarding.forwarded = choice & 2 != 0
    changes.forwarding.via = true
    let client = Array("2001:db8::1".utf8)
    let id = Array("0123456789abcdef0123456789abcdef".utf8)
    var output = [UInt8](repeating: 0, count: bytes.count * 2 + 1_024)
    var span = output.mutableSpan
    guard
      let count = head.writeRequest(
        bytes.span, changes: changes, target: Span(), host: Span(), client: client.span, requestID: id.span,
        into: &span)
    else { throw FuzzFailure(description: "a head that was read does not fit into twice its size") }
    let written = Array(output[..<count])
    var again = Head()
    let result = HeadParser().parse(.request, written.span, into: &again)
    // One more field than the limit may come of what is added.
    if result == .failed(.tooManyFields) { continue }
    try check(result == .complete && again.byteCount == count, "\(result) of what was written: \(shown(written))")
    let before = read(.request, head, bytes)
    let after = read(.request, again, written)
    try check(
      before.framing == after.framing && before.minorVersion == after.minorVersion && before.start[0] == after.start[0]
        && before.start[2] == after.start[2] && before.authority == after.authority,
      "another request was written: \(before), \(after)")
    let path = before.start[1].isEmpty ? Array((head.isOptionsOfServer ? "*" : "/").utf8) : before.start[1]
    try check(after.start[1] == path, "another path was written: \(before), \(after)")
    try check((again.upgrade == .webSocket) == changes.upgrades && again.upgrade != .other, "the upgrade is not kept")
    try check(!again.names.contains(.keepAlive) && !again.names.contains(.te), "a hop-by-hop field goes on")
    if !changes.upgrades { try check(!again.names.contains(.connection), "Connection goes on") }
    if choice & 1 == 0 {
      try check(
        !again.names.contains(.xRealIP) && !again.names.contains(.xForwardedOther), "a stranger's claim goes on")
    }
  }
}

private func rewrittenResponse(_ head: borrowing Head, _ bytes: [UInt8]) throws(FuzzFailure) {
  for closes in [false, true] {
    var changes = ResponseChanges()
    changes.closes = closes
    changes.toVersion10 = head.minorVersion == 0
    changes.via = closes
    var output = [UInt8](repeating: 0, count: bytes.count * 2 + 1_024)
    var span = output.mutableSpan
    guard let count = head.writeResponse(bytes.span, changes: changes, into: &span) else {
      throw FuzzFailure(description: "a head that was read does not fit into twice its size")
    }
    let written = Array(output[..<count])
    var again = Head()
    let result = HeadParser().parse(.response, written.span, into: &again)
    if result == .failed(.tooManyFields) { continue }
    try check(result == .complete && again.byteCount == count, "\(result) of what was written: \(shown(written))")
    try check(again.status == head.status && again.framing == head.framing, "another response was written")
    if head.status >= 200 {
      try check(
        again.keepsAlive == (!closes && head.framing != .untilClose), "the end is told wrongly: \(shown(written))")
    }
    if head.status < 200 || head.status == 204 {
      try check(!again.names.contains(.contentLength) && !again.names.contains(.transferEncoding), "a bodiless length")
    }
  }
}
