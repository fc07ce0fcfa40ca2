// What a swarm is told about a service: a pure function from a pool's declaration and a plan to the body of "create". What
// a service shares with a container comes from ContainerRequest.
package import Domain
package import JSON

package enum ServiceRequest {
  /// From this version on a service can have a seccomp profile and go without new privileges (moby, adjustForAPIVersion).
  package static let privileges = APIVersion(major: 1, minor: 44)

  /// - Parameters:
  ///   - seccomp: the text of the profile, if the pool has one of its own.
  ///   - version: what the manager speaks.
  package static func body(
    _ plan: LaunchPlan, service: ServiceSpec, seccomp: String?, version: APIVersion, owner: String, swarm: String,
    now: Int
  ) -> JSON {
    let container = service.container
    let labels = ContainerLabels.of(plan, owner: owner, host: swarm, now: now)
    var template: JSONObject = [
      "ContainerSpec": containerSpec(plan, container, seccomp: seccomp, version: version, labels: labels),
      "Resources": resources(service),
      // Berth restarts, by its own rules: two who do it would fight.
      "RestartPolicy": ["Condition": "none"],
      "LogDriver": [
        "Name": .string(container.logDriver), "Options": ContainerRequest.strings(container.logOptions),
      ],
    ]
    if !service.constraints.isEmpty {
      template["Placement"] = ["Constraints": .array(service.constraints.map(JSON.string))]
    }
    if let network = container.network { template["Networks"] = [["Target": .string(network)]] }
    return [
      "Name": .string(ContainerRequest.name(owner: owner, instance: plan.id)), "Labels": labels,
      "TaskTemplate": .object(template), "Mode": ["Replicated": ["Replicas": 1]],
      "EndpointSpec": [
        // On the node itself: the mesh would spread clients over instances.
        "Ports": [
          [
            "Protocol": "tcp", "PublishMode": "host", "PublishedPort": .int(plan.port),
            "TargetPort": .int(container.port),
          ]
        ]
      ],
    ]
  }

  private static func containerSpec(
    _ plan: LaunchPlan, _ container: ContainerSpec, seccomp: String?, version: APIVersion, labels: JSON
  ) -> JSON {
    var spec: JSONObject = [
      "Image": .string(container.image), "Env": ContainerRequest.environment(plan, container), "Labels": labels,
      "Init": true, "ReadOnly": .bool(container.readOnly), "CapabilityDrop": ["ALL"],
      "StopGracePeriod": .int(plan.spec.stopGraceMilliseconds * 1_000_000), "Mounts": mounts(container),
    ]
    if let arguments = ContainerRequest.arguments(plan, container) { spec["Args"] = arguments }
    if let user = container.user { spec["User"] = .string(user) }
    if !container.capabilities.isEmpty { spec["CapabilityAdd"] = .array(container.capabilities.map(JSON.string)) }
    if version >= privileges {
      var rights: JSONObject = ["NoNewPrivileges": true]
      switch seccomp {
      case nil: break
      case "unconfined": rights["Seccomp"] = ["Mode": "unconfined"]
      case .some(let profile):
        rights["Seccomp"] = ["Mode": "custom", "Profile": .string(base64(Array(profile.utf8)))]
      }
      spec["Privileges"] = .object(rights)
    }
    return .object(spec)
  }

  /// Services have no size of /dev/shm: a directory in memory at its place is the same.
  private static func mounts(_ container: ContainerSpec) -> JSON {
    func mount(_ path: String, _ options: JSONObject) -> JSON {
      ["Type": "tmpfs", "Target": .string(path), "TmpfsOptions": .object(options)]
    }
    var mounts = [mount("/dev/shm", ["SizeBytes": .int(container.shmMegabytes << 20), "Mode": 0o1777])]
    for (path, text) in container.tmpfs.sorted(by: { $0.key < $1.key }) {
      var options = JSONObject()
      // Settings refuses what cannot be read.
      let memory = MemoryMount(options: text)
      if let size = memory?.sizeBytes { options["SizeBytes"] = .int(size) }
      if let mode = memory?.mode { options["Mode"] = .int(mode) }
      mounts.append(mount(path, options))
    }
    return .array(mounts)
  }

  private static func resources(_ service: ServiceSpec) -> JSON {
    let container = service.container
    var limits: JSONObject = ["Pids": .int(container.pids)]
    if container.memoryMegabytes > 0 { limits["MemoryBytes"] = .int(container.memoryMegabytes << 20) }
    if container.milliCPUs > 0 { limits["NanoCPUs"] = .int(container.milliCPUs * 1_000_000) }
    // What is set aside is all that the scheduler goes by.
    var reserved = JSONObject()
    let memory = service.reservedMegabytes ?? container.memoryMegabytes
    let processors = service.reservedMilliCPUs ?? container.milliCPUs
    if memory > 0 { reserved["MemoryBytes"] = .int(memory << 20) }
    if processors > 0 { reserved["NanoCPUs"] = .int(processors * 1_000_000) }
    return ["Limits": .object(limits), "Reservations": .object(reserved)]
  }

  /// RFC 4648 §4.
  package static func base64(_ bytes: [UInt8]) -> String {
    let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
    var text = ""
    for start in stride(from: 0, to: bytes.count, by: 3) {
      let group = bytes[start..<min(start + 3, bytes.count)]
      let bits = group.reduce(0) { $0 << 8 | Int($1) } << (8 * (3 - group.count))
      for place in 0..<4 {
        if place <= group.count {
          text.append(alphabet[bits >> (18 - 6 * place) & 63])
        } else {
          text.append("=")
        }
      }
    }
    return text
  }
}
