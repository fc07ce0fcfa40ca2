// The system calls that runtimes need for files and processes, and nothing else: the one place of this room, with
// Stream.swift, where memory is touched unsafely. Paths and texts with a zero byte are cut at it by the C calls, so
// callers build paths from checked names only.
import CLinux
private import Glibc

/// A system call failed; `code` is errno.
package struct KernelError: Error, Equatable, Sendable, CustomStringConvertible {
  package let call: String
  package let code: Int32
  package init(call: String, code: Int32) {
    self.call = call
    self.code = code
  }
  package var description: String {
    "\(call): \(unsafe String(cString: strerror(code)))" + (diskAdvice.map { "; " + $0 } ?? "")
  }
}

package enum Kernel {
  package static var isRoot: Bool { geteuid() == 0 }
  package static var processID: Int { Int(getpid()) }

  package static var hostName: String {
    var buffer = [CChar](repeating: 0, count: 256)
    guard unsafe gethostname(&buffer, buffer.count - 1) == 0 else { return "localhost" }
    return String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }

  /// The environment of this process.
  package static var environment: [String: String] {
    ProcessTable.environment(of: processID)
  }

  /// Writes a text to standard error.
  package static func say(_ text: String) {
    let bytes = Array(text.utf8)
    _ = unsafe bytes.withUnsafeBytes { unsafe Glibc.write(STDERR_FILENO, $0.baseAddress, $0.count) }
  }

  /// Lets this thread sleep; for threads of our own only.
  static func pause(milliseconds: Int) { usleep(UInt32(clamping: milliseconds * 1_000)) }

  // MARK: Files

  /// Up to `limit` bytes of a file from `offset`; nil when it cannot be read.
  package static func read(_ path: String, from offset: Int = 0, limit: Int = 1 << 20) -> [UInt8]? {
    let file = unsafe open(path, O_RDONLY | O_CLOEXEC)
    guard file >= 0 else { return nil }
    defer { Glibc.close(file) }
    var out: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: min(limit, 16_384))
    while out.count < limit {
      let position = offset + out.count
      // Files of /proc give what they have in pieces, so the end is a read of 0, not a short one.
      let count = unsafe chunk.withUnsafeMutableBytes { buffer in
        unsafe pread(file, buffer.baseAddress, min(buffer.count, limit - out.count), position)
      }
      if count < 0 {
        if errno == EINTR { continue }
        return nil
      }
      if count == 0 { break }
      out.append(contentsOf: chunk[..<count])
    }
    return out
  }

  /// Replaces a file as a whole: a reader sees the old one or the new one.
  package static func write(_ bytes: [UInt8], to path: String) throws(KernelError) {
    let temporary = path + ".new"
    let file = unsafe open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
    guard file >= 0 else { throw KernelError(call: "open \(temporary)", code: errno) }
    var written = 0
    while written < bytes.count {
      let count = unsafe bytes.withUnsafeBytes { buffer in
        unsafe Glibc.write(file, buffer.baseAddress! + written, buffer.count - written)
      }
      if count < 0 && errno == EINTR { continue }
      guard count > 0 else {
        let code = errno
        Glibc.close(file)
        throw KernelError(call: "write \(temporary)", code: code)
      }
      written += count
    }
    Glibc.close(file)
    guard unsafe rename(temporary, path) == 0 else { throw KernelError(call: "rename \(temporary)", code: errno) }
  }

  /// The names in a directory without `.` and `..`, sorted; nil when it cannot be read.
  package static func list(_ path: String) -> [String]? {
    guard let directory = unsafe opendir(path) else { return nil }
    defer { unsafe closedir(directory) }
    var names: [String] = []
    while let entry = unsafe readdir(directory) {
      let name = unsafe withUnsafeBytes(of: entry.pointee.d_name) { bytes in
        unsafe String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
      }
      if name != "." && name != ".." { names.append(name) }
    }
    return names.sorted()
  }

  /// Makes a directory, and those above it, for this user alone.
  package static func makeDirectory(_ path: String) throws(KernelError) {
    if unsafe mkdir(path, 0o700) == 0 || errno == EEXIST { return }
    let code = errno
    guard code == ENOENT, let slash = path.lastIndex(of: "/"), slash > path.startIndex else {
      throw KernelError(call: "mkdir \(path)", code: code)
    }
    try makeDirectory(String(path[..<slash]))
    guard unsafe mkdir(path, 0o700) == 0 || errno == EEXIST else {
      throw KernelError(call: "mkdir \(path)", code: errno)
    }
  }

  /// Makes a symbolic link; one that is there already and leads to the same place is as good.
  static func link(_ path: String, to target: String) throws(KernelError) {
    if unsafe symlink(target, path) == 0 { return }
    let code = errno
    var buffer = [UInt8](repeating: 0, count: 4_096)
    let count = unsafe buffer.withUnsafeMutableBytes { bytes in
      unsafe readlink(path, bytes.baseAddress!.assumingMemoryBound(to: CChar.self), bytes.count)
    }
    guard code == EEXIST, count > 0, buffer[..<count].elementsEqual(target.utf8) else {
      throw KernelError(call: "link \(path)", code: code)
    }
  }

  /// Removes a symbolic link if it leads there; anything else of that name is somebody else's.
  static func unlink(_ path: String, to target: String) {
    if (try? link(path, to: target)) != nil { _ = unsafe Glibc.unlink(path) }
  }

  /// Removes a directory with all that is in it.
  package static func removeTree(_ path: String) throws(KernelError) {
    let result = unsafe clinux_remove_tree(path)
    guard result == 0 else { throw KernelError(call: "remove \(path)", code: -result) }
  }

  /// Copies what is in a directory into another one, without symbolic links and without a browser's locks.
  static func copyTree(_ path: String, into target: String) throws(KernelError) {
    let result = unsafe clinux_copy_tree(path, target)
    guard result == 0 else { throw KernelError(call: "copy \(path)", code: -result) }
  }

  /// A path that does not depend on the working directory and has no symbolic link in it; nil when there is no such file.
  package static func absolutePath(_ path: String) -> String? {
    guard let resolved = unsafe realpath(path, nil) else { return nil }
    defer { unsafe free(resolved) }
    return unsafe String(cString: resolved)
  }

  /// A path that does not depend on the working directory; a symbolic link keeps its name, because programs ask for it.
  package static func absolutePathKeepingName(_ path: String) -> String {
    guard !path.hasPrefix("/"), let here = absolutePath(".") else { return path }
    return here + "/" + path
  }

  package static func isExecutable(_ path: String) -> Bool {
    var info = stat()
    guard unsafe stat(path, &info) == 0, info.st_mode & S_IFMT == S_IFREG else { return false }
    return unsafe access(path, X_OK) == 0
  }

  /// Opens a file for appending, so that emptying it later leaves no hole; the caller closes it.
  static func openLog(_ path: String) throws(KernelError) -> Int32 {
    let file = unsafe open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
    guard file >= 0 else { throw KernelError(call: "open \(path)", code: errno) }
    return file
  }

  /// The last bytes of a file.
  static func readEnd(_ path: String, bytes: Int) -> [UInt8]? {
    guard let size = size(of: path) else { return nil }
    return read(path, from: max(0, size - bytes), limit: bytes)
  }

  package static func size(of path: String) -> Int? {
    var info = stat()
    return unsafe stat(path, &info) == 0 ? Int(info.st_size) : nil
  }

  static func empty(_ path: String) { _ = unsafe truncate(path, 0) }

  /// Adds bytes to a file, as many as it takes.
  static func append(_ bytes: [UInt8], to path: String) {
    guard !bytes.isEmpty, let file = try? openLog(path) else { return }
    defer { close(file) }
    _ = unsafe bytes.withUnsafeBytes { unsafe Glibc.write(file, $0.baseAddress, $0.count) }
  }

  /// SIGUSR1, SIGUSR2 and SIGALRM, which a log rotation for all daemons may send, do not end this process. What it starts
  /// has them as they were: handlers do not outlive exec (execve(2)).
  package static func ignoreStraySignals() {
    for number in [SIGUSR1, SIGUSR2, SIGALRM] { Glibc.signal(number) { _ in } }
  }

  /// Whether there is something at a path; needs no descriptor.
  static func exists(_ path: String) -> Bool {
    var info = stat()
    return unsafe stat(path, &info) == 0
  }

  /// Raises the limit of open descriptors (getrlimit(2), RLIMIT_NOFILE) as far as allowed, and returns it.
  package static func raiseDescriptorLimit(to wanted: Int) -> Int {
    var limit = rlimit()
    let resource = __rlimit_resource_t(RLIMIT_NOFILE.rawValue)
    guard unsafe getrlimit(resource, &limit) == 0 else { return 1_024 }
    if limit.rlim_cur < wanted {
      limit.rlim_cur = min(limit.rlim_max, rlim_t(wanted))
      unsafe setrlimit(resource, &limit)
      unsafe getrlimit(resource, &limit)
    }
    return Int(min(limit.rlim_cur, 1 << 20))
  }

  /// Whether as many descriptors can be opened as a launch needs at a time.
  package static func hasDescriptors() -> Bool {
    var opened: [Int32] = []
    defer { for descriptor in opened { close(descriptor) } }
    for _ in 0..<4 {
      let descriptor = unsafe open("/dev/null", O_RDONLY | O_CLOEXEC)
      guard descriptor >= 0 else { return errno != EMFILE && errno != ENFILE }
      opened.append(descriptor)
    }
    return true
  }

  static func close(_ descriptor: Int32) { _ = Glibc.close(descriptor) }

  // MARK: Processes

  /// Starts a program in a session of its own; returns its pid.
  static func spawn(
    _ path: String, arguments: [String], environment: [String], directory: String, output: Int32
  ) throws(KernelError) -> Int {
    var argv = unsafe ([path] + arguments).map { unsafe strdup($0) } + [nil]
    var envp = unsafe environment.map { unsafe strdup($0) } + [nil]
    defer {
      // By index: swift-format breaks a loop that is marked unsafe.
      for index in unsafe argv.indices { unsafe free(argv[index]) }
      for index in unsafe envp.indices { unsafe free(envp[index]) }
    }
    let pid = unsafe clinux_spawn(path, &argv, &envp, directory, output)
    guard pid > 0 else { throw KernelError(call: "start \(path)", code: -pid) }
    return Int(pid)
  }

  /// Reaps a child that has ended; nil while it runs or when it is no child of this process.
  static func reap(_ pid: Int) -> (status: Int, signal: Int)? {
    let result = clinux_reap(pid_t(pid))
    return result.exited == 1 ? (Int(result.status), Int(result.signal)) : nil
  }

  /// A descriptor that becomes readable when the process ends; nil when there is no such process.
  static func openProcess(_ pid: Int) -> Int32? {
    let descriptor = clinux_pidfd_open(pid_t(pid))
    return descriptor >= 0 ? descriptor : nil
  }

  static func signal(_ number: Int32, through pidfd: Int32) { _ = clinux_pidfd_signal(pidfd, number) }

  /// Signals all of a process group.
  static func signal(_ number: Int32, group: Int) { _ = Glibc.kill(-pid_t(group), number) }

  static let terminate = SIGTERM
  static let killNow = SIGKILL
}
