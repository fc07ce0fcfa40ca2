// Requests of foreign pages that have no Origin (images, frames, links): none of them takes a slot, whatever its path
// is, and routes that are for plain HTTP do not care.
import Engine
import Posix
import ProxyMachine
import Routing
import Synchronization
import TestSupport
import Testing

@Suite struct EngineFetchSiteTests {
  /// Grants a session on one instance, and remembers what it was asked.
  private final class Asked: Coordinator {
    let inboxes: [Mailbox]
    let session: SessionRecord
    let kinds = Mutex<[SlotRequest.Kind]>([])
    init(_ inboxes: [Mailbox], _ session: SessionRecord) {
      self.inboxes = inboxes
      self.session = session
    }
    func submit(_ request: SlotRequest) {
      kinds.withLock { $0.append(request.kind) }
      inboxes[request.worker].deliver(.granted(session), ticket: request.ticket)
    }
    func notify(_ notice: SlotNotice) {}
  }

  private func engine(
    _ instance: SocketAddress, kind: PoolKind = .cdp, origins: [String] = [],
    made origin: SessionRecord.Origin = .connection
  ) throws -> (TestEngine, Asked) {
    let session = SessionRecord(
      id: "s1", pool: "web", origin: origin, instance: "web-0", host: instance.host, port: instance.port,
      browser: "b-1", createdAt: 0, expiresAt: 1_000_000_000_000)
    var route = RouteRecord(id: "all", pool: "web")
    route.origins = origins
    let asked = Mutex<Asked?>(nil)
    let engine = try TestEngine(
      instances: [instance], pool: PoolRecord(name: "web", kind: kind, slots: 1), routes: [route],
      coordinator: { inboxes in
        let coordinator = Asked(inboxes, session)
        asked.withLock { $0 = coordinator }
        return coordinator
      })
    return (engine, try #require(asked.withLock { $0 }))
  }

  private func browser() -> AnsweringInstance {
    AnsweringInstance(saying: #"{"webSocketDebuggerUrl":"ws://127.0.0.1/devtools/browser/b-1"}"#)
  }

  private func status(_ engine: TestEngine, _ line: String, _ fields: String) -> String? {
    let client = engine.connect()
    client.send("\(line) HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\(fields)\r\n")
    return client.response()?.head.split(separator: " ").dropFirst().first.map(String.init)
  }

  @Test(arguments: [
    ("", "200"), ("Sec-Fetch-Site: none\r\n", "200"), ("Sec-Fetch-Site: same-origin\r\n", "200"),
    ("Sec-Fetch-Site: cross-site\r\n", "403"), ("Sec-Fetch-Site: same-site\r\n", "403"),
    // A page that names itself is judged by that.
    ("Sec-Fetch-Site: same-site\r\nOrigin: http://127.0.0.1:8080\r\n", "200"),
    ("Sec-Fetch-Site: cross-site\r\nReferer: https://app.example.com/x\r\n", "403"),
  ])
  func imagesOfStrangersTakeNoSlot(_ fields: String, _ wanted: String) throws {
    let instance = browser()
    let (engine, asked) = try engine(instance.address)
    #expect(status(engine, "GET /json/version", fields) == wanted)
    #expect(engine.value(.originsRefused) == (wanted == "403" ? 1 : 0))
    #expect(asked.kinds.withLock { $0.count } == (wanted == "403" ? 0 : 1))
    #expect(instance.requests == (wanted == "403" ? 0 : 1))
  }

  /// What a route lists goes on: a link of that page, or of any page.
  @Test(arguments: [
    (["https://app.example.com"], "https://APP.example.com/dashboard", "200"),
    (["https://app.example.com"], "https://app.example.com.evil.example/", "403"),
    (["https://app.example.com"], "", "403"), (["*"], "https://evil.example/", "200"), (["*"], "", "200"),
  ])
  func listedOriginsGoOn(_ origins: [String], _ referer: String, _ wanted: String) throws {
    let instance = browser()
    let (engine, _) = try engine(instance.address, origins: origins)
    let fields = "Sec-Fetch-Site: cross-site\r\n" + (referer.isEmpty ? "" : "Referer: \(referer)\r\n")
    #expect(status(engine, "GET /json/version", fields) == wanted)
  }

  /// Whoever was given the id of a session that was made over REST may link to it; one that discovery has told is not
  /// enough.
  @Test(arguments: [(SessionRecord.Origin.connection, "403"), (.rest, "200")])
  func linksToSessionsOpenThoseOfREST(_ origin: SessionRecord.Origin, _ wanted: String) throws {
    let instance = browser()
    let (engine, _) = try engine(instance.address, made: origin)
    #expect(status(engine, "GET /session/s1/json/version", "Sec-Fetch-Site: cross-site\r\n") == wanted)
  }

  @Test func desktopsAreNoDifferent() throws {
    let instance = AnsweringInstance(saying: "desktop")
    let (engine, asked) = try engine(instance.address, kind: .vnc)
    #expect(status(engine, "GET /vnc.html", "Sec-Fetch-Site: cross-site\r\n") == "403")
    #expect(asked.kinds.withLock { $0.isEmpty })
    #expect(status(engine, "GET /vnc.html", "Sec-Fetch-Site: none\r\n") == "200")
    // A link that somebody follows.
    #expect(status(engine, "GET /vnc.html", "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Dest: document\r\n") == "200")
  }

  /// Plain HTTP is for whom the service itself says.
  @Test func plainRoutesDoNotCare() throws {
    let instance = AnsweringInstance(saying: "page")
    let engine = try TestEngine(instances: [instance.address])
    #expect(status(engine, "GET /", "Sec-Fetch-Site: cross-site\r\n") == "200")
    #expect(engine.value(.originsRefused) == 0)
  }
}
