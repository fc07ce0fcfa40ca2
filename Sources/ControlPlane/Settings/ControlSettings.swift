// All settings of the control plane, from flags over environment over file over defaults. The daemon loads them once at
// its start; docs/configuration.md lists them, and a test holds the two together.
package import Domain
package import Routing

/// How much a log says; the names are swift-log's.
package enum LogLevel: String, Sendable, CaseIterable { case trace, debug, info, notice, warning, error, critical }

/// One setting that is a single value.
package struct Setting: Sendable {
  package let key: String
  package let variable: String
  package let flag: String
  /// As documented; what depends on the machine is described.
  package let fallback: String
  package let meaning: String
}

package struct ControlSettings: Sendable, Equatable {
  package var listen = Endpoint(host: "127.0.0.1", port: 3_000)
  package var redisURL = "redis://127.0.0.1:6379"
  package var keyPrefix = "berth:"
  package var stateDirectory = ".berth"
  package var portRange = 50_000...60_000
  package var publicURL = "http://127.0.0.1:8080"
  /// Sessions of the whole deployment.
  package var maxSessions = 200
  /// The hard limit of sessions whose pool sets none of its own.
  package var sessionTimeoutMilliseconds = 1_800_000
  /// Names this control plane in logs; nil = host name and process id.
  package var id: String?
  /// Names this host in `berth:ports:<host>:…` and in instance records; nil = the system's.
  package var hostName: String?
  package var logLevel = LogLevel.info
  package var allowUnauthenticated = false
  /// Where API keys stand; nil = nowhere.
  package var keysFile: String?
  /// Whether REST and routes ask for a key.
  package var requireKeys = false
  /// Names by which REST may be asked without a key, besides addresses and local names.
  package var allowedHosts: [String] = []
  package var stopInstancesOnExit = false
  /// How long `stopInstancesOnExit` lets sessions finish.
  package var drainSeconds = 5
  /// Launches at the same time on this host.
  package var concurrentLaunches = 2
  /// Launches at the same time on all hosts.
  package var totalConcurrentLaunches = 8
  /// The container engines; nil when there are none.
  package var docker: EngineSettings?
  /// The swarm; nil when there is none.
  package var swarm: SwarmSettings?
  package var pools: [PoolSpec] = []
  package var routes: [RouteRecord] = []

  package init() {}

  package static let settings: [Setting] = [
    Setting(
      key: "listen", variable: "BERTH_CONTROL_LISTEN", flag: "--listen", fallback: "127.0.0.1:3000",
      meaning: "Address and port of the REST API. The variable PORT sets only the port."),
    Setting(
      key: "redisURL", variable: "REDIS_URL", flag: "--redis-url", fallback: "redis://127.0.0.1:6379",
      meaning: "Where Redis is: `redis://user:password@host:port/db`, `rediss://…` or `unix:/path`."),
    Setting(
      key: "keyPrefix", variable: "BERTH_KEY_PREFIX", flag: "--key-prefix", fallback: "berth:",
      meaning: "What every Redis key starts with."),
    Setting(
      key: "stateDirectory", variable: "BERTH_STATE_DIRECTORY", flag: "--state-directory", fallback: ".berth",
      meaning: "Holds a directory for each instance while it runs."),
    Setting(
      key: "portRangeStart", variable: "PORT_RANGE_START", flag: "--port-range-start", fallback: "50000",
      meaning: "First port for instances."),
    Setting(
      key: "portRangeEnd", variable: "PORT_RANGE_END", flag: "--port-range-end", fallback: "60000",
      meaning: "Last port for instances."),
    Setting(
      key: "publicURL", variable: "BERTH_PUBLIC_URL", flag: "--public-url", fallback: "http://127.0.0.1:8080",
      meaning: "Where clients reach the data plane: the beginning of every URL that is handed out."),
    Setting(
      key: "maxSessions", variable: "MAX_SESSIONS", flag: "--max-sessions", fallback: "200",
      meaning:
        "Sessions of the whole deployment up to which REST makes more. Those that clients open by connecting count; what bounds "
        + "them is each pool's `max` times `slots`."),
    Setting(
      key: "sessionTimeout", variable: "SESSION_TIMEOUT", flag: "--session-timeout", fallback: "1800000",
      meaning: "Longest life of a session in milliseconds, for pools without a `hardLimitMilliseconds` of their own."),
    Setting(
      key: "id", variable: "BERTH_CONTROL_ID", flag: "--id", fallback: "host name and process id",
      meaning: "Names this control plane in logs and in `berth:leader`."),
    Setting(
      key: "hostName", variable: "BERTH_HOST_NAME", flag: "--host-name", fallback: "the system's host name",
      meaning: "Names this host in `berth:ports:<host>:…` and in the labels of instances."),
    Setting(
      key: "logLevel", variable: "BERTH_LOG_LEVEL", flag: "--log-level", fallback: "info",
      meaning: "trace, debug, info, notice, warning, error or critical."),
    Setting(
      key: "allowUnauthenticated", variable: "BERTH_ALLOW_UNAUTHENTICATED", flag: "--allow-unauthenticated",
      fallback: "false", meaning: "Needed to listen on anything but loopback when nobody has to show a key."),
    Setting(
      key: "keysFile", variable: "BERTH_KEYS_FILE", flag: "--keys-file", fallback: "none",
      meaning: "File of API keys, one a line: name, scopes, key. See security.md."),
    Setting(
      key: "requireKeys", variable: "BERTH_REQUIRE_KEYS", flag: "--require-keys",
      fallback: "true with a keysFile, else false",
      meaning: "Whether REST, and routes without `auth: false`, ask for an API key."),
    Setting(
      key: "allowedHosts", variable: "BERTH_ALLOWED_HOSTS", flag: "--allowed-hosts", fallback: "none",
      meaning:
        "Host names, separated by commas, by which REST may be asked without keys, besides addresses, local names and that "
        + "of `publicURL`. See security.md."),
    Setting(
      key: "stopInstancesOnExit", variable: "BERTH_STOP_INSTANCES_ON_EXIT", flag: "--stop-instances-on-exit",
      fallback: "false", meaning: "On SIGTERM drain and stop all instances instead of leaving them to the next leader."),
    Setting(
      key: "drainSeconds", variable: "BERTH_DRAIN_SECONDS", flag: "--drain-seconds", fallback: "5",
      meaning: "How long `stopInstancesOnExit` lets sessions finish before they are cut off."),
    Setting(
      key: "concurrentLaunches", variable: "BERTH_CONCURRENT_LAUNCHES", flag: "--concurrent-launches", fallback: "2",
      meaning: "Instances that start at the same time on a host."),
    Setting(
      key: "totalConcurrentLaunches", variable: "BERTH_TOTAL_CONCURRENT_LAUNCHES", flag: "--total-concurrent-launches",
      fallback: "8", meaning: "Instances that start at the same time on all hosts."),
  ]

  /// - Parameters:
  ///   - file: nil when there is none.
  ///   - flags: values by flag name, e.g. `--listen`; a flag without a value is `true`.
  package static func load(
    file: ConfigText?, environment: [String: String], flags: [String: String]
  ) throws(SettingsError) -> ControlSettings {
    var top = try file.map { (config) throws(SettingsError) in try FileSection(config) }
    var written: [String: Written] = [:]
    for setting in settings {
      // The file is asked in any case, so that it knows the name.
      let inFile = try top?.value(setting.key)
      if let text = flags[setting.flag] {
        written[setting.key] = Written(text: text, place: "flag \(setting.flag)")
      } else if let text = environment[setting.variable], !text.isEmpty {
        written[setting.key] = Written(text: text, place: "variable \(setting.variable)")
      } else {
        written[setting.key] = inFile
      }
    }
    var result = try ControlSettings(written)
    if flags["--listen"] == nil, (environment["BERTH_CONTROL_LISTEN"] ?? "").isEmpty,
      let port = environment["PORT"], !port.isEmpty
    {
      result.listen.port = try Written(text: port, place: "variable PORT").int(in: 1...65_535)
    }
    try result.readEngines(&top)
    try result.readSwarm(&top)
    try result.readPools(&top)
    try result.checkPorts()
    try result.readRoutes(&top, file)
    try top?.finish()
    if result.requireKeys {
      for index in result.routes.indices where result.routes[index].auth == nil { result.routes[index].auth = true }
    }
    guard result.listen.isLoopback || result.allowUnauthenticated || result.requireKeys else {
      throw SettingsError(
        "\(written["listen"]?.place ?? "listen"): \(result.listen) can be reached from other hosts, and nobody has to show an "
          + "API key; give --keys-file, listen on 127.0.0.1, or give --allow-unauthenticated if something else keeps strangers out"
      )
    }
    return result
  }

  private init(_ written: [String: Written]) throws(SettingsError) {
    func set<Value>(
      _ key: String, _ path: WritableKeyPath<ControlSettings, Value>,
      _ read: (Written) throws(SettingsError) -> Value
    ) throws(SettingsError) { if let value = written[key] { self[keyPath: path] = try read(value) } }

    self.init()
    try set("listen", \.listen) { (value) throws(SettingsError) in try value.endpoint() }
    try set("redisURL", \.redisURL) { (value) throws(SettingsError) in try value.nonEmpty() }
    try set("keyPrefix", \.keyPrefix) { (value) throws(SettingsError) in
      guard !value.text.isEmpty, value.text.utf8.count <= 100, value.text.hasSuffix(":"), !value.text.contains(" ")
      else {
        throw value.wrong("up to 100 characters without spaces that end with \":\"")
      }
      return value.text
    }
    try set("stateDirectory", \.stateDirectory) { (value) throws(SettingsError) in try value.nonEmpty() }
    try set("publicURL", \.publicURL) { (value) throws(SettingsError) in try value.origin() }
    try set("maxSessions", \.maxSessions) { (value) throws(SettingsError) in try value.int(in: 1...1_000_000) }
    try set("sessionTimeout", \.sessionTimeoutMilliseconds) { (value) throws(SettingsError) in
      try value.int(in: SessionLimits.shortestMilliseconds...30 * 86_400_000)
    }
    try set("id", \.id) { (value) throws(SettingsError) in try value.identifier() }
    try set("hostName", \.hostName) { (value) throws(SettingsError) in try value.identifier() }
    try set("logLevel", \.logLevel) { (value) throws(SettingsError) in try value.choice(LogLevel.self) }
    try set("allowUnauthenticated", \.allowUnauthenticated) { (value) throws(SettingsError) in try value.bool() }
    try set("keysFile", \.keysFile) { (value) throws(SettingsError) in try value.nonEmpty() }
    requireKeys = keysFile != nil
    try set("requireKeys", \.requireKeys) { (value) throws(SettingsError) in try value.bool() }
    try set("allowedHosts", \.allowedHosts) { (value) throws(SettingsError) in
      let names = value.text.split(separator: ",").map { $0.filter { $0 != " " } }
      guard !names.isEmpty, names.allSatisfy({ !$0.isEmpty && !$0.contains("/") && !$0.contains(":") }) else {
        throw value.wrong("host names without scheme and port, separated by commas")
      }
      return names
    }
    try set("stopInstancesOnExit", \.stopInstancesOnExit) { (value) throws(SettingsError) in try value.bool() }
    try set("drainSeconds", \.drainSeconds) { (value) throws(SettingsError) in try value.int(in: 0...86_400) }
    try set("concurrentLaunches", \.concurrentLaunches) { (value) throws(SettingsError) in try value.int(in: 1...1_000)
    }
    try set("totalConcurrentLaunches", \.totalConcurrentLaunches) { (value) throws(SettingsError) in
      try value.int(in: 1...10_000)
    }

    var first = portRange.lowerBound
    var last = portRange.upperBound
    if let value = written["portRangeStart"] { first = try value.int(in: 1_024...65_535) }
    if let value = written["portRangeEnd"] { last = try value.int(in: 1_024...65_535) }
    guard first <= last else {
      let place = (written["portRangeEnd"] ?? written["portRangeStart"])?.place ?? "portRangeEnd"
      throw SettingsError("\(place): the port range \(first) to \(last) is empty; its start must not be above its end")
    }
    portRange = first...last
  }
}
