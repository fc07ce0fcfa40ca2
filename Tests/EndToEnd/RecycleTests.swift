// Instances are replaced under load, again and again, and no client notices: the real programs, two replicas, and servers
// that end as rudely as servers can.
import Foundation
import Glibc
import JSON
import Posix
import Redis
import Routing
import State
import TestSupport
import Testing

extension EndToEnd {
  @Suite struct Recycling {
    /// What a server told at its end.
    private struct Report {
      let port: Int
      let requests: Int
      let underway: Int
      let connections: Int
    }

    private func reports(_ deployment: Deployment, _ pool: String) -> [Report] {
      let text = (try? String(contentsOfFile: "\(deployment.directory)/\(pool).log", encoding: .utf8)) ?? ""
      return text.split(separator: "\n").compactMap { line in
        guard let json = try? JSON(parsing: String(line)) else { return nil }
        func number(_ name: String) -> Int { json[name]?.int ?? -1 }
        return Report(
          port: number("port"), requests: number("requests"), underway: number("underway"),
          connections: number("connections"))
      }
    }

    private func events(_ deployment: Deployment) throws -> [State.Event] {
      try deployment.redis.connect().run(Events(keys: Keys()).recent(count: 10_000))
    }

    private static let limit = 40

    private func configuration(_ fixedPorts: ClosedRange<Int>) throws -> String {
      let python = try Machine.python()
      let script = Machine.checkout + "/Tests/EndToEnd/clients/worn_server.py"
      func fixed(_ port: Int) -> String {
        let pid = "DIRECTORY/pid-\(port)"
        return """
              - url: http://127.0.0.1:\(port)
                start:
                  - bash
                  - -c
                  - "setsid \(python) \(script) \(port) DIRECTORY/fixed.log > /dev/null 2>&1 < /dev/null & echo $! > \(pid)"
                stop:
                  - bash
                  - -c
                  - "kill -TERM $(cat \(pid)); while kill -0 $(cat \(pid)) 2> /dev/null; do sleep 0.01; done"
          """
      }
      func process(_ name: String, _ more: String) -> String {
        """
          \(name):
            kind: http
            command: \(python)
            arguments: [\(script), "{port}", DIRECTORY/\(name).log]
            healthPath: /health
            \(more)
        """
      }
      return """
        pools:
        \(process("one", "{min: 1, max: 1, recycleAfterRequests: \(Self.limit)}".inline))
        \(process("many", "{min: 3, max: 3, recycleAfterMilliseconds: 2000}".inline))
          fixed:
            kind: http
            runtime: static
            healthPath: /health
            recycleAfterRequests: 30
            servers:
        \(fixedPorts.map(fixed).joined(separator: "\n"))
        routes:
          one: {path: /one, pool: one, retries: 0}
          many: {path: /many, pool: many, retries: 0}
          fixed: {path: /fixed, pool: fixed, retries: 0}
        """
    }

    @Test func fiftyRecyclesUnderLoadFailNoRequest() async throws {
      let fixedPorts = try Machine.freePorts(2)
      let deployment = try Deployment(replicas: 2, configuration: configuration(fixedPorts))
      do {
        try await deployment.ready()
        try await eventually("all instances are ready", within: Deployment.patience, show: deployment.control) {
          try deployment.readyInstances() == 6 ? () : nil
        }
        for admin in deployment.admin {
          try await eventually("the replica knows them", within: 60, show: deployment.control) {
            let text = HTTP.get(admin, "/routes")?.text ?? ""
            return text.components(separatedBy: "\"state\":\"ready\"").count - 1 == 6
          }
        }
        let loads = [
          "one": PacedLoad(port: deployment.port, path: "/one", clients: 8, pauseMilliseconds: 100),
          "many": PacedLoad(port: deployment.port, path: "/many", clients: 8, pauseMilliseconds: 100),
          "fixed": PacedLoad(port: deployment.port, path: "/fixed", clients: 4, pauseMilliseconds: 100),
        ]
        let goals = ["one": 50, "many": 50, "fixed": 10]
        try await eventually("so many servers were replaced", within: 600, show: deployment.control) {
          for load in loads.values { if let failure = load.failures.first { throw Failure(failure) } }
          return goals.allSatisfy { reports(deployment, $0.key).count >= $0.value }
        }
        for load in loads.values { try await load.stop() }
        for (pool, load) in loads {
          #expect(load.failures.isEmpty)
          let reports = reports(deployment, pool)
          #expect(reports.allSatisfy { $0.underway == 0 && $0.connections == 0 }, "\(pool): \(reports)")
          print("\(pool): \(reports.count) recycles, \(load.served) requests, none failed")
        }
        try told(deployment)
        try overshoot(deployment, loads["one"]!)
        try await deployment.stop()
      } catch {
        await deployment.abandon()
        throw error
      }
    }

    /// Every step has left its event, with its reason.
    private func told(_ deployment: Deployment) throws {
      let events = try events(deployment).filter { $0.fields["pool"] == "one" }
      func types(_ id: String) -> [String] { events.filter { $0.id == id }.reversed().map(\.type) }
      let gone = Set(events.filter { $0.type == "instance.removed" }.map(\.id))
      #expect(gone.count >= 50)
      for id in gone where types(id).contains("instance.starting") {
        #expect(
          types(id) == [
            "instance.starting", "instance.ready", "instance.recycling", "instance.draining", "instance.stopping",
            "instance.removed",
          ])
        let reason = events.first { $0.id == id && $0.type == "instance.draining" }?.reason ?? ""
        #expect(reason.hasPrefix("it has served "), "\(reason)")
        #expect(events.contains { $0.type == "instance.starting" && $0.reason.hasPrefix("it replaces \(id): ") })
      }
    }

    /// docs/recycling.md: the requests beyond the limit, from the rate and the times that the events tell.
    private func overshoot(_ deployment: Deployment, _ load: PacedLoad) throws {
      let events = try events(deployment).filter { $0.fields["pool"] == "one" }
      func at(_ type: String, _ id: String) -> Int? { events.first { $0.type == type && $0.id == id }?.at }
      let starts = events.filter { $0.type == "instance.recycling" }.compactMap { event in
        at("instance.draining", event.id).map { $0 - event.at }
      }
      let start = try #require(starts.max())
      let most = reports(deployment, "one").map(\.requests).max() ?? 0
      let flush = 1_000
      let look = 1_000
      let word = 500
      let bound = Int(load.requestsPerSecond * Double(flush + look + start + word) / 1_000) + load.clients
      print(
        "one: limit \(Self.limit), at most \(most) served, overshoot \(most - Self.limit) of \(bound) allowed at",
        "\(load.requestsPerSecond)/s; replacements ready after \(starts.sorted()[starts.count / 2]) ms, at most \(start)"
      )
      #expect(most - Self.limit <= bound)
    }
  }
}

extension String {
  /// `{a: b, c: d}` as lines of a mapping, for pools.
  fileprivate var inline: String {
    dropFirst().dropLast().split(separator: ", ").joined(separator: "\n    ")
  }
}
