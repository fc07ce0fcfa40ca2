// A look at what has come on a socket without taking it.
import Glibc

extension Socket {
  /// As ``receive(_:_:_:)``, but the bytes stay where they are (recv(2), MSG_PEEK).
  package static func peek(_ fd: Int32, _ buffer: UnsafeMutableRawPointer, _ capacity: Int) -> Int {
    let count = unsafe recv(fd, buffer, capacity, Int32(MSG_PEEK))
    return count < 0 ? -Int(errno) : count
  }
}
