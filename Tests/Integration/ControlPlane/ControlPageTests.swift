// What pages in browsers may ask of REST, and that clients which say nothing hold nobody up.
import API
import JSON
import Posix
import Runtimes
import TestSupport
import Testing

@Suite struct ControlPageTests {
  private func refusal(
    _ guarded: PageGuard, _ authority: String?, _ origin: String? = nil, site: String? = nil
  ) -> Int? {
    do throws(Refusal) {
      try guarded.check(authority: authority, origin: origin, site: site)
      return nil
    } catch { return error.status }
  }

  /// Names that somebody else can own are refused where nobody has to show a key.
  @Test(
    arguments: [
      ("127.0.0.1:3000", nil), ("[::1]:3000", nil), ("10.1.2.3", nil), ("localhost:3000", nil), ("a.localhost", nil),
      ("control", nil), ("control:3000", nil), ("berth.svc.cluster.local:3000", nil), ("B.Example.", nil), (nil, nil),
      ("evil.example:3000", 403), ("1.2.3.4.evil.example", 403), ("127.0.0.1.nip.example", 403), ("local.example", 403),
      ("1.2.3", 403), ("1.2.3.999", 403),
    ] as [(String?, Int?)])
  func names(_ authority: String?, _ status: Int?) {
    #expect(refusal(PageGuard(asksForKeys: false, names: ["b.example"]), authority) == status)
    // A page that has pointed its name here has no key.
    #expect(refusal(PageGuard(asksForKeys: true, names: []), authority) == nil)
  }

  @Test(arguments: [true, false]) func pagesAskTheirOwn(asksForKeys: Bool) {
    let guarded = PageGuard(asksForKeys: asksForKeys, names: [])
    #expect(refusal(guarded, "127.0.0.1:3000", "http://127.0.0.1:3000") == nil)
    #expect(refusal(guarded, "LOCALHOST:3000", "https://localhost:3000") == nil)
    #expect(refusal(guarded, "127.0.0.1:3000", "http://127.0.0.1:3001") == 403)
    #expect(refusal(guarded, "127.0.0.1:3000", "null") == 403)
    #expect(refusal(guarded, "127.0.0.1:3000", "http://evil.example") == 403)
    #expect(refusal(guarded, "evil.example", "http://evil.example") == (asksForKeys ? nil : 403))
  }

  /// Images, frames and links of other pages have no Origin; browsers say whose they are.
  @Test(arguments: [true, false]) func otherPagesAskNothingWithoutAnOriginEither(asksForKeys: Bool) {
    let guarded = PageGuard(asksForKeys: asksForKeys, names: [])
    for site in ["same-origin", "none", "None", "", "anything"] {
      #expect(refusal(guarded, "127.0.0.1:3000", site: site) == nil, "\(site)")
    }
    for site in ["cross-site", "same-site", "Cross-Site"] {
      #expect(refusal(guarded, "127.0.0.1:3000", site: site) == 403, "\(site)")
    }
    #expect(refusal(guarded, "127.0.0.1:3000", "http://127.0.0.1:3000", site: "same-origin") == nil)
  }

  @Test(arguments: [
    ("https://b.example", "b.example"), ("http://B.example:8080/x", "b.example"), ("http://[::1]:80", "[::1]"),
    ("", ""),
  ])
  func hostsOfURLs(_ url: String, _ host: String) { #expect(PageGuard.host(ofURL: url) == host) }

  @Test func aPageOfStrangersMakesNoSession() async throws {
    let bench = try ControlBench()
    let api = try await RunningAPI(bench, [bench.pool()])
    let foreign = ["Origin": "http://evil.example"]
    #expect(try await api.ask("POST", "/api/session/create", headers: foreign).status == 403)
    let named = try await api.ask("GET", "/api/sessions", host: "evil.example:3000")
    #expect(named.status == 403)
    #expect(named.json["error"]?.string?.contains("allowedHosts") == true)
    #expect(try await api.ask("GET", "/api/sessions", host: "b.example").status == 200)
    let image = try await api.ask("GET", "/api/sessions", headers: ["Sec-Fetch-Site": "cross-site"])
    #expect(image.status == 403)
    #expect(image.json["error"]?.string?.contains("open the address by itself") == true)
    #expect(try await api.ask("GET", "/api/sessions", headers: ["sec-fetch-site": "none"]).status == 200)
    #expect(try await api.ask("GET", "/api/health", headers: ["Sec-Fetch-Site": "cross-site"]).status == 200)
    // Probes are asked by whatever name.
    #expect(try await api.ask("GET", "/api/health", host: "evil.example").status == 200)
  }

  /// Half a head and then nothing, on as many connections as there may be: whoever comes next is served all the same.
  @Test func clientsThatSayNothingHoldNobodyUp() async throws {
    let bench = try ControlBench()
    let api = try await RunningAPI(bench, [bench.pool()], descriptors: 16, idleSeconds: 1)
    let silent = (0..<8).map { _ in
      let peer = Peer(connectingTo: api.address)
      peer.send("GET /api/health HTTP/1.1\r\nHost: x\r\nX-A: ")
      return peer
    }
    #expect(try await api.ask("GET", "/api/health").status == 200)
    let first = silent[0]
    #expect(await BlockingPool.shared.run { first.ends() })
    withExtendedLifetime(silent) {}
  }
}
