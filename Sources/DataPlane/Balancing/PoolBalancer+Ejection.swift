// What a change of a member's circuit breaker means for the pool: who may be picked, who may be probed, and when so many
// are ejected that the pool panics and ignores it.

extension PoolBalancer {
  /// Ejected members whose time is over may be probed. At most two at a time, so that it costs a pick next to nothing.
  @inline(__always) mutating func endEjections(now: Int) {
    for _ in 0..<2 {
      guard let first = expiries.top, Int64(bitPattern: first.key) <= Int64(now) else { return }
      endEjection(of: Int(first.member))
    }
  }

  /// The same for one that somebody asks for by name, without waiting for its turn.
  @inline(__always) mutating func endEjectionIfOver(of member: Int, now: Int) {
    if members[member].breaker.phase == .open, members[member].breaker.until <= now { endEjection(of: member) }
  }

  private mutating func endEjection(of member: Int) {
    expiries.remove(member)
    members[member].breaker.timeIsOver()
    if members[member].position >= 0 { offerProbe(member) }
  }

  /// A turn's result counts for the circuit: it is a probe's, or the circuit is closed as it was when the turn began.
  mutating func judge(_ member: Int, _ outcome: Outcome, _ turn: inout Turn, now: Int) {
    switch (outcome, turn.isProbe) {
    case (.success, true):
      close(member, now: now)
      turn.epoch = members[member].epoch
      turn.flags = turn.flags & ~Turn.probe | Turn.succeeded
    case (.failure, true):
      members[member].breaker.reopen(settings, now: now)
      opened(member)
    case (.neutral, true):
      members[member].breaker.giveProbeBack()
      if members[member].position >= 0 { offerProbe(member) }
    case (.success, false):
      turn.failuresBefore = members[member].breaker.consecutiveFailures
      turn.flags |= Turn.succeeded
      members[member].breaker.succeeded()
      count(member, isFailure: false, now: now)
    case (.failure, false):
      let tooMany = members[member].breaker.failed(before: 0, limit: settings.consecutiveFailures)
      if count(member, isFailure: true, now: now) || tooMany { eject(member, now: now) }
    case (.neutral, false): break
    }
  }

  /// The body of an answer that had counted as a success was cut: it was none, and the failures before it stand in a row
  /// with it.
  mutating func revoke(_ member: Int, _ turn: Turn, now: Int) {
    let tooMany = members[member].breaker.failed(before: turn.failuresBefore, limit: settings.consecutiveFailures)
    var share = false
    if !windows.isEmpty {
      windows[member].advance(to: now)
      windows[member].turnedSpecial()
      share = hasTooManyErrors(windows[member])
    }
    if tooMany || share { eject(member, now: now) }
  }

  /// True when the share of failures is too large.
  @discardableResult
  private mutating func count(_ member: Int, isFailure: Bool, now: Int) -> Bool {
    guard !windows.isEmpty else { return false }
    windows[member].advance(to: now)
    windows[member].add(isSpecial: isFailure)
    return isFailure && hasTooManyErrors(windows[member])
  }

  private func hasTooManyErrors(_ window: SlidingWindow) -> Bool {
    window.total >= max(settings.errorMinimumRequests, 1)
      && window.special * 100 >= settings.errorPercent * window.total
  }

  private mutating func eject(_ member: Int, now: Int) {
    members[member].breaker.eject(settings, now: now)
    counters.ejections += 1
    opened(member)
    let position = Int(members[member].position)
    guard position >= 0 else { return }
    exchange(position, usableCount - 1)
    usableCount -= 1
    if cursor >= usableCount { cursor = 0 }
    if !isEven { usableWeights.set(member, 0) }
    if usesRotation { rotation.remove(member) }
    if usesConnections { connections.remove(member) }
    judgePanic()
  }

  private mutating func opened(_ member: Int) {
    members[member].epoch = newEpoch()
    let until = UInt64(bitPattern: Int64(members[member].breaker.until))
    expiries.insert(.init(key: until, order: 0, member: Int32(truncatingIfNeeded: member)))
  }

  private mutating func close(_ member: Int, now: Int) {
    members[member].breaker.close(now: now)
    members[member].epoch = newEpoch()
    counters.recoveries += 1
    if !windows.isEmpty { windows[member] = SlidingWindow() }
    let position = Int(members[member].position)
    guard position >= 0 else { return }
    exchange(position, usableCount)
    usableCount += 1
    startRamp(of: member, now: now)
    if !isEven { usableWeights.set(member, members[member].effective) }
    if usesRotation { insertIntoRotation(member) }
    if usesConnections { insertIntoConnections(member) }
    judgePanic()
  }

  /// The request that has just begun finds out how the member is.
  mutating func beginProbe(_ member: Int) {
    members[member].breaker.beginProbe()
    members[member].epoch = newEpoch()
    counters.probes += 1
    let index = Int(members[member].probe)
    guard index >= 0 else { return }
    let last = probes.removeLast()
    if index < probes.count {
      probes[index] = last
      members[Int(last)].probe = Int32(truncatingIfNeeded: index)
    }
    members[member].probe = -1
  }

  /// One of the next requests may be the member's probe.
  mutating func offerProbe(_ member: Int) {
    members[member].probe = Int32(truncatingIfNeeded: probes.count)
    probes.append(Int32(truncatingIfNeeded: member))
  }

  mutating func judgePanic() {
    isPanicking = usableCount * 100 < settings.panicPercent * order.count
  }

  /// Two members change places in `order`.
  private mutating func exchange(_ a: Int, _ b: Int) {
    guard a != b else { return }
    order.swapAt(a, b)
    members[Int(order[a])].position = Int32(truncatingIfNeeded: a)
    members[Int(order[b])].position = Int32(truncatingIfNeeded: b)
  }
}
