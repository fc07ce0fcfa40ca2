// Routes: every field survives its JSON, old records stay as they are, every wrong value is refused with a sentence.
import JSON
import Routing
import Testing

@Suite struct RouteRecordTests {
  /// A route in which no field has its default.
  static var full: RouteRecord {
    var route = RouteRecord(
      id: "r", host: "*.example.com", path: "/users/*/photo", pool: "web", strategy: .headerHash, stripPrefix: true)
    route.replacePrefix = "/v2"
    route.hashOn = "X-Tenant"
    route.stickyCookie = "berth"
    route.jobAffinity = true
    route.upgrades = false
    route.accessLog = false
    route.retries = 0
    route.retryBudgetPercent = 5
    route.connectTimeoutMilliseconds = 1
    route.firstByteTimeoutMilliseconds = 2
    route.bodyTimeoutMilliseconds = 3
    route.tunnelIdleMilliseconds = 4
    route.queueTimeoutMilliseconds = 0
    route.requestsPerSecond = 6
    route.burst = 7
    route.connectionsPerClient = 8
    route.bodyBytes = 9
    route.minBodyBytesPerSecond = 0
    route.allow = ["10.0.0.0/8", "::1"]
    route.deny = ["10.0.0.7"]
    route.redirectPort = 8443
    route.requestHeaders = HeaderRules(
      add: [.init(name: "X-A", value: "1"), .init(name: "X-B", value: "2"), .init(name: "X-A", value: "3")],
      remove: ["Cookie"])
    route.responseHeaders = HeaderRules(
      add: [.init(name: "Cache-Control", value: "no-store")], remove: ["Server", "Via"])
    return route
  }

  @Test func everyFieldSurvivesItsJSON() throws {
    let route = Self.full
    let json = try JSON(parsing: route.json.text)
    #expect(try RouteRecord(id: "r", json: json) == route)
    // Each field alone: without it, the record is another one. So the test notices a field that is not written.
    let object = try #require(json.object)
    #expect(object.fields.count == 29)
    for field in object.fields where field.name != "id" {
      var less = object
      less[field.name] = nil
      let rest = try? RouteRecord(id: "r", json: .object(less))
      #expect(rest != route, "\(field.name)")
    }
  }

  @Test func recordsFromBeforeStayAsTheyWere() {
    #expect(
      RouteRecord(id: "r", pool: "web").json.text
        == #"{"id":"r","path":"/","pool":"web","strategy":"round_robin","stripPrefix":false}"#)
  }

  @Test func strategiesHaveTheirNames() throws {
    let names = [
      "round_robin", "global_round_robin", "least_connections", "p2c", "random", "ip_hash", "header_hash",
      "cookie_hash", "response_time", "resources",
    ]
    #expect(Strategy.allCases.map(\.rawValue) == names)
    for name in names {
      var object: JSONObject = ["pool": "web", "strategy": .string(name)]
      if name.hasSuffix("r_hash") || name.hasPrefix("cookie") { object["hashOn"] = "x" }
      #expect(try RouteRecord(id: "r", json: .object(object)).strategy.rawValue == name)
    }
  }

  @Test func headersMayBeGivenByName() throws {
    let json = try JSON(
      parsing: #"{"pool":"web","responseHeaders":{"add":{"X-A":"1","Set-Cookie":["a=1","b=2"]},"remove":["via"]}}"#)
    let rules = try RouteRecord(id: "r", json: json).responseHeaders
    #expect(rules.add.map { "\($0.name): \($0.value)" } == ["X-A: 1", "Set-Cookie: a=1", "Set-Cookie: b=2"])
    #expect(rules.remove == ["via"])
  }

  @Test func settingIsRemovingAndAdding() throws {
    let json = try JSON(
      parsing: #"{"pool":"web","requestHeaders":{"set":{"X-A":"1","Via":"me"},"remove":["x-a"],"add":{"X-B":"2"}}}"#)
    let rules = try RouteRecord(id: "r", json: json).requestHeaders
    #expect(rules.add.map { "\($0.name): \($0.value)" } == ["X-B: 2", "X-A: 1", "Via: me"])
    #expect(rules.remove == ["x-a", "Via"])
  }

  static let refusals: [(String, String)] = [
    (#""path":"api""#, #""path" must start with / and have no query"#),
    (#""path":"/a?b""#, #""path" must start with / and have no query"#),
    (#""path":"/a#b""#, #""path" must start with / and have no query"#),
    (#""path":"/a b""#, #""path" must be visible ASCII as it stands in a request; write other characters as %XX"#),
    (#""path":"/ä""#, #""path" must be visible ASCII as it stands in a request; write other characters as %XX"#),
    (#""path":"/a*""#, #""path" may have a * only as a whole segment, e.g. /users/*/photo or /api/*"#),
    (#""path":"/a/x*y/b""#, #""path" may have a * only as a whole segment, e.g. /users/*/photo or /api/*"#),
    (
      "\"path\":\"/\(String(repeating: "a", count: 2_048))\"", #""path" must not be longer than 2048 bytes"#
    ),
    (#""host":"*""#, #""host" must be left out to mean every host"#),
    (#""host":"""#, #""host" must be a host name like api.example.com, or *.example.com for every name below it"#),
    (#""host":"a..b""#, #""host" must be a host name like api.example.com, or *.example.com for every name below it"#),
    (#""host":"a b""#, #""host" must be a host name like api.example.com, or *.example.com for every name below it"#),
    (#""host":"*.""#, #""host" must be a host name like api.example.com, or *.example.com for every name below it"#),
    (
      "\"host\":\"\(String(repeating: "a", count: 64))\"",
      #""host" must be a host name like api.example.com, or *.example.com for every name below it"#
    ),
    (#""host":"a.*.b""#, #""host" may have a * only as its whole first label, e.g. *.example.com"#),
    (#""host":"*a.b""#, #""host" may have a * only as its whole first label, e.g. *.example.com"#),
    (#""host":"a:80""#, #""host" must be a host name without a port"#),
    (#""host":"a/b""#, #""host" must be a host name alone, without scheme and path"#),
    (#""host":"[::1]:80""#, #""host" must be an IPv6 address in brackets without a port, e.g. [::1]"#),
    (#""host":"[a]""#, #""host" must be an IPv6 address in brackets without a port, e.g. [::1]"#),
    (#""replacePrefix":"v2""#, #""replacePrefix" must start with / and have no query"#),
    (#""replacePrefix":"/*""#, #""replacePrefix" must be a path without *"#),
    (
      #""strategy":"header_hash""#,
      #""hashOn" must name the header or cookie that strategy header_hash goes by"#
    ),
    (
      #""strategy":"cookie_hash","hashOn":"a b""#,
      #""hashOn" must be the name of a header or cookie, without spaces and separators"#
    ),
    (
      #""strategy":"ip_hash","hashOn":"a""#,
      #""hashOn" is only for the strategies header_hash and cookie_hash; choose one of them or leave it out"#
    ),
    (#""stickyCookie":"a=b""#, #""stickyCookie" must be the name of a cookie, without spaces and separators"#),
    (#""stickyCookie":"""#, #""stickyCookie" must be the name of a cookie, without spaces and separators"#),
    (#""burst":5"#, #""burst" needs requestsPerSecond; set that too, or leave it out"#),
    (#""retries":11"#, #""retries" must be a whole number from 0 to 10"#),
    (#""retries":-1"#, #""retries" must be a whole number from 0 to 10"#),
    (#""retryBudgetPercent":101"#, #""retryBudgetPercent" must be a whole number from 0 to 100"#),
    (
      #""connectTimeoutMilliseconds":600001"#,
      #""connectTimeoutMilliseconds" must be a whole number from 0 to 600000"#
    ),
    (
      #""firstByteTimeoutMilliseconds":86400001"#,
      #""firstByteTimeoutMilliseconds" must be a whole number from 0 to 86400000"#
    ),
    (
      #""bodyTimeoutMilliseconds":86400001"#, #""bodyTimeoutMilliseconds" must be a whole number from 0 to 86400000"#
    ),
    (
      #""tunnelIdleMilliseconds":2592000001"#,
      #""tunnelIdleMilliseconds" must be a whole number from 0 to 2592000000"#
    ),
    (#""queueTimeoutMilliseconds":-1"#, #""queueTimeoutMilliseconds" must be a whole number from 0 to 86400000"#),
    (#""requestsPerSecond":1000001"#, #""requestsPerSecond" must be a whole number from 0 to 1000000"#),
    (
      #""requestsPerSecond":1,"burst":1000001"#, #""burst" must be a whole number from 0 to 1000000"#
    ),
    (#""connectionsPerClient":1000001"#, #""connectionsPerClient" must be a whole number from 0 to 1000000"#),
    (#""bodyBytes":-1"#, #""bodyBytes" must be a whole number from 0 to 1125899906842624"#),
    (#""upgrades":"yes""#, #""upgrades" must be true or false"#),
    (#""accessLog":0"#, #""accessLog" must be true or false"#),
    (#""jobAffinity":1"#, #""jobAffinity" must be true or false"#),
    (#""stripPrefix":1"#, #""stripPrefix" must be true or false"#),
    (#""requestHeaders":[]"#, #""requestHeaders" must be an object"#),
    (
      #""requestHeaders":{"sat":{}}"#, #"unknown field "requestHeaders.sat"; known are add, remove, set"#
    ),
    (#""requestHeaders":{"set":{"A":1}}"#, #""requestHeaders.set" must have a string for "A""#),
    (
      #""path":"/a/../b""#,
      #""path" must not have . or .. as a segment: requests with one are refused, so it would never match"#
    ),
    (
      #""replacePrefix":"/%2E.""#,
      #""replacePrefix" must not have . or .. as a segment: requests with one are refused, so it would never match"#
    ),
    (
      #""redirect":"http""#,
      #""redirect" must be https, or https:PORT when clients reach TLS at another port than 443"#
    ),
    (
      #""redirect":"https:0""#,
      #""redirect" must be https, or https:PORT when clients reach TLS at another port than 443"#
    ),
    (
      #""deny":["10.0.0.1/8"]"#,
      #""deny" must be a list of addresses and blocks like 10.0.0.0/8 or fd00::/8 without bits behind the prefix, not "10.0.0.1/8""#
    ),
    (#""minBodyBytesPerSecond":-1"#, #""minBodyBytesPerSecond" must be a whole number from 0 to 1000000000"#),
    (
      #""requestHeaders":{"add":["A"]}"#,
      #""requestHeaders.add" must be a list of pairs, name and value, or an object of values by name"#
    ),
    (
      #""requestHeaders":{"add":"A"}"#,
      #""requestHeaders.add" must be a list of pairs, name and value, or an object of values by name"#
    ),
    (#""requestHeaders":{"add":{"A":1}}"#, #""requestHeaders.add" must have a string for "A""#),
    (
      #""requestHeaders":{"add":{"A":"x\r\nB: y"}}"#,
      #""requestHeaders.add" has a value for "A" that no header can have; take line breaks and spaces at its ends out"#
    ),
    (
      #""requestHeaders":{"add":{"A":" x"}}"#,
      #""requestHeaders.add" has a value for "A" that no header can have; take line breaks and spaces at its ends out"#
    ),
    (
      #""requestHeaders":{"add":{"A B":"x"}}"#,
      #""requestHeaders.add" names "A B", which is no header name; use letters, digits and -"#
    ),
    (
      #""responseHeaders":{"remove":["Transfer-Encoding"]}"#,
      #""responseHeaders.remove" must not name Transfer-Encoding, which Berth itself writes for every message"#
    ),
    (
      #""requestHeaders":{"add":[["content-length","1"]]}"#,
      #""requestHeaders.add" must not name content-length, which Berth itself writes for every message"#
    ),
    (
      "\"requestHeaders\":{\"add\":{\"A\":\"\(String(repeating: "x", count: 4_092))\"}}",
      #""requestHeaders.add" must not take more than 4096 bytes, and takes 4097"#
    ),
    (
      "\"requestHeaders\":{\"remove\":[\((0..<65).map { "\"a\($0)\"" }.joined(separator: ","))]}",
      #""requestHeaders.remove" must not name more than 64 fields, and names 65"#
    ),
    (#""requestHeaders":{"remove":[1]}"#, #""requestHeaders.remove" must be a list of strings"#),
  ]

  @Test(arguments: refusals) func wrongFieldsAreRefusedWithASentence(_ fields: String, _ sentence: String) throws {
    let json = try JSON(parsing: #"{"pool":"web",\#(fields)}"#)
    let error = #expect(throws: RecordError.self) { try RouteRecord(id: "r", json: json) }
    #expect(error?.description == #"route "r": \#(sentence)"#)
    #expect(error.map { sentence.hasSuffix($0.reason) || sentence.hasPrefix("unknown") } == true)
  }

  @Test func everyFramingFieldIsReserved() throws {
    for name in [
      "Connection", "Content-Length", "Expect", "Host", "HTTP2-Settings", "Keep-Alive", "Proxy-Connection", "TE",
      "Trailer", "Transfer-Encoding", "Upgrade",
    ] {
      let json = try JSON(parsing: #"{"pool":"web","requestHeaders":{"remove":["\#(name)"]}}"#)
      #expect(throws: RecordError.self, "\(name)") { try RouteRecord(id: "r", json: json) }
    }
  }

  @Test func goodHostsAndPathsAreTaken() throws {
    for host in ["a", "A.example", "*.example.com", "xn--bcher-kva.example", "10.0.0.1", "[::1]", "[::ffff:1.2.3.4]"] {
      let json: JSON = ["pool": "web", "host": .string(host)]
      #expect(try RouteRecord(id: "r", json: json).host == host.lowercased())
    }
    for path in ["/", "/*", "/api", "/api/", "/api/*", "/users/*/photo", "/*/x/*", "/a%20b", "/a.b~c"] {
      let json: JSON = ["pool": "web", "path": .string(path)]
      #expect(try RouteRecord(id: "r", json: json).path == path)
    }
  }

  @Test func theStrippedPrefixIsTheLiteralPart() {
    for (path, prefix) in [
      ("/", ""), ("/*", ""), ("/api", "/api"), ("/api/", "/api"), ("/api/*", "/api"), ("/users/*/photo", "/users"),
      ("/a/b/*", "/a/b"),
    ] { #expect(PathPattern.prefix(path) == prefix, "\(path)") }
  }
}

@Suite struct RouteOrderTests {
  private func order(_ routes: [RouteRecord]) -> [String] {
    let orders = [routes, routes.reversed(), routes.shuffled()].map {
      RoutingTable(pools: [], routes: $0, instances: []).routes.map(\.id)
    }
    #expect(Set(orders).count == 1)
    return orders[0]
  }

  @Test func hostsComeFromExactToAny() {
    let hosts: [(String, String?)] = [
      ("any", nil), ("wild", "*.test"), ("exact", "a.b.test"), ("longer", "*.b.test"), ("longest", "*.c.b.test"),
    ]
    #expect(
      order(hosts.map { RouteRecord(id: $0.0, host: $0.1, path: $0.1 == nil ? "/long/path" : "/", pool: "p") })
        == ["exact", "longest", "longer", "wild", "any"])
  }

  @Test func pathsComeFromTheMoreSpecific() {
    // By literal prefix, then exact segments, then segments of any content.
    let paths = [
      "/users/me/photo", "/users/me", "/users/*/photo", "/users/*/*", "/users", "/*/photo/x", "/*/photo", "/*",
    ]
    #expect(order(paths.map { RouteRecord(id: $0, path: $0, pool: "p") }) == paths)
  }

  @Test func equalOnesComeById() {
    let routes = ["/api/*", "/api", "/api"].enumerated().map {
      RouteRecord(id: "\(3 - $0.offset)", path: $0.element, pool: "p")
    }
    #expect(order(routes) == ["1", "2", "3"])
    // A closing slash leaves out the name itself, so it is the more specific one.
    #expect(order(["/api", "/api/"].map { RouteRecord(id: $0, path: $0, pool: "p") }) == ["/api/", "/api"])
  }
}
