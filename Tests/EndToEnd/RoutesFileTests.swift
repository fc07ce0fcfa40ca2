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
        try await eventually("the server answers", within: 30, show: server) { HTTP.get(backend, "/page.txt") }
        try await eventually("the proxy is ready", within: 30, show: proxy) {
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
  }
}
