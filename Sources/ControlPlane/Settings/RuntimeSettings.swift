// How the configuration file declares the instances of a pool: as processes, as containers, or as servers that run
// already. Each runtime has names of its own, so that one of another runtime is refused like any unknown one.
import Domain
import Routing

/// The runtimes that a pool may name.
enum RuntimeName: String, CaseIterable {
  case process, docker, swarm
  case fixed = "static"
}

extension ControlSettings {
  func runtime(_ runtime: RuntimeName, kind: PoolKind, _ file: inout FileSection?) throws(SettingsError) -> RuntimeSpec
  {
    switch runtime {
    case .process: .process(try Self.process(kind, &file))
    case .docker: .container(try hostedContainer(&file))
    case .swarm: .service(try service(&file))
    case .fixed: .fixed(try Self.servers(&file))
    }
  }

  private static func process(_ kind: PoolKind, _ file: inout FileSection?) throws(SettingsError) -> ProcessSpec {
    let command = try file?.value("command").map { (value) throws(SettingsError) in try value.nonEmpty() }
    guard kind == .cdp || command != nil else {
      throw SettingsError("\(file?.place ?? "pools"): a pool of kind \(kind.rawValue) needs a command")
    }
    return ProcessSpec(
      command: command, arguments: try file?.list("arguments") ?? [],
      environment: try file?.strings("environment") ?? [:])
  }

  // MARK: Containers

  private func hostedContainer(_ file: inout FileSection?) throws(SettingsError) -> ContainerSpec {
    guard let engines = docker else {
      throw SettingsError(
        "\(file?.place ?? "pools"): runtime docker needs a section docker at the top of the file, with owner and hosts")
    }
    var spec = try Self.container(&file, runtime: .docker)
    if let value = try file?.value("pull") { spec.pull = try value.choice(ContainerSpec.Pull.self) }
    spec.hosts = try file?.list("hosts") ?? []
    for name in spec.hosts where !engines.hosts.contains(where: { $0.name == name }) {
      throw SettingsError(
        "\(file?.place(of: "hosts") ?? ""): \"\(name)\" is no host of docker (\(engines.hosts.map(\.name).joined(separator: ", ")))"
      )
    }
    return spec
  }

  /// What containers have in common, whoever starts them.
  static func container(_ file: inout FileSection?, runtime: RuntimeName) throws(SettingsError) -> ContainerSpec {
    guard let image = try file?.value("image") else {
      throw SettingsError("\(file?.place ?? "pools"): a pool of runtime \(runtime.rawValue) needs an image")
    }
    guard !image.text.isEmpty, !image.text.contains(where: { $0 == " " || $0.isNewline }) else {
      throw image.wrong("the name of an image, like berth/chrome or registry.example.org/chrome:156")
    }
    var spec = ContainerSpec(image: image.text)
    spec.arguments = try file?.list("arguments") ?? []
    spec.environment = try file?.strings("environment") ?? [:]
    func number(
      _ key: String, _ path: WritableKeyPath<ContainerSpec, Int>, in range: ClosedRange<Int>
    ) throws(SettingsError) { if let value = try file?.value(key) { spec[keyPath: path] = try value.int(in: range) } }
    try number("containerPort", \.port, in: 1...65_535)
    try number("memoryMegabytes", \.memoryMegabytes, in: 0...1_048_576)
    try number("pids", \.pids, in: 16...1_000_000)
    try number("shmMegabytes", \.shmMegabytes, in: 1...1_048_576)
    if let value = try file?.value("cpus") { spec.milliCPUs = try value.thousandths(upTo: 1_024) }
    if let value = try file?.value("seccomp") { spec.seccomp = try value.nonEmpty() }
    if let value = try file?.value("readOnly") { spec.readOnly = try value.bool() }
    if let value = try file?.value("user") { spec.user = try value.nonEmpty() }
    if let value = try file?.value("network") { spec.network = try value.nonEmpty() }
    if let value = try file?.value("logDriver") {
      spec.logDriver = try value.nonEmpty()
      // The defaults are those of json-file; another driver has names of its own.
      if spec.logDriver != "json-file" { spec.logOptions = [:] }
    }
    if let options = try file?.strings("logOptions") { spec.logOptions = options }
    spec.capabilities = try file?.list("capabilities") ?? []
    if let tmpfs = try file?.strings("tmpfs") {
      for path in tmpfs.keys.sorted() where !path.hasPrefix("/") {
        throw SettingsError("\(file?.place ?? "").tmpfs: \"\(path)\" must be a path that begins with /")
      }
      spec.tmpfs = tmpfs
    }
    return spec
  }

  /// The section `docker`, which pools of that runtime refer to.
  mutating func readEngines(_ top: inout FileSection?) throws(SettingsError) {
    guard var section = try top?.section("docker") else { return }
    guard let owner = try section.value("owner") else {
      throw SettingsError(
        "\(section.place): needs an owner, a name for this deployment: containers on the engines that bear it and that "
          + "nobody here knows are removed")
    }
    guard PoolSpec.isName(owner.text) else { throw owner.wrong("1 to 40 lower-case letters, digits, - or _") }
    var engines = EngineSettings(owner: owner.text, hosts: [])
    if let grace = try section.value("graceSeconds") {
      engines.graceMilliseconds = try grace.int(in: 0...86_400) * 1_000
    }
    guard var declared = try section.section("hosts") else {
      throw SettingsError("\(section.place): needs hosts, e.g. {local: {url: unix:///var/run/docker.sock}}")
    }
    for name in declared.names {
      guard PoolSpec.isName(name), name != "static" else {
        throw SettingsError(
          "\(declared.place(of: name)): a host's name must be 1 to 40 lower-case letters, digits, - or _, and not static"
        )
      }
      guard let host = try declared.section(name) else {
        throw SettingsError("\(declared.place(of: name)): a host needs at least a url")
      }
      engines.hosts.append(try engine(name, host, beside: engines.hosts))
    }
    guard !engines.hosts.isEmpty else { throw SettingsError("\(declared.place): at least one host must be declared") }
    try section.finish()
    docker = engines
  }

  /// Where an engine listens, and the files with which both sides know each other.
  static func endpoint(_ section: inout FileSection, of owner: String) throws(SettingsError) -> EngineEndpoint {
    guard let url = try section.value("url") else { throw SettingsError("\(section.place): \(owner) needs a url") }
    func file(_ key: String) throws(SettingsError) -> String? {
      try section.value(key).map { (value) throws(SettingsError) in try value.nonEmpty() }
    }
    let (ca, certificate, key) = (try file("ca"), try file("certificate"), try file("key"))
    var tls: EngineTLS?
    if let certificate, let key {
      tls = EngineTLS(caFile: ca, certificateFile: certificate, keyFile: key)
    } else if certificate != nil || key != nil || ca != nil {
      throw SettingsError(
        "\(section.place): TLS needs certificate and key, and ca unless the system trusts the engine's")
    }
    return try endpoint(url, tls: tls)
  }

  static func endpoint(_ url: Written, tls: EngineTLS?) throws(SettingsError) -> EngineEndpoint {
    guard let endpoint = EngineEndpoint(url.text, tls: tls) else {
      throw url.wrong(
        tls == nil ? "unix:///path or tcp://host:port" : "tcp://host:port, as certificate and key are given")
    }
    if case .tcp(let host, _, nil) = endpoint, !Endpoint(host: host, port: 1).isLoopback {
      throw SettingsError(
        "\(url.place): who reaches an engine without TLS is root there; give ca, certificate and key, or use unix://")
    }
    return endpoint
  }

  private func engine(
    _ name: String, _ section: FileSection, beside others: [EngineHost]
  ) throws(SettingsError) -> EngineHost {
    var section = section
    let endpoint = try Self.endpoint(&section, of: "a host")
    var host = EngineHost(
      name: name, endpoint: endpoint, portRange: portRange, concurrentLaunches: concurrentLaunches)
    if let value = try section.value("address") {
      host.address = try value.addressLiteral()
      host.bind = host.address
    } else if case .tcp(let name, _, _) = endpoint, Written.isAddressLiteral(name) {
      host.address = name
      host.bind = name
    } else if case .tcp = endpoint {
      throw SettingsError("\(section.place): needs an address, the one that replicas reach its published ports at")
    }
    if let value = try section.value("bind") { host.bind = try value.addressLiteral() }
    if let value = try section.value("capacity") { host.capacity = try value.int(in: 1...10_000) }
    if let value = try section.value("concurrentLaunches") { host.concurrentLaunches = try value.int(in: 1...1_000) }
    host.portRange = try readPortRange(&section)
    if let other = others.first(where: { $0.address == host.address && $0.portRange.overlaps(host.portRange) }) {
      throw SettingsError(
        "\(section.place): has the address of \(other.name) and shares ports with it; give each its own "
          + "portRangeStart and portRangeEnd")
    }
    try section.finish()
    return host
  }

  /// A section's own range, or the one of the file.
  func readPortRange(_ section: inout FileSection) throws(SettingsError) -> ClosedRange<Int> {
    let first = try section.value("portRangeStart")
    let last = try section.value("portRangeEnd")
    let lower = try first?.int(in: 1_024...65_535) ?? portRange.lowerBound
    let upper = try last?.int(in: 1_024...65_535) ?? portRange.upperBound
    guard lower <= upper else {
      throw SettingsError("\((last ?? first)?.place ?? section.place): the port range \(lower) to \(upper) is empty")
    }
    return lower...upper
  }

  /// Processes of this host and containers of an engine on it would take each other's ports. Called when both are read.
  func checkPorts() throws(SettingsError) {
    try checkSwarmPorts()
    guard let docker, pools.contains(where: \.runtime.isProcess) else { return }
    for host in docker.hosts
    where Endpoint(host: host.address, port: 1).isLoopback && host.portRange.overlaps(portRange) {
      throw SettingsError(
        "docker.hosts.\(host.name): its containers and the processes of other pools would share the ports "
          + "\(host.portRange.lowerBound) to \(host.portRange.upperBound); give it its own portRangeStart and portRangeEnd"
      )
    }
  }

  // MARK: Servers that run already

  private static func servers(_ file: inout FileSection?) throws(SettingsError) -> FixedSpec {
    guard let entries = try file?.entries("servers"), !entries.isEmpty else {
      throw SettingsError(
        "\(file?.place ?? "pools"): a pool of runtime static needs servers, a list like [http://10.0.0.1:8080]")
    }
    var servers: [FixedServer] = []
    for entry in entries {
      let server: FixedServer
      switch entry {
      case .value(let value): server = try value.server()
      case .section(var section):
        guard let url = try section.value("url") else { throw SettingsError("\(section.place): a server needs a url") }
        var one = try url.server()
        if let weight = try section.value("weight") { one.weight = try weight.int(in: InstanceRecord.weights) }
        one.start = try section.list("start") ?? []
        one.stop = try section.list("stop") ?? []
        one.restart = try section.list("restart") ?? []
        if one.start.isEmpty, !one.stop.isEmpty, one.restart.isEmpty {
          throw SettingsError("\(section.place): what stop ends, nothing brings back; give start or restart too")
        }
        try section.finish()
        server = one
      }
      guard !servers.contains(where: { $0.address == server.address && $0.port == server.port }) else {
        throw SettingsError(
          "\(file?.place(of: "servers") ?? ""): \(server.address):\(server.port) stands there twice; use weight instead"
        )
      }
      servers.append(server)
    }
    return FixedSpec(servers: servers)
  }

  /// What a pool of fixed servers cannot choose: there are as many instances as servers.
  static func settle(_ spec: inout PoolSpec, servers: FixedSpec) {
    spec.min = servers.servers.count
    spec.max = servers.servers.count
    spec.spare = 0
    spec.recycleAfterSessions = 0
    // Nothing is gained by forgetting a server that will answer again, unless it can be started anew.
    if spec.kind != .cdp, !servers.servers.contains(where: \.canRestart) {
      spec.health.failuresBeforeReplacement = .max
    }
  }
}

extension Written {
  /// Looks like an address; whether it is one, the first connection tells.
  static func isAddressLiteral(_ text: String) -> Bool {
    let parts = text.split(separator: ".", omittingEmptySubsequences: false)
    if parts.count == 4, parts.allSatisfy({ UInt8($0) != nil && $0.count <= 3 }) { return true }
    return text.contains(":")
      && text.utf8.allSatisfy { byte in
        switch byte {
        case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "a")...UInt8(ascii: "f"),
          UInt8(ascii: "A")...UInt8(ascii: "F"), UInt8(ascii: ":"), UInt8(ascii: "."):
          true
        default: false
        }
      }
  }

  func addressLiteral() throws(SettingsError) -> String {
    guard Self.isAddressLiteral(text) else { throw wrong("an IPv4 or IPv6 address") }
    return text
  }

  /// `http://10.0.0.1:8080`.
  func server() throws(SettingsError) -> FixedServer {
    let expected = "a URL of an address and port like http://10.0.0.1:8080"
    guard text.hasPrefix("http://") else { throw wrong(expected) }
    var rest = text.dropFirst("http://".count)
    if rest.hasSuffix("/") { rest = rest.dropLast() }
    guard let endpoint = Endpoint(rest.contains(":") && !rest.hasSuffix("]") ? String(rest) : "\(rest):80"),
      Self.isAddressLiteral(endpoint.host)
    else { throw wrong(expected) }
    return FixedServer(address: endpoint.host, port: endpoint.port)
  }

  /// A number like 1.5 in thousandths, more than none.
  func thousandths(upTo limit: Int) throws(SettingsError) -> Int {
    guard let number = Double(text), number >= 0.01, number <= Double(limit) else {
      throw wrong("a number from 0.01 to \(limit)")
    }
    return Int((number * 1_000).rounded())
  }
}
