// An IPv4 or IPv6 address with port, in the form that the kernel takes, or a unix socket (SocketAddress+Unix.swift). Used by
// every room that opens sockets.
import Glibc

/// A socket address of 28 bytes: room for sockaddr_in6(7), which is the larger of the two.
package struct SocketAddress: Sendable, BitwiseCopyable {
  private var storage: InlineArray<7, UInt32>
  package private(set) var length: UInt32

  /// Parses an address literal, e.g. `127.0.0.1` or `::1`, or `unix:` with a path; names are not resolved.
  package init?(host: String, port: Int) {
    guard (0...65_535).contains(port) else { return nil }
    if host.hasPrefix("unix:") {
      guard let address = SocketAddress(unixPath: String(host.dropFirst(5))) else { return nil }
      self = address
      return
    }
    storage = InlineArray(repeating: 0)
    length = 0
    var four = sockaddr_in()
    var six = sockaddr_in6()
    let bare = host.first == "[" && host.last == "]" ? String(host.dropFirst().dropLast()) : host
    if unsafe inet_pton(AF_INET, bare, &four.sin_addr) == 1 {
      four.sin_family = sa_family_t(AF_INET)
      four.sin_port = UInt16(port).bigEndian
      unsafe withUnsafeMutableBytes(of: &storage) { to in
        unsafe withUnsafeBytes(of: &four) { unsafe to.copyMemory(from: $0) }
      }
      length = UInt32(MemoryLayout<sockaddr_in>.size)
    } else if unsafe inet_pton(AF_INET6, bare, &six.sin6_addr) == 1 {
      six.sin6_family = sa_family_t(AF_INET6)
      six.sin6_port = UInt16(port).bigEndian
      unsafe withUnsafeMutableBytes(of: &storage) { to in
        unsafe withUnsafeBytes(of: &six) { unsafe to.copyMemory(from: $0) }
      }
      length = UInt32(MemoryLayout<sockaddr_in6>.size)
    } else {
      return nil
    }
  }

  /// Parses `host:port`, e.g. `127.0.0.1:8080` or `[::1]:8080`, or `unix:/path`; `localhost` stands for 127.0.0.1.
  package init?(_ text: String) {
    if text.hasPrefix("unix:") {
      self.init(host: text, port: 0)
      return
    }
    guard let colon = text.lastIndex(of: ":"), let port = Int(text[text.index(after: colon)...]) else { return nil }
    let host = String(text[..<colon])
    self.init(host: host == "localhost" ? "127.0.0.1" : host, port: port)
  }

  /// As accept(2) and getsockname(2) fill it.
  package init() {
    storage = InlineArray(repeating: 0)
    length = UInt32(MemoryLayout<sockaddr_in6>.size)
  }

  /// The number of a unix socket's path.
  init(unixNumber: UInt32) {
    storage = InlineArray(repeating: 0)
    storage[0] = UInt32(AF_UNIX)
    storage[1] = unixNumber
    length = 8
  }

  var unixNumber: UInt32 { storage[1] }

  package var isIPv6: Bool { storage[0] & 0xFFFF == UInt32(AF_INET6) }
  package var isUnix: Bool { storage[0] & 0xFFFF == UInt32(AF_UNIX) }

  /// The port; sin_port and sin6_port stand at the same place.
  package var port: Int { isUnix ? 0 : Int(UInt16(truncatingIfNeeded: storage[0] >> 16).byteSwapped) }

  /// It can be reached from this machine only.
  package var isLoopback: Bool {
    if isUnix { return true }
    var copy = storage
    return unsafe withUnsafeBytes(of: &copy) { bytes in
      if !isIPv6 { return unsafe bytes[4] == 127 }
      let loopback = unsafe bytes[8..<23].allSatisfy { $0 == 0 } && bytes[23] == 1
      let mapped =
        unsafe bytes[8..<18].allSatisfy { $0 == 0 } && bytes[18] == 0xFF && bytes[19] == 0xFF && bytes[20] == 127
      return loopback || mapped
    }
  }

  /// The address without its port, e.g. `127.0.0.1`, or `unix:/path`.
  package var host: String {
    if isUnix { return "unix:\(unixPath ?? "")" }
    var copy = storage
    var text = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
    return unsafe withUnsafeBytes(of: &copy) { bytes in
      let address = unsafe bytes.baseAddress! + (isIPv6 ? 8 : 4)
      guard unsafe inet_ntop(isIPv6 ? AF_INET6 : AF_INET, address, &text, socklen_t(text.count)) != nil else {
        return "?"
      }
      return String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
  }

  /// The address as one number of 128 bits, an IPv4 address as the IPv4-mapped one (RFC 4291, 2.5.5.2), so that
  /// ::ffff:10.0.0.1 is 10.0.0.1.
  var number: (high: UInt64, low: UInt64) {
    // Whoever comes over a unix socket is on this machine.
    if isUnix { return (0, 0xFFFF_7F00_0001) }
    func half(_ first: Int) -> UInt64 {
      UInt64(UInt32(bigEndian: storage[first])) << 32 | UInt64(UInt32(bigEndian: storage[first + 1]))
    }
    return isIPv6 ? (half(2), half(4)) : (0, 0xFFFF_0000_0000 | UInt64(UInt32(bigEndian: storage[1])))
  }

  mutating func withMutablePointer<R>(_ body: (UnsafeMutablePointer<sockaddr>, UnsafeMutablePointer<UInt32>) -> R)
    -> R
  {
    unsafe withUnsafeMutablePointer(to: &storage) { storage in
      unsafe storage.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
        unsafe withUnsafeMutablePointer(to: &length) { unsafe body(address, $0) }
      }
    }
  }

  func withPointer<R>(_ body: (UnsafePointer<sockaddr>, UInt32) -> R) -> R {
    unsafe withUnsafePointer(to: storage) { storage in
      unsafe storage.withMemoryRebound(to: sockaddr.self, capacity: 1) { unsafe body($0, length) }
    }
  }
}

extension SocketAddress: CustomStringConvertible {
  package var description: String { isUnix ? host : isIPv6 ? "[\(host)]:\(port)" : "\(host):\(port)" }
}
