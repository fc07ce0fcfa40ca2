// How berth-data reads one option: the flag, else the variable, else the default; wrong values are named with where they
// stand. Options.swift says what options there are.
import ArgumentParser
import Glibc
import Posix

enum OptionReading {
  static func environment(_ name: String) -> String? {
    guard let value = unsafe getenv(name) else { return nil }
    let text = unsafe String(cString: value)
    return text.isEmpty ? nil : text
  }

  static func text(_ flag: String?, _ variable: String) -> String? { flag ?? environment(variable) }

  /// Flags that may be given several times; the variable has commas between its parts.
  static func list(_ flags: [String], _ variable: String) -> [String] {
    guard flags.isEmpty, let text = environment(variable) else { return flags }
    return text.split(separator: ",").map { String($0.drop { $0 == " " }) }
  }

  static func port() throws -> Int? {
    guard let text = environment("PORT") else { return nil }
    guard let port = Int(text), (1...65_535).contains(port) else {
      throw ValidationError("PORT is \"\(text)\"; it must be a port from 1 to 65535.")
    }
    return port
  }

  static func address(_ flag: String?, _ name: String, _ variable: String, or fallback: String) throws -> SocketAddress
  {
    let text = text(flag, variable) ?? fallback
    guard let address = SocketAddress(text) else {
      let source = flag != nil ? name : variable
      throw ValidationError("\(source) is \"\(text)\"; it must be ADDRESS:PORT, e.g. 127.0.0.1:8080 or [::1]:8080.")
    }
    return address
  }

  /// Addresses of which none stands twice.
  static func addresses(_ flags: [String], _ name: String, _ variable: String, or fallback: String) throws
    -> [SocketAddress]
  {
    let texts = list(flags, variable)
    let source = flags.isEmpty ? variable : name
    var seen: Set<String> = []
    return try (texts.isEmpty ? [fallback] : texts).map { text in
      guard let address = SocketAddress(text) else {
        throw ValidationError(
          "\(source) is \"\(text)\"; it must be ADDRESS:PORT, e.g. 127.0.0.1:8080 or [::1]:8080, or unix:/path.")
      }
      guard seen.insert(address.description).inserted || address.port == 0 && !address.isUnix else {
        throw ValidationError("\(source) names \(address) twice; once is enough.")
      }
      return address
    }
  }

  /// Blocks of addresses with commas between them.
  static func ranges(_ flag: String?, _ name: String, _ variable: String) throws -> [AddressRange] {
    try (text(flag, variable) ?? "").split(separator: ",").map { part in
      let text = part.filter { $0 != " " }
      if let range = AddressRange(text) { return range }
      let source = "\(flag != nil ? name : variable) names \"\(text)\""
      if let meant = AddressRange.suggestion(for: text) {
        throw ValidationError("\(source), which has bits set behind its prefix; perhaps \(meant) is meant.")
      }
      throw ValidationError(
        "\(source); it must be an address or a block of addresses, e.g. 10.0.0.0/8 or ::1, with commas between several."
      )
    }
  }

  static func number(_ flag: Int?, _ name: String, _ variable: String, _ range: ClosedRange<Int>, or fallback: Int)
    throws -> Int
  {
    var value = flag
    var source = name
    if value == nil, let text = environment(variable) {
      source = variable
      value = Int(text)
      if value == nil { throw ValidationError("\(variable) is \"\(text)\"; it must be a whole number.") }
    }
    guard let value else { return fallback }
    guard range.contains(value) else {
      throw ValidationError("\(source) is \(value); it must be from \(range.lowerBound) to \(range.upperBound).")
    }
    return value
  }

  static func choice<Choice: RawRepresentable & CaseIterable>(
    _ flag: String?, _ name: String, _ variable: String, or fallback: Choice
  ) throws -> Choice where Choice.RawValue == String {
    guard let text = text(flag, variable) else { return fallback }
    guard let choice = Choice(rawValue: text) else {
      let known = Choice.allCases.map(\.rawValue).joined(separator: ", ")
      throw ValidationError("\(flag != nil ? name : variable) is \"\(text)\"; it must be one of \(known).")
    }
    return choice
  }

  static func hostName() -> String {
    var bytes = [CChar](repeating: 0, count: 256)
    guard unsafe gethostname(&bytes, 255) == 0 else { return "replica" }
    return String(decoding: bytes.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }
}
