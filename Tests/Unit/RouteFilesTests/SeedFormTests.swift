// The forms of the seeds as they stand in their documentation, and what they become.
import RouteFiles
import Routing
import Testing

@Suite struct SeedFormTests {
  /// The container balancer's notes, word for word.
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

  @Test func theContainerBalancersRoutesAndBackends() throws {
    let file = try RouteFile(Self.first, file: "routes.yaml")
    #expect(
      file.routes == [
        RouteRecord(id: "/api/*", path: "/api/*", pool: "api_servers", strategy: .leastConnections),
        RouteRecord(id: "/static/*", path: "/static/*", pool: "static_servers"),
      ])
    #expect(file.pools.map(\.name) == ["api_servers", "static_servers"])
    #expect(file.pools.allSatisfy { $0.kind == .http && $0.slots == 0 })
    #expect(
      file.instances == [
        InstanceRecord(id: "api_servers/10.0.0.1:8080", pool: "api_servers", host: "10.0.0.1", port: 8_080, slots: 0),
        InstanceRecord(id: "api_servers/10.0.0.2:8080", pool: "api_servers", host: "10.0.0.2", port: 8_080, slots: 0),
      ])
    #expect(file.checks == ["api_servers": HealthCheck()])
    #expect(
      file.warnings == [
        #"routes.yaml:5: routes[1].backend: there is no "static_servers" in backends; requests to /static/* get 503 until there is"#
      ])
    #expect(file.places["api_servers/10.0.0.2:8080"] == "routes.yaml:12: backends.api_servers.servers[1]")
  }

  /// Its second thoughts, word for word.
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

  @Test func theContainerBalancersImagesWithServers() throws {
    let file = try RouteFile(Self.second, file: "routes.yaml")
    #expect(
      file.routes == [RouteRecord(id: "/api/*", path: "/api/*", pool: "api-server", strategy: .leastConnections)])
    #expect(
      file.instances.map { "\($0.id) \($0.host) \($0.port)" } == [
        "api-server/aws.something.com:80 aws.something.com 80", "api-server/hello.com:80 hello.com 80",
      ])
    #expect(
      file.warnings == [
        "routes.yaml:3: routes[0].docker_image: berth-data starts no containers; its servers are used as they are"
      ])
  }

  /// The HTTP balancer's file, word for word, with its first line that is no JSON.
  static let backends = """
    // config/backends.json
    {
      "backends": [
        { "host": "backend-1", "port": 3001 },
        { "host": "backend-2", "port": 3002 },
        { "host": "backend-3", "port": 3003 }
      ]
    }
    """

  @Test(arguments: [backends, String(backends.split(separator: "\n").dropFirst().joined(separator: "\n"))])
  func theHTTPBalancersBackends(text: String) throws {
    let file = try RouteFile(text, file: "backends.json")
    #expect(file.pools == [PoolRecord(name: "backends", kind: .http, slots: 0)])
    #expect(file.routes == [RouteRecord(id: "all", pool: "backends")])
    #expect(
      file.instances.map { "\($0.id) \($0.pool) \($0.host) \($0.port)" } == [
        "backends/backend-1:3001 backends backend-1 3001", "backends/backend-2:3002 backends backend-2 3002",
        "backends/backend-3:3003 backends backend-3 3003",
      ])
    #expect(file.checks == ["backends": HealthCheck()])
    #expect(file.warnings.isEmpty)
  }

  @Test func theFormsTakeMoreThanTheSeedsShow() throws {
    let container = try RouteFile(
      """
      health: {path: /health, intervalMilliseconds: 500}
      routes:
        - {path: /, backend: web, retries: 0, id: everything}
        - {path: /api, host: "*.example.org", backend: web, strategy: random}
        - path: /own
          servers: [{url: "http://[::1]:81/", weight: 3}]
          ejection: {consecutiveFailures: 0}
          health: {intervalMilliseconds: 0}
      backends:
        web:
          strategy: header_hash
          hashOn: X-A
          panicPercent: 10
          servers: [{url: HTTP://Web.Example.Org, weight: 0}]
      """, file: "f")
    #expect(container.routes.map(\.id) == ["everything", "*.example.org/api", "/own"])
    let own = container.routes[2].pool
    #expect(container.routes.map(\.pool) == ["web", "web", own] && own.hasPrefix("route-own-"))
    #expect(container.routes.map(\.strategy) == [.headerHash, .random, .roundRobin])
    #expect(container.routes.map(\.hashOn) == ["X-A", nil, nil])
    #expect(container.routes[0].retries == 0)
    #expect(container.pools.map(\.panicPercent) == [10, 50])
    #expect(container.pools[1].ejection.consecutiveFailures == 0)
    #expect(
      container.instances.map { "\($0.id) \($0.host) \($0.port) \($0.weight)" } == [
        "web/web.example.org:80 web.example.org 80 0", "\(own)/[::1]:81 ::1 81 3",
      ])
    #expect(container.checks["web"]?.path == "/health" && container.checks["web"]?.intervalMilliseconds == 500)
    #expect(container.checks[own]?.path == nil && container.checks[own]?.intervalMilliseconds == 0)

    let list = try RouteFile(
      #"{"strategy":"ip_hash","health":{"path":"/up","failures":1},"backends":[{"host":"::1","port":80,"weight":2}]}"#,
      file: "f")
    #expect(list.routes == [RouteRecord(id: "all", pool: "backends", strategy: .ipHash)])
    #expect(list.instances[0].weight == 2 && list.instances[0].id == "backends/[::1]:80")
    #expect(list.checks["backends"]?.path == "/up" && list.checks["backends"]?.failures == 1)
  }

  @Test func imagesGiveTheirNames() throws {
    let file = try RouteFile(
      """
      routes:
        - {path: /a, docker_image: "registry.example:5000/team/api:1.2", servers: [{url: http://a}]}
        - {path: /b, docker_image: "api@sha256:00", servers: [{url: http://b}]}
        - {path: /c, docker_image: Web, servers: [{url: http://c}]}
        - {path: /d, docker_image: web}
      backends:
        web: {servers: [{url: http://d}]}
      """, file: "f")
    let names = file.routes.map(\.pool)
    #expect(names[0] == "api")
    for (name, path) in zip(names.dropFirst(), ["b", "c", "d"]) { #expect(name.hasPrefix("route-\(path)-")) }
    #expect(file.warnings.count == 4)
    #expect(file.warnings.last?.contains("there are no servers, so its requests get 503") == true)
  }

  /// Sticky cookies, hash rings and counters hang on the names of pools and instances.
  @Test func aRouteAboveMovesNoName() throws {
    let route = "  - {host: Example.com, path: /a/b_c, servers: [{url: http://10.0.0.1}]}\n"
    let alone = try RouteFile("routes:\n" + route, file: "f")
    let below = try RouteFile("routes:\n  - {path: /x, servers: [{url: http://10.0.0.2}]}\n" + route, file: "f")
    #expect(below.routes.map(\.pool).contains(alone.routes[0].pool))
    #expect(below.instances.map(\.id).contains(alone.instances[0].id))
    #expect(PoolRecord.isName(alone.routes[0].pool))
  }

  @Test func keysCloseTheRoutesOfEveryForm() throws {
    let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    let keys = "keys: {ci: {sha256: \(digest)}}\n"
    let forms = [
      Self.first, "backends: [{host: 10.0.0.1, port: 80}]\n",
      "pools: {web: {slots: 0}}\nroutes: {all: {pool: web}}\ninstances: {a: {pool: web, host: 10.0.0.1, port: 80}}\n",
    ]
    for form in forms {
      let open = try RouteFile(form, file: "routes.yaml")
      #expect(!open.routes.contains { $0.auth != nil })
      let closed = try RouteFile(keys + form, file: "routes.yaml")
      #expect(closed.apiKeys.map(\.sha256) == [digest])
      #expect(!closed.routes.isEmpty)
      #expect(!closed.routes.contains { $0.auth != true })
    }
    let mixed = try RouteFile(
      keys + "pools: {web: {slots: 0}}\nroutes: {all: {pool: web, auth: false}}\n", file: "routes.yaml")
    #expect(mixed.routes.map(\.auth) == [false])
  }
}
