// A JSON value that keeps the order of fields and the text of numbers (RFC 8259), for both planes: records in
// Redis, REST bodies, and Chrome's /json answers, which are changed field by field and must otherwise stay as they were.
// The data plane has no Foundation, so this is the one codec of both planes.

/// A JSON value (RFC 8259). Objects keep the order of their fields; numbers keep their text.
package enum JSON: Sendable, Equatable {
  case null
  case bool(Bool)
  /// A number as it was written; see ``int`` and ``double``.
  case number(String)
  case string(String)
  case array([JSON])
  case object(JSONObject)
}

/// The fields of a JSON object, in order. Names are unique: the parser refuses a second field of one name.
package struct JSONObject: Sendable, Equatable, ExpressibleByDictionaryLiteral {
  package private(set) var fields: [(name: String, value: JSON)]

  package init() { fields = [] }

  package init(dictionaryLiteral elements: (String, JSON)...) {
    fields = []
    for (name, value) in elements { self[name] = value }
  }

  /// The value of a field; setting nil removes the field, setting a new one appends it.
  package subscript(name: String) -> JSON? {
    get { fields.first { $0.name == name }?.value }
    set {
      let index = fields.firstIndex { $0.name == name }
      switch (index, newValue) {
      case (let index?, let value?): fields[index].value = value
      case (let index?, nil): fields.remove(at: index)
      case (nil, let value?): fields.append((name, value))
      case (nil, nil): break
      }
    }
  }

  /// Appends a field whose name the caller knows to be new.
  package mutating func append(_ name: String, _ value: JSON) { fields.append((name, value)) }

  package static func == (a: JSONObject, b: JSONObject) -> Bool {
    a.fields.count == b.fields.count && a.fields.allSatisfy { b[$0.name] == $0.value }
  }
}

extension JSON {
  package static func int(_ value: Int) -> JSON { .number(String(value)) }
  package static func double(_ value: Double) -> JSON { value.isFinite ? .number(value.description) : .null }

  package var string: String? { if case .string(let value) = self { value } else { nil } }
  package var bool: Bool? { if case .bool(let value) = self { value } else { nil } }
  package var array: [JSON]? { if case .array(let value) = self { value } else { nil } }
  package var object: JSONObject? { if case .object(let value) = self { value } else { nil } }
  package var double: Double? { if case .number(let text) = self { Double(text) } else { nil } }
  /// The number as an integer, also when it is written as `1e3` or `5.0`; nil when it has a fraction or does not fit.
  package var int: Int? {
    guard case .number(let text) = self else { return nil }
    return Int(text) ?? Double(text).flatMap { Int(exactly: $0) }
  }
  /// A field of an object; nil for every other value.
  package subscript(name: String) -> JSON? { object?[name] }
}

extension JSON: ExpressibleByStringLiteral, ExpressibleByIntegerLiteral, ExpressibleByBooleanLiteral,
  ExpressibleByArrayLiteral, ExpressibleByDictionaryLiteral
{
  package init(stringLiteral value: String) { self = .string(value) }
  package init(integerLiteral value: Int) { self = .int(value) }
  package init(booleanLiteral value: Bool) { self = .bool(value) }
  package init(arrayLiteral elements: JSON...) { self = .array(elements) }
  package init(dictionaryLiteral elements: (String, JSON)...) {
    var object = JSONObject()
    for (name, value) in elements { object[name] = value }
    self = .object(object)
  }
}

extension JSON {
  /// The compact text: no white space, `"`, `\` and control characters escaped, everything else as UTF-8.
  package var text: String { String(decoding: bytes, as: UTF8.self) }

  /// The compact text as UTF-8.
  package var bytes: [UInt8] {
    var out: [UInt8] = []
    write(to: &out)
    return out
  }

  package func write(to out: inout [UInt8]) {
    switch self {
    case .null: out.append(contentsOf: "null".utf8)
    case .bool(let value): out.append(contentsOf: (value ? "true" : "false").utf8)
    case .number(let text): out.append(contentsOf: text.utf8)
    case .string(let value): JSON.write(string: value, to: &out)
    case .array(let values):
      out.append(UInt8(ascii: "["))
      for (index, value) in values.enumerated() {
        if index > 0 { out.append(UInt8(ascii: ",")) }
        value.write(to: &out)
      }
      out.append(UInt8(ascii: "]"))
    case .object(let object):
      out.append(UInt8(ascii: "{"))
      for (index, field) in object.fields.enumerated() {
        if index > 0 { out.append(UInt8(ascii: ",")) }
        JSON.write(string: field.name, to: &out)
        out.append(UInt8(ascii: ":"))
        field.value.write(to: &out)
      }
      out.append(UInt8(ascii: "}"))
    }
  }

  private static func write(string: String, to out: inout [UInt8]) {
    let hex = Array("0123456789abcdef".utf8)
    out.append(UInt8(ascii: "\""))
    for byte in string.utf8 {
      switch byte {
      case UInt8(ascii: "\""), UInt8(ascii: "\\"):
        out.append(UInt8(ascii: "\\"))
        out.append(byte)
      case UInt8(ascii: "\n"): out.append(contentsOf: "\\n".utf8)
      case UInt8(ascii: "\r"): out.append(contentsOf: "\\r".utf8)
      case UInt8(ascii: "\t"): out.append(contentsOf: "\\t".utf8)
      case 0..<0x20, 0x7F:
        out.append(contentsOf: "\\u00".utf8)
        out.append(hex[Int(byte >> 4)])
        out.append(hex[Int(byte & 15)])
      default: out.append(byte)
      }
    }
    out.append(UInt8(ascii: "\""))
  }
}
