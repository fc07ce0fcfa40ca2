// The strict reader of RFC 8259 text. Called for REST bodies, route files, records from Redis and Chrome's answers.

/// Why a text is not JSON, and where (1-based line and column, column in bytes).
package struct JSONError: Error, Equatable, Sendable, CustomStringConvertible {
  package let message: String
  package let line: Int
  package let column: Int
  package var description: String { "line \(line), column \(column): \(message)" }
}

extension JSON {
  /// Nesting deeper than this is refused: the parser recurses.
  package static let maximumDepth = 128

  /// Parses one JSON value; anything but white space after it, a duplicate field name, invalid UTF-8 or a lone
  /// surrogate is an error.
  package init(parsing bytes: [UInt8]) throws(JSONError) {
    var parser = JSONParser(bytes: bytes)
    self = try parser.document()
  }

  package init(parsing text: String) throws(JSONError) { try self.init(parsing: Array(text.utf8)) }
}

private struct JSONParser {
  let bytes: [UInt8]
  var position = 0

  init(bytes: [UInt8]) { self.bytes = bytes }

  mutating func document() throws(JSONError) -> JSON {
    let value = try value(depth: 0)
    skipWhiteSpace()
    guard position == bytes.count else { throw error("unexpected text after the value") }
    return value
  }

  private func error(_ message: String, at offset: Int? = nil) -> JSONError {
    var line = 1
    var column = 1
    for byte in bytes.prefix(offset ?? position) {
      if byte == UInt8(ascii: "\n") {
        line += 1
        column = 1
      } else {
        column += 1
      }
    }
    return JSONError(message: message, line: line, column: column)
  }

  private var next: UInt8? { position < bytes.count ? bytes[position] : nil }

  private mutating func skipWhiteSpace() {
    while let byte = next, byte == 0x20 || byte == 0x0A || byte == 0x0D || byte == 0x09 { position += 1 }
  }

  private mutating func value(depth: Int) throws(JSONError) -> JSON {
    guard depth < JSON.maximumDepth else { throw error("nested deeper than \(JSON.maximumDepth) levels") }
    skipWhiteSpace()
    guard let byte = next else { throw error("unexpected end, a value was expected") }
    switch byte {
    case UInt8(ascii: "{"): return .object(try object(depth: depth))
    case UInt8(ascii: "["): return .array(try array(depth: depth))
    case UInt8(ascii: "\""): return .string(try string())
    case UInt8(ascii: "t"): return try word("true", .bool(true))
    case UInt8(ascii: "f"): return try word("false", .bool(false))
    case UInt8(ascii: "n"): return try word("null", .null)
    case UInt8(ascii: "-"), UInt8(ascii: "0")...UInt8(ascii: "9"): return .number(try number())
    default: throw error("unexpected character, a value was expected")
    }
  }

  private mutating func word(_ word: String, _ value: JSON) throws(JSONError) -> JSON {
    guard bytes[position...].starts(with: word.utf8) else { throw error("unexpected character, a value was expected") }
    position += word.utf8.count
    return value
  }

  private mutating func object(depth: Int) throws(JSONError) -> JSONObject {
    position += 1
    var object = JSONObject()
    var names: Set<String> = []
    skipWhiteSpace()
    if next == UInt8(ascii: "}") {
      position += 1
      return object
    }
    while true {
      skipWhiteSpace()
      guard next == UInt8(ascii: "\"") else { throw error("a field name in double quotes was expected") }
      let start = position
      let name = try string()
      guard names.insert(name).inserted else { throw error("the field \"\(name)\" stands here twice", at: start) }
      skipWhiteSpace()
      guard next == UInt8(ascii: ":") else { throw error("':' was expected") }
      position += 1
      object.append(name, try value(depth: depth + 1))
      skipWhiteSpace()
      switch next {
      case UInt8(ascii: ","): position += 1
      case UInt8(ascii: "}"):
        position += 1
        return object
      default: throw error("',' or '}' was expected")
      }
    }
  }

  private mutating func array(depth: Int) throws(JSONError) -> [JSON] {
    position += 1
    var values: [JSON] = []
    skipWhiteSpace()
    if next == UInt8(ascii: "]") {
      position += 1
      return values
    }
    while true {
      values.append(try value(depth: depth + 1))
      skipWhiteSpace()
      switch next {
      case UInt8(ascii: ","): position += 1
      case UInt8(ascii: "]"):
        position += 1
        return values
      default: throw error("',' or ']' was expected")
      }
    }
  }

  private mutating func number() throws(JSONError) -> String {
    let start = position
    func digit(_ byte: UInt8?) -> Bool { byte.map { $0 >= 0x30 && $0 <= 0x39 } ?? false }
    if next == UInt8(ascii: "-") { position += 1 }
    guard digit(next) else { throw error("a digit was expected") }
    if next == UInt8(ascii: "0") { position += 1 } else { while digit(next) { position += 1 } }
    if digit(next) { throw error("a number may not start with 0") }
    if next == UInt8(ascii: ".") {
      position += 1
      guard digit(next) else { throw error("a digit was expected after '.'") }
      while digit(next) { position += 1 }
    }
    if next == UInt8(ascii: "e") || next == UInt8(ascii: "E") {
      position += 1
      if next == UInt8(ascii: "+") || next == UInt8(ascii: "-") { position += 1 }
      guard digit(next) else { throw error("a digit was expected in the exponent") }
      while digit(next) { position += 1 }
    }
    return String(decoding: bytes[start..<position], as: UTF8.self)
  }

  private mutating func string() throws(JSONError) -> String {
    let start = position
    position += 1
    var out: [UInt8] = []
    while let byte = next {
      switch byte {
      case UInt8(ascii: "\""):
        position += 1
        guard let text = String(validating: out, as: UTF8.self) else { throw error("invalid UTF-8", at: start) }
        return text
      case UInt8(ascii: "\\"):
        position += 1
        try escape(into: &out)
      case 0..<0x20: throw error("a control character must be escaped")
      default:
        out.append(byte)
        position += 1
      }
    }
    throw error("the string is not closed", at: start)
  }

  private mutating func escape(into out: inout [UInt8]) throws(JSONError) {
    guard let byte = next else { throw error("unexpected end after '\\'") }
    position += 1
    switch byte {
    case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): out.append(byte)
    case UInt8(ascii: "b"): out.append(8)
    case UInt8(ascii: "f"): out.append(12)
    case UInt8(ascii: "n"): out.append(10)
    case UInt8(ascii: "r"): out.append(13)
    case UInt8(ascii: "t"): out.append(9)
    case UInt8(ascii: "u"):
      var code = try hexadecimal()
      if code >= 0xD800 && code < 0xDC00 {
        guard next == UInt8(ascii: "\\"), position + 1 < bytes.count, bytes[position + 1] == UInt8(ascii: "u") else {
          throw error("a lone surrogate")
        }
        position += 2
        let low = try hexadecimal()
        guard low >= 0xDC00 && low < 0xE000 else { throw error("a lone surrogate") }
        code = 0x10000 + (code - 0xD800) << 10 + (low - 0xDC00)
      }
      guard let scalar = Unicode.Scalar(code) else { throw error("a lone surrogate") }
      out.append(contentsOf: UTF8.encode(scalar)!)
    default: throw error("unknown escape")
    }
  }

  private mutating func hexadecimal() throws(JSONError) -> UInt32 {
    var code: UInt32 = 0
    for _ in 0..<4 {
      guard let byte = next else { throw error("unexpected end in \\u") }
      switch byte {
      case 0x30...0x39: code = code << 4 | UInt32(byte - 0x30)
      case 0x41...0x46: code = code << 4 | UInt32(byte - 0x41 + 10)
      case 0x61...0x66: code = code << 4 | UInt32(byte - 0x61 + 10)
      default: throw error("four hexadecimal digits were expected after \\u")
      }
      position += 1
    }
    return code
  }
}
