// What `berth up` refuses before it starts anything, and the command lines that it makes.
import JSON
import Launcher
import Testing

private func settings(_ change: (inout LaunchSettings) -> Void = { _ in }) -> LaunchSettings {
  var settings = LaunchSettings()
  change(&settings)
  return settings
}

private let places = Places(
  programs: "/programs", state: "/state", redisServer: "/usr/bin/redis-server", redisSocket: "/state/run/redis.sock",
  redisURL: "unix:/state/run/redis.sock", certificate: "/c.pem", key: "/k.pem")

@Suite struct LaunchSettingsTests {
  @Test func theDefaultsAreThoseOfTheDocumentation() throws {
    try settings().validate()
    #expect(settings().listeningPorts.map(\.port) == [3000, 8080, 8443, 8081])
    #expect(settings().url == "http://127.0.0.1:8080")
  }

  @Test(arguments: [
    ("--replicas", settings { $0.replicas = 0 }),
    ("--port 70000", settings { $0.port = 70_000 }),
    ("wanted twice", settings { $0.port = 3000 }),
    (
      "wanted twice",
      settings {
        $0.replicas = 2
        $0.port = 8082
      }
    ),
    ("--port-range-start", settings { $0.portRangeEnd = 49_999 }),
    ("lies in the instances' range", settings { $0.portRangeStart = 8000 }),
    ("belong together", settings { $0.keyFile = "key.pem" }),
    ("--ready-seconds", settings { $0.readySeconds = 0 }),
    ("--drain-seconds", settings { $0.drainSeconds = -1 }),
  ])
  func whatCannotWorkIsNamed(sentence: String, wrong: LaunchSettings) {
    let error = #expect(throws: LaunchError.self) { try wrong.validate() }
    #expect(error?.description.contains(sentence) == true, "\(String(describing: error))")
  }

  @Test func everyListeningPortNamesItsFlag() {
    for port in settings({ $0.replicas = 3 }).listeningPorts {
      #expect(port.flag.hasPrefix("--"))
      #expect(!port.variable.isEmpty)
    }
  }

  @Test func replicasShareTheirAddressAndHaveAdminPagesOfTheirOwn() {
    let data = settings { $0.replicas = 2 }.plan(places).filter { $0.role == .data }
    #expect(data.map(\.name) == ["data-1", "data-2"])
    for (plan, admin) in zip(data, ["127.0.0.1:8081", "127.0.0.1:8082"]) {
      #expect(value(of: "--listen", in: plan) == "127.0.0.1:8080")
      #expect(value(of: "--admin", in: plan) == admin)
    }
  }

  @Test func redisIsPrivateAndItsAddressIsNotOnACommandLine() {
    let plans = settings().plan(places)
    #expect(plans.map(\.role) == [.redis, .control, .data])
    #expect(value(of: "--port", in: plans[0]) == "0")
    for plan in plans.dropFirst() {
      #expect(plan.environment["REDIS_URL"] == "unix:/state/run/redis.sock")
      #expect(!plan.arguments.contains { $0.contains("redis") })
    }
  }

  @Test func aGivenRedisIsLeftAlone() {
    var given = places
    given.redisServer = nil
    given.redisURL = "rediss://:secret@redis.example/2"
    let plans = settings().plan(given)
    #expect(plans.map(\.role) == [.control, .data])
    #expect(plans.allSatisfy { $0.environment["REDIS_URL"] == given.redisURL })
    #expect(plans.allSatisfy { plan in !plan.arguments.contains { $0.contains("secret") } })
  }

  @Test func theControlPlaneStopsItsBrowsersAndKnowsTheAddressOfTheDataPlane() {
    let plan = settings { $0.port = 9000 }.plan(places)[1]
    #expect(plan.arguments.contains("--stop-instances-on-exit"))
    #expect(value(of: "--public-url", in: plan) == "http://127.0.0.1:9000")
    #expect(value(of: "--port-range-start", in: plan) == "50000")
  }

  @Test func addressesAreWrittenAsURLsWantThem() {
    #expect(settings { $0.host = "::1" }.url == "http://[::1]:8080")
    #expect(settings { $0.host = "0.0.0.0" }.url == "http://127.0.0.1:8080")
    #expect(value(of: "--listen", in: settings { $0.host = "::1" }.plan(places)[2]) == "[::1]:8080")
  }

  private func value(of flag: String, in plan: ChildPlan) -> String? {
    plan.arguments.firstIndex(of: flag).map { plan.arguments[$0 + 1] }
  }
}

@Suite struct TerminalTests {
  @Test func onlyWarningsAndErrorsReachTheTerminal() {
    let info = #"{"time":"2026-01-01T00:00:00Z","level":"info","message":"listening"}"#
    let warning = #"{"time":"x","level":"warning","message":"no slot","pool":"chrome","waiting":3}"#
    #expect(LogLine.forTerminal(info, of: "control", verbose: false) == nil)
    #expect(
      LogLine.forTerminal(warning, of: "control", verbose: false) == "control: warning: no slot pool=chrome waiting=3")
    #expect(LogLine.forTerminal("* Ready to accept connections", of: "redis", verbose: false) == nil)
  }

  @Test func everyLineDoesWhenAskedFor() {
    #expect(LogLine.forTerminal("plain", of: "redis", verbose: true) == "redis: plain")
    #expect(LogLine.forTerminal(#"{"level":"info","message":"m"}"#, of: "c", verbose: true) == "c: info: m")
  }

  @Test func theAnnouncementHasALineForEachClient() {
    let text = Announcement.lines(LaunchSettings(), places, seconds: "1.5").joined(separator: "\n")
    for part in [
      "ready after 1.5 s", "curl http://127.0.0.1:8080/json/version", "connect_over_cdp(\"http://127.0.0.1:8080\")",
      "browserURL: \"http://127.0.0.1:8080\"", "redis-cli -s /state/run/redis.sock", "https://127.0.0.1:8443",
    ] {
      #expect(text.contains(part), "\(part)")
    }
  }

  @Test func withKeysAdminPagesStayOnLoopbackAndClientsAreToldOfThem() {
    var settings = LaunchSettings()
    settings.host = "0.0.0.0"
    settings.keysFile = "/etc/keys"
    let text = Announcement.lines(settings, places, seconds: "1.5").joined(separator: "\n")
    #expect(text.contains("curl -u KEY: http://127.0.0.1:8080/json/version"))
    let plans = settings.plan(places)
    let control = plans.first { $0.role == .control }?.arguments.joined(separator: " ") ?? ""
    let data = plans.first { $0.role == .data }?.arguments.joined(separator: " ") ?? ""
    #expect(control.contains("--keys-file /etc/keys"))
    #expect(data.contains("--listen 0.0.0.0:8080") && data.contains("--admin 127.0.0.1:8081"))
    #expect(data.contains("--require-keys") && !data.contains("--allow-unauthenticated"))
  }
}
