// Many sessions, one after the other and at once, and sessions made through REST: afterwards nothing is held.
import JSON
import Posix
import Routing
import State
import Testing

extension EndToEnd {
  @Suite struct Sessions {
    @Test func twentyInSequenceLeaveNothingBehind() async throws {
      try await Deployment.with(replicas: 2) { berth in
        let answer = try await Client.playwright(berth.url, "--count", "20", in: berth)
        let sessions = answer["sessions"]?.array ?? []
        #expect(sessions.count == 20)
        #expect(sessions.allSatisfy { $0["title"]?.string == "Berth" })
        // The default context and the client's own: a Chrome that served someone before would show more.
        #expect(sessions.allSatisfy { $0["contexts"]?.int == 2 })
      }
    }

    @Test func eightAtOnceHaveAChromeEach() async throws {
      try await Deployment.with(replicas: 2) { berth in
        let answer = try await Client.playwright(berth.url, "--at-once", "8", in: berth)
        #expect(answer["sessions"]?.array?.count == 8)
      }
    }

    @Test func oneProgramWithThreeBrowsersHasThreeChromes() async throws {
      try await Deployment.with { berth in
        let answer = try await Client.playwright(berth.url, "--in-turn", "3", in: berth)
        let found = answer["found"]?.array ?? []
        #expect(found.count == 3)
        for pages in found {
          #expect(pages.array?.contains { $0.string?.contains("harbour") == true } == false, "the page of another")
        }
      }
    }

    @Test func aSessionMadeThroughRESTOutlivesItsSockets() async throws {
      try await Deployment.with { berth in
        let before = Clock.unixMilliseconds
        let created = try #require(HTTP.request("POST", berth.controlPort, "/api/session/create", body: "{}"))
        #expect((200...201).contains(created.status), "\(created.text)")
        let id = try #require(created.json["sessionId"]?.string)
        let url = try #require(created.json["url"]?.string)
        #expect(url.hasPrefix(berth.url + "/session/\(id)"))

        // What docs/redis-keys.md says of both keys.
        guard case .string(let text) = try berth.ask("GET", Keys().session(id)) else {
          throw Failure("no session:\(id)")
        }
        let record = try SessionRecord(id: id, json: JSON(parsing: text))
        #expect(record.createdAt >= before && record.expiresAt > record.createdAt)
        #expect(try berth.allocatedPorts().contains(record.port))

        for _ in 0..<2 {
          let answer = try await Client.playwright(url, in: berth)
          #expect(answer["sessions"]?.array?.first?["title"]?.string == "Berth")
          #expect(try berth.leases() == 1, "the session is still held although no socket is open")
        }
        let listed = HTTP.get(berth.controlPort, "/api/sessions")?.json["sessions"]?.array ?? []
        #expect(listed.contains { $0["sessionId"]?.string == id })

        #expect(HTTP.request("DELETE", berth.controlPort, "/api/session/\(id)")?.status == 200)
        #expect(HTTP.get(berth.controlPort, "/api/session/\(id)")?.status == 404)
      }
    }

    @Test func allocatedPortsCarryTheTimeOfTheirLease() async throws {
      try await Deployment.with { berth in
        let now = Clock.unixMilliseconds
        guard case .array(let keys) = try berth.ask("KEYS", Keys().portsAllocated(host: "*")), keys.count == 1,
          case .string(let key) = keys[0],
          case .array(let words) = try berth.ask(
            "ZRANGE", String(decoding: key, as: UTF8.self), "0", "-1", "WITHSCORES")
        else { throw Failure("there is no one host with allocated ports") }
        #expect(!words.isEmpty)
        for pair in stride(from: 0, to: words.count, by: 2) {
          guard case .string(let port) = words[pair], case .string(let score) = words[pair + 1] else { continue }
          #expect(berth.instancePorts.contains(Int(String(decoding: port, as: UTF8.self)) ?? 0))
          let leasedAt = Double(String(decoding: score, as: UTF8.self)) ?? 0
          #expect(abs(leasedAt - Double(now)) < 600_000, "milliseconds since 1970")
        }
      }
    }
  }
}
