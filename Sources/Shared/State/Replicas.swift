// The heartbeats of data-plane replicas. A replica beats every second or so; the leader forgets one that has fallen
// silent, which lets go of all its sessions.
package import Routing

package struct ReplicaBeat: Sendable, Equatable {
  package let id: String
  /// Unix milliseconds.
  package let lastBeat: Int
  package init(id: String, lastBeat: Int) {
    self.id = id
    self.lastBeat = lastBeat
  }
}

/// The commands of the replicas' heartbeats. Times are Unix milliseconds.
package struct Replicas: Sendable {
  private let keys: Keys
  package init(keys: Keys) { self.keys = keys }

  /// The figure by which a replica says in which Redis process all of its sessions are (again).
  package static let settledFigure = "settled"

  /// Says that the replica lives, with its figures, and which sessions moved bytes. False when the replica was not
  /// known: it is new, or was forgotten meanwhile, and must attach the sessions again whose sockets it still has.
  package func beat(id: String, figures: [String: String], touched: [String], now: Int) -> Command<Bool> {
    var arguments = [id, String(figures.count)]
    for (name, value) in figures.sorted(by: { $0.key < $1.key }) { arguments += [name, value] }
    return keys.call(Self.beatScript, now: now, arguments + touched, parse: Read.bool("replicas.beat"))
  }

  /// Every replica that has beaten or holds a session, the longest silent first.
  package func list() -> Command<[ReplicaBeat]> {
    Command(.words(["ZRANGE", keys.replicas, "0", "-1", "WITHSCORES"]), mayRepeat: true) {
      (reply: Reply) throws(StateError) -> [ReplicaBeat] in
      var beats: [ReplicaBeat] = []
      for (id, beat) in try reply.pairs(of: "replicas") {
        beats.append(ReplicaBeat(id: id, lastBeat: try beat.int(of: "replicas")))
      }
      return beats
    }
  }

  /// The figures of a replica's last beat, with the beat's time as `at` and the first beat's as `since`.
  package func figures(id: String) -> Command<[String: String]> {
    Command(.words(["HGETALL", keys.replica(id)]), mayRepeat: true) {
      (reply: Reply) throws(StateError) -> [String: String] in
      var figures: [String: String] = [:]
      for (name, value) in try reply.pairs(of: "replica") { figures[name] = try value.string(of: "replica") }
      return figures
    }
  }

  /// Says of which sessions the replica has sockets, all of them. A Redis that came back with old data may believe in more,
  /// whose clients have gone since; those are let go of, and returned.
  package func settle(id: String, holding sessions: [String], now: Int) -> Command<[String]> {
    keys.call(Self.settleScript, now: now, [id] + sessions, parse: Read.strings("replicas.settle"))
  }

  /// Removes a replica, lets go of the sessions it held and returns them. With `ifSilentSince`, only when its last
  /// beat is not later than that: so a replica that beats again between the leader's look and its word stays.
  package func forget(id: String, ifSilentSince: Int? = nil, now: Int) -> Command<[String]> {
    keys.call(
      Self.forgetScript, now: now, [id, ifSilentSince.map(String.init) ?? "+inf"],
      parse: Read.strings("replicas.forget"))
  }
}

extension Replicas {
  static let beatScript = SharedScript.script(
    "replicas.beat",
    #"""
    local id = ARGV[5]
    -- A beat that is sent again after a lost answer finds `since` equal to its own time, and so answers as before.
    local since = call('ZSCORE', replicas_key, id) and call('HGET', replica_key(id), 'since') or whole(now)
    -- First what takes no memory: a script that has written may go on in a Redis that is full, and a beat that was refused
    -- there would make a living replica look dead, whose sessions would be ended.
    call('DEL', replica_key(id))
    call('ZADD', replicas_key, 'GT', now, id)
    local last = 6 + 2 * tonumber(ARGV[6])
    for i = 7, last, 2 do call('HSET', replica_key(id), ARGV[i], ARGV[i + 1]) end
    call('HSET', replica_key(id), 'at', whole(now), 'since', since)
    for i = last + 1, #ARGV do touch(ARGV[i]) end
    return tonumber(since) == now and 0 or 1
    """#)

  static let settleScript = SharedScript.script(
    "replicas.settle",
    #"""
    local id, kept, gone = ARGV[5], {}, {}
    for i = 6, #ARGV do kept[ARGV[i]] = true end
    for _, session in ipairs(call('SMEMBERS', replica_sessions_key(id))) do
      if not kept[session] then
        local lease = lease_of(session)
        if lease then let_go(session, lease, id) else call('SREM', replica_sessions_key(id), session) end
        gone[#gone + 1] = session
      end
    end
    return gone
    """#)

  static let forgetScript = SharedScript.script(
    "replicas.forget",
    #"""
    local id = ARGV[5]
    local beat = call('ZSCORE', replicas_key, id)
    if beat and ARGV[6] ~= '+inf' and tonumber(beat) > tonumber(ARGV[6]) then return {} end
    local sessions = call('SMEMBERS', replica_sessions_key(id))
    for _, session in ipairs(sessions) do
      local lease = lease_of(session)
      if lease then let_go(session, lease, id) end
    end
    call('DEL', replica_sessions_key(id), replica_key(id))
    call('ZREM', replicas_key, id)
    for _, instance in ipairs(call('HKEYS', instances_key)) do call('HDEL', counters_key(instance), 'replica:' .. id) end
    return sessions
    """#)
}
