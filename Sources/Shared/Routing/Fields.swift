// Reads the fields of a record and says plainly what is wrong with one. Used by the records of this room only.
package import JSON

/// Why a record is refused; the text names the record, the field and what it should be.
package struct RecordError: Error, Equatable, Sendable, CustomStringConvertible {
  package let description: String
  package init(_ description: String) { self.description = description }
}

/// The fields of one record: every read checks type and range, ``finish()`` refuses what nobody asked for.
package struct Fields {
  private let object: JSONObject
  private let what: String
  private var known: Set<String> = []

  /// `what` names the record in errors, e.g. `pool "chrome"`.
  package init(_ json: JSON, of what: String) throws(RecordError) {
    guard case .object(let object) = json else { throw RecordError("\(what): a JSON object was expected") }
    self.object = object
    self.what = what
  }

  private func wrong(_ name: String, _ expected: String) -> RecordError {
    RecordError("\(what): \"\(name)\" must be \(expected)")
  }

  package mutating func json(_ name: String) -> JSON? {
    known.insert(name)
    return switch object[name] {
    case .null?, nil: nil
    case let value?: value
    }
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
    guard let value = json(name) else { return fallback }
    guard let flag = value.bool else { throw wrong(name, "true or false") }
    return flag
  }

  package mutating func int(_ name: String, in range: ClosedRange<Int>, or fallback: Int? = nil) throws(RecordError)
    -> Int
  {
    guard let value = json(name) else {
      guard let fallback else { throw wrong(name, "a whole number, it is missing") }
      return fallback
    }
    guard let number = value.int, range.contains(number) else {
      throw wrong(name, "a whole number from \(range.lowerBound) to \(range.upperBound)")
    }
    return number
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
      guard let text = field.value.string else { throw wrong("\(name).\(field.name)", "a string") }
      result[field.name] = text
    }
    return result
  }

  /// Refuses fields that no read asked for, so that a misspelt one is noticed.
  package func finish() throws(RecordError) {
    for field in object.fields where !known.contains(field.name) {
      throw RecordError(
        "\(what): unknown field \"\(field.name)\"; known are \(known.sorted().joined(separator: ", "))")
    }
  }
}

extension JSONObject {
  /// An object of strings, in the order of their names.
  init(sorting strings: [String: String]) {
    self.init()
    for (name, value) in strings.sorted(by: { $0.key < $1.key }) { self[name] = .string(value) }
  }
}
