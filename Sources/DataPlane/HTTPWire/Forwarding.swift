// What Berth tells an instance about the client and itself: X-Forwarded-*, Forwarded (RFC 7239), Via (RFC 9110 §7.6.3)
// and the request's id. Written behind the client's own fields by HeadWriter.

/// How a request's origin is told on.
package struct Forwarding: Sendable, Equatable, BitwiseCopyable {
  /// The peer is a listed proxy: what it says of the client is kept and added to. Of anybody else it is dropped.
  package var trustsPeer = false
  /// The client's connection is TLS.
  package var isSecure = false
  /// X-Forwarded-For, X-Forwarded-Proto and X-Forwarded-Host. A trusted peer's -For is added to; its -Proto and -Host
  /// stay, because they tell what the client itself used.
  package var xForwarded = true
  /// `Forwarded: for=…;host=…;proto=…`.
  package var forwarded = false
  /// `Via: 1.1 berth`, which a gateway has to send (RFC 9110 §7.6.3).
  package var via = true

  package init() {}

  /// Nothing is added and nothing is dropped.
  package static var untouched: Forwarding {
    var forwarding = Forwarding()
    forwarding.trustsPeer = true
    forwarding.xForwarded = false
    forwarding.via = false
    return forwarding
  }
}

extension Head {
  /// Fields that a request loses because of `forwarding`: claims of somebody not trusted, and lists that are written
  /// anew with an element added.
  @inline(__always) borrowing func replacedFields(_ forwarding: Forwarding) -> FieldSet {
    var set = FieldSet()
    if !forwarding.trustsPeer {
      set.formUnion(.claims)
    } else {
      if forwarding.xForwarded { set.insert(.xForwardedFor) }
      if forwarding.forwarded { set.insert(.forwarded) }
    }
    if forwarding.via { set.insert(.via) }
    return set
  }

  /// The id that a trusted peer gave the request, when it is one: a single field of 1 to 128 letters, digits and
  /// `-._~+/=:@`. Everything else is replaced, as ids go into logs and other systems as they are.
  package borrowing func requestID(_ bytes: Span<UInt8>, forwarding: Forwarding) -> Slice? {
    guard forwarding.trustsPeer, names.contains(.xRequestID) else { return nil }
    let fields = fields.span
    var found: Slice?
    for index in 0..<fieldCount where fields[index].known == .xRequestID {
      guard found == nil, !isNominated(bytes, fields[index]) else { return nil }
      found = fields[index].value
    }
    guard let id = found, (1...128).contains(id.count) else { return nil }
    for index in id.lower..<id.upper where !isIdentifierCharacter(bytes[index]) { return nil }
    return id
  }

  /// Writes the fields that `forwarding` asks for.
  /// - Parameters:
  ///   - client: the client's address as text, without brackets.
  ///   - removed: names that the route removes, ours among them.
  @inline(__always) borrowing func writeForwarding(
    _ bytes: Span<UInt8>, _ forwarding: Forwarding, client: Span<UInt8>, removed: Span<UInt8>,
    _ writer: inout ByteWriter, _ out: inout MutableSpan<UInt8>
  ) {
    if forwarding.trustsPeer || !removed.isEmpty {
      return writeForwardingSlowly(bytes, forwarding, client: client, removed: removed, &writer, &out)
    }
    if forwarding.xForwarded {
      writer.append("X-Forwarded-For: ", &out)
      writer.append(client, &out)
      if forwarding.isSecure {
        writer.append("\r\nX-Forwarded-Proto: https\r\n", &out)
      } else {
        writer.append("\r\nX-Forwarded-Proto: http\r\n", &out)
      }
      if !authority.isEmpty {
        writer.append("X-Forwarded-Host: ", &out)
        writer.append(bytes, authority, &out)
        writer.append("\r\n", &out)
      }
    }
    if forwarding.forwarded { writeForwarded(bytes, forwarding, client: client, &writer, &out) }
    if forwarding.via { writeVia(bytes, &writer, &out) }
  }

  /// The same where a proxy stands before Berth or a route removes some of it.
  @inline(never) private borrowing func writeForwardingSlowly(
    _ bytes: Span<UInt8>, _ forwarding: Forwarding, client: Span<UInt8>, removed: Span<UInt8>,
    _ writer: inout ByteWriter, _ out: inout MutableSpan<UInt8>
  ) {
    if forwarding.xForwarded {
      if !HeaderLines.names(removed, "x-forwarded-for") {
        writer.append("X-Forwarded-For: ", &out)
        if forwarding.trustsPeer { writeElements(bytes, of: .xForwardedFor, &writer, &out) }
        writer.append(client, &out)
        writer.append("\r\n", &out)
      }
      let keepsProto = forwarding.trustsPeer && passes(.xForwardedProto, bytes)
      if !keepsProto, !HeaderLines.names(removed, "x-forwarded-proto") {
        writer.append(
          forwarding.isSecure ? "X-Forwarded-Proto: https\r\n" : "X-Forwarded-Proto: http\r\n", &out)
      }
      let keepsHost = forwarding.trustsPeer && passes(.xForwardedHost, bytes)
      if !keepsHost, !authority.isEmpty, !HeaderLines.names(removed, "x-forwarded-host") {
        writer.append("X-Forwarded-Host: ", &out)
        writer.append(bytes, authority, &out)
        writer.append("\r\n", &out)
      }
    }
    if forwarding.forwarded, !HeaderLines.names(removed, "forwarded") {
      writeForwarded(bytes, forwarding, client: client, &writer, &out)
    }
    if forwarding.via, !HeaderLines.names(removed, "via") { writeVia(bytes, &writer, &out) }
  }

  /// An element of RFC 7239 §4. Whatever is no token stands in quotes, an IPv6 address in brackets as well (§6).
  private borrowing func writeForwarded(
    _ bytes: Span<UInt8>, _ forwarding: Forwarding, client: Span<UInt8>, _ writer: inout ByteWriter,
    _ out: inout MutableSpan<UInt8>
  ) {
    writer.append("Forwarded: ", &out)
    if forwarding.trustsPeer { writeElements(bytes, of: .forwarded, &writer, &out) }
    var isIPv6 = false
    for index in 0..<client.count where client[index] == UInt8(ascii: ":") { isIPv6 = true }
    writer.append(isIPv6 ? "for=\"[" : "for=", &out)
    writer.append(client, &out)
    if isIPv6 { writer.append("]\"", &out) }
    if !authority.isEmpty {
      var isToken = true
      for index in authority.lower..<authority.upper where !isTokenCharacter(bytes[index]) { isToken = false }
      writer.append(isToken ? ";host=" : ";host=\"", &out)
      writer.append(bytes, authority, &out)
      if !isToken { writer.append(UInt8(ascii: "\""), &out) }
    }
    writer.append(forwarding.isSecure ? ";proto=https\r\n" : ";proto=http\r\n", &out)
  }

  /// Names the version that the message came in (RFC 9110 §7.6.3).
  @inline(__always) borrowing func writeVia(
    _ bytes: Span<UInt8>, _ writer: inout ByteWriter, _ out: inout MutableSpan<UInt8>
  ) {
    if names.contains(.via) {
      writer.append("Via: ", &out)
      writeElements(bytes, of: .via, &writer, &out)
      writer.append(minorVersion == 1 ? "1.1 berth\r\n" : "1.0 berth\r\n", &out)
    } else if minorVersion == 1 {
      writer.append("Via: 1.1 berth\r\n", &out)
    } else {
      writer.append("Via: 1.0 berth\r\n", &out)
    }
  }

  /// The values of all fields of a name as one list, each with a comma behind it (RFC 9110 §5.3).
  private borrowing func writeElements(
    _ bytes: Span<UInt8>, of name: FieldName, _ writer: inout ByteWriter, _ out: inout MutableSpan<UInt8>
  ) {
    guard names.contains(name) else { return }
    let fields = fields.span
    for index in 0..<fieldCount where fields[index].known == name && !fields[index].value.isEmpty {
      if nominatesFields, isNominated(bytes, fields[index]) { continue }
      writer.append(bytes, fields[index].value, &out)
      writer.append(", ", &out)
    }
  }

  /// Whether a field of this name goes on.
  private borrowing func passes(_ name: FieldName, _ bytes: Span<UInt8>) -> Bool {
    guard names.contains(name) else { return false }
    let fields = fields.span
    for index in 0..<fieldCount where fields[index].known == name {
      return !(nominatesFields && isNominated(bytes, fields[index]))
    }
    return false
  }
}

/// What an id of a request may be made of.
private func isIdentifierCharacter(_ byte: UInt8) -> Bool {
  if isDigit(byte) || lowercase(byte) &- 0x61 < 26 { return true }
  switch byte {
  case UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "~"), UInt8(ascii: "+"),
    UInt8(ascii: "/"), UInt8(ascii: "="), UInt8(ascii: ":"), UInt8(ascii: "@"):
    return true
  default: return false
  }
}
