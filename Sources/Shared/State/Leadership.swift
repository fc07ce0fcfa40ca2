// Which control plane leads. Any number of them run; the one that holds `berth:leader` reconciles, and every guarded
// write carries its fence, so that one that has lost the lease without noticing can change nothing.
package import Routing

/// What a leader shows with every guarded write. The id stands beside the token because a Redis that lost its data
/// counts tokens from 1 again: two leaders may then have the same token, never the same token and id.
package struct Fence: Sendable, Equatable {
  package let token: Int
  package let id: String
  /// Who led before, as far as Redis remembers. One who leads again after somebody else's term knows by it that what it
  /// has in memory is out of date; after its own, or with a Redis that forgot everything, its memory is the best there is.
  package let predecessor: String?
  package init(token: Int, id: String, predecessor: String? = nil) {
    self.token = token
    self.id = id
    self.predecessor = predecessor
  }

  package static func == (a: Fence, b: Fence) -> Bool { a.token == b.token && a.id == b.id }

  /// The value of `berth:leader` while this fence holds.
  package var value: String { "\(token):\(id)" }
}

/// The one who leads now.
package struct Leader: Sendable, Equatable {
  package let id: String
  package let token: Int
  package init(id: String, token: Int) {
    self.id = id
    self.token = token
  }
}

/// Whether slots may be given away. Redis acknowledges what it has not written to its disk or its replicas yet, so one
/// that was restarted, failed over or emptied may have forgotten who holds what. The gate is the id of the very process in
/// which the leader knows that the data-plane replicas have put their sessions back; in any other one nobody gets a slot.
package enum Gate: String, Sendable, Equatable {
  /// There is none: Redis is empty, or nobody has led yet.
  case missing
  case open
  /// It is another process's, or the leader has shut it.
  case shut
}

/// What a leader asks before anything else.
package struct LeaderLook: Sendable, Equatable {
  package let leader: Leader?
  package let gate: Gate
  /// Names the Redis process that answered.
  package let redis: String
}

/// The commands of the leader's lease. Only here Redis's own clock counts: the lease is a key with a time to live.
package struct Leadership: Sendable {
  private let keys: Keys
  package init(keys: Keys) { self.keys = keys }

  /// Becomes leader if nobody leads; nil when another does. From the leader itself it is a renewal with the same fence.
  package func campaign(id: String, ttlMilliseconds: Int) -> Command<Fence?> {
    precondition(ttlMilliseconds > 0 && !id.isEmpty)
    return Command(
      .script(
        Self.campaignScript, keys: [keys.leader, keys.leaderToken, keys.leaderLast],
        arguments: [id, String(ttlMilliseconds)])
    ) { (reply: Reply) throws(StateError) -> Fence? in
      if case .null = reply { return nil }
      let parts = try reply.list(of: "leadership.campaign", count: 2)
      let before = try parts[1].string(of: "leadership.campaign")
      return Fence(
        token: try parts[0].int(of: "leadership.campaign"), id: id, predecessor: before.isEmpty ? nil : before)
    }
  }

  /// Keeps the lease; false when it is lost. A lost lease is not taken again: campaign for it.
  package func renew(id: String, fence: Fence, ttlMilliseconds: Int) -> Command<Bool> {
    precondition(ttlMilliseconds > 0)
    return Command(
      .script(
        Self.renewScript, keys: [keys.leader], arguments: ["\(fence.token):\(id)", String(ttlMilliseconds)]),
      parse: Read.bool("leadership.renew"))
  }

  /// Gives the lease up, so that a standby need not wait for its end. Nothing happens when another leads.
  package func resign(id: String, fence: Fence) -> Command<Void> {
    Command(
      .script(Self.resignScript, keys: [keys.leader], arguments: ["\(fence.token):\(id)"]), parse: Read.nothing())
  }

  package func current() -> Command<Leader?> {
    Command(.words(["GET", keys.leader]), mayRepeat: true) { (reply: Reply) throws(StateError) -> Leader? in
      try Self.leader(reply)
    }
  }

  /// Changes nothing, and fails with Redis' own words where a write would: an empty piece of a string is written nowhere
  /// (SETRANGE), but Redis refuses the command when it is out of memory, a replica, or cannot save.
  package func write() -> Command<Void> {
    Command(.words(["SETRANGE", keys.leader, "0", ""]), mayRepeat: true, parse: Read.nothing())
  }

  private static func leader(_ reply: Reply) throws(StateError) -> Leader? {
    if case .null = reply { return nil }
    let text = try reply.string(of: "leader")
    guard let colon = text.firstIndex(of: ":"), let token = Int(text[..<colon]) else {
      throw StateError("leader: \"<token>:<id>\" was expected from Redis, \"\(text)\" came")
    }
    return Leader(id: String(text[text.index(after: colon)...]), token: token)
  }

  // MARK: The gate

  /// Who leads, and whether slots may be given away, at one moment.
  package func look() -> Command<LeaderLook> {
    Command(.script(Self.lookScript, keys: [keys.leader, keys.gate], arguments: [])) {
      (reply: Reply) throws(StateError) -> LeaderLook in
      let parts = try reply.list(of: "leadership.look", count: 3)
      let process = try parts[2].string(of: "leadership.look")
      let gate: Gate =
        switch parts[1] {
        case .null: .missing
        default: try parts[1].string(of: "gate") == process ? .open : .shut
        }
      return LeaderLook(leader: try Self.leader(parts[0]), gate: gate, redis: process)
    }
  }

  /// Nobody gets a slot until ``openGate(fence:)``.
  package func shutGate(fence: Fence) -> Command<Void> {
    Command(
      .script(Self.shutScript, keys: [keys.leader, keys.gate], arguments: [fence.value]), parse: Read.nothing())
  }

  /// Slots may be given away in the Redis process that runs this, and those who wait for one are woken.
  package func openGate(fence: Fence) -> Command<Void> {
    Command(
      .script(
        Self.openScript, keys: [keys.leader, keys.gate, keys.pools], arguments: [fence.value, keys.wake]),
      parse: Read.nothing())
  }
}

extension Leadership {
  static let campaignScript = Script(
    name: "leadership.campaign",
    source: #"""
      local leader = redis.call('GET', KEYS[1])
      if leader then
        local token, id = string.match(leader, '^(%d+):(.*)$')
        if id ~= ARGV[1] then return false end
        redis.call('PEXPIRE', KEYS[1], ARGV[2])
        -- Perhaps the answer to the election was lost: the same one again.
        return {tonumber(token), string.match(redis.call('GET', KEYS[3]) or '', '\n(.*)$') or ''}
      end
      local token = redis.call('INCR', KEYS[2])
      redis.call('SET', KEYS[1], string.format('%d', token) .. ':' .. ARGV[1], 'PX', ARGV[2])
      local before = string.match(redis.call('GET', KEYS[3]) or '', '^(.*)\n') or ''
      redis.call('SET', KEYS[3], ARGV[1] .. '\n' .. before)
      return {token, before}
      """#)

  /// The id of a Redis process is new with every start (INFO, `run_id`).
  private static let process = #"""
    local process = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') or 'unknown'

    """#

  /// Leaves a script when another one leads.
  private static let fenced = #"""
    local leader = redis.call('GET', KEYS[1])
    if leader ~= ARGV[1] then
      return redis.error_reply('FENCED ' .. (leader or 'nobody') .. ' leads now, not ' .. ARGV[1] .. '; nothing was written')
    end

    """#

  static let lookScript = Script(
    name: "leadership.look",
    source: process + #"""
      return {redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2]), process}
      """#)

  static let shutScript = Script(
    name: "leadership.shutGate",
    source: fenced + #"""
      redis.call('SET', KEYS[2], 'shut')
      return 1
      """#)

  static let openScript = Script(
    name: "leadership.openGate",
    source: process + fenced + #"""
      redis.call('SET', KEYS[2], process)
      for _, pool in ipairs(redis.call('HKEYS', KEYS[3])) do redis.call('PUBLISH', ARGV[2], pool) end
      return 1
      """#)

  static let renewScript = Script(
    name: "leadership.renew",
    source: #"""
      if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
      return redis.call('PEXPIRE', KEYS[1], ARGV[2])
      """#)

  static let resignScript = Script(
    name: "leadership.resign",
    source: #"""
      if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
      return 1
      """#)
}
