// Bytes that a connection holds while they are in flight: an unfinished head, or what the kernel did not take. An idle
// connection holds none. Blocks of one size are recycled by the worker; larger ones come from malloc.

/// A piece of memory with a filled part. A plain value: whoever drops it without ``free(_:)`` leaks it.
@safe struct Bytes: BitwiseCopyable {
  fileprivate var base: UnsafeMutableRawPointer?
  private(set) var start: Int32 = 0
  private(set) var count: Int32 = 0
  private(set) var capacity: Int32 = 0

  init() { unsafe base = nil }

  @inline(__always) var isEmpty: Bool { count == 0 }
  @inline(__always) var pointer: UnsafeRawPointer { unsafe UnsafeRawPointer(base!) + Int(start) }
  /// Room behind the filled part.
  @inline(__always) var room: Int { Int(capacity - start - count) }
  @inline(__always) var end: UnsafeMutableRawPointer { unsafe base! + Int(start + count) }
  @inline(__always) var span: Span<UInt8> {
    @_lifetime(borrow self) get {
      unsafe _overrideLifetime(
        Span(_unsafeStart: pointer.assumingMemoryBound(to: UInt8.self), count: Int(count)), borrowing: self)
    }
  }

  @inline(__always) mutating func filled(_ more: Int) { count += Int32(more) }

  /// Drops the first bytes; gives the memory back when none is left.
  @inline(__always) mutating func consume(_ bytes: Int, _ pool: borrowing BufferPool) {
    start += Int32(bytes)
    count -= Int32(bytes)
    if count == 0 { free(pool) }
  }

  /// Makes room for at least so many bytes behind the filled part.
  mutating func reserve(_ bytes: Int, _ pool: borrowing BufferPool) {
    if room >= bytes { return }
    if unsafe base != nil, Int(capacity - count) >= bytes, start >= count {
      unsafe base!.copyMemory(from: pointer, byteCount: Int(count))
      start = 0
      return
    }
    let wanted = Int(count) + bytes
    var fresh = Bytes()
    let size = wanted <= BufferPool.blockBytes ? BufferPool.blockBytes : max(wanted, Int(capacity) * 2)
    unsafe fresh.base = unsafe pool.take(size)
    fresh.capacity = Int32(size)
    if count > 0 { unsafe fresh.base!.copyMemory(from: pointer, byteCount: Int(count)) }
    fresh.count = count
    free(pool)
    self = fresh
  }

  mutating func append(_ bytes: UnsafeRawPointer, _ more: Int, _ pool: borrowing BufferPool) {
    reserve(more, pool)
    unsafe end.copyMemory(from: bytes, byteCount: more)
    count += Int32(more)
  }

  @inline(__always) mutating func free(_ pool: borrowing BufferPool) {
    if unsafe base != nil { unsafe pool.give(base!, Int(capacity)) }
    self = Bytes()
  }
}

/// A worker's recycled blocks.
@safe struct BufferPool: ~Copyable {
  /// Holds nearly every request head.
  static let blockBytes = 4_096
  private static let keep = 1_024
  @safe private struct State {
    var freeList: UnsafeMutableRawPointer?
    var freeCount = 0
    var outstanding = 0
  }
  private let state: UnsafeMutablePointer<State>

  init() {
    unsafe state = .allocate(capacity: 1)
    unsafe state.initialize(to: State())
  }

  deinit {
    while let block = unsafe state.pointee.freeList {
      unsafe state.pointee.freeList = unsafe block.load(as: UnsafeMutableRawPointer?.self)
      unsafe block.deallocate()
    }
    unsafe state.deallocate()
  }

  /// Bytes that connections hold now.
  var outstandingBytes: Int { unsafe state.pointee.outstanding }

  @inline(__always) fileprivate func take(_ size: Int) -> UnsafeMutableRawPointer {
    unsafe state.pointee.outstanding += size
    if size == Self.blockBytes, let block = unsafe state.pointee.freeList {
      unsafe state.pointee.freeList = unsafe block.load(as: UnsafeMutableRawPointer?.self)
      unsafe state.pointee.freeCount -= 1
      return unsafe block
    }
    return .allocate(byteCount: size, alignment: 16)
  }

  @inline(__always) fileprivate func give(_ block: UnsafeMutableRawPointer, _ size: Int) {
    unsafe state.pointee.outstanding -= size
    guard size == Self.blockBytes, unsafe state.pointee.freeCount < Self.keep else {
      unsafe block.deallocate()
      return
    }
    unsafe block.storeBytes(of: state.pointee.freeList, as: UnsafeMutableRawPointer?.self)
    unsafe state.pointee.freeList = block
    unsafe state.pointee.freeCount += 1
  }
}
