// Whose launch is next when several pools want more instances than may start at once. Without turns the pool whose name
// comes first would hold up all others for as long as its queue is long. The supervisor asks after each look.

/// Gives launches to pools so that none has more than one more under way than another one that still wants some.
package struct LaunchTurns: Sendable {
  /// A pool that wants launches.
  package struct Pool: Sendable, Equatable {
    package var name: String
    package var wanted: Int
    /// Its launches that are under way.
    package var running: Int

    package init(name: String, wanted: Int, running: Int) {
      self.name = name
      self.wanted = wanted
      self.running = running
    }
  }
  private var pools: [Pool]
  private var left: Int

  /// - Parameter budget: how many may begin now.
  package init(_ pools: [Pool], budget: Int) {
    self.pools = pools.filter { $0.wanted > 0 }.sorted { $0.name < $1.name }
    left = budget
  }

  /// The pool that may begin its next launch; nil when nobody wants one or no more may begin.
  package mutating func next() -> String? {
    guard left > 0, let index = pools.indices.min(by: { pools[$0].running < pools[$1].running }) else { return nil }
    left -= 1
    pools[index].running += 1
    pools[index].wanted -= 1
    let name = pools[index].name
    if pools[index].wanted == 0 { pools.remove(at: index) }
    return name
  }

  /// The launch of this turn could not begin: the pool's hosts have as many as they can bear, and others may go on.
  package mutating func refuse(_ pool: String) {
    left += 1
    pools.removeAll { $0.name == pool }
  }
}
