// What is wrong in a routes file is named with file, line and what is expected, in each of its forms.
import RouteFiles
import Testing

@Suite struct RouteFileMistakeTests {
  static let mistakes: [(String, String)] = [
    // Not a file of routes at all.
    ("- a\n", "f:1: must be a mapping with routes, pools or backends"),
    ("[]", "f:1: must be a mapping with routes, pools or backends"),
    ("routes: [a\nb: }\n", "f:2: did not find expected ',' or ']' (column 2)"),
    ("{\n \"pools\": x}", "f:2: unexpected character, a value was expected (column 11)"),
    ("a: 1\na: 2\n", "f:1: a stands here twice"),
    // Records by name.
    (#"{"pols": {}}"#, "f:1: pols: there is no such setting; known are health, instances, keys, pools, routes"),
    (#"{"pools": []}"#, "f:1: pools: must be a mapping of names to values"),
    (
      "{\"pools\":\n {\"web\":\n  {\"slots\": -1}}}",
      "f:3: pools.web.slots: must be a whole number from 0 to 10000, not -1"
    ),
    ("pools:\n  web:\n    slots: x\n", "f:3: pools.web.slots: must be a whole number from 0 to 10000, not \"x\""),
    ("pools: {Web: {}}", "f:1: pools.Web: must be named with 1 to 40 lower-case letters, digits, - or _"),
    (
      #"{"pools": {"web": {}}, "routes": {"all": {"pool": "wob"}}}"#,
      #"f:1: routes.all.pool: must be a pool of this file (web), not "wob""#
    ),
    (
      #"{"pools": {"w": {}}, "instances": {"i": {"pool": "w", "host": "h"}}}"#,
      "f:1: instances.i.port: must be a whole number, it is missing"
    ),
    (
      #"{"pools": {"w": {}}, "instances": {"i": {"pool": "w", "host": "http://h", "port": 1}}}"#,
      #"f:1: instances.i.host: must be a host name or an address, without a scheme and a port, not "http://h""#
    ),
    (
      #"{"instances": {"i": {"pool": "w", "host": "h", "port": 1}}}"#,
      #"f:1: instances.i.pool: must be a pool of this file (), not "w""#
    ),
    (
      "pools: {a: {}}\nhealth: {path: up}\n",
      "f:2: health.path: must be a path that begins with /, without spaces, not \"up\""
    ),
    (
      "routes: [{path: /, servers: [{url: http://999.1.1.1}]}]",
      "f:1: routes[0].servers[0].url: must be a URL like http://10.0.0.1:8080, not \"http://999.1.1.1\""
    ),
    (
      "routes: [{path: /, servers: [{url: \"unix:app.sock\"}]}]",
      "f:1: routes[0].servers[0].url: must be unix: and the whole path of a socket, at most 107 bytes, like unix:/run/app.sock, not \"unix:app.sock\""
    ),
    (
      "pools: {a: {}}\nhealth: {path: /up, expect: 200-99}\n",
      "f:2: health.expect: must be a status like 204, a range like 200-299, or a list of these, not \"200-99\""
    ),
    (
      "pools: {a: {}}\nhealth: {expect: 200}\n",
      "f:2: health.expect: needs a path; without one there is no status"
    ),
    // Routes as a list.
    ("routes: []\n", "f:1: routes: must be a list of routes, each with a path and a backend"),
    (
      "backends: {a: {servers: [{url: http://a}]}}\n",
      "f:1: routes: must be a list of routes, each with a path and a backend"
    ),
    ("routes:\n  - api\n", "f:2: routes[0]: must be a mapping with a path and a backend, not \"api\""),
    (
      "routes:\n  - path: /\n    strategy: best\n    backend: a\n",
      "f:3: routes[0].strategy: must be one of round_robin, global_round_robin, least_connections, p2c, random, ip_hash, header_hash, cookie_hash, response_time, resources, not \"best\""
    ),
    ("routes:\n  - path: api\n    backend: a\n", "f:2: routes[0].path: must start with / and have no query"),
    ("routes:\n  - backend: a\n", "f:2: routes[0].path: must be given, e.g. /api/*"),
    ("routes:\n  - path: /\n", "f:2: routes[0]: needs a backend, or servers of its own"),
    (
      "routes:\n  - path: /\n    backend: a\n    servers: [{url: http://a}]\n",
      "f:3: routes[0].backend: must not stand beside servers or docker_image; keep one of them"
    ),
    (
      "routes:\n  - {path: /, backend: a}\n  - {path: /, backend: b}\n",
      "f:3: routes[1]: is the same as f:2: routes[0]; take one of them out, or give each an id of its own"
    ),
    (
      "routes:\n  - {path: /, backend: a}\nroute: 1\n",
      "f:3: route: there is no such setting; known are backends, health, keys, routes"
    ),
    (
      "routes:\n  - path: /\n    servers: a\n",
      "f:3: routes[0].servers: must be a list like [{url: http://10.0.0.1:8080}], not \"a\""
    ),
    (
      "routes:\n  - path: /\n    servers: [...]\n", "f:3: routes[0].servers: must list at least one server with its url"
    ),
    (
      "routes:\n  - path: /\n    servers: [a]\n",
      "f:3: routes[0].servers[0]: must be a mapping of names to values, not \"a\""
    ),
    (
      "routes:\n  - path: /\n    servers:\n    - uri: http://a\n",
      "f:4: routes[0].servers[0].url: must be a string, it is missing"
    ),
    (
      "routes:\n  - path: /\n    servers:\n    - url: http://a\n      wait: 1\n",
      "f:5: routes[0].servers[0].wait: there is no such setting; known are backup, url, weight"
    ),
    (
      "routes:\n  - path: /\n    servers:\n    - url: http://a\n    - url: http://A:80/\n",
      "f:5: routes[0].servers[1]: stands here twice; use weight instead"
    ),
    (
      "routes:\n  - path: /\n    servers: [{url: http://a, weight: 257}]\n",
      "f:3: routes[0].servers[0].weight: must be a whole number from 0 to 256, not \"257\""
    ),
    (
      "routes:\n  - {path: /, backend: a}\nbackends:\n  a:\n    strategy: cookie_hash\n    servers: [{url: http://a}]\n",
      "f:5: backends.a.hashOn: must name the header or cookie that strategy cookie_hash goes by"
    ),
    (
      "routes:\n  - {path: /, backend: a}\nbackends:\n  a: {strategy: random}\n",
      "f:4: backends.a: needs servers, a list like [{url: http://10.0.0.1:8080}]"
    ),
    (
      "routes:\n  - {path: /, backend: a}\nbackends:\n  A: {}\n",
      "f:4: backends.A: must be named with 1 to 40 lower-case letters, digits, - or _"
    ),
    (
      "routes:\n  - {path: /, backend: a}\nbackends:\n  a: {servers: [{url: http://a}], retries: 1}\n",
      "f:4: backends.a.retries: there is no such setting; known are docker_image, ejection, hashOn, health, maxConnections, panicPercent, proxyProtocol, queueLimit, queueTimeoutMilliseconds, servers, slowStartMilliseconds, strategy"
    ),
    // A list of backends.
    (#"{"backends": []}"#, "f:1: backends: must list at least one host and port"),
    ("{\"backends\": [\n {\"host\": \"a\"}]}", "f:2: backends[0].port: must be a whole number, it is missing"),
    (
      "{\"backends\": [\n {\"host\": \"a\", \"port\": \"3001\"}]}",
      "f:2: backends[0].port: must be a whole number from 1 to 65535, not \"3001\""
    ),
    (
      "{\"backends\": [\n {\"host\": \"a:1\", \"port\": 1}]}",
      "f:2: backends[0].host: must be a host name or an address, without a scheme and a port, not \"a:1\""
    ),
    (
      "{\"backends\": [{\"host\": \"a\", \"port\": 1},\n {\"host\": \"A\", \"port\": 1}]}",
      "f:2: backends[1]: stands here twice; use weight instead"
    ),
    (
      "{\"backends\": [{\"host\": \"a\", \"port\": 1}],\n\"strategie\": \"random\"}",
      "f:2: strategie: there is no such setting; known are"
    ),
    ("{\"backends\": [\"a\"]}", "f:1: backends[0]: must be a mapping of names to values, not \"a\""),
  ]

  @Test(arguments: mistakes) func theyAreNamedWithTheirPlace(text: String, beginning: String) {
    let error = #expect(throws: RouteFileError.self) { try RouteFile(text, file: "f") }
    let sentence = error?.description ?? ""
    #expect(beginning.hasSuffix("known are") ? sentence.hasPrefix(beginning) : sentence == beginning)
  }

  @Test(arguments: [
    ("10.0.0.1:8080", "must be a URL like http://10.0.0.1:8080"),
    ("http://", "must be a URL like http://10.0.0.1:8080"),
    ("http://a b", "must be a URL like http://10.0.0.1:8080"),
    ("http://a:0", "must be a URL like http://10.0.0.1:8080"),
    ("http://a:80:80", "must be a URL like http://10.0.0.1:8080"),
    ("http://*.a", "must be a URL like http://10.0.0.1:8080"),
    ("ftp://a", "must be a URL like http://10.0.0.1:8080"), ("http://::1", "must be a URL like http://10.0.0.1:8080"),
    (
      "https://a",
      "must be an http:// URL: Berth speaks plain HTTP to its servers and ends TLS towards clients itself"
    ), ("http://a/b", "must be a URL without a path; give the route replacePrefix for one"),
    ("http://u:p@a", "must be a URL without user and password"),
  ]) func wrongURLsAreNamed(url: String, reason: String) {
    #expect {
      try RouteFile("routes: [{path: /, servers: [{url: \"\(url)\"}]}]", file: "f")
    } throws: {
      "\($0)" == "f:1: routes[0].servers[0].url: \(reason)" + (reason.hasPrefix("must be ") ? ", not \"\(url)\"" : "")
    }
  }

  @Test func aliasesCannotBlowAFileUp() {
    // Ten times ten times … of one list: a short text with a billion values.
    var text = "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    for (name, of) in zip("bcdefghi", "abcdefgh") {
      text += "\(name): &\(name) [" + Array(repeating: "*\(of)", count: 10).joined(separator: ", ") + "]\n"
    }
    #expect { try RouteFile(text, file: "f") } throws: { "\($0)" == "f: more than 1000000 values" }
  }

  /// A full disk, or a template that came out empty, must not take every route away.
  @Test(arguments: ["", "# nothing\n", "{}", "~", "routes:\n"]) func emptiedFilesAreRefused(_ text: String) throws {
    #expect {
      try RouteFile(text, file: "f")
    } throws: {
      "\($0)".contains("has no routes; if nothing is to be served, say so by: routes: []")
    }
    #expect(try RouteFile("routes: {}\n", file: "f").routes.isEmpty)
  }
}
