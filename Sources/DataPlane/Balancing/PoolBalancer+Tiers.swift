// What a worker asks of a balancer before it picks: whether anybody is there, so that backups stay out of it, and who else
// might take a request when the one that was picked is full. Only pools with backups or places come here.

extension PoolBalancer {
  /// Whether a request should go to one of these members rather than to a backup: somebody is well, or it is time to find
  /// out whether somebody is well again. That costs one request in eight, as it does among others that are well.
  /// - Parameter isRetry: such a request finds nothing out
  package mutating func leads(isRetry: Bool, now: Int) -> Bool {
    endEjections(now: now)
    if usableCount > 0 { return true }
    guard !probes.isEmpty, !isRetry else { return false }
    picksSinceProbe += 1
    return picksSinceProbe >= Self.picksBetweenProbes
  }

  /// Somebody is well.
  package var isAvailable: Bool { usableCount > 0 }

  /// Whether requests go to this member now; false for a place that is no member's.
  package func takes(_ place: Int32) -> Bool {
    guard let member = places.member(at: place), !members[member].isGone else { return false }
    return members[member].isUsable || isPanicking
  }

  /// A member that some request has to find out about, or -1. Where requests stand in line, none would come by by itself.
  package mutating func probe(now: Int) -> Int32 {
    endEjections(now: now)
    return probes.isEmpty ? -1 : members[Int(probes[0])].place
  }

  /// How many members a request may go to, the ejected among them only while there is panic.
  package var candidateCount: Int { isPanicking ? order.count : usableCount }

  /// The place of one of them.
  package func candidate(_ index: Int) -> Int32 { members[Int(order[index])].place }
}
