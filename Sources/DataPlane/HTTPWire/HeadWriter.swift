// Writes the head that goes on: hop-by-hop fields end here, Host and Origin are set as the pool needs it, everything else
// passes byte for byte and in order. Called by the engine right after HeadParser.

/// Where a head is written to: a span of fixed size and how much of it is filled.
private struct Cursor {
  var count = 0
  var overflowed = false

  @inline(__always) mutating func append(_ byte: UInt8, _ out: inout MutableSpan<UInt8>) {
    guard count < out.count else {
      overflowed = true
      return
    }
    out[count] = byte
    count += 1
  }

  @inline(__always) mutating func append(_ bytes: Span<UInt8>, _ slice: Slice, _ out: inout MutableSpan<UInt8>) {
    guard out.count - count >= Int(slice.count) else {
      overflowed = true
      return
    }
    var source = slice.lower
    while source < slice.upper {
      out[count] = bytes[source]
      count += 1
      source += 1
    }
  }

  @inline(__always) mutating func append(_ bytes: Span<UInt8>, _ out: inout MutableSpan<UInt8>) {
    append(bytes, Slice(0, bytes.count), &out)
  }

  mutating func append(_ text: StaticString, _ out: inout MutableSpan<UInt8>) {
    guard out.count - count >= text.utf8CodeUnitCount else {
      overflowed = true
      return
    }
    text.withUTF8Buffer { bytes in
      for index in 0..<bytes.count {
        out[count] = unsafe bytes[index]
        count += 1
      }
    }
  }
}

/// How a request's head is changed on its way to an instance.
package struct RequestChanges: Sendable {
  /// Bytes taken off the path's start (a route's prefix).
  package var stripped = 0
  /// Whether Origin ends here: Chrome refuses every origin that it was not told of.
  package var dropsOrigin = false
  /// Whether the WebSocket upgrade goes on.
  package var upgrades = false
  package init() {}
}

extension Head {
  /// Writes this request for an instance.
  /// - Parameters:
  ///   - target: what the request line names instead of the client's target; empty = the client's, changed as `changes` says.
  ///   - host: the Host that the instance sees; empty = the authority that the client named.
  /// - Returns: bytes written, or nil when `out` is too small.
  package borrowing func writeRequest(
    _ bytes: Span<UInt8>, changes: RequestChanges, target: Span<UInt8>, host: Span<UInt8>,
    into out: inout MutableSpan<UInt8>
  ) -> Int? {
    var cursor = Cursor()
    cursor.append(bytes, method, &out)
    cursor.append(0x20, &out)
    if target.isEmpty {
      let start = min(path.lower + changes.stripped, path.upper)
      if start == path.upper || (changes.stripped > 0 && bytes[start] != UInt8(ascii: "/")) {
        cursor.append(UInt8(ascii: "/"), &out)
      }
      cursor.append(bytes, Slice(start, path.upper - start + Int(query.count)), &out)
    } else {
      cursor.append(target, &out)
    }
    cursor.append(minorVersion == 1 ? " HTTP/1.1\r\nHost: " : " HTTP/1.0\r\nHost: ", &out)
    if host.isEmpty { cursor.append(bytes, authority, &out) } else { cursor.append(host, &out) }
    cursor.append("\r\n", &out)
    writeFields(bytes, dropsOrigin: changes.dropsOrigin, &cursor, &out)
    if changes.upgrades {
      cursor.append("Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", &out)
    } else {
      cursor.append("\r\n", &out)
    }
    return cursor.overflowed ? nil : cursor.count
  }

  /// Writes this response for the client.
  /// - Parameters:
  ///   - closes: whether the client's connection ends after it.
  ///   - toVersion10: whether the client speaks HTTP/1.0 and so must be told when it does not end.
  /// - Returns: bytes written, or nil when `out` is too small.
  package borrowing func writeResponse(
    _ bytes: Span<UInt8>, closes: Bool, toVersion10: Bool, into out: inout MutableSpan<UInt8>
  ) -> Int? {
    var cursor = Cursor()
    cursor.append("HTTP/1.1 ", &out)
    cursor.append(UInt8(0x30 + status / 100), &out)
    cursor.append(UInt8(0x30 + status / 10 % 10), &out)
    cursor.append(UInt8(0x30 + status % 10), &out)
    cursor.append(0x20, &out)
    cursor.append(bytes, reason, &out)
    cursor.append("\r\n", &out)
    writeFields(bytes, dropsOrigin: false, &cursor, &out)
    if status == 101 {
      cursor.append("Connection: Upgrade\r\nUpgrade: websocket\r\n", &out)
    } else if status >= 200 {
      if closes {
        cursor.append("Connection: close\r\n", &out)
      } else if toVersion10 {
        cursor.append("Connection: keep-alive\r\n", &out)
      }
    }
    cursor.append("\r\n", &out)
    return cursor.overflowed ? nil : cursor.count
  }

  /// Copies the fields that go on, neighbours in one piece.
  private borrowing func writeFields(
    _ bytes: Span<UInt8>, dropsOrigin: Bool, _ cursor: inout Cursor, _ out: inout MutableSpan<UInt8>
  ) {
    var run = Slice.empty
    // By span: indexing the inline array itself would copy all of it for each field.
    let fields = fields.span
    for index in 0..<fieldCount {
      let field = fields[index]
      let drops =
        field.known.isHopByHop || field.known == .host || (dropsOrigin && field.known == .origin)
        || (nominatesFields && isNominated(bytes, field))
      if drops {
        cursor.append(bytes, run, &out)
        run = .empty
      } else if run.isEmpty {
        run = field.line
      } else {
        run.count += field.line.count
      }
    }
    cursor.append(bytes, run, &out)
  }

  /// Whether a Connection field names this one (RFC 9110 §7.6.1). Framing and Host stay whatever Connection says.
  private borrowing func isNominated(_ bytes: Span<UInt8>, _ field: Field) -> Bool {
    if field.known == .contentLength || field.known == .transferEncoding { return false }
    let fields = fields.span
    for index in 0..<fieldCount where fields[index].known == .connection {
      var found = false
      bytes.forEachToken(in: fields[index].value) { token in
        guard token.count == field.name.count else { return }
        for offset in 0..<Int(token.count)
        where lowercase(bytes[token.lower + offset]) != lowercase(bytes[field.name.lower + offset]) { return }
        found = true
      }
      if found { return true }
    }
    return false
  }
}
