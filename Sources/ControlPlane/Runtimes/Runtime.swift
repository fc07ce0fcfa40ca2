// What the supervisor asks of the thing that starts instances. Each call has a time limit of its own and none of them
// touches Redis: a runtime knows processes and directories, the supervisor knows what they are for.
package import Domain
package import Routing

/// A host, besides the one that this control plane runs on, whose instances a runtime looks after.
package struct RuntimeHost: Sendable, Equatable {
  /// As it stands in Redis' keys of ports and in the label `host` of instances.
  package var name: String
  /// The ports that instances get there; nil when they have ports of their own.
  package var portRange: ClosedRange<Int>?

  package init(name: String, portRange: ClosedRange<Int>?) {
    self.name = name
    self.portRange = portRange
  }
}

/// Where a new instance goes.
package struct Place: Sendable, Equatable {
  /// One of the runtime's ``Runtime/hosts``.
  package var host: String
  /// Where replicas and health checks reach it: an IPv4 or IPv6 literal; empty where only its launch can tell.
  package var address: String
  /// nil = the host's next free one.
  package var port: Int?
  package var weight = 1
  /// The name that the instance must have; nil = any.
  package var id: String?
  package var labels: [String: String] = [:]

  package init(host: String, address: String) {
    self.host = host
    self.address = address
  }
}

/// One instance that is to be started.
package struct LaunchPlan: Sendable {
  package var id: String
  package var spec: PoolSpec
  package var port: Int
  package var generation: Int
  /// The host that it was placed on; empty = this one.
  package var host: String
  /// What the session asked for that it is launched for.
  package var options: LaunchOptions?

  package init(
    id: String, spec: PoolSpec, port: Int, generation: Int = 1, host: String = "", options: LaunchOptions? = nil
  ) {
    self.options = options
    self.id = id
    self.spec = spec
    self.port = port
    self.generation = generation
    self.host = host
  }
}

/// What names that which was started, as the instance's record keeps it.
package enum Launched: Sendable, Equatable {
  case process(ProcessIdentity)
  /// A container's id.
  case container(String)
  case service(RunningService)
  /// It is there whether Berth runs or not.
  case fixed

  package func note(in record: inout InstanceRecord) {
    switch self {
    case .process(let identity):
      record.pid = identity.pid
      record.pidStart = identity.start
    case .container(let id): record.labels[InstanceRecord.containerLabel] = id
    case .service(let service):
      record.labels[InstanceRecord.serviceLabel] = service.id
      record.labels[InstanceRecord.nodeLabel] = service.node
      record.labels[InstanceRecord.taskLabel] = service.task
      record.host = service.address
    case .fixed: break
    }
  }
}

/// A service of a swarm whose only task runs.
package struct RunningService: Sendable, Equatable {
  package var id: String
  package var task: String
  /// The name of the node that Swarm's scheduler chose.
  package var node: String
  /// Where replicas reach the ports that the node publishes.
  package var address: String

  package init(id: String, task: String, node: String, address: String) {
    self.id = id
    self.task = task
    self.node = node
    self.address = address
  }
}

extension InstanceRecord {
  /// The labels that say where an instance is and who started it there.
  package static let hostLabel = "host"
  package static let runtimeLabel = "runtime"
  package static let containerLabel = "container"

  package static let serviceLabel = "service"
  package static let nodeLabel = "node"
  package static let taskLabel = "task"
  private static let launchedLabels = [containerLabel, serviceLabel, nodeLabel, taskLabel]

  package var container: String? { labels[Self.containerLabel] }
  package var service: String? { labels[Self.serviceLabel] }

  /// Names the container or service beyond the reuse of the instance's name; nil = none was started.
  package var unit: String? { container ?? service }

  /// What was started is gone, and something else will be.
  package mutating func forgetLaunched() {
    pid = nil
    pidStart = nil
    // The next one may be placed elsewhere.
    if service != nil { host = "" }
    for label in Self.launchedLabels { labels[label] = nil }
  }

  /// Completes a record whose control plane died before it could write down what it had started.
  package mutating func adoptLaunched(of other: InstanceRecord) {
    pid = other.pid
    pidStart = other.pidStart
    for label in Self.launchedLabels { labels[label] = other.labels[label] }
    if other.service != nil { host = other.host }
  }
}

/// Why an instance did not start.
package struct LaunchFailure: Error, Equatable, Sendable, CustomStringConvertible {
  package enum Cause: Sendable, Equatable {
    /// Something else has the port: another one may do.
    case portTaken
    /// It is there as far as anybody can tell, and may answer later: it is kept, without clients.
    case notYet
    /// No engine has room for it now: nothing was started.
    case noRoom
    /// The hosts that could take it have as many launches under way as they can bear: it waits for one of those to end.
    case later
    /// The same will most likely happen again.
    case other
  }
  package let cause: Cause
  package let description: String
  /// The last lines that the instance wrote.
  package let log: [String]

  /// With the end of its log, which the description then ends with too.
  package init(_ cause: Cause, _ description: String, log: [String] = []) {
    self.cause = cause
    self.description = description + (log.isEmpty ? "" : "; its log ends: " + log.suffix(3).joined(separator: " | "))
    self.log = log
  }
}

/// How an instance's process ended.
package struct InstanceExit: Sendable, Equatable, CustomStringConvertible {
  /// nil when a signal ended it, or when it was no child of this process, so that nobody could tell.
  package var status: Int?
  package var signal: Int?
  /// A whole sentence, where more is known than that.
  package var reason: String?
  /// The last lines that it wrote, as far as they were read.
  package var log: [String] = []

  package init(status: Int? = nil, signal: Int? = nil, reason: String? = nil, log: [String] = []) {
    self.status = status
    self.signal = signal
    self.reason = reason
    self.log = log
  }

  /// It said goodbye by itself, as Chrome does on Browser.close.
  package var isClean: Bool { status == 0 }

  package var description: String {
    if let reason { return reason }
    if let signal { return "its process was ended by signal \(signal)" }
    if let status { return "its process exited with status \(status)" }
    return "its process has ended"
  }
}

/// What of this deployment runs or lies about on this host, whatever Redis knows.
package struct Survey: Sendable {
  /// Instance ids that have living processes or containers.
  package var running: Set<String>
  /// Instance ids that have left something: a directory, a container that has ended.
  package var directories: Set<String>
  /// The records that instances left beside their processes, for when Redis has lost its own.
  package var records: [InstanceRecord]
}

/// Something of this deployment that a runtime holds, whether anybody knows of it or not.
package struct Holding: Sendable, Equatable {
  package var instance: String
  /// nil = the host that this control plane runs on.
  package var host: String?
  /// Names this very thing beyond the reuse of the instance's name; nil = all that bears that name.
  package var unit: String?

  package init(instance: String, host: String?, unit: String?) {
    self.instance = instance
    self.host = host
    self.unit = unit
  }
}

/// Starts, checks and ends instances of one kind.
package protocol Runtime: Sendable {
  /// The hosts besides this one whose instances are its business.
  var hosts: [RuntimeHost] { get }

  /// Where a new instance goes, given all that exist; nil = onto this host. `again` names an instance that comes back.
  func place(_ spec: PoolSpec, again: String?, among: [InstanceRecord]) throws(LaunchFailure) -> Place?

  /// Why an instance cannot have a port that Redis thinks is free; nil when it can, as far as can be told beforehand.
  func conflict(host: String, port: Int) async -> String?

  /// Starts an instance; returns as soon as its process exists. The port must be free: see ``conflict(host:port:)``.
  func launch(_ plan: LaunchPlan) async throws(LaunchFailure) -> Launched

  /// Whether the record names something that was started.
  func wasStarted(_ record: InstanceRecord) -> Bool

  /// Whether what the record names lives, as far as is known; asked after ``survey()``.
  func isAlive(_ record: InstanceRecord) -> Bool

  /// Whether an instance that lives is one that the configuration still wants.
  func isWanted(_ record: InstanceRecord) -> Bool

  /// Waits until the instance answers as itself, at most `milliseconds`; its browser GUID for kind `cdp`.
  func awaitReady(_ record: InstanceRecord, spec: PoolSpec, milliseconds: Int) async throws(LaunchFailure) -> String?

  /// Keeps the record beside the process, for ``Survey/records``.
  func remember(_ record: InstanceRecord) async

  /// Returns when the process has ended; the answer may be asked for again and by several. nil = nobody can tell.
  func exit(of record: InstanceRecord) async -> InstanceExit?

  /// What is wrong with it as deep as this: process, then port, then its own answer, then DevTools. nil = all is well.
  func check(_ record: InstanceRecord, spec: PoolSpec, depth: HealthDepth) async -> HealthProblem?

  /// The end of what an instance has written.
  func lastLines(of record: InstanceRecord) async -> [String]

  /// The weight that the configuration gives it now; nil = none of its own.
  func weight(of record: InstanceRecord) -> Int?

  /// Whether an instance answers as itself over the network, for one whose processes are on another host. `spec`: of its
  /// pool, if that is declared.
  func answers(_ record: InstanceRecord, spec: PoolSpec?) async -> Bool

  /// Ends every process of the instance, politely first unless `force`, and removes its directory. Returns what would
  /// not go away, nil when nothing is left.
  func stop(_ record: InstanceRecord, kind: PoolKind, graceMilliseconds: Int, force: Bool) async -> String?

  /// Ends and removes what bears an instance id that nobody knows. Returns what would not go away.
  func reap(orphan id: String) async -> String?

  func survey() async -> Survey

  /// All that can appear without anybody's knowledge after a survey.
  func holdings() async -> [Holding]

  /// Removes such a thing.
  func remove(_ holding: Holding) async

  /// What the instances use now, by id; those that are gone are left out.
  func figures(of records: [InstanceRecord]) async -> [String: ProcessFigures]
}

extension Runtime {
  package var hosts: [RuntimeHost] { [] }
  package func place(
    _ spec: PoolSpec, again: String?, among: [InstanceRecord]
  ) throws(LaunchFailure) -> Place? { nil }
  package func conflict(host: String, port: Int) async -> String? { nil }
  package func isWanted(_ record: InstanceRecord) -> Bool { true }
  package func lastLines(of record: InstanceRecord) async -> [String] { [] }
  package func weight(of record: InstanceRecord) -> Int? { nil }

  package func answers(_ record: InstanceRecord, spec: PoolSpec?) async -> Bool {
    let spec =
      spec ?? PoolSpec(name: record.pool, kind: record.browser == nil ? .http : .cdp, runtime: .process(.init()))
    return await HealthProbe.pool.run { HealthProbe.check(record, spec: spec, depth: .http) } == nil
  }

  package func holdings() async -> [Holding] { [] }
  package func remove(_ holding: Holding) async {}
}
