// Routes of the configuration file: every field by name, every refusal with its line, and the container balancer's list.
import Domain
import Routing
import Settings
import Testing

private func load(_ yaml: String) throws(SettingsError) -> ControlSettings {
  try ControlSettings.load(file: ConfigText(name: "berth.yaml", text: yaml), environment: [:], flags: [:])
}

private func complaint(_ yaml: String) -> String {
  do {
    _ = try load(yaml)
    return "no complaint"
  } catch { return error.description }
}

@Suite struct RouteSettingsTests {
  @Test func everyFieldOfARouteIsRead() throws {
    let settings = try load(
      """
      routes:
        r:
          host: "*.Example.com"
          path: /users/*/photo
          pool: chrome
          strategy: cookie_hash
          stripPrefix: yes
          replacePrefix: /v2
          hashOn: tenant
          stickyCookie: berth
          jobAffinity: on
          upgrades: false
          accessLog: no
          retries: 0
          retryBudgetPercent: 5
          connectTimeoutMilliseconds: 1
          firstByteTimeoutMilliseconds: 2
          bodyTimeoutMilliseconds: 3
          tunnelIdleMilliseconds: 4
          queueTimeoutMilliseconds: 0
          requestsPerSecond: 6
          burst: 7
          connectionsPerClient: 8
          bodyBytes: 9
          requestHeaders:
            add: {X-A: 1, X-B: "two words"}
            remove: [Cookie]
          responseHeaders:
            add:
              Set-Cookie: [a=1, b=2]
      """)
    var route = RouteRecord(
      id: "r", host: "*.example.com", path: "/users/*/photo", pool: "chrome", strategy: .cookieHash, stripPrefix: true)
    route.replacePrefix = "/v2"
    route.hashOn = "tenant"
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
    route.requestHeaders = HeaderRules(
      add: [.init(name: "X-A", value: "1"), .init(name: "X-B", value: "two words")], remove: ["Cookie"])
    route.responseHeaders = HeaderRules(
      add: [.init(name: "Set-Cookie", value: "a=1"), .init(name: "Set-Cookie", value: "b=2")])
    #expect(settings.routes == [route])
    // Redis gives back what the file said.
    #expect(try RouteRecord(id: "r", json: route.json) == route)
  }

  @Test(arguments: [
    ("retries: many", "5: routes.r.retries: must be a whole number from 0 to 10, not \"many\""),
    ("upgrades: 2", "5: routes.r.upgrades: must be true or false, not \"2\""),
    (
      "strategy: fastest",
      "5: routes.r.strategy: must be one of round_robin, global_round_robin, least_connections, p2c, random, ip_hash, header_hash, cookie_hash, response_time, resources, not \"fastest\""
    ),
    (
      "strategy: header_hash",
      "4: routes.r.hashOn: must name the header or cookie that strategy header_hash goes by"
    ),
    ("path: /a*", "5: routes.r.path: may have a * only as a whole segment, e.g. /users/*/photo or /api/*"),
    ("host: a:80", "5: routes.r.host: must be a host name without a port, not \"a:80\""),
    ("host: '*'", "5: routes.r.host: must be left out to mean every host, not \"*\""),
    (
      "requestHeaders:\n      remove:\n        - Host",
      "7: routes.r.requestHeaders.remove: must not name Host, which Berth itself writes for every message"
    ),
    ("requestHeaders: x", "5: routes.r.requestHeaders: must be an object, not \"x\""),
    (
      "requestHeaders: {adds: {}}",
      "5: routes.r.requestHeaders.adds: there is no such setting; known are add, remove, set"
    ),
    ("retries: [1]", "5: routes.r.retries: must be a whole number from 0 to 10"),
  ]) func wrongFieldsAreNamedWithTheirLine(_ field: String, _ sentence: String) {
    #expect(complaint("\nroutes:\n  r:\n    pool: chrome\n    \(field)\n") == "berth.yaml:" + sentence)
  }

  @Test func wrongBalancingIsNamedWithItsLine() {
    #expect(
      complaint("pools:\n  chrome:\n    proxyProtocol: 3\n")
        == "berth.yaml:3: pools.chrome.proxyProtocol: must be a whole number from 0 to 2, not \"3\"")
    #expect(
      complaint("pools:\n  chrome:\n    ejection:\n      errorPercent: -1\n")
        == "berth.yaml:4: pools.chrome.ejection.errorPercent: must be a whole number from 0 to 100, not \"-1\"")
  }
}

@Suite struct ContainerFormSettingsTests {
  @Test func listedRoutesLeadToDeclaredPools() throws {
    let settings = try load(
      """
      maxSessions: 7
      pools:
        api_servers: {kind: http, command: x}
        chrome:
      routes:
        - path: /api/*
          backend: api_servers
          strategy: least_connections
        - path: /*
          backend: chrome
      """)
    #expect(settings.maxSessions == 7)
    #expect(
      settings.routes == [
        RouteRecord(id: "/api/*", path: "/api/*", pool: "api_servers", strategy: .leastConnections),
        RouteRecord(id: "/*", path: "/*", pool: "chrome"),
      ])
  }

  /// The container balancer's notes, as they stand.
  static let first = """
    routes:
      - path: /api/*
        backend: api_servers
      - path: /static/*
        backend: static_servers

    backends:
      api_servers:
        strategy: least_connections
        servers:
          - url: http://10.0.0.1:8080
          - url: http://10.0.0.2:8080
    """
  static let second = """
    routes:
      - path: /api/*
        docker_image: api-server
        strategy: least_connections
        servers:
        - url: http://aws.something.com
        - url: http://hello.com
        - ...
        
    """

  @Test func whatNeedsAnotherRuntimeIsNamedWithWhatToDo() {
    #expect(
      complaint(Self.first)
        == "berth.yaml:11: backends.api_servers.servers: declare a pool with runtime: static and these servers under pools, and name it as the route's backend; or serve this file with berth-data --routes"
    )
    #expect(
      complaint(Self.second)
        == "berth.yaml:3: routes[0].docker_image: declare a pool with runtime: docker and this image under pools, and name it as the route's backend"
    )
  }

  @Test(arguments: [
    (
      "routes:\n  - path: /\n    backend: web\n",
      "berth.yaml:3: routes[0].backend: must be a declared pool (chrome), not \"web\""
    ),
    ("routes:\n  - backend: chrome\n", "berth.yaml:2: routes[0].path: must be given, e.g. /api/*"),
    ("routes:\n  - path: /\n", "berth.yaml:2: routes[0]: needs a backend, or servers of its own"),
    ("routes: []\n", "berth.yaml:1: routes: must be a list of routes, each with a path and a backend"),
    (
      "routes:\n  - {path: /, backend: chrome}\n  - {path: /a, backend: chrome, retry: 1}\n",
      "berth.yaml:3: routes[1].retry: there is no such setting; known are"
    ),
    ("routes:\n  - {path: /, backend: chrome}\nnonsense: 1\n", "berth.yaml:3: nonsense: there is no such setting"),
  ]) func mistakesAreNamedWithTheirLine(_ text: String, _ beginning: String) {
    #expect(complaint(text).hasPrefix(beginning), "\(complaint(text))")
  }
}
