// A hundred thousand mixed requests and two thousand tunnels with random aborts through one berth-data: at the end every
// gauge is zero, every close has a reason, and every descriptor is back. BERTH_SEED repeats a run, BERTH_SOAK=PERCENT
// makes it shorter or longer.
import Foundation
import Glibc
import Posix
import Synchronization
import TLS
import TestSupport
import Testing

extension EndToEnd {
  @Suite struct Soak {
    @Test func everythingIsBackAtItsStart() async throws {
      let percent = ProcessInfo.processInfo.environment["BERTH_SOAK"].flatMap { Int($0) } ?? 100
      let seed = SplitMix64.printedSeed(for: "soak")
      let directory = try Machine.scratchDirectory("soak")
      let instances = try (0..<3).map { _ in try SoakInstance() }
      defer { for instance in instances { instance.close() } }
      let (port, tlsPort, admin) = (try Machine.freePort(), try Machine.freePort(), try Machine.freePort())
      try DevelopmentCertificate.write(certificateFile: directory + "/c.pem", keyFile: directory + "/k.pem")
      let records = instances.enumerated().map {
        "\"web-\($0)\": {\"pool\": \"web\", \"host\": \"127.0.0.1\", \"port\": \($1.port)}"
      }
      let routes = """
        {"pools": {"web": {"kind": "http", "slots": 0}}, "routes": {"all": {"path": "/", "pool": "web"}},
         "instances": {\(records.joined(separator: ", "))}}
        """
      try routes.write(toFile: directory + "/routes.json", atomically: true, encoding: .utf8)
      let proxy = try Program(
        "berth-data",
        [
          try Machine.program("berth-data"), "--routes", directory + "/routes.json", "--listen", "127.0.0.1:\(port)",
          "--tls-listen", "127.0.0.1:\(tlsPort)", "--certificate", directory + "/c.pem", "--key", directory + "/k.pem",
          "--admin", "127.0.0.1:\(admin)", "--splice", "always", "--limit", "pipes=4", "--limit",
          "instance-idle-timeout=500ms", "--limit", "linger-timeout=500ms", "--log-level", "error", "--access-log",
          directory + "/access.log", "--health-check-interval", "0",
        ], outputFile: directory + "/data.log", environment: ["REDIS_URL": nil])
      do {
        try await eventually("the proxy is ready", within: 60, show: proxy) {
          HTTP.get(admin, "/readyz")?.status == 200 ? () : nil
        }
        // The least of some looks: the admin server may still be closing what readiness was asked over.
        var before = Self.descriptors(proxy.pid)
        for _ in 0..<20 {
          try await Task.sleep(for: .milliseconds(25))
          let now = Self.descriptors(proxy.pid)
          if now.count < before.count { before = now }
        }
        let run = SoakRun(port: port, tlsPort: tlsPort, requests: 1_000 * percent, tunnels: 20 * percent)
        let started = Clock.monotonicMilliseconds
        try run.go(seed: seed)
        print("soak: \(run.done) requests, \(run.tunnelsDone) tunnels in \(Clock.monotonicMilliseconds - started) ms")
        #expect(run.failures == [], "what was not aborted is answered rightly")
        #expect(run.done >= 1_000 * percent && run.tunnelsDone >= 20 * percent)
        try await eventually("every gauge is zero", within: 60, show: proxy) {
          let open = Self.openThings(admin)
          return open == [] ? true : nil
        }
        // Pipes stay pooled, four of two descriptors for each worker at most; nothing else stays.
        try await eventually("every descriptor is back", within: 60, show: proxy) {
          Self.descriptors(proxy.pid).filter { !$0.hasPrefix("pipe:") }.count
            <= before.filter { !$0.hasPrefix("pipe:") }.count
        }
        let pipes = Self.descriptors(proxy.pid).count - before.count
        #expect(pipes <= 8 * ProcessInfo.processInfo.activeProcessorCount, "pipes")
        let metrics = try await eventually("every close has one reason", show: proxy) {
          let text = HTTP.get(admin, "/metrics")?.text ?? ""
          let accepted = Self.sum(text, "berth_connections_accepted_total")
          return accepted > 0 && Self.sum(text, "berth_closes_total") == accepted ? text : nil
        }
        #expect(Self.sum(metrics, "berth_requests_total") > 0 && Self.sum(metrics, "berth_spliced_bytes_total") > 0)
        // All pipes are in the pool again: a long tunnel is still spliced.
        let small = SoakRun(port: port, tlsPort: tlsPort, requests: 0, tunnels: 0)
        for _ in 0..<16 { #expect(small.longTunnel()) }
        let after = try #require(HTTP.get(admin, "/metrics")).text
        #expect(Self.sum(after, "berth_spliced_bytes_total") > Self.sum(metrics, "berth_spliced_bytes_total"))
      } catch {
        print(Self.openThings(admin), Self.descriptors(proxy.pid).sorted(), proxy.output.suffix(2_000))
        proxy.signal(SIGKILL)
        throw error
      }
      try await proxy.stop()
      try FileManager.default.removeItem(atPath: directory)
    }

    /// What a process has open, as the kernel names it.
    private static func descriptors(_ pid: pid_t) -> [String] {
      let folder = "/proc/\(pid)/fd"
      let names = (try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? []
      return names.compactMap { try? FileManager.default.destinationOfSymbolicLink(atPath: folder + "/" + $0) }
    }

    /// Gauges of things open that are not zero.
    private static func openThings(_ admin: Int) -> [Substring] {
      guard let text = HTTP.get(admin, "/metrics")?.text else { return ["no metrics"] }
      let gauges = ["berth_clients", "berth_instance_connections", "berth_tunnels", "berth_buffered_bytes"]
      return text.split(separator: "\n").filter { line in
        guard !line.hasPrefix("#"), let value = line.split(separator: " ").last, Double(value) != 0 else {
          return false
        }
        let name = line.prefix { $0 != " " && $0 != "{" }
        return gauges.contains(String(name)) || name.hasSuffix("_active") || name.contains("_active_")
      }
    }

    private static func sum(_ metrics: String, _ name: String) -> Int {
      metrics.split(separator: "\n").reduce(0) { sum, line in
        guard line.hasPrefix(name + " ") || line.hasPrefix(name + "{") else { return sum }
        return sum + (line.split(separator: " ").last.flatMap { Int($0) } ?? 0)
      }
    }
  }
}
