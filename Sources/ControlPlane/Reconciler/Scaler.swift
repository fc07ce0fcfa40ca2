// How many instances a pool should have: starts some when slots are or will be missing, drains some when there have been
// too many for a while. Pure functions that the reconciler calls once it knows what must be done about each instance by
// itself. docs/scaling.md says the same with examples.
import Domain
import Routing

package enum Scaler {
  /// Why instances are drained that are no longer needed, as events and records say it.
  package static let idle = "more instances are idle than needed"
  package static let aboveMaximum = "the pool has more than max instances"

  /// The slots of a pool in the unit of its capacity: real ones, or active requests for a pool without slots.
  struct Need {
    /// Slots of one instance; 0 = it has no limit, and the pool does not grow.
    var perInstance: Int
    /// Free slots now, less than 0 when more requests are active than wanted.
    var free: Int
    /// Those of instances that are starting.
    var coming: Int
    /// Clients that wait for one.
    var waiting: Int
    /// Free slots that are wanted beyond those.
    var spare: Int
    /// Slots that will be taken while an instance starts.
    var ahead: Int

    var wantedFree: Int { waiting + spare + ahead }
    /// Instances that are missing for so many free slots even when all is there that is coming.
    func instances(for slots: Int) -> Int {
      let missing = slots - free - coming
      return perInstance > 0 && missing > 0 ? (missing + perInstance - 1) / perInstance : 0
    }
  }

  static func need(spec: PoolSpec, observed: PoolObservation, memory: ScalingMemory, census: Census) -> Need {
    let perInstance = spec.slots > 0 ? spec.slots : spec.scaling.targetActive
    let active = Int(memory.demand.active.rounded(.up))
    let free = spec.slots > 0 ? census.freeSlots : census.ready.count * perInstance - active
    return Need(
      perInstance: perInstance, free: free, coming: census.starting * perInstance, waiting: observed.waiting,
      spare: spec.spare, ahead: memory.demand.slots(within: memory.launches.milliseconds))
  }

  // MARK: More

  /// The launches that are wanted now, and why.
  static func scaleUp(
    spec: PoolSpec, observed: PoolObservation, census: Census, need: Need, launchBudget: Int, now: Int,
    into decision: inout Decision
  ) {
    let belowMinimum = Swift.max(0, spec.min - census.usable)
    var wanted = Swift.max(belowMinimum, need.instances(for: need.wantedFree))
    // One at least where some are wanted at all.
    if need.wantedFree > 0, census.usable == 0 { wanted = Swift.max(wanted, 1) }
    wanted = Swift.max(wanted, observed.restarts.count)
    let room = Swift.max(0, spec.max - census.existing)
    decision.isFull = need.instances(for: need.waiting) > room
    let launches = observed.history.launches(
      of: Swift.min(wanted, room, launchBudget), beside: census.starting, by: spec.restart)
    guard launches > 0 else { return }
    guard observed.history.mayLaunch(by: spec.restart, now: now) else {
      decision.lookAgain(at: observed.history.nextLaunchAt(by: spec.restart, now: now))
      return
    }
    for index in 0..<launches {
      if index < observed.restarts.count {
        decision.actions.append(.launch(observed.restarts[index], reason: "restart was asked for"))
      } else {
        decision.actions.append(.launch(nil, reason: reason(of: index, belowMinimum: belowMinimum, need: need)))
      }
    }
  }

  /// Why the launch with this number is needed: clients that wait come before slots that are kept free, and those before
  /// clients that are only expected.
  private static func reason(of index: Int, belowMinimum: Int, need: Need) -> String {
    if index < belowMinimum { return "the pool has fewer than min instances" }
    let filled = need.free + need.coming + index * need.perInstance
    if filled < need.waiting { return "clients wait for a slot" }
    if filled < need.waiting + need.spare { return "too few slots are free" }
    return "clients are expected while it starts"
  }

  // MARK: Fewer

  /// What can go: instances above `max` at once, idle ones after a while.
  static func scaleDown(
    spec: PoolSpec, observed: PoolObservation, census: Census, need: Need, now: Int, into decision: inout Decision
  ) {
    // Above `max` (it was lowered) idle ones go first, those in use are drained.
    let excess = Swift.max(0, census.usable - spec.max)
    for member in census.ready.prefix(excess) {
      decision.actions.append(.drain(id: member.id, reason: aboveMaximum))
    }
    let candidates = census.ready.dropFirst(excess).filter { canBeSpared($0, spec: spec) }
    let surplus = Swift.min(
      census.usable - excess - spec.min, surplus(spec: spec, census: census, need: need), candidates.count)
    guard surplus > 0 else { return }
    // A clock that was set back starts the wait anew instead of stretching it.
    let since = Swift.min(observed.memory.surplusSince ?? now, now)
    decision.memory.surplusSince = since
    guard now - since >= spec.scaling.downAfterMilliseconds else {
      decision.lookAgain(at: since + spec.scaling.downAfterMilliseconds)
      return
    }
    for member in candidates.prefix(surplus) {
      decision.actions.append(.drain(id: member.id, reason: idle))
    }
  }

  /// An exclusive instance in use gives no slot to anybody else: draining it would free nothing. One with several slots
  /// may be drained under its clients, who stay as long as they like, when others can take those that come.
  private static func canBeSpared(_ member: Census.Member, spec: PoolSpec) -> Bool {
    member.leases == 0 || spec.slots > 1
  }

  /// Instances that could go and still leave the wanted slots free, also when the clients of those on their way out come
  /// again: that is what keeps a steady load from starting tomorrow what it drains today.
  private static func surplus(spec: PoolSpec, census: Census, need: Need) -> Int {
    let butOne = census.usable - 1
    guard need.perInstance > 0 else { return butOne }
    let left = need.free - need.wantedFree - census.leavingLeases
    let spared = left / need.perInstance
    // Clients of a pool without slots do not wait: with no instance there, nobody would know that one is wanted.
    return spec.slots > 0 ? spared : Swift.min(spared, butOne)
  }
}
