// The listeners of a real process: several addresses and unix sockets, which the next process takes over; and a process that
// is started with its standard descriptors closed.
import Foundation
import Glibc
import Posix
import TestSupport
import Testing

extension EndToEnd {
  @Suite struct Listeners {
    /// The status of a request on a connection of its own.
    private func status(_ address: String) throws -> Substring? {
      let peer = Peer(connectingTo: try #require(SocketAddress(address)))
      peer.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
      return peer.response()?.head.split(separator: " ").dropFirst().first
    }

    @Test("two addresses and a unix socket are listened on, and handed over")
    func several() async throws {
      let place = try Upgrade.Place()
      let other = "127.0.0.1:\(try Machine.freePort())"
      let path = "unix:\(place.directory)/in.sock"
      let flags = ["--handover", place.socket, "--listen", other, "--listen", path]
      var current = try place.start("first", flags)
      try await place.serves(current)
      for round in 0..<2 {
        for address in ["127.0.0.1:\(place.plain)", other, path] { #expect(try status(address) == "200") }
        let next = try place.start("next-\(round)", workers: 1 + 2 * round, flags)
        try await place.serves(next)
        #expect(try await current.ended(within: 60) == .exited(0))
        current = next
      }
      for address in ["127.0.0.1:\(place.plain)", other, path] { #expect(try status(address) == "200") }
      // Another process may not have the path while this one lives.
      let rival = try place.start(
        "rival", plain: try Machine.freePort(), tls: try Machine.freePort(), admin: try Machine.freePort(),
        ["--listen", path])
      #expect(try await rival.ended(within: 60) != .exited(0))
      #expect(rival.output.contains("cannot listen on \(path): Address already in use"))
      try await current.stop()
      // The file that it has left is no hindrance.
      let again = try place.start("again", flags)
      try await place.serves(again)
      #expect(try status(path) == "200")
      try await again.stop()
      try place.remove()
    }

    @Test("standard descriptors that are closed are opened as /dev/null before anything else")
    func closed() async throws {
      let place = try Upgrade.Place()
      let program = try Program(
        "closed",
        [
          "/bin/sh", "-c", "exec \"$@\" <&- >&- 2>&-", "sh", try Machine.program("berth-data"), "--listen",
          "127.0.0.1:\(place.plain)", "--admin", "127.0.0.1:\(place.admin)", "--routes",
          place.directory + "/routes.json",
        ], outputFile: place.directory + "/closed.log", environment: ["REDIS_URL": nil, "BERTH_HANDOVER": nil])
      try await eventually("it serves", within: 60, show: program) {
        HTTP.get(place.admin, "/readyz")?.status == 200
      }
      for fd in 0...2 {
        let target = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/\(program.pid)/fd/\(fd)")
        #expect(target == "/dev/null")
      }
      #expect(try status("127.0.0.1:\(place.plain)") == "200")
      try await program.stop()
      try place.remove()
    }
  }
}
