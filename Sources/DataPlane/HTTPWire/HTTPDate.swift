// The time as HTTP writes it (IMF-fixdate of RFC 9110 §5.6.7). A worker writes it once a second and puts it into responses
// that have none.

package enum HTTPDate {
  package static let byteCount = 29

  /// Writes e.g. `Sun, 06 Nov 1994 08:49:37 GMT`. Returns the bytes written, or nil without room.
  package static func write(secondsSince1970 seconds: Int, into out: inout MutableSpan<UInt8>) -> Int? {
    precondition(seconds >= 0, "the clock stands after 1970")
    var writer = ByteWriter()
    let days = seconds / 86_400
    let second = seconds % 86_400
    let (year, month, day) = civil(days)
    writer.append(weekdays[(days + 4) % 7], &out)  // 1 January 1970 was a Thursday
    writer.append(", ", &out)
    append(day, &writer, &out)
    writer.append(months[month - 1], &out)
    append(year / 100, &writer, &out)
    append(year % 100, &writer, &out)
    writer.append(0x20, &out)
    append(second / 3_600, &writer, &out)
    writer.append(UInt8(ascii: ":"), &out)
    append(second / 60 % 60, &writer, &out)
    writer.append(UInt8(ascii: ":"), &out)
    append(second % 60, &writer, &out)
    writer.append(" GMT", &out)
    return writer.result
  }

  private static let weekdays: [StaticString] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"]
  private static let months: [StaticString] = [
    " Jan ", " Feb ", " Mar ", " Apr ", " May ", " Jun ", " Jul ", " Aug ", " Sep ", " Oct ", " Nov ", " Dec ",
  ]

  /// Two digits.
  private static func append(_ number: Int, _ writer: inout ByteWriter, _ out: inout MutableSpan<UInt8>) {
    writer.append(UInt8(0x30 + number / 10), &out)
    writer.append(UInt8(0x30 + number % 10), &out)
  }

  /// Year, month and day of the Gregorian calendar. Years are counted from March here, so that a leap day ends its year.
  private static func civil(_ daysSince1970: Int) -> (year: Int, month: Int, day: Int) {
    let days = daysSince1970 + 719_468  // since 1 March of the year 0
    let era = days / 146_097
    let dayOfEra = days % 146_097
    let yearOfEra = (dayOfEra - dayOfEra / 1_460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
    let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
    let monthFromMarch = (5 * dayOfYear + 2) / 153
    let day = dayOfYear - (153 * monthFromMarch + 2) / 5 + 1
    let month = monthFromMarch < 10 ? monthFromMarch + 3 : monthFromMarch - 9
    return (yearOfEra + era * 400 + (month <= 2 ? 1 : 0), month, day)
  }
}
