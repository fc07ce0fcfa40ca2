// Writes the head that goes on: hop-by-hop fields end here, Host and Origin are set as the pool needs it, what Berth
// and the route add comes last, everything else passes byte for byte in order. Called by the engine after HeadParser.

/// How a request's head is changed on its way to an instance.
package struct RequestChanges: Sendable, BitwiseCopyable {
  /// Bytes taken off the path's start (a route's prefix).
  package var stripped = 0
  /// Whether Origin ends here: Chrome refuses every origin that it was not told of.
  package var dropsOrigin = false
  /// Whether Authorization ends here: it held a key of Berth's own.
  package var dropsAuthorization = false
  /// A part of the query that ends here, see ``Head/tokenGap(_:)``.
  package var gap = Slice.empty
  /// Whether the WebSocket upgrade goes on.
  package var upgrades = false
  /// What the instance is told about the client.
  package var forwarding = Forwarding.untouched
  package init() {}
}

/// How a response's head is changed on its way to the client.
package struct ResponseChanges: Sendable, BitwiseCopyable {
  /// The client's connection ends after this response.
  package var closes = false
  /// The client speaks HTTP/1.0 and so must be told when its connection does not end.
  package var toVersion10 = false
  /// `Via: 1.1 berth`, which a gateway may send to clients (RFC 9110 §7.6.3).
  package var via = false
  package init() {}
}

extension Head {
  /// Writes this request for an instance.
  /// - Parameters:
  ///   - target: what the request line names instead of the client's target; empty = the client's, changed as
  ///     `changes` says.
  ///   - host: the Host that the instance sees; empty = the authority that the client named.
  ///   - prefix: stands before the path in the place of the bytes that `changes` strips; empty = nothing.
  ///   - client: the client's address as text, for `changes.forwarding`.
  ///   - requestID: the id of a request that brought none that is kept; empty = ids are not Berth's business.
  ///   - removed: names that go, made by ``HeaderLines/removed(_:)``. Removal comes first: a name that is removed and
  ///     added is replaced.
  ///   - added: lines that come, made by ``HeaderLines/added(_:)``.
  /// - Returns: bytes written, or nil when `out` is too small.
  package borrowing func writeRequest(
    _ bytes: Span<UInt8>, changes: RequestChanges, target: Span<UInt8>, host: Span<UInt8>,
    prefix: Span<UInt8> = Span(), client: Span<UInt8> = Span(), requestID: Span<UInt8> = Span(),
    removed: Span<UInt8> = Span(), added: Span<UInt8> = Span(), into out: inout MutableSpan<UInt8>
  ) -> Int? {
    var writer = ByteWriter()
    writer.append(bytes, method, &out)
    writer.append(0x20, &out)
    if target.isEmpty {
      writePath(bytes, stripped: changes.stripped, without: changes.gap, prefix: prefix, &writer, &out)
    } else {
      writer.append(target, &out)
    }
    writer.append(minorVersion == 1 ? " HTTP/1.1\r\n" : " HTTP/1.0\r\n", &out)
    // Only HTTP/1.0 does without; an empty Host would be refused by many.
    if minorVersion == 1 || !authority.isEmpty || !host.isEmpty {
      writer.append("Host: ", &out)
      if host.isEmpty { writer.append(bytes, authority, &out) } else { writer.append(host, &out) }
      writer.append("\r\n", &out)
    }
    var dropped = FieldSet.hopByHop.with(.host)
    if changes.dropsOrigin { dropped.insert(.origin) }
    if changes.dropsAuthorization { dropped.insert(.authorization) }
    dropped.formUnion(replacedFields(changes.forwarding))
    let writesID = !requestID.isEmpty && self.requestID(bytes, forwarding: changes.forwarding) == nil
    if writesID { dropped.insert(.xRequestID) }
    if maxForwards != nil { dropped.insert(.maxForwards) }
    writeFields(bytes, without: dropped, removed: removed, &writer, &out)
    if let maxForwards {
      writer.append("Max-Forwards: ", &out)
      writer.append(decimal: max(maxForwards - 1, 0), &out)
      writer.append("\r\n", &out)
    }
    writeForwarding(bytes, changes.forwarding, client: client, removed: removed, &writer, &out)
    if writesID, !HeaderLines.names(removed, "x-request-id") {
      writer.append("X-Request-ID: ", &out)
      writer.append(requestID, &out)
      writer.append("\r\n", &out)
    }
    if !added.isEmpty { writer.append(added, &out) }
    if changes.upgrades {
      writer.append("Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", &out)
    } else {
      writer.append("\r\n", &out)
    }
    return writer.result
  }

  /// Path and query in origin form, or `*` (RFC 9112 §3.2).
  @inline(__always) private borrowing func writePath(
    _ bytes: Span<UInt8>, stripped: Int, without gap: Slice, prefix: Span<UInt8>, _ writer: inout ByteWriter,
    _ out: inout MutableSpan<UInt8>
  ) {
    if isOptionsOfServer { return writer.append(UInt8(ascii: "*"), &out) }
    var start = min(path.lower + stripped, path.upper)
    if prefix.isEmpty {
      if start == path.upper || (stripped > 0 && bytes[start] != UInt8(ascii: "/")) {
        writer.append(UInt8(ascii: "/"), &out)
      }
    } else {
      writer.append(prefix, &out)
      // One slash between the two, and none more at the end than the prefix has.
      let closes = prefix[prefix.count - 1] == UInt8(ascii: "/")
      if start < path.upper {
        let opens = bytes[start] == UInt8(ascii: "/")
        if closes, opens { start += 1 }
        if !closes, !opens { writer.append(UInt8(ascii: "/"), &out) }
      }
    }
    let end = path.upper + Int(query.count)
    guard !gap.isEmpty else { return writer.append(bytes, Slice(start, end - start), &out) }
    writer.append(bytes, Slice(start, gap.lower - start), &out)
    writer.append(bytes, Slice(gap.upper, end - gap.upper), &out)
  }

  /// Writes this response for the client.
  /// - Parameters:
  ///   - date: the time of a response that brought none (RFC 9110 §6.6.1), see ``HTTPDate``; empty = none is added.
  ///   - setCookie: the value of a Set-Cookie field that comes; empty = none.
  ///   - removed, added: as for requests. Interim responses (1xx but 101) pass without them and without the cookie.
  /// - Returns: bytes written, or nil when `out` is too small.
  package borrowing func writeResponse(
    _ bytes: Span<UInt8>, changes: ResponseChanges, date: Span<UInt8> = Span(), setCookie: Span<UInt8> = Span(),
    removed: Span<UInt8> = Span(), added: Span<UInt8> = Span(), into out: inout MutableSpan<UInt8>
  ) -> Int? {
    var writer = ByteWriter()
    let isInterim = status < 200 && status != 101
    writer.append("HTTP/1.1 ", &out)
    writer.append(UInt8(0x30 + status / 100), &out)
    writer.append(UInt8(0x30 + status / 10 % 10), &out)
    writer.append(UInt8(0x30 + status % 10), &out)
    writer.append(0x20, &out)
    writer.append(bytes, reason, &out)
    writer.append("\r\n", &out)
    var dropped = FieldSet.hopByHop
    // These have no body, and nobody downstream may think otherwise (RFC 9110 §8.6, RFC 9112 §6.1).
    if status < 200 || status == 204 { dropped = dropped.with(.contentLength).with(.transferEncoding) }
    if changes.via { dropped.insert(.via) }
    writeFields(bytes, without: dropped, removed: isInterim ? Span() : removed, &writer, &out)
    if changes.via { writeVia(bytes, &writer, &out) }
    if status >= 200, !date.isEmpty, !names.contains(.date), !HeaderLines.names(removed, "date") {
      writer.append("Date: ", &out)
      writer.append(date, &out)
      writer.append("\r\n", &out)
    }
    if !isInterim {
      if !setCookie.isEmpty {
        writer.append("Set-Cookie: ", &out)
        writer.append(setCookie, &out)
        writer.append("\r\n", &out)
      }
      if !added.isEmpty { writer.append(added, &out) }
    }
    if status == 101 {
      writer.append("Connection: Upgrade\r\nUpgrade: websocket\r\n", &out)
    } else if status >= 200 {
      if changes.closes {
        writer.append("Connection: close\r\n", &out)
      } else if changes.toVersion10 {
        writer.append("Connection: keep-alive\r\n", &out)
      }
    }
    writer.append("\r\n", &out)
    return writer.result
  }

  /// Copies the fields that go on, neighbours in one piece.
  @inline(__always) private borrowing func writeFields(
    _ bytes: Span<UInt8>, without dropped: FieldSet, removed: Span<UInt8>, _ writer: inout ByteWriter,
    _ out: inout MutableSpan<UInt8>
  ) {
    let asks = nominatesFields || !removed.isEmpty
    var run = Slice.empty
    let fields = fields.span
    for index in 0..<fieldCount {
      let line = fields[index].line
      if dropped.contains(fields[index].known) || (asks && ends(bytes, fields[index], removed)) {
        writer.append(bytes, run, &out)
        run = .empty
      } else if run.isEmpty {
        run = line
      } else {
        run.count += line.count
      }
    }
    writer.append(bytes, run, &out)
  }

  @inline(never) private borrowing func ends(_ bytes: Span<UInt8>, _ field: Field, _ removed: Span<UInt8>) -> Bool {
    (nominatesFields && isNominated(bytes, field)) || HeaderLines.names(removed, bytes, field.name)
  }

  /// Whether a Connection field names this one (RFC 9110 §7.6.1). Framing stays whatever Connection says.
  borrowing func isNominated(_ bytes: Span<UInt8>, _ field: Field) -> Bool {
    guard nominatesFields, field.known != .contentLength, field.known != .transferEncoding else { return false }
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
