// The Lua that the scripts of Registry, Leases and Replicas begin with: how sessions are held, let go and ended, and
// how an instance's free slots follow from that. Every script that changes a session does it through these functions,
// so that there is one place where a slot can be lost or given twice.
import Routing

extension Keys {
  /// KEYS of every script that begins with ``SharedScript/source``, in the order of its first line.
  private var shared: [String] { [pools, routes, instances, changes, events, sessions, replicas, leader] }

  /// A script that begins with ``SharedScript/source``; its own arguments are ARGV[5] and following.
  func call<R: Sendable>(
    _ script: Script, now: Int, _ arguments: [String] = [],
    parse: @escaping @Sendable (Reply) throws(StateError) -> R
  ) -> Command<R> {
    Command(
      .script(script, keys: shared, arguments: [prefix, sessionPrefix, wake, String(now)] + arguments), parse: parse)
  }
}

/// The common beginning. Keys whose names depend on what a script finds (the chosen instance's counters, a session's
/// lease) are built from the prefix, in the same words as ``Keys``.
enum SharedScript {
  /// How long a waiting client is believed alive after its last try, milliseconds.
  static let waiterLifeMilliseconds = 5_000
  /// About how many entries the streams of changes and events keep.
  static let streamLength = 10_000
  /// How long, and of how many sessions, it is remembered that they have ended: as long as a replica may have been
  /// cut off that still knows them after Redis has lost its data.
  static let endedMilliseconds = 600_000
  static let endedLimit = 10_000
  /// Targets of one session that are remembered for removal at its end; further ones only have their time to live.
  static let targetsLimit = 10_000

  static func script(_ name: String, _ body: String) -> Script { Script(name: name, source: source + body) }

  private static let source = #"""
    local pools_key, routes_key, instances_key, changes_key, events_key, sessions_key, replicas_key, leader_key = unpack(KEYS)
    local prefix, session_prefix, wake_channel, now = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
    local call = redis.call

    local function slots_key(pool) return prefix .. 'pool:' .. pool .. ':slots' end
    local function leases_key(pool) return prefix .. 'pool:' .. pool .. ':leases' end
    local function waiting_key(pool) return prefix .. 'pool:' .. pool .. ':waiting' end
    local function waiting_expiry_key(pool) return prefix .. 'pool:' .. pool .. ':waiting-expiry' end
    local function cursor_key(pool) return prefix .. 'pool:' .. pool .. ':cursor' end
    local function lease_key(session) return prefix .. 'lease:' .. session end
    local function targets_key(session) return prefix .. 'lease:' .. session .. ':targets' end
    local function lease_metadata_key(session) return prefix .. 'lease:' .. session .. ':metadata' end
    local function metadata_key(field) return prefix .. 'metadata:' .. field end
    local function target_key(target) return prefix .. 'target:' .. target end
    local function instance_sessions_key(instance) return prefix .. 'instance:' .. instance .. ':sessions' end
    local function counters_key(instance) return prefix .. 'counters:' .. instance end
    local function replica_key(replica) return prefix .. 'replica:' .. replica end
    local function replica_sessions_key(replica) return prefix .. 'replica:' .. replica .. ':sessions' end

    local function launch_key(session) return prefix .. 'launch:' .. session end
    local function launches_key(pool) return prefix .. 'pool:' .. pool .. ':launches' end

    local ended_key = prefix .. 'ended'
    local load_key = prefix .. 'load'
    local weights_key = prefix .. 'weights'

    local function whole(number) return string.format('%d', number) end

    -- The JSON text of a string. cjson writes / as \/, which is right and hard to read.
    local function quote(text) return (string.gsub(cjson.encode(text), '\\/', '/')) end

    -- A record of a hash of JSON documents, for reading only: cjson could not write it back as it was.
    local function record(key, id)
      local text = call('HGET', key, id)
      if not text then return nil end
      local fine, value = pcall(cjson.decode, text)
      if fine and type(value) == 'table' then return value end
      return nil
    end

    local function change(kind, id, json)
      call('XADD', changes_key, 'MAXLEN', '~', \#(streamLength), '*', 'type', kind, 'id', id, 'json', json)
    end

    local function event(kind, id, reason, ...)
      call('XADD', events_key, 'MAXLEN', '~', \#(streamLength), '*', 'type', kind, 'id', id, 'reason', reason, 'at', whole(now), ...)
    end

    -- Rings the doorbell of a pool, once a script.
    local woken = {}
    local function wake(pool)
      if woken[pool] then return end
      woken[pool] = true
      call('PUBLISH', wake_channel, pool)
    end

    local function fence_error(fence)
      local leader = call('GET', leader_key)
      if leader == fence then return nil end
      return redis.error_reply('FENCED ' .. (leader or 'nobody') .. ' leads now, not ' .. fence .. '; nothing was written')
    end

    -- The lease of a session as a table of its fields, or nil.
    local function lease_of(session)
      local flat = call('HGETALL', lease_key(session))
      if #flat == 0 then return nil end
      local lease = {}
      for i = 1, #flat, 2 do lease[flat[i]] = flat[i + 1] end
      return lease
    end

    local function holders_of(lease)
      local holders = {}
      for field in pairs(lease) do
        if string.sub(field, 1, 7) == 'holder:' then holders[#holders + 1] = string.sub(field, 8) end
      end
      return holders
    end

    -- Makes an instance's entry in its pool's slots what its record, sessions and counters say. Free slots are never
    -- counted up and down, so they cannot drift.
    local function settle(id)
      local instance = record(instances_key, id)
      if not instance then return end
      local key = slots_key(instance.pool)
      -- One that was launched for a session is nobody else's; that session's client is told that it is there.
      if type(instance.session) == 'string' then
        call('ZREM', key, id)
        if instance.state == 'ready' and call('EXISTS', launch_key(instance.session)) == 1 then
          call('HSET', launch_key(instance.session), 'instance', id)
        end
        return
      end
      local slots = tonumber(instance.slots) or 0
      local pool = record(pools_key, instance.pool)
      local uses = pool and tonumber(pool.recycleAfterSessions) or 0
      local spent = uses > 0 and tonumber(call('HGET', counters_key(id), 'sessions') or 0) >= uses
      if instance.state == 'ready' and slots > 0 and not spent then
        call('ZADD', key, math.max(0, slots - call('ZCARD', instance_sessions_key(id))), id)
      else
        call('ZREM', key, id)
      end
    end

    -- When a session that is in use, or was made through REST, ends if nothing more happens on it.
    local function limit(lease, from)
      local hard, idle = tonumber(lease.expiresAt), tonumber(lease.idleLimitMilliseconds)
      if idle > 0 then return math.min(hard, from + idle) end
      return hard
    end

    -- How long a session outlives its last socket; nil = to its idle and hard limit.
    local function grace_of(lease)
      return tonumber(lease.graceMilliseconds) or (lease.origin == 'connection' and 0 or nil)
    end

    -- When a session ends whose clocks start anew now.
    local function due(lease)
      if lease.state == 'grace' then return math.min(tonumber(lease.expiresAt), now + grace_of(lease)) end
      return limit(lease, now)
    end

    -- Remembers that a session is over, also one that Redis does not have: a replica may still put it back.
    local function bury(session)
      call('ZADD', ended_key, now, session)
      call('ZREMRANGEBYSCORE', ended_key, '-inf', now - \#(endedMilliseconds))
      call('ZREMRANGEBYRANK', ended_key, 0, -\#(endedLimit + 1))
    end

    local function finish(session, lease, reason)
      for _, field in ipairs(call('SMEMBERS', lease_metadata_key(session))) do
        call('ZREM', metadata_key(field), session)
      end
      call('DEL', lease_metadata_key(session))
      for _, holder in ipairs(holders_of(lease)) do call('SREM', replica_sessions_key(holder), session) end
      for _, target in ipairs(call('SMEMBERS', targets_key(session))) do
        if call('GET', target_key(target)) == session then call('DEL', target_key(target)) end
      end
      call('DEL', targets_key(session), lease_key(session), session_prefix .. session)
      call('ZREM', sessions_key, session)
      call('ZREM', leases_key(lease.pool), session)
      call('ZREM', instance_sessions_key(lease.instance), session)
      settle(lease.instance)
      bury(session)
      change('session', session, '')
      event('session.ended', session, reason, 'pool', lease.pool, 'instance', lease.instance)
      wake(lease.pool)
    end

    -- Counts a session as a use of its instance, the first time only.
    local function use(session, lease)
      if lease.used == '1' then return end
      lease.used = '1'
      call('HSET', lease_key(session), 'used', '1')
      call('HINCRBY', counters_key(lease.instance), 'sessions', 1)
      settle(lease.instance)
      wake(lease.pool)
    end

    -- A replica has a socket of the session now.
    local function hold(session, lease, holder)
      call('HSETNX', lease_key(session), 'holder:' .. holder, whole(now))
      call('HSET', lease_key(session), 'state', 'active', 'lastAccessed', whole(now))
      call('SADD', replica_sessions_key(holder), session)
      call('ZADD', replicas_key, 'NX', now, holder)
      call('ZADD', instance_sessions_key(lease.instance), 1, session)
      call('ZADD', leases_key(lease.pool), limit(lease, now), session)
      use(session, lease)
    end

    -- A replica has no socket of the session any more.
    local function let_go(session, lease, holder)
      call('SREM', replica_sessions_key(holder), session)
      if call('HDEL', lease_key(session), 'holder:' .. holder) == 0 then return end
      lease['holder:' .. holder] = nil
      if #holders_of(lease) > 0 then return end
      local grace = grace_of(lease)
      if grace == 0 then return finish(session, lease, 'client') end
      lease.state = grace and 'grace' or 'idle'
      call('HSET', lease_key(session), 'state', lease.state, 'lastAccessed', whole(now))
      call('ZADD', leases_key(lease.pool), due(lease), session)
    end

    -- Bytes moved on the session.
    local function touch(session)
      local lease = lease_of(session)
      if not lease or tonumber(lease.lastAccessed) > now then return end
      call('HSET', lease_key(session), 'lastAccessed', whole(now))
      if lease.state == 'active' or (lease.state == 'idle' and lease.origin == 'rest') then
        call('ZADD', leases_key(lease.pool), limit(lease, now), session)
      end
    end

    -- Answers with a session that has a lease, after the holder (if any) got hold of it.
    local function resume(session, lease, holder)
      local json = call('GET', session_prefix .. session)
      local over = tonumber(lease.expiresAt) <= now
      if over or not json then
        finish(session, lease, over and 'hard limit' or 'record lost')
        return {'unknown'}
      end
      if holder ~= '' then hold(session, lease, holder) end
      return {'granted', json}
    end

    """#
}
