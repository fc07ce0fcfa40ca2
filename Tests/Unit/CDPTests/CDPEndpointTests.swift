// Which endpoint a path means, and which path Chrome then sees.
import CDP
import Testing

@Suite("CDP endpoints")
struct CDPEndpointTests {
  typealias Action = CDPEndpoint.Action

  @Test(
    "plain requests",
    arguments: [
      ("/json/version", Action.version), ("/json/version/", .version), ("/json", .list), ("/json/", .list),
      ("/json/list", .list), ("/json/list/", .list), ("/json/new", .new), ("/json/protocol", .protocolDescription),
      ("/json/activate/A.b_c-1", .activate(target: "A.b_c-1")), ("/json/close/AB/", .close(target: "AB")),
      ("/json/close", .other), ("/json/close/a/b", .other), ("/json/version/x", .other), ("/json/versions", .other),
      ("/jsonp", .other), ("//json/version", .other), ("/json//version", .other), ("/json/version//", .other),
      ("/devtools/inspector.html", .frontend), ("/devtools/a/b.js", .frontend), ("/devtools", .frontend),
      ("/devtools/browser/x", .upgradeRequired), ("/devtools/page/x", .upgradeRequired), ("/", .other), ("", .other),
      ("/chrome", .other), ("/session", .other), ("/session/", .other), ("/JSON/version", .other),
      ("/devtools/../json/version", .invalid("the path is malformed")),
      ("/devtools/%2e%2E/json", .invalid("the path is malformed")), ("/.", .invalid("the path is malformed")),
      ("/devtools/.%2e", .invalid("the path is malformed")), ("/devtools/...", .frontend),
      ("json/version", .invalid("the path is malformed")),
      ("/json/close/a%20b", .invalid("the target id is malformed")),
    ])
  func plain(path: String, action: Action) {
    let endpoint = CDPEndpoint(method: "GET", path: path, isUpgrade: false)
    #expect(endpoint.action == action)
    #expect(endpoint.scope == .root)
  }

  @Test(
    "upgrades",
    arguments: [
      ("/", Action.connect), ("", .connect), ("/chromium", .connect), ("/chrome/", .connect), ("/chrome/x", .other),
      ("/devtools/browser/af52-82c7", .browser("af52-82c7")), ("/devtools/browser/af52-82c7/", .browser("af52-82c7")),
      ("/devtools/page/AB", .page("AB")), ("/devtools/page/", .other), ("/devtools/page/A/B", .other),
      ("/devtools/page/A?B", .invalid("the target id is malformed")), ("/devtools/inspector.html", .other),
      ("/devtools/browser/a%2Fb", .invalid("the browser id is malformed")),
      ("/json/version", .invalid("there is no WebSocket at this path")), ("/ws", .other),
    ])
  func upgrades(path: String, action: Action) {
    #expect(CDPEndpoint(method: "GET", path: path, isUpgrade: true).action == action)
  }

  @Test("a session or an instance before the path is its scope")
  func scopes() {
    func look(_ path: String, upgrade: Bool = false) -> CDPEndpoint {
      CDPEndpoint(method: "GET", path: path, isUpgrade: upgrade)
    }
    var endpoint = look("/session/abc/json/version/")
    #expect(endpoint.scope == .session("abc") && endpoint.action == .version && endpoint.path == "/json/version/")
    endpoint = look("/instance/chrome-1/json")
    #expect(endpoint.scope == .instance("chrome-1") && endpoint.action == .list)
    for path in ["/session/abc", "/session/abc/"] {
      endpoint = look(path, upgrade: true)
      #expect(endpoint.scope == .session("abc") && endpoint.action == .connect && endpoint.path == "/")
      #expect(look(path).action == .other)
    }
    endpoint = look("/session/abc/devtools/page/T", upgrade: true)
    #expect(endpoint.scope == .session("abc") && endpoint.action == .page("T"))
    endpoint = look("/session/abc/vnc.html")
    #expect(endpoint.scope == .session("abc") && endpoint.action == .other && endpoint.path == "/vnc.html")
    // The short cuts of the root are no short cuts below a session.
    #expect(look("/session/abc/chrome", upgrade: true).action == .other)
    #expect(look("/session/abc/session/def").scope == .session("abc"))
  }

  @Test("ids are 1 to 128 of a known alphabet")
  func ids() {
    let longest = String(repeating: "a", count: 128)
    #expect(CDPEndpoint(method: "GET", path: "/session/\(longest)/json", isUpgrade: false).action == .list)
    for id in [longest + "a", "a%20", "a:b", "a~", "a?b"] {
      let endpoint = CDPEndpoint(method: "GET", path: "/session/\(id)/json", isUpgrade: false)
      #expect(endpoint.action == .invalid("the session id is malformed"))
      #expect(endpoint.target(browser: "b", query: nil) == nil)
    }
    #expect(
      CDPEndpoint(method: "GET", path: "/instance/a,b", isUpgrade: true).action
        == .invalid("the instance id is malformed"))
    #expect(
      CDPEndpoint(method: "GET", path: "/session//json", isUpgrade: false).action
        == .invalid("the session id is malformed"))
    for path in ["/session/a b/json", "/session/é/json", "/x\r\ny", "/\u{7F}", "/x\u{0}"] {
      #expect(CDPEndpoint(method: "GET", path: path, isUpgrade: false).action == .invalid("the path is malformed"))
    }
    #expect(
      CDPEndpoint(method: "GET", path: "/session/../json", isUpgrade: false).action == .invalid("the path is malformed")
    )
  }

  @Test("only answers with a body and addresses are rewritten")
  func rewritten() {
    for (method, path, expected) in [
      ("GET", "/json/version", true), ("get", "/json", true), ("PUT", "/json/new", true),
      ("HEAD", "/json/version", false),
      ("head", "/json/version", false), ("HEAD1", "/json/version", true), ("GET", "/json/protocol", false),
      ("GET", "/x", false),
    ] {
      #expect(CDPEndpoint(method: method, path: path, isUpgrade: false).isRewritten == expected, "\(method) \(path)")
    }
  }

  @Test("Chrome sees its own paths, without Berth's token")
  func targets() {
    func target(_ path: String, _ query: String? = nil, upgrade: Bool = false, browser: String? = "guid") -> String? {
      CDPEndpoint(method: "GET", path: path, isUpgrade: upgrade).target(browser: browser, query: query)
    }
    #expect(target("/session/s/json/version/") == "/json/version")
    #expect(target("/json/version", "token=x") == "/json/version")
    #expect(target("/json", "for_tab") == "/json/list?for_tab")
    #expect(target("/json/list", "for_tab&token=x&t=1") == "/json/list?for_tab&t=1")
    #expect(target("/json/list", "") == "/json/list?")
    #expect(target("/json/list", "tokens=1&token") == "/json/list?tokens=1")
    #expect(target("/instance/i/json/close/T") == "/json/close/T")
    #expect(target("/json/activate/T", "token=1") == "/json/activate/T")
    #expect(target("/json/protocol") == "/json/protocol")
    #expect(target("/json/new", "http://a/?x=1&y=2") == "/json/new?http://a/?x=1&y=2")
    #expect(target("/json/new", "http://a/?x=1&y=2&token=t") == "/json/new?http://a/?x=1&y=2")
    #expect(target("/json/new", "token=t&http://a/?token=u&b=1&token=v") == "/json/new?http://a/?token=u&b=1&token=v")
    #expect(target("/json/new", "http://a/?token=u") == "/json/new?http://a/?token=u")
    #expect(target("/json/new", "http://a/?x=1&token=u&y=2") == "/json/new?http://a/?x=1&token=u&y=2")
    #expect(target("/json/new", "token=t") == "/json/new")
    #expect(target("/session/s", "token=x", upgrade: true) == "/devtools/browser/guid")
    #expect(target("/chrome", "launch={}", upgrade: true) == "/devtools/browser/guid")
    #expect(target("/chrome", upgrade: true, browser: nil) == nil)
    #expect(target("/devtools/browser/own", "token=x", upgrade: true) == "/devtools/browser/own")
    #expect(target("/session/s/devtools/page/T", "a=b", upgrade: true) == "/devtools/page/T")
    #expect(target("/session/s/devtools/inspector.html", "ws=h/p&token=x") == "/devtools/inspector.html?ws=h/p")
    #expect(target("/session/s/vnc.html", "path=x") == "/vnc.html?path=x")
    #expect(target("/devtools/page/T") == nil)
  }
}
