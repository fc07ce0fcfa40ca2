// What a client sees when its session ends under its WebSocket, and where it finds the reason (docs/rest.md).
import JSON
import Posix
import TestSupport
import Testing

extension EndToEnd {
  @Suite struct SessionEnds {
    @Test func theSocketEndsAndRESTSaysWhy() async throws {
      try await Deployment.with { berth in
        /// A session with a WebSocket to its browser.
        func begin(_ body: String) throws -> (id: String, socket: Peer) {
          let made = try #require(HTTP.request("POST", berth.controlPort, "/api/session/create", body: body))
          let id = try #require(made.json["sessionId"]?.string, "\(made.text)")
          let socket = Peer(connectingTo: SocketAddress(host: "127.0.0.1", port: berth.port)!)
          socket.send(
            "GET /session/\(id)/ HTTP/1.1\r\nHost: 127.0.0.1:\(berth.port)\r\nConnection: Upgrade\r\n"
              + "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
          )
          #expect(socket.receive(upTo: "\r\n\r\n")?.hasPrefix("HTTP/1.1 101 ") == true)
          return (id, socket)
        }
        func found(_ id: String) -> JSON? { HTTP.get(berth.controlPort, "/api/session/\(id)")?.json["reason"] }

        let (deleted, first) = try begin("{}")
        #expect(HTTP.request("DELETE", berth.controlPort, "/api/session/\(deleted)")?.status == 200)
        // No Close frame, nor anything else: the bare end that clients call 1006.
        #expect(first.receive() == [])
        #expect(found(deleted) == "client")

        let (timedOut, second) = try begin(#"{"timeout":1000}"#)
        #expect(second.receive() == [])
        try await eventually("the reason is there") { found(timedOut) == "hard limit" }

        let figures = HTTP.get(berth.admin.lowerBound, "/metrics")?.text ?? ""
        #expect(figures.contains(#"berth_closes_total{reason="session_ended"} 2"#), "\(figures)")
        try await eventually("the ends are counted", show: berth.control) {
          let figures = HTTP.get(berth.controlPort, "/metrics")?.text ?? ""
          return figures.contains(#"berth_sessions_ended_total{pool="chrome",reason="client"} 1"#)
            && figures.contains(#"berth_sessions_ended_total{pool="chrome",reason="hard_limit"} 1"#)
        }
      }
    }
  }
}
