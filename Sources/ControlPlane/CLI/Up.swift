// `berth up`: flags and variables become LaunchSettings; a flag wins over its variable.
import ArgumentParser
import Glibc
import Launcher

struct Up: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Run everything on this machine: Redis, the control plane and the data plane.",
    discussion: """
      Redis is started privately, with its data in the state directory, unless REDIS_URL names one. Every flag can also
      be given as the variable in brackets; a flag wins. Ctrl-C ends everything in order.
      """)

  @Option(help: "Address to listen on, an IP literal. [BERTH_HOST] (default: 127.0.0.1)") var host: String?
  @Option(help: "Port of the data plane. [PORT] (default: 8080)") var port: Int?
  @Option(help: "Port of the data plane's TLS. [BERTH_TLS_PORT] (default: 8443)") var tlsPort: Int?
  @Option(
    help: "Port of the first replica's admin page; each further one takes the next. [BERTH_ADMIN_PORT] (default: 8081)")
  var adminPort: Int?
  @Option(help: "Port of the control plane. [BERTH_CONTROL_PORT] (default: 3000)") var controlPort: Int?
  @Option(help: "First port for instances. [PORT_RANGE_START] (default: 50000)") var portRangeStart: Int?
  @Option(help: "Last port for instances. [PORT_RANGE_END] (default: 60000)") var portRangeEnd: Int?
  @Option(help: "Number of data-plane replicas. [BERTH_REPLICAS] (default: 1)") var replicas: Int?
  @Option(help: "Directory of its state. [BERTH_STATE_DIRECTORY] (default: .berth)") var stateDirectory: String?
  @Option(help: "Configuration file of the control plane. [BERTH_CONFIG]") var config: String?
  @Option(help: "Certificate chain in PEM, instead of a development certificate. [BERTH_CERTIFICATE]")
  var certificate: String?
  @Option(help: "Key of the certificate in PEM. [BERTH_KEY]") var key: String?
  @Option(help: "Beginning of the URLs that sessions get. [BERTH_PUBLIC_URL] (default: the data plane's address)")
  var publicUrl: String?
  @Option(help: "Level of the log files: debug, info, warning, error. [BERTH_LOG_LEVEL]") var logLevel: String?
  @Option(help: "Seconds that clients may take to finish at the end. [BERTH_DRAIN_SECONDS] (default: 10)")
  var drainSeconds: Int?
  @Option(help: "Seconds that starting may take. [BERTH_READY_SECONDS] (default: 60)") var readySeconds: Int?
  @Option(help: "File of API keys: with it every client must show one; see docs/security.md. [BERTH_KEYS_FILE]")
  var keysFile: String?
  @Flag(
    help:
      "Listen on an address that others can reach, although nobody has to show a key. [BERTH_ALLOW_UNAUTHENTICATED=1]")
  var allowUnauthenticated = false
  @Flag(help: "Show every line of the log files here.") var verbose = false

  func run() throws {
    do {
      let variables = Variables()
      let settings = try settings(variables)
      try settings.validate()
      let state = try StateDirectory(settings.stateDirectory)
      let places = try Installation.places(for: settings, state: state, variables: variables.all)
      let launcher = try Launcher(settings: settings, places: places, state: state, environment: variables.all)
      let status = try launcher.run()
      if status != 0 { throw ExitCode(status) }
    } catch let error as LaunchError {
      Console().warn("berth: \(error)")
      throw ExitCode(1)
    }
  }

  private func settings(_ variables: Variables) throws(LaunchError) -> LaunchSettings {
    var settings = LaunchSettings()
    settings.host = host ?? variables.text("BERTH_HOST") ?? settings.host
    settings.port = try variables.number("PORT", unless: port, or: settings.port)
    settings.tlsPort = try variables.number("BERTH_TLS_PORT", unless: tlsPort, or: settings.tlsPort)
    settings.adminPort = try variables.number("BERTH_ADMIN_PORT", unless: adminPort, or: settings.adminPort)
    settings.controlPort = try variables.number("BERTH_CONTROL_PORT", unless: controlPort, or: settings.controlPort)
    settings.portRangeStart = try variables.number(
      "PORT_RANGE_START", unless: portRangeStart, or: settings.portRangeStart)
    settings.portRangeEnd = try variables.number("PORT_RANGE_END", unless: portRangeEnd, or: settings.portRangeEnd)
    settings.replicas = try variables.number("BERTH_REPLICAS", unless: replicas, or: settings.replicas)
    settings.stateDirectory = stateDirectory ?? variables.text("BERTH_STATE_DIRECTORY") ?? settings.stateDirectory
    settings.configFile = config ?? variables.text("BERTH_CONFIG")
    settings.certificateFile = certificate ?? variables.text("BERTH_CERTIFICATE")
    settings.keyFile = key ?? variables.text("BERTH_KEY")
    settings.publicURL = publicUrl ?? variables.text("BERTH_PUBLIC_URL")
    settings.keysFile = keysFile ?? variables.text("BERTH_KEYS_FILE")
    settings.logLevel = logLevel ?? variables.text("BERTH_LOG_LEVEL")
    settings.drainSeconds = try variables.number("BERTH_DRAIN_SECONDS", unless: drainSeconds, or: settings.drainSeconds)
    settings.readySeconds = try variables.number("BERTH_READY_SECONDS", unless: readySeconds, or: settings.readySeconds)
    settings.allowUnauthenticated = allowUnauthenticated || variables.text("BERTH_ALLOW_UNAUTHENTICATED") == "1"
    settings.verbose = verbose
    return settings
  }
}
