// The section `swarm` of the configuration file, and pools of that runtime: containers with a few fields of their own, less
// what a service cannot have.
import Domain
import Routing

extension ControlSettings {
  /// The section `swarm`, which pools of that runtime refer to.
  mutating func readSwarm(_ top: inout FileSection?) throws(SettingsError) {
    guard var section = try top?.section("swarm") else { return }
    guard let owner = try section.value("owner") else {
      throw SettingsError(
        "\(section.place): needs an owner, a name for this deployment: services of the swarm that bear it and that nobody "
          + "here knows are removed")
    }
    guard PoolSpec.isName(owner.text) else { throw owner.wrong("1 to 40 lower-case letters, digits, - or _") }
    var swarm = SwarmSettings(
      owner: owner.text, managers: try Self.managers(&section), portRange: portRange,
      concurrentLaunches: totalConcurrentLaunches)
    if let name = try section.value("name") {
      guard PoolSpec.isName(name.text), name.text != "static" else {
        throw name.wrong("1 to 40 lower-case letters, digits, - or _, and not static")
      }
      swarm.name = name.text
    }
    if let other = docker?.hosts.first(where: { $0.name == swarm.name }) {
      throw SettingsError(
        "\(section.place): its name \(swarm.name) is that of docker.hosts.\(other.name); give one of them another name")
    }
    if var addresses = try section.section("addresses") {
      for node in addresses.names { swarm.addresses[node] = try addresses.value(node)?.addressLiteral() }
    }
    if let grace = try section.value("graceSeconds") {
      swarm.graceMilliseconds = try grace.int(in: 0...86_400) * 1_000
    }
    if let value = try section.value("capacity") { swarm.capacity = try value.int(in: 1...100_000) }
    if let value = try section.value("concurrentLaunches") { swarm.concurrentLaunches = try value.int(in: 1...1_000) }
    swarm.portRange = try readPortRange(&section)
    try section.finish()
    self.swarm = swarm
  }

  private static func managers(_ section: inout FileSection) throws(SettingsError) -> [EngineEndpoint] {
    guard let entries = try section.entries("managers"), !entries.isEmpty else {
      throw SettingsError("\(section.place): needs managers, a list like [unix:///var/run/docker.sock]")
    }
    var managers: [EngineEndpoint] = []
    for entry in entries {
      switch entry {
      case .value(let url): managers.append(try endpoint(url, tls: nil))
      case .section(var one):
        managers.append(try endpoint(&one, of: "a manager"))
        try one.finish()
      }
    }
    return managers
  }

  func service(_ file: inout FileSection?) throws(SettingsError) -> ServiceSpec {
    guard swarm != nil else {
      throw SettingsError(
        "\(file?.place ?? "pools"): runtime swarm needs a section swarm at the top of the file, with owner and managers"
      )
    }
    try file?.refuse(
      "hosts", because: "Swarm's scheduler chooses the node: say constraints, like [node.labels.browsers==true]")
    try file?.refuse(
      "pull",
      because: "nodes fetch images by themselves; one that is named by its digest or id is not asked for at a registry")
    var service = ServiceSpec(container: try Self.container(&file, runtime: .swarm))
    for (path, options) in service.container.tmpfs.sorted(by: { $0.key < $1.key })
    where MemoryMount(options: options) == nil || path == "/dev/shm" {
      let place = file?.place(of: "tmpfs") ?? ""
      throw SettingsError(
        path == "/dev/shm"
          ? "\(place): the size of /dev/shm is shmMegabytes"
          : "\(place): \"\(options)\" of \(path): a service can only have size and mode, like size=512m,mode=1777")
    }
    service.constraints = try file?.list("constraints") ?? []
    if let place = file?.place(of: "constraints"),
      let wrong = service.constraints.first(where: { !$0.contains("==") && !$0.contains("!=") })
    {
      throw SettingsError("\(place): \"\(wrong)\" must be like node.labels.browsers==true or node.hostname!=small")
    }
    if let value = try file?.value("reservedMegabytes") { service.reservedMegabytes = try value.int(in: 0...1_048_576) }
    if let value = try file?.value("reservedCPUs") {
      service.reservedMilliCPUs = value.text == "0" ? 0 : try value.thousandths(upTo: 1_024)
    }
    return service
  }

  /// Services publish their ports on all addresses of their node, so whoever else has ports there must have others.
  func checkSwarmPorts() throws(SettingsError) {
    guard let swarm else { return }
    let isHere = swarm.managers.contains { manager in
      switch manager {
      case .unix: true
      case .tcp(let host, _, _): Endpoint(host: host, port: 1).isLoopback
      }
    }
    func sharing(_ what: String, _ range: ClosedRange<Int>) -> SettingsError {
      SettingsError(
        "swarm: its services and \(what) would share the ports \(range.clamped(to: swarm.portRange).lowerBound) to "
          + "\(range.clamped(to: swarm.portRange).upperBound); give it its own portRangeStart and portRangeEnd")
    }
    if isHere, pools.contains(where: \.runtime.isProcess), swarm.portRange.overlaps(portRange) {
      throw sharing("the processes of other pools", portRange)
    }
    for host in docker?.hosts ?? []
    where swarm.portRange.overlaps(host.portRange)
      && (swarm.managers.contains(host.endpoint) || isHere && Endpoint(host: host.address, port: 1).isLoopback)
    {
      throw sharing("the containers of docker.hosts.\(host.name)", host.portRange)
    }
  }
}
