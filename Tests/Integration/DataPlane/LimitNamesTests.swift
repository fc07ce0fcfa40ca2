// The limits that an operator may change: their names, variables, units and bounds, and that the documents know them all.
import Engine
import Foundation
import HTTPWire
import Testing

@Suite("Limits by name")
struct LimitNamesTests {
  private func limits(_ flags: [String], _ environment: [String: String] = [:]) throws -> EngineLimits {
    var limits = EngineLimits()
    try limits.set(flags: flags) { environment[$0] }
    return limits
  }

  private func complaint(_ flags: [String], _ environment: [String: String] = [:]) -> String {
    do {
      _ = try limits(flags, environment)
      return "accepted"
    } catch { return "\(error)" }
  }

  @Test("units are taken, flags win over variables, later flags over earlier ones")
  func values() throws {
    let set = try limits(
      ["head-timeout=1500ms", "tunnel-timeout=2d", "head-timeout=3s", "head-bytes=128k", "connections=5", "backlog=7"],
      [
        "BERTH_HEAD_TIMEOUT": "9s", "BERTH_BODY_TIMEOUT": "2m", "BERTH_CONNECT_TIMEOUT": "1h",
        "BERTH_LINE_BYTES": "300",
      ])
    #expect(set.headMilliseconds == 3_000)
    #expect(set.tunnelIdleMilliseconds == 2 * 86_400_000)
    #expect(set.bodyMilliseconds == 120_000)
    #expect(set.connectMilliseconds == 3_600_000)
    #expect(set.http.headBytes == 131_072)
    #expect(set.http.lineBytes == 300)
    #expect(set.clientConnections == 5)
    #expect(set.listenBacklog == 7)
    #expect(set.keepAliveMilliseconds == EngineLimits().keepAliveMilliseconds)
  }

  @Test("what makes no sense is named with where it stands")
  func complaints() {
    #expect(complaint(["head-timeout"]) == "--limit is \"head-timeout\"; it must be NAME=VALUE, e.g. head-timeout=10s.")
    #expect(
      complaint(["nonsense=1"]).hasPrefix("--limit nonsense: there is no limit \"nonsense\"; there are handshake-"))
    for text in ["10", "s", "", "10 s", "-1s", "1.5s", "10S", "१s", "99999999999999999999s"] {
      #expect(
        complaint(["head-timeout=\(text)"])
          == "--limit head-timeout is \"\(text)\"; it must be a number with ms, s, m, h or d behind it, e.g. 10s.")
    }
    #expect(complaint(["head-timeout=9ms"]) == "--limit head-timeout is 9ms; it must be from 10ms to 1h.")
    #expect(
      complaint([], ["BERTH_HEAD_TIMEOUT": "9223372036854775807d"])
        == "BERTH_HEAD_TIMEOUT is 9223372036854775807d; it must be from 10ms to 1h.")
    #expect(
      complaint([], ["BERTH_CONNECTIONS": "many"])
        == "BERTH_CONNECTIONS is \"many\"; it must be a whole number, e.g. 100000.")
    #expect(
      complaint(["line-bytes=32k", "head-bytes=16k"])
        == "line-bytes is 32768 and head-bytes only 16384: a line is a part of a head.")
  }

  @Test("every limit can be set to both ends of its range and to its default, by flag and by variable")
  func all() throws {
    #expect(Set(EngineLimits.names.map(\.name)).count == EngineLimits.names.count)
    for limit in EngineLimits.names {
      for value in [limit.text(limit.range.lowerBound), limit.text(limit.range.upperBound), limit.defaultText] {
        // A line longer than heads may be is refused, which is not what this is about.
        let room = limit.name == "line-bytes" ? ["head-bytes=1m"] : limit.name == "head-bytes" ? ["line-bytes=256"] : []
        #expect(complaint(room + ["\(limit.name)=\(value)"]) == "accepted", "\(limit.name)=\(value)")
        #expect(complaint(room, [limit.variable: value]) == "accepted", "\(limit.variable)=\(value)")
      }
    }
  }

  @Test("the operator's guide has every limit with its default")
  func documented() throws {
    let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
      .deletingLastPathComponent().deletingLastPathComponent()
    let guide = try String(contentsOf: root.appending(path: "docs/operations.md"), encoding: .utf8)
    for limit in EngineLimits.names {
      #expect(guide.contains("| `\(limit.name)` | `\(limit.variable)` | \(limit.defaultText) |"), "\(limit.name)")
    }
  }
}
