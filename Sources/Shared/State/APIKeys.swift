// API keys in Redis: those of the configuration, which the leader declares, and those that were made over REST. Replicas
// follow them like routes. Only digests are kept.
import JSON
package import Routing

package struct APIKeys: Sendable {
  private let keys: Keys
  package init(keys: Keys) { self.keys = keys }

  /// Keys of one deployment: each request is compared with all of them.
  package static let limit = 1_000

  package enum Creation: Equatable, Sendable { case created, exists, full }

  /// Makes these the declared keys of the deployment; keys made over REST stay, unless one has a declared one's name.
  package func declare(_ records: [KeyRecord], fence: Fence, now: Int) -> Command<Void> {
    var arguments = [fence.value]
    for record in records { arguments += [record.id, record.json.text] }
    return keys.call(Self.declareScript, now: now, arguments, parse: Read.nothing())
  }

  /// Adds a key, unless its name is taken.
  package func create(_ record: KeyRecord, now: Int) -> Command<Creation> {
    keys.call(Self.createScript, now: now, [record.id, record.json.text, String(Self.limit)]) {
      (reply: Reply) throws(StateError) -> Creation in
      switch try reply.int(of: "keys.create") {
      case 1: .created
      case 0: .exists
      default: .full
      }
    }
  }

  /// Removes a key; false when there is none of this name.
  package func remove(_ id: String, now: Int) -> Command<Bool> {
    keys.call(Self.removeScript, now: now, [id], parse: Read.bool("keys.remove"))
  }

  /// All keys that can be read, by name.
  package func all() -> Command<[KeyRecord]> {
    Command(.words(["HGETALL", keys.apiKeys]), mayRepeat: true) { (reply: Reply) throws(StateError) in
      var invalid: [String] = []
      return try Snapshot.records(reply, of: "keys", invalid: &invalid) { (id, json) throws(RecordError) in
        try KeyRecord(id: id, json: json)
      }.sorted { $0.id < $1.id }
    }
  }

  private static let declareScript = SharedScript.script(
    "keys.declare",
    #"""
    local fenced = fence_error(ARGV[5])
    if fenced then return fenced end
    local key, declared = prefix .. 'keys', {}
    for i = 6, #ARGV, 2 do
      local id, json = ARGV[i], ARGV[i + 1]
      declared[id] = true
      if call('HGET', key, id) ~= json then
        call('HSET', key, id, json)
        change('key', id, json)
      end
    end
    for _, id in ipairs(call('HKEYS', key)) do
      local known = record(key, id)
      if not declared[id] and (not known or known.declared) then
        call('HDEL', key, id)
        change('key', id, '')
      end
    end
    return 1
    """#)

  private static let createScript = SharedScript.script(
    "keys.create",
    #"""
    local key, id, json = prefix .. 'keys', ARGV[5], ARGV[6]
    -- Those that have ended make room, and their names are free.
    for _, old in ipairs(call('HKEYS', key)) do
      local known = record(key, old)
      if known and not known.declared and known.expiresAt and known.expiresAt <= now then
        call('HDEL', key, old)
        change('key', old, '')
        event('key.expired', old, '')
      end
    end
    if call('HEXISTS', key, id) == 1 then return 0 end
    if call('HLEN', key) >= tonumber(ARGV[7]) then return -1 end
    call('HSET', key, id, json)
    change('key', id, json)
    event('key.created', id, '')
    return 1
    """#)

  private static let removeScript = SharedScript.script(
    "keys.remove",
    #"""
    local id = ARGV[5]
    if call('HDEL', prefix .. 'keys', id) == 0 then return 0 end
    change('key', id, '')
    event('key.removed', id, '')
    return 1
    """#)
}
