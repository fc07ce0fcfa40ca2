// Memory of a worker that is indexed on every event: bounds-checked, without reference counts and exclusivity checks,
// which Swift's arrays inside a class would cost on each access.

import Posix

@safe struct FixedArray<Element: BitwiseCopyable> {
  private let base: UnsafeMutablePointer<Element>
  let count: Int

  init(repeating element: Element, count: Int) {
    self.count = count
    unsafe base = .allocate(capacity: max(count, 1))
    unsafe base.initialize(repeating: element, count: count)
  }

  init(_ elements: [Element]) {
    count = elements.count
    unsafe base = .allocate(capacity: max(count, 1))
    for (index, element) in elements.enumerated() { unsafe (base + index).initialize(to: element) }
  }

  @inline(__always) subscript(index: Int) -> Element {
    @_transparent unsafeAddress {
      precondition(UInt(bitPattern: index) < UInt(bitPattern: count), "index out of range")
      return unsafe UnsafePointer(base + index)
    }
    @_transparent nonmutating unsafeMutableAddress {
      precondition(UInt(bitPattern: index) < UInt(bitPattern: count), "index out of range")
      return unsafe base + index
    }
  }

  @inline(__always) var span: UnsafeRawPointer { unsafe UnsafeRawPointer(base) }

  /// Elements from `start` on, as long as the array is neither changed nor freed.
  @inline(__always) @_lifetime(immortal) func part(_ start: Int, _ length: Int) -> Span<Element> {
    precondition(start >= 0 && length >= 0 && start + length <= count, "index out of range")
    return unsafe _overrideLifetime(Span(_unsafeStart: UnsafePointer(base + start), count: length), copying: ())
  }

  func free() { unsafe base.deallocate() }
}

extension FixedArray<AddressRange> {
  /// Whether some block has the address: asked once a connection, without the reference count of an array.
  func holds(_ address: SocketAddress) -> Bool {
    for index in 0..<count where self[index].contains(address) { return true }
    return false
  }
}
