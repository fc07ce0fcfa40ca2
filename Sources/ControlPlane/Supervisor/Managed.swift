// What the leader knows of one instance. The memory of the supervisor is the truth while it leads; Redis follows it, and
// entries that Redis does not have yet are marked so.
import Domain
import Posix
import Reconciler
import Routing
import Runtimes
import State

struct Managed: Sendable {
  /// Distinguishes this entry from an earlier or later one of the same id, for tasks that come back to it.
  let token: Int
  var record: InstanceRecord
  var lifecycle: InstanceLifecycle
  /// Why its end was begun, for figures.
  var endCause: StopCause?
  /// A task launches or ends it.
  var busy = false
  var exited: InstanceExit?
  /// Why its process is to be considered gone although nobody saw it end.
  var lost: String?
  var order: InstanceOrder?
  /// What the session asked for that it is launched for.
  var options: LaunchOptions?
  /// A client had it at some time: after Redis lost its data it must not be given to another.
  var wasUsed = false
  /// Since when it gets no more clients, Unix milliseconds, as far as this leader knows.
  var drainingSince: Int?
  var requestRate = RequestRate()
  /// When this control plane began to launch it.
  var launchBegan: ContinuousClock.Instant?
  /// Until when it is left alone, so that replicas can put back the sessions that Redis has lost.
  var leaveAloneUntil: ContinuousClock.Instant?

  /// Its removal from Redis was begun, and it is not known how far it came.
  var removalBegan = false
  /// Redis does not have `record` yet.
  var isUnsaved = false
  var isSaving = false
  /// Why its state changed, for the event.
  var reason: String?

  /// A check is under way.
  var isChecking = false
  var health = InstanceHealth()
  var schedule: HealthSchedule
  var suspicion = Suspicion()
  var isWatched = false

  init(token: Int, record: InstanceRecord, schedule: HealthSchedule) {
    self.token = token
    self.record = record
    lifecycle = InstanceLifecycle(record.state)
    if record.state == .draining { drainingSince = Clock.unixMilliseconds }
    if record.state == .unhealthy { health = InstanceHealth(cause: schedule.deepest) }
    self.schedule = schedule
  }

  /// As the reconciler sees it.
  func observed(leases: Int, freeSlots: Int?) -> ObservedInstance {
    let waits = leaveAloneUntil.map { ContinuousClock.now < $0 } ?? false
    var observed = ObservedInstance(
      id: record.id, state: record.state, generation: record.generation, startedAt: record.startedAt, leases: leases,
      freeSlots: freeSlots, exited: exited?.description ?? lost, failures: health.failures, order: order,
      // What Redis has not heard of yet may still be given to a client.
      busy: !isSettled || waits)
    observed.isSuspected = suspicion.isAlive(at: Clock.monotonicMilliseconds)
    return observed
  }

  /// Whether nothing is being done with it and Redis has its record.
  var isSettled: Bool { !busy && !isUnsaved && !isSaving }

  /// Takes an event of its life; false when it has no meaning now.
  mutating func apply(_ event: InstanceLifecycle.Event, reason: String) -> Bool {
    guard lifecycle.apply(event), let state = lifecycle.state else { return false }
    record.state = state
    record.labels[InstanceRecord.reasonLabel] = state == .ready ? nil : reason
    if event == .drain { drainingSince = Clock.unixMilliseconds }
    self.reason = reason
    // One without a port has never been on record.
    if record.port > 0 { isUnsaved = true }
    return true
  }
}

/// What the leader keeps of a pool between two looks.
struct PoolMemory: Sendable {
  var history = RestartHistory()
  var restarts: [Restart] = []
  /// Whether it was told that no more instances with options may be launched.
  var isTailoredFull = false
  var scaling = ScalingMemory()
  /// Whether it was said that `max` keeps clients waiting.
  var isFull = false

  /// Since when launches fail, Unix milliseconds.
  var troubleSince = 0
  var lastFailure: PoolFailure?
  /// What Redis has been told.
  var toldTrouble: PoolTrouble?
}
