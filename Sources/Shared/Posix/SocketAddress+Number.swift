// Addresses as numbers: how limits, hashes and the PROXY protocol see them.
import Glibc

extension SocketAddress {
  /// 128 bits in two halves, first octet highest; an IPv4 address as the IPv4-mapped one (RFC 4291 §2.5.5.2).
  package var bits: (high: UInt64, low: UInt64) { number }

  /// The address of these bits; an IPv4-mapped one becomes the IPv4 address that it is.
  package init(high: UInt64, low: UInt64, port: UInt16) {
    self.init()
    let isIPv4 = high == 0 && low >> 32 == 0xFFFF
    var four = sockaddr_in()
    four.sin_family = sa_family_t(AF_INET)
    four.sin_port = port.bigEndian
    four.sin_addr.s_addr = UInt32(truncatingIfNeeded: low).bigEndian
    var six = sockaddr_in6()
    six.sin6_family = sa_family_t(AF_INET6)
    six.sin6_port = port.bigEndian
    unsafe withUnsafeMutableBytes(of: &six.sin6_addr) { bytes in
      unsafe bytes.storeBytes(of: high.bigEndian, as: UInt64.self)
      unsafe bytes.storeBytes(of: low.bigEndian, toByteOffset: 8, as: UInt64.self)
    }
    unsafe withMutablePointer { address, length in
      let raw = UnsafeMutableRawPointer(address)
      if isIPv4 {
        unsafe raw.copyMemory(from: &four, byteCount: MemoryLayout<sockaddr_in>.size)
        unsafe length.pointee = UInt32(MemoryLayout<sockaddr_in>.size)
      } else {
        unsafe raw.copyMemory(from: &six, byteCount: MemoryLayout<sockaddr_in6>.size)
        unsafe length.pointee = UInt32(MemoryLayout<sockaddr_in6>.size)
      }
    }
  }
}
