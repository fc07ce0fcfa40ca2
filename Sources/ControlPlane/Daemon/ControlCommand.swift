// The command line of berth-control: flags become settings, settings become services. Everything that is wrong is said
// in one line on stderr, and the exit status is 1 (64 for flags that are no flags).
import API
import ArgumentParser
import Domain
import Logging
import Posix
import Redis
import Routing
import Runtimes
import Settings
import Supervisor

@main struct ControlCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "berth-control",
    abstract: "The control plane of Berth: keeps pools of browsers, hands out sessions over REST.",
    discussion: """
      Every setting can also stand in the file or in the environment; a flag wins over a variable, a variable over the
      file. docs/configuration.md lists them all.
      """)

  @Option(help: "Configuration file, YAML. [BERTH_CONFIG]") var config: String?
  @Option(help: "Address and port of the REST API. [BERTH_CONTROL_LISTEN, PORT]") var listen: String?
  @Option(name: .customLong("redis-url"), help: "Where Redis is. [REDIS_URL]") var redisURL: String?
  @Option(help: "What every Redis key starts with. [BERTH_KEY_PREFIX]") var keyPrefix: String?
  @Option(help: "Where instances have their directories. [BERTH_STATE_DIRECTORY]") var stateDirectory: String?
  @Option(help: "First port for instances. [PORT_RANGE_START]") var portRangeStart: String?
  @Option(help: "Last port for instances. [PORT_RANGE_END]") var portRangeEnd: String?
  @Option(name: .customLong("public-url"), help: "Where clients reach the data plane. [BERTH_PUBLIC_URL]")
  var publicURL: String?
  @Option(help: "Sessions of the whole deployment. [MAX_SESSIONS]") var maxSessions: String?
  @Option(help: "Longest life of a session in milliseconds. [SESSION_TIMEOUT]") var sessionTimeout: String?
  @Option(help: "Names this control plane. [BERTH_CONTROL_ID]") var id: String?
  @Option(help: "Names this host in Redis. [BERTH_HOST_NAME]") var hostName: String?
  @Option(help: "trace, debug, info, notice, warning, error or critical. [BERTH_LOG_LEVEL]") var logLevel: String?
  @Flag(help: "Allow to listen on other addresses than loopback. [BERTH_ALLOW_UNAUTHENTICATED]")
  var allowUnauthenticated = false
  @Option(help: "File of API keys. [BERTH_KEYS_FILE]") var keysFile: String?
  @Option(help: "true or false: whether clients must show a key. [BERTH_REQUIRE_KEYS]") var requireKeys: String?
  @Flag(help: "On SIGTERM drain and stop all instances. [BERTH_STOP_INSTANCES_ON_EXIT]") var stopInstancesOnExit = false
  @Option(help: "How long sessions may finish then. [BERTH_DRAIN_SECONDS]") var drainSeconds: String?
  @Option(help: "Instances that start at the same time on a host. [BERTH_CONCURRENT_LAUNCHES]")
  var concurrentLaunches: String?
  @Option(help: "Instances that start at the same time on all hosts. [BERTH_TOTAL_CONCURRENT_LAUNCHES]")
  var totalConcurrentLaunches: String?

  /// What was given on the command line, by the names that the settings know.
  private var flags: [String: String] {
    var flags: [String: String] = [:]
    flags["--listen"] = listen
    flags["--redis-url"] = redisURL
    flags["--key-prefix"] = keyPrefix
    flags["--state-directory"] = stateDirectory
    flags["--port-range-start"] = portRangeStart
    flags["--port-range-end"] = portRangeEnd
    flags["--public-url"] = publicURL
    flags["--max-sessions"] = maxSessions
    flags["--session-timeout"] = sessionTimeout
    flags["--id"] = id
    flags["--host-name"] = hostName
    flags["--log-level"] = logLevel
    if allowUnauthenticated { flags["--allow-unauthenticated"] = "true" }
    flags["--keys-file"] = keysFile
    flags["--require-keys"] = requireKeys
    if stopInstancesOnExit { flags["--stop-instances-on-exit"] = "true" }
    flags["--drain-seconds"] = drainSeconds
    flags["--concurrent-launches"] = concurrentLaunches
    flags["--total-concurrent-launches"] = totalConcurrentLaunches
    return flags
  }

  func run() async throws {
    let environment = Kernel.environment
    do {
      let settings = try loadSettings(environment)
      let apiKeys = DeclaredKeys(try settings.keysFile.map(KeysKeeper.read) ?? [])
      try await ControlPlane(settings: settings, apiKeys: apiKeys, environment: environment).run()
    } catch let problem as StartProblem {
      Kernel.say("berth-control: \(problem.description)\n")
      throw ExitCode.failure
    } catch let problem as SettingsError {
      Kernel.say("berth-control: \(problem.description)\n")
      throw ExitCode.failure
    }
  }

  private func loadSettings(_ environment: [String: String]) throws -> ControlSettings {
    var file: ConfigText?
    let fromVariable = environment["BERTH_CONFIG"].flatMap { $0.isEmpty ? nil : $0 }
    if let name = config ?? fromVariable {
      let place = config == nil ? "variable BERTH_CONFIG" : "flag --config"
      guard let bytes = Kernel.read(name, limit: 4 << 20) else {
        throw StartProblem("\(place): \(name) cannot be read")
      }
      guard let text = String(validating: bytes, as: UTF8.self) else { throw StartProblem("\(name): is not UTF-8") }
      file = ConfigText(name: name, text: text)
    }
    return try ControlSettings.load(file: file, environment: environment, flags: flags)
  }
}

/// Why the control plane cannot start, as a sentence.
struct StartProblem: Error, CustomStringConvertible {
  let description: String
  init(_ description: String) { self.description = description }
}
