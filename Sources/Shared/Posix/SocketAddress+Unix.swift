// Unix sockets as addresses: `unix:/path` for listeners and instances. An address stays 28 bytes, as every connection has one:
// a path is kept once for the process, and the address holds its number.
import CLinux
import Glibc
import Synchronization

extension SocketAddress {
  /// Paths that a process may ever name: configurations do not have more, and none is forgotten.
  private static let maximumPaths = 65_536
  /// The longest that sockaddr_un(7) takes.
  package static let longestPath = 107
  private static let paths = Mutex<(list: [String], numbers: [String: UInt32])>(([], [:]))

  /// nil when the path is not absolute or too long.
  package init?(unixPath path: String) {
    guard path.hasPrefix("/"), path.utf8.count <= Self.longestPath, !path.utf8.contains(0) else { return nil }
    let number = Self.paths.withLock { paths -> UInt32? in
      if let known = paths.numbers[path] { return known }
      guard paths.list.count < Self.maximumPaths else { return nil }
      let number = UInt32(paths.list.count)
      paths.list.append(path)
      paths.numbers[path] = number
      return number
    }
    guard let number else { return nil }
    self.init(unixNumber: number)
  }

  /// Of a unix socket that was made here; nil for other addresses.
  package var unixPath: String? {
    guard isUnix else { return nil }
    let number = Int(unixNumber)
    return Self.paths.withLock { $0.list.indices.contains(number) ? $0.list[number] : nil }
  }

  /// Calls with the address as the kernel takes it.
  static func withUnixPointer<R>(_ path: String, _ body: (UnsafePointer<sockaddr>, UInt32) -> R) -> R {
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    unsafe withUnsafeMutableBytes(of: &address.sun_path) { room in
      for (index, byte) in path.utf8.prefix(longestPath).enumerated() { unsafe room[index] = byte }
    }
    return unsafe withUnsafePointer(to: &address) { pointer in
      unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        unsafe body($0, UInt32(MemoryLayout<sockaddr_un>.size))
      }
    }
  }
}

extension Socket {
  /// A stream socket bound beside a path; ``takePath(_:from:)`` puts it there. A descriptor, or a negated errno: EADDRINUSE
  /// when somebody listens at the path, ENOTSOCK when something else is there.
  static func bindUnix(_ path: String) -> Int {
    if UnixSocket.exists(path) {
      guard UnixSocket.isSocket(path) else { return -Int(ENOTSOCK) }
      // One that nobody listens at was left by a process that is no more.
      let (probe, _) = connectUnix(path)
      if probe >= 0 {
        close(Int32(probe))
        return Errno.addressInUse
      }
      if probe == Errno.again { return Errno.addressInUse }
    }
    let beside = besidePath(path)
    guard beside.utf8.count <= SocketAddress.longestPath else { return -Int(ENAMETOOLONG) }
    let fd = systemCall { Int(socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | 0o2000000 | 0o4000, 0)) }
    guard fd >= 0 else { return fd }
    UnixSocket.remove(beside)
    let result = unsafe SocketAddress.withUnixPointer(beside) { pointer, length in
      systemCall { unsafe Int(bind(Int32(fd), pointer, length)) }
    }
    guard result >= 0 else {
      close(Int32(fd))
      return result
    }
    return fd
  }

  /// Puts a socket that was bound beside a path to the path itself, in the place of one that a dead process left. 0, or a
  /// negated errno. Called when it listens, so that nobody finds a socket that refuses.
  package static func takePath(_ path: String) -> Int { UnixSocket.rename(besidePath(path), to: path) }

  /// Removes what ``bindUnix(_:)`` made and nobody took.
  package static func dropPath(_ path: String) { UnixSocket.remove(besidePath(path)) }

  /// In the same directory, as only there rename(2) is one step; this process' and this path's own.
  private static func besidePath(_ path: String) -> String {
    let folder = path.utf8.lastIndex(of: UInt8(ascii: "/")).map { String(path[...$0]) } ?? ""
    return folder + ".b\(getpid()).\(SocketAddress(unixPath: path)?.unixNumber ?? 0)"
  }

  static func connectUnix(_ path: String) -> (descriptor: Int, pending: Bool) {
    let fd = systemCall { Int(socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | 0o2000000 | 0o4000, 0)) }
    guard fd >= 0 else { return (fd, false) }
    let result = unsafe SocketAddress.withUnixPointer(path) { pointer, length in
      systemCall { unsafe Int(Glibc.connect(Int32(fd), pointer, length)) }
    }
    guard result >= 0 else {
      close(Int32(fd))
      return (result, false)
    }
    return (fd, false)
  }

  /// Another descriptor of the same socket, or a negated errno.
  package static func duplicate(_ fd: Int32) -> Int { systemCall { Int(fcntl(fd, F_DUPFD_CLOEXEC, 3)) } }

  /// Whether something waits to be accepted or read, without waiting for it.
  package static func hasInput(_ fd: Int32) -> Bool {
    var entry = pollfd(fd: fd, events: Int16(POLLIN), revents: 0)
    return unsafe poll(&entry, 1, 0) == 1
  }

  /// Opens /dev/null in the place of standard input, output and error that are closed. Called before anything else opens
  /// a descriptor, or a log line would be written into a socket.
  package static func keepStandardDescriptors() {
    while true {
      let fd = unsafe open("/dev/null", O_RDWR)
      guard fd >= 0 else { return }
      guard fd <= 2 else { return close(fd) }
    }
  }
}
