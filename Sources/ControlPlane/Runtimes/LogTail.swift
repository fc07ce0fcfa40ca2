// The last lines of what an instance wrote, as events, REST and the log show them: bounded in number and length.

package enum LogTail {
  package static let maximumLines = 10
  /// Of one line; stack traces and pages that a browser prints can be very long.
  package static let maximumBytes = 400

  /// The last lines that say anything.
  package static func lines(of bytes: [UInt8], count: Int = maximumLines) -> [String] {
    lines(String(decoding: bytes, as: UTF8.self).split(whereSeparator: \.isNewline), count: count)
  }

  static func lines(_ lines: some BidirectionalCollection<Substring>, count: Int = maximumLines) -> [String] {
    var last: [String] = []
    for line in lines.reversed() where last.count < count {
      let text = printable(line)
      if !text.isEmpty { last.append(text) }
    }
    return last.reversed()
  }

  /// Without control characters, which could steer the terminal of whoever reads it, and cut where it is too long.
  private static func printable(_ line: Substring) -> String {
    var text = ""
    for scalar in line.unicodeScalars {
      guard text.utf8.count < maximumBytes else { return text + "…" }
      if scalar.value >= 0x20, !(0x7F...0x9F).contains(scalar.value) { text.unicodeScalars.append(scalar) }
    }
    return text
  }
}
