// Rows of docs/http.md about upgrades, instances' answers and the bodies of answers.
import Engine
import Posix
import ProxyMachine
import Routing
import TestSupport
import Testing

extension PolicyRow {
  static let upgrades: [PolicyRow] = [
    PolicyRow(id: "upgrade-websocket", counted: .close(.tunnelEnded)) { world in
      // What the client sends before the answer waits: the instance has not agreed to anything yet.
      let (client, upstream, head) = try world.passed(HTTPText.webSocket + "early")
      #expect(head.contains("\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"))
      #expect(head.contains("\r\nSec-WebSocket-Key: k\r\n"))
      upstream.send(HTTPText.switching + "hello")
      #expect(client.receive(upTo: "\r\n\r\n")?.contains("\r\nUpgrade: websocket\r\n") == true)
      #expect(client.receive(count: 5) == Array("hello".utf8))
      #expect(upstream.receive(count: 5) == Array("early".utf8))
      client.endOutput()
      #expect(upstream.ends())
      upstream.endOutput()
      #expect(client.ends())
    },
    PolicyRow(id: "upgrade-declined", counted: .close(.responseComplete)) { world in
      let (client, upstream, _) = try world.passed(HTTPText.webSocket + "early")
      upstream.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
      let answer = try #require(client.receiveAll())
      #expect(answer.hasPrefix("HTTP/1.1 403 ") && answer.hasSuffix("no") && answer.contains("Connection: close\r\n"))
      // Frames of a client that believed in its tunnel must not be read as a request by the instance.
      #expect(upstream.receiveAll() == "")
    },
    .passes(
      "upgrade-not-on-route", HTTPText.webSocket, lacks: ["upgrade"], setup: { $0.route.upgrades = false }),
    .passes(
      "upgrade-h2c",
      "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n",
      lacks: ["upgrade", "h2c", "http2-settings"]),
    .passes(
      "upgrade-list", "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket, h2c\r\n\r\n",
      lacks: ["upgrade", "h2c"]),
    .passes(
      "upgrade-without-connection", "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n", lacks: ["upgrade"]),
    .passes(
      "upgrade-http10", "GET / HTTP/1.0\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
      lacks: ["upgrade"]),
    .refused(
      "upgrade-malformed", 400,
      HTTPText.post("Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
      "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n\r\nx"),
    .distrusted("switch-unasked", HTTPText.switching),
    PolicyRow(id: "switch-elsewhere", counted: .close(.badResponse), status: 502) { world in
      for fields in ["Connection: Upgrade\r\nUpgrade: h2c\r\n", "Upgrade: websocket\r\n", ""] {
        let (client, upstream, _) = try world.passed(HTTPText.webSocket)
        upstream.send("HTTP/1.1 101 Switching Protocols\r\n\(fields)\r\n")
        #expect(client.receiveAll()?.hasPrefix("HTTP/1.1 502 ") == true, "\(fields)")
      }
    },
    PolicyRow(id: "tunnel-half-close", counted: .close(.tunnelEnded)) { world in
      let (client, upstream) = try world.tunnel()
      client.endOutput()
      #expect(upstream.receive() == [])
      upstream.send("last words")
      upstream.endOutput()
      #expect(client.receiveAll() == "last words")
    },
  ]

  private static func answer(_ fields: String) -> String { "HTTP/1.1 200 OK\r\n\(fields)\r\n" }

  /// Whether this answer reaches the client without a body and leaves both connections for the next request.
  private static func bodiless(_ world: PolicyWorld, _ method: String, _ answer: String, lacks: String = "?") throws {
    let (client, upstream, _) = try world.passed("\(method) / HTTP/1.1\r\nHost: a\r\n\r\n")
    upstream.send(answer)
    #expect(client.receive(upTo: "\r\n\r\n")?.contains(lacks) == false)
    client.send(HTTPText.get)
    #expect(upstream.receive(upTo: "\r\n\r\n")?.hasPrefix("GET / ") == true)
    upstream.send(HTTPText.ok)
    #expect(client.response()?.body == "ok")
  }

  static let answers: [PolicyRow] = [
    .distrusted(
      "answer-status-line", "HTTP/2 200\r\n\r\n", "HTTP/1.1 20 OK\r\n\r\n", "HTTP/1.1 099 x\r\n\r\n",
      "ICY 200 OK\r\n\r\n", "HTTP/1.1 600 x\r\n\r\n"),
    .distrusted(
      "answer-line-ends", "HTTP/1.1 200 OK\nContent-Length: 0\n\n", answer("X: a\nSet-Cookie: b\r\n"),
      answer("X: a\rSet-Cookie: b\r\n")),
    .distrusted("answer-control-characters", answer("X: a\u{0}b\r\n"), "HTTP/1.1 200 O\u{1}K\r\n\r\n"),
    .distrusted("answer-folded", answer("X: a\r\n b\r\n"), answer("X : a\r\n"), answer("nonsense\r\n")),
    .distrusted(
      "answer-framing", answer("Content-Length: 1\r\nContent-Length: 2\r\n") + "xx",
      answer("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n",
      answer("Content-Length: one\r\n"), answer("Transfer-Encoding: gzip, chunked\r\n"),
      "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    .distrusted(
      "answer-head-too-large", answer("X: \(String(repeating: "x", count: 70_000))\r\n"),
      answer(String(repeating: "X: y\r\n", count: 129))),
    PolicyRow(id: "answer-none", counted: .close(.instanceClosedEarly), status: 502) { world in
      let (client, upstream, _) = try world.passed(HTTPText.get)
      upstream.endOutput()
      #expect(client.receiveAll()?.hasPrefix("HTTP/1.1 502 ") == true)
    },
    PolicyRow(id: "answer-head-cut", counted: .close(.instanceClosedEarly), status: 502) { world in
      let (client, upstream, _) = try world.passed(HTTPText.get)
      upstream.send("HTTP/1.1 200 OK\r\nContent-Le")
      upstream.endOutput()
      #expect(client.receiveAll()?.hasPrefix("HTTP/1.1 502 ") == true)
    },
    PolicyRow(id: "answer-reset", counted: .close(.instanceReset), status: 502) { world in
      let client = try world.client(HTTPText.get)
      var (upstream, _): (Peer?, String) = try world.upstream()
      upstream?.reset()
      upstream = nil
      #expect(client.receiveAll()?.hasPrefix("HTTP/1.1 502 ") == true)
    },
    PolicyRow(
      id: "instance-refuses", counted: .close(.connectFailed), status: 502,
      setup: { setup in
        setup.instances = [ScriptedInstance().address]
      },
      run: { world in
        let client = try world.client(HTTPText.get)
        #expect(client.receiveAll()?.hasPrefix("HTTP/1.1 502 ") == true)
      }),
    PolicyRow(id: "interim", counted: .counter(.responses1xx, "responses 1xx")) { world in
      let (client, upstream, _) = try world.passed(HTTPText.get)
      upstream.send(
        "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Length: 9\r\n\r\n"
          + HTTPText.ok)
      #expect(client.receive(upTo: "\r\n\r\n") == "HTTP/1.1 102 Processing\r\n\r\n")
      // A body length of an answer that has no body ends here (RFC 9110 §8.6).
      #expect(client.receive(upTo: "\r\n\r\n") == "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
      #expect(client.response()?.body == "ok")
    },
    PolicyRow(id: "interim-http10", counted: .close(.responseComplete)) { world in
      let (client, upstream, _) = try world.passed("GET / HTTP/1.0\r\nHost: a\r\n\r\n")
      upstream.send("HTTP/1.1 103 Early Hints\r\n\r\n" + HTTPText.ok)
      let answer = try #require(client.receiveAll())
      #expect(answer.hasPrefix("HTTP/1.1 200 ") && answer.hasSuffix("ok"))
    },
    PolicyRow(id: "answer-hop-by-hop", counted: .nothing) { world in
      let (client, upstream, _) = try world.passed(HTTPText.get)
      upstream.send(
        answer(
          "Keep-Alive: 5\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nUpgrade: h2c\r\nX-End: 2\r\nContent-Length: 0\r\n"
        ))
      let head = try #require(client.response()).head
      #expect(head.contains("\r\nX-End: 2\r\n"))
      for name in ["Keep-Alive", "X-Hop", "Connection", "Upgrade"] {
        #expect(!head.contains("\r\n\(name):"), "\(head)")
      }
    },
    PolicyRow(id: "answer-to-head", counted: .nothing) { world in
      try bodiless(world, "HEAD", answer("Content-Length: 50\r\n"))
      try bodiless(world, "HEAD", answer("Transfer-Encoding: chunked\r\n"))
    },
    PolicyRow(id: "answer-204", counted: .nothing) { world in
      try bodiless(world, "DELETE", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", lacks: "Content-Length")
    },
    PolicyRow(id: "answer-304", counted: .nothing) { world in
      try bodiless(world, "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: \"x\"\r\n\r\n")
    },
  ]

  /// Reads the begin of an answer and then how the connection ends: nil when it is cut.
  private static func rest(_ client: Peer) -> String? {
    #expect(client.receive(upTo: "\r\n\r\n")?.hasPrefix("HTTP/1.1 200 ") == true)
    return client.receiveAll()
  }

  static let answerBodies: [PolicyRow] = [
    PolicyRow(id: "answer-length-cut", counted: .close(.cutBody)) { world in
      let (client, upstream, _) = try world.passed(HTTPText.get)
      upstream.send(answer("Content-Length: 10\r\n") + "half")
      upstream.endOutput()
      #expect(rest(client) == nil)
    },
    PolicyRow(id: "answer-chunked-cut", counted: .close(.cutBody)) { world in
      for body in ["5\r\nhel", "5\r\nhello\r\n", "5\r\nhello\r\n0\r\n"] {
        let (client, upstream, _) = try world.passed(HTTPText.get)
        upstream.send(answer("Transfer-Encoding: chunked\r\n") + body)
        upstream.endOutput()
        #expect(rest(client) == nil, "\(body.debugDescription)")
      }
    },
    PolicyRow(id: "answer-body-reset", counted: .close(.instanceReset)) { world in
      for fields in ["Content-Length: 10\r\n", "Connection: close\r\n"] {
        let client = try world.client(HTTPText.get)
        var (upstream, _): (Peer?, String) = try world.upstream()
        upstream?.send(answer(fields) + "half")
        #expect(client.receive(upTo: "half") != nil)
        upstream?.reset()
        upstream = nil
        #expect(client.receiveAll() == nil, "a body until the end of its connection has no clean end either")
      }
    },
    PolicyRow(
      id: "answer-cut-tls", counted: .close(.cutBody), setup: { $0.isTLS = true },
      run: { world in
        let (client, upstream, _) = try world.passed(HTTPText.get)
        upstream.send(answer("Content-Length: 10\r\n") + "half")
        upstream.endOutput()
        #expect(rest(client) == nil, "no close_notify")
      }),
    PolicyRow(id: "answer-chunk-malformed", counted: .close(.badResponse)) { world in
      for body in ["5\r\nhello", "x\r\n", "1\nx\r\n"] {
        let (client, upstream, _) = try world.passed(HTTPText.get)
        upstream.send(answer("Transfer-Encoding: chunked\r\n") + "1\r\na\r\n")
        #expect(client.receive(upTo: "1\r\na\r\n") != nil)
        upstream.send(body == "5\r\nhello" ? "5\r\nhelloworld\r\n" : body)
        #expect(client.receiveAll() == nil)
      }
    },
    PolicyRow(id: "answer-until-close", counted: .close(.responseComplete)) { world in
      let (client, upstream, _) = try world.passed(HTTPText.get)
      upstream.send(answer("X: y\r\n") + "all of it")
      upstream.endOutput()
      let head = try #require(client.receive(upTo: "\r\n\r\n"))
      #expect(head.contains("\r\nConnection: close\r\n"))
      #expect(client.receiveAll() == "all of it")
    },
    PolicyRow(
      id: "answer-until-close-tls", counted: .close(.responseComplete), setup: { $0.isTLS = true },
      run: { world in
        let (client, upstream, _) = try world.passed(HTTPText.get)
        upstream.send(answer("X: y\r\n") + "all of it")
        upstream.endOutput()
        #expect(rest(client) == "all of it", "close_notify says that this is all")
      }),
    PolicyRow(id: "answer-too-long", counted: .nothing) { world in
      for (request, tail) in [
        (HTTPText.get, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"), (HTTPText.get, "x"),
      ] {
        let client = try world.client(request)
        let (upstream, _) = try world.upstream()
        upstream.send(HTTPText.ok + tail)
        #expect(client.response()?.body == "ok")
        client.send(HTTPText.get)
        // The next request goes elsewhere.
        let (second, _) = try world.upstream()
        second.send(HTTPText.ok)
        #expect(client.response()?.body == "ok")
        second.endOutput()
        #expect(eventually { world.engine.value(.instanceClosesIdle) > 0 || second.ends() })
      }
    },
    PolicyRow(id: "answer-unasked", counted: .counter(.instanceClosesIdle, "instance idle closes")) { world in
      let (client, upstream, _) = try world.passed(HTTPText.get)
      upstream.send(HTTPText.ok)
      #expect(client.response()?.body == "ok")
      upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged")
      #expect(upstream.ends())
      client.send(HTTPText.get)
      let (second, _) = try world.upstream()
      second.send(HTTPText.ok)
      #expect(client.response()?.body == "ok")
    },
    PolicyRow(id: "answer-trailers", counted: .nothing) { world in
      let (client, upstream, _) = try world.passed(HTTPText.get)
      let body = "1;x\r\na\r\n0\r\nT: 1\r\n\r\n"
      upstream.send(answer("Transfer-Encoding: chunked\r\n") + body)
      #expect(client.receive(upTo: "\r\n\r\n") != nil)
      #expect(client.receive(count: body.utf8.count) == Array(body.utf8))
    },
    PolicyRow(id: "answer-chunked-http10", counted: .close(.badResponse), status: 502) { world in
      let (client, upstream, _) = try world.passed("GET / HTTP/1.0\r\nHost: a\r\n\r\n")
      upstream.send(answer("Transfer-Encoding: chunked\r\n") + "0\r\n\r\n")
      #expect(client.receiveAll()?.hasPrefix("HTTP/1.1 502 ") == true)
    },
    PolicyRow(id: "early-answer", counted: .close(.responseComplete)) { world in
      let (client, upstream, _) = try world.passed(HTTPText.post("Content-Length: 1000000\r\n\r\nsome"))
      upstream.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig")
      let answer = try #require(client.receiveAll(), "the client sends on, and still reads its answer")
      #expect(answer.hasPrefix("HTTP/1.1 413 ") && answer.hasSuffix("big") && answer.contains("Connection: close\r\n"))
    },
    PolicyRow(id: "early-answer-and-close", counted: .close(.responseComplete)) { world in
      for _ in 0..<20 {
        let client = try world.client(HTTPText.post("Content-Length: 30000000\r\n\r\n"))
        let sender = Thread.start("test-client") { client.send([UInt8](repeating: 1, count: 30_000_000)) }
        var (upstream, _): (Peer?, String) = try world.upstream()
        _ = upstream?.receive(count: 100_000)
        upstream?.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
        upstream = nil
        let answer = client.receiveAll() ?? "cut"
        #expect(answer.hasPrefix("HTTP/1.1 413 ") && answer.hasSuffix("big"), "\(answer)")
        sender.join()
      }
    },
  ]
}
