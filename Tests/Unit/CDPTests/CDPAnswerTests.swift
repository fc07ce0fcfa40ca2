// The rewriting of Chrome's discovery answers, against answers that real browsers gave (Tests/Golden/CDP).
// BERTH_UPDATE_GOLDEN=1 writes the expected files anew; read the difference before committing it.
import CDP
import Foundation
import JSON
import Testing

@Suite("CDP answers")
struct CDPAnswerTests {
  static let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appending(path: "../../Golden/CDP")
  static let plain = PublicOrigin(secure: false, authority: "127.0.0.1:8080", prefix: "/session/s-1", browserPrefix: "")
  static let secure = PublicOrigin(
    secure: true, authority: "browsers.example.org", prefix: "/team/session/s-1", token: "a&b c")

  static func golden(_ name: String) throws -> [UInt8] {
    Array(try Data(contentsOf: folder.appending(path: name)))
  }

  @Test("real answers", arguments: ["chromium-headless-shell", "chromium"], ["version", "list", "new"])
  func real(browser: String, kind: String) throws {
    let name = "\(browser)-156-\(kind)"
    let body = try Self.golden(name + ".json")
    let action: CDPEndpoint.Action = kind == "version" ? .version : kind == "list" ? .list : .new
    for (origin, form) in [(Self.plain, "plain"), (Self.secure, "secure")] {
      let answer = try CDPAnswer(rewriting: body, of: action, for: origin)
      let file = "\(name).\(form).expected"
      if ProcessInfo.processInfo.environment["BERTH_UPDATE_GOLDEN"] == "1" {
        try Data(answer.bytes).write(to: Self.folder.appending(path: file))
      }
      #expect(try String(decoding: answer.bytes, as: UTF8.self) == String(decoding: Self.golden(file), as: UTF8.self))
      // Nothing but the addresses differs, whatever the expected files say.
      let old = try JSON(parsing: body)
      let new = try JSON(parsing: answer.bytes)
      let pairs = zip(old.array ?? [old], new.array ?? [new])
      #expect((old.array?.count ?? 1) == (new.array?.count ?? 1))
      for (old, new) in pairs {
        let (before, after) = try (#require(old.object), #require(new.object))
        #expect(before.fields.map(\.name) == after.fields.map(\.name))
        for field in before.fields where !["webSocketDebuggerUrl", "devtoolsFrontendUrl"].contains(field.name) {
          #expect(after[field.name] == field.value)
        }
      }
      #expect(!String(decoding: answer.bytes, as: UTF8.self).contains("127.0.0.1:3922"))
      #expect(answer.targets == (old.array ?? [old]).compactMap { $0["id"]?.string })
    }
  }

  private func rewritten(_ field: String, _ url: String, _ origin: PublicOrigin, of action: CDPEndpoint.Action = .new)
    throws -> String?
  {
    var object: JSONObject = ["id": "T"]
    if action == .version { object["webSocketDebuggerUrl"] = .string(url) }
    object[field] = .string(url)
    let answer = try CDPAnswer(rewriting: JSON.object(object).bytes, of: action, for: origin)
    return try JSON(parsing: answer.bytes)[field]?.string
  }

  @Test("debugger addresses carry origin, prefix and token")
  func debuggers() throws {
    let page = "ws://localhost:9222/devtools/page/T"
    let browser = "ws://localhost:9222/devtools/browser/G"
    #expect(
      try rewritten("webSocketDebuggerUrl", page, Self.plain) == "ws://127.0.0.1:8080/session/s-1/devtools/page/T")
    #expect(
      try rewritten("webSocketDebuggerUrl", browser, Self.plain, of: .version)
        == "ws://127.0.0.1:8080/devtools/browser/G")
    #expect(
      try rewritten("webSocketDebuggerUrl", page, Self.secure)
        == "wss://browsers.example.org/team/session/s-1/devtools/page/T?token=a%26b%20c")
    #expect(
      try rewritten("webSocketDebuggerUrl", browser + "?x=1", Self.secure, of: .version)
        == "wss://browsers.example.org/team/session/s-1/devtools/browser/G?x=1&token=a%26b%20c")
    #expect(
      try rewritten("webSocketDebuggerUrl", "wss://[::1]:1/devtools/page/T", Self.plain)
        == "ws://127.0.0.1:8080/session/s-1/devtools/page/T")
  }

  @Test("front-end links name the debugger by ws or wss; only Berth's own get the token")
  func frontends() throws {
    let relative = "/devtools/inspector.html?ws=localhost:9222/devtools/page/T"
    #expect(
      try rewritten("devtoolsFrontendUrl", relative, Self.plain)
        == "/session/s-1/devtools/inspector.html?ws=127.0.0.1:8080/session/s-1/devtools/page/T")
    #expect(
      try rewritten("devtoolsFrontendUrl", relative + "&panel=x", Self.secure)
        == "/team/session/s-1/devtools/inspector.html?wss=browsers.example.org/team/session/s-1/devtools/page/T%3Ftoken%3Da%2526b%2520c&panel=x&token=a%26b%20c"
    )
    let absolute =
      "https://chrome-devtools-frontend.appspot.com/serve_rev/@1/inspector.html?a=b&ws=localhost:9222/devtools/page/T"
    #expect(
      try rewritten("devtoolsFrontendUrl", absolute, Self.secure)
        == "https://chrome-devtools-frontend.appspot.com/serve_rev/@1/inspector.html?a=b&wss=browsers.example.org/team/session/s-1/devtools/page/T"
    )
    #expect(try rewritten("devtoolsFrontendUrl", "/devtools/x.html", Self.plain) == "/session/s-1/devtools/x.html")
    #expect(try rewritten("devtoolsFrontendUrl", "", Self.plain) == "")
  }

  @Test(
    "an answer that Chrome would not give is refused",
    arguments: [
      (
        CDPEndpoint.Action.version, "",
        "the browser's answer is not JSON: line 1, column 1: unexpected end, a value was expected"
      ),
      (.version, "[]", "the browser's answer is no object"),
      (.version, "{}", "the browser's answer has no webSocketDebuggerUrl"),
      (
        .version, #"{"webSocketDebuggerUrl":1}"#,
        "the browser's answer has a webSocketDebuggerUrl that is no debugger's address"
      ),
      (
        .version, #"{"webSocketDebuggerUrl":"http://x/devtools/browser/a"}"#,
        "the browser's answer has a webSocketDebuggerUrl that is no debugger's address"
      ),
      (
        .version, #"{"webSocketDebuggerUrl":"ws://x/json"}"#,
        "the browser's answer has a webSocketDebuggerUrl that is no debugger's address"
      ),
      (
        .version, #"{"webSocketDebuggerUrl":"ws://x"}"#,
        "the browser's answer has a webSocketDebuggerUrl that is no debugger's address"
      ),
      (.list, "{}", "the browser's answer is no array"),
      (.list, "[1]", "the browser's answer has an entry that is no object"),
      (.list, "[{}]", "the browser's answer has an entry without id"),
      (.new, "null", "the browser's answer is no object"),
      (.new, "{}", "the browser's answer has no id"),
      (
        .new, #"{"id":"a","devtoolsFrontendUrl":2}"#, "the browser's answer has a devtoolsFrontendUrl that is no string"
      ),
      (
        .new, #"{"id":"a","devtoolsFrontendUrl":"/x?ws=host"}"#,
        "the browser's answer has a devtoolsFrontendUrl without a debugger's address"
      ),
    ])
  func refused(action: CDPEndpoint.Action, body: String, reason: String) {
    #expect { try CDPAnswer(rewriting: Array(body.utf8), of: action, for: Self.plain) } throws: { "\($0)" == reason }
  }

  @Test("a list may be empty, and its entries need no debugger")
  func sparse() throws {
    #expect(
      try CDPAnswer(rewriting: Array(" [ ]\n".utf8), of: .list, for: Self.plain)
        == CDPAnswer(rewriting: Array("[]".utf8), of: .list, for: Self.secure))
    let answer = try CDPAnswer(
      rewriting: Array(#"[{"id":"a","n":1.50,"x":{"z":1,"a":[]}}]"#.utf8), of: .list, for: Self.plain)
    #expect(String(decoding: answer.bytes, as: UTF8.self) == #"[{"id":"a","n":1.50,"x":{"z":1,"a":[]}}]"#)
    #expect(answer.targets == ["a"])
  }
}
