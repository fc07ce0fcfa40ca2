// The access log and the labelled counters of a running engine: one line a request, however it ended.
import Engine
import Glibc
import JSON
import Posix
import ProxyMachine
import Routing
import TestSupport
import Testing

@Suite struct EngineAccessLogTests {
  private let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

  /// Runs requests against an engine with a log and returns the log's lines.
  private func lines(
    instances: [SocketAddress], routes: [RouteRecord] = [RouteRecord(id: "all", pool: "web")],
    _ body: (TestEngine) throws -> Void
  ) throws -> [JSON] {
    let folder = try TLSFolder()
    let path = folder.path + "/access.log"
    let engine = try TestEngine(instances: instances, routes: routes, accessLog: path)
    try body(engine)
    engine.drain(milliseconds: 1_000)
    #expect(engine.access?.close(timeoutMilliseconds: 10_000) == true)
    let file = unsafe open(path, O_RDONLY)
    #expect(file >= 0)
    defer { close(file) }
    var bytes = [UInt8](repeating: 0, count: 1 << 20)
    let count = max(0, unsafe read(file, &bytes, bytes.count))
    // Nothing may be left under way in the counters once everything has ended.
    for row in engine.engine.labels.rows(.route) { #expect(row[RouteCounter.activeNow] == 0) }
    for row in engine.engine.labels.rows(.instance) { #expect(row[InstanceCounter.activeNow] == 0) }
    return try bytes[..<count].split(separator: UInt8(ascii: "\n")).map { try JSON(parsing: Array($0)) }
  }

  @Test func aRequestsLineTellsItsWay() throws {
    let instance = ScriptedInstance()
    let logged = try lines(instances: [instance.address]) { engine in
      let client = engine.connect()
      client.send("POST /p?token=secret&a=1 HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\nabc")
      let upstream = try #require(instance.accept())
      let head = try #require(upstream.receive(upTo: "\r\n\r\n"))
      _ = upstream.receive(count: 3)
      upstream.send(ok)
      #expect(client.response()?.body == "ok")
      client.send("GET /q HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
      _ = upstream.receive(upTo: "\r\n\r\n")
      upstream.send(ok)
      #expect(client.response()?.body == "ok")
      #expect(head.contains("token=secret"))
    }
    try #require(logged.count == 2)
    let first = try #require(logged[0].object)
    #expect(first["method"]?.string == "POST")
    #expect(first["path"]?.string == "/p?token=***&a=1")
    #expect(first["host"]?.string == "a.test")
    #expect(first["status"]?.int == 200)
    #expect(first["route"]?.string == "all")
    #expect(first["instance"]?.string == "web-0")
    #expect(first["reason"] == nil)
    #expect(first["id"]?.string?.count == 32)
    #expect(first["connect_us"]?.int != nil)
    #expect((first["bytes_in"]?.int ?? 0) > 3)
    #expect(logged[1].object?["connect_us"] == nil)
    #expect(logged[1].object?["id"]?.string != first["id"]?.string)
  }

  @Test func theIdInTheLogIsTheOneThatTheInstanceSees() throws {
    let instance = ScriptedInstance()
    var seen = ""
    let logged = try lines(instances: [instance.address]) { engine in
      let client = engine.connect()
      client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
      let upstream = try #require(instance.accept())
      let head = try #require(upstream.receive(upTo: "\r\n\r\n"))
      seen =
        head.split(separator: "\r\n").first { $0.hasPrefix("X-Request-ID: ") }.map { String($0.dropFirst(14)) } ?? ""
      upstream.send(ok)
      _ = client.response()
    }
    #expect(!seen.isEmpty && logged.first?.object?["id"]?.string == seen)
  }

  @Test func failuresAreToldWithTheirReason() throws {
    let refusing = ScriptedInstance().address
    let routes = [RouteRecord(id: "api", path: "/api", pool: "web")]
    let logged = try lines(instances: [refusing], routes: routes) { engine in
      let client = engine.connect()
      client.send("GET /elsewhere HTTP/1.1\r\nHost: a\r\n\r\n")
      #expect(client.response()?.head.hasPrefix("HTTP/1.1 404 ") == true)
      client.send("GET /api HTTP/1.1\r\nHost: a\r\n\r\n")
      #expect(client.response()?.head.hasPrefix("HTTP/1.1 502 ") == true)
      let nonsense = engine.connect()
      nonsense.send("GET  / HTTP/1.1\r\n\r\n")
      #expect(nonsense.response()?.head.hasPrefix("HTTP/1.1 400 ") == true)
      let row = engine.engine.labels.rows(.instance).first { $0.name == "web-0" }
      #expect(row?[InstanceCounter.connectFailures] == 3)
    }
    let reasons = Set(logged.compactMap { $0.object?["reason"]?.string })
    #expect(reasons == ["no_route", "connect_failed", "bad_request"])
    let missing = logged.first { $0.object?["reason"]?.string == "no_route" }
    #expect(missing?.object?["path"]?.string == "/elsewhere")
    let failed = logged.first { $0.object?["reason"]?.string == "connect_failed" }
    #expect(failed?.object?["retries"]?.int == 2)
    #expect(failed?.object?["status"]?.int == 502)
  }

  @Test func aTunnelIsToldAtItsEnd() throws {
    let instance = ScriptedInstance()
    let logged = try lines(instances: [instance.address]) { engine in
      let client = engine.connect()
      client.send(
        "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n")
      let upstream = try #require(instance.accept())
      _ = upstream.receive(upTo: "\r\n\r\n")
      upstream.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
      #expect(client.receive(upTo: "\r\n\r\n")?.hasPrefix("HTTP/1.1 101 ") == true)
      client.send("ping")
      #expect(upstream.receive(count: 4) == Array("ping".utf8))
      client.endOutput()
      #expect(upstream.ends())
      upstream.endOutput()
      #expect(client.ends())
      #expect(eventually { engine.value(CloseReason.tunnelEnded) == 1 })
    }
    #expect(logged.count == 1)
    #expect(logged.first?.object?["tunnel"]?.bool == true)
    #expect(logged.first?.object?["status"]?.int == 101)
    #expect(logged.first?.object?["reason"]?.string == "tunnel_ended")
  }

  @Test func aRouteCanKeepItsRequestsOutOfTheLog() throws {
    let instance = ScriptedInstance()
    var quiet = RouteRecord(id: "quiet", pool: "web")
    quiet.accessLog = false
    let logged = try lines(instances: [instance.address], routes: [quiet]) { engine in
      let client = engine.connect()
      client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
      let upstream = try #require(instance.accept())
      _ = upstream.receive(upTo: "\r\n\r\n")
      upstream.send(ok)
      #expect(client.response()?.body == "ok")
    }
    #expect(logged.isEmpty)
  }
}
