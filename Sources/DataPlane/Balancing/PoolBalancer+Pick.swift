// The choice of a member for a request, one function per method. Each costs O(1) or O(log n), however many are ejected.

extension PoolBalancer {
  /// The place of the member that gets the request, or -1 when none may: the pool is empty, or all members are ejected
  /// and the settings know no panic, or only `avoiding` is left.
  /// - Parameters:
  ///   - hash: of the client's address, header or cookie; for `hash` only (``StableHash``, ``ClientAddress``)
  ///   - avoiding: the place where the request has just failed, or -1; a pick with it is no probe either
  ///   - random: state of the caller's generator, never 0
  ///   - sequence: the request's number of a lent block; for `globalRoundRobin` only, nil = count locally
  package mutating func pick(
    _ method: BalancingMethod, hash: UInt64 = 0, avoiding: Int32 = -1, now: Int, random: inout UInt64,
    sequence: UInt64? = nil
  ) -> Int32 {
    endEjections(now: now)
    if !ramping.isEmpty { advanceRamps(now: now) }
    let avoided = avoiding < 0 ? -1 : places.member(at: avoiding) ?? -1
    let member = choose(method, hash, avoided, isRetry: avoiding >= 0, &random, now, sequence)
    guard member >= 0 else {
      counters.emptyPicks += 1
      return -1
    }
    return members[member].place
  }

  /// Whether a request that must go to this very instance (sticky cookie, job id) may: it is a member, of any weight, and
  /// is not ejected, or may be probed, or the pool panics. If not, the caller picks another or refuses.
  package mutating func admits(_ place: Int32, now: Int) -> Bool {
    guard let member = places.member(at: place), !members[member].isGone else { return false }
    endEjectionIfOver(of: member, now: now)
    switch members[member].breaker.phase {
    case .closed, .waiting: return true
    case .open, .probing: return isPanicking
    }
  }

  @inline(__always) private mutating func choose(
    _ method: BalancingMethod, _ hash: UInt64, _ avoided: Int, isRetry: Bool, _ random: inout UInt64, _ now: Int,
    _ sequence: UInt64?
  ) -> Int {
    guard !order.isEmpty else { return -1 }
    // What update was not told of is not prepared.
    let method = methods.uses(method) ? method : .random
    if method == .hash { return onRing(StableHash.mix(hash), avoided, isRetry: isRetry) }
    picksSinceProbe += 1
    if !probes.isEmpty, !isRetry, let probe = nextProbe() { return probe }
    if isPanicking {
      // Nobody knows who is well, and those that fail at once would look idle: spread by weight alone.
      counters.panicPicks += 1
      return isEven ? nextInOrder(order.count, avoided) : allWeights.draw(except: avoided, -1, &random)
    }
    guard usableCount > 0 else { return -1 }
    switch method {
    case .roundRobin: return nextInTurn(avoided)
    case .globalRoundRobin:
      guard let sequence else { return nextInTurn(avoided) }
      return global(sequence, avoided, &random)
    case .leastConnections: return Int(connections.top(except: Int32(truncatingIfNeeded: avoided))?.member ?? -1)
    case .random, .hash: return draw(except: avoided, -1, &random)
    case .powerOfTwo, .responseTime, .resources:
      let first = draw(except: avoided, -1, &random)
      guard first >= 0 else { return -1 }
      let second = draw(except: avoided, first, &random)
      guard second >= 0 else { return first }
      return isBetter(second, than: first, method, now) ? second : first
    }
  }

  /// A half-open member gets the request if none had to be a probe lately: one in eight, so that a pool where much is
  /// broken does not try its clients' patience; at once when there is nobody else.
  @inline(__always) private mutating func nextProbe() -> Int? {
    guard picksSinceProbe >= Self.picksBetweenProbes || usableCount == 0 else { return nil }
    picksSinceProbe = 0
    return Int(probes[0])
  }

  // MARK: Round robin

  @inline(__always) private mutating func nextInTurn(_ avoided: Int) -> Int {
    isEven ? nextInOrder(usableCount, avoided) : takeTurn(except: avoided)
  }

  @inline(__always) private mutating func nextInOrder(_ count: Int, _ avoided: Int) -> Int {
    if cursor >= count { cursor = 0 }
    var member = Int(order[cursor])
    cursor += 1
    if member == avoided {
      guard count > 1 else { return -1 }
      if cursor >= count { cursor = 0 }
      member = Int(order[cursor])
      cursor += 1
    }
    return member
  }

  /// Number `sequence` of all replicas' requests. With unequal weights, multiples of the golden ratio fall evenly on the
  /// line of all weights, so that here, too, a heavy member's requests are spread between the others'.
  private mutating func global(_ sequence: UInt64, _ avoided: Int, _ random: inout UInt64) -> Int {
    let rank: Int
    if isEven {
      rank = Int(truncatingIfNeeded: sequence % UInt64(ranked.count))
    } else {
      guard let total = rankedSums.last else { return nextInTurn(avoided) }
      let point = (sequence &* 0x9E37_79B9_7F4A_7C15).multipliedFullWidth(by: UInt64(total)).high
      rank = rankOf(point)
    }
    let member = Int(ranked[rank])
    let isDeclined = members[member].isRamping && !admitsInSlowStart(member, Random.next(&random))
    if members[member].isUsable, member != avoided, !isDeclined { return member }
    return draw(except: avoided, -1, &random)
  }

  /// The first rank whose sum is above the point.
  private func rankOf(_ point: UInt64) -> Int {
    var lower = 0
    var upper = rankedSums.count - 1
    while lower < upper {
      let middle = (lower + upper) / 2
      if UInt64(rankedSums[middle]) > point { upper = middle } else { lower = middle + 1 }
    }
    return lower
  }

  // MARK: Random choices

  /// A random usable member by weight, none of the two.
  @inline(__always) private mutating func draw(except a: Int, _ b: Int, _ random: inout UInt64) -> Int {
    isEven ? drawEven(except: a, b, &random) : usableWeights.draw(except: a, b, &random)
  }

  @inline(__always) private func drawEven(except a: Int, _ b: Int, _ random: inout UInt64) -> Int {
    var lower = usablePosition(a)
    var upper = b == a ? Int.max : usablePosition(b)
    if lower > upper { (lower, upper) = (upper, lower) }
    let count = usableCount - (lower == .max ? 0 : 1) - (upper == .max ? 0 : 1)
    guard count > 0 else { return -1 }
    var position = Random.below(count, &random)
    if position >= lower { position += 1 }
    if position >= upper { position += 1 }
    return Int(order[position])
  }

  /// Where the member is among the usable; `Int.max` = nowhere.
  @inline(__always) private func usablePosition(_ member: Int) -> Int {
    guard member >= 0 else { return .max }
    let position = Int(members[member].position)
    return position >= 0 && position < usableCount ? position : .max
  }

  /// Of two that were drawn by weight; a tie leaves the first, so that idle members get requests by their weights.
  @inline(__always) private func isBetter(_ a: Int, than b: Int, _ method: BalancingMethod, _ now: Int) -> Bool {
    switch method {
    case .responseTime: expectedTime(a, now) < expectedTime(b, now)
    case .resources: pressure(a) < pressure(b)
    // active / weight, without the division.
    default:
      Int(members[a].active) * Int(members[b].effective) < Int(members[b].active) * Int(members[a].effective)
    }
  }

  /// 1 when idle, and as many times more as requests are under way per weight.
  @inline(__always) private func occupation(_ member: Int) -> Float {
    1 + Float(members[member].active) * 256 / Float(members[member].effective)
  }

  /// How long a request would take: as long as the last ones, behind those that are under way.
  @inline(__always) private func expectedTime(_ member: Int, _ now: Int) -> Float {
    let response = members[member].response
    // Who has no figure yet is taken for average, so that it is neither flooded nor left aside.
    let time = response.isKnown ? response.value(isIdle: members[member].active == 0, now: now) : meanResponse
    return (time + 1) * occupation(member)
  }

  /// Requests per share of the machine that is still free. The published figures are seconds old, so that the requests
  /// under way have to count as well; and none is ever called quite full by them.
  @inline(__always) private func pressure(_ member: Int) -> Float {
    occupation(member) / Float(max(5, 100 - Int(members[member].load)))
  }

  // MARK: Consistent hashing

  /// The owner of the key, or who comes next on the ring while the owner is ejected.
  private mutating func onRing(_ hash: UInt64, _ avoided: Int, isRetry: Bool) -> Int {
    if isPanicking { counters.panicPicks += 1 }
    guard ring.pointCount > 0 else { return -1 }
    var index = ring.first(hash)
    var declined = -1
    // Each step meets another member or the same again. The bound matters only when nearly all are ejected.
    for _ in 0..<64 {
      let member = Int(ranked[ring.rank(index)])
      if member != avoided {
        switch members[member].breaker.phase {
        case .closed:
          if !members[member].isRamping || admitsInSlowStart(member, StableHash.mix(hash)) { return member }
          if declined < 0 { declined = member }
        case .waiting: if !isRetry || isPanicking { return member }
        case .open, .probing: break
        }
        if isPanicking { return member }
      }
      index = ring.next(index)
    }
    if declined >= 0 { return declined }
    guard usableCount > 0 else { return probes.isEmpty || isRetry ? -1 : Int(probes[0]) }
    let position = Int(truncatingIfNeeded: hash.multipliedFullWidth(by: UInt64(usableCount)).high)
    let member = Int(order[position])
    if member != avoided { return member }
    return usableCount > 1 ? Int(order[position + 1 < usableCount ? position + 1 : 0]) : -1
  }

  /// A member in slow start takes a growing share of the numbers, of which those that it took once stay with it.
  @inline(__always) private func admitsInSlowStart(_ member: Int, _ number: UInt64) -> Bool {
    let share = number.multipliedFullWidth(by: UInt64(members[member].fullWeight)).high
    return share < UInt64(members[member].effective)
  }
}
