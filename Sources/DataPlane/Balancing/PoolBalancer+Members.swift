// Members that come, stay and go: what is rebuilt when the routing table changes. Not on a request's way.

extension PoolBalancer {
  /// New knobs; ejections that are under way keep their time.
  package mutating func update(settings: BalancerSettings) {
    guard settings != self.settings else { return }
    self.settings = settings
    if settings.slowStartMilliseconds == 0 {
      for index in members.indices where !members[index].isGone {
        members[index].isRamping = false
        members[index].effective = members[index].fullWeight
      }
    }
    rebuild()
  }

  /// The members that take requests now. Those that stay keep their state; those with turns under way are remembered
  /// until these end, in case they come back. New ones start slowly, unless all are new. Costs O(n log n).
  /// - Parameter members: a place that stands twice counts once
  package mutating func update(_ members: [BalancerMember], methods: BalancingMethods, now: Int) {
    guard members != listed || methods != self.methods else { return }
    listed = members
    self.methods = methods
    let before = self.members
    var next: [Member] = []
    next.reserveCapacity(members.count)
    var known = PlaceMap()
    known.reset(count: members.count + before.count)
    // Where each member of `next` was in `before`.
    var origins: [Int32] = []
    var stays = false
    for member in members where member.place >= 0 && known.member(at: member.place) == nil {
      let origin = places.member(at: member.place).flatMap { before[$0].key == member.key ? $0 : nil }
      let old = origin.map { before[$0] }
      known.insert(member.place, member: next.count)
      if let old, !old.isGone, old.generation == member.generation {
        stays = stays || old.weight > 0
        origins.append(Int32(origin!))
        next.append(changed(old, to: member, now))
      } else {
        origins.append(-1)
        next.append(blank(member, after: old, now))
      }
    }
    if stays, settings.slowStartMilliseconds > 0 {
      for index in next.indices where origins[index] < 0 && next[index].weight > 0 {
        next[index].isRamping = true
        next[index].effective = rampedWeight(next[index], now)
      }
    }
    for (index, member) in before.enumerated() where member.active > 0 && known.member(at: member.place) == nil {
      known.insert(member.place, member: next.count)
      origins.append(Int32(index))
      var gone = member
      gone.isGone = true
      gone.isRamping = false
      next.append(gone)
    }
    self.members = next
    places = known
    rebuild(origins)
  }

  /// A member that stays.
  private func changed(_ old: Member, to new: BalancerMember, _ now: Int) -> Member {
    var member = old
    member.weight = UInt16(min(max(new.weight, 0), 256))
    member.isRamping = old.isRamping && member.weight > 0
    member.effective = member.isRamping ? rampedWeight(member, now) : member.fullWeight
    return member
  }

  /// New, back again or restarted: a blank sheet, but for the turns that are still under way.
  private mutating func blank(_ new: BalancerMember, after old: Member?, _ now: Int) -> Member {
    var member = Member()
    member.place = new.place
    member.key = new.key
    member.generation = new.generation
    member.weight = UInt16(min(max(new.weight, 0), 256))
    member.effective = member.fullWeight
    member.rampStart = now
    member.rampedAt = now
    member.epoch = newEpoch()
    member.active = old?.active ?? 0
    member.born = old?.born ?? member.epoch
    return member
  }

  mutating func newEpoch() -> UInt32 {
    lastEpoch &+= 1
    return lastEpoch
  }

  /// Brings all that is derived from the members up to date.
  /// - Parameter origins: where each member was in the heaps and windows so far; nil = where it is
  private mutating func rebuild(_ origins: [Int32]? = nil) {
    let current = members.indices.filter { !members[$0].isGone }.map(Int32.init)
    byKey = current.sorted { (members[Int($0)].key, $0) < (members[Int($1)].key, $1) }
    ranked = byKey.filter { members[Int($0)].weight > 0 }
    let weighted = current.filter { members[Int($0)].weight > 0 }
    let first = weighted.first.map { members[Int($0)].weight }
    isEven = settings.slowStartMilliseconds == 0 && weighted.allSatisfy { members[Int($0)].weight == first }
    order = weighted.filter { members[Int($0)].breaker.phase == .closed }
    usableCount = order.count
    order += weighted.filter { members[Int($0)].breaker.phase != .closed }
    for member in members.indices { members[member].position = -1 }
    for (position, member) in order.enumerated() { members[Int(member)].position = Int32(position) }
    if usableCount > 0 { cursor %= usableCount }
    ramping = weighted.filter { members[Int($0)].isRamping }
    rampCursor = 0
    rebuildEjections(current, origins)
    rebuildWeights()
    rebuildHeaps(origins)
    rebuildRing()
    judgePanic()
  }

  private mutating func rebuildEjections(_ current: [Int32], _ origins: [Int32]?) {
    expiries.reset(count: members.count)
    for member in current where members[Int(member)].breaker.phase == .open {
      let until = UInt64(bitPattern: Int64(members[Int(member)].breaker.until))
      expiries.insert(.init(key: until, order: 0, member: member))
    }
    probes = []
    for member in members.indices { members[member].probe = -1 }
    for member in order[usableCount...] where members[Int(member)].breaker.phase == .waiting { offerProbe(Int(member)) }
    if settings.errorPercent == 0 {
      windows = []
    } else if windows.isEmpty {
      windows = [SlidingWindow](repeating: SlidingWindow(), count: members.count)
    } else if let origins {
      windows = origins.map { $0 < 0 ? SlidingWindow() : windows[Int($0)] }
    }
  }

  private mutating func rebuildWeights() {
    usableWeights.reset(count: isEven ? 0 : members.count)
    allWeights.reset(count: isEven ? 0 : members.count)
    guard !isEven else { return }
    for (position, member) in order.enumerated() {
      let weight = members[Int(member)].effective
      allWeights.set(Int(member), weight)
      if position < usableCount { usableWeights.set(Int(member), weight) }
    }
  }

  private mutating func rebuildHeaps(_ origins: [Int32]?) {
    let oldRotation = rotation
    let oldConnections = connections
    rotation.reset(count: usesRotation ? members.count : 0)
    connections.reset(count: usesConnections ? members.count : 0)
    for member in order[..<usableCount] {
      let origin = origins.map { Int($0[Int(member)]) } ?? Int(member)
      if usesRotation { insertIntoRotation(Int(member), due: oldRotation.entry(of: origin)?.key) }
      if usesConnections { insertIntoConnections(Int(member), due: oldConnections.entry(of: origin)?.order) }
    }
  }

  private mutating func rebuildRing() {
    rankedSums = []
    if methods.uses(.globalRoundRobin), !isEven {
      var sum: UInt32 = 0
      rankedSums = ranked.map { member in
        sum += UInt32(members[Int(member)].weight)
        return sum
      }
    }
    guard methods.uses(.hash) else {
      ring = HashRing()
      ringMembers = []
      return
    }
    // The ring is dear, and most updates change neither keys nor weights.
    let keys = ranked.flatMap { [members[Int($0)].key, UInt64(members[Int($0)].weight)] }
    guard keys != ringMembers else { return }
    ringMembers = keys
    ring = HashRing(ranked.map { (members[Int($0)].key, Int(members[Int($0)].weight)) })
  }
}
