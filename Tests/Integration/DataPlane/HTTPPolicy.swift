// What the rows of docs/http.md are made of as tests: an engine, a client and a scripted instance for each, and what is
// to be counted. HTTPPolicyTests runs them and compares their ids with the document's.
import Engine
import Posix
import ProxyMachine
import Routing
import TestSupport
import Testing

/// One row of docs/http.md.
struct PolicyRow: Sendable, CustomTestStringConvertible {
  /// What the row's last cell but one says in the document.
  enum Counted: Sendable, Equatable {
    case nothing
    case close(CloseReason)
    case counter(Counter, String)

    var cell: String {
      switch self {
      case .nothing: "–"
      case .close(let reason): "`\(reason.label)`"
      case .counter(_, let name): "`\(name)`"
      }
    }
  }

  let id: String
  let counted: Counted
  /// A status that the document's row must name.
  var status: Int?
  var setup: @Sendable (inout PolicySetup) -> Void = { _ in }
  let run: @Sendable (PolicyWorld) throws -> Void

  var testDescription: String { id }
}

struct PolicySetup {
  var limits = EngineLimits()
  var route = RouteRecord(id: "all", pool: "web")
  var isTLS = false
  /// The pool's only instance listens but never accepts.
  var instances: [SocketAddress]?
}

/// An engine of its own for each row.
final class PolicyWorld {
  let instance = ScriptedInstance()
  let engine: TestEngine
  private let folder: TLSFolder?
  private let caFile: String

  init(_ setup: PolicySetup) throws {
    folder = setup.isTLS ? try TLSFolder() : nil
    let certificate = try folder?.certificate()
    caFile = certificate?.certificate ?? ""
    engine = try TestEngine(
      instances: setup.instances ?? [instance.address], routes: [setup.route], limits: setup.limits,
      certificate: certificate)
  }

  func connect() throws -> Peer { folder == nil ? engine.connect() : try engine.connectTLS(caFile: caFile) }

  /// A client that has sent this.
  func client(_ text: String) throws -> Peer {
    let client = try connect()
    client.send(text)
    return client
  }

  /// The engine's next connection to the instance and the head that comes on it.
  func upstream() throws -> (peer: Peer, head: String) {
    let peer = try #require(instance.accept(), "the engine connects to the instance")
    return (peer, try #require(peer.receive(upTo: "\r\n\r\n"), "the instance sees a request"))
  }

  /// Sends a request that is to pass and returns client, instance and the head that the instance saw.
  func passed(_ text: String) throws -> (client: Peer, upstream: Peer, head: String) {
    let client = try client(text)
    let (peer, head) = try upstream()
    return (client, peer, head)
  }

  /// A tunnel: client and instance after the 101.
  func tunnel() throws -> (client: Peer, upstream: Peer) {
    let (client, upstream, _) = try passed(HTTPText.webSocket)
    upstream.send(HTTPText.switching)
    #expect(client.receive(upTo: "\r\n\r\n")?.hasPrefix("HTTP/1.1 101 ") == true)
    return (client, upstream)
  }

  /// Whether the engine has made no connection to the instance.
  var nothingWasForwarded: Bool { engine.value(.instanceConnections) == 0 }
}

enum HTTPText {
  static let get = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"
  static let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
  static let webSocket =
    "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n"
  static let switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
  static let chunked = "Transfer-Encoding: chunked\r\n\r\n"
  static func post(_ fields: String) -> String { "POST / HTTP/1.1\r\nHost: a.test\r\n\(fields)" }
}

extension PolicyRow {
  /// Requests that are answered here with a status, and end their connection without reaching an instance.
  static func refused(
    _ id: String, _ status: Int, _ requests: String..., counted: CloseReason = .badRequest,
    setup: @escaping @Sendable (inout PolicySetup) -> Void = { _ in }
  ) -> PolicyRow {
    PolicyRow(id: id, counted: .close(counted), status: status, setup: setup) { world in
      for request in requests {
        // Behind the refused request another one, which must not be seen as a request of its own.
        let client = try world.client(request + HTTPText.get)
        let answer = try #require(client.receiveAll(), "an answer, and then a clean end")
        #expect(answer.hasPrefix("HTTP/1.1 \(status) "), "\(request)")
        #expect(answer.contains("\r\nConnection: close\r\n") && answer.contains("{\"error\":"), "\(answer)")
        #expect(answer.components("Content-Length: ") == 1, "one answer only: \(answer)")
      }
      #expect(world.nothingWasForwarded)
    }
  }

  /// Requests whose malformed bodies are answered, after their heads may have gone on.
  static func refusedBody(_ id: String, _ bodies: String...) -> PolicyRow {
    PolicyRow(id: id, counted: .close(.badRequest), status: 400) { world in
      for body in bodies {
        for isSplit in [false, true] {
          let client = try world.client(HTTPText.post(HTTPText.chunked) + (isSplit ? "" : body))
          if isSplit {
            let (upstream, _) = try world.upstream()
            client.send(body)
            let answer = try #require(client.receiveAll())
            #expect(answer.hasPrefix("HTTP/1.1 400 "), "\(body.debugDescription)")
            // The instance must not take what it has for a whole body.
            #expect(upstream.receiveAll()?.hasSuffix("0\r\n\r\n") != true)
          } else {
            #expect(client.receiveAll()?.hasPrefix("HTTP/1.1 400 ") == true, "\(body.debugDescription)")
            let seen = world.instance.accept()?.receiveAll()
            // What does not come in one read may have gone on before the fault is seen.
            #expect(seen == "" || body.utf8.count > 4_096, "the instance sees nothing of it")
          }
        }
      }
    }
  }

  /// A request that passes: the head that the instance sees holds and lacks these texts.
  static func passes(
    _ id: String, _ request: String, sees: [String] = [], lacks: [String] = [], body: String = "",
    setup: @escaping @Sendable (inout PolicySetup) -> Void = { _ in }
  ) -> PolicyRow {
    PolicyRow(id: id, counted: .nothing, setup: setup) { world in
      let (client, upstream, head) = try world.passed(request)
      for text in sees { #expect(head.contains(text), "\(head)") }
      for text in lacks { #expect(!head.lowercased().contains(text.lowercased()), "\(head)") }
      if !body.isEmpty { #expect(upstream.receive(count: body.utf8.count) == Array(body.utf8)) }
      upstream.send(HTTPText.ok)
      #expect(client.response()?.body == "ok")
    }
  }

  /// Answers of an instance that are not believed.
  static func distrusted(_ id: String, _ answers: String..., counted: CloseReason = .badResponse) -> PolicyRow {
    PolicyRow(id: id, counted: .close(counted), status: 502) { world in
      for answer in answers {
        let (client, upstream, _) = try world.passed(HTTPText.get)
        upstream.send(answer)
        let seen = try #require(client.receiveAll())
        #expect(
          seen.hasPrefix("HTTP/1.1 502 ") && seen.components("Content-Length: ") == 1, "\(answer.debugDescription)")
        #expect(upstream.ends())
      }
    }
  }
}

extension String {
  /// How often a text occurs.
  func components(_ text: String) -> Int {
    let bytes = Array(utf8)
    var count = 0
    var rest = bytes[...]
    while let range = Array(rest).firstRange(of: Array(text.utf8)) {
      count += 1
      rest = rest.dropFirst(range.upperBound)
    }
    return count
  }
}
