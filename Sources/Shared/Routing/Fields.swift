// Reads the fields of a record and says plainly what is wrong with one. Used by the records of this room, and by the
// settings of the control plane and routes files, which add the line.
package import JSON

/// Why a record is refused; the text names the record, the field and what it should be.
package struct RecordError: Error, Equatable, Sendable, CustomStringConvertible {
  package let description: String
  /// The field, with those around it, e.g. `["ejection", "errorPercent"]`; empty when it is about the whole record.
  package let field: [String]
  /// What is wrong, without the names of record and field, e.g. `must be true or false`.
  package let reason: String

  package init(_ description: String) {
    self.description = description
    field = []
    reason = description
  }

  package init(what: String, field: [String], reason: String) {
    description = field.isEmpty ? "\(what): \(reason)" : "\(what): \"\(field.joined(separator: "."))\" \(reason)"
    self.field = field
    self.reason = reason
  }
}

/// The fields of one record: every read checks type and range, ``finish()`` refuses what nobody asked for.
package struct Fields {
  private let object: JSONObject
  /// Names the record in errors, e.g. `pool "chrome"`.
  package let what: String
  /// The fields around this section.
  private let path: [String]
  /// Numbers and booleans are written as strings, as in YAML, where only the reader knows what a value is meant to be.
  private let isText: Bool
  private var known: Set<String> = []

  /// What was read so far.
  package var names: Set<String> { known }

  /// `what` names the record in errors, e.g. `pool "chrome"`.
  package init(_ json: JSON, of what: String, isText: Bool = false) throws(RecordError) {
    try self.init(json, of: what, path: [], isText: isText)
  }

  private init(_ json: JSON, of what: String, path: [String], isText: Bool) throws(RecordError) {
    guard case .object(let object) = json else {
      throw RecordError(
        what: what, field: path, reason: path.isEmpty ? "a JSON object was expected" : "must be an object")
    }
    self.object = object
    self.what = what
    self.path = path
    self.isText = isText
  }

  /// An error about one field.
  package func error(_ name: String, _ reason: String) -> RecordError {
    RecordError(what: what, field: path + [name], reason: reason)
  }

  private func wrong(_ name: String, _ expected: String) -> RecordError { error(name, "must be \(expected)") }

  package mutating func json(_ name: String) -> JSON? {
    known.insert(name)
    return switch object[name] {
    case .null?, nil: nil
    case let value?: value
    }
  }

  /// Fields within a field.
  package mutating func section(_ name: String) throws(RecordError) -> Fields? {
    guard let value = json(name) else { return nil }
    return try Fields(value, of: what, path: path + [name], isText: isText)
  }

  package mutating func optionalString(_ name: String) throws(RecordError) -> String? {
    guard let value = json(name) else { return nil }
    guard let text = value.string else { throw wrong(name, "a string") }
    return text
  }

  package mutating func string(_ name: String, or fallback: String? = nil) throws(RecordError) -> String {
    if let text = try optionalString(name) ?? fallback { return text }
    throw wrong(name, "a string, it is missing")
  }

  package mutating func bool(_ name: String, or fallback: Bool) throws(RecordError) -> Bool {
    try optionalBool(name) ?? fallback
  }

  package mutating func optionalBool(_ name: String) throws(RecordError) -> Bool? {
    guard let value = json(name) else { return nil }
    if let flag = value.bool { return flag }
    guard isText, let text = value.string, let flag = Self.flag(text) else { throw wrong(name, "true or false") }
    return flag
  }

  /// The words for true and false of configuration files and variables.
  package static func flag(_ text: String) -> Bool? {
    switch text.lowercased() {
    case "true", "yes", "1", "on": true
    case "false", "no", "0", "off": false
    default: nil
    }
  }

  package mutating func optionalInt(_ name: String, in range: ClosedRange<Int>) throws(RecordError) -> Int? {
    guard let value = json(name) else { return nil }
    guard let number = value.int ?? (isText ? value.string.flatMap { Int($0) } : nil), range.contains(number) else {
      throw wrong(name, "a whole number from \(range.lowerBound) to \(range.upperBound)")
    }
    return number
  }

  package mutating func int(_ name: String, in range: ClosedRange<Int>, or fallback: Int? = nil) throws(RecordError)
    -> Int
  {
    if let number = try optionalInt(name, in: range) ?? fallback { return number }
    throw wrong(name, "a whole number, it is missing")
  }

  package mutating func choice<Choice: RawRepresentable & CaseIterable>(_ name: String, or fallback: Choice?)
    throws(RecordError) -> Choice where Choice.RawValue == String
  {
    guard let text = try optionalString(name) else {
      guard let fallback else { throw wrong(name, "given, it is missing") }
      return fallback
    }
    guard let choice = Choice(rawValue: text) else {
      throw wrong(name, "one of \(Choice.allCases.map(\.rawValue).joined(separator: ", ")), not \"\(text)\"")
    }
    return choice
  }

  /// Text fields under one name, e.g. labels or metadata.
  package mutating func strings(_ name: String) throws(RecordError) -> [String: String] {
    guard let value = json(name) else { return [:] }
    guard let fields = value.object?.fields else { throw wrong(name, "an object of strings") }
    var result: [String: String] = [:]
    for field in fields {
      guard let text = field.value.string else {
        throw RecordError(what: what, field: path + [name, field.name], reason: "must be a string")
      }
      result[field.name] = text
    }
    return result
  }

  /// A list of strings under one name.
  package mutating func list(_ name: String) throws(RecordError) -> [String] {
    guard let value = json(name) else { return [] }
    guard let values = value.array else { throw wrong(name, "a list of strings") }
    var result: [String] = []
    for value in values {
      guard let text = value.string else { throw wrong(name, "a list of strings") }
      result.append(text)
    }
    return result
  }

  /// Refuses fields that no read asked for, so that a misspelt one is noticed.
  package func finish() throws(RecordError) {
    for field in object.fields where !known.contains(field.name) {
      let names = known.sorted().joined(separator: ", ")
      let full = (path + [field.name]).joined(separator: ".")
      throw RecordError(
        unknown: path + [field.name], description: "\(what): unknown field \"\(full)\"; known are \(names)",
        reason: "there is no such setting; known are \(names)")
    }
  }
}

extension RecordError {
  fileprivate init(unknown field: [String], description: String, reason: String) {
    self.description = description
    self.field = field
    self.reason = reason
  }
}

extension JSONObject {
  /// An object of strings, in the order of their names.
  init(sorting strings: [String: String]) {
    self.init()
    for (name, value) in strings.sorted(by: { $0.key < $1.key }) { self[name] = .string(value) }
  }

  /// Sets a field unless it has its default, so that records from before the field stay as they were.
  mutating func set(_ name: String, _ value: Int, unless fallback: Int) {
    if value != fallback { self[name] = .int(value) }
  }
  mutating func set(_ name: String, _ value: Bool, unless fallback: Bool) {
    if value != fallback { self[name] = .bool(value) }
  }
  mutating func set(_ name: String, _ value: String?) {
    if let value { self[name] = .string(value) }
  }
}
