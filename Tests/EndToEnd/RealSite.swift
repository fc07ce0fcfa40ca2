// Where real clients meet real servers: a replica with a routes file, plain and TLS, in front of an instance on aiohttp
// and one that is nginx. Made by RealClientsTests.
import Foundation
import Glibc
import JSON
import TLS

struct RealSite {
  let directory: String
  let plain: Int
  let tls: Int
  let admin: Int
  private let application: Int
  private let files: Int

  var url: String { "http://127.0.0.1:\(plain)" }
  var tlsURL: String { "https://127.0.0.1:\(tls)" }
  var adminURL: String { "http://127.0.0.1:\(admin)" }
  var authority: String { directory + "/certificate.pem" }
  func file(_ name: String) -> String { directory + "/" + name }

  /// Runs the body between start and end of everything; a failure comes with what the programs wrote.
  static func with(workers: Int = 2, _ body: (RealSite) async throws -> Void) async throws {
    let site = try RealSite()
    var programs: [Program] = []
    do {
      programs.append(try site.startReplica(workers: workers))
      programs.append(try site.startApplication())
      programs.append(try site.startNginx())
      try await eventually("the instances answer", within: 60, show: programs[1], programs[2]) {
        for program in programs {
          if let ending = program.poll() {
            throw Failure("\(program.name) \(ending); when it misses something, scripts/bootstrap test installs that")
          }
        }
        return HTTP.get(site.application, "/echo") != nil && HTTP.get(site.files, "/page.txt") != nil ? () : nil
      }
      try await eventually("the replica serves", within: 60, show: programs[0]) {
        programs[0].output.contains(#""the replica serves""#) ? () : nil
      }
      try await body(site)
    } catch {
      for program in programs {
        print("--- \(program.name):\n" + program.lines.suffix(25).joined(separator: "\n"))
        program.signal(SIGKILL)
      }
      throw error
    }
    for program in programs { try await program.stop() }
    try FileManager.default.removeItem(atPath: site.directory)
  }

  // MARK: What the clients see

  static let lines = 5_000
  /// The page that nginx serves, 98,893 bytes.
  static let page = (1...lines).map { "a line of text \($0)\n" }.joined()

  private init() throws {
    directory = try Machine.scratchDirectory("clients")
    (plain, tls, admin) = (try Machine.freePort(), try Machine.freePort(), try Machine.freePort())
    (application, files) = (try Machine.freePort(), try Machine.freePort())
    try DevelopmentCertificate.write(certificateFile: authority, keyFile: file("certificate.key"))
    try FileManager.default.createDirectory(atPath: file("root"), withIntermediateDirectories: false)
    try Self.page.write(toFile: file("root/page.txt"), atomically: true, encoding: .utf8)
    try """
    pools: {application: {kind: http}, files: {kind: http}}
    routes:
      all: {path: /, pool: application}
      plain: {path: /plain, pool: application, upgrades: false}
      files: {path: /files, pool: files, stripPrefix: true}
    instances:
      application: {pool: application, host: 127.0.0.1, port: \(application)}
      nginx: {pool: files, host: 127.0.0.1, port: \(files)}
    """.write(toFile: file("routes.yaml"), atomically: true, encoding: .utf8)
    // X-Connection tells which connection a request came over, and its number on it.
    try """
    daemon off;
    master_process off;
    pid \(file("nginx.pid"));
    events { worker_connections 256; }
    http {
      access_log off;
      types { text/plain txt; }
      client_body_temp_path \(file("t1")); proxy_temp_path \(file("t2")); fastcgi_temp_path \(file("t3"));
      uwsgi_temp_path \(file("t4")); scgi_temp_path \(file("t5"));
      sendfile on;
      server {
        listen 127.0.0.1:\(files);
        root \(file("root"));
        add_header X-Connection $connection:$connection_requests;
        location /zipped/ { alias \(file("root"))/; gzip on; gzip_types text/plain; gzip_proxied any; }
        location /trailed/ { alias \(file("root"))/; add_trailer X-End "the last word"; }
        location /short/ { alias \(file("root"))/; keepalive_requests 5; }
        location /broken/ { proxy_pass http://127.0.0.1:1; }
        location /limited/ { client_max_body_size 1k; proxy_pass http://127.0.0.1:\(application)/echo; }
      }
    }
    """.write(toFile: file("nginx.conf"), atomically: true, encoding: .utf8)
  }

  // MARK: Programs

  private func startReplica(workers: Int) throws -> Program {
    try Program(
      "berth-data",
      [
        try Machine.program("berth-data"), "--routes", file("routes.yaml"), "--workers", "\(workers)",
        "--listen", "127.0.0.1:\(plain)", "--tls-listen", "127.0.0.1:\(tls)", "--admin", "127.0.0.1:\(admin)",
        "--certificate", authority, "--drain-seconds", "5",
      ], outputFile: file("data.log"), environment: ["REDIS_URL": nil, "BERTH_HANDOVER": nil])
  }

  private func startApplication() throws -> Program {
    try Program(
      "instance.py",
      [try Machine.python(), Machine.checkout + "/Tests/EndToEnd/clients/instance.py", "\(application)"],
      outputFile: file("instance.log"))
  }

  private func startNginx() throws -> Program {
    try Program(
      "nginx", [try Machine.tool("nginx"), "-e", "stderr", "-c", file("nginx.conf")], outputFile: file("nginx.log"))
  }

  /// A tool's exit status and all that it printed.
  func run(_ tool: String, _ words: [String], within seconds: Double = 90) async throws -> (
    ending: Ending, text: String
  ) {
    let program = try Program(
      tool, [try Machine.tool(tool)] + words, outputFile: file("\(tool)-\(UInt32.random(in: 0...UInt32.max)).log"),
      in: directory)
    do {
      return (try await program.ended(within: seconds), program.output)
    } catch {
      program.signal(SIGKILL)
      throw error
    }
  }

  /// What curl printed; it has to end well.
  func curl(_ words: String...) async throws -> String {
    // With TLS nothing else is spoken, and only the site's own authority is believed.
    let tls = words.contains { $0.hasPrefix("https:") } ? ["--proto", "=https", "--cacert", authority] : []
    let (ending, text) = try await run(
      "curl", ["--silent", "--show-error", "--noproxy", "*", "--max-time", "60"] + tls + words)
    guard ending == .exited(0) else { throw Failure("curl \(words.joined(separator: " ")) \(ending):\n\(text)") }
    return text
  }

  /// A counter of the replica, all its labels together.
  func metric(_ name: String, _ label: String = "") -> Int? {
    guard let text = HTTP.get(admin, "/metrics")?.text else { return nil }
    let lines = text.split(separator: "\n").filter {
      ($0.hasPrefix(name + " ") || $0.hasPrefix(name + "{")) && (label.isEmpty || $0.contains(label))
    }
    return lines.isEmpty ? nil : lines.reduce(0) { $0 + (Int($1.split(separator: " ").last ?? "") ?? 0) }
  }
}
