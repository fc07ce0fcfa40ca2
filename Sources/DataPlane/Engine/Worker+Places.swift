// Pools with backups, and pools whose instances take only so many requests at a time (`maxConnections`): which of two tiers a
// request goes to, whether there is a place for it, and the line in which it waits for one. Plain pools never come here.
import Balancing
import HTTPWire
import Observability
import Posix
import ProxyMachine
import Routing

extension Worker {
  /// Chooses an instance of such a pool and connects to it, or stands in line. The request's head is in `s.head`.
  func chooseByTier(_ fd: Int32, route index: Int, _ pool: PoolHandle, avoiding: Int32) {
    let route = s.table.routes[index]
    let compiled = s.table.pools[Int(route.pool)]
    if route.binds, avoiding < 0, let (place, tier) = boundByTier(fd, route, pool, compiled.backups) {
      s.slab[fd].setsCookie = false
      guard compiled.maxConnections > 0 else { return connect(fd, instance: place, tier) }
      return takePlace(fd, index, tier, place, isBound: true, avoiding: -1)
    }
    s.slab[fd].setsCookie = !route.stickyName.isEmpty
    let (place, tier) = pickByTier(fd, route, pool, compiled.backups, avoiding: avoiding)
    guard place >= 0 else { return refuseWithoutInstance(fd, route) }
    guard compiled.maxConnections > 0 else { return connect(fd, instance: place, tier) }
    takePlace(fd, index, tier, place, isBound: false, avoiding: avoiding)
  }

  // MARK: Backups

  /// Backups are used while no other instance takes requests, and for further attempts when no other one is left.
  func pickByTier(
    _ fd: Int32, _ route: CompiledRoute, _ pool: PoolHandle, _ backups: PoolHandle?, avoiding: Int32 = -1
  ) -> (place: Int32, tier: PoolHandle) {
    guard let backups else { return (pick(fd, route, pool, avoiding: avoiding), pool) }
    if pool.s.balancer.leads(isRetry: avoiding >= 0, now: s.now) {
      let place = pick(fd, route, pool, avoiding: avoiding, mayReturn: false)
      if place >= 0 { return (place, pool) }
    }
    let backup = pick(fd, route, backups, avoiding: avoiding, mayReturn: false)
    if backup >= 0 { return (backup, backups) }
    // Nobody is well: perhaps the pool's panic lets somebody in.
    return (pick(fd, route, pool, avoiding: avoiding), pool)
  }

  /// A job stays at its instance whatever that is; a cookie leads to a backup only as long as backups are used.
  private func boundByTier(_ fd: Int32, _ route: CompiledRoute, _ pool: PoolHandle, _ backups: PoolHandle?) -> (
    Int32, PoolHandle
  )? {
    if let place = boundInstance(fd, route, pool) { return (place, pool) }
    guard let backups, route.jobAffinity || !pool.s.balancer.isAvailable,
      let place = boundInstance(fd, route, backups)
    else { return nil }
    return (place, backups)
  }

  // MARK: Places

  private enum Line: Int32 {
    case waits = -1
    case mayNotWait = -2
    case isFull = -3
  }

  /// Takes a place at the instance, or unless the request is bound to it at any other that has room, or waits for one.
  private func takePlace(
    _ fd: Int32, _ index: Int, _ tier: PoolHandle, _ place: Int32, isBound: Bool, avoiding: Int32
  ) {
    guard let gate = unsafe tier.s.gate else { return connect(fd, instance: place, tier) }
    let route = s.table.routes[index]
    let queueLimit = Int(s.table.pools[Int(route.pool)].queueLimit)
    let ticket = s.nextTicket
    let start = nextRandom()
    // One look under the lock, so that no place becomes free between it and the line.
    let result = unsafe gate._withUnsafeGuaranteedRef { gate in
      gate.withQueue { queue -> Int32 in
        let key = s.instances[Int(place)].key
        if queue.enter(key) { return place }
        if !isBound, !queue.isWaitedForAny {
          let count = tier.s.balancer.candidateCount
          for step in 0..<count {
            let other = tier.s.balancer.candidate(Int((start &+ UInt64(step)) % UInt64(count)))
            if other != place, other != avoiding, queue.enter(s.instances[Int(other)].key) { return other }
          }
        }
        guard route.queueMilliseconds > 0 else { return Line.mayNotWait.rawValue }
        guard queue.waitingCount < queueLimit else { return Line.isFull.rawValue }
        queue.wait(.init(worker: s.index, ticket: ticket, instance: isBound ? key : nil))
        return Line.waits.rawValue
      }
    }
    switch Line(rawValue: result) {
    case nil:
      s.slab[fd].place = .held
      connect(fd, instance: result, tier)
    case .mayNotWait: refuseInLine(fd, .queueTimeout)
    case .isFull: refuseInLine(fd, .queueFull)
    case .waits:
      s.nextTicket += 1
      s.tickets[ticket] = fd
      s.slab[fd].ticket = ticket
      s.slab[fd].place = .awaited
      // Like a turn that has not begun: it keeps the pool's state, and ends as one.
      s.slab[fd].turn = Turn()
      s.slab[fd].turnPool = tier
      tier.s.turns += 1
      s.slab[fd].machine.awaitsPlace()
      s.slab[fd].story.stepStarted = Clock.monotonicMicroseconds
      s.labels.add(.waitingNow, pool: s.slab[fd].story.pool)
      s.slab[fd].isWaiting = true
      s.timers.set(fd, .place, at: s.now + Int(route.queueMilliseconds), s.slab)
      if s.slab[fd].peerEnds { hurry(fd) }
    }
  }

  /// No place in time, or no room to wait for one.
  func refuseInLine(_ fd: Int32, _ reason: CloseReason) {
    let isFull = reason == .queueFull
    s.labels.add(isFull ? .queueFull : .queueTimeouts, pool: s.slab[fd].story.pool)
    s.metrics.add(.placesRefused)
    answer(
      fd, 503,
      isFull ? "As many requests wait for this pool as may." : "No instance of this pool had room in time.", reason,
      closes: false, retryAfter: isFull ? 5 : 1, isLogged: false)
  }

  /// A place at this instance is the request's that waited.
  func placeGranted(_ gate: PlaceGate, _ key: UInt64, ticket: UInt64) {
    guard let fd = s.tickets.removeValue(forKey: ticket) else { return giveBack(gate, key) }
    s.slab[fd].ticket = 0
    s.slab[fd].place = .none
    endTurn(fd, .neutral)
    waitsNoMore(fd)
    let waited = since(s.slab[fd].story.stepStarted)
    s.slab[fd].story.queueMicroseconds = max(s.slab[fd].story.queueMicroseconds, 0) &+ waited
    s.labels.add(.queueWaits, pool: s.slab[fd].story.pool)
    s.labels.add(.queueMicroseconds, pool: s.slab[fd].story.pool, Int(waited))
    // The worker's one head was used for others while this request waited.
    guard reparse(fd) else { return giveBack(gate, key) }
    s.slab[fd].machine.slotGranted()
    let index = s.table.match(s.slab[fd].inbound.span, authority: s.head.authority, path: s.head.path)
    guard index >= 0 else {
      giveBack(gate, key)
      return answer(fd, 404, "No route leads from this host and path to a pool.", .noRoute, closes: true)
    }
    s.slab[fd].route = Int32(index)
    let pool = s.table.pools[Int(s.table.routes[index].pool)]
    guard s.table.poolNames[Int(pool.name)] == gate.pool, let (place, tier) = member(key, pool) else {
      giveBack(gate, key)
      return chooseInstance(fd, route: index)
    }
    s.slab[fd].place = .held
    connect(fd, instance: place, tier)
  }

  private func member(_ key: UInt64, _ pool: CompiledPool) -> (Int32, PoolHandle)? {
    guard let first = pool.state else { return nil }
    var place = first.s.balancer.place(ofKey: key)
    if place >= 0 { return (place, first) }
    if let backups = pool.backups {
      place = backups.s.balancer.place(ofKey: key)
      if place >= 0 { return (place, backups) }
    }
    // Who waited for a job may go where it is made as long as that lives.
    return s.drainingPlaces[key].map { ($0, first) }
  }

  /// A request has left its instance: the place goes to who waits longest for it. Or it has left the line: its client gave
  /// up, or its time is over.
  func leavePlace(_ fd: Int32, _ tier: PoolHandle) {
    let held = s.slab[fd].place == .held
    s.slab[fd].place = .none
    guard held else { return leaveLine(fd, tier) }
    let place = s.slab[fd].instance
    guard place >= 0, let gate = unsafe tier.s.gate else { return }
    let slot = s.instances[Int(place)]
    let isOpen = slot.inTable && slot.keepsConnections && tier.s.balancer.takes(place) && isInUse(tier)
    let waiter = unsafe gate._withUnsafeGuaranteedRef { gate in
      gate.withQueue { queue -> PlaceQueue.Waiter? in
        queue.leave(slot.key)
        return isOpen ? queue.give(slot.key) : nil
      }
    }
    if let waiter { unsafe hand(gate.takeUnretainedValue(), slot.key, to: waiter) }
  }

  private func leaveLine(_ fd: Int32, _ tier: PoolHandle) {
    let ticket = s.slab[fd].ticket
    s.slab[fd].ticket = 0
    s.tickets[ticket] = nil
    waitsNoMore(fd)
    // When it is not in the line any more, the place that is on its way to it is given back when it comes.
    _ = unsafe tier.s.gate?._withUnsafeGuaranteedRef { gate in
      gate.withQueue { $0.cancel(worker: s.index, ticket: ticket) }
    }
  }

  /// A place that came too late.
  private func giveBack(_ gate: PlaceGate, _ key: UInt64) {
    gate.withQueue { $0.leave(key) }
    for tier in [s.poolStates[gate.pool], s.poolStates[PoolState.backupName(gate.pool)]] {
      if let tier, tier.s.balancer.takes(tier.s.balancer.place(ofKey: key)), isInUse(tier) { fill(tier, gate) }
    }
  }

  private func hand(_ gate: PlaceGate, _ key: UInt64, to waiter: PlaceQueue.Waiter) {
    s.shared.inboxes[Int(waiter.worker)].post(.place(gate, key, ticket: waiter.ticket))
  }

  /// Whether new requests go to this tier of its pool.
  private func isInUse(_ tier: PoolHandle) -> Bool {
    guard tier.s.isBackup else {
      return tier.s.balancer.isAvailable || s.poolStates[PoolState.backupName(tier.s.pool)] == nil
    }
    return s.poolStates[tier.s.pool].map { !$0.s.balancer.isAvailable } ?? true
  }

  /// Instances that came or came back, and a limit that was raised, have room for some who wait. Once a second and with
  /// each table.
  func fillPlaces() {
    guard s.hasGates else { return }
    for (_, tier) in s.poolStates where tier.s.isInTable {
      guard let gate = unsafe tier.s.gate?.takeUnretainedValue() else { continue }
      // One that waits finds out how an ejected instance is: newcomers stand behind it and would never get there.
      let probe = tier.s.balancer.probe(now: s.now)
      if probe >= 0 {
        let key = s.instances[Int(probe)].key
        if let waiter = gate.withQueue({ $0.give(key) }) { hand(gate, key, to: waiter) }
      }
      if isInUse(tier) { fill(tier, gate) }
    }
  }

  private func fill(_ tier: PoolHandle, _ gate: PlaceGate) {
    guard gate.withQueue({ $0.waitingCount > 0 }) else { return }
    for index in 0..<tier.s.balancer.candidateCount {
      let key = s.instances[Int(tier.s.balancer.candidate(index))].key
      while let waiter = gate.withQueue({ $0.give(key) }) { hand(gate, key, to: waiter) }
    }
  }
}
