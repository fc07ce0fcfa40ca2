// What the replicas route by: pools, routes and instances. The leading control plane writes them through this file,
// replicas load a snapshot and follow the changes after it (Changes.swift).
import JSON
package import Routing

/// The commands that declare pools and routes, and keep the list of instances. Writes carry the leader's fence and fail
/// with an error that begins with FENCED when another leads, or nobody does. Times are Unix milliseconds.
package struct Registry: Sendable {
  let keys: Keys
  package init(keys: Keys) { self.keys = keys }

  /// Makes these the pools and routes of the deployment: adds, changes and removes; what stays the same is not announced.
  package func declare(pools: [PoolRecord], routes: [RouteRecord], fence: Fence, now: Int) -> Command<Void> {
    var arguments = [fence.value, String(pools.count)]
    for pool in pools { arguments += [pool.name, pool.json.text] }
    for route in routes { arguments += [route.id, route.json.text] }
    return keys.call(Self.declareScript, now: now, arguments, parse: Read.nothing())
  }

  /// Adds or changes an instance. A ready one gets its free slots, unless it has had all the sessions that its pool
  /// allows; others have none. A new generation ends the sessions of the one before and starts its counts anew.
  /// With a reason, a changed state is recorded as the event `instance.<state>`.
  package func put(instance: InstanceRecord, reason: String? = nil, fence: Fence, now: Int) -> Command<Void> {
    keys.call(
      Self.putScript, now: now,
      [
        fence.value, instance.id, instance.json.text, instance.pool, instance.state.rawValue,
        String(instance.generation), reason == nil ? "0" : "1", reason ?? "",
      ], parse: Read.nothing())
  }

  /// Removes an instance, ends its sessions with this reason and records the event `instance.removed`.
  package func remove(instance: String, reason: String, fence: Fence, now: Int) -> Command<Void> {
    keys.call(Self.removeScript, now: now, [fence.value, instance, reason], parse: Read.nothing())
  }

  /// Every instance whose record can be read; ``snapshot()`` says what cannot.
  package func instances() -> Command<[InstanceRecord]> {
    Command(.words(["HGETALL", keys.instances]), mayRepeat: true) { (reply: Reply) throws(StateError) in
      var invalid: [String] = []
      return try Snapshot.records(reply, of: "instances", invalid: &invalid) { (id, json) throws(RecordError) in
        try InstanceRecord(id: id, json: json)
      }
    }
  }

  /// Everything that a replica routes by and the id of the last change in it, read at one moment.
  package func snapshot() -> Command<Snapshot> {
    keys.call(Self.snapshotScript, now: 0) { (reply: Reply) throws(StateError) -> Snapshot in try Snapshot(reply) }
  }

  /// The changes after a stream id, at most `limit` of them; says so when some of them are gone.
  package func changes(after: String, limit: Int) -> Command<ChangePage> {
    keys.call(Self.changesScript, now: 0, [after, String(limit)]) {
      (reply: Reply) throws(StateError) -> ChangePage in
      let parts = try reply.list(of: "registry.changes", count: 2)
      guard try parts[0].int(of: "registry.changes") == 0 else { return .lost }
      return .changes(try Change.list(try parts[1].streamEntries(of: "registry.changes")))
    }
  }
}

extension Registry {
  static let declareScript = SharedScript.script(
    "registry.declare",
    #"""
    local fenced = fence_error(ARGV[5])
    if fenced then return fenced end

    local function replace(kind, key, from, to)
      local known, changed = {}, {}
      for i = from, to, 2 do
        local id, json = ARGV[i], ARGV[i + 1]
        known[id] = true
        if call('HGET', key, id) ~= json then
          call('HSET', key, id, json)
          change(kind, id, json)
          changed[id] = true
        end
      end
      for _, id in ipairs(call('HKEYS', key)) do
        if not known[id] then
          call('HDEL', key, id)
          change(kind, id, '')
          changed[id] = true
          if kind == 'pool' then call('DEL', waiting_key(id), waiting_expiry_key(id), launches_key(id), cursor_key(id)) end
        end
      end
      return changed
    end

    local last_pool = 6 + 2 * tonumber(ARGV[6])
    local changed = replace('pool', pools_key, 7, last_pool)
    replace('route', routes_key, last_pool + 1, #ARGV)

    -- A pool may now allow its instances more or fewer sessions.
    if next(changed) then
      for _, id in ipairs(call('HKEYS', instances_key)) do
        local instance = record(instances_key, id)
        if instance and changed[instance.pool] then settle(id) end
      end
      for pool in pairs(changed) do wake(pool) end
    end
    return 1
    """#)

  /// Ends every session of an instance.
  private static let emptying = #"""
    local function empty(instance, reason)
      for _, session in ipairs(call('ZRANGE', instance_sessions_key(instance), 0, -1)) do
        local lease = lease_of(session)
        if lease then finish(session, lease, reason) end
      end
      call('DEL', instance_sessions_key(instance))
    end

    """#

  static let putScript = SharedScript.script(
    "registry.put",
    emptying + #"""
      local fenced = fence_error(ARGV[5])
      if fenced then return fenced end
      local id, json, pool, state, generation, reason = ARGV[6], ARGV[7], ARGV[8], ARGV[9], tonumber(ARGV[10]), ARGV[12]
      local old_json, old = call('HGET', instances_key, id), record(instances_key, id)

      if old_json ~= json then
        call('HSET', instances_key, id, json)
        if old and old.pool ~= pool then
          call('ZREM', slots_key(old.pool), id)
          wake(old.pool)
        end
        if old and tonumber(old.generation) ~= generation then
          empty(id, 'instance restarted')
          call('DEL', counters_key(id))
        end
        change('instance', id, json)
        if ARGV[11] == '1' and (not old or old.state ~= state or tonumber(old.generation) ~= generation) then
          event('instance.' .. state, id, reason, 'pool', pool)
        end
        wake(pool)
      end
      settle(id)
      return 1
      """#)

  static let removeScript = SharedScript.script(
    "registry.remove",
    emptying + #"""
      local fenced = fence_error(ARGV[5])
      if fenced then return fenced end
      local id, reason = ARGV[6], ARGV[7]
      local old, known = record(instances_key, id), call('HDEL', instances_key, id) == 1
      empty(id, reason)
      call('DEL', counters_key(id))
      call('HDEL', load_key, id)
      call('HDEL', weights_key, id)
      if old then
        call('ZREM', slots_key(old.pool), id)
        wake(old.pool)
      end
      if known then
        change('instance', id, '')
        event('instance.removed', id, reason, 'pool', old and old.pool or '')
      end
      return 1
      """#)

  static let snapshotScript = SharedScript.script(
    "registry.snapshot",
    #"""
    local newest = call('XREVRANGE', changes_key, '+', '-', 'COUNT', 1)
    local sessions, ids = {}, call('ZRANGE', sessions_key, 0, -1)
    for _, id in ipairs(ids) do
      local json = call('GET', session_prefix .. id)
      if json then
        sessions[#sessions + 1] = id
        sessions[#sessions + 1] = json
      end
    end
    return {
      newest[1] and newest[1][1] or '0-0', call('HGETALL', pools_key), call('HGETALL', routes_key),
      call('HGETALL', instances_key), sessions, call('HGETALL', prefix .. 'keys'),
    }
    """#)

  static let changesScript = SharedScript.script(
    "registry.changes",
    #"""
    local after = ARGV[5]

    local function parts(id)
      local time, number = string.match(id, '^(%d+)-?(%d*)$')
      return tonumber(time), tonumber(number) or 0
    end
    local function older(a, b)
      local time_a, number_a = parts(a)
      local time_b, number_b = parts(b)
      return time_a < time_b or (time_a == time_b and number_a < number_b)
    end

    -- The reader has seen everything up to `after`, which was an entry of this stream, or 0-0 when there was none.
    local lost = after ~= '0-0'
    if call('EXISTS', changes_key) == 1 then
      local flat, info = call('XINFO', 'STREAM', changes_key), {}
      for i = 1, #flat, 2 do info[flat[i]] = flat[i + 1] end
      if after == '0-0' then
        lost = info['entries-added'] > info['length']
      else
        local oldest = info['first-entry']
        lost = not oldest or older(after, oldest[1]) or older(info['last-generated-id'], after)
      end
    end
    if lost then return {1, {}} end
    return {0, call('XRANGE', changes_key, '(' .. after, '+', 'COUNT', ARGV[6])}
    """#)
}
