// The strict parser of request and response heads (RFC 9112). It reads one contiguous buffer and fills a Head with
// offsets; where RFC 9112 lets a recipient be lenient and leniency enables smuggling, it refuses. Called by the engine
// for every message, by tests with every split of every head.

package enum MessageKind: Sendable { case request, response }

/// Parses the head that starts at the first byte of a buffer.
package struct HeadParser: Sendable {
  package let limits: HTTPLimits
  package init(limits: HTTPLimits = HTTPLimits()) { self.limits = limits }
  /// Four empty lines: one or two is what old clients sent behind a body.
  private static let emptyLineBytes = 8

  /// Fills `head` from `bytes`. `needsMore` is given only when all of `bytes` was looked at and is below the limits, so
  /// a caller need not ask again before more bytes came. Empty lines before a request line are skipped (RFC 9112 §2.2).
  package func parse(_ kind: MessageKind, _ bytes: Span<UInt8>, into head: inout Head) -> ParseResult {
    head.reset()
    var position = 0
    if kind == .request {
      while position + 1 < bytes.count, bytes[position] == 0x0D, bytes[position + 1] == 0x0A,
        position < Self.emptyLineBytes
      {
        position += 2
      }
      if position < bytes.count, let error = firstByteError(bytes[position], alone: position + 1 == bytes.count) {
        return .failed(error)
      }
    }
    let startLine = position
    switch line(bytes, from: position, limit: limits.lineBytes) {
    case .more: return .needsMore
    case .failed(let error): return .failed(error == .headTooLarge ? .lineTooLong : error)
    case .end(let end):
      let error =
        kind == .request
        ? requestLine(bytes, startLine, end, &head) : statusLine(bytes, startLine, end, &head)
      if let error { return .failed(error) }
      position = end + 2
    }
    var facts = FramingFacts()
    while true {
      switch line(bytes, from: position, limit: limits.headBytes - (position - startLine)) {
      case .more: return .needsMore
      case .failed(let error): return .failed(error)
      case .end(let end):
        if end == position {
          head.byteCount = end + 2
          if let error = conclude(kind, facts, bytes, &head) { return .failed(error) }
          return .complete
        }
        if let error = field(kind, bytes, position, end, &head, &facts) { return .failed(error) }
        position = end + 2
      }
    }
  }

  /// Whether a head that needed more with the first `looked` of the bytes can be anything else with all of them.
  /// Without a line's end or a limit among the new ones it is not complete, so a head in many pieces is not parsed for
  /// each; a byte that may not be there is told of at the end of its line.
  package func goesOn(_ bytes: Span<UInt8>, from looked: Int) -> Bool {
    if bytes.count >= limits.headBytes { return true }
    // Empty lines before the request line move its limit.
    if looked < limits.lineBytes + Self.emptyLineBytes, bytes.count >= limits.lineBytes { return true }
    for index in looked..<bytes.count where bytes[index] == 0x0A { return true }
    return false
  }

  /// Names what obviously is no request, so that nobody waits for the rest of it.
  private func firstByteError(_ byte: UInt8, alone: Bool) -> HTTPError? {
    if isTokenCharacter(byte) { return nil }
    if byte == 0x16 { return .tlsOnPlainPort }
    if byte == 0x0D { return alone ? nil : .bareCarriageReturn }
    return byte == 0x0A ? .bareLineFeed : .notHTTP
  }

  private enum Line {
    case more
    case end(Int)
    case failed(HTTPError)
  }

  /// Finds the CR LF that ends the line; every byte before it is no control character but HTAB.
  @inline(__always) private func line(_ bytes: Span<UInt8>, from start: Int, limit: Int) -> Line {
    var position = start
    let end = min(bytes.count, start + limit)
    while position < end {
      let byte = bytes[position]
      if !isFieldContent(byte) {
        if byte == 0x0D {
          guard position + 1 < bytes.count else { return .more }
          return bytes[position + 1] == 0x0A ? .end(position) : .failed(.bareCarriageReturn)
        }
        return .failed(byte == 0x0A ? .bareLineFeed : .badFieldValue)
      }
      position += 1
    }
    return end == bytes.count && end < start + limit ? .more : .failed(.headTooLarge)
  }

  // MARK: Start lines

  private func requestLine(_ bytes: Span<UInt8>, _ start: Int, _ end: Int, _ head: inout Head) -> HTTPError? {
    var position = start
    while position < end, isTokenCharacter(bytes[position]) { position += 1 }
    guard position > start, position - start <= 32, position < end, bytes[position] == 0x20 else { return .badMethod }
    head.method = Slice(start, position - start)
    let target = position + 1
    position = target
    while position < end, isVisible(bytes[position]) { position += 1 }
    // A line that ends with the target is HTTP/0.9.
    if position > target, position == end { return .badVersion }
    guard position > target, bytes[position] == 0x20 else { return .badTarget }
    head.target = Slice(target, position - target)
    if let error = version(bytes, position + 1, end, &head) { return error }
    // Methods are case-sensitive (RFC 9110 §9.1): an instance answers `head` with a body, so it must not pass for HEAD.
    head.isGet = bytes.isExactly(head.method, "GET")
    head.isHead = bytes.isExactly(head.method, "HEAD")
    if bytes.equals(head.method, "connect") { return .connectMethod }
    // It would show everything that is added on the way, cookies and credentials among it, to whoever can read answers.
    if bytes.equals(head.method, "trace") { return .traceMethod }
    return splitTarget(bytes, &head)
  }

  private func version(_ bytes: Span<UInt8>, _ start: Int, _ end: Int, _ head: inout Head) -> HTTPError? {
    guard end - start == 8, bytes[start] == UInt8(ascii: "H"), bytes[start + 1] == UInt8(ascii: "T"),
      bytes[start + 2] == UInt8(ascii: "T"), bytes[start + 3] == UInt8(ascii: "P"),
      bytes[start + 4] == UInt8(ascii: "/"),
      isDigit(bytes[start + 5]), bytes[start + 6] == UInt8(ascii: "."), isDigit(bytes[start + 7])
    else { return .badVersion }
    guard bytes[start + 5] == UInt8(ascii: "1"), bytes[start + 7] <= UInt8(ascii: "1") else {
      return .unsupportedVersion
    }
    head.minorVersion = bytes[start + 7] - 0x30
    return nil
  }

  /// Splits the target of RFC 9112 §3.2 into authority, path and query.
  private func splitTarget(_ bytes: Span<UInt8>, _ head: inout Head) -> HTTPError? {
    var start = head.target.lower
    let end = head.target.upper
    if bytes[start] != UInt8(ascii: "/") {
      if end - start == 1, bytes[start] == UInt8(ascii: "*"), bytes.isExactly(head.method, "OPTIONS") {
        head.isOptionsOfServer = true
        head.path = head.target
        return nil
      }
      let scheme: Int
      if bytes.hasPrefix(head.target, "http://") || bytes.hasPrefix(head.target, "ws://") {
        scheme = lowercase(bytes[start]) == UInt8(ascii: "h") ? 7 : 5
      } else if bytes.hasPrefix(head.target, "https://") || bytes.hasPrefix(head.target, "wss://") {
        scheme = lowercase(bytes[start]) == UInt8(ascii: "h") ? 8 : 6
      } else {
        return .badTarget
      }
      let authority = start + scheme
      start = authority
      while start < end, bytes[start] != UInt8(ascii: "/"), bytes[start] != UInt8(ascii: "?") { start += 1 }
      head.authority = Slice(authority, start - authority)
      guard isAuthority(bytes, head.authority), !head.authority.isEmpty else { return .badHost }
    }
    var query = start
    while query < end, bytes[query] != UInt8(ascii: "?") {
      if bytes[query] == UInt8(ascii: "#") { return .badTarget }
      let separator = separatorBytes(bytes, query, end)
      if separator > 0, isDotSegment(bytes, query + separator, end) { return .dotSegment }
      query += 1
    }
    head.path = Slice(start, query - start)
    head.query = Slice(query, end - query)
    for index in query..<end where bytes[index] == UInt8(ascii: "#") { return .badTarget }
    if start == end { head.isOptionsOfServer = bytes.isExactly(head.method, "OPTIONS") }
    return nil
  }

  /// Bytes of what some instance may take for the end of a segment: `/` and `\`, percent-encoded or not; 0 = none.
  @inline(__always) private func separatorBytes(_ bytes: Span<UInt8>, _ at: Int, _ end: Int) -> Int {
    switch bytes[at] {
    case UInt8(ascii: "/"), UInt8(ascii: "\\"): return 1
    case UInt8(ascii: "%"):
      guard at + 2 < end else { return 0 }
      let second = lowercase(bytes[at + 2])
      let isSlash = bytes[at + 1] == UInt8(ascii: "2") && second == UInt8(ascii: "f")
      return isSlash || bytes[at + 1] == UInt8(ascii: "5") && second == UInt8(ascii: "c") ? 3 : 0
    default: return 0
    }
  }

  /// Whether the segment is `.` or `..`, percent-encoded or not: an instance that resolves it would see another path
  /// than the one that the route was chosen by.
  @inline(__always) private func isDotSegment(_ bytes: Span<UInt8>, _ start: Int, _ end: Int) -> Bool {
    guard start < end, bytes[start] == UInt8(ascii: ".") || bytes[start] == UInt8(ascii: "%") else { return false }
    var position = start
    var dots = 0
    while position < end, dots < 3 {
      if bytes[position] == UInt8(ascii: ".") {
        position += 1
      } else if position + 2 < end, bytes[position] == UInt8(ascii: "%"), bytes[position + 1] == UInt8(ascii: "2"),
        lowercase(bytes[position + 2]) == UInt8(ascii: "e")
      {
        position += 3
      } else {
        break
      }
      dots += 1
    }
    guard dots == 1 || dots == 2 else { return false }
    return position == end || bytes[position] == UInt8(ascii: "?") || bytes[position] == UInt8(ascii: ";")
      || separatorBytes(bytes, position, end) > 0
  }

  private func statusLine(_ bytes: Span<UInt8>, _ start: Int, _ end: Int, _ head: inout Head) -> HTTPError? {
    guard end - start >= 12, version(bytes, start, start + 8, &head) == nil, bytes[start + 8] == 0x20,
      isDigit(bytes[start + 9]), isDigit(bytes[start + 10]), isDigit(bytes[start + 11])
    else { return .badStatusLine }
    head.status =
      Int(bytes[start + 9] - 0x30) * 100 + Int(bytes[start + 10] - 0x30) * 10 + Int(bytes[start + 11] - 0x30)
    guard head.status >= 100, head.status < 600 else { return .badStatusLine }
    if end - start > 12 {
      guard bytes[start + 12] == 0x20 else { return .badStatusLine }
      head.reason = Slice(start + 13, end - start - 13)
    }
    return nil
  }

  // MARK: Fields

  private struct FramingFacts {
    var length: UInt64?
    var hasTransferEncoding = false
    var isChunked = false
    var hasHost = false
    var connectionCloses = false
    var connectionKeeps = false
    var connectionUpgrades = false
    var upgrade = Upgrade.none
  }

  @inline(__always)
  private func field(
    _ kind: MessageKind, _ bytes: Span<UInt8>, _ start: Int, _ end: Int, _ head: inout Head, _ facts: inout FramingFacts
  ) -> HTTPError? {
    var position = start
    while position < end, isTokenCharacter(bytes[position]) { position += 1 }
    guard position < end, bytes[position] == UInt8(ascii: ":") else {
      if position == start, bytes[start] == 0x20 || bytes[start] == 0x09 { return .foldedField }
      if position < end, bytes[position] == 0x20 || bytes[position] == 0x09 { return .whitespaceBeforeColon }
      return .badFieldName
    }
    guard position > start else { return .badFieldName }
    guard head.fieldCount < HTTPLimits.fieldCount else { return .tooManyFields }
    let name = Slice(start, position - start)
    let value = bytes.trimmed(position + 1, end)
    let known = identify(bytes, name)
    head.fields[head.fieldCount] = Field(name: name, value: value, line: Slice(start, end + 2 - start), known: known)
    head.fieldCount += 1
    if known == .other { return nil }
    if hasUnderscore(bytes, name) {
      // `X_Forwarded_For` becomes the same variable as `X-Forwarded-For` in servers with CGI's names.
      if kind == .request { return .ambiguousFieldName }
      head.fields[head.fieldCount - 1].known = .other
      return nil
    }
    head.names.insert(known)
    return note(known, bytes, value, &head, &facts)
  }

  private func hasUnderscore(_ bytes: Span<UInt8>, _ name: Slice) -> Bool {
    for index in name.lower..<name.upper where bytes[index] == UInt8(ascii: "_") { return true }
    return false
  }

  /// Names are told apart by length first, so that nearly every unknown one costs a jump and a comparison. An
  /// underscore passes for a hyphen here.
  @inline(__always) private func identify(_ bytes: Span<UInt8>, _ name: Slice) -> FieldName {
    switch name.count {
    case 2: bytes.equals(name, "te") ? .te : .other
    case 3: bytes.equals(name, "via") ? .via : .other
    case 4:
      switch lowercase(bytes[name.lower]) {
      case UInt8(ascii: "d"): bytes.equals(name, "date") ? .date : .other
      case UInt8(ascii: "h"): bytes.equals(name, "host") ? .host : .other
      default: .other
      }
    case 6:
      switch lowercase(bytes[name.lower]) {
      case UInt8(ascii: "c"): bytes.equals(name, "cookie") ? .cookie : .other
      case UInt8(ascii: "e"): bytes.equals(name, "expect") ? .expect : .other
      case UInt8(ascii: "o"): bytes.equals(name, "origin") ? .origin : .other
      default: .other
      }
    case 7:
      switch lowercase(bytes[name.lower]) {
      case UInt8(ascii: "t"): bytes.equals(name, "trailer") ? .trailer : .other
      case UInt8(ascii: "u"): bytes.equals(name, "upgrade") ? .upgrade : .other
      default: .other
      }
    case 9:
      switch lowercase(bytes[name.lower]) {
      case UInt8(ascii: "f"): bytes.equals(name, "forwarded") ? .forwarded : .other
      case UInt8(ascii: "x"): bytes.isName(name, "x-real-ip") ? .xRealIP : .other
      default: .other
      }
    case 10:
      switch lowercase(bytes[name.lower]) {
      case UInt8(ascii: "c"): bytes.equals(name, "connection") ? .connection : .other
      case UInt8(ascii: "k"): bytes.isName(name, "keep-alive") ? .keepAlive : .other
      default: .other
      }
    case 12:
      switch lowercase(bytes[name.lower]) {
      case UInt8(ascii: "m"): bytes.isName(name, "max-forwards") ? .maxForwards : .other
      case UInt8(ascii: "x"): bytes.isName(name, "x-request-id") ? .xRequestID : .other
      default: .other
      }
    case 13:
      switch lowercase(bytes[name.lower]) {
      case UInt8(ascii: "a"): bytes.equals(name, "authorization") ? .authorization : .other
      case UInt8(ascii: "x"): bytes.namePrefix(name, "x-forwarded-") ? .xForwardedOther : .other
      default: .other
      }
    case 14:
      switch lowercase(bytes[name.lower]) {
      case UInt8(ascii: "c"): bytes.isName(name, "content-length") ? .contentLength : .other
      case UInt8(ascii: "h"): bytes.isName(name, "http2-settings") ? .http2Settings : .other
      case UInt8(ascii: "x"): bytes.namePrefix(name, "x-forwarded-") ? .xForwardedOther : .other
      default: .other
      }
    case 16 where bytes.isName(name, "proxy-connection"): .proxyConnection
    case 17 where bytes.isName(name, "transfer-encoding"): .transferEncoding
    case 15...: bytes.namePrefix(name, "x-forwarded-") ? forwardedName(bytes, name) : .other
    default: .other
    }
  }

  private func forwardedName(_ bytes: Span<UInt8>, _ name: Slice) -> FieldName {
    switch name.count {
    case 15 where bytes.isName(name, "x-forwarded-for"): .xForwardedFor
    case 16 where bytes.isName(name, "x-forwarded-host"): .xForwardedHost
    case 17 where bytes.isName(name, "x-forwarded-proto"): .xForwardedProto
    default: .xForwardedOther
    }
  }

  private func note(
    _ known: FieldName, _ bytes: Span<UInt8>, _ value: Slice, _ head: inout Head, _ facts: inout FramingFacts
  ) -> HTTPError? {
    switch known {
    case .contentLength:
      guard facts.length == nil else { return .duplicateContentLength }
      guard let length = decimal(bytes, value) else { return .badContentLength }
      facts.length = length
    case .transferEncoding:
      guard !facts.hasTransferEncoding, bytes.equals(value, "chunked") else { return .badTransferEncoding }
      facts.hasTransferEncoding = true
      facts.isChunked = true
    // A response's start line has been read by now; there these mean nothing.
    case .host where head.status == 0:
      guard !facts.hasHost else { return .duplicateHost }
      guard isAuthority(bytes, value) else { return .badHost }
      facts.hasHost = true
      if head.authority.isEmpty { head.authority = value }
    case .connection:
      var closes = false
      var keeps = false
      var upgrades = false
      var nominates = false
      bytes.forEachToken(in: value) { token in
        if bytes.equals(token, "close") {
          closes = true
        } else if bytes.equals(token, "keep-alive") {
          keeps = true
        } else if bytes.equals(token, "upgrade") {
          upgrades = true
        } else {
          nominates = true
        }
      }
      facts.connectionCloses = facts.connectionCloses || closes
      facts.connectionKeeps = facts.connectionKeeps || keeps
      facts.connectionUpgrades = facts.connectionUpgrades || upgrades
      head.nominatesFields = head.nominatesFields || nominates
    case .upgrade:
      facts.upgrade = facts.upgrade == .none && bytes.equals(value, "websocket") ? .webSocket : .other
    case .expect where head.status == 0:
      guard bytes.equals(value, "100-continue") else { return .unsupportedExpectation }
      head.expectsContinue = true
    case .maxForwards:
      // Of no meaning for other methods (RFC 9110 §7.6.2).
      guard bytes.isExactly(head.method, "OPTIONS") else { break }
      guard head.maxForwards == nil, let count = decimal(bytes, value) else { return .badFieldValue }
      head.maxForwards = Int(count)
    default: break
    }
    return nil
  }

  /// 1*DIGIT that fits into 63 bits.
  private func decimal(_ bytes: Span<UInt8>, _ slice: Slice) -> UInt64? {
    guard slice.count > 0, slice.count <= 18 else { return nil }
    var value: UInt64 = 0
    for index in slice.lower..<slice.upper {
      guard isDigit(bytes[index]) else { return nil }
      value = value * 10 + UInt64(bytes[index] - 0x30)
    }
    return value
  }

  /// host [":" port] of RFC 3986 §3.2 without user information; empty is allowed (RFC 9112 §3.2).
  private func isAuthority(_ bytes: Span<UInt8>, _ slice: Slice) -> Bool {
    var position = slice.lower
    if position < slice.upper, bytes[position] == UInt8(ascii: "[") {
      position += 1
      let start = position
      while position < slice.upper, isAddressCharacter(bytes[position]) { position += 1 }
      guard position > start, position < slice.upper, bytes[position] == UInt8(ascii: "]") else { return false }
      position += 1
    } else {
      while position < slice.upper, isNameCharacter(bytes[position]) { position += 1 }
    }
    // A port alone names nobody (RFC 9110 §4.2.1).
    guard position > slice.lower || slice.isEmpty else { return false }
    guard position < slice.upper else { return true }
    guard bytes[position] == UInt8(ascii: ":"), slice.upper - position <= 6 else { return false }
    var port = 0
    for index in position + 1..<slice.upper {
      guard isDigit(bytes[index]) else { return false }
      port = port * 10 + Int(bytes[index] - 0x30)
    }
    return port <= 65_535
  }

  private func isAddressCharacter(_ byte: UInt8) -> Bool {
    isDigit(byte) || (lowercase(byte) >= 0x61 && lowercase(byte) <= 0x66) || byte == UInt8(ascii: ":")
      || byte == UInt8(ascii: ".")
  }

  /// unreserved of RFC 3986: no DNS name has sub-delims or percent-encoding.
  private func isNameCharacter(_ byte: UInt8) -> Bool {
    isDigit(byte) || lowercase(byte) &- 0x61 < 26 || byte == UInt8(ascii: "-") || byte == UInt8(ascii: ".")
      || byte == UInt8(ascii: "_") || byte == UInt8(ascii: "~")
  }

  // MARK: Framing

  private func conclude(_ kind: MessageKind, _ facts: FramingFacts, _ bytes: Span<UInt8>, _ head: inout Head)
    -> HTTPError?
  {
    if facts.hasTransferEncoding {
      guard facts.length == nil else { return .lengthAndTransferEncoding }
      guard head.minorVersion == 1 else { return .transferEncodingIn10 }
    }
    head.keepsAlive =
      head.minorVersion == 1 ? !facts.connectionCloses : facts.connectionKeeps && !facts.connectionCloses
    if facts.connectionUpgrades, head.minorVersion == 1 { head.upgrade = facts.upgrade }
    switch kind {
    case .request:
      guard facts.hasHost || head.minorVersion == 0 else { return .missingHost }
      head.framing = facts.isChunked ? .chunked : facts.length.map { $0 == 0 ? .none : .length($0) } ?? .none
      if head.upgrade == .webSocket, !head.isGet || head.framing != .none { return .badUpgrade }
    case .response:
      if head.status < 200 || head.status == 204 || head.status == 304 {
        head.framing = .none
      } else if facts.isChunked {
        head.framing = .chunked
      } else if let length = facts.length {
        head.framing = length == 0 ? .none : .length(length)
      } else {
        head.framing = .untilClose
        head.keepsAlive = false
      }
    }
    return nil
  }
}
