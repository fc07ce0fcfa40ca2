// What replicas need from Redis to balance as one: blocks of a pool's turns, and how busy instances are. Written by
// replicas (turns) and the leading control plane (loads); nothing here has to be right for a request to be served.
package import Routing

package struct Balancing: Sendable {
  private let keys: Keys
  package init(keys: Keys) { self.keys = keys }

  /// Turns of one block: a worker asks once for so many requests.
  package static let blockLength = 256
  /// Loads that nobody renews are forgotten, as an old one is worse than none. Three measurements of the leader.
  package static let loadLifeMilliseconds = 15_000

  /// The next turns of a pool's global_round_robin, which nobody else gets; nil when there is no such pool.
  package func block(pool: String) -> Command<Range<UInt64>?> {
    Command(
      .script(
        Self.blockScript, keys: [keys.pools, keys.cursor(pool: pool)], arguments: [pool, String(Self.blockLength)])
    ) { (reply: Reply) throws(StateError) -> Range<UInt64>? in
      if case .null = reply { return nil }
      let end = try reply.int(of: "balancing.block")
      guard end >= Self.blockLength else { throw StateError("balancing.block: \(end) is no count of turns") }
      return UInt64(end - Self.blockLength)..<UInt64(end)
    }
  }

  /// Makes these the loads of all instances: what was known of others is forgotten (they are gone, or their engine says
  /// nothing), and those that are not registered any more are left out.
  package func put(loads: [String: InstanceLoad]) -> Command<Void> {
    var arguments = [String(Self.loadLifeMilliseconds)]
    for (id, load) in loads.sorted(by: { $0.key < $1.key }) { arguments += [id, load.text] }
    return Command(
      .script(Self.loadScript, keys: [keys.instances, keys.load], arguments: arguments), parse: Read.nothing())
  }

  /// How busy instances are, as far as that is known.
  package func loads() -> Command<[String: InstanceLoad]> {
    Command(.words(["HGETALL", keys.load]), mayRepeat: true) {
      (reply: Reply) throws(StateError) -> [String: InstanceLoad] in
      var loads: [String: InstanceLoad] = [:]
      for (id, value) in try reply.pairs(of: "load") {
        // One that cannot be read counts as not measured.
        loads[id] = InstanceLoad(text: try value.string(of: "load"))
      }
      return loads
    }
  }

  /// Replicas that have beaten since then.
  package func liveReplicas(since: Int) -> Command<Int> {
    Command(.words(["ZCOUNT", keys.replicas, String(since), "+inf"]), mayRepeat: true, parse: Read.int("replicas"))
  }
}

extension Balancing {
  static let blockScript = Script(
    name: "balancing.block",
    source: #"""
      if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return false end
      return redis.call('INCRBY', KEYS[2], ARGV[2])
      """#)

  static let loadScript = Script(
    name: "balancing.load",
    source: #"""
      redis.call('DEL', KEYS[2])
      for i = 2, #ARGV, 2 do
        if redis.call('HEXISTS', KEYS[1], ARGV[i]) == 1 then redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
      end
      redis.call('PEXPIRE', KEYS[2], ARGV[1])
      return 1
      """#)
}
