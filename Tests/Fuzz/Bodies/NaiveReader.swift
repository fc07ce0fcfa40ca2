// A second reader of heads that knows docs/http.md only: lines, words and lists instead of one pass over bytes. Slow and
// plain, so that a fault in HeadParser is hardly repeated here. Limits of size are not its business.
import HTTPWire

struct NaiveReader {
  let kind: MessageKind
  let bytes: [UInt8]

  private static let actedOn: Set<String> = [
    "keep-alive", "max-forwards", "content-length", "http2-settings", "proxy-connection", "transfer-encoding",
    "x-real-ip", "x-request-id",
  ]

  /// The head, or nil when it is not complete or to be refused.
  func read() -> ReadHead? {
    var start = 0
    if kind == .request {
      while start < 8, bytes.dropFirst(start).starts(with: [13, 10]) { start += 2 }
    }
    guard
      let end = (start..<max(start, bytes.count - 3)).first(where: { Array(bytes[$0..<$0 + 4]) == [13, 10, 13, 10] })
    else { return nil }
    let lines = split(Array(bytes[start..<end]))
    for line in lines where line.contains(where: { ($0 < 32 && $0 != 9) || $0 == 127 }) { return nil }
    guard lines.count - 1 <= 128 else { return nil }
    var fields: [(name: [UInt8], value: [UInt8])] = []
    for line in lines.dropFirst() {
      guard let colon = line.firstIndex(of: 58), colon > 0, line[..<colon].allSatisfy(isToken) else { return nil }
      fields.append((Array(line[..<colon]), trimmed(line[(colon + 1)...])))
    }
    var head = ReadHead(
      byteCount: end + 4, start: [], authority: [], minorVersion: 1, framing: .none, keepsAlive: true, upgrade: .none,
      names: fields.map(\.name), values: fields.map(\.value))
    let taken = kind == .request ? requestLine(lines[0], &head) : statusLine(lines[0], &head)
    guard taken, facts(fields, &head) else { return nil }
    return head
  }

  private func split(_ text: [UInt8]) -> [[UInt8]] {
    var lines: [[UInt8]] = [[]]
    var index = 0
    while index < text.count {
      if text[index] == 13, index + 1 < text.count, text[index + 1] == 10 {
        lines.append([])
        index += 2
      } else {
        lines[lines.count - 1].append(text[index])
        index += 1
      }
    }
    return lines
  }

  private func requestLine(_ line: [UInt8], _ head: inout ReadHead) -> Bool {
    let words = line.split(separator: 32, omittingEmptySubsequences: false).map { Array($0) }
    guard words.count == 3, (1...32).contains(words[0].count), words[0].allSatisfy(isToken) else { return false }
    switch text(words[2]) {
    case "HTTP/1.1": head.minorVersion = 1
    case "HTTP/1.0": head.minorVersion = 0
    default: return false
    }
    guard !["connect", "trace"].contains(text(words[0]).lowercased()) else { return false }
    var target = words[1]
    guard !target.isEmpty, target.allSatisfy({ $0 > 32 && $0 < 127 }) else { return false }
    if target == [42] {
      head.start = [words[0], target, []]
      return text(words[0]) == "OPTIONS"
    }
    if target[0] != 47 {
      let schemes = ["http://", "https://", "ws://", "wss://"]
      guard let scheme = schemes.first(where: { text(target).lowercased().hasPrefix($0) }) else { return false }
      target.removeFirst(scheme.count)
      head.authority = Array(target.prefix { $0 != 47 && $0 != 63 })
      target.removeFirst(head.authority.count)
      guard !head.authority.isEmpty, isAuthority(head.authority) else { return false }
    }
    guard !target.contains(35) else { return false }
    let path = Array(target.prefix { $0 != 63 })
    for segment in path.split(separator: 47, omittingEmptySubsequences: false) {
      let decoded = text(Array(segment)).lowercased().replacing("%2e", with: ".")
      if decoded == "." || decoded == ".." { return false }
    }
    head.start = [words[0], path, Array(target.dropFirst(path.count))]
    return true
  }

  private func statusLine(_ line: [UInt8], _ head: inout ReadHead) -> Bool {
    let begin = text(Array(line.prefix(9)))
    guard begin == "HTTP/1.1 " || begin == "HTTP/1.0 " else { return false }
    head.minorVersion = begin == "HTTP/1.1 " ? 1 : 0
    let digits = Array(line.dropFirst(9).prefix(3))
    guard digits.count == 3, digits.allSatisfy({ (48...57).contains($0) }), (49...53).contains(digits[0]) else {
      return false
    }
    let rest = line.dropFirst(12)
    guard rest.isEmpty || rest.first == 32 else { return false }
    head.start = [digits, Array(rest.dropFirst())]
    return true
  }

  /// What the fields say of the message.
  private func facts(_ fields: [(name: [UInt8], value: [UInt8])], _ head: inout ReadHead) -> Bool {
    func values(_ name: String) -> [[UInt8]] {
      fields.filter { text($0.name).lowercased() == name }.map(\.value)
    }
    if kind == .request {
      for field in fields where field.name.contains(95) {
        let name = text(field.name).lowercased().replacing("_", with: "-")
        if Self.actedOn.contains(name) || (name.hasPrefix("x-forwarded-") && name.count > 12) { return false }
      }
    }
    let lengths = values("content-length")
    let codings = values("transfer-encoding")
    guard lengths.count + codings.count <= 1 else { return false }
    if let length = lengths.first {
      guard (1...18).contains(length.count), length.allSatisfy({ (48...57).contains($0) }) else { return false }
    }
    if let coding = codings.first {
      guard text(coding).lowercased() == "chunked", head.minorVersion == 1 else { return false }
    }
    let options = values("connection").flatMap { value in
      value.split(separator: 44).map { text(trimmed($0)).lowercased() }
    }
    head.keepsAlive = !options.contains("close") && (head.minorVersion == 1 || options.contains("keep-alive"))
    let upgrades = values("upgrade").map { text($0).lowercased() }
    if head.minorVersion == 1, options.contains("upgrade"), !upgrades.isEmpty {
      head.upgrade = upgrades == ["websocket"] ? .webSocket : .other
    }
    let length = lengths.first.flatMap { UInt64(text($0)) }
    head.framing = codings.isEmpty ? length.map { $0 == 0 ? .none : .length($0) } ?? .none : .chunked
    return kind == .request ? requestFacts(values, &head) : responseFacts(hasLength: length != nil, &head)
  }

  private func requestFacts(_ values: (String) -> [[UInt8]], _ head: inout ReadHead) -> Bool {
    let hosts = values("host")
    guard hosts.count == 1 || (hosts.isEmpty && head.minorVersion == 0) else { return false }
    if let host = hosts.first {
      guard host.isEmpty || isAuthority(host) else { return false }
      if head.authority.isEmpty { head.authority = host }
    }
    guard values("expect").allSatisfy({ text($0).lowercased() == "100-continue" }) else { return false }
    if text(head.start[0]) == "OPTIONS" {
      let counts = values("max-forwards")
      guard counts.count <= 1 else { return false }
      if let count = counts.first {
        guard (1...18).contains(count.count), count.allSatisfy({ (48...57).contains($0) }) else { return false }
      }
    }
    return head.upgrade != .webSocket || (text(head.start[0]) == "GET" && head.framing == .none)
  }

  private func responseFacts(hasLength: Bool, _ head: inout ReadHead) -> Bool {
    let status = Int(text(head.start[0])) ?? 0
    if status < 200 || status == 204 || status == 304 {
      head.framing = .none
    } else if head.framing == .none, !hasLength {
      head.framing = .untilClose
      head.keepsAlive = false
    }
    return true
  }

  private func isAuthority(_ value: [UInt8]) -> Bool {
    var host = value[...]
    if let colon = value.lastIndex(of: 58), value.last != 93 {
      let port = value[(colon + 1)...]
      guard port.count <= 5, port.allSatisfy({ (48...57).contains($0) }) else { return false }
      guard port.reduce(0, { $0 * 10 + Int($1 - 48) }) <= 65_535 else { return false }
      host = value[..<colon]
    }
    if host.first == 91 {
      guard host.last == 93, host.count > 2 else { return false }
      return host.dropFirst().dropLast().allSatisfy { "0123456789abcdefABCDEF:.".utf8.contains($0) }
    }
    let letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~"
    return !host.isEmpty && host.allSatisfy { letters.utf8.contains($0) }
  }

  private func isToken(_ byte: UInt8) -> Bool {
    "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ".utf8.contains(byte)
  }

  private func trimmed(_ value: ArraySlice<UInt8>) -> [UInt8] {
    var rest = value
    while let first = rest.first, first == 32 || first == 9 { rest.removeFirst() }
    while let last = rest.last, last == 32 || last == 9 { rest.removeLast() }
    return Array(rest)
  }

  /// Latin-1, so that no byte is lost or merged with another.
  private func text(_ bytes: [UInt8]) -> String {
    String(String.UnicodeScalarView(bytes.map { Unicode.Scalar($0) }))
  }
}
