// What a coordinator has done, for /metrics and the heartbeat.
import ProxyMachine

/// Counts since the start, and a few figures of this moment.
package struct CoordinatorCounters: Sendable, Equatable {
  package var requests = 0
  package var granted = 0
  package var unknown = 0
  package var busy = 0
  package var queueFull = 0
  package var timedOut = 0
  package var unavailable = 0
  package var cancelled = 0
  /// Requests that had to wait for a slot.
  package var queued = 0
  /// Connections to Redis that were made, by all threads.
  package var connects = 0
  /// Connections that were lost or could not be made.
  package var redisFailures = 0
  package var snapshots = 0
  package var changes = 0
  package var tables = 0
  /// Records that could not be read and were left out.
  package var invalidRecords = 0
  /// Blocks of global_round_robin that workers got.
  package var blocks = 0
  /// Questions about jobs that were answered with an instance, with "unknown", and with "Redis is away".
  package var jobsFound = 0
  package var jobsUnknown = 0
  package var jobsUnavailable = 0
  /// Questions about jobs that Redis did not know at first.
  package var jobsAskedAgain = 0
  /// Jobs that were not remembered: no sound id, or too many while Redis was away.
  package var jobsDropped = 0
  /// Instances whose failures the control plane was told, and those that it was not told of: too many at a time, or no
  /// Redis.
  package var faultReports = 0
  package var faultReportsDropped = 0
  /// Health checks of a routes file's servers, and those that found something wrong.
  package var healthChecks = 0
  package var healthChecksFailed = 0

  /// Replicas that are alive now, this one included.
  package var replicas = 1
  /// Servers of a routes file that checks found unhealthy now.
  package var unhealthyServers = 0
  /// Requests that wait for a slot now.
  package var waiting = 0
  /// Sessions that this replica has sockets of now.
  package var held = 0
  /// Sessions of the deployment that it knows now.
  package var sessions = 0
  /// Whether commands and changes pass between Redis and this replica now.
  package var connected = false
  /// Whether there is a Redis to be connected to; false with a routes file.
  package var hasRedis = true

  package init() {}

  mutating func count(_ owner: JobOwner) {
    switch owner {
    case .instance: jobsFound += 1
    case .unknown: jobsUnknown += 1
    case .unavailable: jobsUnavailable += 1
    }
  }

  mutating func count(_ refusal: SlotRefusal) {
    switch refusal {
    case .unknown: unknown += 1
    case .busy: busy += 1
    case .queueFull: queueFull += 1
    case .timedOut: timedOut += 1
    case .unavailable: unavailable += 1
    }
  }
}
