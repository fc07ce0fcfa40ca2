// What berth-data can be told, by flag or by environment variable; flags win. Wrong values are named with where they stand.
import ArgumentParser
import Engine
import Glibc
import Observability
import Posix

/// The settings of a replica after flags and environment were read.
struct Settings {
  var listen: SocketAddress
  var tlsListen: SocketAddress?
  var certificate: String?
  var key: String?
  var admin: SocketAddress
  var redisURL: String?
  var keyPrefix: String
  var routes: String?
  var healthCheckMilliseconds: Int
  var workers: Int
  var id: String
  var drainSeconds: Int
  var logLevel: LogLevel
  var splice: SpliceMode
  var trustedProxies: [AddressRange]
  var accessLog: AccessLogDestination?
}

@main struct BerthData: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "berth-data",
    abstract: "A data-plane replica: terminates TLS, balances, and joins clients to instances.",
    discussion: """
      Pools and routes come from Redis, where a control plane writes them, or from a file. Every flag has a variable, \
      named in brackets; flags win. SIGTERM drains, SIGHUP reads the certificate and the routes file again.
      """)

  @Option(
    help: "Address for plain HTTP and WebSocket. [BERTH_LISTEN; PORT sets the port alone] (default: 127.0.0.1:8080)")
  var listen: String?
  @Option(help: "Address for TLS, with --certificate and --key. [BERTH_TLS_LISTEN] (default: 127.0.0.1:8443)")
  var tlsListen: String?
  @Option(help: "PEM file: certificate chain, leaf first. [BERTH_CERTIFICATE]")
  var certificate: String?
  @Option(help: "PEM file: its private key. [BERTH_KEY]")
  var key: String?
  @Option(help: "Address of /healthz, /readyz, /metrics and /routes. [BERTH_ADMIN] (default: 127.0.0.1:8081)")
  var admin: String?
  @Option(help: "redis://, rediss:// or unix: address. [REDIS_URL]")
  var redisURL: String?
  @Option(help: "What every Redis key starts with. [BERTH_KEY_PREFIX] (default: berth:)")
  var keyPrefix: String?
  @Option(help: "File of routes and servers instead of Redis, YAML or JSON: docs/routes-files.md. [BERTH_ROUTES]")
  var routes: String?
  @Option(
    help:
      "Milliseconds between checks of a server of that file; 0 = never. [HEALTH_CHECK_INTERVAL] (default: 30000)")
  var healthCheckInterval: Int?
  @Option(help: "Threads that serve clients. [WORKER_COUNT] (default: one per processor)")
  var workers: Int?
  @Option(help: "Name of this replica, unique among all. [BERTH_REPLICA_ID] (default: host name and process id)")
  var id: String?
  @Option(help: "Seconds that requests and tunnels may take to end after SIGTERM. [BERTH_DRAIN_SECONDS] (default: 30)")
  var drainSeconds: Int?
  @Option(help: "debug, info, warning or error. [BERTH_LOG_LEVEL] (default: info)")
  var logLevel: String?
  @Option(help: "auto, always or never: move long plain pieces by splice(2). [BERTH_SPLICE] (default: auto)")
  var splice: String?
  @Option(
    help:
      "Proxies in front, e.g. 10.0.0.0/8,::1: their X-Forwarded-*, Forwarded and X-Request-ID are kept. [BERTH_TRUSTED_PROXIES]"
  )
  var trustedProxies: String?
  @Option(
    help: "File for one JSON line a request, - for standard output, or off. [BERTH_ACCESS_LOG] (default: off)")
  var accessLog: String?
  @Flag(
    help: "Listen on other addresses than loopback although nobody has to show a key. [BERTH_ALLOW_UNAUTHENTICATED=1]")
  var allowUnauthenticated = false

  func run() throws { try Replica(settings: settings()).run() }

  // MARK: Reading

  private func settings() throws -> Settings {
    let plain = try address(listen, "--listen", "BERTH_LISTEN", or: "127.0.0.1:\(try port() ?? 8080)")
    let certificate = text(certificate, "BERTH_CERTIFICATE")
    let key = text(key, "BERTH_KEY")
    guard (certificate == nil) == (key == nil) else {
      throw ValidationError("--certificate and --key (BERTH_CERTIFICATE, BERTH_KEY) go together: give both or none.")
    }
    let askedTLS = text(tlsListen, "BERTH_TLS_LISTEN")
    guard askedTLS == nil || certificate != nil else {
      throw ValidationError("--tls-listen (BERTH_TLS_LISTEN) needs --certificate and --key.")
    }
    let tls =
      certificate == nil ? nil : try address(tlsListen, "--tls-listen", "BERTH_TLS_LISTEN", or: "127.0.0.1:8443")
    let admin = try address(admin, "--admin", "BERTH_ADMIN", or: "127.0.0.1:8081")
    let redisURL = text(redisURL, "REDIS_URL")
    let routes = text(routes, "BERTH_ROUTES")
    guard redisURL != nil || routes != nil else {
      throw ValidationError("Where do routes come from? Give --redis-url (REDIS_URL), or --routes FILE (BERTH_ROUTES).")
    }
    let open = allowUnauthenticated || environment("BERTH_ALLOW_UNAUTHENTICATED") == "1"
    for (address, flag) in [(plain, "--listen"), (admin, "--admin")] + (tls.map { [($0, "--tls-listen")] } ?? [])
    where !address.isLoopback && !open {
      throw ValidationError(
        "\(flag) \(address) can be reached from other machines and nobody has to show a key. Listen on loopback, or say "
          + "--allow-unauthenticated (BERTH_ALLOW_UNAUTHENTICATED=1) when the network keeps strangers out.")
    }
    return Settings(
      listen: plain, tlsListen: tls, certificate: certificate, key: key, admin: admin, redisURL: redisURL,
      keyPrefix: text(keyPrefix, "BERTH_KEY_PREFIX") ?? "berth:", routes: routes,
      healthCheckMilliseconds: try number(
        healthCheckInterval, "--health-check-interval", "HEALTH_CHECK_INTERVAL", 0...86_400_000, or: 30_000),
      workers: try number(
        workers, "--workers", "WORKER_COUNT", 1...256, or: max(1, sysconf(Int32(_SC_NPROCESSORS_ONLN)))),
      id: text(id, "BERTH_REPLICA_ID") ?? "\(hostName())-\(getpid())",
      drainSeconds: try number(drainSeconds, "--drain-seconds", "BERTH_DRAIN_SECONDS", 0...86_400, or: 30),
      logLevel: try choice(logLevel, "--log-level", "BERTH_LOG_LEVEL", or: .info),
      splice: try choice(splice, "--splice", "BERTH_SPLICE", or: .auto),
      trustedProxies: try ranges(trustedProxies, "--trusted-proxies", "BERTH_TRUSTED_PROXIES"),
      accessLog: text(accessLog, "BERTH_ACCESS_LOG").flatMap { $0 == "off" ? nil : AccessLogDestination($0) })
  }

  private func environment(_ name: String) -> String? {
    guard let value = unsafe getenv(name) else { return nil }
    let text = unsafe String(cString: value)
    return text.isEmpty ? nil : text
  }

  private func text(_ flag: String?, _ variable: String) -> String? { flag ?? environment(variable) }

  private func port() throws -> Int? {
    guard let text = environment("PORT") else { return nil }
    guard let port = Int(text), (1...65_535).contains(port) else {
      throw ValidationError("PORT is \"\(text)\"; it must be a port from 1 to 65535.")
    }
    return port
  }

  private func address(_ flag: String?, _ name: String, _ variable: String, or fallback: String) throws -> SocketAddress
  {
    let text = text(flag, variable) ?? fallback
    guard let address = SocketAddress(text) else {
      let source = flag != nil ? name : variable
      throw ValidationError("\(source) is \"\(text)\"; it must be ADDRESS:PORT, e.g. 127.0.0.1:8080 or [::1]:8080.")
    }
    return address
  }

  private func ranges(_ flag: String?, _ name: String, _ variable: String) throws -> [AddressRange] {
    try (text(flag, variable) ?? "").split(separator: ",").map { part in
      let text = part.filter { $0 != " " }
      guard let range = AddressRange(text) else {
        throw ValidationError(
          "\(flag != nil ? name : variable) names \"\(text)\"; it must be an address or a block of addresses, "
            + "e.g. 10.0.0.0/8 or ::1, with commas between several.")
      }
      return range
    }
  }

  private func number(_ flag: Int?, _ name: String, _ variable: String, _ range: ClosedRange<Int>, or fallback: Int)
    throws -> Int
  {
    var value = flag
    var source = name
    if value == nil, let text = environment(variable) {
      source = variable
      value = Int(text)
      if value == nil { throw ValidationError("\(variable) is \"\(text)\"; it must be a whole number.") }
    }
    guard let value else { return fallback }
    guard range.contains(value) else {
      throw ValidationError("\(source) is \(value); it must be from \(range.lowerBound) to \(range.upperBound).")
    }
    return value
  }

  private func choice<Choice: RawRepresentable & CaseIterable>(
    _ flag: String?, _ name: String, _ variable: String, or fallback: Choice
  ) throws -> Choice where Choice.RawValue == String {
    guard let text = text(flag, variable) else { return fallback }
    guard let choice = Choice(rawValue: text) else {
      let known = Choice.allCases.map(\.rawValue).joined(separator: ", ")
      throw ValidationError("\(flag != nil ? name : variable) is \"\(text)\"; it must be one of \(known).")
    }
    return choice
  }

  private func hostName() -> String {
    var bytes = [CChar](repeating: 0, count: 256)
    guard unsafe gethostname(&bytes, 255) == 0 else { return "replica" }
    return String(decoding: bytes.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }
}
