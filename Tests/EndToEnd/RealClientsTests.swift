// HTTP clients that people use, through a replica with a routes file, to servers that people use: what each of them sends
// and expects has to come through. Every test is about one client, or about nginx as an instance.
import Foundation
import JSON
import Testing

extension EndToEnd {
  @Suite struct RealClients {
    // MARK: curl

    @Test("curl: bodies both ways, 100-continue, chunks, HEAD, HTTP/1.0, kept connections", arguments: [false, true])
    func curl(overTLS: Bool) async throws {
      try await RealSite.with { site in
        let base = overTLS ? site.tlsURL : site.url
        // Down to a file, with the digest that the instance tells, and up again: both have to be the same bytes.
        let fields = try await site.curl("-D", "-", "-o", "body", base + "/data/2000001")
        #expect(fields.hasPrefix("HTTP/1.1 200 OK\r\n"), "\(fields)")
        let digest = try #require(value(of: "X-SHA256", in: fields))
        let type = "Content-Type: application/octet-stream"

        let expected = try await site.curl(
          "-v", "-H", type, "-H", "Expect: 100-continue", "--data-binary", "@body", base + "/echo")
        #expect(expected.contains("\n< HTTP/1.1 100 Continue"), "\(expected)")
        try expectEcho(expected, size: 2_000_001, digest, ("content-length", "2000001"), ("expect", "100-continue"))

        let chunked = try await site.curl("-H", "Transfer-Encoding: chunked", "-T", "body", base + "/echo")
        try expectEcho(chunked, size: 2_000_001, digest, ("transfer-encoding", "chunked"))

        // The instance wants no such body: its answer comes instead of 100, and the body is never sent.
        let unwanted = try await site.curl(
          "-H", "Expect: 100-continue", "--data-binary", "@body", "-w", "\n%{http_code} %{size_upload}",
          base + "/small")
        #expect(unwanted == "too much\n413 0")

        let head = try await site.curl("--head", base + "/data/1234")
        #expect(head.hasPrefix("HTTP/1.1 200 OK\r\n") && value(of: "Content-Length", in: head) == "1234", "\(head)")

        let old = try await site.curl("--http1.0", "-i", base + "/echo")
        #expect(value(of: "Connection", in: old) == "close", "\(old)")
        #expect(try echo(old)["version"]?.string == "1.0")
        let oldUnbounded = try await site.curl(
          "--http1.0", "-D", "-", "-o", "unbounded", base + "/data/2000001?chunked")
        #expect(value(of: "Transfer-Encoding", in: oldUnbounded) == nil, "\(oldUnbounded)")
        #expect(FileManager.default.contentsEqual(atPath: site.file("body"), andPath: site.file("unbounded")))

        // Different instances, one connection.
        let kept = try await site.curl(
          "-o", "/dev/null", "-w", "%{num_connects} %{http_code}\n", base + "/echo?[1-5]",
          "-o", "/dev/null", base + "/files/page.txt?[1-5]", "-o", "/dev/null", base + "/no-such-page",
          "-o", "/dev/null", base + "/data/5?chunked")
        #expect(kept == "1 200\n" + String(repeating: "0 200\n", count: 9) + "0 404\n0 200\n")

        let atOnce = try await site.curl(
          "--no-progress-meter", "--parallel", "--parallel-max", "10", "-o", "/dev/null", "-w",
          "%{http_code} %{size_download}\n",
          base + "/data/50000?[1-40]")
        let expectedLines = Array(repeating: Substring("200 50000"), count: 40)
        #expect(atOnce.split(separator: "\n") == expectedLines)
      }
    }

    @Test("curl: a WebSocket upgrade that an instance or a route refuses is a plain answer", arguments: [false, true])
    func refusedUpgrade(overTLS: Bool) async throws {
      try await RealSite.with { site in
        func upgrade(_ path: String) async throws -> String {
          try await site.curl(
            "-i", "-H", "Connection: Upgrade", "-H", "Upgrade: websocket", "-H", "Sec-WebSocket-Version: 13", "-H",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", (overTLS ? site.tlsURL : site.url) + path)
        }
        let refused = try await upgrade("/refuse")
        #expect(
          refused.hasPrefix("HTTP/1.1 403 Forbidden\r\n") && refused.hasSuffix("\r\n\r\nno sockets here"), "\(refused)")
        // It may have sent frames already, so the connection is of no further use.
        #expect(value(of: "Connection", in: refused) == "close")
        let plain = try await upgrade("/plain/echo")
        #expect(plain.hasPrefix("HTTP/1.1 200 OK\r\n"), "\(plain)")
        let names = try echo(plain)["fields"]?.array?.compactMap { $0.array?.first?.string } ?? []
        #expect(names.contains("sec-websocket-key") && !names.contains("upgrade"), "\(names)")
        #expect(try await upgrade("/files/page.txt").hasSuffix(RealSite.page))
        #expect(site.metric("berth_tunnels_total") == 0)
      }
    }

    @Test("curl trusts the replica's certificate by its authority alone")
    func trust() async throws {
      try await RealSite.with { site in
        let words = ["--silent", "--show-error", "--noproxy", "*", site.tlsURL + "/echo"]
        let stranger = try await site.run("curl", words)
        // 60: the peer's certificate cannot be verified.
        #expect(stranger.ending == .exited(60), "\(stranger)")
        let friend = try await site.run("curl", words + ["--cacert", site.authority])
        #expect(friend.ending == .exited(0), "\(friend)")
      }
    }

    // MARK: Libraries

    @Test(
      "Python's libraries: kept connections, bodies of 10 MB, streams, codings",
      arguments: ["requests", "httpx", "aiohttp"])
    func library(name: String) async throws {
      try await RealSite.with { site in
        for (base, authority) in [(site.url, nil), (site.tlsURL, site.authority)] {
          let told = try await Client.checks(
            "http_clients.py", [name, base, site.adminURL], in: site.directory, trusting: authority)
          #expect(told.failed == [:], "\(base)")
          #expect(
            told.passed == [
              "keep_alive", "methods", "bodies_of_ten_megabytes", "upload_in_chunks", "upload_arrives_as_it_is_sent",
              "download_arrives_as_it_is_sent", "compressed_answers_pass_untouched", "cookies_and_redirects",
              "a_download_that_is_given_up", "many_at_once",
            ], "\(base)")
        }
      }
    }

    @Test("websockets on a plain route: messages up to 1 MB, fragments, pings, close codes, permessage-deflate")
    func webSockets() async throws {
      try await RealSite.with { site in
        for (base, authority) in [
          ("ws://127.0.0.1:\(site.plain)", nil), ("wss://127.0.0.1:\(site.tls)", site.authority),
        ] {
          let told = try await Client.checks("websocket_client.py", [base], in: site.directory, trusting: authority)
          #expect(told.failed == [:], "\(base)")
          #expect(
            told.passed == [
              "text_and_binary", "compression_is_agreed_between_the_ends", "fields_of_the_handshake", "large_messages",
              "fragments", "many_messages_under_way", "pings_of_both_sides", "close_codes_of_both_sides", "refusals",
              "many_sockets_at_once",
            ], "\(base)")
        }
        // None of them lingers.
        try await eventually("all tunnels have ended", within: 60) { site.metric("berth_tunnels") == 0 }
      }
    }

    // MARK: Load

    @Test("wrk: seconds of load without one bad answer or socket error")
    func load() async throws {
      try await RealSite.with { site in
        for (base, header) in [
          (site.url, "Accept: */*"), (site.url, "Connection: close"), (site.url, "Accept-Encoding: gzip"),
          (site.tlsURL, "Accept: */*"), (site.tlsURL, "Connection: close"),
        ] {
          let before = site.metric("berth_requests_total") ?? 0
          // `short` has nginx close each of its connections after five requests.
          let path = header == "Accept-Encoding: gzip" ? "/files/zipped/page.txt" : "/files/short/page.txt"
          let (ending, text) = try await site.run("wrk", ["-t1", "-c16", "-d1s", "-H", header, base + path])
          #expect(ending == .exited(0), "\(text)")
          #expect(!text.contains("Non-2xx") && !text.contains("Socket errors"), "\(base) \(header): \(text)")
          let served = text.split(separator: "\n").first { $0.contains(" requests in ") }?.split(separator: " ").first
          let count = served.flatMap { Int($0) } ?? 0
          #expect(count > 16, "\(base) \(header): \(text)")
          #expect((site.metric("berth_requests_total") ?? 0) - before >= count, "the load went elsewhere")
        }
        #expect(site.metric("berth_responses_total", #""5xx""#) ?? 0 == 0)
        #expect(site.metric("berth_instance_failures_total") == 0)
      }
    }

    // MARK: nginx as an instance

    @Test("nginx: a file, its ranges, conditions, gzip, chunks with a trailer", arguments: [false, true])
    func nginxFiles(overTLS: Bool) async throws {
      try await RealSite.with { site in
        let files = (overTLS ? site.tlsURL : site.url) + "/files"
        let whole = try await site.curl("-i", files + "/page.txt")
        #expect(whole.hasPrefix("HTTP/1.1 200 OK\r\n") && whole.hasSuffix("\r\n\r\n" + RealSite.page))
        #expect(value(of: "Content-Length", in: whole) == "\(RealSite.page.utf8.count)")
        #expect(value(of: "Server", in: whole)?.hasPrefix("nginx/") == true)
        let tag = try #require(value(of: "ETag", in: whole))

        let range = try await site.curl("-i", "-r", "2-9", files + "/page.txt")
        #expect(range.hasPrefix("HTTP/1.1 206 Partial Content\r\n") && range.hasSuffix("\r\n\r\nline of "), "\(range)")
        #expect(value(of: "Content-Range", in: range) == "bytes 2-9/\(RealSite.page.utf8.count)")
        let ranges = try await site.curl("-i", "-r", "0-5,-5", files + "/page.txt")
        #expect(value(of: "Content-Type", in: ranges)?.hasPrefix("multipart/byteranges; boundary=") == true)
        #expect(ranges.contains("\r\n\r\na line\r\n") && ranges.contains("\r\n\r\n5000\n\r\n"), "\(ranges)")
        let beyond = try await site.curl("-i", "-r", "1000000-", files + "/page.txt")
        #expect(
          beyond.hasPrefix("HTTP/1.1 416 ") && beyond.contains("bytes */\(RealSite.page.utf8.count)"), "\(beyond)")
        // A download that broke off is continued.
        try String(RealSite.page.prefix(40_000)).write(toFile: site.file("part"), atomically: true, encoding: .utf8)
        _ = try await site.curl("-C", "-", "-o", "part", files + "/page.txt")
        #expect(try String(contentsOfFile: site.file("part"), encoding: .utf8) == RealSite.page)

        let unchanged = try await site.curl(
          "-i", "-H", "If-None-Match: \(tag)", files + "/page.txt", files + "/page.txt")
        #expect(unchanged.hasPrefix("HTTP/1.1 304 Not Modified\r\n") && unchanged.contains("\r\n\r\nHTTP/1.1 304 "))
        let head = try await site.curl("--head", files + "/page.txt", files + "/page.txt")
        #expect(head.components(separatedBy: "Content-Length: \(RealSite.page.utf8.count)\r\n").count == 3, "\(head)")

        let zipped = try await site.curl("-D", "-", "-o", "zipped", "--compressed", files + "/zipped/page.txt")
        #expect(value(of: "Content-Encoding", in: zipped) == "gzip", "\(zipped)")
        #expect(value(of: "Transfer-Encoding", in: zipped) == "chunked")
        #expect(try String(contentsOfFile: site.file("zipped"), encoding: .utf8) == RealSite.page)
        let plain = try await site.curl("-D", "-", "-o", "/dev/null", files + "/zipped/page.txt")
        #expect(value(of: "Content-Encoding", in: plain) == nil)

        // curl prints trailers behind the fields.
        let trailed = try await site.curl("-D", "-", "-o", "trailed", files + "/trailed/page.txt")
        #expect(trailed.contains("Transfer-Encoding: chunked\r\n"), "\(trailed)")
        #expect(trailed.hasSuffix("\r\n\r\nX-End: the last word\r\n"), "\(trailed)")
        #expect(try String(contentsOfFile: site.file("trailed"), encoding: .utf8) == RealSite.page)
      }
    }

    @Test("nginx: its own errors come as it wrote them, and the connection goes on")
    func nginxErrors() async throws {
      try await RealSite.with { site in
        let files = site.url + "/files"
        let own = try await site.curl("-i", files + "/broken/", "-w", "%{num_connects}", files + "/broken/")
        #expect(own.hasPrefix("HTTP/1.1 502 Bad Gateway\r\nServer: nginx/"), "\(own)")
        #expect(own.components(separatedBy: "<center><h1>502 Bad Gateway</h1></center>").count == 3, "\(own)")
        #expect(own.hasSuffix("</html>\r\n0"), "\(own)")
        // nginx answers before it has the body, and closes: the answer arrives nevertheless.
        try Data(count: 3_000_000).write(to: URL(filePath: site.file("large")))
        for more in [[], ["-H", "Transfer-Encoding: chunked"]] {
          let (_, text) = try await site.run(
            "curl",
            ["-sS", "--noproxy", "*", "-i", "-H", "Expect:", "--data-binary", "@large"] + more + [files + "/limited/"])
          #expect(text.hasPrefix("HTTP/1.1 413 Request Entity Too Large\r\n"), "\(text)")
          #expect(text.contains("<h1>413 Request Entity Too Large</h1>"), "\(text)")
        }
        #expect(try await site.curl("-o", "/dev/null", "-w", "%{http_code}", "-d", "a=b", files + "/page.txt") == "405")
        #expect(try await site.curl("-o", "/dev/null", "-w", "%{http_code}", files + "/none.txt") == "404")
        // They are answers, not failures of the instance: it stays in turn.
        #expect(site.metric("berth_instance_failures_total") == 0)
        #expect(try await site.curl(files + "/page.txt") == RealSite.page)
      }
    }

    @Test("nginx: connections to it are kept, and one that it ends after five requests costs nobody an answer")
    func nginxKeepAlive() async throws {
      try await RealSite.with(workers: 1) { site in
        func connections(_ path: String) async throws -> [Substring] {
          let text = try await site.curl("-D", "-", "-o", "/dev/null", site.url + "/files" + path + "?[1-12]")
          #expect(text.components(separatedBy: "HTTP/1.1 200 OK\r\n").count == 13, "\(text)")
          return text.split(whereSeparator: \.isNewline).filter { $0.hasPrefix("X-Connection: ") }.map {
            $0.dropFirst("X-Connection: ".count)
          }
        }
        let kept = try await connections("/page.txt")
        #expect(kept.map { $0.split(separator: ":")[1] } == (1...12).map { "\($0)"[...] })
        #expect(Set(kept.map { $0.split(separator: ":")[0] }).count == 1)
        let short = try await connections("/short/page.txt")
        // The first of them ends the connection of before.
        #expect(
          short.map { $0.split(separator: ":")[1] } == ["13"] + [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1].map { "\($0)"[...] })
        #expect(site.metric("berth_instance_failures_total") == 0)
      }
    }

    // MARK: Reading

    /// A field's value in an answer as curl prints it.
    private func value(of name: String, in text: String) -> String? {
      text.split(whereSeparator: \.isNewline).first { $0.lowercased().hasPrefix(name.lowercased() + ": ") }
        .map { String($0.dropFirst(name.count + 2)) }
    }

    /// What instance.py's /echo says; it is the last line.
    private func echo(_ text: String) throws -> JSON {
      guard let line = text.split(whereSeparator: \.isNewline).last(where: { $0.hasPrefix("{\"method\"") }) else {
        throw Failure("the instance said nothing: \(text)")
      }
      return try JSON(parsing: String(line))
    }

    private func expectEcho(_ text: String, size: Int, _ digest: String, _ fields: (String, String)...) throws {
      let echo = try echo(text)
      #expect(echo["size"]?.int == size)
      #expect(echo["sha256"]?.string == digest)
      let seen = echo["fields"]?.array?.compactMap(\.array) ?? []
      for (name, value) in fields {
        #expect(seen.contains { $0.first?.string == name && $0.last?.string == value }, "\(name): \(value) in \(seen)")
      }
    }
  }
}
