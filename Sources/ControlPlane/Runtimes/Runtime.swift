// What the supervisor asks of the thing that starts instances. Each call has a time limit of its own and none of them
// touches Redis: a runtime knows processes and directories, the supervisor knows what they are for.
package import Domain
package import Routing

/// One instance that is to be started.
package struct LaunchPlan: Sendable {
  package var id: String
  package var spec: PoolSpec
  package var port: Int

  package init(id: String, spec: PoolSpec, port: Int) {
    self.id = id
    self.spec = spec
    self.port = port
  }
}

/// Why an instance did not start.
package struct LaunchFailure: Error, Equatable, Sendable, CustomStringConvertible {
  package enum Cause: Sendable, Equatable {
    /// Something else has the port: another one may do.
    case portTaken
    /// The same will most likely happen again.
    case other
  }
  package let cause: Cause
  package let description: String

  package init(_ cause: Cause, _ description: String) {
    self.cause = cause
    self.description = description
  }
}

/// How an instance's process ended.
package struct InstanceExit: Sendable, Equatable, CustomStringConvertible {
  /// nil when a signal ended it, or when it was no child of this process, so that nobody could tell.
  package var status: Int?
  package var signal: Int?

  package init(status: Int? = nil, signal: Int? = nil) {
    self.status = status
    self.signal = signal
  }

  /// It said goodbye by itself, as Chrome does on Browser.close.
  package var isClean: Bool { status == 0 }

  package var description: String {
    if let signal { return "its process was ended by signal \(signal)" }
    if let status { return "its process exited with status \(status)" }
    return "its process has ended"
  }
}

/// What of this deployment runs or lies about on this host, whatever Redis knows.
package struct Survey: Sendable {
  /// Instance ids that have living processes.
  package var running: Set<String>
  /// Instance ids that have a directory.
  package var directories: Set<String>
  /// The records that instances left beside their processes, for when Redis has lost its own.
  package var records: [InstanceRecord]
}

/// Starts, checks and ends instances of one kind.
package protocol Runtime: Sendable {
  /// Starts an instance; returns as soon as its process exists. The port must be free: see ``BindProbe``.
  func launch(_ plan: LaunchPlan) async throws(LaunchFailure) -> ProcessIdentity

  /// Waits until the instance answers as itself, at most `milliseconds`; its browser GUID for kind `cdp`.
  func awaitReady(_ record: InstanceRecord, spec: PoolSpec, milliseconds: Int) async throws(LaunchFailure) -> String?

  /// Keeps the record beside the process, for ``Survey/records``.
  func remember(_ record: InstanceRecord) async

  /// Returns when the process has ended; the answer may be asked for again and by several.
  func exit(of record: InstanceRecord) async -> InstanceExit

  /// Whether it is well: process, then port, then its own answer. nil = well, else what is wrong.
  func check(_ record: InstanceRecord, spec: PoolSpec) async -> ProbeError?

  /// Whether an instance answers as itself over the network, for one whose processes are on another host.
  func answers(_ record: InstanceRecord, path: String) async -> Bool

  /// Ends every process of the instance, politely first unless `force`, and removes its directory. Returns what would
  /// not go away, nil when nothing is left.
  func stop(_ record: InstanceRecord, kind: PoolKind, graceMilliseconds: Int, force: Bool) async -> String?

  /// Ends and removes what bears an instance id that nobody knows. Returns what would not go away.
  func reap(orphan id: String) async -> String?

  func survey() async -> Survey

  /// What the instances use now, by id; those that are gone are left out.
  func figures(of records: [InstanceRecord]) async -> [String: ProcessFigures]
}
