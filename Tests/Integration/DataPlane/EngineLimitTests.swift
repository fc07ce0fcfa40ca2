// Limits of clients and the PROXY protocol, on real sockets.
import Engine
import Posix
import ProxyMachine
import Routing
import TestSupport
import Testing

@Suite struct EngineLimitTests {
  private let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"

  private func route(_ change: (inout RouteRecord) -> Void) -> [RouteRecord] {
    var route = RouteRecord(id: "all", pool: "web")
    change(&route)
    return [route]
  }

  @Test func aClientGetsItsRateAndTheOthersTheirs() throws {
    let instance = AnsweringInstance(saying: "ok")
    let engine = try TestEngine(
      instances: [instance.address],
      routes: route {
        $0.requestsPerSecond = 1
        $0.burst = 3
      })
    // A machine that stands still for a second lets one more through: then it is another client's turn to be looked at.
    var limited: Peer?
    for host in 2..<100 where limited == nil {
      let (refused, served) = (engine.value(.requestsRefused), instance.requests)
      let began = Clock.monotonicMilliseconds
      let client = engine.connect(from: "127.0.0.\(host)")
      client.send(get + get + get + get)
      let answers = try (0..<4).map { _ in try #require(client.response()) }
      // Neither another connection nor another port helps.
      let again = engine.connect(from: "127.0.0.\(host)")
      again.send(get)
      let another = try #require(again.response())
      guard Clock.monotonicMilliseconds - began < 1_000 else { continue }
      limited = client
      for answer in answers.prefix(3) { #expect(answer.body == "ok") }
      #expect(answers[3].head.hasPrefix("HTTP/1.1 429 ") && answers[3].head.contains("\r\nRetry-After: 1\r\n"))
      #expect(another.head.hasPrefix("HTTP/1.1 429 "))
      #expect(engine.value(.requestsRefused) == refused + 2)
      #expect(instance.requests == served + 3)
    }
    let client = try #require(limited, "the machine never ran for a second")
    // Others are not concerned.
    let other = engine.connect(from: "127.0.0.101")
    other.send(get)
    #expect(other.response()?.body == "ok")
    // The connection goes on, and a second brings the next request.
    #expect(
      eventually {
        client.send(get)
        return client.response()?.body == "ok"
      })
  }

  @Test func replicasShareTheRate() throws {
    let instance = AnsweringInstance(saying: "ok")
    let engine = try TestEngine(
      instances: [instance.address],
      routes: route {
        $0.requestsPerSecond = 4
        $0.burst = 8
      })
    engine.engine.inboxes[0].update(replicas: 4)
    // As above, until a second has not passed meanwhile.
    var statuses: [Substring] = []
    for host in 2..<100 where statuses.isEmpty {
      let began = Clock.monotonicMilliseconds
      let client = engine.connect(from: "127.0.0.\(host)")
      client.send(get + get + get)
      let answers = try (0..<3).map { _ in try #require(client.response()).head.split(separator: " ")[1] }
      if Clock.monotonicMilliseconds - began < 1_000 { statuses = answers }
    }
    #expect(statuses == ["200", "200", "429"])
  }

  @Test func aClientHasSoManyConnections() throws {
    let instance = AnsweringInstance(saying: "ok")
    let engine = try TestEngine(instances: [instance.address], routes: route { $0.connectionsPerClient = 2 })
    func served(_ client: Peer) -> Bool {
      client.send(get)
      return client.response()?.body == "ok"
    }
    let first = engine.connect(from: "127.0.0.2")
    var second: Peer? = engine.connect(from: "127.0.0.2")
    #expect(served(first) && served(second!) && served(first))
    let third = engine.connect(from: "127.0.0.2")
    third.send(get)
    #expect(try #require(third.response()).head.hasPrefix("HTTP/1.1 429 "))
    #expect(third.ends())
    #expect(engine.value(.connectionsRefused) == 1)
    #expect(served(engine.connect(from: "127.0.0.3")))
    second = nil
    #expect(eventually { served(engine.connect(from: "127.0.0.2")) })
  }

  // MARK: PROXY protocol

  @Test(arguments: [1, 2]) func instancesGetTheHeader(_ version: Int) throws {
    let instance = ScriptedInstance()
    var pool = PoolRecord(name: "web", kind: .http, slots: 0)
    pool.proxyProtocol = version
    let engine = try TestEngine(instances: [instance.address], pool: pool)
    let client = engine.connect(from: "127.0.0.7")
    for number in 1...2 {
      client.send(get)
      // Each request has a connection of its own: what the header says is true of no other client.
      let upstream = try #require(instance.accept())
      if version == 1 {
        let line = try #require(upstream.receive(upTo: "\r\n"))
        #expect(line.hasPrefix("PROXY TCP4 127.0.0.7 127.0.0.1 "))
        #expect(line.hasSuffix(" \(engine.engine.addresses[0].port)\r\n"))
      } else {
        let header = try #require(upstream.receive(count: 28))
        #expect(header[12...15].elementsEqual([0x21, 0x11, 0, 12]))
        #expect(header[16..<24].elementsEqual([127, 0, 0, 7, 127, 0, 0, 1]))
      }
      #expect(upstream.receive(upTo: "\r\n\r\n")?.hasPrefix("GET / HTTP/1.1\r\n") == true)
      upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n\(number)")
      #expect(client.response()?.body == "\(number)")
      #expect(upstream.ends())
    }
  }

  @Test(arguments: [false, true]) func listedPeersTellWhoTheirClientIs(_ isTLS: Bool) throws {
    let folder = try TLSFolder()
    let certificate = try folder.certificate()
    let instance = ScriptedInstance()
    let engine = try TestEngine(
      instances: [instance.address], certificate: certificate, proxyProtocolFrom: [AddressRange("127.0.0.1")!])
    let client = isTLS ? Peer(connectingTo: engine.engine.tlsAddresses[0]) : engine.connect()
    // In pieces: the header may come by itself.
    client.send("PROXY TCP4 203.0.113.9 ")
    client.send("198.51.100.1 5000 443\r\n")
    if isTLS { try client.startTLS(caFile: certificate.certificate) }
    client.send(get)
    let upstream = try #require(instance.accept())
    let head = try #require(upstream.receive(upTo: "\r\n\r\n"))
    #expect(head.contains("\r\nX-Forwarded-For: 203.0.113.9\r\n"))
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    #expect(client.response()?.body == "ok")
  }

  @Test func listedPeersMustSendTheHeaderAndOthersMustNot() throws {
    let instance = AnsweringInstance(saying: "ok")
    let engine = try TestEngine(instances: [instance.address], proxyProtocolFrom: [AddressRange("127.0.0.1")!])
    let silent = engine.connect()
    silent.send(get)
    #expect(silent.ends())
    #expect(eventually { engine.value(.badProxyHeader) == 1 })
    let stranger = engine.connect(from: "127.0.0.2")
    stranger.send("PROXY TCP4 203.0.113.9 198.51.100.1 5000 443\r\n" + get)
    #expect(try #require(stranger.response()).head.hasPrefix("HTTP/1.1 400 "))
    let early = engine.connect()
    early.send("PROXY TCP4 ")
    early.endOutput()
    #expect(early.ends())
    #expect(instance.requests == 0)
  }
}
