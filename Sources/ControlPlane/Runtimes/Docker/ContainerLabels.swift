// The labels of our containers and services: what an instance is stands on the thing itself, so that whoever follows a
// control plane that died finds it. Written by ContainerRequest and ServiceRequest, read by their runtimes' surveys.
import Domain
import JSON
import Routing

package enum ContainerLabels {
  static let owner = "berth.owner"
  static let instance = "berth.instance"
  static let host = "berth.host"
  static let pool = "berth.pool"
  static let generation = "berth.generation"
  static let port = "berth.port"
  static let slots = "berth.slots"
  static let kind = "berth.kind"
  static let started = "berth.started"
  /// It was launched with a session's options, so that it is nobody else's.
  static let tailored = "berth.tailored"

  static func of(_ plan: LaunchPlan, owner name: String, host hostName: String, now: Int) -> JSON {
    var labels: JSONObject = [
      owner: .string(name), instance: .string(plan.id), pool: .string(plan.spec.name),
      generation: .string(String(plan.generation)), host: .string(hostName), port: .string(String(plan.port)),
      slots: .string(String(plan.spec.slots)), kind: .string(plan.spec.kind.rawValue), started: .string(String(now)),
    ]
    if plan.options != nil { labels[tailored] = "true" }
    return .object(labels)
  }

  /// What finds ours among those of others.
  static func marks(owner name: String, host hostName: String) -> JSON {
    [.string("\(owner)=\(name)"), .string("\(host)=\(hostName)")]
  }

  /// The record of an instance as labels have it, without browser; nil when they are not ours.
  static func record(_ labels: JSON?, runtime: String, address: String) -> InstanceRecord? {
    guard let labels, let id = labels[instance]?.string, let pool = labels[pool]?.string,
      let host = labels[host]?.string, let port = labels[port]?.string.flatMap({ Int($0) })
    else { return nil }
    func number(_ label: String) -> Int { labels[label]?.string.flatMap { Int($0) } ?? 0 }
    var record = InstanceRecord(
      id: id, pool: pool, host: address, port: port, generation: number(generation), state: .ready,
      slots: number(slots), startedAt: number(started),
      labels: [InstanceRecord.hostLabel: host, InstanceRecord.runtimeLabel: runtime])
    // Whose it was, only Redis and the instance's session know.
    if labels[tailored] != nil { record.session = "unknown" }
    return record
  }
}
