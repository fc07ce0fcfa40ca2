// Where a request carries an API key, and the key's bytes: Authorization as Bearer (RFC 6750 §2.1) or as Basic user
// (RFC 7617), or the query's `token`. Called by the engine for routes that ask for a key; the writer leaves out what was used.

/// The places of a key, in the order in which they are looked at.
package enum CredentialPlace: UInt8, Sendable, BitwiseCopyable { case none, authorization, query }

extension Head {
  /// Copies the key in Authorization into `out`. Returns its length; 0: there is none, or it is too long for `out`.
  package borrowing func authorizationKey(_ bytes: Span<UInt8>, into out: inout MutableSpan<UInt8>) -> Int {
    guard names.contains(.authorization), let value = value(of: .authorization),
      // Which of two would the instance go by?
      lastValue(of: .authorization) == value
    else { return 0 }
    if let rest = bytes.afterScheme("bearer", in: value) {
      guard rest.count <= out.count else { return 0 }
      for offset in 0..<Int(rest.count) { out[offset] = bytes[rest.lower + offset] }
      return Int(rest.count)
    }
    guard let rest = bytes.afterScheme("basic", in: value) else { return 0 }
    let count = bytes.decodeBase64(rest, into: &out)
    guard let colon = (0..<count).first(where: { out[$0] == UInt8(ascii: ":") }) else { return 0 }
    // Some clients send a key as the password of nobody.
    guard colon == 0 else { return colon }
    for offset in 1..<max(count, 1) { out[offset - 1] = out[offset] }
    return max(count - 1, 0)
  }

  /// Copies the first `token` of the query into `out`, with its percent-encoding undone.
  package borrowing func tokenKey(_ bytes: Span<UInt8>, into out: inout MutableSpan<UInt8>) -> Int {
    guard let parameter = tokenParameter(bytes) else { return 0 }
    return bytes.decodePercent(Slice(parameter.lower + 6, Int(parameter.count) - 6), into: &out)
  }

  /// The first parameter `token=…` of the query, with its name.
  package borrowing func tokenParameter(_ bytes: Span<UInt8>) -> Slice? {
    var start = query.lower + 1
    while start < query.upper {
      var end = start
      while end < query.upper, bytes[end] != UInt8(ascii: "&") { end += 1 }
      if end - start >= 6, bytes.isExactly(Slice(start, 6), "token=") { return Slice(start, end - start) }
      start = end + 1
    }
    return nil
  }

  /// What is left out of the target so that its query has no `token`: the parameter and the `&` or `?` that goes with it.
  package borrowing func tokenGap(_ bytes: Span<UInt8>) -> Slice {
    guard let parameter = tokenParameter(bytes) else { return .empty }
    if parameter.upper < query.upper { return Slice(parameter.lower, Int(parameter.count) + 1) }
    return Slice(parameter.lower - 1, Int(parameter.count) + 1)
  }

  /// Whether a browser's Origin (RFC 6454 §7) is that of this request's own authority, whatever the scheme: behind a balancer
  /// that ends TLS the two differ.
  package borrowing func originIsOwn(_ bytes: Span<UInt8>, _ origin: Slice) -> Bool {
    var start = origin.lower
    while start + 2 < origin.upper, !bytes.isExactly(Slice(start, 3), "://") { start += 1 }
    let host = Slice(start + 3, origin.upper - start - 3)
    guard start + 3 < origin.upper, host.count == authority.count else { return false }
    for offset in 0..<Int(host.count)
    where lowercase(bytes[host.lower + offset]) != lowercase(bytes[authority.lower + offset]) { return false }
    return true
  }

  /// Whether the request names its host by address or as `localhost`: no name that somebody else could point here.
  package borrowing func namesHostByAddress(_ bytes: Span<UInt8>) -> Bool {
    guard authority.count > 0 else { return true }
    if bytes[authority.lower] == UInt8(ascii: "[") { return true }
    var end = authority.lower
    while end < authority.upper, bytes[end] != UInt8(ascii: ":") { end += 1 }
    let name = Slice(authority.lower, end - authority.lower)
    if bytes.endsAsLabel("localhost", name) { return true }
    var digits = 0
    var dots = 0
    for index in name.lower..<name.upper {
      switch bytes[index] {
      case UInt8(ascii: "0")...UInt8(ascii: "9"): digits += 1
      case UInt8(ascii: "."): dots += 1
      default: return false
      }
    }
    return dots == 3 && digits >= 4
  }
}

extension Span where Element == UInt8 {
  /// What follows a scheme's name and its spaces; nil when the value begins with another.
  fileprivate func afterScheme(_ scheme: StaticString, in value: Slice) -> Slice? {
    let count = scheme.utf8CodeUnitCount
    guard Int(value.count) > count + 1, self[value.lower + count] == 0x20 else { return nil }
    guard hasPrefix(value, scheme) else { return nil }
    var start = value.lower + count
    while start < value.upper, self[start] == 0x20 { start += 1 }
    return Slice(start, value.upper - start)
  }

  /// Whether a name is this word, or ends with it after a dot.
  fileprivate func endsAsLabel(_ word: StaticString, _ name: Slice) -> Bool {
    let start = name.upper - word.utf8CodeUnitCount
    guard start >= name.lower, equals(Slice(start, name.upper - start), word) else { return false }
    return start == name.lower || self[start - 1] == UInt8(ascii: ".")
  }

  /// RFC 4648 §4, with or without padding. 0: malformed, or too long for `out`.
  fileprivate func decodeBase64(_ text: Slice, into out: inout MutableSpan<UInt8>) -> Int {
    var count = 0
    var bits: UInt32 = 0
    var held = 0
    var end = text.upper
    while end > text.lower, self[end - 1] == UInt8(ascii: "=") { end -= 1 }
    for index in text.lower..<end {
      let value: UInt32
      switch self[index] {
      case let byte where UInt8(ascii: "A")...UInt8(ascii: "Z") ~= byte: value = UInt32(byte) - 65
      case let byte where UInt8(ascii: "a")...UInt8(ascii: "z") ~= byte: value = UInt32(byte) - 71
      case let byte where UInt8(ascii: "0")...UInt8(ascii: "9") ~= byte: value = UInt32(byte) + 4
      case UInt8(ascii: "+"), UInt8(ascii: "-"): value = 62
      case UInt8(ascii: "/"), UInt8(ascii: "_"): value = 63
      default: return 0
      }
      bits = bits << 6 | value
      held += 6
      if held >= 8 {
        held -= 8
        guard count < out.count else { return 0 }
        out[count] = UInt8(truncatingIfNeeded: bits >> UInt32(held))
        count += 1
      }
    }
    return count
  }

  fileprivate func decodePercent(_ text: Slice, into out: inout MutableSpan<UInt8>) -> Int {
    func digit(_ byte: UInt8) -> UInt8? {
      switch byte {
      case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - 0x30
      case UInt8(ascii: "a")...UInt8(ascii: "f"): byte - 0x57
      case UInt8(ascii: "A")...UInt8(ascii: "F"): byte - 0x37
      default: nil
      }
    }
    var count = 0
    var index = text.lower
    while index < text.upper {
      guard count < out.count else { return 0 }
      var byte = self[index]
      if byte == UInt8(ascii: "%"), index + 2 < text.upper, let high = digit(self[index + 1]),
        let low = digit(self[index + 2])
      {
        byte = high << 4 | low
        index += 2
      }
      out[count] = byte
      count += 1
      index += 1
    }
    return count
  }
}
