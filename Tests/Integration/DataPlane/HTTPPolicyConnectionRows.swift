// Rows of docs/http.md about connections, how they go on and end, and about waits.
import Engine
import Glibc
import Posix
import ProxyMachine
import Routing
import TestSupport
import Testing

extension PolicyRow {
  static let connections: [PolicyRow] = [
    PolicyRow(id: "pipelining", counted: .nothing) { world in
      let client = try world.client((1...5).map { "GET /\($0) HTTP/1.1\r\nHost: a\r\n\r\n" }.joined())
      let upstream = try #require(world.instance.accept())
      for number in 1...5 {
        #expect(upstream.receive(upTo: "\r\n\r\n")?.hasPrefix("GET /\(number) ") == true)
        // The next one is not sent before this one is answered.
        #expect(world.engine.value(.requests) == number)
        upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n\(number)")
        #expect(client.response()?.body == "\(number)")
      }
    },
    PolicyRow(id: "keep-alive", counted: .counter(.instanceReuses, "instance reuses")) { world in
      let (client, upstream, _) = try world.passed(HTTPText.get)
      for number in 1...3 {
        if number > 1 {
          client.send(HTTPText.get)
          #expect(upstream.receive(upTo: "\r\n\r\n") != nil)
        }
        upstream.send(HTTPText.ok)
        #expect(client.response()?.head.contains("Connection:") == false)
      }
      #expect(world.engine.value(.instanceConnections) == 1)
    },
    PolicyRow(id: "answer-date", counted: .nothing) { world in
      let (client, upstream, _) = try world.passed(HTTPText.get)
      upstream.send(HTTPText.ok)
      let own = try #require(client.response()).head
      let date = try #require(own.split(separator: "\r\n").first { $0.hasPrefix("Date: ") })
      #expect(date.hasSuffix(" GMT") && date.utf8.count == 6 + 29)
      client.send(HTTPText.get)
      #expect(upstream.receive(upTo: "\r\n\r\n") != nil)
      upstream.send("HTTP/1.1 200 OK\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: 0\r\n\r\n")
      let others = try #require(client.response()).head
      #expect(others.contains("\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\n") && !others.contains("Date:"))
    },
    PolicyRow(id: "client-says-close", counted: .close(.responseComplete)) { world in
      let (client, upstream, head) = try world.passed("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
      #expect(!head.contains("Connection:"), "the instance's connection is kept")
      upstream.send(HTTPText.ok)
      let answer = try #require(client.receiveAll())
      #expect(answer.contains("\r\nConnection: close\r\n") && answer.hasSuffix("ok"))
      let second = try world.client(HTTPText.get)
      #expect(upstream.receive(upTo: "\r\n\r\n") != nil)
      upstream.send(HTTPText.ok)
      #expect(second.response()?.body == "ok")
    },
    PolicyRow(id: "bytes-after-close", counted: .close(.responseComplete)) { world in
      let count = 3_000_000
      for _ in 0..<5 {
        let client = try world.client("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        let (upstream, _) = try world.upstream()
        // What follows the last request is never read as one, and does not destroy the answer on its way.
        client.send([UInt8](repeating: 0x47, count: 200_000))
        upstream.send("HTTP/1.1 200 OK\r\nContent-Length: \(count)\r\n\r\n")
        let sender = Thread.start("test-instance") { upstream.send([UInt8](repeating: 1, count: count)) }
        #expect(client.receive(upTo: "\r\n\r\n") != nil)
        var received = 0
        while let more = client.receive(), !more.isEmpty { received += more.count }
        #expect(received == count)
        sender.join()
        upstream.endOutput()
      }
      #expect(world.engine.value(.requests) == 5)
    },
    PolicyRow(id: "instance-says-close", counted: .nothing) { world in
      let client = try world.client("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
      for status in ["HTTP/1.1 200 OK\r\nConnection: close", "HTTP/1.0 200 OK"] {
        let (upstream, _) = try world.upstream()
        upstream.send("\(status)\r\nContent-Length: 2\r\n\r\nok")
        let response = try #require(client.response())
        #expect(response.body == "ok" && !response.head.contains("Connection:"), "the client's connection goes on")
        #expect(upstream.ends())
        client.send(HTTPText.get)
      }
    },
    PolicyRow(id: "http10-closes", counted: .close(.responseComplete)) { world in
      let (client, upstream, _) = try world.passed("GET / HTTP/1.0\r\nHost: a\r\n\r\n")
      upstream.send(HTTPText.ok)
      #expect(client.receiveAll()?.contains("\r\nConnection: close\r\n") == true)
    },
    PolicyRow(id: "http10-keep-alive", counted: .nothing) { world in
      let request = "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n"
      let (client, upstream, _) = try world.passed(request)
      upstream.send("HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok")
      #expect(client.response()?.head.contains("\r\nConnection: keep-alive\r\n") == true)
      client.send(request)
    },
    PolicyRow(id: "client-half-close", counted: .close(.clientClosed)) { world in
      let (client, upstream, _) = try world.passed(HTTPText.get)
      client.endOutput()
      upstream.send(HTTPText.ok)
      #expect(client.receiveAll()?.hasSuffix("ok") == true)
    },
    PolicyRow(id: "client-ends-idle", counted: .close(.clientClosed)) { world in
      let (client, upstream, _) = try world.passed(HTTPText.get)
      upstream.send(HTTPText.ok)
      #expect(client.response()?.body == "ok")
      client.endOutput()
      #expect(client.ends())
    },
    PolicyRow(id: "client-resets", counted: .close(.clientReset)) { world in
      var client: Peer? = try world.client(HTTPText.get)
      let (upstream, _) = try world.upstream()
      client?.reset()
      client = nil
      #expect(upstream.ends(), "the instance need not go on")
    },
    PolicyRow(id: "head-cut", counted: .close(.clientAborted)) { world in
      let client = try world.client("GET / HT")
      client.endOutput()
      #expect(client.receiveAll() == "")
    },
    PolicyRow(id: "kept-connection-ended", counted: .counter(.retries, "retries")) { world in
      let (client, first, _) = try world.passed(HTTPText.get)
      first.send(HTTPText.ok)
      #expect(client.response()?.body == "ok")
      client.send(HTTPText.get)
      #expect(first.receive(upTo: "\r\n\r\n") != nil)
      first.endOutput()
      let (second, _) = try world.upstream()
      second.send(HTTPText.ok)
      #expect(client.response()?.body == "ok")
    },
    PolicyRow(id: "kept-connection-ended-post", counted: .close(.instanceClosedEarly), status: 502) { world in
      let (client, first, _) = try world.passed(HTTPText.get)
      first.send(HTTPText.ok)
      #expect(client.response()?.body == "ok")
      client.send(HTTPText.post("Content-Length: 2\r\n\r\nhi"))
      #expect(first.receive(upTo: "\r\n\r\n") != nil)
      first.endOutput()
      #expect(client.receiveAll()?.hasPrefix("HTTP/1.1 502 ") == true)
      #expect(world.engine.value(.retries) == 0)
    },
  ]

  private static func limited(_ change: @escaping @Sendable (inout EngineLimits) -> Void)
    -> @Sendable (inout PolicySetup) -> Void
  {
    { change(&$0.limits) }
  }

  /// Takes 40 MB out of an instance for a client that does not read; returns once the engine has given it up.
  private static func stopReading(_ world: PolicyWorld, head: String, _ begin: String) throws {
    let client = try world.client(head)
    let (upstream, _) = try world.upstream()
    let sender = Thread.start("test-instance") {
      upstream.send(begin)
      upstream.send([UInt8](repeating: 7, count: 40_000_000))
    }
    #expect(eventually { world.engine.value(.slowReader) == 1 })
    sender.join()
    #expect(eventually { world.engine.value(.clientsNow) == 0 && world.engine.value(.bufferedBytesNow) == 0 })
    withExtendedLifetime(client) {}
  }

  static let waits: [PolicyRow] = [
    PolicyRow(
      id: "wait-handshake", counted: .close(.handshakeTimeout),
      setup: {
        $0.isTLS = true
        $0.limits.handshakeMilliseconds = 100
      },
      run: { world in
        let client = Peer(connectingTo: world.engine.engine.tlsAddresses[0])
        client.send([0x16, 0x03, 0x01])
        #expect(client.ends())
      }),
    PolicyRow(
      id: "wait-head", counted: .close(.headTimeout), status: 408, setup: limited { $0.headMilliseconds = 300 }
    ) { world in
      // Bytes do not put the deadline off: the whole head has to be there by then.
      let client = try world.connect()
      let sender = Thread.start("test-client") {
        for byte in Array("GET / HTTP/1.1\r\nX: \(String(repeating: "x", count: 400))".utf8) {
          client.send([byte])
          usleep(2_000)
        }
      }
      #expect(client.receiveAll()?.hasPrefix("HTTP/1.1 408 ") == true)
      sender.join()
    },
    PolicyRow(
      id: "wait-keep-alive", counted: .close(.idleKeepAlive), setup: limited { $0.keepAliveMilliseconds = 100 }
    ) { world in
      let (client, upstream, _) = try world.passed(HTTPText.get)
      upstream.send(HTTPText.ok)
      #expect(client.response()?.body == "ok")
      #expect(client.receiveAll() == "")
    },
    PolicyRow(
      id: "wait-body", counted: .close(.bodyTimeout), status: 408, setup: limited { $0.bodyMilliseconds = 150 }
    ) { world in
      let (client, upstream, _) = try world.passed(HTTPText.post("Content-Length: 10\r\n\r\nsome"))
      #expect(client.receiveAll()?.hasPrefix("HTTP/1.1 408 ") == true)
      #expect(upstream.receiveAll() != nil)
    },
    PolicyRow(
      id: "wait-body-rate", counted: .close(.bodyTooSlow), status: 408,
      setup: limited {
        $0.bodyGraceMilliseconds = 300
        $0.bodyBytesPerSecond = 1_000
      }
    ) { world in
      let (client, upstream, _) = try world.passed(HTTPText.post("Content-Length: 100000\r\n\r\n"))
      let trickle = TestThread {
        // Each piece comes long before the wait for one is over.
        for _ in 0..<2_000 where !Socket.hasInput(client.fd) {
          client.send("x")
          usleep(10_000)
        }
      }
      #expect(client.receiveAll()?.hasPrefix("HTTP/1.1 408 ") == true)
      try trickle.join()
      #expect(upstream.receiveAll() != nil)
    },
    PolicyRow(
      id: "wait-connect", counted: .close(.connectTimeout), status: 504,
      setup: {
        $0.limits.connectMilliseconds = 100
        $0.route.retries = 0
        $0.instances = [FullBacklog.shared.address]
      },
      run: { world in
        let client = try world.client(HTTPText.get)
        #expect(client.receiveAll()?.hasPrefix("HTTP/1.1 504 ") == true)
      }),
    PolicyRow(
      id: "wait-first-byte", counted: .close(.firstByteTimeout), status: 504,
      setup: limited { $0.firstByteMilliseconds = 150 }
    ) { world in
      let (client, upstream, _) = try world.passed(HTTPText.get)
      #expect(client.receiveAll()?.hasPrefix("HTTP/1.1 504 ") == true)
      #expect(upstream.ends())
      #expect(world.engine.value(.retries) == 0, "the instance may have acted on it")
    },
    PolicyRow(
      id: "wait-answer-body", counted: .close(.instanceStalled), setup: limited { $0.bodyMilliseconds = 150 }
    ) { world in
      let (client, upstream, _) = try world.passed(HTTPText.get)
      upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
      #expect(client.receive(upTo: "half") != nil)
      #expect(client.receiveAll() == nil, "no clean end")
    },
    PolicyRow(
      id: "wait-tunnel", counted: .close(.tunnelIdle), setup: limited { $0.tunnelIdleMilliseconds = 150 }
    ) { world in
      let (client, upstream) = try world.tunnel()
      #expect(client.ends())
      #expect(upstream.ends())
    },
    PolicyRow(
      id: "wait-tunnel-other-side", counted: .close(.tunnelEnded), setup: limited { $0.lingerMilliseconds = 100 }
    ) { world in
      let (client, upstream) = try world.tunnel()
      client.endOutput()
      #expect(upstream.receive() == [])
      #expect(client.ends())
    },
    PolicyRow(
      id: "wait-linger", counted: .close(.badRequest), setup: limited { $0.lingerMilliseconds = 100 }
    ) { world in
      // A refused client that neither reads nor ends is let go.
      let client = try world.client("nonsense\r\n\r\n")
      #expect(eventually { world.engine.value(.badRequest) == 1 })
      #expect(client.receive()?.isEmpty == false)
    },
    PolicyRow(
      id: "wait-slow-reader", counted: .close(.slowReader), setup: limited { $0.bodyMilliseconds = 300 }
    ) { world in
      try stopReading(world, head: HTTPText.get, "HTTP/1.1 200 OK\r\nContent-Length: 40000000\r\n\r\n")
    },
    PolicyRow(id: "drain-idle", counted: .close(.drained)) { world in
      let (client, upstream, _) = try world.passed(HTTPText.get)
      upstream.send(HTTPText.ok)
      #expect(client.response()?.body == "ok")
      world.engine.drain(milliseconds: 10_000)
      #expect(client.receiveAll() == "")
    },
    PolicyRow(id: "drain-busy", counted: .close(.drained)) { world in
      let (client, upstream, _) = try world.passed(HTTPText.get)
      world.engine.engine.drain(milliseconds: 10_000)
      upstream.send(HTTPText.ok)
      let answer = try #require(client.receiveAll())
      #expect(answer.contains("\r\nConnection: close\r\n") && answer.hasSuffix("ok"))
    },
    PolicyRow(id: "drain-deadline", counted: .close(.drainDeadline)) { world in
      let (client, upstream) = try world.tunnel()
      world.engine.engine.drain(milliseconds: 100)
      #expect(client.ends())
      #expect(upstream.ends())
    },
  ]
}

/// A listener that accepts nothing and whose backlog is full, so that connecting to it takes forever.
final class FullBacklog: @unchecked Sendable {
  static let shared = FullBacklog()
  let address: SocketAddress
  private let listener: Int32
  private var waiting: [Int32] = []

  private init() {
    let fd = Socket.listen(SocketAddress("127.0.0.1:0")!, backlog: 0, sharesPort: false, defersAccept: false)
    precondition(fd >= 0, "loopback has free ports")
    listener = Int32(fd)
    address = Socket.localAddress(listener)
    for _ in 0..<8 {
      let (client, _) = Socket.connect(address)
      if client >= 0 { waiting.append(Int32(client)) }
    }
  }
}
