// A real redis-server for a test: private, empty, on a Unix socket and a TCP port. Tests start as many as they want,
// kill them, restart them and make them hang. Used by integration and end-to-end tests.
import Glibc
package import Redis
package import State
import Synchronization

package struct FixtureError: Error, CustomStringConvertible {
  package let description: String
  package init(_ description: String) { self.description = description }
}

/// One redis-server at a time, in a directory of its own. It is gone when the fixture is, and also when the test process
/// dies: a shell stands above it and waits for the end of its standard input.
package final class RedisFixture: Sendable {
  package let directory: String
  private let arguments: [String]
  /// Lines of a sentinel's configuration; nil = it is an ordinary server.
  private let sentinel: [String]?
  private let hasTLS: Bool
  private let ports: Mutex<(tcp: Int, tls: Int)>

  private struct Running {
    let shell: pid_t
    /// The shell waits for the other end.
    let lifeline: Int32
    let server: pid_t
  }
  private let running = Mutex<Running?>(nil)

  /// Starts a server; `arguments` are options of redis-server, e.g. `["--requirepass", "secret"]`. With `sentinel` it is
  /// one that runs as Redis Sentinel, with these lines in its configuration.
  package init(
    arguments: [String] = [], certificateFile: String? = nil, keyFile: String? = nil, sentinel: [String]? = nil
  ) throws {
    var template = Array("/tmp/berth-redis-XXXXXX".utf8CString)
    guard unsafe template.withUnsafeMutableBufferPointer({ unsafe mkdtemp($0.baseAddress!) }) != nil else {
      throw FixtureError("no directory for redis-server: \(unsafe String(cString: strerror(errno)))")
    }
    directory = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    hasTLS = certificateFile != nil
    self.sentinel = sentinel
    self.arguments =
      if let certificateFile, let keyFile {
        arguments + ["--tls-cert-file", certificateFile, "--tls-key-file", keyFile, "--tls-auth-clients", "no"]
      } else {
        arguments
      }
    ports = Mutex((try Self.freePort(), try Self.freePort()))
    // A port that was free may be somebody else's when redis-server binds it.
    for attempt in 1... {
      do {
        try start()
        return
      } catch {
        guard attempt < 5, "\(error)".contains("Address already in use") else { throw error }
        ports.withLock { $0 = (Self.randomPort(), Self.randomPort()) }
      }
    }
  }

  deinit {
    end(force: true, keepingDirectory: false)
    // What a server that was stopped before has left.
    for name in ["log", "pid", "socket", "sentinel.conf", "dump.rdb"] { unsafe unlink(directory + "/" + name) }
    unsafe rmdir(directory)
  }

  package var port: Int { ports.withLock { $0.tcp } }
  /// The TLS port; nil without certificate.
  package var tlsPort: Int? { hasTLS ? ports.withLock { $0.tls } : nil }

  package var unixURL: RedisURL { url("unix:\(directory)/socket") }
  package var tcpURL: RedisURL { url("redis://127.0.0.1:\(port)") }

  private func url(_ text: String) -> RedisURL {
    do { return try RedisURL(parsing: text) } catch { fatalError("\(error)") }
  }

  /// A connection for this thread.
  package func connect(_ options: RedisOptions = RedisOptions()) throws(RedisError) -> RedisConnection {
    try RedisConnection(url: unixURL, options: options)
  }

  // MARK: Its life

  /// Starts the server, empty, and waits until it listens.
  package func start() throws {
    if let sentinel {
      let lines = ["port \(port)", "bind 127.0.0.1", "dir \(directory)"] + sentinel
      try writeFile(directory + "/sentinel.conf", lines.joined(separator: "\n") + "\n")
    }
    let words =
      sentinel != nil
      ? ["redis-server", directory + "/sentinel.conf", "--sentinel"]
      : [
        "redis-server", "--port", String(port), "--bind", "127.0.0.1", "--unixsocket", directory + "/socket",
        "--save", "", "--appendonly", "no", "--dir", directory, "--daemonize", "no",
      ] + (tlsPort.map { ["--tls-port", String($0)] } ?? []) + arguments
    let script = #"""
      directory=$1
      shift
      "$@" </dev/null >"$directory/log" 2>&1 &
      server=$!
      echo $server >"$directory/pid.new" && mv "$directory/pid.new" "$directory/pid"
      exec 2>/dev/null
      if read -r word; then
        kill -CONT $server
        kill -TERM $server
        wait $server
      else
        kill -KILL $server
        wait $server
        rm -rf "$directory"
      fi
      """#
    unsafe unlink(directory + "/pid")
    unsafe unlink(directory + "/socket")
    let (shell, lifeline) = try spawn(["/bin/sh", "-c", script, "berth-redis", directory] + words)
    var server: pid_t = 0
    do {
      try waitUntil("redis-server writes its pid") {
        guard let text = readFile(self.directory + "/pid"), let pid = pid_t(text.filter(\.isNumber)) else {
          return false
        }
        server = pid
        return true
      }
      running.withLock { $0 = Running(shell: shell, lifeline: lifeline, server: server) }
      try waitUntil("redis-server listens") {
        // The shell has not waited for it yet: a server that gave up is a zombie.
        if readFile("/proc/\(server)/stat")?.contains(") Z ") != false { throw FixtureError("it ended at once") }
        do throws(RedisError) {
          _ = try RedisConnection(url: self.sentinel == nil ? self.unixURL : self.tcpURL)
          return true
        } catch {
          // Listening, but with a password that this fixture does not have.
          return error.description.contains("password")
        }
      }
    } catch {
      let log = readFile(directory + "/log") ?? "none"
      if running.withLock({ $0 == nil }) { close(lifeline) } else { end(force: true) }
      throw FixtureError("redis-server did not start: \(error); its log: \(log)")
    }
  }

  /// Ends the server in order; its data is gone.
  package func stop() { end(force: false) }

  /// SIGKILL; its data is gone.
  package func kill() { end(force: true) }

  /// A new, empty server on the same socket and port.
  package func restart() throws {
    kill()
    try start()
  }

  /// Makes the server hang (SIGSTOP): connections stay open and nothing is answered.
  package func freeze() { running.withLock { if let running = $0 { _ = Glibc.kill(running.server, SIGSTOP) } } }
  package func thaw() { running.withLock { if let running = $0 { _ = Glibc.kill(running.server, SIGCONT) } } }

  package func flush() throws { try connect().run(Command(.words(["FLUSHALL"])) { _ in }) }

  private func end(force: Bool, keepingDirectory: Bool = true) {
    let old = running.withLock { running in
      defer { running = nil }
      return running
    }
    guard let old else { return }
    if force { _ = Glibc.kill(old.server, SIGKILL) }
    if keepingDirectory {
      // A line says that the directory is still wanted.
      _ = unsafe "k\n".utf8CString.withUnsafeBytes {
        unsafe send(old.lifeline, $0.baseAddress!, 2, Int32(MSG_NOSIGNAL))
      }
    }
    close(old.lifeline)
    var status: Int32 = 0
    while unsafe waitpid(old.shell, &status, 0) < 0 && errno == EINTR {}
  }

  // MARK: What is in it

  /// Every key with its type, sorted, as `name (type)`.
  package func keyspace() throws -> [String] {
    let connection = try connect()
    var keys: Set<String> = []
    var cursor = "0"
    repeat {
      let page = try connection.run(
        Command(.words(["SCAN", cursor, "COUNT", "1000"])) { (reply: Reply) throws(StateError) -> (String, [String]) in
          let parts = try reply.list(of: "SCAN", count: 2)
          return (try parts[0].string(of: "SCAN"), try parts[1].strings(of: "SCAN"))
        })
      cursor = page.0
      keys.formUnion(page.1)
    } while cursor != "0"
    var described: [String] = []
    for key in keys {
      let type = try connection.run(
        Command(.words(["TYPE", key])) { (reply: Reply) throws(StateError) in try reply.string(of: "TYPE") })
      described.append("\(key) (\(type))")
    }
    return described.sorted()
  }

  /// Runs the words of a plain command on a connection of its own.
  @discardableResult
  package func command(_ words: String...) throws -> Reply { try command(words) }

  @discardableResult
  package func command(_ words: [String]) throws -> Reply {
    try connect().run(Command(.words(words)) { $0 })
  }

  /// Below the range that the kernel takes for outgoing connections, which come and go all the time, and above those that
  /// tests take for programs of their own (`TestPorts`, `Machine`): they look for free ones long before they use them.
  private static func randomPort() -> Int { Int.random(in: 30_000..<32_500) }

  private static func freePort() throws -> Int {
    for _ in 0..<100 {
      let port = randomPort()
      let socket = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
      defer { close(socket) }
      var address = sockaddr_in()
      address.sin_family = sa_family_t(AF_INET)
      address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
      address.sin_port = UInt16(port).bigEndian
      let free = unsafe withUnsafePointer(to: &address) { address in
        unsafe address.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
          unsafe bind(socket, address, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
        }
      }
      if free { return port }
    }
    throw FixtureError("no free port among a hundred")
  }
}

/// Starts a program whose standard input is one end of a pair of sockets; gives its pid and the other end.
private func spawn(_ words: [String]) throws -> (pid_t, Int32) {
  var pair: [Int32] = [-1, -1]
  guard unsafe socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0, &pair) == 0 else {
    throw FixtureError("no pair of sockets: \(unsafe String(cString: strerror(errno)))")
  }
  defer { close(pair[0]) }
  var actions = unsafe posix_spawn_file_actions_t()
  unsafe posix_spawn_file_actions_init(&actions)
  defer { unsafe posix_spawn_file_actions_destroy(&actions) }
  unsafe posix_spawn_file_actions_adddup2(&actions, pair[0], 0)
  // Swift's worker threads block signals, and a child begins with the mask of the thread that started it: without a
  // mask of its own redis-server would not hear SIGTERM. A group of its own keeps the shell alive when a terminal or
  // timeout(1) ends the test's group, so that it can clean up.
  var attributes = posix_spawnattr_t()
  unsafe posix_spawnattr_init(&attributes)
  defer { unsafe posix_spawnattr_destroy(&attributes) }
  var none = sigset_t()
  unsafe sigemptyset(&none)
  unsafe posix_spawnattr_setsigmask(&attributes, &none)
  unsafe posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK) | Int16(POSIX_SPAWN_SETPGROUP))
  var arguments: [UnsafeMutablePointer<CChar>?] = unsafe words.map { unsafe strdup($0) }
  unsafe arguments.append(nil)
  defer { for index in unsafe arguments.indices { unsafe free(arguments[index]) } }
  var pid: pid_t = 0
  let code = unsafe posix_spawn(&pid, words[0], &actions, &attributes, arguments, environ)
  guard code == 0 else {
    close(pair[1])
    throw FixtureError("\(words[0]) did not start: \(unsafe String(cString: strerror(code)))")
  }
  return (pid, pair[1])
}
