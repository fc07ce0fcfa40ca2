// What must be true of a balancer between any two calls. Tests of random lives ask after each step.

extension PoolBalancer {
  /// The first broken promise, or nil.
  package func violation() -> String? {
    if let problem = rotation.violation { return "rotation: \(problem)" }
    if let problem = connections.violation { return "connections: \(problem)" }
    if let problem = expiries.violation { return "expiries: \(problem)" }
    let weighted = members.count { !$0.isGone && $0.weight > 0 }
    if order.count != weighted { return "\(order.count) in order, \(weighted) have a weight" }
    if usableCount > order.count { return "more usable than members" }
    if isPanicking != (usableCount * 100 < settings.panicPercent * order.count) { return "wrong panic" }
    for (position, member) in order.enumerated() {
      if members[Int(member)].position != position { return "member \(member) is not at \(position)" }
      let isClosed = members[Int(member)].breaker.phase == .closed
      if isClosed != (position < usableCount) { return "member \(member) is on the wrong side" }
    }
    for (index, member) in members.enumerated() {
      if let problem = violation(of: member, at: index) { return "member \(index): \(problem)" }
    }
    if expiries.count > members.count { return "more ejections than members" }
    if probes.count != members.count(where: { $0.probe >= 0 }) { return "probes without members" }
    if usesRotation, rotation.count != usableCount { return "\(rotation.count) in rotation" }
    if usesConnections, connections.count != usableCount { return "\(connections.count) by connections" }
    return nil
  }

  private func violation(of member: Member, at index: Int) -> String? {
    if member.active < 0 { return "negative active count" }
    if places.member(at: member.place) != index { return "its place leads elsewhere" }
    if member.effective > member.fullWeight { return "above its weight" }
    if !member.isGone, member.weight > 0, member.effective == 0 { return "no weight left" }
    if !member.isGone, !member.isRamping, member.effective != member.fullWeight { return "stays below its weight" }
    let isProbe = member.breaker.phase == .waiting && member.position >= 0
    if isProbe != (member.probe >= 0) { return "probe: \(isProbe)" }
    if isProbe, probes[Int(member.probe)] != index { return "another one's probe" }
    if !member.isGone, (member.breaker.phase == .open) != (expiries.entry(of: index) != nil) { return "no way back" }
    if !isEven, !member.isGone {
      if allWeights.weight(of: index) != Int(member.effective) { return "wrong weight among all" }
      let usable = member.isUsable ? Int(member.effective) : 0
      if usableWeights.weight(of: index) != usable { return "wrong weight among the usable" }
    }
    if usesConnections, let entry = connections.entry(of: index), entry.key != connectionsKey(index) {
      return "wrong load"
    }
    return nil
  }
}
