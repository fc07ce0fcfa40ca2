// The access log from a worker's call to the lines in a file: what a line says, what it must not say, what happens when
// the ring is full, the disk is full, nobody reads, or the file is moved away.
import Glibc
import JSON
import Observability
import Posix
import ProxyMachine
import TestSupport
import Testing

@testable import Engine

@Suite("Access log")
struct AccessLogTests {
  /// A directory of its own that is removed at the end.
  final class Directory {
    let path: String
    init() {
      var template = Array("/tmp/berth-access-log-XXXXXX".utf8CString)
      let made = unsafe mkdtemp(&template)
      precondition(unsafe made != nil, "/tmp can be written to")
      path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
    deinit {
      for name in ["log", "log.1", "fifo"] { _ = unsafe unlink("\(path)/\(name)") }
      _ = unsafe rmdir(path)
    }
    var log: String { path + "/log" }
  }

  static func record(_ status: UInt16 = 200) -> AccessRecord {
    var record = AccessRecord()
    record.startedMicroseconds = Clock.monotonicMicroseconds
    record.status = status
    record.client = SocketAddress("192.0.2.7:4711")!
    return record
  }

  static func begin(
    _ worker: WorkerAccessLog, id: String = "", method: String = "GET", authority: String = "example.com",
    target: String = "/"
  ) -> AccessText {
    let (id, method, authority, target) = (
      Array(id.utf8), Array(method.utf8), Array(authority.utf8), Array(target.utf8)
    )
    return worker.begin(id: id.span, method: method.span, authority: authority.span, target: target.span)
  }

  static func lines(_ path: String) throws -> [JSONObject] {
    try (readFile(path) ?? "").split(separator: "\n").map { try #require(try JSON(parsing: String($0)).object) }
  }

  // MARK: What a line says

  @Test("every field of a record, in the order that the documentation gives")
  func everyField() throws {
    let directory = Directory()
    let labels = LabeledMetrics(workers: 1)
    let lease = labels.lease()
    let log = try AccessLog(.file(directory.log), workers: 1, labels: labels, log: LogWriter(level: .error))
    var record = Self.record(101)
    record.totalMicroseconds = 5_000_000_000
    record.bytesFromClient = 18_446_744_073_709_551_615
    record.bytesToClient = 10
    record.queueMicroseconds = 1
    record.connectMicroseconds = 22
    record.firstByteMicroseconds = 333
    record.route = lease.row(route: "all \"quoted\" é")
    record.pool = lease.row(pool: "web")
    record.instance = lease.row(instance: "web-1", pool: "web")
    record.retries = 2
    record.reason = .tunnelEnded
    record.flags = [.tls, .resumed, .session, .tunnel]
    let text = Self.begin(
      log.workers[0], id: "abc-1", method: "GET", authority: "example.com:8080", target: "/devtools/page/1?x=2")
    log.workers[0].end(text, record)
    #expect(log.close(timeoutMilliseconds: 10_000))
    let line = try #require(readFile(directory.log))
    let time = try #require(line.split(separator: "\"").dropFirst(3).first)
    #expect(
      line == """
        {"time":"\(time)","client":"192.0.2.7:4711","id":"abc-1","method":"GET","host":"example.com:8080",\
        "path":"/devtools/page/1?x=2","status":101,"bytes_in":18446744073709551615,"bytes_out":10,"queue_us":1,\
        "connect_us":22,"first_byte_us":333,"total_us":5000000000,"route":"all \\"quoted\\" é","pool":"web",\
        "instance":"web-1","retries":2,"tls":true,"resumed":true,"session":true,"tunnel":true,\
        "reason":"tunnel_ended"}

        """)
    #expect(log.written == 1 && log.lost == 0 && log.dropped == 0)
  }

  @Test("what a request has not got is left out")
  func absentFields() throws {
    var lines = Lines()
    #expect(
      lines.text(Self.record(400), "", "", "", "")
        == #","client":"192.0.2.7:4711","status":400,"bytes_in":0,"bytes_out":0,"total_us":0}"#
    )
    var record = Self.record()
    record.instance = 0
    record.instanceAddress = SocketAddress("10.0.0.9:9000")!
    #expect(try lines.object(record)["instance"] == "10.0.0.9:9000")
    record.instanceAddress = SocketAddress()
    #expect(try lines.object(record)["instance"] == "other")
  }

  @Test("time is RFC 3339 in UTC with milliseconds, across seconds and years")
  func time() throws {
    var lines = Lines()
    for (unix, text) in [
      (0, "1970-01-01T00:00:00.000Z"), (1_709_251_199_999_999, "2024-02-29T23:59:59.999Z"),
      (1_709_251_200_001_000, "2024-03-01T00:00:00.001Z"), (1_709_251_199_010_000, "2024-02-29T23:59:59.010Z"),
      (4_102_444_800_000_000, "2100-01-01T00:00:00.000Z"),
    ] {
      lines.lines.setClock(unixMicroseconds: unix, monotonicMicroseconds: 77)
      var record = Self.record()
      record.startedMicroseconds = 77
      #expect(try lines.object(record)["time"] == .string(text))
    }
  }

  @Test("addresses are written as inet_ntop(3) does, IPv4 in IPv6 as IPv4")
  func addresses() throws {
    var lines = Lines()
    var random = SplitMix64(seed: 7)
    var addresses = [
      "0.0.0.0", "255.255.255.255", "1.20.100.9", "::", "::1", "1::", "2001:db8::1:0:0:1", "2001:db8:0:1:1:1:1:1",
      "fe80::a:b:c:d", "1:2:3:4:5:6:7:8", "0:0:1::", "::2:0:0:0:3", "1:0:0:2::", "64:ff9b::c000:221",
    ]
    for _ in 0..<500 {
      addresses.append(
        (0..<8).map { _ in String(random.next() % 3 == 0 ? UInt16(random.next() & 0xFFFF) : 0, radix: 16) }.joined(
          separator: ":"))
    }
    for host in addresses {
      let address = try #require(SocketAddress(host: host, port: Int(random.next() % 65_536)))
      // inet_ntop(3) writes addresses of 96 zero bits in the deprecated mixed form.
      if address.host.contains(":"), address.host.contains(".") { continue }
      var record = Self.record()
      record.client = address
      #expect(try lines.object(record)["client"] == .string("\(address)"))
    }
    var record = Self.record()
    record.client = SocketAddress(host: "::ffff:192.0.2.1", port: 80)!
    #expect(try lines.object(record)["client"] == "192.0.2.1:80")
  }

  @Test("numbers of every length")
  func numbers() throws {
    var lines = Lines()
    var value: UInt64 = 1
    for _ in 0..<20 {
      for number in [value - 1, value, value + 1] {
        var record = Self.record()
        record.bytesToClient = number
        #expect(lines.text(record, "", "", "", "").contains("\"bytes_out\":\(number),"))
      }
      value = value.multipliedReportingOverflow(by: 10).partialValue
    }
  }

  @Test("whatever bytes a client sends, the line is JSON of ASCII and says them")
  func escaping() throws {
    var lines = Lines()
    var random = SplitMix64(seed: SplitMix64.printedSeed(for: "access log escaping"))
    for count in 0..<200 {
      let bytes = (0..<count).map { _ in
        random.next() % 4 == 0 ? UInt8(truncatingIfNeeded: random.next()) : UInt8(0x41 + random.next() % 26)
      }
      // What stands for the parts of a query is another test's.
      let target = bytes.map { $0 == UInt8(ascii: "?") ? UInt8(ascii: "!") : $0 }
      let line = lines.bytes(Self.record(), [], target.prefix(20).map { $0 }, [], target)
      #expect(line.allSatisfy { $0 >= 0x20 && $0 < 0x7F })
      guard case .object(let object) = try JSON(parsing: String(decoding: line, as: UTF8.self)) else {
        Issue.record("no object")
        continue
      }
      guard count > 0 else { continue }
      #expect(object["path"] == .string(String(String.UnicodeScalarView(target.map { Unicode.Scalar($0) }))))
    }
    // Each byte at each place of a group of eight.
    for value in UInt8.min...UInt8.max {
      for place in 0..<8 {
        var word = [UInt8](repeating: UInt8(ascii: "a"), count: 8)
        word[place] = value
        let packed = word.reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        #expect(ByteCursor.isPlain(packed) == ((0x20..<0x7F).contains(value) && value != 0x22 && value != 0x5C))
      }
    }
  }

  @Test("long texts are cut, and a cut target says so")
  func cuts() throws {
    var lines = Lines()
    let long = String(repeating: "a", count: 9_000)
    let object = try lines.object(Self.record(), id: long, method: long, authority: long, target: "/" + long)
    #expect(object["id"] == .string(String(long.prefix(128))))
    #expect(object["method"] == .string(String(long.prefix(32))))
    #expect(object["host"] == .string(String(long.prefix(255))))
    #expect(object["path"] == .string("/" + String(long.prefix(511))))
    #expect(object["path_cut"] == true)
    let whole = try lines.object(Self.record(), target: "/" + String(long.prefix(511)))
    #expect(whole["path_cut"] == nil)
  }

  @Test("the longest line that there can be fits the room that is kept for one")
  func longestLine() {
    var lines = Lines()
    let worst = [UInt8](repeating: 0xFF, count: 9_000)
    var record = Self.record()
    record.client = SocketAddress(host: "2001:db8:1111:2222:3333:4444:5555:6666", port: 65_535)!
    record.totalMicroseconds = .max
    record.bytesFromClient = .max
    record.bytesToClient = .max
    record.queueMicroseconds = .max
    record.connectMicroseconds = .max
    record.firstByteMicroseconds = .max
    record.retries = .max
    record.flags = [.tls, .resumed, .session, .tunnel]
    (record.route, record.pool, record.instance) = (0, 0, 0)
    let name = String(repeating: "\u{1}\u{10FFFF}", count: 500)
    lines.lines.setNames(routes: [name], pools: [name], instances: [name])
    #expect(lines.bytes(record, worst, worst, worst, worst).count < AccessLogLines.lineBytes)
  }

  @Test("keys of clients are not written")
  func secrets() throws {
    var lines = Lines()
    for (target, path) in [
      ("/?token=secret", "/?token=***"), ("/a?b=c&token=secret&d=e", "/a?b=c&token=***&d=e"),
      ("/a?token=secret&token=secret", "/a?token=***&token=***"), ("/?token=", "/?token=***"), ("/?token", "/?token"),
      ("/?TOKEN=secret", "/?TOKEN=***"), ("/?%74oke%6E=secret", "/?%74oke%6E=***"), ("/?token=a=b?c", "/?token=***"),
      ("/?tokens=public&xtoken=public", "/?tokens=public&xtoken=public"), ("/?a=token=public", "/?a=token=public"),
      ("/token=public?&&x=?&", "/token=public?&&x=?&"), ("/?", "/?"), ("/?%74oke%6=public", "/?%74oke%6=public"),
      ("http://h/?x&token=secret#f", "http://h/?x&token=***"),
    ] { #expect(try lines.object(Self.record(), target: target)["path"] == .string(path)) }
    // Where the cut falls into the value, or into the name.
    for padding in 490..<520 {
      let target = "/?x=" + String(repeating: "y", count: padding) + "&token=secret"
      #expect(!lines.text(Self.record(), "", "", "", target).contains("=s"))
    }
    #expect(try lines.object(Self.record(), authority: "user:secret@example.com")["host"] == "***@example.com")
  }

  @Test("a session's id, which opens its browser, is cut")
  func sessionIDs() throws {
    var lines = Lines()
    var record = Self.record()
    record.flags = .session
    let id = "0123456789abcdef"
    for (target, path) in [
      ("/session/\(id)", "/session/01234567***"),
      ("/session/\(id)/json/version?a=b", "/session/01234567***/json/version?a=b"),
      ("/eu/session/\(id)/", "/eu/session/01234567***/"), ("/session/01234567", "/session/01234567"),
      ("/session/", "/session/"), ("/sessions/\(id)", "/sessions/\(id)"), ("/", "/"),
      ("/?/session/\(id)", "/?/session/\(id)"),
    ] { #expect(try lines.object(record, target: target)["path"] == .string(path)) }
    record.flags = []
    #expect(try lines.object(record, target: "/session/\(id)")["path"] == .string("/session/\(id)"))
  }

  @Test("names follow the table, also when a row goes to another name")
  func names() throws {
    let directory = Directory()
    let labels = LabeledMetrics(workers: 1)
    let log = try AccessLog(.file(directory.log), workers: 1, labels: labels, log: LogWriter(level: .error))
    var leases: [LabelLease] = []
    for index in 0..<300 {
      let lease = labels.lease()
      leases.append(lease)
      var record = Self.record()
      record.route = lease.row(route: "route-\(index)")
      log.workers[0].end(.none, record)
      if index % 50 == 0 { try waitUntil("written") { log.written == index + 1 } }
    }
    #expect(log.close(timeoutMilliseconds: 10_000))
    let lines = try Self.lines(directory.log)
    for (index, line) in lines.enumerated() {
      #expect(line["route"] == .string(index < 256 ? "route-\(index)" : "other"))
    }
    #expect(lines.count == 300)
  }

  // MARK: Ring and texts

  @Test("many records of all sizes from several workers arrive whole, in order, and none twice")
  func order() throws {
    let directory = Directory()
    let labels = LabeledMetrics(workers: 3)
    let log = try AccessLog(
      .file(directory.log), workers: 3, labels: labels, log: LogWriter(level: .error), ringBytes: 8_192)
    let threads = (0..<3).map { worker in
      TestThread { () -> Int in
        var random = SplitMix64(seed: UInt64(worker))
        var sent = 0
        while sent < 5_000 {
          var record = Self.record(UInt16(100 + worker))
          record.bytesFromClient = UInt64(sent)
          let before = log.workers[worker].ring.droppedCount
          let target = "/" + String(repeating: "x", count: Int(random.next() % 600))
          log.workers[worker].end(Self.begin(log.workers[worker], target: target), record)
          if log.workers[worker].ring.droppedCount == before { sent += 1 } else { sched_yield() }
        }
        return sent
      }
    }
    for thread in threads { _ = try thread.join() }
    #expect(log.close(timeoutMilliseconds: 30_000))
    #expect(log.written == 15_000)
    var next = [0, 0, 0]
    for line in try Self.lines(directory.log) {
      let worker = try #require(line["status"]?.int) - 100
      #expect(line["bytes_in"]?.int == next[worker])
      next[worker] += 1
    }
    #expect(next == [5_000, 5_000, 5_000])
  }

  @Test("a full ring drops and counts, and goes on when there is room again")
  func fullRing() {
    let worker = WorkerAccessLog(ringBytes: 4_096, doorbell: nil)
    defer { worker.free() }
    for index in 0..<100 {
      var record = Self.record()
      record.bytesFromClient = UInt64(index)
      worker.end(Self.begin(worker), record)
    }
    var taken: [UInt64] = []
    unsafe worker.ring.drain(upTo: worker.ring.filled) { record, _ in taken.append(record.bytesFromClient) }
    #expect(taken.count > 10 && taken == (0..<UInt64(taken.count)).map { $0 })
    #expect(Int(worker.ring.droppedCount) == 100 - taken.count)
    var last = Self.record()
    last.bytesFromClient = 1_000
    worker.end(Self.begin(worker), last)
    unsafe worker.ring.drain(upTo: worker.ring.filled) { record, _ in taken.append(record.bytesFromClient) }
    #expect(taken.last == 1_000)
  }

  @Test("a worker rings once when half of its ring is full")
  func doorbell() {
    let doorbell = Doorbell()
    defer { doorbell.close() }
    let worker = WorkerAccessLog(ringBytes: 65_536, doorbell: doorbell)
    defer { worker.free() }
    func rings() -> UInt64 {
      var count: UInt64 = 0
      return unsafe read(doorbell.descriptor, &count, 8) == 8 ? count : 0
    }
    for _ in 0..<100 { worker.end(.none, Self.record()) }
    #expect(rings() == 0)
    for _ in 0..<1_000 { worker.end(.none, Self.record()) }
    #expect(rings() == 1)
    unsafe worker.ring.drain(upTo: worker.ring.filled) { _, _ in }
    for _ in 0..<1_000 { worker.end(.none, Self.record()) }
    #expect(rings() == 1)
  }

  @Test("texts of all sizes under way at the same time stay as they were, and their memory is used again")
  func texts() {
    let worker = WorkerAccessLog(ringBytes: 1 << 20, textChunks: 64, doorbell: nil)
    defer { worker.free() }
    var random = SplitMix64(seed: SplitMix64.printedSeed(for: "access log texts"))
    var underWay: [(AccessText, String)] = []
    var wrong = 0
    for step in 0..<50_000 {
      if underWay.count < 1_000, random.next() % 2 == 0 {
        let target = "/\(step)" + String(repeating: "x", count: Int(random.next() % 500))
        underWay.append((Self.begin(worker, target: target), target))
      } else if !underWay.isEmpty {
        let (text, target) = underWay.remove(at: Int(random.next() % UInt64(underWay.count)))
        if random.next() % 4 == 0 {
          worker.drop(text)
        } else {
          worker.end(text, Self.record())
          unsafe worker.ring.drain(upTo: worker.ring.filled) { _, pointer in
            let head = unsafe pointer.load(as: AccessTextHead.self)
            let bytes = (0..<Int(head.targetCount)).map {
              unsafe pointer.load(fromByteOffset: 8 + 3 + 11 + $0, as: UInt8.self)
            }
            if bytes != Array(target.utf8) { wrong += 1 }
          }
        }
      }
    }
    #expect(wrong == 0)
    // At most 1,000 texts of five sizes: without reuse 25,000 would have needed hundreds of chunks.
    #expect(worker.textChunkCount <= 20)
    for (text, _) in underWay { worker.drop(text) }
  }

  @Test("without room for more texts lines are written without them")
  func textLimit() {
    let worker = WorkerAccessLog(ringBytes: 1 << 20, textChunks: 1, doorbell: nil)
    defer { worker.free() }
    let texts = (0..<2_000).map { _ in Self.begin(worker, target: "/" + String(repeating: "x", count: 500)) }
    var withText = 0
    for text in texts { worker.end(text, Self.record()) }
    unsafe worker.ring.drain(upTo: worker.ring.filled) { _, pointer in
      if unsafe pointer.load(as: AccessTextHead.self).targetCount > 0 { withText += 1 }
    }
    #expect(withText == 64)
  }

  @Test("a log that is off takes nothing")
  func off() {
    let worker = WorkerAccessLog.off
    #expect(!worker.isOn)
    worker.end(Self.begin(worker), Self.record())
    worker.drop(.none)
    #expect(worker.ring.droppedCount == 0 && worker.ring.filled == 0)
  }
}

/// The lines of records, without file and thread.
private struct Lines: ~Copyable {
  var lines = AccessLogLines(capacity: 65_536)
  private let worker = WorkerAccessLog(ringBytes: 4_096, doorbell: nil)

  init() { lines.setNames(routes: ["other"], pools: ["other"], instances: ["other"]) }
  deinit { worker.free() }

  mutating func bytes(
    _ record: AccessRecord, _ id: [UInt8], _ method: [UInt8], _ authority: [UInt8], _ target: [UInt8]
  ) -> [UInt8] {
    worker.end(worker.begin(id: id.span, method: method.span, authority: authority.span, target: target.span), record)
    lines.removeAll()
    let worker = worker
    unsafe worker.ring.drain(upTo: worker.ring.filled) { record, text in unsafe lines.append(record, text) }
    return (0..<lines.count - 1).map { unsafe lines.pointer.load(fromByteOffset: $0, as: UInt8.self) }
  }

  /// Behind the time.
  mutating func text(_ record: AccessRecord, _ id: String, _ method: String, _ authority: String, _ target: String)
    -> String
  {
    let bytes = bytes(record, Array(id.utf8), Array(method.utf8), Array(authority.utf8), Array(target.utf8))
    return String(decoding: bytes.dropFirst(#"{"time":"2026-01-02T03:04:05.678Z""#.utf8.count), as: UTF8.self)
  }

  mutating func object(
    _ record: AccessRecord, id: String = "", method: String = "", authority: String = "", target: String = ""
  ) throws -> JSONObject {
    let bytes = bytes(record, Array(id.utf8), Array(method.utf8), Array(authority.utf8), Array(target.utf8))
    return try #require(try JSON(parsing: String(decoding: bytes, as: UTF8.self)).object)
  }
}
