// Creates that may be sent twice: a client that does not know whether its request was carried out sends it again with the
// same key, and gets the answer of the first one instead of a second browser. Used by the REST API of every control plane.
// A key counts for the client that used it, known by its API key: nobody gets to another's session by guessing a key.
package import Routing

/// What is known of a key.
package enum IdempotencyClaim: Sendable, Equatable {
  /// The request is the first one with this key (or goes on being it) and is to be carried out.
  case mine
  /// Another one is being carried out at this moment.
  case pending
  /// It was carried out, with this answer.
  case done(answer: String)
  /// The key was used for another request.
  case other
}

/// The commands of idempotency keys. Times are Unix milliseconds.
package struct Idempotency: Sendable {
  /// A request that is not heard of for so long is not being carried out any more: its control plane has died.
  package static let pendingMilliseconds = 10_000
  /// How long an answer is kept.
  package static let keptMilliseconds = 86_400_000
  /// How many keys are kept; the oldest go first.
  package static let limit = 10_000

  private let keys: Keys
  private let limit: Int
  package init(keys: Keys, limit: Int = Idempotency.limit) {
    self.keys = keys
    self.limit = limit
  }

  /// Asks for the right to carry out a request, and again every few seconds while it lasts. `owner` names this attempt,
  /// `apiKey` the key that its client showed; "" = none.
  package func claim(
    _ key: String, of apiKey: String = "", request: [UInt8], owner: String, now: Int
  ) -> Command<IdempotencyClaim> {
    call(Self.claimScript, key, apiKey, [owner, String(decoding: request, as: UTF8.self), String(now)]) {
      (reply: Reply) throws(StateError) -> IdempotencyClaim in
      let parts = try reply.list(of: "idempotency.claim")
      switch try parts.first?.string(of: "idempotency.claim") {
      case "mine": return .mine
      case "pending": return .pending
      case "other": return .other
      case "done" where parts.count == 2: return .done(answer: try parts[1].string(of: "idempotency.claim"))
      default: throw StateError("idempotency.claim: \(parts.count) parts came from Redis")
      }
    }
  }

  /// Keeps the answer of a request that was carried out. False when another attempt has the key meanwhile: then this one
  /// must be undone.
  package func keep(
    _ key: String, of apiKey: String = "", request: [UInt8], owner: String, answer: String, now: Int
  ) -> Command<Bool> {
    call(
      Self.keepScript, key, apiKey, [owner, String(decoding: request, as: UTF8.self), String(now), answer],
      Read.bool("idempotency.keep"))
  }

  /// The request was not carried out, or was undone: the next one with this key is the first again.
  package func release(_ key: String, of apiKey: String = "", owner: String) -> Command<Void> {
    call(Self.releaseScript, key, apiKey, [owner], Read.nothing())
  }

  private func call<R: Sendable>(
    _ script: Script, _ key: String, _ apiKey: String, _ arguments: [String],
    _ parse: @escaping @Sendable (Reply) throws(StateError) -> R
  ) -> Command<R> {
    Command(
      .script(
        script, keys: [keys.idempotency(key, of: apiKey), keys.idempotencyKeys],
        arguments: ["\(apiKey):\(key)", keys.idempotencyPrefix, String(limit)] + arguments), parse: parse)
  }

  private static let opening = #"""
    local entry, index = KEYS[1], KEYS[2]
    local key, prefix, limit, owner = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
    local call = redis.call

    -- The entry of this request, of which only a print is kept.
    local function write(body, now)
      call('HSET', entry, 'request', redis.sha1hex(body), 'owner', owner)
      call('ZADD', index, now, key)
      call('ZREMRANGEBYSCORE', index, '-inf', now - \#(keptMilliseconds))
      for _, old in ipairs(call('ZRANGE', index, 0, -limit - 1)) do
        call('DEL', prefix .. old)
        call('ZREM', index, old)
      end
    end

    """#

  private static let claimScript = Script(
    name: "idempotency.claim",
    source: opening + #"""
      local body, now = ARGV[5], tonumber(ARGV[6])
      local known = call('HMGET', entry, 'request', 'owner', 'answer')
      if known[1] then
        if known[1] ~= redis.sha1hex(body) then return {'other'} end
        if known[3] then return {'done', known[3]} end
        if known[2] ~= owner then return {'pending'} end
      else
        write(body, now)
      end
      call('PEXPIRE', entry, \#(pendingMilliseconds))
      return {'mine'}
      """#)

  private static let keepScript = Script(
    name: "idempotency.keep",
    source: opening + #"""
      local body, now, answer = ARGV[5], tonumber(ARGV[6]), ARGV[7]
      local known = call('HGET', entry, 'owner')
      if known and known ~= owner then return 0 end
      if not known then write(body, now) end
      call('HSET', entry, 'answer', answer)
      call('PEXPIRE', entry, \#(keptMilliseconds))
      return 1
      """#)

  private static let releaseScript = Script(
    name: "idempotency.release",
    source: opening + #"""
      if call('HGET', entry, 'owner') ~= owner then return 0 end
      call('DEL', entry)
      call('ZREM', index, key)
      return 1
      """#)
}
