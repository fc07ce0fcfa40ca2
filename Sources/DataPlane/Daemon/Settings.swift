// What berth-data works by, after flags and environment were read (Options.swift). Replica.swift is made of it.
import Engine
import Observability
import Posix
import TLS

/// The settings of a replica.
struct Settings {
  var listen: [SocketAddress]
  var tlsListen: [SocketAddress]
  var tls: TLSFiles
  var admin: SocketAddress
  var redisURL: String?
  var keyPrefix: String
  var routes: String?
  var healthCheckMilliseconds: Int
  var workers: Int
  var id: String
  var drainSeconds: Int
  var logLevel: LogLevel
  /// nil: there is none.
  var accessLog: AccessLogDestination?
  var splice: SpliceMode
  /// The kernel seals what TLS clients get, where it can.
  var kernelTLS: Bool
  var limits: EngineLimits
  /// Peers whose X-Forwarded-*, Forwarded and X-Request-ID are kept.
  var trustedProxies: [AddressRange]
  /// Peers that must begin with the PROXY protocol.
  var proxyProtocolFrom: [AddressRange]
  /// Routes that do not say whether they need a key do.
  var requiresKeys: Bool
  /// The socket over which one process hands its listeners to the next.
  var handover: String?
  /// How long a process that takes over waits for its first routing table.
  var handoverSeconds: Int
}
