// A probe leaves no connection behind: one that stays open keeps a descriptor here and a socket in the instance.
import Posix
import Runtimes
import Testing

@Suite struct RuntimeProbeTests {
  @Test func eachProbeEndsItsConnection() throws {
    let instance = ScriptedInstance()
    for _ in 0..<3 {
      let prober = Thread.start("test-probe") {
        let answer = try? HTTPProbe.get(
          host: "127.0.0.1", port: instance.address.port, path: "/json/version",
          deadline: Deadline(milliseconds: 10_000))
        precondition(answer?.status == 200, "the instance answered")
      }
      let peer = try #require(instance.accept())
      #expect(peer.receive(upTo: "\r\n\r\n")?.hasPrefix("GET /json/version ") == true)
      // Like Chrome, the instance does not close: the probe has to.
      peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
      prober.join()
      #expect(peer.receive() == [], "the probe's end arrives, not a time-out")
    }
  }
}
