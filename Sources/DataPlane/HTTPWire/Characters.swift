// Character classes of RFC 9110 §5.6.2 and RFC 3986, and comparisons that ignore ASCII case.

@inline(__always) func isDigit(_ byte: UInt8) -> Bool { byte &- 0x30 < 10 }
@inline(__always) func lowercase(_ byte: UInt8) -> UInt8 { byte &- 0x41 < 26 ? byte | 0x20 : byte }

/// tchar of RFC 9110 §5.6.2.
@inline(__always) func isTokenCharacter(_ byte: UInt8) -> Bool {
  // Bits of 0x00–0x3F and 0x40–0x7F: the constants are the class written out, so that no table is read.
  let low: UInt64 = 0x03FF_6CFA_0000_0000
  let high: UInt64 = 0x57FF_FFFF_C7FF_FFFE
  guard byte < 128 else { return false }
  return (byte < 64 ? low >> UInt64(byte) : high >> UInt64(byte & 63)) & 1 != 0
}

/// Visible ASCII: what may stand in a request target.
@inline(__always) func isVisible(_ byte: UInt8) -> Bool { byte > 0x20 && byte < 0x7F }

/// Field content: visible ASCII, obs-text, SP and HTAB (RFC 9110 §5.5).
@inline(__always) func isFieldContent(_ byte: UInt8) -> Bool { byte >= 0x20 ? byte != 0x7F : byte == 0x09 }

extension Span where Element == UInt8 {
  /// Whether the bytes of a slice are this ASCII text, which must be in lower case, ignoring case.
  package func equals(_ slice: Slice, _ text: StaticString) -> Bool {
    guard Int(slice.count) == text.utf8CodeUnitCount else { return false }
    return hasPrefix(slice, text)
  }

  /// Whether the bytes of a slice are exactly this ASCII text.
  package func isExactly(_ slice: Slice, _ text: StaticString) -> Bool {
    guard Int(slice.count) == text.utf8CodeUnitCount else { return false }
    return text.withUTF8Buffer { bytes in
      for index in 0..<bytes.count where unsafe self[slice.lower + index] != bytes[index] { return false }
      return true
    }
  }

  /// Whether the bytes of a slice are these, which must be in lower case, ignoring case.
  package func equals(_ slice: Slice, lowerCase text: Span<UInt8>) -> Bool {
    guard Int(slice.count) == text.count else { return false }
    for index in 0..<text.count where lowercase(self[slice.lower + index]) != text[index] { return false }
    return true
  }

  /// Whether the bytes of a slice are this field name in lower case, ignoring case and taking `_` for `-`.
  func isName(_ slice: Slice, _ text: StaticString) -> Bool {
    Int(slice.count) == text.utf8CodeUnitCount && namePrefix(slice, text)
  }

  /// The same for the begin of a name, which must be that long.
  func namePrefix(_ slice: Slice, _ text: StaticString) -> Bool {
    text.withUTF8Buffer { bytes in
      for index in 0..<bytes.count {
        let byte = self[slice.lower + index]
        guard unsafe (byte == UInt8(ascii: "_") ? UInt8(ascii: "-") : lowercase(byte)) == bytes[index] else {
          return false
        }
      }
      return true
    }
  }

  func hasPrefix(_ slice: Slice, _ text: StaticString) -> Bool {
    guard Int(slice.count) >= text.utf8CodeUnitCount else { return false }
    return text.withUTF8Buffer { bytes in
      for index in 0..<bytes.count where unsafe lowercase(self[slice.lower + index]) != bytes[index] { return false }
      return true
    }
  }

  /// Whether a comma-separated list of tokens (RFC 9110 §5.6.1) holds this one, given in lower case.
  func list(_ slice: Slice, contains text: StaticString) -> Bool {
    var found = false
    forEachToken(in: slice) { if equals($0, text) { found = true } }
    return found
  }

  /// Calls back for every non-empty element of a comma-separated list, without its white space.
  func forEachToken(in slice: Slice, _ body: (Slice) -> Void) {
    var position = slice.lower
    while position < slice.upper {
      var end = position
      while end < slice.upper, self[end] != UInt8(ascii: ",") { end += 1 }
      let token = trimmed(position, end)
      if !token.isEmpty { body(token) }
      position = end + 1
    }
  }

  /// The slice between two offsets without optional white space at its ends.
  package func trimmed(_ start: Int, _ end: Int) -> Slice {
    var lower = start
    var upper = end
    while lower < upper, self[lower] == 0x20 || self[lower] == 0x09 { lower += 1 }
    while upper > lower, self[upper - 1] == 0x20 || self[upper - 1] == 0x09 { upper -= 1 }
    return Slice(lower, upper - lower)
  }
}
