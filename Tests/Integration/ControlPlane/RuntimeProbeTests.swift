// A probe leaves no connection behind: one that stays open keeps a descriptor here and a socket in the instance. And it
// begins as the pool's servers expect.
import Domain
import HTTPWire
import Posix
import Routing
import Runtimes
import TestSupport
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

  @Test func theGreetingOfThePROXYProtocolIsWhatReplicasWrite() {
    #expect(ProxyGreeting.local(version: 0).isEmpty)
    for version in [1, 2] {
      var bytes = [UInt8](repeating: 0, count: ProxyProtocol.longestWritten)
      var span = bytes.mutableSpan
      let count = ProxyProtocol.write(version: version, source: nil, destination: nil, into: &span)
      #expect(ProxyGreeting.local(version: version) == Array(bytes.prefix(count ?? 0)))
    }
  }

  @Test(arguments: [0, 1, 2]) func aCheckBeginsWithTheHeaderThatThePoolsServersExpect(version: Int) throws {
    let instance = ScriptedInstance()
    var spec = PoolSpec(name: "web", kind: .http, runtime: .process(ProcessSpec()), slots: 0, recycleAfterSessions: 0)
    spec.balancing.proxyProtocol = version
    spec.health.path = "/up"
    let record = InstanceRecord(id: "a", pool: "web", host: "127.0.0.1", port: instance.address.port)
    for depth in [HealthDepth.tcp, .http] {
      let prober = Thread.start("test-probe") {
        let problem = HealthProbe.check(record, spec: spec, depth: depth)
        precondition(problem == nil, "\(String(describing: problem))")
      }
      let peer = try #require(instance.accept())
      var bytes: [UInt8] = []
      if depth == .tcp {
        while let more = peer.receive(), !more.isEmpty { bytes += more }
        #expect(bytes == ProxyGreeting.local(version: version))
      } else {
        let head = try #require(peer.receive(upTo: "GET /up HTTP/1.1\r\n"))
        #expect(head.dropLast("GET /up HTTP/1.1\r\n".count).utf8.elementsEqual(ProxyGreeting.local(version: version)))
        peer.send("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n")
      }
      prober.join()
    }
  }

  @Test func aCheckSaysHowDeepItCame() throws {
    let port = try unusedPort()
    let spec = PoolSpec(name: "web", kind: .http, runtime: .process(ProcessSpec()), slots: 0, recycleAfterSessions: 0)
    let record = InstanceRecord(id: "a", pool: "web", host: "127.0.0.1", port: port)
    #expect(HealthProbe.check(record, spec: spec, depth: .process) == nil)
    let problem = HealthProbe.check(record, spec: spec, depth: .cdp)
    #expect(problem?.depth == .tcp && problem?.description.contains("cannot be reached") == true)
    let instance = AnsweringInstance { _ in "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n" }
    var other = record
    other.port = instance.address.port
    #expect(HealthProbe.check(other, spec: spec, depth: .tcp) == nil)
    #expect(HealthProbe.check(other, spec: spec, depth: .http) == HealthProblem(.http, "/ answered 500"))
  }

  @Test func lastLinesAreFewShortAndPrintable() {
    let bell = "\u{1B}[31mred\u{7}\n\n\n"
    #expect(LogTail.lines(of: Array((bell + "  \nlast").utf8)) == ["[31mred", "  ", "last"])
    let many = (1...50).map { "line \($0)" }.joined(separator: "\n")
    #expect(LogTail.lines(of: Array(many.utf8)).first == "line 41")
    let long = LogTail.lines(of: Array(repeating: UInt8(ascii: "x"), count: 10_000))
    #expect(long.map(\.utf8.count) == [LogTail.maximumBytes + "…".utf8.count])
  }
}
