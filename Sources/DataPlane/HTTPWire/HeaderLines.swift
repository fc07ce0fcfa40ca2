// A route's header rules as the bytes that HeadWriter takes: made once when a table is compiled, used for every
// request. What may be named there was checked where the rules were read (Routing's HeaderRules).

package enum HeaderLines {
  /// Lines of fields that are added, one after the other, each with its CR LF.
  package static func added(_ fields: [(name: String, value: String)]) -> [UInt8] {
    fields.flatMap { Array("\($0.name): \($0.value)\r\n".utf8) }
  }

  /// Names of fields that are removed, in lower case, each with a colon behind it.
  package static func removed(_ names: [String]) -> [UInt8] {
    names.flatMap { Array("\($0.lowercased()):".utf8) }
  }

  /// Whether a list made by ``removed(_:)`` names this field.
  static func names(_ list: Span<UInt8>, _ bytes: Span<UInt8>, _ name: Slice) -> Bool {
    var position = 0
    while position < list.count {
      var offset = 0
      while offset < Int(name.count), list[position + offset] == lowercase(bytes[name.lower + offset]) { offset += 1 }
      if offset == Int(name.count), list[position + offset] == UInt8(ascii: ":") { return true }
      while list[position] != UInt8(ascii: ":") { position += 1 }
      position += 1
    }
    return false
  }

  /// The same for a name of Berth's own.
  static func names(_ list: Span<UInt8>, _ name: StaticString) -> Bool {
    guard !list.isEmpty else { return false }
    return name.withUTF8Buffer { text in
      let span = unsafe Span(_unsafeElements: text)
      return names(list, span, Slice(0, span.count))
    }
  }
}
