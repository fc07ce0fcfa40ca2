// Real clients against a real Chrome, as their users write them: every form of an endpoint, plain and over TLS.
import JSON
import Testing

/// All end-to-end tests, one after the other: each starts Chromes, and two cores are soon full.
@Suite(.serialized) struct EndToEnd {}

extension EndToEnd {
  @Suite struct Clients {
    @Test func playwrightConnectsOverEveryFormOfAnEndpoint() async throws {
      try await Deployment.with { berth in
        for endpoint in [berth.url, berth.url + "/", berth.socketURL, berth.socketURL + "/"] {
          let sessions = try await Client.playwright(endpoint, in: berth)["sessions"]?.array ?? []
          try #require(sessions.count == 1, "\(endpoint)")
          #expect(sessions[0]["title"]?.string == "Berth", "\(endpoint)")
          #expect(sessions[0]["sum"]?.int == 42, "\(endpoint)")
          #expect(sessions[0]["screenshot"]?.int ?? 0 > 1_000, "\(endpoint)")
        }
      }
    }

    @Test func playwrightConnectsOverTLS() async throws {
      try await Deployment.with { berth in
        for endpoint in [berth.tlsURL, berth.tlsURL + "/", "wss://127.0.0.1:\(berth.tlsPort)"] {
          let answer = try await Client.playwright(endpoint, in: berth, trusting: berth.certificate)
          #expect(answer["sessions"]?.array?.first?["title"]?.string == "Berth", "\(endpoint)")
        }
      }
    }

    @Test func puppeteerConnectsByURLAndByEndpoint() async throws {
      try await Deployment.with { berth in
        let byURL = try await Client.pyppeteer("url", berth.url, in: berth)
        #expect(byURL["title"]?.string == "Berth")
        // Discovery names this very proxy, not the Chrome behind it.
        #expect(byURL["endpoint"]?.string?.hasPrefix(berth.socketURL + "/devtools/browser/") == true)
        let byEndpoint = try await Client.pyppeteer("ws", berth.socketURL, in: berth)
        #expect(byEndpoint["title"]?.string == "Berth")
      }
    }

    @Test func puppeteerConnectsOverTLS() async throws {
      try await Deployment.with { berth in
        let byURL = try await Client.pyppeteer("url", berth.tlsURL, in: berth, trusting: berth.certificate)
        #expect(byURL["endpoint"]?.string?.hasPrefix("wss://127.0.0.1:\(berth.tlsPort)/devtools/browser/") == true)
        let endpoint = "wss://127.0.0.1:\(berth.tlsPort)"
        let byEndpoint = try await Client.pyppeteer("ws", endpoint, in: berth, trusting: berth.certificate)
        #expect(byEndpoint["title"]?.string == "Berth")
      }
    }

    @Test func aRawClientFollowsDiscovery() async throws {
      try await Deployment.with { berth in
        for (base, ca) in [(berth.url, nil), (berth.tlsURL, berth.certificate)] {
          let answer = try await Client.raw(base, in: berth, trusting: ca)
          let socket = answer["discovery"]?["webSocketDebuggerUrl"]?.string ?? ""
          #expect(socket.hasPrefix(base.replacing("http", with: "ws") + "/devtools/browser/"), "\(socket)")
          #expect(answer["product"]?.string == answer["discovery"]?["Browser"]?.string)
          #expect(answer["bytes"]?.int == 2_000_001)
        }
      }
    }

    @Test(arguments: ["/", "/chrome", "/chromium"])
    func aSocketToABareAddressIsAChromeOfItsOwn(path: String) async throws {
      try await Deployment.with { berth in
        let answer = try await Client.raw(berth.url, "--socket", path, in: berth)
        #expect(answer["bytes"]?.int == 2_000_001)
      }
    }

    @Test func aMethodInLowerCaseIsServed() async throws {
      try await Deployment.with(configuration: Deployment.shortReservations) { berth in
        let request = #"get /json/version HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"#
        let answer = try await Client.wire(berth.port, request, in: berth.directory)
        let text = answer["received"]?.string ?? ""
        #expect(text.hasPrefix("HTTP/1.1 200 "), "\(text)")
        #expect(text.contains("webSocketDebuggerUrl"))
      }
    }
  }
}
