// The log through real pipes: the form of its lines, many threads at once, a reader that does not read, one that is gone.
import Glibc
import JSON
import Posix
import Synchronization
import Testing

@testable import Observability

@Suite("Log writer")
struct LogWriterTests {
  private func pipe() throws -> (read: Int32, write: Int32) {
    var ends: [Int32] = [-1, -1]
    try #require(unsafe Glibc.pipe(&ends) == 0)
    return (ends[0], ends[1])
  }

  /// Everything until the writing end is closed.
  private func readAll(_ fileDescriptor: Int32) throws -> [JSON] {
    var bytes: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 65_536)
    while true {
      let count = unsafe read(fileDescriptor, &buffer, buffer.count)
      guard count > 0 else { break }
      bytes += buffer.prefix(count)
    }
    #expect(bytes.isEmpty || bytes.last == UInt8(ascii: "\n"))
    return try bytes.split(separator: UInt8(ascii: "\n")).map { try JSON(parsing: Array($0)) }
  }

  @Test("a record is one line of JSON with time, level, message and fields")
  func form() throws {
    // A dictionary has no order; what callers write has.
    let fields: KeyValuePairs<String, LogValue> = ["text": "x\ty", "number": -5, "flag": true, "level": "mine"]
    let line = LogWriter.line(at: 1_795_254_548_007, .warning, "a \"b\"\n\u{1}\u{7F}é", fields)
    #expect(
      String(decoding: line, as: UTF8.self)
        == #"{"time":"2026-11-21T09:49:08.007Z","level":"warning","message":"a \"b\"\n\u0001\u007fé","text":"x\ty","number":-5,"flag":true,"level_":"mine"}"#
        + "\n")
  }

  @Test(
    "times",
    arguments: [
      (0, "1970-01-01T00:00:00.000Z"), (-1, "1969-12-31T23:59:59.999Z"), (951_782_400_000, "2000-02-29T00:00:00.000Z"),
      (951_868_800_123, "2000-03-01T00:00:00.123Z"), (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
      (4_107_542_400_000, "2100-03-01T00:00:00.000Z"), (1_735_689_599_000, "2024-12-31T23:59:59.000Z"),
      (-62_135_596_800_000, "0001-01-01T00:00:00.000Z"),
    ])
  func times(milliseconds: Int, text: String) { #expect(rfc3339(unixMilliseconds: milliseconds) == text) }

  @Test("what is below the level is not even computed")
  func levels() throws {
    let ends = try pipe()
    let log = LogWriter(fileDescriptor: ends.write, level: .warning)
    func never() -> String {
      Issue.record("computed in vain")
      return ""
    }
    log.debug(never())
    log.info(never(), ["x": .string(never())])
    log.warning("one")
    log.error("two", ["n": 2])
    #expect(log.close(timeoutMilliseconds: 60_000))
    close(ends.write)
    let lines = try readAll(ends.read)
    #expect(lines.map { $0["message"]?.string } == ["one", "two"])
    #expect(lines.map { $0["level"]?.string } == ["warning", "error"])
    close(ends.read)
  }

  @Test("lines of many threads stay whole, each thread's in order")
  func threads() throws {
    let ends = try pipe()
    let log = LogWriter(fileDescriptor: ends.write, queueLimit: 100_000)
    let text = String(repeating: "long ", count: 200)
    let writers = (0..<4).map { name in
      Thread.start("test") { for number in 0..<500 { log.info(text, ["thread": .int(name), "number": .int(number)]) } }
    }
    let closer = Thread.start("test") {
      for writer in writers { writer.join() }
      #expect(log.close(timeoutMilliseconds: 60_000))
      close(ends.write)
    }
    let lines = try readAll(ends.read)
    closer.join()
    close(ends.read)
    #expect(lines.count == 2_000)
    for name in 0..<4 {
      #expect(lines.filter { $0["thread"]?.int == name }.map { $0["number"]?.int } == Array(0..<500))
    }
    #expect(log.dropped == 0)
  }

  @Test("a reader that does not read costs records, never the caller; the loss is counted and told")
  func full() throws {
    let ends = try pipe()
    let log = LogWriter(fileDescriptor: ends.write, queueLimit: 10)
    let text = String(repeating: "x", count: 5_000)
    // A pipe holds 64 KiB: the writer thread is stuck long before the last of these.
    for _ in 0..<1_000 { log.info(text) }
    let dropped = log.dropped
    #expect(dropped > 900)
    let closer = Thread.start("test") {
      #expect(log.close(timeoutMilliseconds: 60_000))
      close(ends.write)
    }
    let lines = try readAll(ends.read)
    closer.join()
    close(ends.read)
    #expect(lines.filter { $0["message"]?.string == text }.count == 1_000 - dropped)
    let told = lines.filter { $0["message"]?.string == "log records were dropped" }.compactMap { $0["count"]?.int }
    #expect(told.reduce(0, +) == dropped)
  }

  @Test("closing waits no longer than it may, and takes no more records")
  func closing() throws {
    let ends = try pipe()
    let log = LogWriter(fileDescriptor: ends.write, queueLimit: 10)
    for _ in 0..<100 { log.info(String(repeating: "x", count: 8_000)) }
    #expect(!log.close(timeoutMilliseconds: 1))
    let dropped = log.dropped
    log.info("late")
    #expect(log.dropped == dropped + 1)
    // Lets the thread end.
    let closer = Thread.start("test") {
      #expect(log.close(timeoutMilliseconds: 60_000))
      close(ends.write)
    }
    #expect(try readAll(ends.read).count > 0)
    closer.join()
    close(ends.read)
  }

  @Test("a reader that is gone is no signal, and its records count as dropped")
  func broken() throws {
    let ends = try pipe()
    close(ends.read)
    let log = LogWriter(fileDescriptor: ends.write)
    log.info("one")
    log.info("two")
    #expect(log.close(timeoutMilliseconds: 60_000))
    #expect(log.dropped == 2)
    close(ends.write)
  }

  @Test("long texts are cut")
  func long() throws {
    let line = LogWriter.line(
      at: 0, .info, String(repeating: "é", count: 10_000), ["field": .string(String(repeating: "y", count: 9_000))])
    let json = try JSON(parsing: line)
    #expect(json["message"]?.string?.utf8.count == LogWriter.maximumTextBytes + 3)
    #expect(json["field"]?.string == String(repeating: "y", count: LogWriter.maximumTextBytes) + "…")
  }
}
