// A hashed timer wheel over the slab. A connection has one deadline; moving it further away costs nothing, as the wheel
// looks again when the old slot comes up. Bringing it nearer relinks it.

struct TimerWheel {
  /// 512 slots of 128 ms: what is further away than a minute goes around.
  private static let slots = 512
  private static let shift = 7
  private let heads: FixedArray<Int32>
  private var lastTick: Int

  init(now: Int) {
    heads = FixedArray(repeating: -1, count: Self.slots)
    lastTick = now >> Self.shift
  }

  func free() { heads.free() }

  /// Sets when a connection's wait ends.
  @inline(__always) mutating func set(_ fd: Int32, _ wait: Wait, at deadline: Int, _ slab: Slab) {
    slab[fd].wait = wait
    slab[fd].deadline = deadline
    let slot = slab[fd].wheelSlot
    if slot >= 0 {
      // Linked already: fine as long as its slot comes up no later than the new deadline.
      let tick = max(deadline >> Self.shift, lastTick) + 1
      let distance = (Int(slot) - (lastTick + 1)) & (Self.slots - 1)
      if lastTick + 1 + distance <= tick { return }
      unlink(fd, slab)
    }
    link(fd, slab)
  }

  func unlink(_ fd: Int32, _ slab: Slab) {
    let slot = slab[fd].wheelSlot
    guard slot >= 0 else { return }
    let next = slab[fd].wheelNext
    let previous = slab[fd].wheelPrevious
    if previous >= 0 { slab[previous].wheelNext = next } else { heads[Int(slot)] = next }
    if next >= 0 { slab[next].wheelPrevious = previous }
    slab[fd].wheelSlot = -1
    slab[fd].wheelNext = -1
    slab[fd].wheelPrevious = -1
  }

  private func link(_ fd: Int32, _ slab: Slab) {
    // The slot after the deadline's own, so that it never fires early; at most one turn ahead.
    let tick = min(max(slab[fd].deadline >> Self.shift, lastTick) + 1, lastTick + Self.slots - 1)
    let slot = tick & (Self.slots - 1)
    let head = heads[slot]
    slab[fd].wheelSlot = Int32(slot)
    slab[fd].wheelPrevious = -1
    slab[fd].wheelNext = head
    if head >= 0 { slab[head].wheelPrevious = fd }
    heads[slot] = fd
  }

  /// Takes the next connection whose deadline has passed out of the wheel; nil when there is none at `now`.
  mutating func nextExpired(now: Int, _ slab: Slab) -> Int32? {
    let tick = now >> Self.shift
    // After a long stop one turn of the wheel visits every slot; more would visit them again.
    if tick - lastTick > Self.slots { lastTick = tick - Self.slots }
    while lastTick < tick {
      let slot = (lastTick + 1) & (Self.slots - 1)
      var fd = heads[slot]
      while fd >= 0 {
        let next = slab[fd].wheelNext
        unlink(fd, slab)
        if slab[fd].wait != .none {
          if slab[fd].deadline <= now { return fd }
          relink(fd, after: tick, slab)
        }
        fd = next
      }
      lastTick += 1
    }
    return nil
  }

  /// The first connections that wait for this, roughly in the order in which their waits end. Costs a look at each that is
  /// linked before them.
  func first(_ wait: Wait, limit: Int, _ slab: Slab, where isMeant: (Int32) -> Bool) -> [Int32] {
    var found: [Int32] = []
    for distance in 1...Self.slots {
      var fd = heads[(lastTick + distance) & (Self.slots - 1)]
      while fd >= 0 {
        if slab[fd].wait == wait, isMeant(fd) {
          found.append(fd)
          if found.count == limit { return found }
        }
        fd = slab[fd].wheelNext
      }
    }
    return found
  }

  /// Links a connection that was looked at early again, never into the slot that is being emptied.
  private func relink(_ fd: Int32, after tick: Int, _ slab: Slab) {
    let target = min(max((slab[fd].deadline >> Self.shift) + 1, tick + 1), lastTick + Self.slots)
    let slot = target & (Self.slots - 1)
    if slot == (lastTick + 1) & (Self.slots - 1) {
      insert(fd, (slot + Self.slots - 1) & (Self.slots - 1), slab)
    } else {
      insert(fd, slot, slab)
    }
  }

  private func insert(_ fd: Int32, _ slot: Int, _ slab: Slab) {
    let head = heads[slot]
    slab[fd].wheelSlot = Int32(slot)
    slab[fd].wheelPrevious = -1
    slab[fd].wheelNext = head
    if head >= 0 { slab[head].wheelPrevious = fd }
    heads[slot] = fd
  }
}
