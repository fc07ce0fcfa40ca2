// What berth-data can be told, by flag or by environment variable; flags win. OptionReading.swift reads one of them.
import ArgumentParser
import Engine
import Glibc
import Observability
import Posix
import TLS

@main struct BerthData: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "berth-data",
    abstract: "A data-plane replica: terminates TLS, balances, and joins clients to instances.",
    discussion: """
      Pools and routes come from Redis, where a control plane writes them, or from a file. Every flag has a variable, \
      named in brackets; flags win. SIGTERM drains, SIGHUP reads the certificates and the routes file again; \
      certificates are also read when their files change.

      Limits, as --limit NAME=VALUE or as variables:
      \(EngineLimits.names.map { "\($0.name) [\($0.variable)]: \($0.meaning) (default: \($0.defaultText))" }
        .joined(separator: "\n"))
      """)

  // Addresses
  @Option(
    help: """
      Address for plain HTTP and WebSocket, or unix:/path. May be repeated. [BERTH_LISTEN, with commas between several; \
      PORT sets the port alone] (default: 127.0.0.1:8080)
      """)
  var listen: [String] = []
  @Option(
    help: """
      Address for TLS, with a certificate. May be repeated. [BERTH_TLS_LISTEN, with commas between several] \
      (default: 127.0.0.1:8443)
      """)
  var tlsListen: [String] = []
  @Option(help: "Address of /healthz, /readyz, /metrics and /routes. [BERTH_ADMIN] (default: 127.0.0.1:8081)")
  var admin: String?

  // TLS
  @Option(
    help: """
      PEM file: certificate chain, leaf first, perhaps with its key. May be repeated; the first one is for clients that ask \
      for no known name. [BERTH_CERTIFICATE, with commas between several]
      """)
  var certificate: [String] = []
  @Option(
    help: "PEM file: the private key of the --certificate in the same place. [BERTH_KEY] (default: in or beside it)")
  var key: [String] = []
  @Option(help: "Directory of certificates (.pem, .crt, .cer) and their keys. [BERTH_CERTIFICATES]")
  var certificates: String?
  @Option(help: "1.2 or 1.3: the lowest version of TLS. [BERTH_TLS_MINIMUM_VERSION] (default: 1.2)")
  var tlsMinimumVersion: String?
  @Option(
    help: """
      File of at least 32 secret bytes: replicas with the same ones resume each other's TLS sessions. \
      [BERTH_TICKET_SECRET_FILE] (default: a random secret for this process)
      """)
  var ticketSecretFile: String?
  @Option(
    help: "Session tickets per full TLS 1.3 handshake; 0 = no resumption. [BERTH_TLS_TICKETS] (default: 1)")
  var tlsTickets: Int?
  @Option(help: "PEM file: authorities whose client certificates are good. [BERTH_CLIENT_CA]")
  var clientCA: String?
  @Option(help: "required or optional, with --client-ca. [BERTH_CLIENT_CERTIFICATE] (default: required)")
  var clientCertificate: String?

  // Where routes come from
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

  // Peers
  @Option(
    help: """
      Proxies in front, e.g. 10.0.0.0/8,::1: their X-Forwarded-*, Forwarded and X-Request-ID are kept. \
      [BERTH_TRUSTED_PROXIES]
      """)
  var trustedProxies: String?
  @Option(
    help: "Peers that must begin with the PROXY protocol, e.g. 10.0.0.5,10.1.0.0/16. [BERTH_PROXY_PROTOCOL_FROM]")
  var proxyProtocolFrom: String?

  // The process
  @Option(help: "Threads that serve clients. [WORKER_COUNT] (default: one per processor)")
  var workers: Int?
  @Option(
    help: """
      Name of this replica, unique among all; with --handover, the process id is added. [BERTH_REPLICA_ID] (default: host \
      name and process id)
      """)
  var id: String?
  @Option(help: "Seconds that requests and tunnels may take to end after SIGTERM. [BERTH_DRAIN_SECONDS] (default: 30)")
  var drainSeconds: Int?
  @Option(
    help: """
      Unix socket over which a process with the same path, started later, takes the listeners over without refusing a \
      connection. [BERTH_HANDOVER]
      """)
  var handover: String?
  @Option(
    help: """
      Seconds that a process which takes over waits for its routing table before it gives up. [BERTH_HANDOVER_SECONDS] \
      (default: 45)
      """)
  var handoverSeconds: Int?
  @Option(help: "debug, info, warning or error. [BERTH_LOG_LEVEL] (default: info)")
  var logLevel: String?
  @Option(help: "File for one JSON line a request, - for standard output, or off. [BERTH_ACCESS_LOG] (default: off)")
  var accessLog: String?
  @Option(help: "A limit as NAME=VALUE, e.g. head-timeout=5s; see above. May be repeated.")
  var limit: [String] = []
  @Option(help: "auto, always or never: move long plain pieces by splice(2). [BERTH_SPLICE] (default: auto)")
  var splice: String?
  @Flag(help: "Let the kernel seal what TLS clients get, where it can; see docs/tls.md. [BERTH_KERNEL_TLS=1]")
  var kernelTls = false
  @Flag(help: "Every route asks for an API key unless it says auth: false. [BERTH_REQUIRE_KEYS=1]")
  var requireKeys = false
  @Flag(
    help: "Listen on other addresses than loopback although nobody has to show a key. [BERTH_ALLOW_UNAUTHENTICATED=1]")
  var allowUnauthenticated = false

  func run() throws {
    Socket.keepStandardDescriptors()
    try Replica(settings: settings()).run()
  }

  // MARK: Reading

  private typealias Read = OptionReading

  private func settings() throws -> Settings {
    let plain = try Read.addresses(listen, "--listen", "BERTH_LISTEN", or: "127.0.0.1:\(try Read.port() ?? 8080)")
    let files = try tlsFiles()
    guard Read.list(tlsListen, "BERTH_TLS_LISTEN").isEmpty || !files.isEmpty else {
      throw ValidationError("--tls-listen (BERTH_TLS_LISTEN) needs --certificate or --certificates.")
    }
    let tls =
      files.isEmpty ? [] : try Read.addresses(tlsListen, "--tls-listen", "BERTH_TLS_LISTEN", or: "127.0.0.1:8443")
    let admin = try Read.address(admin, "--admin", "BERTH_ADMIN", or: "127.0.0.1:8081")
    let redisURL = Read.text(redisURL, "REDIS_URL")
    let routes = Read.text(routes, "BERTH_ROUTES")
    guard redisURL != nil || routes != nil else {
      throw ValidationError("Where do routes come from? Give --redis-url (REDIS_URL), or --routes FILE (BERTH_ROUTES).")
    }
    let asksForKeys = requireKeys || Read.environment("BERTH_REQUIRE_KEYS") == "1"
    let open = allowUnauthenticated || Read.environment("BERTH_ALLOW_UNAUTHENTICATED") == "1"
    for (address, flag) in plain.map({ ($0, "--listen") }) + tls.map({ ($0, "--tls-listen") })
    where !address.isLoopback && !open && !asksForKeys {
      throw ValidationError(
        "\(flag) \(address) can be reached from other machines and nobody has to show a key. Say --require-keys "
          + "(BERTH_REQUIRE_KEYS=1), listen on loopback, or say --allow-unauthenticated (BERTH_ALLOW_UNAUTHENTICATED=1) when "
          + "the network keeps strangers out.")
    }
    guard admin.isLoopback || open else {
      throw ValidationError(
        "--admin \(admin) can be reached from other machines and asks nobody for a key. Listen on loopback, or say "
          + "--allow-unauthenticated (BERTH_ALLOW_UNAUTHENTICATED=1) when the network keeps strangers out.")
    }
    let accessLog = Read.text(accessLog, "BERTH_ACCESS_LOG")
    return Settings(
      listen: plain, tlsListen: tls, tls: files, admin: admin, redisURL: redisURL,
      keyPrefix: Read.text(keyPrefix, "BERTH_KEY_PREFIX") ?? "berth:", routes: routes,
      healthCheckMilliseconds: try Read.number(
        healthCheckInterval, "--health-check-interval", "HEALTH_CHECK_INTERVAL", 0...86_400_000, or: 30_000),
      workers: try Read.number(
        workers, "--workers", "WORKER_COUNT", 1...256, or: max(1, sysconf(Int32(_SC_NPROCESSORS_ONLN)))),
      id: replicaID(),
      drainSeconds: try Read.number(drainSeconds, "--drain-seconds", "BERTH_DRAIN_SECONDS", 0...86_400, or: 30),
      logLevel: try Read.choice(logLevel, "--log-level", "BERTH_LOG_LEVEL", or: .info),
      accessLog: accessLog.flatMap { $0 == "off" ? nil : AccessLogDestination($0) },
      splice: try Read.choice(splice, "--splice", "BERTH_SPLICE", or: .auto),
      kernelTLS: kernelTls || Read.environment("BERTH_KERNEL_TLS") == "1", limits: try limits(),
      trustedProxies: try Read.ranges(trustedProxies, "--trusted-proxies", "BERTH_TRUSTED_PROXIES"),
      proxyProtocolFrom: try Read.ranges(proxyProtocolFrom, "--proxy-protocol-from", "BERTH_PROXY_PROTOCOL_FROM"),
      requiresKeys: asksForKeys,
      handover: Read.text(handover, "BERTH_HANDOVER"),
      // The one that hands over waits for 60 s.
      handoverSeconds: try Read.number(
        handoverSeconds, "--handover-seconds", "BERTH_HANDOVER_SECONDS", 1...55, or: 45))
  }

  /// Two processes have one name during a hand-over unless the process id tells them apart.
  private func replicaID() -> String {
    let given = Read.text(id, "BERTH_REPLICA_ID")
    if let given, Read.text(handover, "BERTH_HANDOVER") == nil { return given }
    return "\(given ?? Read.hostName())-\(getpid())"
  }

  private func limits() throws -> EngineLimits {
    var limits = EngineLimits()
    do { try limits.set(flags: limit, environment: Read.environment) } catch { throw ValidationError("\(error)") }
    return limits
  }

  private enum ClientCertificate: String, CaseIterable { case required, optional }

  private func tlsFiles() throws -> TLSFiles {
    let certificates = Read.list(certificate, "BERTH_CERTIFICATE")
    let keys = Read.list(key, "BERTH_KEY")
    guard keys.isEmpty || keys.count == certificates.count else {
      throw ValidationError(
        "--certificate and --key (BERTH_CERTIFICATE, BERTH_KEY) go together: there are \(certificates.count) certificates "
          + "and \(keys.count) keys. Give each certificate its key, or no key when each lies in or beside its certificate."
      )
    }
    var files = TLSFiles()
    files.pairs = certificates.enumerated().map { .init(certificate: $1, key: keys.isEmpty ? nil : keys[$0]) }
    files.directory = Read.text(self.certificates, "BERTH_CERTIFICATES")
    files.minimumVersion = try Read.choice(
      tlsMinimumVersion, "--tls-minimum-version", "BERTH_TLS_MINIMUM_VERSION", or: .v12)
    files.tickets = try Read.number(tlsTickets, "--tls-tickets", "BERTH_TLS_TICKETS", 0...8, or: 1)
    files.ticketSecret = Read.text(ticketSecretFile, "BERTH_TICKET_SECRET_FILE")
    files.clientAuthorities = Read.text(clientCA, "BERTH_CLIENT_CA")
    let asked = try Read.choice(
      clientCertificate, "--client-certificate", "BERTH_CLIENT_CERTIFICATE", or: ClientCertificate.required)
    files.clientCertificateIsRequired = asked == .required
    guard Read.text(clientCertificate, "BERTH_CLIENT_CERTIFICATE") == nil || files.clientAuthorities != nil else {
      throw ValidationError("--client-certificate (BERTH_CLIENT_CERTIFICATE) needs --client-ca (BERTH_CLIENT_CA).")
    }
    return files
  }
}
