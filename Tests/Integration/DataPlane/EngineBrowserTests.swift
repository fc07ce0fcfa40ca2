// Browser.close from clients, through a real engine and a scripted browser.
import Engine
import Posix
import ProxyMachine
import Routing
import Synchronization
import TestSupport
import Testing

@Suite struct EngineBrowserTests {
  private func frame(_ text: String) -> [UInt8] {
    let payload = Array(text.utf8)
    let mask: [UInt8] = [1, 2, 3, 4]
    precondition(payload.count < 126, "short frames")
    return [0x81, 0x80 | UInt8(payload.count)] + mask + payload.enumerated().map { $1 ^ mask[$0 % 4] }
  }

  private let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n"
  private let accepted = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
  private let list = #"{"id":1,"method":"Target.getTargets"}"#
  private let close = #"{"id":2,"method":"Browser.close"}"#

  @Test func anExclusiveBrowserSurvivesAndItsSessionEnds() throws {
    let instance = ScriptedInstance()
    let session = SessionRecord(
      id: "s1", pool: "web", origin: .connection, instance: "web-0", host: instance.address.host,
      port: instance.address.port, browser: "b-1", createdAt: 0, expiresAt: 1_000_000_000_000)
    let coordinator = Mutex<Granting?>(nil)
    let engine = try TestEngine(
      instances: [instance.address], pool: PoolRecord(name: "web", kind: .cdp, slots: 1),
      coordinator: { inboxes in
        let granting = Granting(inboxes, session)
        coordinator.withLock { $0 = granting }
        return granting
      })
    let client = engine.connect()
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\(upgrade)Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n")
    let upstream = try #require(instance.accept())
    let head = try #require(upstream.receive(upTo: "\r\n\r\n"))
    // Compressed frames could not be followed.
    #expect(!head.lowercased().contains("sec-websocket-extensions"))
    upstream.send(accepted)
    #expect(client.receive(upTo: "\r\n\r\n")?.hasPrefix("HTTP/1.1 101 ") == true)
    let first = frame(list)
    client.send(first + frame(close) + frame(list))
    #expect(upstream.receive(count: first.count) == first)
    #expect(upstream.ends())
    let answer = #"{"id":2,"result":{}}"#
    let expected: [UInt8] = [0x81, UInt8(answer.utf8.count)] + Array(answer.utf8)
    #expect(client.receive(count: expected.count) == expected)
    #expect(client.receive(count: 4) == [0x88, 2, 0x03, 0xE8])
    #expect(client.receive() == [])
    client.endOutput()
    #expect(eventually { engine.value(CloseReason.browserClosed) == 1 })
    #expect(engine.value(Counter.browserCloses) == 1)
    let notices = { coordinator.withLock { $0 }?.notices.withLock { $0 } ?? [] }
    #expect(eventually { notices().contains(.end(session: "s1")) })
  }

  @Test func aSharedBrowsersOtherClientsAreNotDisturbed() throws {
    let instance = ScriptedInstance()
    var record = InstanceRecord(
      id: "web-0", pool: "web", host: instance.address.host, port: instance.address.port, slots: 0)
    record.browser = "b-1"
    let engine = try TestEngine(
      instances: [], pool: PoolRecord(name: "web", kind: .cdp, slots: 0), records: [record])
    func tunnel(_ path: String) throws -> (Peer, Peer) {
      let client = engine.connect()
      client.send("GET \(path) HTTP/1.1\r\nHost: a\r\n\(upgrade)\r\n")
      let upstream = try #require(instance.accept())
      #expect(upstream.receive(upTo: "\r\n\r\n") != nil)
      upstream.send(accepted)
      #expect(client.receive(upTo: "\r\n\r\n")?.hasPrefix("HTTP/1.1 101 ") == true)
      return (client, upstream)
    }
    let (other, otherUpstream) = try tunnel("/devtools/browser/b-1")
    let (client, upstream) = try tunnel("/devtools/browser/b-1")
    // In pieces of one byte, as the frame must be seen whole.
    for byte in frame(close) { client.send([byte]) }
    #expect(client.receive(count: 2)?.first == 0x81)
    #expect(upstream.ends())
    // A tab is closed as such.
    let (page, pageUpstream) = try tunnel("/instance/web-0/devtools/page/T1")
    page.send(frame(close))
    let pageClose = #"{"id":2,"method":"Page.close"}"#
    #expect(
      pageUpstream.receive(count: 6 + pageClose.utf8.count)
        == [0x81, 0x80 | UInt8(pageClose.utf8.count), 0, 0, 0, 0] + Array(pageClose.utf8))
    page.send(frame(list))
    #expect(pageUpstream.receive(count: frame(list).count) == frame(list))
    other.send(frame(list))
    #expect(otherUpstream.receive(count: frame(list).count) == frame(list))
    #expect(engine.value(Counter.browserCloses) == 2)
  }
}
