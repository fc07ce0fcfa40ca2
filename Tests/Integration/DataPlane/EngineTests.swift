// The engine on real sockets: exchanges, bodies, tunnels, faults and ends, each seen from the client and from the instance.
import Engine
import Glibc
import Posix
import ProxyMachine
import Routing
import TLS
import TestSupport
import Testing

@Suite struct EngineTests {
  private let get = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
  private let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

  @Test func aKeptConnectionServesRequestAfterRequest() throws {
    let instance = ScriptedInstance()
    let engine = try TestEngine(instances: [instance.address])
    let client = engine.connect()
    client.send(get)
    let upstream = try #require(instance.accept())
    for number in 1...3 {
      if number > 1 { client.send(get) }
      #expect(upstream.receive(upTo: "\r\n\r\n")?.hasPrefix("GET / HTTP/1.1\r\nHost: a.test\r\n") == true)
      upstream.send(ok)
      #expect(client.response()?.body == "ok")
    }
    #expect(engine.value(.instanceReuses) == 2)
    #expect(engine.value(.instanceConnections) == 1)
  }

  @Test func aHandOverLosesNoRequestOfAKeptConnection() throws {
    let instance = AnsweringInstance(saying: "ok")
    let engine = try TestEngine(instances: [instance.address])
    let client = engine.connect()
    client.send(get)
    #expect(client.response()?.body == "ok")
    // Longer than anything here takes: the engine ends because its last client has.
    engine.engine.drain(milliseconds: 600_000, keepsIdle: true)
    client.send(get)
    let last = try #require(client.response())
    #expect(last.body == "ok" && last.head.contains("\r\nConnection: close\r\n"))
    #expect(client.ends())
    engine.engine.join()
    #expect(engine.value(CloseReason.drained) == 1)
  }

  @Test func pipelinedRequestsAreAnsweredInOrder() throws {
    let instance = ScriptedInstance()
    let engine = try TestEngine(instances: [instance.address])
    let client = engine.connect()
    client.send((1...5).map { "GET /\($0) HTTP/1.1\r\nHost: a\r\n\r\n" }.joined())
    let upstream = try #require(instance.accept())
    for number in 1...5 {
      #expect(upstream.receive(upTo: "\r\n\r\n")?.hasPrefix("GET /\(number) ") == true)
      upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n\(number)")
      #expect(client.response()?.body == "\(number)")
    }
  }

  @Test(arguments: [false, true]) func largeBodiesPassBothWays(_ isTLS: Bool) throws {
    let folder = try TLSFolder()
    let certificate = try folder.certificate()
    let instance = ScriptedInstance()
    let engine = try TestEngine(instances: [instance.address], certificate: certificate)
    let client = try isTLS ? engine.connectTLS(caFile: certificate.certificate) : engine.connect()
    let bytes = (0..<2_000_003).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ $0 >> 8) }
    let count = bytes.count
    let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \(count)\r\n\r\n"
    let sender = Thread.start("test-client") { [bytes] in
      client.send(request)
      client.send(bytes)
    }
    let upstream = try #require(instance.accept())
    #expect(upstream.receive(upTo: "\r\n\r\n") != nil)
    #expect(upstream.receive(count: count) == bytes)
    sender.join()
    let answerer = Thread.start("test-instance") { [bytes] in
      upstream.send("HTTP/1.1 200 OK\r\nContent-Length: \(count)\r\n\r\n")
      upstream.send(bytes)
    }
    #expect(client.receive(upTo: "\r\n\r\n")?.hasPrefix("HTTP/1.1 200 ") == true)
    #expect(client.receive(count: count) == bytes)
    answerer.join()
  }

  /// What the poller says of a connection may be older than the read that took its bytes: that must not end a kept one.
  @Test func longBodiesLeaveTheConnectionForTheNextRequest() throws {
    let instance = ScriptedInstance()
    let engine = try TestEngine(instances: [instance.address])
    let client = engine.connect()
    let count = 1_048_576
    client.send(get)
    let upstream = try #require(instance.accept())
    let answerer = Thread.start("test-instance") { [upstream] in
      for _ in 0..<50 {
        guard upstream.receive(upTo: "\r\n\r\n") != nil else { return }
        upstream.send("HTTP/1.1 200 OK\r\nContent-Length: \(count)\r\n\r\n")
        upstream.send([UInt8](repeating: 0x61, count: count))
      }
    }
    for number in 1...50 {
      if number > 1 { client.send(get) }
      #expect(client.receive(upTo: "\r\n\r\n") != nil)
      #expect(client.receive(count: count)?.count == count)
    }
    answerer.join()
    #expect(engine.value(.instanceConnections) == 1)
    #expect(engine.value(.instanceClosesIdle) == 0)
  }

  @Test func chunkedBodiesPassAsTheyAre() throws {
    let instance = ScriptedInstance()
    let engine = try TestEngine(instances: [instance.address])
    let client = engine.connect()
    let body = "5;x=y\r\nhello\r\n0\r\nT: 1\r\n\r\n"
    // Byte by byte, so that every cut is met on a real socket.
    for byte in Array("PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\(body)".utf8) {
      client.send([byte])
    }
    let upstream = try #require(instance.accept())
    #expect(upstream.receive(upTo: "\r\n\r\n")?.contains("Transfer-Encoding: chunked\r\n") == true)
    #expect(upstream.receive(count: body.utf8.count) == Array(body.utf8))
    upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\(body)")
    #expect(client.receive(upTo: "\r\n\r\n")?.hasPrefix("HTTP/1.1 200") == true)
    #expect(client.receive(count: body.utf8.count) == Array(body.utf8))
    client.send(get)
    #expect(upstream.receive(upTo: "\r\n\r\n")?.hasPrefix("GET / HTTP/1.1\r\nHost: a.test\r\n") == true)
  }

  @Test(arguments: [SpliceMode.never, .always]) func tunnelsPassBytesAsTheyAre(_ splice: SpliceMode) throws {
    let instance = ScriptedInstance()
    let engine = try TestEngine(instances: [instance.address], splice: splice)
    let (client, upstream) = try tunnel(engine, instance)
    client.send("ping")
    #expect(upstream.receive(count: 4) == Array("ping".utf8))
    let bytes = (0..<6_000_000).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ $0 >> 9) }
    let sender = Thread.start("test-instance") { [bytes] in upstream.send(bytes) }
    #expect(client.receive(count: bytes.count) == bytes)
    sender.join()
    if splice == .always { #expect(engine.value(.splicedBytes) > 0) } else { #expect(engine.value(.splicedBytes) == 0) }
    // The client ends its side first: the instance sees it, and its last words still arrive.
    client.endOutput()
    #expect(upstream.receive() == [])
    upstream.send("bye")
    upstream.endOutput()
    #expect(client.receiveAll() == "bye")
    #expect(eventually { engine.value(.tunnelEnded) == 1 })
  }

  private func tunnel(_ engine: TestEngine, _ instance: ScriptedInstance) throws -> (Peer, Peer) {
    let client = engine.connect()
    client.send(
      "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n")
    let upstream = try #require(instance.accept())
    let head = try #require(upstream.receive(upTo: "\r\n\r\n"))
    #expect(head.contains("Upgrade: websocket\r\n") && head.contains("Connection: Upgrade\r\n"))
    upstream.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    #expect(client.receive(upTo: "\r\n\r\n")?.hasPrefix("HTTP/1.1 101 ") == true)
    return (client, upstream)
  }

  @Test func aHalfClosedTunnelDoesNotStayForever() throws {
    var limits = EngineLimits()
    limits.lingerMilliseconds = 100
    let instance = ScriptedInstance()
    let engine = try TestEngine(instances: [instance.address], limits: limits)
    let (client, upstream) = try tunnel(engine, instance)
    client.endOutput()
    #expect(upstream.receive() == [])
    // The instance says nothing more and closes nothing: both sides are ended all the same.
    #expect(client.ends())
    #expect(eventually { engine.value(.tunnelEnded) == 1 })
  }

  // MARK: Faults

  @Test func anInstanceThatRefusesIsA502() throws {
    let gone = ScriptedInstance().address
    let engine = try TestEngine(instances: [gone])
    let client = engine.connect()
    client.send(get)
    let response = try #require(client.response())
    #expect(response.head.hasPrefix("HTTP/1.1 502 "))
    #expect(response.body.contains("refuses connections"))
    #expect(client.ends())
    #expect(eventually { engine.value(.connectFailed) == 1 })
  }

  @Test func anotherInstanceIsTriedWhenOneRefuses() throws {
    let instance = ScriptedInstance()
    let gone = ScriptedInstance().address
    let engine = try TestEngine(instances: [gone, instance.address])
    for _ in 1...4 {
      let client = engine.connect()
      client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
      let upstream = try #require(instance.accept())
      #expect(upstream.receive(upTo: "\r\n\r\n") != nil)
      upstream.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
      #expect(client.receiveAll()?.hasSuffix("ok") == true)
    }
  }

  @Test func aKeptConnectionThatEndedIsReplacedUnnoticed() throws {
    let instance = ScriptedInstance()
    let engine = try TestEngine(instances: [instance.address])
    let client = engine.connect()
    client.send(get)
    var upstream = instance.accept()
    #expect(upstream?.receive(upTo: "\r\n\r\n") != nil)
    upstream?.send(ok)
    #expect(client.response() != nil)
    // The second request is read by the instance, which ends the connection instead of answering.
    client.send(get)
    #expect(upstream?.receive(upTo: "\r\n\r\n") != nil)
    upstream = nil
    let second = try #require(instance.accept())
    #expect(second.receive(upTo: "\r\n\r\n")?.hasPrefix("GET / HTTP/1.1\r\nHost: a.test\r\n") == true)
    second.send(ok)
    #expect(client.response()?.body == "ok")
    #expect(engine.value(.retries) == 1)
    // The end is counted, but nobody is told that the instance failed.
    let row = try #require(engine.engine.labels.rows(.instance).first { $0.name == "web-0" })
    #expect(row[InstanceCounter.earlyCloses] + row[.resets] == 1 && row.breaks == 0)
  }

  @Test(arguments: [
    "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
  ]) func aCutBodyIsNoCleanEnd(_ answer: String) throws {
    let instance = ScriptedInstance()
    let engine = try TestEngine(instances: [instance.address])
    let client = engine.connect()
    client.send(get)
    var upstream = instance.accept()
    #expect(upstream?.receive(upTo: "\r\n\r\n") != nil)
    upstream?.send(answer)
    #expect(client.receive(upTo: "\r\n\r\n") != nil)
    upstream = nil
    #expect(client.receiveAll() == nil)
    #expect(eventually { engine.value(.cutBody) == 1 })
    #expect(eventually { engine.engine.labels.rows(.instance).first { $0.name == "web-0" }?.breaks == 1 })
  }

  @Test func tooLongAnAnswerIsCutAtItsLengthAndItsConnectionIsNotUsedAgain() throws {
    let instance = ScriptedInstance()
    let engine = try TestEngine(instances: [instance.address])
    let client = engine.connect()
    client.send(get)
    let upstream = try #require(instance.accept())
    #expect(upstream.receive(upTo: "\r\n\r\n") != nil)
    upstream.send(ok + "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged")
    #expect(client.response()?.body == "ok")
    client.send(get)
    let second = try #require(instance.accept())
    #expect(second.receive(upTo: "\r\n\r\n")?.hasPrefix("GET / HTTP/1.1\r\nHost: a.test\r\n") == true)
    second.send(ok)
    #expect(client.response()?.body == "ok")
  }

  @Test func garbageFromTheInstanceIsA502() throws {
    let instance = ScriptedInstance()
    let engine = try TestEngine(instances: [instance.address])
    let client = engine.connect()
    client.send(get)
    let upstream = try #require(instance.accept())
    #expect(upstream.receive(upTo: "\r\n\r\n") != nil)
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx")
    #expect(client.response()?.head.hasPrefix("HTTP/1.1 502 ") == true)
  }

  @Test(arguments: [
    ("NONSENSE\r\n\r\n", "400"), ("GET / HTTP/1.1\r\n\r\n", "400"), ("GET / HTTP/3.0\r\nHost: a\r\n\r\n", "505"),
    ("GET /\(String(repeating: "x", count: 20_000)) HTTP/1.1\r\n", "414"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: \(String(repeating: "x", count: 70_000))\r\n", "431"),
    ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", "501"),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"),
  ]) func badRequestsAreAnsweredAndClosed(_ request: String, _ status: String) throws {
    let instance = ScriptedInstance()
    let engine = try TestEngine(instances: [instance.address])
    let client = engine.connect()
    client.send(request)
    let answer = try #require(client.receiveAll())
    #expect(answer.hasPrefix("HTTP/1.1 \(status) "))
    #expect(answer.contains("{\"error\":"))
    #expect(answer.contains("Connection: close\r\n"))
    #expect(eventually { engine.value(.badRequest) == 1 })
  }

  @Test func tlsOnThePlainPortIsClosedAtOnce() throws {
    let engine = try TestEngine(instances: [])
    let client = engine.connect()
    client.send([0x16, 0x03, 0x01, 0x02, 0x00, 0x01])
    #expect(client.ends())
    #expect(eventually { engine.value(.badRequest) == 1 })
  }

  @Test func aPlainRequestOnTheTLSPortIsToldSo() throws {
    let folder = try TLSFolder()
    let engine = try TestEngine(instances: [], certificate: folder.certificate())
    let client = Peer(connectingTo: engine.engine.tlsAddresses[0])
    client.send(get)
    #expect(client.receiveAll()?.contains("This is the TLS port") == true)
  }

  // MARK: Limits

  @Test func slowHeadsAreShed() throws {
    var limits = EngineLimits()
    limits.headMilliseconds = 100
    let engine = try TestEngine(instances: [], limits: limits)
    let silent = engine.connect()
    let slow = engine.connect()
    slow.send("GET / HTTP/1.1\r\nHo")
    #expect(slow.receiveAll()?.hasPrefix("HTTP/1.1 408 ") == true)
    // TCP_DEFER_ACCEPT keeps one who says nothing from the engine; the kernel hands it over with the first byte.
    silent.send("G")
    #expect(silent.receiveAll()?.hasPrefix("HTTP/1.1 408 ") == true)
    #expect(eventually { engine.value(.headTimeout) == 2 })
  }

  @Test func aReaderThatStopsHoldsUpOnlyItself() throws {
    var limits = EngineLimits()
    limits.bodyMilliseconds = 300
    let instance = ScriptedInstance()
    let engine = try TestEngine(instances: [instance.address], limits: limits)
    let slow = engine.connect()
    slow.send(get)
    let upstream = try #require(instance.accept())
    #expect(upstream.receive(upTo: "\r\n\r\n") != nil)
    let sender = Thread.start("test-instance") {
      upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 40000000\r\n\r\n")
      // Ends when the engine gives the slow reader up and closes.
      upstream.send([UInt8](repeating: 7, count: 40_000_000))
    }
    #expect(
      eventually { engine.value(.slowReader) == 1 },
      "\(CloseReason.allCases.filter { engine.value($0) > 0 }) \(engine.value(.bufferedBytesNow)) buffered")
    sender.join()
    #expect(eventually { engine.value(.clientsNow) == 0 && engine.value(.bufferedBytesNow) == 0 })
    withExtendedLifetime(slow) {}
  }

  /// The kernel asks the engine for more only when a third of its buffer is free, which takes this reader longer than the
  /// limit: bytes that it took out of that buffer count as progress too.
  @Test func aSlowButSteadyReaderGetsEverything() throws {
    var limits = EngineLimits()
    limits.bodyMilliseconds = 1_000
    let instance = ScriptedInstance()
    let engine = try TestEngine(instances: [instance.address], limits: limits)
    let client = engine.connect()
    client.send(get)
    let upstream = try #require(instance.accept())
    #expect(upstream.receive(upTo: "\r\n\r\n") != nil)
    let count = 16_000_000
    let sender = Thread.start("test-instance") {
      upstream.send("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
      upstream.send([UInt8](repeating: 7, count: count))
      upstream.endOutput()
    }
    #expect(client.receive(upTo: "\r\n\r\n") != nil)
    var received = 0
    var reads = 0
    while let more = client.receive(), !more.isEmpty {
      received += more.count
      reads += 1
      // The pace of the reader, not a wait for anything: three times the limit before it hurries.
      if reads < 150 { usleep(20_000) }
    }
    #expect(received == count)
    sender.join()
    #expect(engine.value(.slowReader) == 0)
  }

  @Test func aResetIsNoticedWhileTheInstanceThinks() throws {
    let instance = ScriptedInstance()
    let engine = try TestEngine(instances: [instance.address])
    var client: Peer? = engine.connect()
    client?.send(get)
    let upstream = try #require(instance.accept())
    #expect(upstream.receive(upTo: "\r\n\r\n") != nil)
    client?.reset()
    client = nil
    #expect(upstream.ends())
    #expect(eventually { engine.value(.clientReset) == 1 })
  }

  @Test func nothingIsLeftBehind() throws {
    let instance = ScriptedInstance()
    let engine = try TestEngine(instances: [instance.address], splice: .always)
    for number in 0..<50 {
      let client = engine.connect()
      client.send(number % 2 == 0 ? get : "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc")
      let upstream = try #require(instance.accept())
      #expect(upstream.receive(upTo: "\r\n\r\n") != nil)
      switch number % 5 {
      case 0: upstream.send(ok)
      case 1: client.reset()
      case 2: upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nx")
      case 3: upstream.reset()
      default: client.endOutput()
      }
    }
    #expect(
      eventually {
        engine.value(.clientsNow) == 0 && engine.value(.instancesNow) == 0 && engine.value(.bufferedBytesNow) == 0
      })
    engine.drain()
    let closes = CloseReason.allCases.reduce(0) { $0 + engine.value($1) }
    #expect(closes == 50)
    #expect(engine.value(.accepted) == 50)
  }

  @Test func drainLetsTheLastRequestEnd() throws {
    let instance = ScriptedInstance()
    let engine = try TestEngine(instances: [instance.address])
    let idle = engine.connect()
    idle.send(get)
    let first = try #require(instance.accept())
    #expect(first.receive(upTo: "\r\n\r\n") != nil)
    first.send(ok)
    #expect(idle.response() != nil)
    let busy = engine.connect()
    busy.send("GET /busy HTTP/1.1\r\nHost: a\r\n\r\n")
    #expect(first.receive(upTo: "\r\n\r\n") != nil)
    engine.engine.drain(milliseconds: 10_000)
    #expect(idle.ends())
    first.send(ok)
    let answer = try #require(busy.receiveAll())
    #expect(answer.contains("Connection: close\r\n") && answer.hasSuffix("ok"))
    engine.engine.join()
    #expect(refusesConnections(engine.engine.addresses[0]))
  }

  private func refusesConnections(_ address: SocketAddress) -> Bool {
    let (fd, pending) = Socket.connect(address)
    guard fd >= 0 else { return true }
    defer { Socket.close(Int32(fd)) }
    var entry = pollfd(fd: Int32(fd), events: Int16(POLLOUT), revents: 0)
    return unsafe pending && poll(&entry, 1, 10_000) == 1 && Socket.takeError(Int32(fd)) != 0
  }
}
