// What the end-to-end tests need of this machine: free ports, scratch directories, a look at its processes, the built
// programs and the Python environments. A missing engine is a failure with the command that installs it, never a skip.
import Foundation
import Glibc
import Posix
import Synchronization

enum Machine {
  // MARK: Programs

  /// The folder of the built programs: this test bundle lies in it.
  static let programs: String = {
    var directory = URL(filePath: CommandLine.arguments[0]).resolvingSymlinksInPath()
    if let own = try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe") {
      directory = URL(filePath: own)
    }
    return directory.deletingLastPathComponent().path
  }()

  static func program(_ name: String) throws -> String {
    let path = programs + "/" + name
    guard FileManager.default.isExecutableFile(atPath: path) else {
      throw Failure("\(path) is not built; run the tests by `make test`")
    }
    return path
  }

  /// The root of the checkout.
  static let checkout: String = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
    .deletingLastPathComponent().path

  /// The Python of a virtual environment that scripts/bootstrap makes.
  static func python(_ environment: String = "clients") throws -> String {
    let path = checkout + "/.build-python/\(environment)/bin/python"
    guard FileManager.default.isExecutableFile(atPath: path) else {
      throw Failure("there are no Python clients; run scripts/bootstrap test")
    }
    return path
  }

  static func tool(_ name: String) throws -> String {
    // Debian keeps servers in sbin, which need not be in PATH.
    let directories = (ProcessInfo.processInfo.environment["PATH"] ?? "").split(separator: ":")
    for directory in directories + ["/usr/sbin"] {
      let path = "\(directory)/\(name)"
      if FileManager.default.isExecutableFile(atPath: path) { return path }
    }
    throw Failure("\(name) is not installed; scripts/bootstrap test installs it, as does apt-get install \(name)")
  }

  // MARK: Ports

  /// Below the kernel's range for outgoing connections (32768 and up), so that none of those takes one meanwhile, and below
  /// the ports of RedisFixture, which may be started between the look and the use.
  private static let nextPort = Mutex(10_000 + Int.random(in: 0..<8_000))

  static func freePort() throws -> Int { try freePorts(1).lowerBound }

  /// `count` adjacent ports on which nothing listens.
  static func freePorts(_ count: Int) throws -> ClosedRange<Int> {
    for _ in 0..<1000 {
      let first = nextPort.withLock { next in
        if next + count > 20_000 { next = 10_000 }
        defer { next += count }
        return next
      }
      let range = first...(first + count - 1)
      if range.allSatisfy(isFree) { return range }
    }
    throw Failure("no \(count) free ports between 10000 and 20000")
  }

  static func isFree(_ port: Int) -> Bool {
    guard let address = SocketAddress(host: "127.0.0.1", port: port) else { return false }
    let fd = Socket.listen(address, backlog: 1, sharesPort: false, defersAccept: false)
    if fd >= 0 { Socket.close(Int32(fd)) }
    return fd >= 0
  }

  // MARK: Directories

  /// Short, because a unix socket below it must fit into 107 bytes.
  static func scratchDirectory(_ name: String) throws -> String {
    let path = "/tmp/berth-\(name)-\(getpid())-\(UInt32.random(in: 0...UInt32.max))"
    try FileManager.default.createDirectory(
      atPath: path, withIntermediateDirectories: false, attributes: [.posixPermissions: 0o700])
    return path
  }

  // MARK: Processes

  struct Process: CustomStringConvertible {
    let pid: pid_t
    let command: String
    var description: String { "\(pid) \(command.prefix(200))" }
  }

  /// Living processes that carry a mark in their command line or environment.
  static func processes(marked mark: String) -> [Process] {
    let needle = Data(mark.utf8)
    let all = (try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? []
    return all.compactMap { entry -> Process? in
      guard let pid = pid_t(entry), pid != getpid() else { return nil }
      let command = (try? Data(contentsOf: URL(filePath: "/proc/\(pid)/cmdline"))) ?? Data()
      let environment = (try? Data(contentsOf: URL(filePath: "/proc/\(pid)/environ"))) ?? Data()
      // A zombie's files are empty: it is gone, only its parent has not looked yet.
      guard command.range(of: needle) != nil || environment.range(of: needle) != nil else { return nil }
      return Process(pid: pid, command: String(decoding: command.map { $0 == 0 ? 32 : $0 }, as: UTF8.self))
    }
  }
}
