// `.berth/`: what `berth up` keeps between runs (Redis' data, the certificate, logs, the control plane's state) and what it
// keeps for the length of one (the lock, the socket, a note of its children). One run at a time: the lock says whose.
internal import Glibc

package struct StateDirectory {
  package let path: String
  private let lock: Int32

  static let lockName = "lock"
  private static let notesName = "children"

  var logs: String { path + "/log" }
  private var notes: String { path + "/run/" + StateDirectory.notesName }

  /// Makes the directory, for this user's eyes only, and takes its lock.
  package init(_ given: String) throws(LaunchError) {
    try StateDirectory.make(given)
    guard let resolved = unsafe realpath(given, nil) else {
      throw LaunchError("cannot open \(given): \(System.message(errno))")
    }
    defer { unsafe free(resolved) }
    path = unsafe String(cString: resolved)
    let file = path + "/" + StateDirectory.lockName
    lock = unsafe open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
    guard lock >= 0 else { throw LaunchError("cannot open \(file): \(System.message(errno))") }
    guard flock(lock, LOCK_EX | LOCK_NB) == 0 else {
      close(lock)
      let owner = StateDirectory.owner(of: path).map { " (pid \($0))" } ?? ""
      throw LaunchError(
        "berth is already running in \(path)\(owner): stop it first, or choose another directory with --state-directory"
      )
    }
    for name in ["run", "log", "redis", "control", "tls"] { try StateDirectory.make(path + "/" + name) }
    ftruncate(lock, 0)
    System.write(lock, Array("\(getpid())\n".utf8))
  }

  /// The pid of the `berth up` that runs there; nil when none does.
  package static func owner(of path: String) -> Int? {
    let fd = unsafe open(path + "/" + lockName, O_RDONLY | O_CLOEXEC)
    guard fd >= 0 else { return nil }
    defer { close(fd) }
    guard flock(fd, LOCK_SH | LOCK_NB) != 0, case .bytes(let text) = System.read(fd) else { return nil }
    return Int(String(decoding: text, as: UTF8.self).filter(\.isNumber))
  }

  private static func make(_ path: String) throws(LaunchError) {
    guard unsafe mkdir(path, 0o700) == 0 || errno == EEXIST else {
      throw LaunchError("cannot make the directory \(path): \(System.message(errno))")
    }
  }

  /// Where Redis listens. A socket's path is short by law of the kernel, so a deep directory gets one in /tmp instead.
  package func redisSocket() throws(LaunchError) -> String {
    let near = path + "/run/redis.sock"
    if near.utf8.count <= Probe.longestUnixPath { return near }
    var template = Array("/tmp/berth-XXXXXX".utf8CString)
    guard unsafe mkdtemp(&template) != nil else {
      throw LaunchError("cannot make a directory in /tmp: \(System.message(errno))")
    }
    return String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self) + "/redis.sock"
  }

  func removeRedisSocket(_ socket: String) {
    unsafe unlink(socket)
    if !socket.hasPrefix(path + "/"), let slash = socket.lastIndex(of: "/") { unsafe rmdir(String(socket[..<slash])) }
  }

  /// Notes who runs, so that a later `berth up` knows them should this one be killed.
  func note(_ children: [(name: String, pid: pid_t)], redisSocket: String) {
    var text = "socket \(redisSocket)\n"
    for (name, pid) in children {
      if let start = System.startTime(of: pid) { text += "\(name) \(pid) \(start)\n" }
    }
    let draft = notes + ".new"
    let fd = unsafe open(draft, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
    guard fd >= 0 else { return }
    let complete = System.write(fd, Array(text.utf8))
    close(fd)
    if complete { _ = unsafe rename(draft, notes) }
  }

  struct Leftover {
    let name: String
    let pid: pid_t
    let start: Int
    var lives: Bool { System.startTime(of: pid) == start }
  }

  /// The children of an earlier run that was killed, as far as they still live, and its Redis socket.
  func leftovers() -> (children: [Leftover], redisSocket: String?) {
    var children: [Leftover] = []
    var socket: String?
    for line in String(decoding: System.contents(notes) ?? [], as: UTF8.self).split(separator: "\n") {
      let words = line.split(separator: " ", maxSplits: 1).map(String.init)
      if words.count == 2, words[0] == "socket" { socket = words[1] }
      let numbers = words.count == 2 ? words[1].split(separator: " ").map(String.init) : []
      guard numbers.count == 2, let pid = pid_t(numbers[0]), let start = Int(numbers[1]) else { continue }
      let leftover = Leftover(name: words[0], pid: pid, start: start)
      if leftover.lives { children.append(leftover) }
    }
    return (children, socket)
  }

  func forgetChildren() { unsafe unlink(notes) }

  package func release() {
    ftruncate(lock, 0)
    close(lock)
  }
}
