// TCP sockets: one thin function a system call. Each returns what the kernel returns or -errno; would-block is a value,
// EINTR is retried here, EBADF traps because it is always a bug of ours.
import CLinux
import Glibc

/// Results of system calls below are counts, or one of these negated errno values.
package enum Errno {
  package static let again = Int(-EAGAIN)
  package static let inProgress = Int(-EINPROGRESS)
  package static let addressInUse = Int(-EADDRINUSE)
  package static let tooManyFiles = Int(-EMFILE)
  package static let tooManyFilesInSystem = Int(-ENFILE)
  package static let connectionReset = Int(-ECONNRESET)
  package static let brokenPipe = Int(-EPIPE)

  /// The text of strerror(3) for a negated errno.
  package static func text(_ negated: Int) -> String { unsafe String(cString: strerror(Int32(-negated))) }
}

@inline(__always) package func systemCall(_ body: () -> Int) -> Int {
  while true {
    let result = body()
    if result >= 0 { return result }
    let code = errno
    if code == EINTR { continue }
    precondition(code != EBADF && code != EFAULT, "a system call was given a bad descriptor or address")
    return -Int(code)
  }
}

package enum Socket {
  /// A listening socket, non-blocking, or a negated errno.
  /// - Parameter sharesPort: SO_REUSEPORT: the kernel spreads connections over all sockets of the port (socket(7)).
  package static func listen(_ address: SocketAddress, backlog: Int32, sharesPort: Bool, defersAccept: Bool) -> Int {
    let fd = bindListener(address, sharesPort: sharesPort, defersAccept: defersAccept)
    guard fd >= 0 else { return fd }
    let result = listen(Int32(fd), backlog: backlog)
    guard result >= 0 else {
      close(Int32(fd))
      return result
    }
    if let path = address.unixPath {
      let taken = takePath(path)
      guard taken >= 0 else {
        close(Int32(fd))
        return taken
      }
    }
    return fd
  }

  /// The same, but the kernel gives it no connections before ``listen(_:backlog:)``.
  package static func bindListener(_ address: SocketAddress, sharesPort: Bool, defersAccept: Bool) -> Int {
    if let path = address.unixPath { return bindUnix(path) }
    let fd = systemCall {
      Int(socket(address.isIPv6 ? AF_INET6 : AF_INET, Int32(SOCK_STREAM.rawValue) | 0o2000000 | 0o4000, 0))
    }
    guard fd >= 0 else { return fd }
    let descriptor = Int32(fd)
    set(descriptor, SOL_SOCKET, SO_REUSEADDR, 1)
    if sharesPort { set(descriptor, SOL_SOCKET, SO_REUSEPORT, 1) }
    // Accepted sockets inherit both (tcp(7)).
    set(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, 1)
    if defersAccept { set(descriptor, Int32(IPPROTO_TCP), TCP_DEFER_ACCEPT, 1) }
    if address.isLoopback { doNotPace(descriptor) }
    let result = unsafe address.withPointer { pointer, length in
      systemCall { unsafe Int(bind(descriptor, pointer, length)) }
    }
    guard result >= 0 else {
      close(descriptor)
      return result
    }
    return fd
  }

  /// Begins to listen, or changes the backlog of a socket that does.
  package static func listen(_ fd: Int32, backlog: Int32) -> Int { systemCall { Int(Glibc.listen(fd, backlog)) } }

  /// Begins a connection; the descriptor, or a negated errno. `inProgress` is told by the second value.
  package static func connect(_ address: SocketAddress) -> (descriptor: Int, pending: Bool) {
    if address.isUnix { return connectUnix(address.unixPath ?? "") }
    let fd = systemCall {
      Int(socket(address.isIPv6 ? AF_INET6 : AF_INET, Int32(SOCK_STREAM.rawValue) | 0o2000000 | 0o4000, 0))
    }
    guard fd >= 0 else { return (fd, false) }
    let descriptor = Int32(fd)
    set(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, 1)
    if address.isLoopback { doNotPace(descriptor) }
    let result = unsafe address.withPointer { pointer, length in
      systemCall { unsafe Int(Glibc.connect(descriptor, pointer, length)) }
    }
    if result == Errno.inProgress { return (fd, true) }
    guard result >= 0 else {
      close(descriptor)
      return (result, false)
    }
    return (fd, false)
  }

  package static func accept(_ listener: Int32, from address: inout SocketAddress) -> Int {
    address = SocketAddress()
    return unsafe address.withMutablePointer { pointer, length in
      while true {
        let fd = unsafe Int(clinux_accept(listener, pointer, length))
        if fd != -Int(EINTR) { return fd }
      }
    }
  }

  @inline(__always) package static func receive(_ fd: Int32, _ buffer: UnsafeMutableRawPointer, _ capacity: Int) -> Int
  {
    systemCall { unsafe recv(fd, buffer, capacity, 0) }
  }

  @inline(__always) package static func send(_ fd: Int32, _ bytes: UnsafeRawPointer, _ count: Int) -> Int {
    systemCall { unsafe Glibc.send(fd, bytes, count, Int32(MSG_NOSIGNAL)) }
  }

  /// Takes bytes out of a pipe, where recv(2) does not work.
  package static func readPipe(_ fd: Int32, _ buffer: UnsafeMutableRawPointer, _ capacity: Int) -> Int {
    systemCall { unsafe read(fd, buffer, capacity) }
  }

  /// Two pieces with one system call.
  @inline(__always) package static func send(
    _ fd: Int32, _ first: UnsafeRawPointer, _ firstCount: Int, _ second: UnsafeRawPointer, _ secondCount: Int
  ) -> Int {
    var pieces = unsafe (
      iovec(iov_base: UnsafeMutableRawPointer(mutating: first), iov_len: firstCount),
      iovec(iov_base: UnsafeMutableRawPointer(mutating: second), iov_len: secondCount)
    )
    return unsafe withUnsafeMutablePointer(to: &pieces) { pieces in
      unsafe pieces.withMemoryRebound(to: iovec.self, capacity: 2) { vector in
        var message = unsafe msghdr()
        unsafe message.msg_iov = unsafe vector
        unsafe message.msg_iovlen = 2
        return systemCall { unsafe sendmsg(fd, &message, Int32(MSG_NOSIGNAL)) }
      }
    }
  }

  /// Takes Reno for congestion control, which every kernel has and everybody may choose (tcp(7), TCP_CONGESTION). Within one
  /// machine nothing is lost and nothing is congested; BBR, where it is the system's choice, paces every segment there by
  /// timers for nothing. Accepted sockets inherit it from their listener. A kernel that refuses keeps its own.
  private static func doNotPace(_ fd: Int32) {
    _ = unsafe setsockopt(fd, Int32(IPPROTO_TCP), TCP_CONGESTION, "reno", 4)
  }

  /// What became of a connect(2): 0, or a negated errno.
  package static func takeError(_ fd: Int32) -> Int {
    var value: Int32 = 0
    var length = socklen_t(MemoryLayout<Int32>.size)
    _ = unsafe getsockopt(fd, SOL_SOCKET, SO_ERROR, &value, &length)
    return -Int(value)
  }

  package static func shutdownWrite(_ fd: Int32) { _ = shutdown(fd, Int32(SHUT_WR)) }

  /// Makes close(2) send RST instead of FIN, so that the peer notices a cut (socket(7), SO_LINGER).
  package static func resetOnClose(_ fd: Int32) {
    var value = linger(l_onoff: 1, l_linger: 0)
    _ = unsafe setsockopt(fd, SOL_SOCKET, SO_LINGER, &value, socklen_t(MemoryLayout<linger>.size))
  }

  /// TCP keep-alive, so that a peer that vanished without FIN is noticed (tcp(7)). Seconds.
  package static func keepAlive(_ fd: Int32, idle: Int32, interval: Int32, count: Int32) {
    set(fd, SOL_SOCKET, SO_KEEPALIVE, 1)
    set(fd, Int32(IPPROTO_TCP), TCP_KEEPIDLE, idle)
    set(fd, Int32(IPPROTO_TCP), TCP_KEEPINTVL, interval)
    set(fd, Int32(IPPROTO_TCP), TCP_KEEPCNT, count)
  }

  package static func localAddress(_ fd: Int32) -> SocketAddress {
    var address = SocketAddress()
    _ = unsafe address.withMutablePointer { pointer, length in unsafe getsockname(fd, pointer, length) }
    return address
  }

  /// Bytes that the kernel holds for the peer (tcp(7), SIOCOUTQ).
  package static func unsentBytes(_ fd: Int32) -> Int { Int(clinux_unsent(fd)) }

  package static func peerAddress(_ fd: Int32) -> SocketAddress {
    var address = SocketAddress()
    _ = unsafe address.withMutablePointer { pointer, length in unsafe getpeername(fd, pointer, length) }
    return address
  }

  package static func close(_ fd: Int32) {
    // close(2) on Linux gives the descriptor back even when it says EINTR, so it is never called twice.
    let result = Glibc.close(fd)
    precondition(result == 0 || errno != EBADF, "a descriptor was closed twice")
  }

  private static func set(_ fd: Int32, _ level: Int32, _ option: Int32, _ value: Int32) {
    var value = value
    _ = unsafe setsockopt(fd, level, option, &value, socklen_t(MemoryLayout<Int32>.size))
  }
}
