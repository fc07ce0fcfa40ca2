// The two heaps by which members with unequal weights get their turns in order, and slow start, which changes weights.
//
// Virtual time: a member that is served is due again after a time that is the longer the smaller its weight is (stride
// scheduling, also known as earliest deadline first). Serving who is due first spreads the requests of heavy members
// evenly between those of light ones: no bursts, and after any number of requests no two members are further apart than
// one request each.

extension PoolBalancer {
  var usesRotation: Bool { !isEven && (methods.uses(.roundRobin) || methods.uses(.globalRoundRobin)) }
  var usesConnections: Bool { methods.uses(.leastConnections) }

  /// How long after its turn a member is due again. Weights go up to 2^16, so the quotient is exact to 2^-24.
  @inline(__always) func stride(_ effective: UInt32) -> UInt64 { 1 << 40 / UInt64(max(effective, 1)) }

  /// Somewhere within its first stride, so that members of equal weight spread over it; as it was, if that still fits.
  private func firstDue(_ member: Int, _ due: UInt64?, _ time: UInt64) -> UInt64 {
    let stride = stride(members[member].effective)
    if let due, due &- time <= stride { return due }
    let fraction = StableHash.combine(members[member].key, seed) >> 48
    return time &+ stride >> 16 &* fraction
  }

  func connectionsKey(_ member: Int) -> UInt64 {
    // Idle members are all equally well off, so that those of small weight get requests, too, when there is little to do.
    let active = UInt64(members[member].active)
    return active == 0 ? 0 : (active + 1) << 24 / UInt64(max(members[member].effective, 1))
  }

  mutating func insertIntoRotation(_ member: Int, due: UInt64? = nil) {
    let due = firstDue(member, due, rotationTime)
    rotation.insert(.init(key: due, order: UInt64(member), member: Int32(truncatingIfNeeded: member)))
  }

  mutating func insertIntoConnections(_ member: Int, due: UInt64? = nil) {
    let due = firstDue(member, due, connectionsTime)
    connections.insert(.init(key: connectionsKey(member), order: due, member: Int32(truncatingIfNeeded: member)))
  }

  /// The member whose turn it is, or -1. It is due again a stride later.
  @inline(__always) mutating func takeTurn(except avoided: Int) -> Int {
    guard let entry = rotation.top(except: Int32(truncatingIfNeeded: avoided)) else { return -1 }
    let member = Int(entry.member)
    // Time does not pass for a member that is avoided and stays due.
    if rotation.top!.member == entry.member { rotationTime = entry.key }
    rotation.update(member, key: entry.key &+ stride(members[member].effective), order: entry.order)
    return member
  }

  /// A request began at a member: it is busier, and behind its equals.
  @inline(__always) mutating func beginConnection(_ member: Int) {
    guard let entry = connections.entry(of: member) else { return }
    // Who was busy for a long time is due since long ago; that gives it the next turn, but no more than one.
    if Int64(bitPattern: entry.order &- connectionsTime) > 0 { connectionsTime = entry.order }
    let due = connectionsTime &+ stride(members[member].effective)
    connections.update(member, key: connectionsKey(member), order: due)
  }

  @inline(__always) mutating func endConnection(_ member: Int) {
    guard let entry = connections.entry(of: member) else { return }
    connections.update(member, key: connectionsKey(member), order: entry.order)
  }

  // MARK: Slow start

  /// A tenth of the weight at first, all of it at the end.
  func rampedWeight(_ member: Member, _ now: Int) -> UInt32 {
    let time = settings.slowStartMilliseconds
    let elapsed = min(max(now - member.rampStart, 0), time)
    guard elapsed < time else { return member.fullWeight }
    return UInt32((Int(member.fullWeight) * (time + 9 * elapsed) + 10 * time - 1) / (10 * time))
  }

  /// A member that was ejected is back.
  mutating func startRamp(of member: Int, now: Int) {
    guard settings.slowStartMilliseconds > 0, members[member].weight > 0 else { return }
    if !members[member].isRamping { ramping.append(Int32(truncatingIfNeeded: member)) }
    members[member].isRamping = true
    members[member].rampStart = now
    members[member].rampedAt = now
    setEffective(member, rampedWeight(members[member], now))
  }

  /// Adapts the weights of a few members in slow start; each pick does so, as there is no timer. However many start at the
  /// same time, a pick looks at no more than four of them.
  mutating func advanceRamps(now: Int) {
    let interval = max(1, settings.slowStartMilliseconds / 64)
    for _ in 0..<min(4, ramping.count) {
      if rampCursor >= ramping.count { rampCursor = 0 }
      let member = Int(ramping[rampCursor])
      guard now - members[member].rampedAt >= interval else {
        rampCursor += 1
        continue
      }
      members[member].rampedAt = now
      setEffective(member, rampedWeight(members[member], now))
      if members[member].effective == members[member].fullWeight {
        members[member].isRamping = false
        ramping[rampCursor] = ramping[ramping.count - 1]
        ramping.removeLast()
      } else {
        rampCursor += 1
      }
    }
  }

  private mutating func setEffective(_ member: Int, _ weight: UInt32) {
    let old = members[member].effective
    guard weight != old else { return }
    members[member].effective = weight
    guard !isEven else { return }
    allWeights.set(member, weight)
    guard members[member].isUsable else { return }
    usableWeights.set(member, weight)
    if let entry = rotation.entry(of: member) {
      // What is left of its wait shrinks or grows as its stride does.
      let wait = (entry.key &- rotationTime) * UInt64(old) / UInt64(weight)
      rotation.update(member, key: rotationTime &+ wait, order: entry.order)
    }
    endConnection(member)
  }
}
