// The records that pass between the planes: what is written is read again, and what is wrong is named.
import JSON
import Routing
import Testing

@Suite struct RecordTests {
  @Test func recordsSurviveTheirJSON() throws {
    var pool = PoolRecord(
      name: "chrome", kind: .cdp, slots: 1, recycleAfterSessions: 1, reservationMilliseconds: 5_000,
      graceMilliseconds: 7, hardLimitMilliseconds: 60_000, idleLimitMilliseconds: 9, queueTimeoutMilliseconds: 11,
      queueLimit: 12)
    #expect(try PoolRecord(name: "chrome", json: pool.json) == pool)
    pool.hardLimitMaximumMilliseconds = 61_000
    #expect(try PoolRecord(name: "chrome", json: pool.json) == pool)
    let route = RouteRecord(
      id: "api", host: "a.test", path: "/api", pool: "web", strategy: .leastConnections, stripPrefix: true)
    #expect(try RouteRecord(id: "api", json: route.json) == route)
    let instance = InstanceRecord(
      id: "i", pool: "chrome", host: "127.0.0.1", port: 50_000, generation: 3, state: .draining, slots: 1,
      startedAt: 1_700_000_000_000, browser: "guid", pid: 7, pidStart: 8, labels: ["a": "b"])
    #expect(try InstanceRecord(id: "i", json: instance.json) == instance)
    let session = SessionRecord(
      id: "s", pool: "chrome", origin: .connection, instance: "i", host: "127.0.0.1", port: 50_000, browser: "guid",
      url: "http://x/", createdAt: 1, expiresAt: 2, idleLimitMilliseconds: 3, graceMilliseconds: 4, metadata: ["k": "v"]
    )
    #expect(try SessionRecord(id: "s", json: session.json) == session)
    let endless = SessionRecord(id: "s", pool: "chrome", origin: .rest, createdAt: 1, expiresAt: 2)
    #expect(try SessionRecord(id: "s", json: endless.json).graceMilliseconds == nil)
  }

  @Test(arguments: [
    ("user", "ann", true), ("job.id_2-x", "a b&=ü", true), ("", "a", false), ("a b", "a", false), ("a=b", "a", false),
    ("a:b", "a", false), ("ü", "a", false), ("a", "", false), (String(repeating: "n", count: 64), "a", true),
    (String(repeating: "n", count: 65), "a", false), ("a", String(repeating: "v", count: 256), true),
    ("a", String(repeating: "v", count: 257), false),
  ])
  func metadataIsSearchedByWhatMakesAPlainKey(name: String, value: String, isSearchable: Bool) {
    #expect(SessionRecord.isSearchable(name: name, value: value) == isSearchable)
  }

  @Test func defaultsAreEnoughForARoutesFile() throws {
    #expect(try PoolRecord(name: "web", json: [:]) == PoolRecord(name: "web", kind: .http, slots: 0))
    #expect(try RouteRecord(id: "r", json: ["pool": "web"]) == RouteRecord(id: "r", pool: "web"))
    let instance = try InstanceRecord(id: "i", json: ["pool": "web", "host": "127.0.0.1", "port": 80])
    #expect(instance.state == .ready && instance.generation == 1)
  }

  @Test func balancingOfAPoolSurvivesItsJSON() throws {
    var pool = PoolRecord(name: "web", kind: .http, slots: 0)
    let before = pool.json.text
    #expect(!before.contains("ejection") && !before.contains("panic"))
    pool.proxyProtocol = 2
    pool.maxConnections = 3
    pool.slowStartMilliseconds = 1
    pool.ejection = Ejection(
      consecutiveFailures: 0, errorPercent: 3, baseMilliseconds: 4_000, maximumMilliseconds: 5_000)
    pool.panicPercent = 0
    let json = try JSON(parsing: pool.json.text)
    #expect(try PoolRecord(name: "web", json: json) == pool)
    for path in [["proxyProtocol"], ["maxConnections"], ["slowStartMilliseconds"], ["panicPercent"], ["ejection"]] {
      var object = try #require(json.object)
      object[path[0]] = nil
      #expect(try PoolRecord(name: "web", json: .object(object)) != pool, "\(path)")
    }
    for name in ["consecutiveFailures", "errorPercent", "baseMilliseconds", "maximumMilliseconds"] {
      var object = try #require(json.object)
      var ejection = try #require(object["ejection"]?.object)
      ejection[name] = nil
      object["ejection"] = .object(ejection)
      #expect((try? PoolRecord(name: "web", json: .object(object))) != pool, "\(name)")
    }
  }

  @Test func aBackupAtAPathSurvivesItsJSON() throws {
    var instance = InstanceRecord(id: "i", pool: "web", host: "unix:/run/app.sock", port: 0)
    instance.isBackup = true
    #expect(try InstanceRecord(id: "i", json: instance.json) == instance)
    let port: JSON = ["pool": "web", "host": "unix:/run/app.sock", "port": 80]
    #expect(throws: RecordError.self) { try InstanceRecord(id: "i", json: port) }
    let limited: JSON = ["kind": "cdp", "maxConnections": 1]
    #expect(throws: RecordError.self) { try PoolRecord(name: "web", json: limited) }
  }

  @Test func weightOfAnInstanceSurvivesItsJSON() throws {
    var instance = InstanceRecord(id: "i", pool: "web", host: "127.0.0.1", port: 80)
    #expect(!instance.json.text.contains("weight"))
    for weight in [0, 7, 256] {
      instance.weight = weight
      #expect(try InstanceRecord(id: "i", json: instance.json) == instance)
    }
    let heavy: JSON = ["pool": "web", "host": "127.0.0.1", "port": 80, "weight": 257]
    #expect {
      try InstanceRecord(id: "i", json: heavy)
    } throws: { "\($0)" == #"instance "i": "weight" must be a whole number from 0 to 256"# }
  }

  @Test func loadsAreReadAsTheyAreWritten() {
    #expect(InstanceLoad(cpuPercent: 12.55, memoryPercent: 40).text == "12.6 40.0")
    #expect(InstanceLoad(text: "12.5 40") == InstanceLoad(cpuPercent: 12.5, memoryPercent: 40))
    for text in ["", "1", "1 2 3", "a b", "-1 2", "1 inf", "nan 1", "1  2"] {
      #expect(InstanceLoad(text: text) == nil, "\(text)")
    }
  }

  @Test(arguments: [
    (#"{"proxyProtocol":3}"#, "\"proxyProtocol\" must be a whole number from 0 to 2"),
    (#"{"slowStartMilliseconds":3600001}"#, "\"slowStartMilliseconds\" must be a whole number from 0 to 3600000"),
    (#"{"panicPercent":101}"#, "\"panicPercent\" must be a whole number from 0 to 100"),
    (#"{"ejection":5}"#, "\"ejection\" must be an object"),
    (
      #"{"ejection":{"consecutiveFailures":-1}}"#,
      "\"ejection.consecutiveFailures\" must be a whole number from 0 to 10000"
    ),
    (#"{"ejection":{"errorPercent":101}}"#, "\"ejection.errorPercent\" must be a whole number from 0 to 100"),
    (
      #"{"ejection":{"baseMilliseconds":99}}"#,
      "\"ejection.baseMilliseconds\" must be a whole number from 100 to 86400000"
    ),
    (
      #"{"ejection":{"maximumMilliseconds":5000}}"#,
      "\"ejection.maximumMilliseconds\" must not be less than baseMilliseconds (10000); raise it or lower that"
    ),
    (#"{"ejection":{"errors":1}}"#, "unknown field \"ejection.errors\""),
    (#"{"slot":1}"#, "unknown field \"slot\""), (#"{"slots":"1"}"#, "\"slots\" must be a whole number"),
    (#"{"slots":-1}"#, "from 0 to 10000"), (#"{"kind":"ftp"}"#, "one of cdp, vnc, http, not \"ftp\""),
    (#"{"name":"other"}"#, "says \"other\""), ("[]", "a JSON object"), (#"{"queueLimit":1.5}"#, "\"queueLimit\""),
  ]) func wrongPoolsAreNamed(_ text: String, _ part: String) throws {
    let json = try JSON(parsing: text)
    #expect {
      try PoolRecord(name: "web", json: json)
    } throws: { error in "\(error)".contains("pool \"web\"") && "\(error)".contains(part) }
  }

  @Test(arguments: [
    (#"{"pool":"web","path":"api"}"#, "must start with /"), (#"{"pool":"web","path":"/a?b"}"#, "no query"),
    ("{}", "\"pool\" must be a string"), (#"{"pool":"web","stripPrefix":1}"#, "true or false"),
  ]) func wrongRoutesAreNamed(_ text: String, _ part: String) throws {
    let json = try JSON(parsing: text)
    #expect {
      try RouteRecord(id: "r", json: json)
    } throws: { error in "\(error)".contains("route \"r\"") && "\(error)".contains(part) }
  }

  @Test func keysOfADeploymentStartAlike() {
    let standard = Keys()
    #expect(standard.session("a") == "session:a")
    #expect(standard.portsFree(host: "h") == "berth:ports:h:free")
    let other = Keys(prefix: "{x}:")
    #expect(other.session("a") == "{x}:session:a")
    #expect(other.slots(pool: "p").hasPrefix("{x}:"))
  }
}

@Suite struct RoutingTableTests {
  @Test func theMostSpecificRouteComesFirst() {
    let routes = [
      RouteRecord(id: "all", pool: "p"), RouteRecord(id: "api", path: "/api", pool: "p"),
      RouteRecord(id: "host", host: "a.test", pool: "p"),
      RouteRecord(id: "host-api", host: "a.test", path: "/api", pool: "p"),
    ]
    for order in [routes, routes.reversed()] {
      let table = RoutingTable(pools: [], routes: order, instances: [])
      #expect(table.routes.map(\.id) == ["host-api", "host", "api", "all"])
    }
  }

  @Test func instancesAreFoundByIdAndBrowser() {
    let instances = [
      InstanceRecord(id: "b", pool: "p", host: "127.0.0.1", port: 2, browser: "guid"),
      InstanceRecord(id: "a", pool: "p", host: "127.0.0.1", port: 1),
    ]
    let table = RoutingState(instances: instances).table
    #expect(table.instance(id: "a")?.port == 1)
    #expect(table.instance(browser: "guid")?.id == "b")
    #expect(table.instance(id: "guid") == nil && table.instance(browser: "a") == nil)
  }
}
