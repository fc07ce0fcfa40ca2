// Records on their way from one worker to the access log's writer: a ring of bytes in fixed memory with one thread at each
// end and no lock. The worker never waits: what does not fit is dropped and counted.
import Posix
import Synchronization

@safe struct AccessRing: @unchecked Sendable {
  // Places in `cells`; each end has a cache line of its own.
  /// Bytes ever put in. Written by the worker.
  private static let head = 0
  /// The worker's copy of `tail`, so that it rarely touches the writer's line.
  private static let knownTail = 1
  private static let dropped = 2
  /// Bytes ever taken out. Written by the writer.
  private static let tail = 8
  /// 1 = the worker has rung since the writer last looked.
  private static let rang = 9
  private static let cellCount = 16

  /// What stands before each record.
  private struct Prefix: BitwiseCopyable {
    /// With this prefix; a multiple of 8.
    var byteCount: UInt32
    /// No record: the ring's end was too short for the next one.
    var isGap: Bool
  }
  private static let recordOffset = 8
  private static let textOffset = recordOffset + (MemoryLayout<AccessRecord>.size + 7) & ~7

  private let memory: UnsafeMutableRawPointer
  private let cells: UnsafeMutablePointer<Atomic<UInt64>>
  private let capacity: Int
  private let doorbell: Doorbell?

  /// - Parameters:
  ///   - bytes: a power of two, or 0 for a ring that takes nothing.
  ///   - doorbell: rung once when the ring gets half full before the writer's time.
  init(bytes: Int, doorbell: Doorbell?) {
    precondition(bytes == 0 || bytes >= 4_096 && bytes & (bytes - 1) == 0, "a ring's size is a power of two")
    capacity = bytes
    self.doorbell = doorbell
    // The writer reads texts in words, up to seven bytes beyond their end.
    unsafe memory = .allocate(byteCount: bytes + 64, alignment: 64)
    unsafe cells = .allocate(capacity: Self.cellCount)
    for index in 0..<Self.cellCount { unsafe (cells + index).initialize(to: Atomic(0)) }
  }

  func free() {
    unsafe memory.deallocate()
    unsafe cells.deallocate()
  }

  @inline(__always) var isOn: Bool { capacity > 0 }

  @inline(__always) private func value(_ cell: Int) -> UInt64 { unsafe cells[cell].load(ordering: .relaxed) }
  @inline(__always) private func put(_ cell: Int, _ value: UInt64) {
    unsafe cells[cell].store(value, ordering: .relaxed)
  }

  // MARK: The worker's end

  /// Puts a record in, with the text that begins with its ``AccessTextHead``, or none.
  @inline(__always) func append(_ record: AccessRecord, _ text: UnsafeRawPointer?) {
    var textBytes = 0
    if let text = unsafe text { textBytes = unsafe Int(text.load(as: AccessTextHead.self).byteCount) }
    let need = (Self.textOffset + max(textBytes, MemoryLayout<AccessTextHead>.size) + 7) & ~7
    let head = value(Self.head)
    let offset = Int(truncatingIfNeeded: head) & (capacity - 1)
    let atEnd = capacity - offset
    let gap = atEnd < need ? atEnd : 0
    var used = Int(truncatingIfNeeded: head &- value(Self.knownTail))
    if used + gap + need > capacity / 2 {
      let tail = unsafe cells[Self.tail].load(ordering: .acquiring)
      put(Self.knownTail, tail)
      used = Int(truncatingIfNeeded: head &- tail)
      if used + gap + need > capacity / 2 { ring() }
      guard used + gap + need <= capacity else { return put(Self.dropped, value(Self.dropped) &+ 1) }
    }
    var place = unsafe memory + offset
    if gap > 0 {
      unsafe place.storeBytes(of: Prefix(byteCount: UInt32(truncatingIfNeeded: gap), isGap: true), as: Prefix.self)
      unsafe place = unsafe memory
    }
    unsafe place.storeBytes(of: Prefix(byteCount: UInt32(truncatingIfNeeded: need), isGap: false), as: Prefix.self)
    unsafe (place + Self.recordOffset).storeBytes(of: record, as: AccessRecord.self)
    if let text = unsafe text {
      unsafe (place + Self.textOffset).copyMemory(from: text, byteCount: textBytes)
    } else {
      unsafe (place + Self.textOffset).storeBytes(of: AccessTextHead(), as: AccessTextHead.self)
    }
    unsafe cells[Self.head].store(head &+ UInt64(truncatingIfNeeded: gap + need), ordering: .releasing)
  }

  /// The writer comes by itself many times a second; only a worker that fills half a ring in between calls it, and once.
  private func ring() {
    guard let doorbell, value(Self.rang) == 0 else { return }
    put(Self.rang, 1)
    doorbell.ring()
  }

  // MARK: The writer's end

  /// Records that found the ring full.
  var droppedCount: UInt64 { value(Self.dropped) }
  /// Where the records that are there now end: what ``drain(upTo:_:)`` takes.
  var filled: UInt64 { unsafe cells[Self.head].load(ordering: .acquiring) }

  func hasRecords(before head: UInt64) -> Bool { head != value(Self.tail) }

  /// Hands records to `body` in order and frees their room. The pointer is that of the ``AccessTextHead``.
  func drain(upTo head: UInt64, _ body: (borrowing AccessRecord, UnsafeRawPointer) -> Void) {
    put(Self.rang, 0)
    var tail = value(Self.tail)
    // Room is given back piece by piece, because `body` may wait for the disk.
    var given = tail
    while tail != head {
      let place = unsafe memory + Int(truncatingIfNeeded: tail) & (capacity - 1)
      let prefix = unsafe place.load(as: Prefix.self)
      if !prefix.isGap {
        unsafe body(
          (place + Self.recordOffset).load(as: AccessRecord.self), UnsafeRawPointer(place + Self.textOffset))
      }
      tail &+= UInt64(prefix.byteCount)
      if tail &- given >= 65_536 {
        unsafe cells[Self.tail].store(tail, ordering: .releasing)
        given = tail
      }
    }
    unsafe cells[Self.tail].store(tail, ordering: .releasing)
  }
}
