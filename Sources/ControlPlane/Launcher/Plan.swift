// The programs that `berth up` runs, in the order in which they start. Pure: from settings and places to command lines.

/// A program to run.
package struct ChildPlan: Sendable, Equatable {
  package enum Role: Sendable, Equatable { case redis, control, data }
  package let role: Role
  /// Names it on the terminal and its log file.
  package let name: String
  package let program: String
  package let arguments: [String]
  /// Set on top of what `berth up` itself was given.
  package let environment: [String: String]
}

/// Where things are; absolute paths.
package struct Places: Sendable, Equatable {
  /// The folder of `berth-control` and `berth-data`.
  package var programs: String
  package var state: String
  /// nil when REDIS_URL names a Redis of someone else's.
  package var redisServer: String?
  package var redisSocket: String
  package var redisURL: String
  package var certificate: String
  package var key: String

  package init(
    programs: String, state: String, redisServer: String?, redisSocket: String, redisURL: String, certificate: String,
    key: String
  ) {
    self.programs = programs
    self.state = state
    self.redisServer = redisServer
    self.redisSocket = redisSocket
    self.redisURL = redisURL
    self.certificate = certificate
    self.key = key
  }

  var redisDirectory: String { state + "/redis" }
  var controlDirectory: String { state + "/control" }
}

extension LaunchSettings {
  /// Variables that `berth up` reads itself and hands on as flags: a child must not read them a second time.
  package static let ownVariables = [
    "PORT", "PORT_RANGE_START", "PORT_RANGE_END", "BERTH_LISTEN", "BERTH_TLS_LISTEN", "BERTH_ADMIN",
    "BERTH_CONTROL_LISTEN", "BERTH_STATE_DIRECTORY", "BERTH_CERTIFICATE", "BERTH_KEY", "BERTH_CONFIG",
    "BERTH_PUBLIC_URL", "BERTH_DRAIN_SECONDS", "BERTH_REPLICA_ID", "BERTH_ROUTES",
  ]

  package func plan(_ places: Places) -> [ChildPlan] {
    var plans: [ChildPlan] = []
    // By the environment, as a URL may hold a password and a command line is for everyone to read.
    let environment = ["REDIS_URL": places.redisURL]
    if let redisServer = places.redisServer {
      plans.append(
        ChildPlan(
          role: .redis, name: "redis", program: redisServer,
          arguments: [
            "--port", "0", "--unixsocket", places.redisSocket, "--unixsocketperm", "600", "--dir",
            places.redisDirectory,
            "--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--daemonize", "no", "--logfile", "",
            "--maxmemory-policy", "noeviction",
          ], environment: [:]))
    }
    let common =
      (logLevel.map { ["--log-level", $0] } ?? []) + (allowUnauthenticated ? ["--allow-unauthenticated"] : [])
    plans.append(
      ChildPlan(
        role: .control, name: "control", program: places.programs + "/berth-control",
        arguments: (configFile.map { ["--config", $0] } ?? []) + (keysFile.map { ["--keys-file", $0] } ?? []) + [
          "--listen", LaunchSettings.endpoint(host, controlPort), "--state-directory", places.controlDirectory,
          "--port-range-start", String(portRangeStart), "--port-range-end", String(portRangeEnd), "--public-url",
          publicURL ?? url,
          // The data plane has ended by then, so there is nothing left to wait for.
          "--stop-instances-on-exit", "--drain-seconds", "0",
        ] + common, environment: environment))
    for replica in 0..<replicas {
      plans.append(
        ChildPlan(
          role: .data, name: "data-\(replica + 1)", program: places.programs + "/berth-data",
          arguments: [
            "--listen", LaunchSettings.endpoint(host, port), "--tls-listen", LaunchSettings.endpoint(host, tlsPort),
            "--certificate", places.certificate, "--key", places.key,
            "--admin", LaunchSettings.endpoint(adminHost, adminPort + replica), "--drain-seconds", String(drainSeconds),
          ] + (keysFile == nil ? [] : ["--require-keys"]) + common, environment: environment))
    }
    return plans
  }
}
