// A client whose connection broke finds its browser as it left it, at the same URL and through another replica; nobody else
// gets it meanwhile; and when it stays away for longer than its grace, the browser is gone.
import Glibc
import JSON
import Testing

extension EndToEnd {
  @Suite struct Reconnecting {
    @Test func theSameURLWorksThroughTheOtherReplica() async throws {
      try await Deployment.with(replicas: 2) { berth in
        let made = try #require(
          HTTP.request("POST", berth.controlPort, "/api/session/create", body: #"{"grace":60000}"#))
        let id = try #require(made.json["sessionId"]?.string)
        let url = try #require(made.json["url"]?.string)
        func state() -> String? { HTTP.get(berth.controlPort, "/api/session/\(id)")?.json["state"]?.string }

        let left = try await Client.reconnect(url, "leave", "Quay", in: berth)
        #expect(left["titles"]?.array?.contains("Quay") == true)
        // One replica after the other is killed, so that each of them serves the session alone at some time.
        for index in 0..<2 {
          try await eventually("it waits for its client") { state() == "grace" ? () : nil }
          berth.replicas[index].signal(SIGKILL)
          _ = try await berth.replicas[index].ended(within: 60)
          // Somebody else gets another browser.
          let stranger = try await Client.reconnect(berth.url, "find", in: berth)
          #expect(stranger["titles"]?.array?.contains("Quay") == false)
          let found = try await Client.reconnect(url, "find", in: berth)
          #expect(found["titles"]?.array?.contains("Quay") == true)
          #expect(found["sums"]?.array?.contains(.int(42 + index)) == true, "\(found.text)")
          try berth.restartReplica(index)
          try await berth.ready()
        }
        #expect(HTTP.request("DELETE", berth.controlPort, "/api/session/\(id)")?.status == 200)
      }
    }

    @Test func aClientThatStaysAwayLosesItsBrowser() async throws {
      try await Deployment.with { berth in
        let made = try #require(
          HTTP.request("POST", berth.controlPort, "/api/session/create", body: #"{"grace":300}"#))
        let id = try #require(made.json["sessionId"]?.string)
        let url = try #require(made.json["url"]?.string)
        _ = try await Client.reconnect(url, "leave", "Quay", in: berth)
        try await eventually("it is over") {
          HTTP.get(berth.controlPort, "/api/session/\(id)")?.status == 404 ? () : nil
        }
        #expect(try berth.leases() == 0)
        try await eventually("the replica knows it", show: berth.replicas[0]) {
          HTTP.get(berth.port, "/session/\(id)/json/version")?.status == 404
        }
      }
    }
  }
}
