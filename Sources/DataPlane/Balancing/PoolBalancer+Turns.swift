// A request's stay at a member: its beginning, its answer and its end, and what these say of the member.

extension PoolBalancer {
  /// A request goes to the member. A place that is no member gives a turn that counts nowhere.
  package mutating func began(_ place: Int32, now: Int) -> Turn {
    var turn = Turn()
    guard let member = places.member(at: place) else { return turn }
    turn.place = place
    members[member].active += 1
    if usesConnections { beginConnection(member) }
    if !members[member].isGone {
      endEjectionIfOver(of: member, now: now)
      switch members[member].breaker.phase {
      case .closed: turn.flags = Turn.counts
      case .waiting:
        beginProbe(member)
        turn.flags = Turn.counts | Turn.probe
      // Only in panic: its result says nothing before its time is over.
      case .open, .probing: break
      }
    }
    turn.epoch = members[member].epoch
    return turn
  }

  /// The head of the instance's answer is there: counts for the circuit breaker and the response time. Once per turn.
  /// - Parameter microseconds: from sending the request to the answer's head; negative = not measured
  package mutating func answered(_ turn: inout Turn, _ outcome: Outcome, microseconds: Int, now: Int) {
    guard turn.flags & Turn.answered == 0, let member = member(of: turn) else { return }
    turn.flags |= Turn.answered
    measure(member, outcome, microseconds, now)
    if turn.flags & Turn.counts != 0, turn.epoch == members[member].epoch { judge(member, outcome, &turn, now: now) }
  }

  /// The request is over. After `answered`, only `.failure` says something new (the body was cut).
  package mutating func ended(_ turn: inout Turn, _ outcome: Outcome, microseconds: Int = -1, now: Int) {
    guard let member = member(of: turn) else {
      turn = Turn()
      return
    }
    if turn.flags & Turn.answered == 0 {
      answered(&turn, outcome, microseconds: microseconds, now: now)
    } else if outcome == .failure, turn.flags & Turn.succeeded != 0, turn.epoch == members[member].epoch {
      revoke(member, turn, now: now)
    }
    members[member].active -= 1
    if usesConnections { endConnection(member) }
    turn = Turn()
  }

  /// The member that the turn is at, unless another one has its place by now.
  @inline(__always) private func member(of turn: Turn) -> Int? {
    guard let member = places.member(at: turn.place) else { return nil }
    return turn.epoch &- members[member].born < UInt32.max / 2 ? member : nil
  }

  @inline(__always) private mutating func measure(_ member: Int, _ outcome: Outcome, _ microseconds: Int, _ now: Int) {
    guard microseconds >= 0, methods.uses(.responseTime) else { return }
    members[member].response.add(microseconds, isFailure: outcome != .success, now: now)
    if outcome == .success { meanResponse += (Float(microseconds) - meanResponse) / 16 }
  }
}
