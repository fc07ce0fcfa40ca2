// A program that an end-to-end test runs: a daemon, `berth up`, or a Python client. Its output goes to a file, so that no
// reader is needed while it works; it is ended by its own pid, never by name.
import CLinux
import Foundation
import Glibc
import Posix
import Synchronization

/// A test's reason to fail, with what is needed to understand it.
struct Failure: Error, CustomStringConvertible {
  let description: String
  init(_ description: String) { self.description = description }
}

enum Ending: Equatable {
  case exited(Int32)
  case killed(Int32)
}

final class Program: Sendable {
  let name: String
  let pid: pid_t
  let outputFile: String
  private let ending = Mutex<Ending?>(nil)

  /// - Parameters:
  ///   - outputFile: standard output and error are appended to it.
  ///   - environment: set on top of the test run's own; nil as a value removes a variable.
  init(
    _ name: String, _ words: [String], outputFile: String, in directory: String? = nil,
    environment: [String: String?] = [:]
  ) throws {
    self.name = name
    self.outputFile = outputFile
    // env(1) changes the directory and becomes the program, so that the pid is the program's own.
    let words = directory.map { ["/usr/bin/env", "-C", $0] + words } ?? words
    var variables = ProcessInfo.processInfo.environment
    for (key, value) in environment { variables[key] = value }
    let output = unsafe open(outputFile, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0o600)
    guard output >= 0 else { throw Failure("cannot write \(outputFile)") }
    defer { close(output) }
    // SIGTERM when the test run is gone, so that an aborted run leaves nothing either: an orderly end is what lets the
    // control plane stop its browsers.
    pid = Spawner.shared.run { [variables] in Program.start(words, variables, output) }
    guard pid > 0 else { throw Failure("cannot start \(words.joined(separator: " ")): \(Errno.text(Int(pid)))") }
  }

  /// One that nobody has waited for is ended and reaped. A zombie of ours may keep the testing library from ever seeing
  /// the end of a process of its own: it waits for any child, and finds the zombie again and again.
  deinit {
    guard poll() == nil else { return }
    let pid = pid
    kill(pid, SIGTERM)
    Foundation.Thread.detachNewThread {
      var status: Int32 = 0
      let deadline = ContinuousClock.now + .seconds(45)
      while unsafe waitpid(pid, &status, WNOHANG) == 0 {
        if ContinuousClock.now > deadline { kill(pid, SIGKILL) }
        usleep(50_000)
      }
    }
  }

  private static func start(_ words: [String], _ variables: [String: String], _ output: Int32) -> pid_t {
    let arguments = unsafe words.map { unsafe strdup($0) } + [nil]
    let environment = unsafe variables.map { unsafe strdup("\($0.key)=\($0.value)") } + [nil]
    defer {
      for index in unsafe arguments.indices { unsafe free(arguments[index]) }
      for index in unsafe environment.indices { unsafe free(environment[index]) }
    }
    return unsafe clinux_child_start(words[0], arguments, environment, output, SIGTERM)
  }

  var output: String { (try? String(decoding: Data(contentsOf: URL(filePath: outputFile)), as: UTF8.self)) ?? "" }

  var lines: [Substring] { output.split(separator: "\n") }

  /// nil as long as it runs.
  func poll() -> Ending? {
    ending.withLock { known in
      if let known { return known }
      var status: Int32 = 0
      guard unsafe waitpid(pid, &status, WNOHANG) == pid else { return nil }
      known = status & 0x7f == 0 ? .exited(status >> 8 & 0xff) : .killed(status & 0x7f)
      return known
    }
  }

  /// A signal to it alone; nothing when it has ended, as its pid may be another's by now.
  func signal(_ signal: Int32) {
    if poll() == nil { kill(pid, signal) }
  }

  func ended(within seconds: Double) async throws -> Ending {
    try await eventually("\(name) ends", within: seconds, show: self) { self.poll() }
  }

  /// Ends it in order, and by force when it takes longer than `seconds`.
  func stop(within seconds: Double = 120) async throws {
    signal(SIGTERM)
    do {
      _ = try await ended(within: seconds)
    } catch {
      signal(SIGKILL)
      _ = try await ended(within: 60)
      throw error
    }
  }
}

/// Starts programs on one thread that lives as long as the test run: the signal on the death of the parent is the
/// thread's, and tests run on a pool of threads that come and go.
private final class Spawner: Sendable {
  static let shared = Spawner()
  private let queue = Mutex<[@Sendable () -> Void]>([])
  private let arrived = DispatchSemaphore(value: 0)

  private init() {
    let thread = Foundation.Thread { [self] in
      while true {
        arrived.wait()
        queue.withLock { $0.isEmpty ? nil : $0.removeFirst() }?()
      }
    }
    thread.name = "spawner"
    thread.start()
  }

  func run(_ body: @escaping @Sendable () -> pid_t) -> pid_t {
    let done = DispatchSemaphore(value: 0)
    let result = Box()
    queue.withLock {
      $0.append {
        result.pid.withLock { $0 = body() }
        done.signal()
      }
    }
    arrived.signal()
    done.wait()
    return result.pid.withLock { $0 }
  }

  private final class Box: Sendable { let pid = Mutex<pid_t>(0) }
}

/// Waits for a value; the bound is there to fail, not to be waited for.
@discardableResult
func eventually<T>(
  _ what: String, within seconds: Double = 60, show programs: Program..., until condition: () async throws -> T?
) async throws -> T {
  try await eventually(what, within: seconds, programs, condition)
}

/// The same for a plain condition. It has to have the labels of the other one: with fewer of them a call can mean the
/// other one, to which false is as good a value as true.
func eventually(
  _ what: String, within seconds: Double = 60, show programs: Program..., until condition: () async throws -> Bool
) async throws {
  let holds: () async throws -> Void? = { try await condition() ? () : nil }
  try await eventually(what, within: seconds, programs, holds)
}

private func eventually<T>(
  _ what: String, within seconds: Double, _ programs: [Program], _ condition: () async throws -> T?
) async throws -> T {
  let deadline = Clock.monotonicMilliseconds + Int(seconds * 1000)
  while true {
    if let value = try await condition() { return value }
    if Clock.monotonicMilliseconds > deadline {
      let logs = programs.map { "\n--- \($0.name):\n" + $0.lines.suffix(25).joined(separator: "\n") }.joined()
      throw Failure("after \(seconds) s this had not happened: \(what)\(logs)")
    }
    try await Task.sleep(for: .milliseconds(25))
  }
}
