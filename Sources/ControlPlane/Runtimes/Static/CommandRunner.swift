// Runs an operator's command to its end: a program with arguments, no shell, with a time limit and its output kept for the
// error message. Used by the static runtime.
import Synchronization

final class CommandRunner: Sendable {
  private let directory: String
  private let environment: [String: String]
  private let exits = ExitWatch()
  private let running = Mutex(0)

  /// What commands need to reach an engine and to find their configuration; nothing else of this process's environment,
  /// so that its secrets stay here.
  private static let passedOn = [
    "PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "DOCKER_HOST", "DOCKER_CONFIG", "DOCKER_CERT_PATH",
    "DOCKER_TLS_VERIFY", "DOCKER_CONTEXT", "XDG_RUNTIME_DIR",
  ]

  init(directory: String, environment: [String: String]) throws(KernelError) {
    try Kernel.makeDirectory(directory)
    self.directory = Kernel.absolutePath(directory) ?? directory
    var variables = environment.filter { Self.passedOn.contains($0.key) }
    if variables["PATH"] == nil { variables["PATH"] = "/usr/local/bin:/usr/bin:/bin" }
    self.environment = variables
  }

  /// Runs a command; returns what went wrong as a sentence, nil when it ended with status 0.
  func run(_ words: [String], for id: String, milliseconds: Int) async -> String? {
    guard let name = words.first else { return nil }
    guard let file = Chrome.locate(name, path: environment["PATH"] ?? "") else {
      return "there is no program \"\(name)\""
    }
    let number = running.withLock { count in
      count += 1
      return count
    }
    let log = "\(directory)/\(id).\(number).log"
    let here = directory
    let variables = environment.map { "\($0.key)=\($0.value)" }.sorted()
    let started = await BlockingPool.shared.run { () -> Result<ProcessIdentity, KernelError> in
      do throws(KernelError) {
        let output = try Kernel.openLog(log)
        defer { Kernel.close(output) }
        let pid = try Kernel.spawn(
          file, arguments: Array(words.dropFirst()), environment: variables, directory: here, output: output)
        guard let entry = ProcessTable.entry(of: pid) else {
          throw KernelError(call: "read /proc/\(pid)/stat", code: 3)
        }
        return .success(ProcessIdentity(pid: pid, start: entry.start))
      } catch { return .failure(error) }
    }
    let identity: ProcessIdentity
    switch started {
    case .success(let it): identity = it
    case .failure(let error): return "\(name): \(error)"
    }
    exits.begin(identity)
    let limit = Task {
      try await Task.sleep(for: .milliseconds(milliseconds))
      Kernel.signal(Kernel.killNow, group: identity.pid)
    }
    let exit = await exits.exit(of: identity)
    limit.cancel()
    exits.forget(identity)
    let tail = Self.tail(of: log)
    try? Kernel.removeTree(log)
    if exit.isClean { return nil }
    let how = exit.signal == 9 ? "did not end within \(milliseconds) ms" : "failed: \(exit)"
    return "the command \(words.joined(separator: " ")) \(how)\(tail)"
  }

  private static func tail(of log: String) -> String {
    guard let bytes = Kernel.read(log) else { return "" }
    let lines = String(decoding: bytes, as: UTF8.self).split(whereSeparator: \.isNewline).suffix(3)
    return lines.isEmpty ? "" : "; it said: " + lines.joined(separator: " | ")
  }
}
