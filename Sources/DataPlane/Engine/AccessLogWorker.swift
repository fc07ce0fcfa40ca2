// A worker's end of the access log: text of requests under way in recycled cells, and a ring in fixed memory that finished
// records are put into. Nothing here waits, allocates per request or wakes a thread per record. The writer's end is in
// AccessLog.
import Posix

/// Names the text of a request under way. ``none``: there is none.
package struct AccessText: BitwiseCopyable, Sendable {
  fileprivate var handle: UInt32
  package static let none = AccessText(handle: 0)
}

/// A plain value that the worker keeps; the memory belongs to ``AccessLog``. All methods are for the worker's thread.
@safe package struct WorkerAccessLog: @unchecked Sendable {
  let ring: AccessRing
  private let texts: AccessTexts

  /// A log that is off: every call returns at once.
  package static let off = WorkerAccessLog(ring: AccessRing(bytes: 0, doorbell: nil), texts: AccessTexts(chunks: 0))

  private init(ring: AccessRing, texts: AccessTexts) {
    self.ring = ring
    self.texts = texts
  }

  init(ringBytes: Int, textChunks: Int = AccessTexts.defaultChunks, doorbell: Doorbell?) {
    self.init(ring: AccessRing(bytes: ringBytes, doorbell: doorbell), texts: AccessTexts(chunks: textChunks))
  }

  func free() {
    ring.free()
    texts.free()
  }

  @inline(__always) package var isOn: Bool { ring.isOn }
  /// Pieces of memory that texts have taken so far.
  var textChunkCount: Int { texts.chunkCount }

  /// Keeps what the end of the request shall tell of its head. Every text but ``AccessText/none`` is given back once, by
  /// ``end(_:_:)`` or ``drop(_:)``.
  /// - Parameters:
  ///   - id: the request's id.
  ///   - target: path and query as they came.
  @inline(__always) package func begin(
    id: Span<UInt8>, method: Span<UInt8>, authority: Span<UInt8>, target: Span<UInt8>
  ) -> AccessText {
    guard isOn else { return .none }
    return texts.keep(id, method, authority, target)
  }

  /// Logs a record with this text, or without any, and gives the text back. A full ring drops the record and counts it.
  @inline(__always) package func end(_ text: AccessText, _ record: AccessRecord) {
    guard isOn else { return }
    unsafe ring.append(record, texts.pointer(text))
    texts.drop(text)
  }

  /// Gives a text back without a line in the log.
  @inline(__always) package func drop(_ text: AccessText) { texts.drop(text) }
}

/// The text of one request: this head, then the bytes of its parts one behind the other.
struct AccessTextHead: BitwiseCopyable {
  /// Of head and parts.
  var byteCount: UInt16 = 8
  var targetCount: UInt16 = 0
  var idCount: UInt8 = 0
  var methodCount: UInt8 = 0
  var authorityCount: UInt8 = 0
  /// The target was longer.
  var isCut = false
}

/// Cells of 64 to 1,024 bytes in chunks of 64 KiB; a chunk holds cells of one size. Chunks are never given back: a worker
/// that once had so many requests under way may have them again.
@safe struct AccessTexts {
  static let chunkBytes = 65_536
  private static let cellBytes = 64
  /// 64 MiB: a text of 128 bytes for half a million connections.
  static let defaultChunks = 1_024

  private struct State {
    /// First free cell by size; 0 = none.
    var free = InlineArray<5, UInt32>(repeating: 0)
    var chunkCount = 0
  }
  private let state: UnsafeMutablePointer<State>
  private let chunks: UnsafeMutablePointer<UnsafeMutableRawPointer>
  private let limit: Int

  init(chunks limit: Int) {
    self.limit = limit
    unsafe state = .allocate(capacity: 1)
    unsafe state.initialize(to: State())
    unsafe chunks = .allocate(capacity: max(limit, 1))
  }

  func free() {
    for index in 0..<(unsafe state.pointee.chunkCount) { unsafe chunks[index].deallocate() }
    unsafe chunks.deallocate()
    unsafe state.deallocate()
  }

  var chunkCount: Int { unsafe state.pointee.chunkCount }

  /// Where the text stands, or nil. A handle is 1 + the cell's number, counted in units of 64 bytes over all chunks.
  @inline(__always) func pointer(_ text: AccessText) -> UnsafeRawPointer? {
    guard text.handle != 0 else { return nil }
    return unsafe UnsafeRawPointer(cell(text.handle))
  }

  @inline(__always) private func cell(_ handle: UInt32) -> UnsafeMutableRawPointer {
    let unit = Int(handle - 1)
    precondition(unsafe unit >> 10 < state.pointee.chunkCount, "no such text")
    return unsafe chunks[unit >> 10] + (unit & 1_023) * Self.cellBytes
  }

  /// 0 for 64 bytes, 4 for 1,024.
  @inline(__always) private func size(_ bytes: Int) -> Int {
    Int.bitWidth - ((bytes - 1) / Self.cellBytes).leadingZeroBitCount
  }

  @inline(__always) func keep(
    _ id: Span<UInt8>, _ method: Span<UInt8>, _ authority: Span<UInt8>, _ target: Span<UInt8>
  ) -> AccessText {
    let idCount = min(id.count, AccessRecord.idBytes)
    let methodCount = min(method.count, AccessRecord.methodBytes)
    let authorityCount = min(authority.count, AccessRecord.authorityBytes)
    let targetCount = min(target.count, AccessRecord.targetBytes)
    let bytes = MemoryLayout<AccessTextHead>.size + idCount + methodCount + authorityCount + targetCount
    let size = size(bytes)
    var handle = unsafe state.pointee.free.span[size]
    if handle == 0 {
      handle = grow(size)
      guard handle != 0 else { return .none }
    }
    let cell = unsafe cell(handle)
    unsafe state.pointee.free[size] = unsafe cell.load(as: UInt32.self)
    unsafe cell.storeBytes(
      of: AccessTextHead(
        byteCount: UInt16(truncatingIfNeeded: bytes), targetCount: UInt16(truncatingIfNeeded: targetCount),
        idCount: UInt8(truncatingIfNeeded: idCount), methodCount: UInt8(truncatingIfNeeded: methodCount),
        authorityCount: UInt8(truncatingIfNeeded: authorityCount), isCut: target.count > targetCount),
      as: AccessTextHead.self)
    var to = unsafe cell + MemoryLayout<AccessTextHead>.size
    unsafe copy(id, idCount, &to)
    unsafe copy(method, methodCount, &to)
    unsafe copy(authority, authorityCount, &to)
    unsafe copy(target, targetCount, &to)
    return AccessText(handle: handle)
  }

  @inline(__always) private func copy(_ from: Span<UInt8>, _ count: Int, _ to: inout UnsafeMutableRawPointer) {
    guard count > 0 else { return }
    unsafe from.withUnsafeBytes { unsafe to.copyMemory(from: $0.baseAddress!, byteCount: count) }
    unsafe to += count
  }

  @inline(__always) func drop(_ text: AccessText) {
    guard text.handle != 0 else { return }
    let cell = unsafe cell(text.handle)
    let size = size(unsafe Int(cell.load(as: AccessTextHead.self).byteCount))
    unsafe cell.storeBytes(of: state.pointee.free.span[size], as: UInt32.self)
    unsafe state.pointee.free[size] = text.handle
  }

  /// A new chunk, cut into free cells of one size; its first cell, or 0 at the limit.
  private func grow(_ size: Int) -> UInt32 {
    let chunk = unsafe state.pointee.chunkCount
    guard chunk < limit else { return 0 }
    let memory = UnsafeMutableRawPointer.allocate(byteCount: Self.chunkBytes, alignment: 64)
    unsafe chunks[chunk] = unsafe memory
    unsafe state.pointee.chunkCount = chunk + 1
    let units = 1 << size
    var next: UInt32 = 0
    for unit in stride(from: 1_024 - units, through: 0, by: -units) {
      unsafe memory.storeBytes(of: next, toByteOffset: unit * Self.cellBytes, as: UInt32.self)
      next = UInt32(chunk << 10 + unit + 1)
    }
    return next
  }
}
