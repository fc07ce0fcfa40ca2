// A pool without slots under real load through a replica: `targetActive` makes it grow to its maximum and shrink again, and no
// client notices either.
import Foundation
import JSON
import Posix
import Redis
import Routing
import State
import Testing

extension EndToEnd {
  @Suite struct ActiveScaling {
    @Test func aPoolGrowsWithTheRequestsUnderWayAndShrinksAfterThem() async throws {
      let script = Machine.checkout + "/Tests/EndToEnd/clients/worn_server.py"
      let configuration = """
        pools:
          busy:
            kind: http
            command: \(try Machine.python())
            arguments: [\(script), "{port}", DIRECTORY/busy.log]
            healthPath: /health
            min: 1
            max: 3
            spare: 0
            targetActive: 4
            scaleDownAfterMilliseconds: 1000
        routes:
          busy: {pool: busy, retries: 0}
        """
      let deployment = try Deployment(replicas: 2, configuration: configuration)
      do {
        try await deployment.ready()
        try await eventually("both replicas route to it", within: 60, show: deployment.control) {
          deployment.admin.allSatisfy { HTTP.get($0, "/routes")?.text.contains("\"state\":\"ready\"") == true }
            ? () : nil
        }
        func series(_ name: String) -> Int? {
          let text = HTTP.get(deployment.controlPort, "/metrics")?.text ?? ""
          return text.split(separator: "\n").first { $0.hasPrefix(name + " ") }
            .flatMap { Int($0.dropFirst(name.count + 1)) }
        }
        #expect(try deployment.readyInstances() == 1)
        // Twelve requests under way at nearly any time; an instance should have four.
        let load = PacedLoad(port: deployment.port, path: "/busy", clients: 12, pauseMilliseconds: 0, isSlow: true)
        let began = Clock.monotonicMilliseconds
        try await eventually("the pool has grown", within: 60, show: deployment.control) {
          if let failure = load.failures.first { throw Failure(failure) }
          return try deployment.readyInstances() == 3 ? () : nil
        }
        let grown = Clock.monotonicMilliseconds - began
        try await eventually("they are counted", show: deployment.control) {
          (6...12).contains(series("berth_pool_active{pool=\"busy\"}") ?? -1)
        }
        // The new ones get their share, and replicas tell of it a little later.
        try await eventually("all three serve", show: deployment.control) {
          let uses = try deployment.instances().map { record in
            HTTP.get(deployment.controlPort, "/api/instances/\(record.id)")?.json["requests"]?.int ?? 0
          }
          return uses.count == 3 && uses.allSatisfy { $0 > 5 }
        }
        try await load.stop()
        #expect(load.failures.isEmpty, "\(load.failures.prefix(3))")

        let ended = Clock.monotonicMilliseconds
        try await eventually("the pool has shrunk", within: 60, show: deployment.control) {
          try deployment.instances().count == 1 && deployment.readyInstances() == 1 ? () : nil
        }
        print(
          "targetActive: 1 → 3 instances after \(grown) ms under \(load.clients) requests at a time, back to 1",
          "\(Clock.monotonicMilliseconds - ended) ms after them; \(load.served) requests, none failed")
        // It is counted when the record is gone.
        try await eventually("both ends are counted", show: deployment.control) {
          series("berth_stops_total{pool=\"busy\",reason=\"scaled_down\"}") == 2
        }
        let reports = try String(contentsOfFile: deployment.directory + "/busy.log", encoding: .utf8)
        for line in reports.split(separator: "\n") {
          let report = try JSON(parsing: String(line))
          #expect(report["underway"] == 0 && report["connections"] == 0, "\(line)")
        }
        try await deployment.stop()
      } catch {
        await deployment.abandon()
        throw error
      }
    }
  }
}
