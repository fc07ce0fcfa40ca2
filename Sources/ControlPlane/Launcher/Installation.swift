// Where the programs and files of this machine are, and what the environment says. Called by Main before the launch.
internal import Glibc
internal import Posix
internal import Redis
internal import TLS

/// The environment, with sentences for what is wrong in it. An empty variable counts as none.
package struct Variables {
  package let all: [String: String]

  package init(_ all: [String: String]? = nil) { self.all = all ?? System.environment() }

  package func text(_ name: String) -> String? { all[name].flatMap { $0.isEmpty ? nil : $0 } }

  /// The flag's value, else the variable's, else the default.
  package func number(_ name: String, unless flag: Int?, or standard: Int) throws(LaunchError) -> Int {
    if let flag { return flag }
    guard let text = text(name) else { return standard }
    guard let number = Int(text) else { throw LaunchError("\(name)=\(text) is not a whole number") }
    return number
  }
}

package enum Installation {
  /// Finds the daemons beside this program, a redis-server in PATH, and the certificate, which is made if there is none.
  package static func places(
    for settings: LaunchSettings, state: StateDirectory, variables: [String: String]
  ) throws(LaunchError) -> Places {
    let programs = try ownDirectory()
    for name in ["berth-control", "berth-data"] where unsafe access("\(programs)/\(name)", X_OK) != 0 {
      throw LaunchError("\(name) is not in \(programs), where this berth is; build all three programs (make build)")
    }
    let environment = Variables(variables)
    var redisServer: String?
    var socket = ""
    let given = environment.text("REDIS_URL")
    if let given {
      do { _ = try RedisURL(parsing: given) } catch { throw LaunchError("REDIS_URL: \(error)") }
    } else {
      redisServer = try program("redis-server", package: "redis-server", path: environment.text("PATH"))
      socket = try state.redisSocket()
    }
    if settings.certificateFile == nil { try makeCertificate(in: state.path + "/tls", for: settings.host) }
    return Places(
      programs: programs, state: state.path, redisServer: redisServer, redisSocket: socket,
      redisURL: given ?? "unix:\(socket)", certificate: settings.certificateFile ?? state.path + "/tls/certificate.pem",
      key: settings.keyFile ?? state.path + "/tls/key.pem")
  }

  /// Renewed a month before it expires. Kept otherwise, so that a client has to be told to trust it only once.
  private static func makeCertificate(in directory: String, for host: String) throws(LaunchError) {
    let certificate = directory + "/certificate.pem"
    let key = directory + "/key.pem"
    var status = stat()
    let age = unsafe stat(certificate, &status) == 0 ? Clock.unixMilliseconds / 1000 - status.st_mtim.tv_sec : Int.max
    if age < (DevelopmentCertificate.days - 30) * 86_400, unsafe access(key, R_OK) == 0 { return }
    var names = ["localhost", "127.0.0.1", "::1"]
    if !names.contains(host), host != "0.0.0.0", host != "::" { names.append(host) }
    do {
      try DevelopmentCertificate.write(certificateFile: certificate, keyFile: key, names: names)
    } catch {
      throw LaunchError("cannot make a development certificate in \(directory): \(error)")
    }
  }

  private static func ownDirectory() throws(LaunchError) -> String {
    guard let path = unsafe realpath("/proc/self/exe", nil) else {
      throw LaunchError("cannot find this program's own directory: \(System.message(errno))")
    }
    defer { unsafe free(path) }
    let text = unsafe String(cString: path)
    return String(text[..<(text.lastIndex(of: "/") ?? text.startIndex)])
  }

  /// The first executable of that name in PATH.
  static func program(_ name: String, package: String, path: String?) throws(LaunchError) -> String {
    for directory in (path ?? "/usr/local/bin:/usr/bin:/bin").split(separator: ":") {
      let candidate = "\(directory)/\(name)"
      if unsafe access(candidate, X_OK) == 0 { return candidate }
    }
    throw LaunchError("\(name) is not installed: apt-get install \(package) (or scripts/bootstrap, or give REDIS_URL)")
  }
}
