// The system calls of `berth up`, each as a small Swift function. Blocking is fine here: the launcher is one thread.
internal import CLinux
internal import Glibc

enum System {
  static func message(_ code: Int32) -> String { unsafe String(cString: strerror(code)) }

  /// Writes all of it to a blocking descriptor; false when nobody reads there any more.
  @discardableResult static func write(_ fd: Int32, _ bytes: some Collection<UInt8>) -> Bool {
    var rest = Array(bytes)[...]
    while !rest.isEmpty {
      let n = unsafe rest.withUnsafeBytes { unsafe Glibc.write(fd, $0.baseAddress, $0.count) }
      if n < 0 && errno == EINTR { continue }
      guard n > 0 else { return false }
      rest = rest.dropFirst(n)
    }
    return true
  }

  enum Read {
    case bytes([UInt8])
    case end
    case nothingYet
  }

  static func read(_ fd: Int32, upTo capacity: Int = 16_384) -> Read {
    let n: Int
    var buffer = [UInt8](repeating: 0, count: capacity)
    n = unsafe buffer.withUnsafeMutableBytes { unsafe Glibc.read(fd, $0.baseAddress, $0.count) }
    if n > 0 { return .bytes(Array(buffer[..<n])) }
    return n < 0 && (errno == EAGAIN || errno == EINTR) ? .nothingYet : .end
  }

  /// Waits until one of the descriptors can be read. nil = as long as it takes.
  static func wait(_ descriptors: [Int32], milliseconds: Int?) {
    var polled = descriptors.map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
    let timeout = milliseconds.map { Int32(clamping: max(0, $0)) } ?? -1
    _ = unsafe poll(&polled, nfds_t(polled.count), timeout)
  }

  static func wait(writing fd: Int32, milliseconds: Int) {
    var polled = pollfd(fd: fd, events: Int16(POLLOUT), revents: 0)
    _ = unsafe poll(&polled, 1, Int32(milliseconds))
  }

  /// A pipe of which only the reading end does not block; both ends are closed on exec.
  static func pipe() throws(LaunchError) -> (reading: Int32, writing: Int32) {
    var fds: [Int32] = [-1, -1]
    guard unsafe Glibc.pipe(&fds) == 0 else { throw LaunchError("cannot make a pipe: \(message(errno))") }
    for fd in fds { _ = fcntl(fd, F_SETFD, FD_CLOEXEC) }
    _ = fcntl(fds[0], F_SETFL, fcntl(fds[0], F_GETFL) | O_NONBLOCK)
    return (fds[0], fds[1])
  }

  static func start(
    program: String, arguments: [String], environment: [String: String], output: Int32
  ) throws(LaunchError) -> pid_t {
    let words = unsafe copies([program] + arguments)
    let variables = unsafe copies(environment.sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" })
    let pid = unsafe clinux_child_start(program, words, variables, output, SIGTERM)
    for index in unsafe words.indices { unsafe free(words[index]) }
    for index in unsafe variables.indices { unsafe free(variables[index]) }
    guard pid > 0 else { throw LaunchError("cannot start \(program): \(message(-pid))") }
    return pid
  }

  /// C strings and a closing null, for the caller to free.
  private static func copies(_ texts: [String]) -> [UnsafeMutablePointer<CChar>?] {
    unsafe texts.map { unsafe strdup($0) } + [nil]
  }

  /// The next child that has ended, already reaped; nil when none has.
  static func reap() -> (pid: pid_t, ending: Ending)? {
    var status: Int32 = 0
    let pid = unsafe waitpid(-1, &status, WNOHANG)
    return pid > 0 ? (pid, Ending(waitStatus: status)) : nil
  }

  static func environment() -> [String: String] {
    var result: [String: String] = [:]
    var next = unsafe environ
    while let entry = unsafe next.pointee {
      let text = unsafe String(cString: entry)
      if let equals = text.firstIndex(of: "=") {
        result[String(text[..<equals])] = String(text[text.index(after: equals)...])
      }
      unsafe next += 1
    }
    return result
  }

  /// The whole of a file that may be a file of proc(5), whose size is not known beforehand.
  static func contents(_ path: String, limit: Int = 1 << 20) -> [UInt8]? {
    let fd = unsafe open(path, O_RDONLY | O_CLOEXEC)
    guard fd >= 0 else { return nil }
    defer { close(fd) }
    var all: [UInt8] = []
    while all.count < limit, case .bytes(let some) = read(fd) { all += some }
    return all
  }

  /// Field 22 of /proc/<pid>/stat: with it a pid names one process for good. nil when there is no such process.
  static func startTime(of pid: pid_t) -> Int? {
    guard let stat = contents("/proc/\(pid)/stat") else { return nil }
    // The name in parentheses may hold anything, so fields are counted from the last parenthesis.
    guard let close = stat.lastIndex(of: UInt8(ascii: ")")) else { return nil }
    let fields = String(decoding: stat[(close + 1)...], as: UTF8.self).split(separator: " ")
    guard fields.count > 19, fields[0] != "Z", fields[0] != "X" else { return nil }
    return Int(fields[19])
  }

  /// Processes whose parent is this one.
  static func children() -> [pid_t] {
    guard let list = contents("/proc/self/task/\(getpid())/children") else { return [] }
    return String(decoding: list, as: UTF8.self).split(separator: " ").compactMap { pid_t($0) }
  }
}
