// Engines, containers and fixed servers in the configuration: what they become, what is refused and where it stands.
import Domain
import Glibc
import Routing
import Settings
import Testing

private func load(_ yaml: String) throws(SettingsError) -> ControlSettings {
  try ControlSettings.load(file: ConfigText(name: "b.yaml", text: yaml), environment: [:], flags: [:])
}

private func complaint(_ yaml: String) -> String {
  do {
    _ = try load(yaml)
    return "no complaint"
  } catch {
    return error.description
  }
}

@Suite struct EngineSettingsTests {
  private static let pool = "pools: {chrome: {runtime: docker, image: c}}\n"

  @Test func theShortestDeclarationIsEnough() throws {
    let settings = try load("docker: {owner: prod, hosts: {local: {url: 'unix:///s'}}}\n" + Self.pool)
    #expect(
      settings.docker
        == EngineSettings(
          owner: "prod", graceMilliseconds: 60_000,
          hosts: [
            EngineHost(
              name: "local", endpoint: .unix(path: "/s"), address: "127.0.0.1", bind: "127.0.0.1",
              portRange: 50_000...60_000, capacity: 50)
          ]))
    let pool = try #require(settings.pools.first)
    #expect(pool.runtime == .container(ContainerSpec(image: "c")) && pool.slots == 1 && pool.kind == .cdp)
  }

  @Test func everythingCanBeSaid() throws {
    let settings = try load(
      """
      docker:
        owner: prod
        graceSeconds: 5
        hosts:
          big:
            url: tcp://10.0.0.7:2376
            ca: /ca.pem
            certificate: /c.pem
            key: /k.pem
            portRangeStart: 40000
            portRangeEnd: 40099
            capacity: 7
            concurrentLaunches: 5
          named: {url: 'tcp://engine.example:2376', certificate: /c.pem, key: /k.pem, address: 10.0.0.8, bind: 0.0.0.0}
      pools:
        chrome:
          runtime: docker
          image: r.example/c:1
          pull: never
          arguments: [--a]
          environment: {A: b}
          containerPort: 3000
          hosts: [big]
          memoryMegabytes: 0
          cpus: 1.5
          pids: 100
          shmMegabytes: 64
          seccomp: /p.json
          readOnly: yes
          tmpfs: {/tmp: size=1m}
          user: "7:7"
          capabilities: [SYS_ADMIN]
          network: browsers
          logDriver: journald
      """)
    let engines = try #require(settings.docker)
    let tls = EngineTLS(caFile: "/ca.pem", certificateFile: "/c.pem", keyFile: "/k.pem")
    #expect(engines.graceMilliseconds == 5_000)
    #expect(
      engines.hosts[0]
        == EngineHost(
          name: "big", endpoint: .tcp(host: "10.0.0.7", port: 2_376, tls: tls), address: "10.0.0.7", bind: "10.0.0.7",
          portRange: 40_000...40_099, capacity: 7, concurrentLaunches: 5))
    #expect(engines.hosts[1].concurrentLaunches == 2)
    #expect(engines.hosts[1].address == "10.0.0.8" && engines.hosts[1].bind == "0.0.0.0")
    var container = ContainerSpec(image: "r.example/c:1")
    container.pull = .never
    container.arguments = ["--a"]
    container.environment = ["A": "b"]
    container.port = 3_000
    container.hosts = ["big"]
    container.memoryMegabytes = 0
    container.milliCPUs = 1_500
    container.pids = 100
    container.shmMegabytes = 64
    container.seccomp = "/p.json"
    container.readOnly = true
    container.tmpfs = ["/tmp": "size=1m"]
    container.user = "7:7"
    container.capabilities = ["SYS_ADMIN"]
    container.network = "browsers"
    container.logDriver = "journald"
    container.logOptions = [:]
    #expect(settings.pools[0].runtime == .container(container))
  }

  @Test(arguments: [
    (
      pool, "b.yaml:1: pools.chrome: runtime docker needs a section docker at the top of the file, with owner and hosts"
    ),
    ("docker:\n  hosts: {a: {url: 'unix:///s'}}\n", "b.yaml:2: docker: needs an owner, a name for this deployment"),
    ("docker: {owner: A}\n", "b.yaml:1: docker.owner: must be 1 to 40 lower-case letters, digits, - or _, not \"A\""),
    ("docker: {owner: a}\n", "b.yaml:1: docker: needs hosts"),
    ("docker: {owner: a, hosts: {}}\n", "b.yaml:1: docker.hosts: at least one host must be declared"),
    ("docker: {owner: a, hosts: {x: {}}}\n", "b.yaml:1: docker.hosts.x: a host needs a url"),
    ("docker: {owner: a, hosts: {static: {url: 'unix:///s'}}}\n", "b.yaml:1: docker.hosts.static: a host's name must"),
    (
      "docker: {owner: a, hosts: {x: {url: 'http://h'}}}\n", "b.yaml:1: docker.hosts.x.url: must be unix:///path or tcp"
    ),
    (
      "docker: {owner: a, hosts: {x: {url: 'tcp://10.0.0.7:2375'}}}\n",
      "b.yaml:1: docker.hosts.x.url: who reaches an engine without TLS is root there"
    ),
    (
      "docker: {owner: a, hosts: {x: {url: 'tcp://10.0.0.7:1', key: /k}}}\n",
      "b.yaml:1: docker.hosts.x: TLS needs certificate and key"
    ),
    (
      "docker: {owner: a, hosts: {x: {url: 'unix:///s', key: /k, certificate: /c}}}\n",
      "b.yaml:1: docker.hosts.x.url: must be tcp://host:port, as certificate and key are given"
    ),
    (
      "docker: {owner: a, hosts: {x: {url: 'tcp://e.example:1', key: /k, certificate: /c}}}\n",
      "b.yaml:1: docker.hosts.x: needs an address"
    ),
    (
      "docker: {owner: a, hosts: {x: {url: 'unix:///s', address: big}}}\n",
      "b.yaml:1: docker.hosts.x.address: must be an IPv4 or IPv6 address, not \"big\""
    ),
    (
      "docker: {owner: a, hosts: {x: {url: 'unix:///s', portRangeStart: 5000, portRangeEnd: 4000}}}\n",
      "b.yaml:1: docker.hosts.x.portRangeEnd: the port range 5000 to 4000 is empty"
    ),
    (
      "docker: {owner: a, hosts: {x: {url: 'unix:///s'}, y: {url: 'unix:///t', portRangeStart: 55000}}}\n",
      "b.yaml:1: docker.hosts.y: has the address of x and shares ports with it"
    ),
    (
      "docker: {owner: a, hosts: {x: {url: 'unix:///s', size: 1}}}\n", "b.yaml:1: docker.hosts.x.size: there is no such"
    ),
    (
      "docker: {owner: a, graceSeconds: soon, hosts: {x: {url: 'unix:///s'}}}\n",
      "b.yaml:1: docker.graceSeconds: must be"
    ),
  ]) func whatCannotBeIsRefusedWithItsPlace(_ yaml: String, _ words: String) {
    let said = complaint(yaml)
    #expect(said.hasPrefix(words), "\(said)")
  }

  @Test(arguments: [
    ("", "needs an image"), ("image: 'a b'", "pools.chrome.image: must be the name of an image"),
    ("image: c, pull: always", "pools.chrome.pull: must be one of missing, never, not \"always\""),
    ("image: c, cpus: none", "pools.chrome.cpus: must be a number from 0.01 to 1024, not \"none\""),
    ("image: c, pids: 1", "pools.chrome.pids: must be a whole number from 16"),
    ("image: c, tmpfs: {tmp: a}", "pools.chrome.tmpfs: \"tmp\" must be a path"),
    ("image: c, hosts: [moon]", "pools.chrome.hosts: \"moon\" is no host of docker (local)"),
    ("image: c, command: x", "pools.chrome.command: there is no such setting"),
    ("image: c, servers: []", "pools.chrome.servers: there is no such setting"),
  ]) func aContainerThatCannotBeIsRefused(_ fields: String, _ words: String) {
    let said = complaint(
      "docker: {owner: a, hosts: {local: {url: 'unix:///s'}}}\npools: {chrome: {runtime: docker, \(fields)}}\n")
    #expect(said.hasPrefix("b.yaml:2: ") && said.contains(words), "\(said)")
  }
}

@Suite struct SharedPortsTests {
  @Test func processesAndContainersOfOneHostDoNotShareThem() throws {
    func file(_ ports: String) -> String {
      """
      portRangeStart: 40000
      portRangeEnd: 40999
      docker: {owner: a, hosts: {local: {url: 'unix:///s'\(ports)}}}
      pools: {chrome: {}, boxed: {runtime: docker, image: c}}
      """
    }
    #expect(
      complaint(file(""))
        == "docker.hosts.local: its containers and the processes of other pools would share the ports 40000 to 40999; "
        + "give it its own portRangeStart and portRangeEnd")
    #expect(complaint(file(", portRangeStart: 41000, portRangeEnd: 41999")) == "no complaint")
    #expect(complaint(file(", address: 10.0.0.7")) == "no complaint")
  }
}

@Suite struct FixedSettingsTests {
  @Test func serversAreInstances() throws {
    let settings = try load(
      """
      pools:
        fc:
          kind: http
          runtime: static
          servers:
            - http://10.0.0.1:8080
            - {url: "http://[::1]:81/", weight: 3, start: [a, b], stop: [c]}
            - {url: http://10.0.0.2, restart: [d]}
      """)
    var second = FixedServer(address: "::1", port: 81, weight: 3)
    second.start = ["a", "b"]
    second.stop = ["c"]
    var third = FixedServer(address: "10.0.0.2", port: 80)
    third.restart = ["d"]
    let pool = settings.pools[0]
    #expect(
      pool.runtime == .fixed(FixedSpec(servers: [FixedServer(address: "10.0.0.1", port: 8_080), second, third])))
    #expect(pool.min == 3 && pool.max == 3 && pool.spare == 0 && pool.slots == 0 && pool.recycleAfterSessions == 0)
    #expect(second.canRestart && third.canRestart && !FixedServer(address: "", port: 1).canRestart)
    #expect(second.id(in: "fc") == "fc-__1-81")
  }

  @Test func aServerThatNothingRestartsIsNeverReplaced() throws {
    let pools = try load(
      """
      pools:
        http: {kind: http, runtime: static, servers: [http://10.0.0.1:1]}
        chrome: {kind: cdp, runtime: static, servers: [http://10.0.0.1:2]}
        other: {kind: http, runtime: static, servers: [{url: 'http://10.0.0.1:3', restart: [x]}]}
      """
    ).pools
    #expect(pools[0].health.failuresBeforeReplacement == .max)
    #expect(pools[1].health.failuresBeforeReplacement == 6 && pools[1].slots == 1)
    #expect(pools[2].health.failuresBeforeReplacement == 6)
  }

  @Test(arguments: [
    ("", "b.yaml:1: pools.a: a pool of runtime static needs servers"), ("servers: []", "b.yaml:1: pools.a: a pool of"),
    ("servers: x", "b.yaml:1: pools.a.servers: must be a list"),
    ("servers: [10.0.0.1]", "b.yaml:1: pools.a.servers[1]: must be a URL of an address and port"),
    ("servers: ['http://fc.example:80']", "b.yaml:1: pools.a.servers[1]: must be a URL of an address"),
    ("servers: ['http://10.0.0.1:80/x']", "b.yaml:1: pools.a.servers[1]: must be a URL of an address"),
    ("servers: [{weight: 1}]", "b.yaml:1: pools.a.servers[1]: a server needs a url"),
    ("servers: [{url: 'http://10.0.0.1:1', weight: 257}]", "b.yaml:1: pools.a.servers[1].weight: must be"),
    (
      "servers: [{url: 'http://10.0.0.1:1', stop: [x]}]", "b.yaml:1: pools.a.servers[1]: what stop ends, nothing brings"
    ),
    ("servers: [{url: 'http://10.0.0.1:1', size: 1}]", "b.yaml:1: pools.a.servers[1].size: there is no such setting"),
    ("servers: ['http://10.0.0.1:1', 'http://10.0.0.1:1']", "b.yaml:1: pools.a.servers: 10.0.0.1:1 stands there twice"),
    ("servers: ['http://10.0.0.1:1'], min: 3", "b.yaml:1: pools.a.min: there is no such setting"),
    (
      "servers: ['http://10.0.0.1:1'], slots: 1, recycleAfterSessions: 1",
      "b.yaml:1: pools.a: recycleAfterSessions needs"
    ),
  ]) func whatCannotBeIsRefusedWithItsPlace(_ fields: String, _ words: String) {
    let said = complaint("pools: {a: {kind: http, runtime: static, \(fields)}}\n")
    #expect(said.hasPrefix(words), "\(said)")
  }
}

@Suite struct RuntimeDocumentationTests {
  private func documentation() throws -> String {
    let path = String(#filePath).split(separator: "/").dropLast(4).map { "/" + $0 }.joined() + "/docs/configuration.md"
    guard let file = unsafe fopen(path, "r") else {
      Issue.record("\(path) is missing")
      return ""
    }
    defer { unsafe fclose(file) }
    var bytes = [UInt8](repeating: 0, count: 1 << 18)
    let count = unsafe fread(&bytes, 1, bytes.count, file)
    return String(decoding: bytes[..<count], as: UTF8.self)
  }

  private func known(_ yaml: String) throws -> Set<String> {
    Set(try #require(complaint(yaml).components(after: "known are ")))
  }

  @Test func everyFieldHasItsRowAndNoOther() throws {
    let engine = "docker: {owner: a, hosts: {x: {url: 'unix:///s'}}}\n"
    let swarm = "swarm: {owner: a, managers: ['unix:///s']}\n"
    let everyPool = try known("pools: {a: {nonsense: 1}}")
    let fields: [String: Set<String>] = [
      "Engines": try known("docker: {owner: a, hosts: {x: {url: 'unix:///s'}}, nonsense: 1}").union(
        try known("docker: {owner: a, hosts: {x: {url: 'unix:///s', nonsense: 1}}}").map { "hosts." + $0 }),
      "Containers": try known(engine + "pools: {a: {runtime: docker, image: c, nonsense: 1}}")
        .subtracting(everyPool.subtracting(["arguments", "environment"])),
      "Swarm": try known("swarm: {owner: a, managers: ['unix:///s'], nonsense: 1}").union(
        try known("swarm: {owner: a, managers: [{url: 'unix:///s', nonsense: 1}]}").map { "managers." + $0 }),
      "Services": try known(swarm + "pools: {a: {runtime: swarm, image: c, nonsense: 1}}")
        .subtracting(try known(engine + "pools: {a: {runtime: docker, image: c, nonsense: 1}}")),
      "Fixed servers": try known("pools: {a: {runtime: static, servers: ['http://10.0.0.1:1'], nonsense: 1}}")
        .subtracting(everyPool).union(
          try known("pools: {a: {runtime: static, servers: [{url: 'http://10.0.0.1:1', nonsense: 1}]}}").map {
            "servers." + $0
          }),
    ]
    let sections = try documentation().split(separator: "\n## ")
    for (name, fields) in fields {
      let text = try #require(sections.first { $0.hasPrefix(name + "\n") })
      let rows = text.split(separator: "\n").filter { $0.hasPrefix("| `") }.map { row in
        String(row.dropFirst(3).prefix { $0 != "`" })
      }
      #expect(Set(rows) == fields, "\(name)")
    }
  }
}

extension String {
  fileprivate func components(after mark: String) -> [String]? {
    guard let range = firstRange(of: mark) else { return nil }
    return self[range.upperBound...].split(separator: ", ").map(String.init)
  }
}
