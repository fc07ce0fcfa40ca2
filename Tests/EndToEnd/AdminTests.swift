// The admin port of a data plane: its pages, and that no client of it can hold up another one.
import Foundation
import Glibc
import JSON
import Posix
import Testing

extension EndToEnd {
  @Suite("Admin pages") struct Admin {
    @Test("slow clients of the admin port hold up nobody, and the pages tell of instances")
    func pages() async throws {
      let directory = try Machine.scratchDirectory("admin")
      let (port, admin) = (try Machine.freePort(), try Machine.freePort())
      let instances = (0..<3).map { #""web-\#($0)": {"pool": "web", "host": "127.0.0.1", "port": \#(1 + $0)}"# }
      try """
      {"pools": {"web": {"kind": "http", "slots": 0}}, "routes": {"all": {"path": "/", "pool": "web"}},
       "instances": {\(instances.joined(separator: ",")), "ö #1": {"pool": "web", "state": "unhealthy", "host": "127.0.0.1", "port": 9}}}
      """.write(toFile: directory + "/routes.json", atomically: true, encoding: .utf8)
      let proxy = try Program(
        "berth-data",
        [
          try Machine.program("berth-data"), "--routes", directory + "/routes.json", "--listen", "127.0.0.1:\(port)",
          "--admin", "127.0.0.1:\(admin)", "--workers", "1",
        ], outputFile: directory + "/data.log")
      do {
        try await eventually("it is ready", within: 60, show: proxy) {
          HTTP.get(admin, "/readyz")?.status == 200 ? () : nil
        }
        // Fewer than the server takes at a time: one that is said nothing, and some that stop inside their request.
        let address = try #require(SocketAddress(host: "127.0.0.1", port: admin))
        let idle = (0..<20).map { _ in Int32(Socket.connect(address).descriptor) }
        defer { for fd in idle { Socket.close(fd) } }
        for fd in idle.dropFirst() { _ = unsafe Socket.send(fd, "GET /", 5) }
        let before = Clock.monotonicMilliseconds
        for _ in 0..<3 { #expect(HTTP.request("GET", admin, "/healthz", seconds: 10)?.text == "ok\n") }
        // One after the other the idle ones would take forty seconds.
        #expect(Clock.monotonicMilliseconds - before < 10_000, "idle clients have two seconds, others need not wait")

        // Nobody listens there.
        #expect(HTTP.get(port, "/")?.status == 502)
        let page = try #require(HTTP.get(admin, "/instances?pool=web&limit=2")?.json)
        #expect(page["total"]?.int == 4)
        let shown = try #require(page["instances"]?.array)
        #expect(shown.map { $0["id"]?.string } == ["web-0", "web-1"])
        let next = try #require(page["next"]?.string)
        let rest = try #require(HTTP.get(admin, next)?.json)
        #expect(rest["instances"]?.array?.map { $0["id"]?.string } == ["web-2", "ö #1"])
        #expect(rest["next"] == nil)
        let one = try #require(HTTP.get(admin, "/instances?after=web-1&limit=1")?.json["next"]?.string)
        let last = HTTP.get(admin, one)?.json["instances"]?.array?.first
        #expect(last?["id"]?.string == "ö #1" && last?["state"]?.string == "unhealthy")
        let all = try #require(HTTP.get(admin, "/instances")?.json["instances"]?.array)
        #expect(all.count == 4)
        let failures = all.reduce(0) { $0 + ($1["failures"]?["connect"]?.int ?? 0) }
        #expect(failures > 0)
        #expect(all.allSatisfy { $0["workers"]?.array?.count == 1 })
        for wrong in ["limit=0", "limit=1001", "after", "what=1", "pool"] {
          #expect(HTTP.get(admin, "/instances?\(wrong)")?.status == 400, "\(wrong)")
        }
        let metrics = try #require(HTTP.get(admin, "/metrics")?.text)
        for row in [
          #"berth_route_responses_total{route="all",class="5xx"} 1"#, #"berth_pool_requests_total{pool="web"} 1"#,
          #"berth_instance_failures_total{instance="web-0",pool="web",kind="connect"}"#,
        ] { #expect(metrics.contains(row), "\(row)") }
        #expect(HTTP.get(admin, "/")?.status == 404)
        #expect(HTTP.request("POST", admin, "/metrics")?.status == 405)
      } catch {
        print(proxy.output)
        proxy.signal(SIGKILL)
        throw error
      }
      try await proxy.stop()
      try FileManager.default.removeItem(atPath: directory)
    }
  }
}
