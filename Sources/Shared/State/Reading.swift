// Takes answers of Redis apart; used by every command of this room. An answer of another shape is a ``StateError``
// that says what was asked and what came.

/// One entry of a stream, as XRANGE, XREVRANGE and XREAD give it.
package struct StreamEntry: Sendable, Equatable {
  /// `<Unix ms>-<sequence>`.
  package let id: String
  package let fields: [String: String]
  package init(id: String, fields: [String: String]) {
    self.id = id
    self.fields = fields
  }
}

extension Reply {
  /// Bytes or status as text; nil for everything else. What is not UTF-8 is repaired with U+FFFD.
  package var text: String? {
    switch self {
    case .string(let bytes): String(decoding: bytes, as: UTF8.self)
    case .status(let text): text
    default: nil
    }
  }

  private func unexpected(_ what: String, _ wanted: String) -> StateError {
    let came =
      switch self {
      case .null: "nothing"
      case .int(let value): "the number \(value)"
      case .string, .status: "the text \"\(String((text ?? "").prefix(80)))\""
      case .error(let message): "the error \"\(message)\""
      case .array(let values): "a list of \(values.count)"
      }
    return StateError("\(what): \(wanted) was expected from Redis, \(came) came")
  }

  package func string(of what: String) throws(StateError) -> String {
    guard let text else { throw unexpected(what, "text") }
    return text
  }

  /// An integer, also when it comes as text: scores of sorted sets do, and may be written like `1.7e+12`.
  package func int(of what: String) throws(StateError) -> Int {
    if case .int(let value) = self { return value }
    if let text, let value = Int(text) ?? Double(text).flatMap({ Int(exactly: $0.rounded()) }) { return value }
    throw unexpected(what, "a whole number")
  }

  package func list(of what: String) throws(StateError) -> [Reply] {
    guard case .array(let values) = self else { throw unexpected(what, "a list") }
    return values
  }

  package func list(of what: String, count: Int) throws(StateError) -> [Reply] {
    let values = try list(of: what)
    guard values.count == count else { throw unexpected(what, "a list of \(count)") }
    return values
  }

  package func strings(of what: String) throws(StateError) -> [String] {
    var result: [String] = []
    for value in try list(of: what) { result.append(try value.string(of: what)) }
    return result
  }

  /// A flat list of names and values, as HGETALL and WITHSCORES give it, in its order.
  package func pairs(of what: String) throws(StateError) -> [(name: String, value: Reply)] {
    let values = try list(of: what)
    guard values.count.isMultiple(of: 2) else { throw unexpected(what, "a list of names and values") }
    var result: [(name: String, value: Reply)] = []
    for index in stride(from: 0, to: values.count, by: 2) {
      result.append((try values[index].string(of: what), values[index + 1]))
    }
    return result
  }

  /// Entries of one stream.
  package func streamEntries(of what: String) throws(StateError) -> [StreamEntry] {
    var entries: [StreamEntry] = []
    for value in try list(of: what) {
      let parts = try value.list(of: what, count: 2)
      var fields: [String: String] = [:]
      for (name, value) in try parts[1].pairs(of: what) { fields[name] = try value.string(of: what) }
      entries.append(StreamEntry(id: try parts[0].string(of: what), fields: fields))
    }
    return entries
  }
}

/// The usual readings of an answer, as the closures that a ``Command`` takes.
enum Read {
  static func nothing() -> @Sendable (Reply) throws(StateError) -> Void {
    { (_: Reply) throws(StateError) -> Void in }
  }
  static func int(_ what: String) -> @Sendable (Reply) throws(StateError) -> Int {
    { (reply: Reply) throws(StateError) -> Int in try reply.int(of: what) }
  }
  static func bool(_ what: String) -> @Sendable (Reply) throws(StateError) -> Bool {
    { (reply: Reply) throws(StateError) -> Bool in try reply.int(of: what) == 1 }
  }
  static func strings(_ what: String) -> @Sendable (Reply) throws(StateError) -> [String] {
    { (reply: Reply) throws(StateError) -> [String] in try reply.strings(of: what) }
  }
  static func optionalString(_ what: String) -> @Sendable (Reply) throws(StateError) -> String? {
    { (reply: Reply) throws(StateError) -> String? in
      if case .null = reply { return nil }
      return try reply.string(of: what)
    }
  }
  static func optionalInt(_ what: String) -> @Sendable (Reply) throws(StateError) -> Int? {
    { (reply: Reply) throws(StateError) -> Int? in
      if case .null = reply { return nil }
      return try reply.int(of: what)
    }
  }
}
