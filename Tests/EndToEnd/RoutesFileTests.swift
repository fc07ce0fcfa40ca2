// `berth-data --routes FILE`: a proxy that needs neither Redis nor a control plane.
import Foundation
import Glibc
import Testing

extension EndToEnd {
  @Suite struct RoutesFile {
    @Test func itServesAnHTTPServerWithoutAnythingElse() async throws {
      let directory = try Machine.scratchDirectory("routes")
      try "the text behind the proxy\n".write(toFile: directory + "/page.txt", atomically: true, encoding: .utf8)
      let (port, admin, backend) = (try Machine.freePort(), try Machine.freePort(), try Machine.freePort())
      let routes = """
        {"pools": {"web": {"kind": "http", "slots": 0}}, "routes": {"all": {"path": "/", "pool": "web"}},
         "instances": {"web-1": {"pool": "web", "host": "127.0.0.1", "port": \(backend)}}}
        """
      try routes.write(toFile: directory + "/routes.json", atomically: true, encoding: .utf8)
      let server = try Program(
        "http.server", [try Machine.python(), "-m", "http.server", "--bind", "127.0.0.1", String(backend)],
        outputFile: directory + "/server.log", in: directory)
      let proxy = try Program(
        "berth-data",
        [
          try Machine.program("berth-data"), "--routes", directory + "/routes.json", "--listen", "127.0.0.1:\(port)",
          "--admin", "127.0.0.1:\(admin)",
        ], outputFile: directory + "/data.log", environment: ["REDIS_URL": nil])
      do {
        try await eventually("the server answers", within: 60, show: server) { HTTP.get(backend, "/page.txt") }
        try await eventually("the proxy is ready", within: 60, show: proxy) {
          HTTP.get(admin, "/readyz")?.status == 200 ? () : nil
        }
        let answer = try #require(HTTP.get(port, "/page.txt"))
        #expect(answer.status == 200)
        #expect(answer.text == "the text behind the proxy\n")
        #expect(HTTP.get(port, "/no-such-page")?.status == 404)
      } catch {
        print(proxy.output)
        server.signal(SIGKILL)
        proxy.signal(SIGKILL)
        throw error
      }
      try await server.stop()
      try await proxy.stop()
      try FileManager.default.removeItem(atPath: directory)
    }

    /// The HTTP balancer's file and variables, with its Redis absent: one of two servers dies, and comes back.
    @Test func aListOfBackendsFailsOverAndBack() async throws {
      let directory = try Machine.scratchDirectory("backends")
      try "served\n".write(toFile: directory + "/page.txt", atomically: true, encoding: .utf8)
      let (port, admin) = (try Machine.freePort(), try Machine.freePort())
      let ports = [try Machine.freePort(), try Machine.freePort()]
      try """
      { "backends": [ { "host": "localhost", "port": \(ports[0]) }, { "host": "127.0.0.1", "port": \(ports[1]) } ] }
      """.write(toFile: directory + "/backends.json", atomically: true, encoding: .utf8)
      func serve(_ port: Int) throws -> Program {
        try Program(
          "http.server", [try Machine.python(), "-m", "http.server", "--bind", "127.0.0.1", String(port)],
          outputFile: directory + "/server-\(port).log", in: directory)
      }
      var servers = [try serve(ports[0]), try serve(ports[1])]
      let proxy = try Program(
        "berth-data", [try Machine.program("berth-data"), "--routes", directory + "/backends.json"],
        outputFile: directory + "/data.log",
        environment: [
          "PORT": String(port), "BERTH_ADMIN": "127.0.0.1:\(admin)", "WORKER_COUNT": "2",
          "HEALTH_CHECK_INTERVAL": "100",
          "REDIS_URL": "redis://127.0.0.1:1",
        ])
      /// How many servers get requests.
      func ready() -> Int? {
        HTTP.get(admin, "/routes").map { $0.text.components(separatedBy: "\"state\":\"ready\"").count - 1 }
      }
      do {
        try await eventually("both servers answer", within: 60, show: proxy) {
          ports.allSatisfy { HTTP.get($0, "/page.txt") != nil } && ready() == 2 ? () : nil
        }
        for _ in 0..<6 { #expect(HTTP.get(port, "/page.txt")?.text == "served\n") }
        servers[0].signal(SIGKILL)
        try await eventually("one server is out", within: 60, show: proxy) { ready() == 1 ? () : nil }
        for _ in 0..<6 { #expect(HTTP.get(port, "/page.txt")?.status == 200) }
        try await eventually("it says so", show: proxy) {
          proxy.output.contains("a server is unhealthy") && proxy.output.contains("backends.json:1: backends[0]")
        }
        let metrics = HTTP.get(admin, "/metrics")?.text ?? ""
        #expect(metrics.contains("\nberth_servers_unhealthy 1\n") && metrics.contains("\nberth_replicas 1\n"))
        #expect(!metrics.contains("\nberth_server_checks_total{outcome=\"failed\"} 0\n"))
        servers[0] = try serve(ports[0])
        try await eventually("it is back", within: 60, show: proxy) { ready() == 2 ? () : nil }
        for _ in 0..<6 { #expect(HTTP.get(port, "/page.txt")?.status == 200) }
      } catch {
        print(proxy.output)
        for program in servers + [proxy] { program.signal(SIGKILL) }
        throw error
      }
      for server in servers { try await server.stop() }
      try await proxy.stop()
      try FileManager.default.removeItem(atPath: directory)
    }
  }
}
