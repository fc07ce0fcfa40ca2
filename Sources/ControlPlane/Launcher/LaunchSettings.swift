// What `berth up` was asked for, and the command lines that follow from it. Pure: Main fills it from flags and
// variables, Launcher carries it out.

/// A sentence for the person at the terminal.
package struct LaunchError: Error, Equatable, Sendable, CustomStringConvertible {
  package let description: String
  package init(_ description: String) { self.description = description }
}

/// A TCP port that `berth up` listens on, and how to choose another one.
package struct ListeningPort: Sendable, Equatable {
  package let purpose: String
  package let host: String
  package let port: Int
  package let flag: String
  package let variable: String
}

package struct LaunchSettings: Sendable, Equatable {
  /// Address that all of it listens on.
  package var host = "127.0.0.1"
  package var port = 8080
  package var tlsPort = 8443
  package var adminPort = 8081
  package var controlPort = 3000
  package var portRangeStart = 50_000
  package var portRangeEnd = 60_000
  package var replicas = 1
  package var stateDirectory = ".berth"
  package var configFile: String?
  /// A certificate chain and key in PEM; nil = a development certificate is made in the state directory.
  package var certificateFile: String?
  package var keyFile: String?
  /// What clients reach it by, when that is not `host` and `port`, e.g. behind another proxy.
  package var publicURL: String?
  package var allowUnauthenticated = false
  /// API keys; with them every client must show one.
  package var keysFile: String?
  package var logLevel: String?
  /// How long clients may finish when it ends.
  package var drainSeconds = 10
  /// How long the whole may take to come up.
  package var readySeconds = 60
  /// Every line of the children on the terminal, not only their warnings.
  package var verbose = false

  package init() {}

  package static let longestReplicas = 64

  /// Where admin pages listen: they ask nobody for a key.
  package var adminHost: String { keysFile != nil && !allowUnauthenticated ? "127.0.0.1" : host }

  /// The ports, each with the flag that changes it. Replica n has its admin page on `adminPort` + n - 1.
  package var listeningPorts: [ListeningPort] {
    var ports = [
      ListeningPort(
        purpose: "the control plane", host: host, port: controlPort, flag: "--control-port",
        variable: "BERTH_CONTROL_PORT"),
      ListeningPort(purpose: "the data plane", host: host, port: port, flag: "--port", variable: "PORT"),
      ListeningPort(
        purpose: "the data plane's TLS", host: host, port: tlsPort, flag: "--tls-port", variable: "BERTH_TLS_PORT"),
    ]
    for replica in 0..<replicas {
      ports.append(
        ListeningPort(
          purpose: "the admin page of replica \(replica + 1)", host: adminHost, port: adminPort + replica,
          flag: "--admin-port", variable: "BERTH_ADMIN_PORT"))
    }
    return ports
  }

  /// Refuses what could never work, before anything is started.
  package func validate() throws(LaunchError) {
    guard (1...LaunchSettings.longestReplicas).contains(replicas) else {
      throw LaunchError("--replicas must be between 1 and \(LaunchSettings.longestReplicas), not \(replicas)")
    }
    guard drainSeconds >= 0 else { throw LaunchError("--drain-seconds must not be negative") }
    guard readySeconds > 0 else { throw LaunchError("--ready-seconds must be positive") }
    guard (certificateFile == nil) == (keyFile == nil) else {
      throw LaunchError("--certificate and --key belong together: give both or neither")
    }
    var users: [Int: ListeningPort] = [:]
    for port in listeningPorts {
      guard (1...65_535).contains(port.port) else {
        throw LaunchError("\(port.flag) \(port.port): a port is between 1 and 65535")
      }
      if let other = users[port.port] {
        throw LaunchError(
          "port \(port.port) is wanted twice, for \(other.purpose) (\(other.flag)) and for \(port.purpose) (\(port.flag))"
        )
      }
      users[port.port] = port
    }
    guard (1...65_535).contains(portRangeStart), (portRangeStart...65_535).contains(portRangeEnd) else {
      throw LaunchError(
        "--port-range-start \(portRangeStart) and --port-range-end \(portRangeEnd) must be a range within 1 to 65535")
    }
    for port in listeningPorts where (portRangeStart...portRangeEnd).contains(port.port) {
      throw LaunchError(
        "port \(port.port) of \(port.purpose) lies in the instances' range \(portRangeStart) to \(portRangeEnd); "
          + "change \(port.flag) or --port-range-start and --port-range-end")
    }
  }

  package var url: String { "http://\(LaunchSettings.urlHost(host)):\(port)" }
  package var tlsURL: String { "https://\(LaunchSettings.urlHost(host)):\(tlsPort)" }
  package var controlURL: String { "http://\(LaunchSettings.urlHost(host)):\(controlPort)" }

  /// What a client on this machine puts into a URL: nobody connects to 0.0.0.0, and IPv6 goes into brackets.
  static func urlHost(_ host: String) -> String {
    switch host {
    case "0.0.0.0": "127.0.0.1"
    case "::": "[::1]"
    default: host.contains(":") ? "[\(host)]" : host
    }
  }

  static func endpoint(_ host: String, _ port: Int) -> String {
    host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
  }
}
