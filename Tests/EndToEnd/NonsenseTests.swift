// Clients that send what makes no sense: a clear answer or a clean close, one line in the log, and no harm to others.
import JSON
import Testing

extension EndToEnd {
  @Suite struct Nonsense {
    /// What a control plane says of requests; it may have something to say of its browsers at any time.
    private func refusals(_ control: Program) -> [Substring] {
      control.lines.filter { $0.contains("request refused") || $0.contains("request failed") }
    }

    @Test func theControlPlaneRefusesInASentence() async throws {
      try await Deployment.with { berth in
        try await berth.settles()
        for (method, path, body, status) in [
          ("POST", "/api/session/create", "{\"pool\": ", 400), ("POST", "/api/session/create", "[]", 400),
          ("POST", "/api/session/create", #"{"pool": "no-such-pool"}"#, 400),
          ("GET", "/api/session/no-such-session", nil, 404), ("DELETE", "/api/session/no-such-session", nil, 404),
          ("POST", "/api/instances/no-such-instance/restart", nil, 404), ("GET", "/api/no-such-thing", nil, 404),
        ] as [(String, String, String?, Int)] {
          let linesBefore = refusals(berth.control).count
          let answer = try #require(HTTP.request(method, berth.controlPort, path, body: body), "\(method) \(path)")
          #expect(answer.status == status, "\(method) \(path): \(answer.text)")
          let sentence = answer.json["error"]?.string ?? ""
          #expect(sentence.count > 8, "\(method) \(path): \(answer.text)")
          try await eventually("one line about \(method) \(path)", within: 60, show: berth.control) {
            refusals(berth.control).count > linesBefore ? () : nil
          }
          #expect(refusals(berth.control).count == linesBefore + 1, "\(refusals(berth.control)[linesBefore...])")
        }
      }
    }

    @Test func theDataPlaneAnswersOrClosesAndSaysWhy() async throws {
      try await Deployment.with { berth in
        try await berth.settles()
        let replica = berth.replicas[0]
        for (what, bytes, status) in [
          ("a garbage request line", #"\x01\x02 hello\r\n\r\n"#, "400"),
          ("no HTTP at all", #"EHLO mail.example\r\n\r\n"#, "400"),
          ("a version of the future", #"GET / HTTP/9.9\r\nHost: a\r\n\r\n"#, "505"),
          ("two lengths", #"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx"#, "400"),
          ("no host", #"GET /json/version HTTP/1.1\r\n\r\n"#, "400"),
          (
            "an unknown session",
            #"GET /session/no-such-session/json/version HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"#, "404"
          ),
        ] {
          let linesBefore = replica.lines.count
          let answer = try await Client.wire(berth.port, bytes, in: berth.directory)
          let text = answer["received"]?.string ?? ""
          #expect(text.hasPrefix("HTTP/1.1 \(status) "), "\(what): \(text)")
          #expect(answer["ended"]?.string == "closed", "\(what)")
          try await eventually("one line about \(what)", within: 60, show: replica) {
            replica.lines.count > linesBefore ? () : nil
          }
          #expect(replica.lines.count == linesBefore + 1, "\(what): \(replica.lines[linesBefore...])")
        }
      }
    }

    @Test func aTLSClientOnThePlainPortIsTurnedAway() async throws {
      try await Deployment.with { berth in
        try await berth.settles()
        let replica = berth.replicas[0]
        let linesBefore = replica.lines.count
        let answer = try await Client.wire(berth.port, "--tls", in: berth.directory)
        #expect(answer["handshake"]?.string == "refused")
        try await eventually("one line about it", within: 60, show: replica) {
          replica.lines.count > linesBefore ? () : nil
        }
        #expect(replica.lines.count == linesBefore + 1, "\(replica.lines[linesBefore...])")
      }
    }

    @Test func aPlainClientOnTheTLSPortIsTurnedAway() async throws {
      try await Deployment.with(configuration: Deployment.shortReservations) { berth in
        let request = #"GET /json/version HTTP/1.1\r\nHost: a\r\n\r\n"#
        let answer = try await Client.wire(berth.tlsPort, request, in: berth.directory)
        #expect(answer["ended"]?.string != "still open")
        let text = answer["received"]?.string ?? ""
        #expect(text.isEmpty || text.hasPrefix("HTTP/1.1 400 "), "\(text)")
        // And the port still serves those who speak TLS.
        let next = try await Client.raw(berth.tlsURL, "--get", "/json/version", in: berth, trusting: berth.certificate)
        #expect(next["status"]?.int == 200)
      }
    }
  }
}
