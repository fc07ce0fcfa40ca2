// Fills a span of fixed size with pieces of bytes. Every head and PROXY header that goes out is written by it, so this
// is the one place where bytes are moved in bulk.

/// Where the next byte goes, and whether one had no room: then nothing more is written and the result is not used.
struct ByteWriter {
  private(set) var count = 0
  private(set) var overflowed = false

  /// Bytes written, or nil when they had no room.
  @inline(__always) var result: Int? { overflowed ? nil : count }

  @inline(__always) mutating func append(_ byte: UInt8, _ out: inout MutableSpan<UInt8>) {
    guard count < out.count else {
      overflowed = true
      return
    }
    out[count] = byte
    count += 1
  }

  @inline(__always) mutating func append(_ bytes: Span<UInt8>, _ slice: Slice, _ out: inout MutableSpan<UInt8>) {
    precondition(slice.upper <= bytes.count, "a slice lies within its bytes")
    let length = Int(slice.count)
    let start = count
    guard room(for: length, out.count), length > 0 else { return }
    unsafe out.withUnsafeMutableBufferPointer { target in
      unsafe bytes.withUnsafeBufferPointer { source in
        unsafe (target.baseAddress! + start).update(from: source.baseAddress! + slice.lower, count: length)
      }
    }
  }

  @inline(__always) mutating func append(_ bytes: Span<UInt8>, _ out: inout MutableSpan<UInt8>) {
    append(bytes, Slice(0, bytes.count), &out)
  }

  @inline(__always) mutating func append(_ text: StaticString, _ out: inout MutableSpan<UInt8>) {
    let length = text.utf8CodeUnitCount
    let start = count
    guard room(for: length, out.count) else { return }
    unsafe out.withUnsafeMutableBufferPointer { target in
      unsafe (target.baseAddress! + start).update(from: text.utf8Start, count: length)
    }
  }

  /// A decimal number.
  mutating func append(decimal value: Int, _ out: inout MutableSpan<UInt8>) {
    var divisor = 1
    while value / divisor >= 10 { divisor *= 10 }
    while divisor > 0 {
      append(UInt8(0x30 + value / divisor % 10), &out)
      divisor /= 10
    }
  }

  /// Takes the room for so many bytes.
  @inline(__always) private mutating func room(for length: Int, _ capacity: Int) -> Bool {
    guard !overflowed, capacity - count >= length else {
      overflowed = true
      return false
    }
    count += length
    return true
  }
}
