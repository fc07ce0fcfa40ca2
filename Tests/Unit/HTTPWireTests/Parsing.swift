// What the tests of this target share: a parse of text, and what it says about the head.
import HTTPWire

/// What a test wants to know of a parsed head.
struct Parsed: Equatable {
  var result: ParseResult
  var byteCount = 0
  var method = ""
  var target = ""
  var path = ""
  var query = ""
  var authority = ""
  var status = 0
  var framing = BodyFraming.none
  var keepsAlive = true
  var upgrade = Upgrade.none
  var fields: [String] = []
}

func parse(_ kind: MessageKind, _ text: String, limits: HTTPLimits = HTTPLimits()) -> Parsed {
  parse(kind, Array(text.utf8), limits: limits)
}

func parse(_ kind: MessageKind, _ bytes: [UInt8], limits: HTTPLimits = HTTPLimits()) -> Parsed {
  var head = Head()
  let result = HeadParser(limits: limits).parse(kind, bytes.span, into: &head)
  var parsed = Parsed(result: result)
  guard result == .complete else { return parsed }
  func text(_ slice: Slice) -> String { String(decoding: bytes[slice.lower..<slice.upper], as: UTF8.self) }
  parsed.byteCount = head.byteCount
  parsed.method = text(head.method)
  parsed.target = text(head.target)
  parsed.path = text(head.path)
  parsed.query = text(head.query)
  parsed.authority = text(head.authority)
  parsed.status = head.status
  parsed.framing = head.framing
  parsed.keepsAlive = head.keepsAlive
  parsed.upgrade = head.upgrade
  for index in 0..<head.fieldCount { parsed.fields.append(text(head.fields[index].name)) }
  return parsed
}
