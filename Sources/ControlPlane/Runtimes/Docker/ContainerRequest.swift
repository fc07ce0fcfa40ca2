// What an engine is told about a container: pure functions from a pool's declaration and a plan to the body of "create",
// and back from a container's labels to the record of its instance.
package import Domain
package import JSON
package import Routing

package enum ContainerRequest {
  /// The same for the same instance, so that what was made is found although the engine's answer was lost.
  package static func name(owner: String, instance: String) -> String { "berth-\(owner)-\(instance)" }

  /// - Parameter seccomp: the text of the profile, if the pool has one of its own.
  package static func body(
    _ plan: LaunchPlan, container: ContainerSpec, seccomp: String?, owner: String, host: EngineHost, now: Int
  ) -> JSON {
    let port = "\(container.port)/tcp"
    var body: JSONObject = [
      "Image": .string(container.image),
      "Env": environment(plan, container), "Labels": ContainerLabels.of(plan, owner: owner, host: host.name, now: now),
      "ExposedPorts": [port: [:]],
      "HostConfig": .object(hostConfig(plan, container, seccomp: seccomp, port: port, bind: host.bind)),
    ]
    if let arguments = arguments(plan, container) { body["Cmd"] = arguments }
    if let user = container.user { body["User"] = .string(user) }
    return .object(body)
  }

  /// The variables of an instance: the pool's, then its session's, then ours.
  static func environment(_ plan: LaunchPlan, _ container: ContainerSpec) -> JSON {
    var environment = container.environment.mapValues { expand($0, plan, container) }
    for (name, value) in plan.options?.environment ?? [:] { environment[name] = value }
    environment["BERTH_INSTANCE"] = plan.id
    environment["BERTH_CONTAINER_PORT"] = String(container.port)
    return .array(environment.map { "\($0.key)=\($0.value)" }.sorted().map(JSON.string))
  }

  /// What follows the image's entry point; nil = the image's own.
  static func arguments(_ plan: LaunchPlan, _ container: ContainerSpec) -> JSON? {
    let arguments = container.arguments.map { expand($0, plan, container) } + (plan.options?.chromeArguments ?? [])
    return arguments.isEmpty ? nil : .array(arguments.map(JSON.string))
  }

  private static func expand(_ text: String, _ plan: LaunchPlan, _ container: ContainerSpec) -> String {
    ProcessSpec.expand(text, port: container.port, directory: "/tmp", id: plan.id)
  }

  private static func hostConfig(
    _ plan: LaunchPlan, _ container: ContainerSpec, seccomp: String?, port: String, bind: String
  ) -> JSONObject {
    var security: [JSON] = ["no-new-privileges"]
    if let seccomp { security.append(.string("seccomp=\(seccomp)")) }
    var config: JSONObject = [
      // The engine's own init reaps what a browser leaves and passes signals on.
      "Init": true, "ShmSize": .int(container.shmMegabytes << 20), "PidsLimit": .int(container.pids),
      "CapDrop": ["ALL"], "SecurityOpt": .array(security), "ReadonlyRootfs": .bool(container.readOnly),
      "PortBindings": [port: [["HostIp": .string(bind), "HostPort": .string(String(plan.port))]]],
      // Berth restarts, by its own rules: two who do it would fight.
      "RestartPolicy": ["Name": "no"], "AutoRemove": false,
      "LogConfig": [
        "Type": .string(container.logDriver),
        "Config": strings(container.logOptions),
      ],
    ]
    if !container.capabilities.isEmpty { config["CapAdd"] = .array(container.capabilities.map(JSON.string)) }
    if container.memoryMegabytes > 0 {
      config["Memory"] = .int(container.memoryMegabytes << 20)
      // As much again in swap, the engine's default, would only make a browser that leaks a slow one.
      config["MemorySwap"] = .int(container.memoryMegabytes << 20)
    }
    if container.milliCPUs > 0 { config["NanoCpus"] = .int(container.milliCPUs * 1_000_000) }
    if !container.tmpfs.isEmpty { config["Tmpfs"] = strings(container.tmpfs) }
    if let network = container.network { config["NetworkMode"] = .string(network) }
    return config
  }

  static func strings(_ values: [String: String]) -> JSON {
    var object = JSONObject()
    for (name, value) in values.sorted(by: { $0.key < $1.key }) { object.append(name, .string(value)) }
    return .object(object)
  }

  /// The record of a container's instance as its labels have it, without browser; nil when they are not ours.
  package static func record(of entry: JSON, address: String) -> InstanceRecord? {
    guard let container = entry["Id"]?.string,
      var record = ContainerLabels.record(entry["Labels"], runtime: DockerRuntime.name, address: address)
    else { return nil }
    record.labels[InstanceRecord.containerLabel] = container
    return record
  }

  /// A reference as the engine's "pull" wants it: name and tag, or name and digest as one.
  package static func pullQuery(_ image: String) -> String {
    if image.contains("@") { return "fromImage=\(EngineAPI.escaped(image))" }
    let slash = image.lastIndex(of: "/")
    guard let colon = image.lastIndex(of: ":"), slash.map({ colon > $0 }) ?? true else {
      return "fromImage=\(EngineAPI.escaped(image))&tag=latest"
    }
    return
      "fromImage=\(EngineAPI.escaped(String(image[..<colon])))&tag=\(EngineAPI.escaped(String(image[image.index(after: colon)...])))"
  }
}

/// How far a pull is, from the lines that the engine sends.
package struct PullProgress: Sendable, Equatable {
  private var layers: [String: (done: Int, size: Int)] = [:]
  /// What went wrong; nil so far.
  package private(set) var failure: String?

  package init() {}

  package mutating func read(_ line: JSON) {
    if let error = line["errorDetail"]?["message"]?.string ?? line["error"]?.string { failure = error }
    guard let layer = line["id"]?.string, line["status"]?.string == "Downloading",
      let done = line["progressDetail"]?["current"]?.int, let size = line["progressDetail"]?["total"]?.int
    else { return }
    layers[layer] = (done, size)
  }

  package var downloadedMegabytes: Int { layers.values.reduce(0) { $0 + $1.done } >> 20 }
  package var knownMegabytes: Int { layers.values.reduce(0) { $0 + $1.size } >> 20 }

  package static func == (a: PullProgress, b: PullProgress) -> Bool {
    a.failure == b.failure && a.downloadedMegabytes == b.downloadedMegabytes && a.knownMegabytes == b.knownMegabytes
  }
}
