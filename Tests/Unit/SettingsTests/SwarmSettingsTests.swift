// A swarm and its pools in the configuration: what they become, what is refused and where it stands.
import Domain
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

@Suite struct SwarmSettingsTests {
  private static let swarm = "swarm: {owner: prod, managers: ['unix:///s']}\n"
  private static let pool = "pools: {chrome: {runtime: swarm, image: c}}\n"

  @Test func theShortestDeclarationIsEnough() throws {
    let settings = try load(Self.swarm + Self.pool)
    #expect(
      settings.swarm
        == SwarmSettings(
          owner: "prod", name: "swarm", managers: [.unix(path: "/s")], portRange: 50_000...60_000,
          graceMilliseconds: 60_000, capacity: 200, concurrentLaunches: 8))
    #expect(settings.pools[0].runtime == .service(ServiceSpec(container: ContainerSpec(image: "c"))))
    #expect(settings.pools[0].runtime.container?.image == "c" && settings.pools[0].tailoredLimit == 4)
  }

  @Test func everythingCanBeSaid() throws {
    let settings = try load(
      """
      swarm:
        owner: prod
        name: east
        managers:
          - {url: 'tcp://10.0.0.7:2376', ca: /ca.pem, certificate: /c.pem, key: /k.pem}
          - unix:///var/run/docker.sock
        addresses: {node2: 10.0.0.8, abc123: 'fd00::8'}
        graceSeconds: 5
        capacity: 7
        concurrentLaunches: 3
        portRangeStart: 40000
        portRangeEnd: 40099
      pools:
        chrome:
          runtime: swarm
          image: c
          constraints: [node.labels.browsers==true, node.hostname!=small]
          memoryMegabytes: 1024
          cpus: 2
          reservedMegabytes: 512
          reservedCPUs: 0.5
          tmpfs: {/tmp: "size=512m,mode=1777"}
      """)
    let swarm = try #require(settings.swarm)
    let tls = EngineTLS(caFile: "/ca.pem", certificateFile: "/c.pem", keyFile: "/k.pem")
    #expect(swarm.managers == [.tcp(host: "10.0.0.7", port: 2_376, tls: tls), .unix(path: "/var/run/docker.sock")])
    #expect(swarm.name == "east" && swarm.addresses == ["node2": "10.0.0.8", "abc123": "fd00::8"])
    #expect(swarm.graceMilliseconds == 5_000 && swarm.capacity == 7 && swarm.concurrentLaunches == 3)
    #expect(swarm.portRange == 40_000...40_099)
    guard case .service(let service) = settings.pools[0].runtime else { return #expect(Bool(false)) }
    #expect(service.constraints == ["node.labels.browsers==true", "node.hostname!=small"])
    #expect(service.reservedMegabytes == 512 && service.reservedMilliCPUs == 500)
    #expect(service.container.memoryMegabytes == 1_024 && service.container.milliCPUs == 2_000)
  }

  @Test(arguments: [
    (pool, "b.yaml:1: pools.chrome: runtime swarm needs a section swarm at the top of the file, with owner and"),
    ("swarm: {managers: ['unix:///s']}\n", "b.yaml:1: swarm: needs an owner, a name for this deployment"),
    ("swarm: {owner: A, managers: ['unix:///s']}\n", "b.yaml:1: swarm.owner: must be 1 to 40 lower-case letters"),
    ("swarm: {owner: a}\n", "b.yaml:1: swarm: needs managers, a list like"),
    ("swarm: {owner: a, managers: []}\n", "b.yaml:1: swarm: needs managers"),
    ("swarm: {owner: a, managers: [x]}\n", "b.yaml:1: swarm.managers[1]: must be unix:///path or tcp://host:port"),
    (
      "swarm: {owner: a, managers: ['tcp://10.0.0.7:2375']}\n",
      "b.yaml:1: swarm.managers[1]: who reaches an engine without TLS is root there"
    ),
    ("swarm: {owner: a, managers: [{ca: /c}]}\n", "b.yaml:1: swarm.managers[1]: a manager needs a url"),
    (
      "swarm: {owner: a, managers: [{url: 'unix:///s', weight: 1}]}\n",
      "b.yaml:1: swarm.managers[1].weight: there is no such setting"
    ),
    ("swarm: {owner: a, managers: ['unix:///s'], name: static}\n", "b.yaml:1: swarm.name: must be 1 to 40"),
    (
      "docker: {owner: a, hosts: {x: {url: 'unix:///s'}}}\nswarm: {owner: a, managers: ['unix:///t'], name: x}\n",
      "b.yaml:2: swarm: its name x is that of docker.hosts.x"
    ),
    (
      "swarm: {owner: a, managers: ['unix:///s'], addresses: {n: big}}\n",
      "b.yaml:1: swarm.addresses.n: must be an IPv4 or IPv6 address, not \"big\""
    ),
    ("swarm: {owner: a, managers: ['unix:///s'], hosts: {}}\n", "b.yaml:1: swarm.hosts: there is no such setting"),
  ]) func whatCannotBeIsRefusedWithItsPlace(_ yaml: String, _ words: String) {
    let said = complaint(yaml)
    #expect(said.hasPrefix(words), "\(said)")
  }

  @Test(arguments: [
    ("", "a pool of runtime swarm needs an image"),
    ("image: c, hosts: [a]", "pools.chrome.hosts: Swarm's scheduler chooses the node: say constraints"),
    ("image: c, pull: never", "pools.chrome.pull: nodes fetch images by themselves"),
    ("image: c, tmpfs: {/tmp: noexec}", "pools.chrome.tmpfs: \"noexec\" of /tmp: a service can only have size and"),
    ("image: c, tmpfs: {/dev/shm: size=1m}", "pools.chrome.tmpfs: the size of /dev/shm is shmMegabytes"),
    ("image: c, constraints: [browsers]", "pools.chrome.constraints: \"browsers\" must be like node.labels."),
    ("image: c, reservedCPUs: x", "pools.chrome.reservedCPUs: must be a number from 0.01 to 1024"),
    ("image: c, command: x", "pools.chrome.command: there is no such setting"),
    ("image: c, launchOptions: {snapshots: /s}", "profiles are copied for pools of runtime process only"),
  ]) func aServiceThatCannotBeIsRefused(_ fields: String, _ words: String) {
    let said = complaint(Self.swarm + "pools: {chrome: {runtime: swarm, \(fields)}}\n")
    #expect(said.hasPrefix("b.yaml:2: ") && said.contains(words), "\(said)")
  }

  @Test func itsPortsAreNobodyElses() {
    func file(_ swarm: String, pools: String = "{chrome: {}, boxed: {runtime: swarm, image: c}}", engine: String = "")
      -> String
    {
      """
      portRangeStart: 40000
      portRangeEnd: 40999
      \(engine.isEmpty ? "" : "docker: {owner: a, hosts: {local: {\(engine)}}}")
      swarm: {owner: a, managers: ['unix:///s']\(swarm)}
      pools: \(pools)
      """
    }
    #expect(
      complaint(file(""))
        == "swarm: its services and the processes of other pools would share the ports 40000 to 40999; "
        + "give it its own portRangeStart and portRangeEnd")
    #expect(complaint(file(", portRangeStart: 41000, portRangeEnd: 41999")) == "no complaint")
    let boxed = "{boxed: {runtime: swarm, image: c}}"
    #expect(complaint(file("", pools: boxed)) == "no complaint")
    let engine = "url: 'unix:///t', portRangeStart: 40500, portRangeEnd: 49999"
    #expect(
      complaint(file("", pools: boxed, engine: engine)).hasPrefix(
        "swarm: its services and the containers of docker.hosts.local would share the ports 40500 to 40999;"))
    #expect(complaint(file("", pools: boxed, engine: engine + ", address: 10.0.0.9")) == "no complaint")
  }
}
