// Lines of the access log: records as JSON in the writer's buffer. Every request of every worker comes through here and
// what it costs is the proxy's cost, so nothing is allocated and whatever repeats is prepared once.
import Glibc
import JSON
import Posix
import ProxyMachine

/// The writer's buffer, and what it remembers from line to line.
@safe struct AccessLogLines: ~Copyable {
  /// What one line needs at most: each byte of a text may become six, and all else is below 1 KiB.
  static let lineBytes =
    6 * (AccessRecord.idBytes + AccessRecord.methodBytes + AccessRecord.authorityBytes + AccessRecord.targetBytes)
    + 4 * NamedFields.fieldBytes + 1_024

  private let base: UnsafeMutablePointer<UInt8>
  private let capacity: Int
  private(set) var count = 0
  /// Lines in the buffer.
  private(set) var lines = 0
  /// Unix time minus monotonic time, in microseconds.
  private var unixOffset = 0
  /// The second that `stamp` tells, in microseconds of Unix time.
  private var stampMicroseconds = Int.max / 2
  /// `{"time":"2026-01-02T03:04:05.` and room for what writing it writes more.
  private var stamp = InlineArray<40, UInt8>(repeating: 0)
  private var routes = NamedFields("route", [])
  private var pools = NamedFields("pool", [])
  private var instances = NamedFields("instance", [])
  private let reasons = NamedFields("reason", CloseReason.allCases.map(\.label))

  init(capacity: Int) {
    precondition(capacity >= Self.lineBytes, "the buffer holds one line at least")
    self.capacity = capacity
    unsafe base = .allocate(capacity: capacity)
  }

  deinit { unsafe base.deallocate() }

  var hasRoom: Bool { capacity - count >= Self.lineBytes }
  var pointer: UnsafeRawPointer { unsafe UnsafeRawPointer(base) }

  mutating func removeAll() {
    count = 0
    lines = 0
  }

  /// For records that workers stamp by the monotonic clock; called before each batch, because the other clock is set at times.
  mutating func setClock(unixMicroseconds: Int, monotonicMicroseconds: Int) {
    unixOffset = unixMicroseconds - monotonicMicroseconds
  }

  mutating func setNames(routes: [String], pools: [String], instances: [String]) {
    self.routes = NamedFields("route", routes)
    self.pools = NamedFields("pool", pools)
    self.instances = NamedFields("instance", instances)
  }

  // MARK: A line

  /// Appends a record's line; there must be room.
  /// - Parameter text: begins with its ``AccessTextHead``.
  mutating func append(_ record: borrowing AccessRecord, _ text: UnsafeRawPointer) {
    precondition(hasRoom, "the buffer is written out before it is full")
    let head = unsafe text.load(as: AccessTextHead.self)
    var part = unsafe text + MemoryLayout<AccessTextHead>.size
    var out = unsafe ByteCursor(base + count)
    var fraction = record.startedMicroseconds + unixOffset - stampMicroseconds
    if fraction < 0 || fraction >= 1_000_000 { fraction = setStamp(record.startedMicroseconds + unixOffset) }
    unsafe withUnsafeBytes(of: stamp) { unsafe out.copy($0.baseAddress!, 29) }
    out.digits(fraction / 1_000, width: 3)
    out.literal("Z\",\"client\":\"")
    out.address(record.client)
    if head.idCount > 0 {
      out.literal("\",\"id\":\"")
      unsafe out.escaped(part, Int(head.idCount))
      unsafe part += Int(head.idCount)
    }
    if head.methodCount > 0 {
      out.literal("\",\"method\":\"")
      unsafe out.escaped(part, Int(head.methodCount))
      unsafe part += Int(head.methodCount)
    }
    if head.authorityCount > 0 {
      out.literal("\",\"host\":\"")
      unsafe out.host(part, Int(head.authorityCount))
      unsafe part += Int(head.authorityCount)
    }
    if head.targetCount > 0 {
      out.literal("\",\"path\":\"")
      let isSession = record.flags.rawValue & AccessRecord.Flags.session.rawValue != 0
      unsafe out.target(part, Int(head.targetCount), isSession: isSession)
    }
    out.literal("\",\"status\":")
    out.number(Int(record.status))
    out.literal(",\"bytes_in\":")
    out.number(record.bytesFromClient)
    out.literal(",\"bytes_out\":")
    out.number(record.bytesToClient)
    if record.queueMicroseconds >= 0 {
      out.literal(",\"queue_us\":")
      out.number(Int(record.queueMicroseconds))
    }
    if record.connectMicroseconds >= 0 {
      out.literal(",\"connect_us\":")
      out.number(Int(record.connectMicroseconds))
    }
    if record.firstByteMicroseconds >= 0 {
      out.literal(",\"first_byte_us\":")
      out.number(Int(record.firstByteMicroseconds))
    }
    out.literal(",\"total_us\":")
    out.number(record.totalMicroseconds)
    if record.route != AccessRecord.noRow { routes.write(Int(record.route), to: &out) }
    if record.pool != AccessRecord.noRow { pools.write(Int(record.pool), to: &out) }
    if record.instance != AccessRecord.noRow {
      if record.instance == 0, record.hasInstanceAddress {
        out.literal(",\"instance\":\"")
        out.address(record.instanceAddress)
        out.byte(UInt8(ascii: "\""))
      } else {
        instances.write(Int(record.instance), to: &out)
      }
    }
    if record.retries > 0 {
      out.literal(",\"retries\":")
      out.number(Int(record.retries))
    }
    if record.flags.rawValue != 0 { flags(record.flags, &out) }
    if head.isCut { out.literal(",\"path_cut\":true") }
    if record.reason != .responseComplete { reasons.write(Int(record.reason.rawValue), to: &out) }
    out.literal("}\n")
    unsafe count = out.place - base
    lines += 1
  }

  @inline(__always) private func flags(_ flags: AccessRecord.Flags, _ out: inout ByteCursor) {
    if flags.rawValue & AccessRecord.Flags.tls.rawValue != 0 { out.literal(",\"tls\":true") }
    if flags.rawValue & AccessRecord.Flags.resumed.rawValue != 0 { out.literal(",\"resumed\":true") }
    if flags.rawValue & AccessRecord.Flags.session.rawValue != 0 { out.literal(",\"session\":true") }
    if flags.rawValue & AccessRecord.Flags.tunnel.rawValue != 0 { out.literal(",\"tunnel\":true") }
  }

  /// Prepares date and time of a second, RFC 3339 in UTC; the microseconds beyond it.
  private mutating func setStamp(_ unixMicroseconds: Int) -> Int {
    let (second, fraction) = max(unixMicroseconds, 0).quotientAndRemainder(dividingBy: 1_000_000)
    stampMicroseconds = second * 1_000_000
    var time = time_t(second)
    var parts = unsafe tm()
    _ = unsafe gmtime_r(&time, &parts)
    unsafe withUnsafeMutableBytes(of: &stamp) { stamp in
      var out = unsafe ByteCursor(stamp.baseAddress!.assumingMemoryBound(to: UInt8.self))
      out.literal("{\"time\":\"")
      for (value, width, after): (Int32, Int, StaticString) in unsafe [
        (parts.tm_year + 1900, 4, "-"), (parts.tm_mon + 1, 2, "-"), (parts.tm_mday, 2, "T"), (parts.tm_hour, 2, ":"),
        (parts.tm_min, 2, ":"), (parts.tm_sec, 2, "."),
      ] {
        out.digits(Int(value), width: width)
        out.literal(after)
      }
    }
    return fraction
  }
}

/// `,"route":"all"` for each row, ready to be copied.
@safe struct NamedFields: ~Copyable {
  /// A field is no longer than this: names are cut.
  static let fieldBytes = 2_048
  private static let nameCharacters = 64

  private let text: FixedArray<UInt8>
  private let ends: FixedArray<UInt32>

  init(_ field: StaticString, _ names: [String]) {
    var text: [UInt8] = []
    var ends: [UInt32] = []
    for name in names {
      text += ",\"\(field)\":".utf8
      text += JSON.string(String(name.prefix(Self.nameCharacters))).bytes
      ends.append(UInt32(text.count))
    }
    // Copies read up to 15 bytes too many.
    self.text = FixedArray(text + [UInt8](repeating: 0, count: 16))
    self.ends = FixedArray(ends)
  }

  deinit {
    text.free()
    ends.free()
  }

  /// Nothing for a row that has no name.
  @inline(__always) func write(_ row: Int, to out: inout ByteCursor) {
    guard row < ends.count else { return }
    let start = row == 0 ? 0 : Int(ends[row - 1])
    unsafe out.copy(text.span + start, Int(ends[row]) - start)
  }
}

// MARK: What must not be written

extension ByteCursor {
  /// An authority without its userinfo, which may be a key.
  @inline(__always) fileprivate mutating func host(_ from: UnsafeRawPointer, _ count: Int) {
    let at = unsafe Self.find(UInt8(ascii: "@"), from, count)
    guard at < count else { return unsafe escaped(from, count) }
    literal("***")
    unsafe escaped(from + at, count - at)
  }

  /// Path and query; the value of `token` becomes `***`, and so does what follows the beginning of a session's id.
  @inline(__always) fileprivate mutating func target(_ from: UnsafeRawPointer, _ count: Int, isSession: Bool) {
    let mark = unsafe Self.find(UInt8(ascii: "?"), from, count)
    if isSession { unsafe sessionPath(from, mark) } else { unsafe escaped(from, mark) }
    if mark < count { unsafe query(from, count, start: mark) }
  }

  /// Characters of a session's id that are shown: enough to find it in other logs, and too few to use it.
  private static var shownOfID: Int { 8 }

  private mutating func sessionPath(_ from: UnsafeRawPointer, _ count: Int) {
    let word: StaticString = "/session/"
    var start = 0
    while start + word.utf8CodeUnitCount < count {
      start += unsafe Self.find(UInt8(ascii: "/"), from + start, count - start)
      let id = start + word.utf8CodeUnitCount
      guard id < count else { break }
      if unsafe memcmp(from + start, word.utf8Start, word.utf8CodeUnitCount) == 0 {
        let length = unsafe Self.find(UInt8(ascii: "/"), from + id, count - id)
        guard length > Self.shownOfID else { break }
        unsafe escaped(from, id + Self.shownOfID)
        literal("***")
        return unsafe escaped(from + id + length, count - id - length)
      }
      start += 1
    }
    unsafe escaped(from, count)
  }

  /// From the `?` on.
  private mutating func query(_ from: UnsafeRawPointer, _ count: Int, start mark: Int) {
    byte(UInt8(ascii: "?"))
    var start = mark + 1
    while start <= count {
      let parameter = unsafe from + start
      let length = unsafe Self.find(UInt8(ascii: "&"), parameter, count - start)
      let name = unsafe Self.find(UInt8(ascii: "="), parameter, length)
      if name < length, unsafe Self.isToken(parameter, name) {
        unsafe escaped(parameter, name + 1)
        literal("***")
      } else {
        unsafe escaped(parameter, length)
      }
      start += length
      if start < count { byte(UInt8(ascii: "&")) }
      start += 1
    }
  }

  /// Whether a parameter's name is `token` to whoever decodes it: in any case, and percent-encoded or not.
  private static func isToken(_ name: UnsafeRawPointer, _ count: Int) -> Bool {
    var index = 0
    for wanted in "token".utf8 {
      guard index < count else { return false }
      var byte = unsafe name.load(fromByteOffset: index, as: UInt8.self)
      if byte == UInt8(ascii: "%"), index + 2 < count,
        let high = unsafe digit(name.load(fromByteOffset: index + 1, as: UInt8.self)),
        let low = unsafe digit(name.load(fromByteOffset: index + 2, as: UInt8.self))
      {
        byte = high << 4 | low
        index += 2
      }
      guard byte | 0x20 == wanted else { return false }
      index += 1
    }
    return index == count
  }

  private static func digit(_ byte: UInt8) -> UInt8? {
    switch byte {
    case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - UInt8(ascii: "0")
    case UInt8(ascii: "a")...UInt8(ascii: "f"): byte - UInt8(ascii: "a") + 10
    case UInt8(ascii: "A")...UInt8(ascii: "F"): byte - UInt8(ascii: "A") + 10
    default: nil
    }
  }
}
