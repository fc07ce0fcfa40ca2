// Looks single values up in a parsed head: what sticky cookies, hashes, rate limits and logs need. Called by the engine
// for routes that use them; plain requests never come here.

extension Head {
  /// The value of the first field of this name, which must be in lower case.
  package borrowing func value(of name: Span<UInt8>, in bytes: Span<UInt8>) -> Slice? {
    let fields = fields.span
    for index in 0..<fieldCount where bytes.equals(fields[index].name, lowerCase: name) { return fields[index].value }
    return nil
  }

  /// The value of the first field of a name that the parser knows.
  package borrowing func value(of name: FieldName) -> Slice? {
    guard names.contains(name) else { return nil }
    let fields = fields.span
    for index in 0..<fieldCount where fields[index].known == name { return fields[index].value }
    return nil
  }

  /// The value of the first cookie of this name, without the quotes that it may stand in (RFC 6265 §4.1.1 and §4.2.1).
  /// Several Cookie lines are read one after the other, as if they were one. Names are compared with their case.
  package borrowing func cookie(_ name: Span<UInt8>, in bytes: Span<UInt8>) -> Slice? {
    guard names.contains(.cookie) else { return nil }
    let fields = fields.span
    for index in 0..<fieldCount where fields[index].known == .cookie {
      if let value = bytes.cookie(name, in: fields[index].value) { return value }
    }
    return nil
  }
}

extension Span where Element == UInt8 {
  fileprivate func cookie(_ name: Span<UInt8>, in pairs: Slice) -> Slice? {
    var position = pairs.lower
    while position < pairs.upper {
      var end = position
      while end < pairs.upper, self[end] != UInt8(ascii: ";") { end += 1 }
      let pair = trimmed(position, end)
      if pair.count > name.count, self[pair.lower + name.count] == UInt8(ascii: "="), starts(with: name, at: pair.lower)
      {
        let start = pair.lower + name.count + 1
        return unquoted(Slice(start, pair.upper - start))
      }
      position = end + 1
    }
    return nil
  }

  private func starts(with text: Span<UInt8>, at start: Int) -> Bool {
    for offset in 0..<text.count where self[start + offset] != text[offset] { return false }
    return true
  }

  private func unquoted(_ slice: Slice) -> Slice {
    let quote = UInt8(ascii: "\"")
    guard slice.count >= 2, self[slice.lower] == quote, self[slice.upper - 1] == quote else { return slice }
    return Slice(slice.lower + 1, Int(slice.count) - 2)
  }
}
