// Rows of docs/http.md about request lines, targets, fields and request bodies.
import Engine
import Posix
import ProxyMachine
import Routing
import TestSupport
import Testing

extension PolicyRow {
  private static let host = "\r\nHost: a\r\n\r\n"

  static let requestLines: [PolicyRow] = [
    .refused(
      "bare-lf", 400, "GET / HTTP/1.1\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
      "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    .refused("bare-cr", 400, "GET / HTTP/1.1\rHost: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n"),
    .refused(
      "control-characters", 400, "GET /\u{0} HTTP/1.1\(host)", "GET / HTTP/1.1\r\nHost: a\r\nX: a\u{0}b\r\n\r\n",
      "GET / HTTP/1.1\r\nHost: a\r\nX: a\u{7F}b\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nX: a\u{B}b\r\n\r\n"),
    .passes("leading-empty-lines", "\r\n\r\nGET / HTTP/1.1\(host)", sees: ["GET / HTTP/1.1\r\n"]),
    .refused("not-http", 400, "\u{1}\u{2}\u{3}", "(GET / HTTP/1.1\(host)"),
    PolicyRow(id: "tls-on-plain-port", counted: .close(.badRequest)) { world in
      let client = try world.connect()
      client.send([0x16, 0x03, 0x01, 0x02, 0x00, 0x01])
      #expect(client.ends())
    },
    PolicyRow(
      id: "plain-on-tls-port", counted: .close(.handshakeFailed), status: 400, setup: { $0.isTLS = true },
      run: { world in
        let client = Peer(connectingTo: world.engine.engine.tlsAddresses[0])
        client.send(HTTPText.get)
        #expect(client.receiveAll()?.hasPrefix("HTTP/1.1 400 ") == true)
      }),
    .refused("method-malformed", 400, "G@T / HTTP/1.1\(host)", "GET\t/ HTTP/1.1\(host)"),
    PolicyRow(id: "method-case", counted: .nothing) { world in
      let (client, upstream, head) = try world.passed("head / HTTP/1.1\(host)")
      #expect(head.hasPrefix("head / HTTP/1.1\r\n"))
      upstream.send(HTTPText.ok)
      #expect(client.response()?.body == "ok")
    },
    .refused("method-connect", 501, "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"),
    .refused("method-trace", 501, "TRACE / HTTP/1.1\(host)"),
    PolicyRow(id: "max-forwards", counted: .nothing, status: 200) { world in
      let client = try world.client("OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n")
      #expect(client.response()?.head.hasPrefix("HTTP/1.1 200 ") == true)
      #expect(world.nothingWasForwarded)
      client.send("OPTIONS / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 7\r\n\r\n")
      let (_, head) = try world.upstream()
      #expect(head.contains("\r\nMax-Forwards: 6\r\n"))
    },
    .refused(
      "spaces-in-request-line", 400, "GET  / HTTP/1.1\(host)", "GET /  HTTP/1.1\(host)", "GET / x HTTP/1.1\(host)"),
    .refused("http-0.9", 400, "GET /\r\n\r\n"),
    .refused("version-malformed", 400, "GET / http/1.1\(host)", "GET / HTTP/1.1 \(host)", "GET / HTTP/11\(host)"),
    .refused(
      "version-other", 505, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET / HTTP/3.0\(host)", "GET / HTTP/1.2\(host)"),
    .refused("line-too-long", 414, "GET /\(String(repeating: "x", count: 20_000)) HTTP/1.1\(host)"),
    .refused("head-too-large", 431, "GET / HTTP/1.1\r\nHost: a\r\nX: \(String(repeating: "x", count: 70_000))\r\n\r\n"),
    .refused(
      "too-many-fields", 431, "GET / HTTP/1.1\r\nHost: a\r\n\(String(repeating: "X: y\r\n", count: 128))\r\n"),
    .passes("target-origin", "GET /a//b/?q=/../ HTTP/1.1\(host)", sees: ["GET /a//b/?q=/../ HTTP/1.1\r\n"]),
    .passes(
      "target-absolute", "GET http://b.test:81/x?y HTTP/1.1\(host)",
      sees: ["GET /x?y HTTP/1.1\r\nHost: b.test:81\r\n"], lacks: ["host: a\r\n"]),
    .refused(
      "target-scheme", 400, "GET ftp://a/ HTTP/1.1\(host)", "GET a:80 HTTP/1.1\(host)", "GET a HTTP/1.1\(host)",
      "GET http:///x HTTP/1.1\(host)"),
    .refused("target-user-information", 400, "GET http://user@a/ HTTP/1.1\(host)"),
    .refused("target-fragment", 400, "GET /a#b HTTP/1.1\(host)", "GET /a?b#c HTTP/1.1\(host)"),
    .refused(
      "target-dot-segment", 400, "GET /a/../b HTTP/1.1\(host)", "GET /a/. HTTP/1.1\(host)",
      "GET /%2e%2E/b HTTP/1.1\(host)"),
    .refused("target-not-visible", 400, "GET /\u{E9} HTTP/1.1\(host)", "GET /\t HTTP/1.1\(host)"),
    .passes("target-asterisk", "OPTIONS * HTTP/1.1\(host)", sees: ["OPTIONS * HTTP/1.1\r\n"]),
    .refused("target-asterisk-other", 400, "GET * HTTP/1.1\(host)"),
    .refused("host-missing", 400, "GET / HTTP/1.1\r\n\r\n", "GET http://a/ HTTP/1.1\r\n\r\n"),
    .refused("host-duplicate", 400, "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
    .refused(
      "host-malformed", 400, "GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
      "GET / HTTP/1.1\r\nHost: a,b\r\n\r\n",
      "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "GET / HTTP/1.1\r\nHost: a:b\r\n\r\n",
      "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", "GET / HTTP/1.1\r\nHost: :80\r\n\r\n",
      "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n"),
    .passes("host-http10", "GET / HTTP/1.0\r\n\r\n", sees: ["GET / HTTP/1.0\r\n"], lacks: ["\r\nhost:"]),
    PolicyRow(
      id: "host-unknown", counted: .counter(.responses4xx, "responses 4xx"), status: 404,
      setup: { $0.route.host = "a.test" },
      run: { world in
        let client = try world.client("GET / HTTP/1.1\r\nHost: b.test\r\n\r\n")
        #expect(client.response()?.head.hasPrefix("HTTP/1.1 404 ") == true)
        // Nothing was wrong with it as a message: the connection goes on.
        client.send(HTTPText.get)
        let (upstream, _) = try world.upstream()
        upstream.send(HTTPText.ok)
        #expect(client.response()?.body == "ok")
      }),
  ]

  private static func field(_ line: String) -> String { "GET / HTTP/1.1\r\nHost: a\r\n\(line)\r\n\r\n" }

  static let fields: [PolicyRow] = [
    .refused("space-before-colon", 400, field("X : y"), field("Content-Length\t: 1")),
    .refused("folded-field", 400, field("X: a\r\n b"), field("X: a\r\n\tb"), "GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
    .refused("field-name-malformed", 400, field(": y"), field("X@: y"), field("nonsense"), field("X(y): z")),
    .refused("field-name-underscore", 400, field("Content_Length: 1"), field("X_Forwarded_For: 1")),
    .passes(
      "end-to-end-fields", field("B: 1\r\na:2 \r\nB:\t3\r\nOdd_Name: \u{E9}"),
      sees: ["B: 1\r\na:2 \r\nB:\t3\r\nOdd_Name: \u{E9}\r\n"]),
    .passes(
      "hop-by-hop-fields", field("Keep-Alive: 1\r\nProxy-Connection: x\r\nTE: trailers\r\nConnection: keep-alive"),
      lacks: ["keep-alive", "proxy-connection", "\r\nte:", "\r\nconnection:"]),
    .passes(
      "nominated-fields", field("Connection: X-Secret, close\r\nX-Secret: 1\r\nConnection: y\r\nY: 2\r\nZ: 3"),
      sees: ["\r\nZ: 3\r\n"], lacks: ["x-secret", "\r\ny:", "\r\nconnection:"]),
    .passes(
      "nominated-framing", HTTPText.post("Connection: Content-Length, Host\r\nContent-Length: 3\r\n\r\nabc"),
      sees: ["\r\nContent-Length: 3\r\n", "\r\nHost: a.test\r\n"], body: "abc"),
    .passes(
      "claims-of-strangers", field("X-Forwarded-For: 9.9.9.9\r\nForwarded: for=9.9.9.9\r\nX-Real-IP: 9.9.9.9"),
      sees: ["\r\nX-Forwarded-For: 127.0.0.1\r\n", "\r\nX-Forwarded-Proto: http\r\n", "\r\nVia: 1.1 berth\r\n"],
      lacks: ["9.9.9.9"]),
  ]

  private static func body(_ fields: String) -> String { HTTPText.post(fields + "\r\n") }

  static let requestBodies: [PolicyRow] = [
    .refused(
      "length-and-coding", 400, body("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n",
      body("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n") + "0\r\n\r\n"),
    .refused(
      "length-duplicate", 400, body("Content-Length: 1\r\nContent-Length: 2\r\n") + "x",
      body("Content-Length: 1\r\nContent-Length: 1\r\n") + "x", body("Content-Length: 1, 1\r\n") + "x"),
    .refused(
      "length-malformed", 400, body("Content-Length: +1\r\n") + "x", body("Content-Length: -1\r\n") + "x",
      body("Content-Length: 0x1\r\n") + "x", body("Content-Length: \r\n") + "x", body("Content-Length: 1 1\r\n") + "x",
      body("Content-Length: 9999999999999999999\r\n") + "x"),
    .refused(
      "coding-other", 501, body("Transfer-Encoding: gzip\r\n"), body("Transfer-Encoding: gzip, chunked\r\n"),
      body("Transfer-Encoding: chunked, identity\r\n"), body("Transfer-Encoding: xchunked\r\n"),
      body("Transfer-Encoding: \r\n")),
    .refused(
      "coding-duplicate", 501, body("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n") + "0\r\n\r\n"),
    .refused(
      "coding-http10", 400, "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    PolicyRow(id: "no-length", counted: .nothing) { world in
      let (client, upstream, first) = try world.passed("POST /1 HTTP/1.1\(host)GET /2 HTTP/1.1\(host)")
      #expect(first.hasPrefix("POST /1 "))
      upstream.send(HTTPText.ok)
      #expect(client.response()?.body == "ok")
      #expect(upstream.receive(upTo: "\r\n\r\n")?.hasPrefix("GET /2 ") == true)
    },
    .passes(
      "chunked-body", HTTPText.post(HTTPText.chunked + "05;a=\"b;c\"\r\nhello\r\nA\r\n0123456789\r\n0\r\n\r\n"),
      sees: ["\r\nTransfer-Encoding: chunked\r\n"], lacks: ["content-length"],
      body: "05;a=\"b;c\"\r\nhello\r\nA\r\n0123456789\r\n0\r\n\r\n"),
    .refusedBody("chunk-size", "x\r\n", "-1\r\n", "0x1\r\n", "1 \r\n", " 1\r\n", "\r\n", "+1\r\n", "1_0\r\n"),
    .refusedBody("chunk-size-too-large", "FFFFFFFFFFFFFFFF\r\n", "00000000000000001\r\n"),
    .refusedBody("chunk-line-ends", "1\nx\n0\n\n", "1\r\nx\n0\r\n\r\n", "1\r\nx0\r\n\r\n", "1\rx\r\n", "1;a\nx\r\n"),
    .refusedBody(
      "chunk-extension", "1;\(String(repeating: "x", count: 300))\r\nx\r\n0\r\n\r\n", "1;a=\u{0}\r\nx\r\n",
      "1;a\r\r\nx\r\n"),
    .passes(
      "trailers", HTTPText.post("Trailer: T\r\n" + HTTPText.chunked + "1\r\nx\r\n0\r\nT: 1\r\nU: 2\r\n\r\n"),
      sees: ["\r\nTrailer: T\r\n"], body: "1\r\nx\r\n0\r\nT: 1\r\nU: 2\r\n\r\n"),
    .refusedBody(
      "trailer-malformed", "0\r\nT : 1\r\n\r\n", "0\r\n folded\r\n\r\n", "0\r\nT: 1\nU: 2\r\n\r\n", "0\r\nT\r\n\r\n",
      "0\r\nT: \u{0}\r\n\r\n"),
    .refusedBody(
      "trailer-forbidden", "0\r\nContent-Length: 5\r\n\r\n", "0\r\ntransfer_encoding: chunked\r\n\r\n",
      "0\r\nHost: b\r\n\r\n"),
    .refusedBody(
      "trailers-too-large", "0\r\n" + String(repeating: "T: \(String(repeating: "x", count: 1_000))\r\n", count: 9)),
    PolicyRow(
      id: "body-too-large", counted: .close(.bodyTooLarge), status: 413, setup: { $0.route.bodyBytes = 10 },
      run: { world in
        let known = try world.client(HTTPText.post("Content-Length: 11\r\n\r\n01234567890"))
        #expect(known.receiveAll()?.hasPrefix("HTTP/1.1 413 ") == true)
        #expect(world.nothingWasForwarded)
        let (chunked, upstream, _) = try world.passed(HTTPText.post(HTTPText.chunked))
        chunked.send("10\r\n0123456789abcdef\r\n0\r\n\r\n")
        #expect(chunked.receiveAll()?.hasPrefix("HTTP/1.1 413 ") == true)
        #expect(upstream.receiveAll()?.hasSuffix("0\r\n\r\n") != true)
      }),
    PolicyRow(id: "body-cut", counted: .close(.clientAborted)) { world in
      for fields in ["Content-Length: 10\r\n\r\nhalf", HTTPText.chunked + "5\r\nhal"] {
        let (client, upstream, _) = try world.passed(HTTPText.post(fields))
        client.endOutput()
        #expect(client.ends())
        // No clean end: less than the length, or no last chunk.
        let seen = upstream.receiveAll() ?? ""
        #expect(seen.count < 10 && !seen.hasSuffix("0\r\n\r\n"))
      }
    },
    PolicyRow(id: "expect-continue", counted: .nothing) { world in
      let (client, upstream, head) = try world.passed(
        HTTPText.post("Content-Length: 2\r\nExpect: 100-Continue\r\n\r\n"))
      #expect(head.contains("\r\nExpect: 100-Continue\r\n"))
      upstream.send("HTTP/1.1 100 Continue\r\n\r\n")
      #expect(client.receive(upTo: "\r\n\r\n")?.hasPrefix("HTTP/1.1 100 ") == true)
      client.send("hi")
      #expect(upstream.receive(count: 2) == Array("hi".utf8))
      upstream.send(HTTPText.ok)
      #expect(client.response()?.body == "ok")
    },
    PolicyRow(id: "expect-refused-by-instance", counted: .close(.responseComplete)) { world in
      let (client, upstream, _) = try world.passed(HTTPText.post("Content-Length: 2\r\nExpect: 100-continue\r\n\r\n"))
      upstream.send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
      let answer = try #require(client.receiveAll())
      #expect(answer.hasPrefix("HTTP/1.1 401 ") && answer.contains("Connection: close\r\n"))
    },
    .refused("expect-other", 417, field("Expect: 200-ok")),
  ]
}
