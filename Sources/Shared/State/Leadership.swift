// Which control plane leads. Any number of them run; the one that holds `berth:leader` reconciles, and every guarded
// write carries its fence, so that one that has lost the lease without noticing can change nothing.
package import Routing

/// What a leader shows with every guarded write. The id stands beside the token because a Redis that lost its data
/// counts tokens from 1 again: two leaders may then have the same token, never the same token and id.
package struct Fence: Sendable, Equatable {
  package let token: Int
  package let id: String
  package init(token: Int, id: String) {
    self.token = token
    self.id = id
  }

  /// The value of `berth:leader` while this fence holds.
  var value: String { "\(token):\(id)" }
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

/// The commands of the leader's lease. Only here Redis's own clock counts: the lease is a key with a time to live.
package struct Leadership: Sendable {
  private let keys: Keys
  package init(keys: Keys) { self.keys = keys }

  /// Becomes leader if nobody leads; nil when another does. From the leader itself it is a renewal with the same fence.
  package func campaign(id: String, ttlMilliseconds: Int) -> Command<Fence?> {
    precondition(ttlMilliseconds > 0 && !id.isEmpty)
    return Command(
      .script(
        Self.campaignScript, keys: [keys.leader, keys.leaderToken], arguments: [id, String(ttlMilliseconds)])
    ) { (reply: Reply) throws(StateError) -> Fence? in
      if case .null = reply { return nil }
      return Fence(token: try reply.int(of: "leadership.campaign"), id: id)
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
      if case .null = reply { return nil }
      let text = try reply.string(of: "leader")
      guard let colon = text.firstIndex(of: ":"), let token = Int(text[..<colon]) else {
        throw StateError("leader: \"<token>:<id>\" was expected from Redis, \"\(text)\" came")
      }
      return Leader(id: String(text[text.index(after: colon)...]), token: token)
    }
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
        return tonumber(token)
      end
      local token = redis.call('INCR', KEYS[2])
      redis.call('SET', KEYS[1], string.format('%d', token) .. ':' .. ARGV[1], 'PX', ARGV[2])
      return token
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
