// The access log's file: log rotation, a full disk, a reader that does not read. No such thing may hold up a worker, and
// every line that is lost is counted.
import Glibc
import JSON
import Observability
import Posix
import TestSupport
import Testing

@testable import Engine

@Suite("Access log file")
struct AccessLogFileTests {
  private typealias Basics = AccessLogTests

  private func log(_ path: String, ringBytes: Int = 65_536) throws -> AccessLog {
    try AccessLog(
      .file(path), workers: 1, labels: LabeledMetrics(workers: 1), log: LogWriter(level: .error), ringBytes: ringBytes)
  }

  private func write(_ log: AccessLog, _ numbers: Range<Int>) {
    for number in numbers {
      var record = Basics.record()
      record.bytesFromClient = UInt64(number)
      log.workers[0].end(.none, record)
    }
  }

  private func numbers(_ path: String) throws -> [Int?] { try Basics.lines(path).map { $0["bytes_in"]?.int } }

  @Test("lines are appended to what is there, and only owner and group may read them")
  func appends() throws {
    let directory = Basics.Directory()
    for start in [0, 3] {
      let log = try log(directory.log)
      write(log, start..<start + 3)
      #expect(log.close(timeoutMilliseconds: 10_000))
    }
    #expect(try numbers(directory.log) == [0, 1, 2, 3, 4, 5])
    var status = stat()
    #expect(unsafe stat(directory.log, &status) == 0 && status.st_mode & 0o007 == 0)
  }

  @Test("a file that was moved away is made anew when asked, and nothing is lost in between")
  func rotation() throws {
    let directory = Basics.Directory()
    let log = try log(directory.log)
    write(log, 0..<5)
    try waitUntil("the first lines are written") { log.written == 5 }
    #expect(unsafe rename(directory.log, directory.log + ".1") == 0)
    write(log, 5..<8)
    try waitUntil("lines go to the moved file") { log.written == 8 }
    log.reopen()
    try waitUntil("the file is there again") { unsafe access(directory.log, F_OK) == 0 }
    write(log, 8..<10)
    #expect(log.close(timeoutMilliseconds: 10_000))
    #expect(try numbers(directory.log + ".1") == [0, 1, 2, 3, 4, 5, 6, 7])
    #expect(try numbers(directory.log) == [8, 9])
  }

  @Test("a file that cannot be made anew stays in use")
  func failedRotation() throws {
    let directory = Basics.Directory()
    let log = try log(directory.log)
    #expect(unsafe rename(directory.log, directory.log + ".1") == 0)
    #expect(unsafe mkdir(directory.log, 0o700) == 0)
    defer { _ = unsafe rmdir(directory.log) }
    log.reopen()
    write(log, 0..<2)
    #expect(log.close(timeoutMilliseconds: 10_000))
    #expect(try numbers(directory.log + ".1") == [0, 1])
  }

  @Test("a file that cannot be opened is named at once")
  func unusable() {
    #expect(throws: EngineError.self) { try log("/nowhere/log") }
    let error = #expect(throws: EngineError.self) { try log("/tmp") }
    #expect(error?.description == "the access log /tmp cannot be opened: Is a directory")
  }

  @Test("a full disk costs lines, which are counted, and nothing else")
  func fullDisk() throws {
    let log = try log("/dev/full")
    write(log, 0..<50)
    try waitUntil("the lines are counted") { log.lost == 50 }
    write(log, 50..<60)
    #expect(log.close(timeoutMilliseconds: 10_000))
    #expect(log.lost == 60 && log.written == 0 && log.dropped == 0)
  }

  @Test("a full disk is named with its file and what to do")
  func fullDiskIsNamed() throws {
    let directory = Basics.Directory()
    let told = directory.path + "/told"
    let output = unsafe open(told, O_WRONLY | O_CREAT | O_CLOEXEC, 0o600)
    try #require(output >= 0)
    defer { close(output) }
    let log = try AccessLog(
      .file("/dev/full"), workers: 1, labels: LabeledMetrics(workers: 1),
      log: LogWriter(fileDescriptor: output, level: .error))
    write(log, 0..<3)
    #expect(log.close(timeoutMilliseconds: 10_000))
    try waitUntil("it is told") { readFile(told)?.contains("\n") == true }
    let line = try JSON(parsing: Array((readFile(told) ?? "").utf8.prefix { $0 != UInt8(ascii: "\n") }))
    #expect(line["file"] == "/dev/full" && line["count"] == 3)
    #expect(
      line["reason"] == "No space left on device; free some space there, or give --access-log another place", "\(line)")
  }

  @Test("a line that was cut by a failure does not spoil the one after it")
  func tornLine() throws {
    let directory = Basics.Directory()
    let path = directory.path + "/fifo"
    #expect(unsafe mkfifo(path, 0o600) == 0)
    // As in a daemon, and in the writer's thread: an error instead of a signal.
    signal(SIGPIPE, SIG_IGN)
    var reader = unsafe open(path, O_RDONLY | O_NONBLOCK)
    let file = try AccessLogFile(.file(path))
    // More than a pipe holds, in lines that end at no page's end; the reader goes away when the pipe is full.
    let lines = [UInt8](repeating: UInt8(ascii: "a"), count: 1_000) + [UInt8(ascii: "\n")]
    let bytes = Array((0..<500).map { _ in lines }.joined())
    var isFull = false
    let outcome = unsafe bytes.withUnsafeBytes {
      unsafe file.write($0.baseAddress!, $0.count) {
        if !isFull { Socket.close(reader) }
        isFull = true
        return false
      }
    }
    guard case .failed(_, let lost) = outcome else {
      Issue.record("it was written")
      return
    }
    reader = unsafe open(path, O_RDONLY | O_NONBLOCK)
    defer { Socket.close(reader) }
    var received: [UInt8] = []
    var piece = [UInt8](repeating: 0, count: 65_536)
    while case let count = unsafe read(reader, &piece, piece.count), count > 0 { received += piece[..<count] }
    #expect(received.split(separator: UInt8(ascii: "\n")).filter { $0.count == 1_000 }.count == 500 - lost)
    #expect(received.last != UInt8(ascii: "\n"))
    _ = unsafe bytes.withUnsafeBytes { unsafe file.write($0.baseAddress!, 2_002) { false } }
    let count = unsafe read(reader, &piece, piece.count)
    #expect(Array(piece[..<max(count, 0)]) == [UInt8(ascii: "\n")] + bytes[..<2_002])
  }

  @Test("a pipe that nobody reads holds up the writer only, and its end is bounded")
  func blockedPipe() throws {
    let directory = Basics.Directory()
    let path = directory.path + "/fifo"
    #expect(unsafe mkfifo(path, 0o600) == 0)
    let reader = unsafe open(path, O_RDONLY | O_NONBLOCK)
    #expect(reader >= 0)
    defer { Socket.close(reader) }
    let log = try log(path)
    // First the pipe, then the ring behind it, which holds more than is left in the pipe: 64 KiB, or less when pieces do not
    // fill its pages.
    var sent = 0
    func fill() {
      write(log, sent..<sent + 1_000)
      sent += 1_000
    }
    try waitUntil("the pipe has bytes") {
      fill()
      var held: Int32 = 0
      return unsafe ioctl(reader, UInt(FIONREAD), &held) == 0 && held > 30_000
    }
    let before = log.dropped
    try waitUntil("the ring is full") {
      fill()
      return log.dropped > before
    }
    #expect(!log.close(timeoutMilliseconds: 1) || log.lost > 0)
    try waitUntil("every record is accounted for") { log.written + log.lost + log.dropped == sent }
  }

  @Test("a pipe that is read slowly gets every line, once and whole")
  func slowPipe() throws {
    let directory = Basics.Directory()
    let path = directory.path + "/fifo"
    #expect(unsafe mkfifo(path, 0o600) == 0)
    let reader = unsafe open(path, O_RDONLY | O_NONBLOCK)
    defer { Socket.close(reader) }
    let log = try log(path, ringBytes: 1_048_576)
    write(log, 0..<3_000)
    var bytes: [UInt8] = []
    var piece = [UInt8](repeating: 0, count: 1_000)
    try waitUntil("all is read") {
      while case let count = unsafe read(reader, &piece, piece.count), count > 0 { bytes += piece[..<count] }
      return log.written == 3_000
    }
    #expect(log.close(timeoutMilliseconds: 10_000))
    while case let count = unsafe read(reader, &piece, piece.count), count > 0 { bytes += piece[..<count] }
    let numbers = try bytes.split(separator: UInt8(ascii: "\n")).map { try JSON(parsing: Array($0))["bytes_in"]?.int }
    #expect(numbers == (0..<3_000).map { $0 })
  }

  @Test("- is standard output")
  func standardOutput() {
    #expect(AccessLogDestination("-") == .standardOutput)
    #expect(AccessLogDestination("./-") == .file("./-"))
  }
}
