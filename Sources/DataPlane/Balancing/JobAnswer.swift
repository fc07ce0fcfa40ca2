// Finds the id of a new Firecrawl job in the answer to the request that made it, while the answer passes by. It reads
// only as much JSON as is needed to tell the outermost object's fields from all that is inside of them.

/// Answers come in pieces of any size. Costs an allocation each: for routes with job affinity only.
package struct JobAnswer: Sendable {
  package enum Result: Equatable, Sendable {
    case needsMore
    case found(id: [UInt8])
    /// There is none: not an object, malformed, or not within the first 64 KiB.
    case none
  }
  /// Bytes that are looked at. Ids stand within the first hundred, but in an answer with the page itself they may follow it.
  package static let limit = 65_536

  /// What v1 and v2 call it, v0, and the answer to a scrape.
  private static let names = ["id", "jobId", "scrape_id"].map { Array($0.utf8) }
  private static let longestID = 64

  private enum Place: Sendable {
    case start
    /// Before a field's name, or the object's end.
    case beforeName
    case name
    case colon
    case beforeValue
    /// The value that is looked for.
    case id
    /// A string at any depth.
    case string
    /// A number, true, false or null of the outermost object.
    case word
    /// Within an object or list that is a value.
    case nested
    case afterValue
  }
  private var place = Place.start
  private var depth = 0
  private var isEscaped = false
  /// The name, or the id, as far as it has come.
  private var text: [UInt8] = []
  private var isPlain = true
  private var seen = 0
  private var result = Result.needsMore

  package init() {}

  /// - Parameter bytes: the next piece of the body, without transfer coding. After the result was found it does not change.
  package mutating func read(_ bytes: Span<UInt8>) -> Result {
    for index in 0..<bytes.count where result == .needsMore {
      step(bytes[index])
      seen += 1
      if seen == Self.limit, result == .needsMore { result = .none }
    }
    return result
  }

  private mutating func step(_ byte: UInt8) {
    switch place {
    case .name, .id, .string: return insideString(byte)
    case .nested: return insideNested(byte)
    default: break
    }
    if byte == 0x20 || byte == 0x0A || byte == 0x0D || byte == 0x09 {
      if place == .word { place = .afterValue }
      return
    }
    switch (place, byte) {
    case (.start, UInt8(ascii: "{")): place = .beforeName
    case (.beforeName, UInt8(ascii: "\"")): beginText(.name)
    case (.colon, UInt8(ascii: ":")): place = .beforeValue
    case (.beforeValue, UInt8(ascii: "\"")):
      let isID = isPlain && Self.names.contains(text)
      beginText(isID ? .id : .string)
    case (.beforeValue, UInt8(ascii: "{")), (.beforeValue, UInt8(ascii: "[")):
      place = .nested
      depth = 1
    case (.beforeValue, UInt8(ascii: "-")), (.beforeValue, UInt8(ascii: "0")...UInt8(ascii: "9")),
      (.beforeValue, UInt8(ascii: "a")...UInt8(ascii: "z")):
      place = .word
    case (.afterValue, UInt8(ascii: ",")), (.word, UInt8(ascii: ",")): place = .beforeName
    case (.word, UInt8(ascii: "0")...UInt8(ascii: "9")), (.word, UInt8(ascii: "a")...UInt8(ascii: "z")),
      (.word, UInt8(ascii: "E")), (.word, UInt8(ascii: "+")), (.word, UInt8(ascii: "-")), (.word, UInt8(ascii: ".")):
      break
    // The object's end, or something that is no JSON.
    default: result = .none
    }
  }

  private mutating func beginText(_ place: Place) {
    self.place = place
    text.removeAll(keepingCapacity: true)
    isPlain = true
  }

  private mutating func insideString(_ byte: UInt8) {
    if isEscaped {
      isEscaped = false
    } else if byte == UInt8(ascii: "\\") {
      // Neither the names nor any id need escapes.
      isEscaped = true
      isPlain = false
    } else if byte == UInt8(ascii: "\"") {
      endString()
    } else if place != .string, text.count <= Self.longestID {
      text.append(byte)
    }
  }

  private mutating func endString() {
    switch place {
    case .name: place = .colon
    case .id:
      let isID = isPlain && !text.isEmpty && text.count <= Self.longestID && text.allSatisfy { $0 > 0x20 && $0 < 0x7F }
      result = isID ? .found(id: text) : .none
    default: place = depth > 0 ? .nested : .afterValue
    }
  }

  private mutating func insideNested(_ byte: UInt8) {
    switch byte {
    case UInt8(ascii: "\""): place = .string
    case UInt8(ascii: "{"), UInt8(ascii: "["): depth += 1
    case UInt8(ascii: "}"), UInt8(ascii: "]"):
      depth -= 1
      if depth == 0 { place = .afterValue }
    default: break
    }
  }
}
