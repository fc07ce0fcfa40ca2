// The log of both daemons: one JSON line a record on stderr, written by a thread of its own, so that a slow reader of the
// log never slows down a worker. Daemons make one; rooms get it passed.
import Glibc
import JSON
import Posix
import Synchronization

/// How much a record matters; a writer leaves out what is below its level.
package enum LogLevel: String, Sendable, CaseIterable, Comparable {
  case debug, info, warning, error

  private var rank: Int { Self.allCases.firstIndex(of: self)! }
  package static func < (a: LogLevel, b: LogLevel) -> Bool { a.rank < b.rank }
}

/// The value of a record's field.
package enum LogValue: Sendable, Equatable, ExpressibleByStringInterpolation, ExpressibleByIntegerLiteral,
  ExpressibleByBooleanLiteral
{
  case string(String)
  case int(Int)
  case bool(Bool)

  package init(stringLiteral value: String) { self = .string(value) }
  package init(integerLiteral value: Int) { self = .int(value) }
  package init(booleanLiteral value: Bool) { self = .bool(value) }
}

/// Writes records to a descriptor. Every call takes a lock for a moment and returns; when the descriptor's reader is so
/// slow that the queue is full, records are dropped and counted, and a record says so later.
package final class LogWriter: Sendable {
  /// Records that may wait for the writer thread.
  package static let defaultQueueLimit = 4_096
  /// Longer texts are cut, in UTF-8 bytes, so that the queue is bounded in bytes too.
  package static let maximumTextBytes = 8_192

  package let level: LogLevel
  private let core: Core

  package init(fileDescriptor: Int32 = 2, level: LogLevel = .info, queueLimit: Int = LogWriter.defaultQueueLimit) {
    self.level = level
    core = Core(fileDescriptor: fileDescriptor, queueLimit: queueLimit)
    _ = Thread.start("log") { [core] in core.write() }
  }

  deinit { core.stop() }

  /// Queues a record, e.g. `log.write(.info, "listening", ["address": "127.0.0.1:8080", "workers": .int(count)])`.
  /// Message and fields are not even computed when the level leaves them out.
  package func write(
    _ level: LogLevel, _ message: @autoclosure () -> String,
    _ fields: @autoclosure () -> KeyValuePairs<String, LogValue> = [:]
  ) {
    guard level >= self.level else { return }
    core.append(Self.line(at: Clock.unixMilliseconds, level, message(), fields()))
  }

  /// The same with fields that are known only at run time, for log handlers of other libraries.
  package func write(_ level: LogLevel, _ message: String, fields: [(key: String, value: LogValue)]) {
    guard level >= self.level else { return }
    core.append(Self.line(at: Clock.unixMilliseconds, level, message, fields))
  }

  package func debug(
    _ message: @autoclosure () -> String, _ fields: @autoclosure () -> KeyValuePairs<String, LogValue> = [:]
  ) {
    write(.debug, message(), fields())
  }
  package func info(
    _ message: @autoclosure () -> String, _ fields: @autoclosure () -> KeyValuePairs<String, LogValue> = [:]
  ) {
    write(.info, message(), fields())
  }
  package func warning(
    _ message: @autoclosure () -> String, _ fields: @autoclosure () -> KeyValuePairs<String, LogValue> = [:]
  ) {
    write(.warning, message(), fields())
  }
  package func error(
    _ message: @autoclosure () -> String, _ fields: @autoclosure () -> KeyValuePairs<String, LogValue> = [:]
  ) {
    write(.error, message(), fields())
  }

  /// Records that were lost since the start, because the queue was full or the descriptor broke.
  package var dropped: Int { core.dropped }

  /// Takes no more records and waits, no longer than this, until those in the queue are written; false when some are not.
  @discardableResult
  package func close(timeoutMilliseconds: Int = 1_000) -> Bool {
    core.stop()
    return core.waitUntilDone(milliseconds: timeoutMilliseconds)
  }

  /// One record as a line of JSON. Fields that are named like the record's own get a `_` behind their name.
  static func line(
    at unixMilliseconds: Int, _ level: LogLevel, _ message: String,
    _ fields: some Sequence<(key: String, value: LogValue)>
  ) -> [UInt8] {
    var line = Array(#"{"time":""#.utf8)
    line += rfc3339(unixMilliseconds: unixMilliseconds).utf8
    line += #"","level":""#.utf8
    line += level.rawValue.utf8
    line += #"","message":"#.utf8
    JSON.string(cut(message)).write(to: &line)
    for (name, value) in fields {
      line.append(UInt8(ascii: ","))
      JSON.string(["time", "level", "message"].contains(name) ? name + "_" : name).write(to: &line)
      line.append(UInt8(ascii: ":"))
      switch value {
      case .string(let text): JSON.string(cut(text)).write(to: &line)
      case .int(let number): line += String(number).utf8
      case .bool(let flag): line += (flag ? "true" : "false").utf8
      }
    }
    line += "}\n".utf8
    return line
  }

  private static func cut(_ text: String) -> String {
    guard text.utf8.count > maximumTextBytes else { return text }
    // A code point that the cut splits becomes U+FFFD.
    return String(decoding: text.utf8.prefix(maximumTextBytes), as: UTF8.self) + "…"
  }
}

/// A time as RFC 3339 writes it, in UTC with milliseconds: `2026-11-21T09:49:08.123Z`.
package func rfc3339(unixMilliseconds: Int) -> String {
  let seconds = Int((Double(unixMilliseconds) / 1_000).rounded(.down))
  let milliseconds = unixMilliseconds - seconds * 1_000
  var (days, secondOfDay) = seconds.quotientAndRemainder(dividingBy: 86_400)
  if secondOfDay < 0 { (days, secondOfDay) = (days - 1, secondOfDay + 86_400) }
  // Days to civil date: years are counted from March, so that the leap day is the last of its year. 719468 days lie
  // between 0000-03-01 and 1970-01-01, 146097 make 400 years.
  let shifted = days + 719_468
  let era = (shifted >= 0 ? shifted : shifted - 146_096) / 146_097
  let dayOfEra = shifted - era * 146_097
  let yearOfEra = (dayOfEra - dayOfEra / 1_460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
  let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
  let monthFromMarch = (5 * dayOfYear + 2) / 153
  let day = dayOfYear - (153 * monthFromMarch + 2) / 5 + 1
  let month = monthFromMarch < 10 ? monthFromMarch + 3 : monthFromMarch - 9
  let year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0)
  func padded(_ number: Int, _ width: Int) -> String {
    let text = String(number)
    return String(repeating: "0", count: max(0, width - text.count)) + text
  }
  return padded(year, 4) + "-" + padded(month, 2) + "-" + padded(day, 2) + "T" + padded(secondOfDay / 3_600, 2) + ":"
    + padded(secondOfDay / 60 % 60, 2) + ":" + padded(secondOfDay % 60, 2) + "." + padded(milliseconds, 3) + "Z"
}

/// The queue and the thread that empties it.
private final class Core: Sendable {
  private struct State {
    var lines: [[UInt8]] = []
    var dropped = 0
    var droppedUntold = 0
    var stopping = false
    var done = false
  }
  private let state = Mutex(State())
  private let fileDescriptor: Int32
  private let queueLimit: Int
  private let wakeWriter = Doorbell()
  private let tellDone = Doorbell()

  init(fileDescriptor: Int32, queueLimit: Int) {
    self.fileDescriptor = fileDescriptor
    self.queueLimit = queueLimit
  }

  deinit {
    wakeWriter.close()
    tellDone.close()
  }

  var dropped: Int { state.withLock { $0.dropped } }

  func append(_ line: [UInt8]) {
    let wake = state.withLock { state in
      guard !state.stopping, state.lines.count < queueLimit else {
        state.dropped += 1
        state.droppedUntold += 1
        return false
      }
      state.lines.append(line)
      return state.lines.count == 1
    }
    if wake { wakeWriter.ring() }
  }

  func stop() {
    state.withLock { $0.stopping = true }
    wakeWriter.ring()
  }

  func waitUntilDone(milliseconds: Int) -> Bool {
    let end = Clock.monotonicMilliseconds + milliseconds
    while !state.withLock({ $0.done }) {
      let left = end - Clock.monotonicMilliseconds
      guard left > 0 else { return false }
      wait(tellDone.descriptor, POLLIN, milliseconds: Int32(clamping: left))
    }
    return true
  }

  /// What the thread does.
  func write() {
    while true {
      let (lines, untold, stopping) = state.withLock { state in
        defer {
          state.lines = []
          state.droppedUntold = 0
        }
        return (state.lines, state.droppedUntold, state.stopping)
      }
      var lost = 0
      for line in lines where !write(line) { lost += 1 }
      if untold > 0 {
        _ = write(
          LogWriter.line(at: Clock.unixMilliseconds, .warning, "log records were dropped", ["count": .int(untold)]))
      }
      if lost > 0 { state.withLock { $0.dropped += lost } }
      guard lines.isEmpty && untold == 0 else { continue }
      if stopping { break }
      wait(wakeWriter.descriptor, POLLIN, milliseconds: -1)
      wakeWriter.silence()
    }
    state.withLock { $0.done = true }
    tellDone.ring()
  }

  /// One write(2), unless the descriptor takes a part only. False when it is broken.
  private func write(_ line: [UInt8]) -> Bool {
    var rest = line[...]
    while !rest.isEmpty {
      let count = unsafe rest.withUnsafeBytes { unsafe Glibc.write(fileDescriptor, $0.baseAddress!, $0.count) }
      if count >= 0 {
        rest = rest.dropFirst(count)
      } else if errno == EAGAIN {
        // Somebody made stderr non-blocking; this thread may wait all the same.
        wait(fileDescriptor, POLLOUT, milliseconds: -1)
      } else if errno != EINTR {
        return false
      }
    }
    return true
  }

  private func wait(_ fileDescriptor: Int32, _ events: Int32, milliseconds: Int32) {
    var poller = pollfd(fd: fileDescriptor, events: Int16(events), revents: 0)
    // An early return only makes the caller look again.
    _ = unsafe poll(&poller, 1, milliseconds)
  }
}
