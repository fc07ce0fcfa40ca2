// Pools whose launches fail: the leader writes what it knows, so that every control plane can show it and the next leader
// goes on where this one was, instead of beginning a crash loop anew.
package import JSON
package import Routing

/// Why a pool does not get the instances that it wants. Times are Unix milliseconds.
package struct PoolTrouble: Sendable, Equatable {
  package var pool: String
  /// `backing_off` or `crash_looping`.
  package var state: String
  /// Failures in a row: launches, instances that died soon after they had become ready, and launches without room.
  package var failedLaunches = 0
  package var earlyDeaths = 0
  package var refusals = 0
  /// When the first of these failures was.
  package var since = 0
  package var lastFailureAt = 0
  package var nextLaunchAt = 0
  /// The last failure: of which instance, why, and the last lines that it wrote.
  package var instance = ""
  package var reason = ""
  package var log: [String] = []

  package init(pool: String, state: String) {
    self.pool = pool
    self.state = state
  }

  package init(pool: String, json: JSON) throws(RecordError) {
    var fields = try Fields(json, of: "trouble of pool \"\(pool)\"")
    self.init(pool: pool, state: try fields.string("state"))
    failedLaunches = try fields.int("failedLaunches", in: 0...Int.max)
    earlyDeaths = try fields.int("earlyDeaths", in: 0...Int.max)
    refusals = try fields.int("refusals", in: 0...Int.max)
    since = try fields.int("since", in: 0...Int.max)
    lastFailureAt = try fields.int("lastFailureAt", in: 0...Int.max)
    nextLaunchAt = try fields.int("nextLaunchAt", in: 0...Int.max)
    instance = try fields.string("instance")
    reason = try fields.string("reason")
    log = try fields.list("log")
    try fields.finish()
  }

  package var json: JSON {
    [
      "state": .string(state), "failedLaunches": .int(failedLaunches), "earlyDeaths": .int(earlyDeaths),
      "refusals": .int(refusals), "since": .int(since), "lastFailureAt": .int(lastFailureAt),
      "nextLaunchAt": .int(nextLaunchAt), "instance": .string(instance), "reason": .string(reason),
      "log": .array(log.map(JSON.string)),
    ]
  }
}

package struct Troubles: Sendable {
  private let keys: Keys
  package init(keys: Keys) { self.keys = keys }

  /// Keeps what is wrong with a pool; nil = nothing any more. With the leader's fence, as every guarded write.
  package func put(_ trouble: PoolTrouble?, pool: String, fence: Fence, now: Int) -> Command<Void> {
    keys.call(Self.putScript, now: now, [fence.value, pool, trouble?.json.text ?? ""], parse: Read.nothing())
  }

  /// By pool; what cannot be read is left out.
  package func all() -> Command<[String: PoolTrouble]> {
    Command(.words(["HGETALL", keys.troubles]), mayRepeat: true) {
      (reply: Reply) throws(StateError) -> [String: PoolTrouble] in
      var invalid: [String] = []
      let list = try Snapshot.records(reply, of: "troubles", invalid: &invalid) {
        (pool, json) throws(RecordError) in try PoolTrouble(pool: pool, json: json)
      }
      return Dictionary(list.map { ($0.pool, $0) }, uniquingKeysWith: { first, _ in first })
    }
  }
}

extension Troubles {
  static let putScript = SharedScript.script(
    "troubles.put",
    #"""
    local fenced = fence_error(ARGV[5])
    if fenced then return fenced end
    local troubles_key = prefix .. 'troubles'
    if ARGV[7] == '' then call('HDEL', troubles_key, ARGV[6]) else call('HSET', troubles_key, ARGV[6], ARGV[7]) end
    return 1
    """#)
}
