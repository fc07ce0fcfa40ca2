// One child of `berth up`: its process, its output, and when it may be started again. Used by Launcher only.
internal import Glibc
internal import Posix

/// The last lines that a child wrote, and the file that holds all of them.
struct ChildLog {
  /// Enough to show a reason, little enough for a terminal.
  static let kept = 15
  /// A line of a log is never this long; what has no line breaks is cut here, so that memory stays bounded.
  static let longestLine = 65_536
  /// A log file that reached this is put aside as `.1`, in place of the former one.
  static let longestFile = 32 << 20

  let path: String
  private var fd: Int32 = -1
  private var written = 0
  private var partial: [UInt8] = []
  private(set) var last: [String] = []

  init(path: String) { self.path = path }

  /// Takes bytes in and gives the lines that they complete.
  mutating func take(_ bytes: [UInt8]) -> [String] {
    append(bytes)
    var lines: [String] = []
    for byte in bytes {
      if byte == UInt8(ascii: "\n") || partial.count >= ChildLog.longestLine {
        lines.append(String(decoding: partial, as: UTF8.self))
        partial.removeAll(keepingCapacity: true)
      }
      if byte != UInt8(ascii: "\n") { partial.append(byte) }
    }
    last = Array((last + lines.filter { !$0.isEmpty }).suffix(ChildLog.kept))
    return lines
  }

  private mutating func append(_ bytes: [UInt8]) {
    if written >= ChildLog.longestFile {
      close(fd)
      fd = -1
      _ = unsafe rename(path, path + ".1")
    }
    if fd < 0 {
      fd = unsafe open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
      written = fd < 0 ? 0 : max(0, Int(lseek(fd, 0, SEEK_END)))
    }
    // A full disk must not take the service down: the line is still shown and kept in memory.
    if fd >= 0, System.write(fd, bytes) { written += bytes.count }
  }
}

struct Child {
  enum State: Equatable {
    case waiting(untilMilliseconds: Int)
    case running(pid_t, sinceMilliseconds: Int)
    case ended
  }

  let plan: ChildPlan
  var state: State = .waiting(untilMilliseconds: 0)
  var policy = CrashPolicy()
  var log: ChildLog
  /// Reading end of the pipe that its output goes to; -1 = none.
  var output: Int32 = -1
  var wasReady = false

  init(plan: ChildPlan, logPath: String) {
    self.plan = plan
    log = ChildLog(path: logPath)
  }

  var pid: pid_t? { if case .running(let pid, _) = state { pid } else { nil } }

  mutating func start(environment: [String: String]) throws(LaunchError) {
    closeOutput()
    let (reading, writing) = try System.pipe()
    defer { close(writing) }
    do {
      let pid = try System.start(
        program: plan.program, arguments: plan.arguments,
        environment: environment.merging(plan.environment) { _, own in own }, output: writing)
      state = .running(pid, sinceMilliseconds: Clock.monotonicMilliseconds)
      output = reading
    } catch {
      close(reading)
      throw error
    }
  }

  /// Reads what it wrote; gives whole lines.
  mutating func readOutput() -> [String] {
    var lines: [String] = []
    while output >= 0 {
      switch System.read(output) {
      case .bytes(let bytes): lines += log.take(bytes)
      case .nothingYet: return lines
      case .end: closeOutput()
      }
    }
    return lines
  }

  func signal(_ signal: Int32, group: Bool = false) {
    guard let pid else { return }
    kill(group ? -pid : pid, signal)
  }

  private mutating func closeOutput() {
    if output >= 0 { close(output) }
    output = -1
  }
}
