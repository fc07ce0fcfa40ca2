// The configuration: who wins, what is refused and with which words, and that the documentation lists what there is.
import Domain
import Routing
import Settings
import Testing

private func load(
  _ yaml: String? = nil, _ environment: [String: String] = [:], _ flags: [String: String] = [:]
) throws(SettingsError) -> ControlSettings {
  try ControlSettings.load(
    file: yaml.map { ConfigText(name: "berth.yaml", text: $0) }, environment: environment, flags: flags)
}

private func complaint(
  _ yaml: String? = nil, _ environment: [String: String] = [:], _ flags: [String: String] = [:]
) -> String {
  do {
    _ = try load(yaml, environment, flags)
    return "no complaint"
  } catch {
    return error.description
  }
}

@Suite struct PrecedenceTests {
  @Test func withoutAnythingThereIsOneChromePool() throws {
    let settings = try load()
    #expect(settings.listen == Endpoint(host: "127.0.0.1", port: 3_000))
    #expect(settings.portRange == 50_000...60_000)
    #expect(settings.maxSessions == 200)
    #expect(settings.publicURL == "http://127.0.0.1:8080")
    #expect(
      settings.pools == [
        PoolSpec(
          name: "chrome", kind: .cdp, runtime: .process(ProcessSpec()), slots: 1, min: 1, max: 8, spare: 1,
          recycleAfterSessions: 1, sessions: SessionLimits(hardMilliseconds: 1_800_000))
      ])
    #expect(settings.routes == [RouteRecord(id: "default", path: "/", pool: "chrome")])
    #expect(try load("") == settings)
    #expect(try load("# nothing\n") == settings)
  }

  @Test func flagsWinOverTheEnvironmentAndThatOverTheFile() throws {
    let file = "maxSessions: 1\nlogLevel: debug\nkeyPrefix: 'a:'\n"
    let environment = ["MAX_SESSIONS": "2", "BERTH_LOG_LEVEL": "warning"]
    let settings = try load(file, environment, ["--max-sessions": "3"])
    #expect(settings.maxSessions == 3)
    #expect(settings.logLevel == .warning)
    #expect(settings.keyPrefix == "a:")
    #expect(try load(file, ["MAX_SESSIONS": ""]).maxSessions == 1)
  }

  @Test func everySettingCanBeGivenInAllThreeWays() throws {
    let values: [String: (String, KeyPath<ControlSettings, String>)] = [
      "listen": ("127.0.0.2:4000", \.listen.description), "redisURL": ("unix:/r", \.redisURL),
      "keyPrefix": ("k:", \.keyPrefix), "stateDirectory": ("/s", \.stateDirectory),
      "portRangeStart": ("51000", \.portRange.lowerBound.description),
      "portRangeEnd": ("59000", \.portRange.upperBound.description),
      "publicURL": ("https://b.example", \.publicURL), "maxSessions": ("7", \.maxSessions.description),
      "sessionTimeout": ("5000", \.sessionTimeoutMilliseconds.description), "id": ("me", \.id!),
      "hostName": ("h", \.hostName!), "logLevel": ("trace", \.logLevel.rawValue),
      "allowUnauthenticated": ("true", \.allowUnauthenticated.description),
      "keysFile": ("/k", \.keysFile!), "requireKeys": ("true", \.requireKeys.description),
      "allowedHosts": ("a.example", \.allowedHosts[0]),
      "stopInstancesOnExit": ("true", \.stopInstancesOnExit.description),
      "drainSeconds": ("9", \.drainSeconds.description), "concurrentLaunches": ("4", \.concurrentLaunches.description),
      "totalConcurrentLaunches": ("6", \.totalConcurrentLaunches.description),
    ]
    for setting in ControlSettings.settings {
      let (text, path) = try #require(values[setting.key], "\(setting.key) has no value in this test")
      #expect(try load("\(setting.key): '\(text)'")[keyPath: path] == text, "\(setting.key)")
      #expect(try load(nil, [setting.variable: text])[keyPath: path] == text, "\(setting.variable)")
      #expect(try load(nil, [:], [setting.flag: text])[keyPath: path] == text, "\(setting.flag)")
    }
    #expect(values.count == ControlSettings.settings.count)
  }

  @Test func portSetsOnlyThePort() throws {
    #expect(try load(nil, ["PORT": "3100"]).listen.description == "127.0.0.1:3100")
    #expect(try load("listen: 127.0.0.2:1", ["PORT": "3100"]).listen.description == "127.0.0.2:3100")
    #expect(try load(nil, ["PORT": "3100", "BERTH_CONTROL_LISTEN": "127.0.0.1:9"]).listen.port == 9)
    #expect(try load(nil, ["PORT": "3100"], ["--listen": "127.0.0.1:9"]).listen.port == 9)
    #expect(complaint(nil, ["PORT": "http"]) == "variable PORT: must be a whole number from 1 to 65535, not \"http\"")
  }
}

@Suite struct ComplaintTests {
  /// File, environment, flags → the whole sentence.
  @Test(
    arguments: [
      (
        "maxSessions: many", [:], [:],
        "berth.yaml:1: maxSessions: must be a whole number from 1 to 1000000, not \"many\""
      ),
      ("", ["MAX_SESSIONS": "0"], [:], "variable MAX_SESSIONS: must be a whole number from 1 to 1000000, not \"0\""),
      ("", [:], ["--max-sessions": "x"], "flag --max-sessions: must be a whole number from 1 to 1000000, not \"x\""),
      (
        "\n\nlogLevel: loud", [:], [:],
        "berth.yaml:3: logLevel: must be one of trace, debug, info, notice, warning, error, critical, not \"loud\""
      ),
      (
        "listen: 3000", [:], [:],
        "berth.yaml:1: listen: must be an address and port like 127.0.0.1:3000 or [::1]:3000, not \"3000\""
      ),
      (
        "publicURL: b.example/x", [:], [:],
        "berth.yaml:1: publicURL: must be a URL like https://browsers.example.org or http://127.0.0.1:8080, not \"b.example/x\""
      ),
      (
        "", ["PORT_RANGE_START": "60001"], [:],
        "variable PORT_RANGE_START: the port range 60001 to 60000 is empty; its start must not be above its end"
      ),
      (
        "allowUnauthenticated: perhaps", [:], [:],
        "berth.yaml:1: allowUnauthenticated: must be true or false, not \"perhaps\""
      ),
      ("maxSessions: [1]", [:], [:], "berth.yaml:1: maxSessions: must be a single value"),
      ("maxSessions: 1\nmaxSessions: 2", [:], [:], "berth.yaml:1: maxSessions stands here twice"),
      ("- a", [:], [:], "berth.yaml:1: the file must be a mapping of names to values"),
      (
        "pools:\n  chrome:\n    min: 3\n    max: 2\n", [:], [:],
        "berth.yaml:3: pools.chrome: min (3) is greater than max (2)"
      ),
      (
        "pools:\n  chrome:\n    targetActive: 3\n", [:], [:],
        "berth.yaml:3: pools.chrome: targetActive is for slots 0: this pool is scaled by its slots"
      ),
      (
        "pools:\n  web: {kind: http, command: c, min: 0, spare: 0}\n", [:], [:],
        "berth.yaml:2: pools.web: with slots 0 nobody waits for an instance, so min or spare must be at least 1"
      ),
      (
        "pools:\n  chrome:\n    slots: one\n", [:], [:],
        "berth.yaml:3: pools.chrome.slots: must be a whole number from 0 to 10000, not \"one\""
      ),
      (
        "pools:\n  Chrome: {}\n", [:], [:],
        "berth.yaml:2: pools.Chrome: a pool's name must be 1 to 40 lower-case letters, digits, - or _"
      ),
      ("pools:\n  web:\n    kind: http\n", [:], [:], "berth.yaml:3: pools.web: a pool of kind http needs a command"),
      (
        "pools:\n  a:\n    runtime: podman\n", [:], [:],
        "berth.yaml:3: pools.a.runtime: must be one of process, docker, swarm, static, not \"podman\""
      ),
      ("pools: {}", [:], [:], "berth.yaml:1: pools: at least one pool must be declared"),
      (
        "routes:\n  all:\n    pool: web\n", [:], [:],
        "berth.yaml:3: routes.all.pool: must be a declared pool (chrome), not \"web\""
      ),
      (
        "routes:\n  all:\n    path: x\n    pool: chrome\n", [:], [:],
        "berth.yaml:3: routes.all.path: must start with / and have no query"
      ),
      (
        "listen: 0.0.0.0:3000", [:], [:],
        "berth.yaml:1: listen: 0.0.0.0:3000 can be reached from other hosts, and nobody has to show an API key; give --keys-file, listen on 127.0.0.1, or give --allow-unauthenticated if something else keeps strangers out"
      ),
    ] as [(String, [String: String], [String: String], String)])
  func wrongValuesAreNamedWithTheirPlace(
    file: String, environment: [String: String], flags: [String: String], sentence: String
  ) {
    #expect(complaint(file, environment, flags) == sentence)
  }

  @Test func unknownNamesAreRefusedWithTheKnownOnes() {
    let top = complaint("listen: 127.0.0.1:1\nmaxSesions: 3\n")
    #expect(top.hasPrefix("berth.yaml:2: maxSesions: there is no such setting; known are allowUnauthenticated, "))
    #expect(
      complaint("pools:\n  chrome:\n    spares: 3\n").hasPrefix("berth.yaml:3: pools.chrome.spares: there is no such"))
    #expect(
      complaint("routes:\n  r:\n    pool: chrome\n    to: 3\n").hasPrefix("berth.yaml:4: routes.r.to: there is no such")
    )
  }

  @Test func brokenYAMLIsNamedWithItsLine() {
    let sentence = complaint("listen: 127.0.0.1:1\npools: [a\nx: }\n")
    #expect(sentence.hasPrefix("berth.yaml:3: "), "\(sentence)")
  }

  @Test func onlyLoopbackNeedsNoPermission() throws {
    for address in ["127.0.0.1:1", "127.8.8.8:1", "[::1]:1", "localhost:1"] {
      #expect(try load("listen: '\(address)'").listen.isLoopback, "\(address)")
    }
    for address in ["0.0.0.0:1", "[::]:1", "127.0.0.1.example.org:1", "127.evil:1", "10.0.0.1:1"] {
      #expect(complaint("listen: '\(address)'").contains("can be reached from other hosts"), "\(address)")
      #expect(try load("listen: '\(address)'", [:], ["--allow-unauthenticated": "true"]).allowUnauthenticated)
    }
  }
}

@Suite struct PoolSettingsTests {
  @Test func everyFieldOfAPoolIsRead() throws {
    let settings = try load(
      """
      sessionTimeout: 60000
      pools:
        web:
          kind: http
          runtime: process
          command: python3
          arguments: [-m, http.server, '{port}']
          environment: {LANG: C, EMPTY: ''}
          slots: 4
          min: 2
          max: 3
          spare: 4
          recycleAfterSessions: 9
          hardLimitMilliseconds: 50000
          idleLimitMilliseconds: 40000
          reservationMilliseconds: 300
          graceMilliseconds: 20
          hardLimitMaximumMilliseconds: 60000
          graceMaximumMilliseconds: 30
          queueTimeoutMilliseconds: 11
          queueLimit: 12
          launchTimeoutMilliseconds: 1300
          stopGraceMilliseconds: 14
          scaleDownAfterMilliseconds: 15
          healthIntervalMilliseconds: 160
          healthTimeoutMilliseconds: 17
          healthFailures: 18
          healthSuccesses: 19
          healthFailuresBeforeReplacement: 20
          healthPath: /up
          healthTCPIntervalMilliseconds: 0
          healthTCPTimeoutMilliseconds: 30
          healthTCPFailures: 31
          healthCDPIntervalMilliseconds: 32
          healthCDPTimeoutMilliseconds: 33
          healthCDPFailures: 34
          restartInitialMilliseconds: 21
          restartMaximumMilliseconds: 22
          restartStableAfterMilliseconds: 23
          restartCrashLoopAfter: 35
          reportFailures: 36
          reportServerErrors: true
          proxyProtocol: 2
          slowStartMilliseconds: 24
          panicPercent: 25
          launchOptions: {arguments: [--a, --b=*], snapshots: /srv/profiles/, instances: 2}
          ejection:
            consecutiveFailures: 26
            errorPercent: 27
            baseMilliseconds: 280
            maximumMilliseconds: 290
        chrome:
      routes:
        api: {host: API.example, path: /api, pool: web, strategy: random, stripPrefix: yes}
      """)
    var web = PoolSpec(
      name: "web", kind: .http,
      runtime: .process(
        ProcessSpec(
          command: "python3", arguments: ["-m", "http.server", "{port}"], environment: ["LANG": "C", "EMPTY": ""])),
      slots: 4, min: 2, max: 3, spare: 4, recycleAfterSessions: 9,
      sessions: SessionLimits(
        hardMilliseconds: 50_000, idleMilliseconds: 40_000, reservationMilliseconds: 300, graceMilliseconds: 20,
        hardMaximumMilliseconds: 60_000, graceMaximumMilliseconds: 30),
      queue: QueueLimits(timeoutMilliseconds: 11, limit: 12), launchTimeoutMilliseconds: 1_300,
      stopGraceMilliseconds: 14, scaling: ScalingPolicy(downAfterMilliseconds: 15),
      health: HealthPolicy(
        intervalMilliseconds: 160, timeoutMilliseconds: 17, failures: 18, successes: 19, failuresBeforeReplacement: 20,
        path: "/up"),
      restart: RestartPolicy(
        initialMilliseconds: 21, maximumMilliseconds: 22, stableAfterMilliseconds: 23, crashLoopAfter: 35))
    web.health.tcp = HealthPolicy.Depth(intervalMilliseconds: 0, timeoutMilliseconds: 30, failures: 31)
    web.health.cdp = HealthPolicy.Depth(intervalMilliseconds: 32, timeoutMilliseconds: 33, failures: 34)
    web.balancing.reportFailures = 36
    web.balancing.reportServerErrors = true
    web.launches = LaunchPolicy(arguments: ["--a", "--b=*"], snapshots: "/srv/profiles", instances: 2)
    web.balancing.proxyProtocol = 2
    web.balancing.slowStartMilliseconds = 24
    web.balancing.panicPercent = 25
    web.balancing.ejection = Ejection(
      consecutiveFailures: 26, errorPercent: 27, baseMilliseconds: 280, maximumMilliseconds: 290)
    #expect(settings.pools[0] == web)
    #expect(settings.pools[1].name == "chrome")
    #expect(settings.pools[1].sessions.hardMilliseconds == 60_000)
    #expect(
      settings.routes == [
        RouteRecord(id: "api", host: "api.example", path: "/api", pool: "web", strategy: .random, stripPrefix: true)
      ])
  }

  @Test(arguments: [
    ("arguments: [--user-data-dir=*]", "\"--user-data-dir=*\" cannot be left to clients"),
    ("arguments: [mute]", "\"mute\" must be an argument like"), ("snapshots: here", "a path that begins with /"),
    ("instances: -1", "a whole number from 0 to 10000"), ("proxy: x", "known are arguments, instances, snapshots"),
  ]) func whatIsWrongWithLaunchOptionsIsNamed(text: String, words: String) {
    let complaint = #expect(throws: SettingsError.self) { try load("pools: {chrome: {launchOptions: {\(text)}}}") }
    #expect(complaint?.description.contains(words) == true, "\(complaint?.description ?? "")")
  }

  @Test func sharedPoolsHaveNoSessionsUnlessTheySaySo() throws {
    let settings = try load("pools: {web: {kind: http, command: x}, shared: {slots: 0}}")
    #expect(settings.pools.map(\.slots) == [0, 0])
    #expect(settings.pools.map(\.recycleAfterSessions) == [0, 0])
    #expect(settings.routes.map(\.pool) == ["shared"])
    // The first client of several must not be the last one.
    let several = try load("pools: {chrome: {slots: 3}, worn: {slots: 3, recycleAfterSessions: 9}, own: {}}")
    #expect(several.pools.map(\.recycleAfterSessions) == [0, 9, 1])
  }
}
