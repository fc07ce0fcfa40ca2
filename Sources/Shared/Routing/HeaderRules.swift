// Header fields that a route adds to and removes from requests or responses, and what may be named there.
import JSON

/// Fields that are added and removed. Removal comes first, so that naming a field in both replaces it.
package struct HeaderRules: Sendable, Equatable {
  package struct Field: Sendable, Equatable {
    package var name: String
    package var value: String
    package init(name: String, value: String) {
      self.name = name
      self.value = value
    }
  }
  /// In the order in which they are written; a name may stand here more than once.
  package var add: [Field]
  package var remove: [String]

  package var isEmpty: Bool { add.isEmpty && remove.isEmpty }

  package init(add: [Field] = [], remove: [String] = []) {
    self.add = add
    self.remove = remove
  }

  /// Bytes that the added fields of one set of rules may take together: workers' buffers have room for them.
  package static let addedBytes = 4_096
  package static let removedFields = 64

  /// Fields that frame a message or belong to one connection (RFC 9110 §7.6.1, RFC 9112 §6), and Host, which chooses the
  /// route: Berth writes them, and a rule for one would break its messages.
  package static let reserved: Set<String> = [
    "connection", "content-length", "expect", "host", "http2-settings", "keep-alive", "proxy-connection", "te",
    "trailer", "transfer-encoding", "upgrade",
  ]

  /// Reads `{"add": [["X-A", "1"], …] or {"X-A": "1" or ["1", "2"]}, "remove": ["X-B", …]}`; `set` is written like `add`
  /// and means both: what was there goes, and these come.
  package init(_ fields: inout Fields) throws(RecordError) {
    self.init()
    let set = try Self.lines("set", &fields)
    add = try Self.lines("add", &fields) + set
    remove = try fields.list("remove")
    for name in set.map(\.name) where !remove.contains(where: { $0.lowercased() == name.lowercased() }) {
      remove.append(name)
    }
    try fields.finish()
    for (list, name) in add.map({ ("add", $0.name) }) + remove.map({ ("remove", $0) }) {
      guard isToken(name) else {
        throw fields.error(list, "names \"\(name)\", which is no header name; use letters, digits and -")
      }
      guard !Self.reserved.contains(name.lowercased()) else {
        throw fields.error(list, "must not name \(name), which Berth itself writes for every message")
      }
    }
    let bytes = add.reduce(0) { $0 + $1.name.utf8.count + $1.value.utf8.count + 4 }
    guard bytes <= Self.addedBytes else {
      throw fields.error("add", "must not take more than \(Self.addedBytes) bytes, and takes \(bytes)")
    }
    guard remove.count <= Self.removedFields else {
      throw fields.error("remove", "must not name more than \(Self.removedFields) fields, and names \(remove.count)")
    }
  }

  /// The fields of `add` or `set`.
  private static func lines(_ key: String, _ fields: inout Fields) throws(RecordError) -> [Field] {
    let form = "must be a list of pairs, name and value, or an object of values by name"
    func field(_ name: String, _ value: JSON) throws(RecordError) -> Field {
      guard let text = value.string else { throw fields.error(key, "must have a string for \"\(name)\"") }
      guard Self.isValue(text) else {
        throw fields.error(
          key, "has a value for \"\(name)\" that no header can have; take line breaks and spaces at its ends out")
      }
      return Field(name: name, value: text)
    }
    var lines: [Field] = []
    switch fields.json(key) {
    case nil: break
    case .object(let object)?:
      for (name, value) in object.fields {
        for value in value.array ?? [value] { lines.append(try field(name, value)) }
      }
    case .array(let pairs)?:
      for pair in pairs {
        guard let words = pair.array, words.count == 2, let name = words[0].string else {
          throw fields.error(key, form)
        }
        lines.append(try field(name, words[1]))
      }
    default: throw fields.error(key, form)
    }
    return lines
  }

  var json: JSON {
    var object = JSONObject()
    if !add.isEmpty { object["add"] = .array(add.map { .array([.string($0.name), .string($0.value)]) }) }
    if !remove.isEmpty { object["remove"] = .array(remove.map { .string($0) }) }
    return .object(object)
  }

  /// field-value of RFC 9110 §5.5: no control characters but HTAB inside, no white space at its ends.
  private static func isValue(_ text: String) -> Bool {
    let bytes = text.utf8
    func isSpace(_ byte: UInt8?) -> Bool { byte == 0x20 || byte == 0x09 }
    return bytes.allSatisfy { $0 >= 0x20 ? $0 != 0x7F : $0 == 0x09 } && !isSpace(bytes.first) && !isSpace(bytes.last)
  }
}

/// token of RFC 9110 §5.6.2: what header and cookie names are made of.
package func isToken(_ text: String) -> Bool {
  guard (1...128).contains(text.utf8.count) else { return false }
  return text.utf8.allSatisfy { byte in
    switch byte {
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
      UInt8(ascii: "0")...UInt8(ascii: "9"):
      true
    default: "!#$%&'*+-.^_`|~".utf8.contains(byte)
    }
  }
}
