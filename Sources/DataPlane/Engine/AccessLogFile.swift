// Where the access log goes: a file that can be opened anew for log rotation, or standard output. Used by the writer's
// thread only, which may wait here; workers never do.
import Glibc
import Posix

package enum AccessLogDestination: Sendable, Equatable {
  case standardOutput
  case file(String)

  /// `-` is standard output.
  package init(_ text: String) { self = text == "-" ? .standardOutput : .file(text) }
}

/// Made by ``AccessLog``, then used by its writer's thread only.
final class AccessLogFile: @unchecked Sendable {
  private let destination: AccessLogDestination
  private var descriptor: Int32
  /// A regular file takes all at once; others only what a poll(2) says that they have room for.
  private var isRegular: Bool
  /// The last byte written ended a line.
  private var atLineStart = true
  /// poll(2) promises room for so much in a pipe (PIPE_BUF, pipe(7)).
  private static let pieceBytes = 4_096
  private static let pollMilliseconds: Int32 = 100

  /// Throws the text of what is wrong with the file.
  init(_ destination: AccessLogDestination) throws(EngineError) {
    self.destination = destination
    let (descriptor, isRegular) = try Self.open(destination)
    self.descriptor = descriptor
    self.isRegular = isRegular
  }

  /// For people.
  var name: String { if case .file(let path) = destination { path } else { "standard output" } }

  /// What went wrong, and for a disk that takes no more, what to do.
  static func reason(_ code: Int) -> String {
    switch Int32(-code) {
    case ENOSPC: Errno.text(code) + "; free some space there, or give --access-log another place"
    case EDQUOT: Errno.text(code) + "; raise the quota of Berth's user, or give --access-log another place"
    case EROFS: Errno.text(code) + "; mount it writable, or give --access-log another place"
    default: Errno.text(code)
    }
  }

  deinit { if descriptor > 2 { Socket.close(descriptor) } }

  private static func open(_ destination: AccessLogDestination) throws(EngineError) -> (Int32, isRegular: Bool) {
    var descriptor: Int32 = 1
    if case .file(let path) = destination {
      // Without O_NONBLOCK a FIFO would wait for its reader.
      descriptor = unsafe Glibc.open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0o640)
      guard descriptor >= 0 else {
        throw EngineError(description: "the access log \(path) cannot be opened: \(Self.reason(Int(-errno)))")
      }
    }
    var status = stat()
    let isRegular = unsafe fstat(descriptor, &status) == 0 && status.st_mode & S_IFMT == S_IFREG
    return (descriptor, isRegular)
  }

  /// Opens the path anew, which by now may be another file; what cannot be opened leaves the old one in use.
  func reopen() throws(EngineError) {
    guard case .file = destination else { return }
    let (descriptor, isRegular) = try Self.open(destination)
    Socket.close(self.descriptor)
    self.descriptor = descriptor
    self.isRegular = isRegular
    atLineStart = true
  }

  enum Outcome {
    case written
    /// A negated errno, and how many lines are not in the file or not in full.
    case failed(Int, lostLines: Int)
    /// The reader did not read until the caller gave up.
    case abandoned(lostLines: Int)
  }

  /// Writes whole lines. A part of a line may be left in the file when it fails; the next line then begins on a new one.
  func write(_ bytes: UnsafeRawPointer, _ count: Int, givesUp: () -> Bool) -> Outcome {
    if !atLineStart {
      var newline = UInt8(ascii: "\n")
      guard unsafe Glibc.write(descriptor, &newline, 1) == 1 else {
        return unsafe .failed(Int(-errno), lostLines: Self.lines(bytes, count))
      }
      atLineStart = true
    }
    var written = 0
    while written < count {
      if !isRegular {
        var entry = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
        if unsafe poll(&entry, 1, Self.pollMilliseconds) == 0 {
          guard givesUp() else { continue }
          return unsafe .abandoned(lostLines: Self.lines(bytes + written, count - written))
        }
      }
      let piece = isRegular ? count - written : min(count - written, Self.pieceBytes)
      let result = systemCall { unsafe Glibc.write(descriptor, bytes + written, piece) }
      if result > 0 {
        written += result
        atLineStart = unsafe bytes.load(fromByteOffset: written - 1, as: UInt8.self) == UInt8(ascii: "\n")
      } else if result != Errno.again {
        return unsafe .failed(result, lostLines: Self.lines(bytes + written, count - written))
      }
    }
    return .written
  }

  private static func lines(_ bytes: UnsafeRawPointer, _ count: Int) -> Int {
    var lines = 0
    for index in 0..<count where unsafe bytes.load(fromByteOffset: index, as: UInt8.self) == UInt8(ascii: "\n") {
      lines += 1
    }
    return lines
  }
}
