// Unix sockets that keep messages apart and carry descriptors (unix(7), SOCK_SEQPACKET). Engine hands listeners from process
// to process with them.
import CLinux
private import Glibc

package enum UnixSocket {
  /// Listens at a path that nothing has yet; only this user may connect. A descriptor, or a negated errno.
  package static func listen(_ path: String) -> Int { unsafe Int(clinux_unix_listen(path)) }

  package static func accept(_ listener: Int32) -> Int { Int(clinux_unix_accept(listener)) }

  package static func connect(_ path: String) -> Int { unsafe Int(clinux_unix_connect(path)) }

  /// Who is at the other end; nil when that cannot be told.
  package static func peer(_ fd: Int32) -> (user: UInt32, process: Int32)? {
    var user: uid_t = 0
    var process: pid_t = 0
    return unsafe clinux_unix_peer(fd, &user, &process) == 0 ? (user, process) : nil
  }

  /// Sends one message, with a descriptor if one is given; 0, or a negated errno.
  package static func send(_ fd: Int32, _ text: String, descriptor: Int32 = -1) -> Int {
    let bytes = Array(text.utf8)
    return unsafe Int(clinux_unix_send(fd, bytes, bytes.count, descriptor))
  }

  /// The next message and the descriptor that came with it, which is the caller's then; `count` is 0 at the end, or a
  /// negated errno.
  package static func receive(_ fd: Int32) -> (count: Int, text: String, descriptor: Int32?) {
    var bytes = [UInt8](repeating: 0, count: 512)
    var descriptor: Int32 = -1
    let count = unsafe clinux_unix_receive(fd, &bytes, bytes.count, &descriptor)
    let text = String(decoding: bytes.prefix(max(count, 0)), as: UTF8.self)
    return (count, text, descriptor >= 0 ? descriptor : nil)
  }

  package static func isSocket(_ path: String) -> Bool {
    var status = stat()
    return unsafe lstat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFSOCK
  }

  package static func exists(_ path: String) -> Bool {
    var status = stat()
    return unsafe lstat(path, &status) == 0
  }

  /// What tells a file from one that stands at the same path later.
  package static func identity(_ path: String) -> [UInt64] {
    var status = stat()
    guard unsafe lstat(path, &status) == 0 else { return [] }
    return [UInt64(status.st_dev), UInt64(status.st_ino)]
  }

  /// 0, or a negated errno.
  package static func rename(_ from: String, to: String) -> Int {
    systemCall { unsafe Int(Glibc.rename(from, to)) }
  }

  package static func remove(_ path: String) { _ = unsafe unlink(path) }
}
