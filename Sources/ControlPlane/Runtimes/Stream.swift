// A TCP connection with a deadline on every step, for probes and for closing a browser, and the bind probe of ports.
// It blocks, so it is only used on the threads of BlockingPool.
private import Glibc

/// When something must be over, on the monotonic clock.
package struct Deadline: Sendable {
  private let end: ContinuousClock.Instant

  package init(milliseconds: Int) { end = ContinuousClock.now + .milliseconds(milliseconds) }

  /// What is left, 0 when it has passed.
  package var millisecondsLeft: Int {
    let left = ContinuousClock.now.duration(to: end)
    let (seconds, attoseconds) = left.components
    return max(0, Int(seconds) * 1000 + Int(attoseconds / 1_000_000_000_000_000))
  }
  package var hasPassed: Bool { ContinuousClock.now >= end }
}

/// Why a stream or a probe did not work, as a sentence.
package struct ProbeError: Error, Equatable, Sendable, CustomStringConvertible {
  package let description: String
  package init(_ description: String) { self.description = description }
}

/// A class, because the deinit of a noncopyable struct with this throwing init was seen not to run (Swift 6.3.1), which
/// leaked a descriptor with every probe.
final class Stream {
  let descriptor: Int32
  /// When the step that is under way must be over; whoever reads a stream without end sets it anew for each step.
  var deadline: Deadline

  /// Connects to an IPv4 or IPv6 literal.
  convenience init(host: String, port: Int, deadline: Deadline) throws(ProbeError) {
    let name = "\(host):\(port)"
    var storage = sockaddr_storage()
    guard let length = Self.address(host: host, port: port, into: &storage) else {
      throw ProbeError("\(name) is no address")
    }
    try self.init(&storage, length, name: name, deadline: deadline)
  }

  /// Connects to a socket in the file system.
  convenience init(path: String, deadline: Deadline) throws(ProbeError) {
    var address = sockaddr_un()
    let name = path
    guard path.utf8.count < MemoryLayout.size(ofValue: address.sun_path) else {
      throw ProbeError("\(name) is too long for a socket's path")
    }
    address.sun_family = sa_family_t(AF_UNIX)
    unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: path.utf8) }
    var storage = sockaddr_storage()
    unsafe withUnsafeMutableBytes(of: &storage) { unsafe $0.storeBytes(of: address, as: sockaddr_un.self) }
    try self.init(&storage, socklen_t(MemoryLayout<sockaddr_un>.size), name: name, deadline: deadline)
  }

  /// The addresses of a host by its name, as literals, in the system's order; empty when it has none. Blocks, and the
  /// system's resolver has time limits of its own.
  static func addresses(of host: String) -> [String] {
    var hints = unsafe addrinfo()
    unsafe hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
    var found: UnsafeMutablePointer<addrinfo>?
    guard unsafe getaddrinfo(host, nil, &hints, &found) == 0 else { return [] }
    defer { unsafe freeaddrinfo(found) }
    var literals: [String] = []
    var next = unsafe found
    while let entry = unsafe next {
      var text = [CChar](repeating: 0, count: Int(NI_MAXHOST))
      let code = unsafe getnameinfo(
        entry.pointee.ai_addr, entry.pointee.ai_addrlen, &text, socklen_t(text.count), nil, 0, NI_NUMERICHOST)
      if code == 0 {
        literals.append(String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self))
      }
      unsafe next = entry.pointee.ai_next
    }
    return literals
  }

  private init(
    _ storage: inout sockaddr_storage, _ length: socklen_t, name: String, deadline: Deadline
  ) throws(ProbeError) {
    let family = Int32(storage.ss_family)
    let descriptor = socket(family, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue), 0)
    guard descriptor >= 0 else { throw ProbeError("no socket: \(Self.reason(errno))") }
    let result = unsafe withUnsafePointer(to: &storage) { pointer in
      unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { unsafe connect(descriptor, $0, length) }
    }
    if result != 0 {
      var code = errno
      if code == EINPROGRESS {
        code = 0
        if !Self.wait(descriptor, for: Int16(POLLOUT), deadline) {
          code = ETIMEDOUT
        } else {
          var size = socklen_t(MemoryLayout<Int32>.size)
          _ = unsafe getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &code, &size)
        }
      }
      if code != 0 {
        close(descriptor)
        throw ProbeError("\(name) cannot be reached: \(Self.reason(code))")
      }
    }
    self.descriptor = descriptor
    self.deadline = deadline
  }

  deinit { Glibc.close(descriptor) }

  func send(_ bytes: [UInt8]) throws(ProbeError) {
    var sent = 0
    while sent < bytes.count {
      let count = unsafe bytes.withUnsafeBytes { buffer in
        unsafe Glibc.send(descriptor, buffer.baseAddress! + sent, buffer.count - sent, Int32(MSG_NOSIGNAL))
      }
      if count > 0 {
        sent += count
      } else if errno == EAGAIN {
        guard Self.wait(descriptor, for: Int16(POLLOUT), deadline) else { throw ProbeError("it took too long to send") }
      } else if errno != EINTR {
        throw ProbeError("sending failed: \(Self.reason(errno))")
      }
    }
  }

  /// What has arrived, at least one byte; empty at the end of the stream.
  func receive() throws(ProbeError) -> [UInt8] {
    var buffer = [UInt8](repeating: 0, count: 16_384)
    while true {
      let count = unsafe buffer.withUnsafeMutableBytes { unsafe recv(descriptor, $0.baseAddress, $0.count, 0) }
      if count >= 0 { return Array(buffer[..<count]) }
      if errno == EAGAIN {
        guard Self.wait(descriptor, for: Int16(POLLIN), deadline) else { throw ProbeError("no answer in time") }
      } else if errno != EINTR {
        throw ProbeError("receiving failed: \(Self.reason(errno))")
      }
    }
  }

  /// Whether there is something to receive, or the end, within this time.
  func isReadable(withinMilliseconds milliseconds: Int) -> Bool {
    Self.wait(descriptor, for: Int16(POLLIN), Deadline(milliseconds: milliseconds))
  }

  private static func wait(_ descriptor: Int32, for events: Int16, _ deadline: Deadline) -> Bool {
    while true {
      var entry = pollfd(fd: descriptor, events: events, revents: 0)
      let left = deadline.millisecondsLeft
      guard left > 0 else { return false }
      let count = unsafe poll(&entry, 1, Int32(clamping: left))
      if count > 0 { return true }
      if count == 0 || errno != EINTR { return false }
    }
  }

  fileprivate static func reason(_ code: Int32) -> String { unsafe String(cString: strerror(code)) }

  /// Fills in a socket address; nil when `host` is no literal.
  fileprivate static func address(host: String, port: Int, into storage: inout sockaddr_storage) -> socklen_t? {
    unsafe withUnsafeMutableBytes(of: &storage) { bytes -> socklen_t? in
      var v4 = sockaddr_in()
      if unsafe inet_pton(AF_INET, host, &v4.sin_addr) == 1 {
        v4.sin_family = sa_family_t(AF_INET)
        v4.sin_port = in_port_t(UInt16(port).bigEndian)
        unsafe bytes.storeBytes(of: v4, as: sockaddr_in.self)
        return socklen_t(MemoryLayout<sockaddr_in>.size)
      }
      var v6 = sockaddr_in6()
      guard unsafe inet_pton(AF_INET6, host, &v6.sin6_addr) == 1 else { return nil }
      v6.sin6_family = sa_family_t(AF_INET6)
      v6.sin6_port = in_port_t(UInt16(port).bigEndian)
      unsafe bytes.storeBytes(of: v6, as: sockaddr_in6.self)
      return socklen_t(MemoryLayout<sockaddr_in6>.size)
    }
  }
}

/// Whether something on this host has a port, whatever Redis thinks of it.
package enum BindProbe {
  /// Tries to bind the port on one address without SO_REUSEADDR; nil when it is free, else why not. A lingering
  /// connection of an earlier listener counts as taken, which is right: its late packets would reach the new one.
  package static func conflict(host: String, port: Int, reusesAddress: Bool = false) -> String? {
    var storage = sockaddr_storage()
    guard (1...65_535).contains(port), let length = Stream.address(host: host, port: port, into: &storage) else {
      return "\(host):\(port) is no address"
    }
    let family = Int32(storage.ss_family)
    let descriptor = socket(family, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
    // A host without IPv6 has no conflict there.
    guard descriptor >= 0 else { return nil }
    defer { close(descriptor) }
    var on: Int32 = 1
    let size = socklen_t(MemoryLayout<Int32>.size)
    if family == AF_INET6 { _ = unsafe setsockopt(descriptor, Int32(IPPROTO_IPV6), IPV6_V6ONLY, &on, size) }
    if reusesAddress { _ = unsafe setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &on, size) }
    let result = unsafe withUnsafePointer(to: &storage) { pointer in
      unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { unsafe bind(descriptor, $0, length) }
    }
    if result == 0 {
      // With SO_REUSEADDR bind succeeds beside a bound socket that does not listen yet; listen tells.
      guard reusesAddress, listen(descriptor, 1) != 0 else { return nil }
    }
    let code = errno
    if code == EAFNOSUPPORT || code == EADDRNOTAVAIL { return nil }
    return "\(host):\(port): \(Stream.reason(code))"
  }

  /// Why no instance can listen on the port, on any address; nil when it can.
  package static func conflict(port: Int) -> String? {
    conflict(host: "0.0.0.0", port: port) ?? conflict(host: "::", port: port)
  }
}
