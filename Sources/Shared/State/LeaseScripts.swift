// The scripts of `Leases`. How a session is held, let go and ended is in SharedScript.swift; here is how one is made,
// who may have which slot, and the queue.

extension Leases {
  /// Makes sessions. ARGV[5] to ARGV[14] are `Leases.template`.
  private static let opening = #"""
    local function template()
      return {
        id = ARGV[5], pool = ARGV[6], origin = ARGV[7], created = ARGV[8], hard = ARGV[9], idle = ARGV[10],
        grace = ARGV[11], head = ARGV[12], tail = ARGV[13], search = ARGV[14],
      }
    end

    -- Gives a slot of the instance to a new session; the caller knows that there is one.
    -- reserve < 0: kept to its limits; json: the document, when the instance's record is not there to complete it.
    local function open(t, id, holder, reserve, counts, json)
      local instance = record(instances_key, id)
      if instance then
        json = t.head .. ',"instance":' .. quote(id) .. ',"host":' .. quote(instance.host) .. ',"port":' .. whole(instance.port)
        if type(instance.browser) == 'string' then json = json .. ',"browser":' .. quote(instance.browser) end
        json = json .. t.tail
      end
      local hard = tonumber(t.hard)
      local lease = {
        pool = t.pool, instance = id, origin = t.origin, expiresAt = t.hard, idleLimitMilliseconds = t.idle,
        graceMilliseconds = t.grace, createdAt = t.created, lastAccessed = whole(now), used = '0', state = 'idle',
      }
      local expiry = limit(lease, now)
      if holder == '' and reserve >= 0 then
        lease.state = 'reserved'
        expiry = math.min(hard, now + reserve)
      end
      for field, value in pairs(lease) do call('HSET', lease_key(t.id), field, value) end
      call('SET', session_prefix .. t.id, json, 'PX', math.max(1, hard + 60000 - now))
      call('ZADD', sessions_key, hard, t.id)
      if t.search ~= '' then
        for _, field in ipairs(cjson.decode(t.search)) do
          call('SADD', lease_metadata_key(t.id), field)
          call('ZADD', metadata_key(field), t.created, t.id)
        end
      end
      call('ZADD', leases_key(t.pool), expiry, t.id)
      call('ZADD', instance_sessions_key(id), lease.state == 'reserved' and 0 or 1, t.id)
      settle(id)
      change('session', t.id, json)
      event('session.created', t.id, t.origin, 'pool', t.pool, 'instance', id)
      if holder ~= '' then hold(t.id, lease, holder) elseif counts then use(t.id, lease) end
      wake(t.pool)
      return {'granted', json}
    end

    """#

  /// The queue of a pool, and who is next.
  private static let queueing = #"""
    local function leave(pool, id)
      call('ZREM', waiting_expiry_key(pool), id)
      if call('ZREM', waiting_key(pool), id) == 1 then wake(pool) end
    end

    -- Forgets waiters that have not asked for too long. A number, so that a long dead queue goes in pieces.
    local function purge(pool)
      repeat
        local dead = call('ZRANGEBYSCORE', waiting_expiry_key(pool), '-inf', '(' .. whole(now), 'LIMIT', 0, 500)
        if #dead > 0 then
          call('ZREM', waiting_key(pool), unpack(dead))
          call('ZREM', waiting_expiry_key(pool), unpack(dead))
        end
      until #dead == 0
    end

    -- How many waiters stand before the ticket; a newcomer stands behind all.
    local function rank(pool, id)
      return call('ZRANK', waiting_key(pool), id) or call('ZCARD', waiting_key(pool))
    end

    -- Whether this is the Redis process in which the leader lets slots be given away: see Leadership.swift.
    local function is_open()
      local gate = call('GET', prefix .. 'gate')
      return not gate or gate == (string.match(call('INFO', 'server'), 'run_id:(%x+)') or 'unknown')
    end

    -- The instance whose slot the ticket with this rank may have, or nil: there must be more free slots than waiters
    -- before it. Without a wish it is the instance with most free slots.
    local function choose(pool, wanted, before)
      if not is_open() then return nil end
      local free, found = 0, call('ZREVRANGEBYSCORE', slots_key(pool), '+inf', 1, 'WITHSCORES', 'LIMIT', 0, before + 1)
      for i = 2, #found, 2 do free = free + tonumber(found[i]) end
      if free <= before then return nil end
      if wanted == '' then return found[1] end
      if tonumber(call('ZSCORE', slots_key(pool), wanted) or 0) >= 1 then return wanted end
      return nil
    end

    """#

  static let acquireScript = SharedScript.script(
    "leases.acquire",
    opening + queueing + #"""
      local t = template()
      local wanted, holder, reserve, queue, counts = ARGV[15], ARGV[16], tonumber(ARGV[17]), ARGV[18] == '1', ARGV[19] == '1'

      local held = lease_of(t.id)
      if held then
        leave(t.pool, t.id)
        return resume(t.id, held, holder)
      end

      local pool = record(pools_key, t.pool)
      local instance = wanted ~= '' and record(instances_key, wanted)
      local known = pool and (wanted == '' or (instance and instance.pool == t.pool))
      if not known or (tonumber(pool.slots) or 0) == 0 or tonumber(t.hard) <= now then
        leave(t.pool, t.id)
        return {'unknown'}
      end
      if instance and type(instance.session) == 'string' then
        if instance.session ~= t.id then return {'unknown'} end
        if instance.state ~= 'ready' or call('ZCARD', instance_sessions_key(wanted)) > 0 then return {'busy'} end
        return open(t, wanted, holder, reserve, counts)
      end
      if reserve < 0 and t.origin == 'connection' then reserve = tonumber(pool.reservationMilliseconds) end

      -- Whoever asks is alive, even when the answer comes late: its own place is kept.
      local waiting, alive = waiting_key(t.pool), waiting_expiry_key(t.pool)
      if call('ZSCORE', waiting, t.id) then call('ZADD', alive, now + \#(SharedScript.waiterLifeMilliseconds), t.id) end
      purge(t.pool)

      local chosen = choose(t.pool, wanted, rank(t.pool, t.id))
      if chosen then
        leave(t.pool, t.id)
        return open(t, chosen, holder, reserve, counts)
      end
      if not queue then
        leave(t.pool, t.id)
        return {'busy'}
      end

      if not call('ZSCORE', waiting, t.id) then
        local count = call('ZCARD', waiting)
        if count >= tonumber(pool.queueLimit) then return {'full', count} end
        -- Later than the last in line, whatever the clocks say: equal arrivals would be sorted by name.
        local last, arrival = call('ZREVRANGE', waiting, 0, 0, 'WITHSCORES'), now
        if last[2] and tonumber(last[2]) >= now then arrival = tonumber(last[2]) + 1 end
        call('ZADD', waiting, arrival, t.id)
        call('ZADD', alive, now + \#(SharedScript.waiterLifeMilliseconds), t.id)
        wake(t.pool)
      end
      return {'queued', call('ZRANK', waiting, t.id) + 1}
      """#)

  static let claimScript = SharedScript.script(
    "leases.claim",
    opening + queueing + #"""
      local t = template()
      local id, holder = ARGV[15], ARGV[16]
      local held = lease_of(t.id)
      if held then return resume(t.id, held, holder) end
      local instance = record(instances_key, id)
      local pool = instance and record(pools_key, instance.pool)
      if not pool or instance.pool ~= t.pool or (tonumber(pool.slots) or 0) == 0 then return {'unknown'} end
      if tonumber(t.hard) <= now then return {'unknown'} end

      -- Is there a session that this claim took over before its answer was lost, one that is reserved, or, on an
      -- exclusive instance, one that has it?
      local mine, oldest, oldest_lease, claimed
      local sessions = call('ZRANGE', instance_sessions_key(id), 0, -1, 'WITHSCORES')
      for i = 1, #sessions, 2 do
        local session, lease = sessions[i], lease_of(sessions[i])
        if lease and tonumber(lease.expiresAt) > now then
          if lease.claimedBy == t.id then
            mine = session
          elseif sessions[i + 1] == '0' then
            if not oldest or tonumber(lease.createdAt) < tonumber(oldest_lease.createdAt) then
              oldest, oldest_lease = session, lease
            end
          else
            claimed = session
          end
        end
      end
      local session = mine or oldest
      if not session and tonumber(pool.slots) == 1 then session = claimed end
      if session then
        if session == oldest then call('HSET', lease_key(session), 'claimedBy', t.id) end
        return resume(session, lease_of(session), holder)
      end

      purge(t.pool)
      if not choose(t.pool, id, rank(t.pool, t.id)) then return {'busy'} end
      return open(t, id, holder, -1, true)
      """#)

  static let attachScript = SharedScript.script(
    "leases.attach",
    #"""
    local lease = lease_of(ARGV[5])
    if not lease then return {'unknown'} end
    return resume(ARGV[5], lease, ARGV[6])
    """#)

  static let detachScript = SharedScript.script(
    "leases.detach",
    #"""
    local lease = lease_of(ARGV[5])
    if lease then let_go(ARGV[5], lease, ARGV[6]) end
    return 1
    """#)

  static let touchScript = SharedScript.script(
    "leases.touch",
    #"""
    for i = 5, #ARGV do touch(ARGV[i]) end
    return 1
    """#)

  static let endScript = SharedScript.script(
    "leases.end",
    #"""
    local lease = lease_of(ARGV[5])
    if not lease then
      bury(ARGV[5])
      return 0
    end
    finish(ARGV[5], lease, ARGV[6])
    return 1
    """#)

  static let endExpiredScript = SharedScript.script(
    "leases.endExpired",
    #"""
    local ended = call('ZRANGEBYSCORE', leases_key(ARGV[5]), '-inf', whole(now), 'LIMIT', 0, ARGV[6])
    for _, session in ipairs(ended) do
      local lease = lease_of(session)
      if not lease then
        call('ZREM', leases_key(ARGV[5]), session)
      elseif lease.state == 'reserved' then
        finish(session, lease, 'reservation ran out')
      elseif tonumber(lease.expiresAt) <= now then
        finish(session, lease, 'hard limit')
      elseif lease.state == 'grace' then
        finish(session, lease, 'grace ran out')
      else
        finish(session, lease, 'idle limit')
      end
    end
    return ended
    """#)

  static let restoreScript = SharedScript.script(
    "leases.restore",
    opening + queueing + #"""
      local t = template()
      local id, holder = ARGV[15], ARGV[16]
      local held = lease_of(t.id)
      if held then return resume(t.id, held, holder) end
      if id == '' or tonumber(t.hard) <= now or call('ZSCORE', ended_key, t.id) then return {'unknown'} end
      local instance = record(instances_key, id)
      local function is_full()
        return instance and call('ZCARD', instance_sessions_key(id)) >= tonumber(instance.slots)
      end
      -- Old data may name a client who had the slot before this one. It goes when nobody has a socket of it; or else its
      -- replica has to say first that it has none: until the gate opens, ask again.
      if is_full() and holder ~= '' and not is_open() then
        for _, session in ipairs(call('ZRANGE', instance_sessions_key(id), 0, -1)) do
          local lease = lease_of(session)
          if lease and #holders_of(lease) == 0 and is_full() then finish(session, lease, 'overtaken') end
        end
        if is_full() then return {'queued', 1} end
      end
      if is_full() then return {'busy'} end
      return open(t, id, holder, -1, true, ARGV[17])
      """#)

  static let cancelWaitingScript = SharedScript.script(
    "leases.cancelWaiting",
    queueing + #"""
      leave(ARGV[6], ARGV[5])
      return 1
      """#)

  static let figuresScript = SharedScript.script(
    "leases.figures",
    queueing + #"""
      local pool = ARGV[5]
      purge(pool)
      local first = call('ZRANGE', waiting_key(pool), 0, 0, 'WITHSCORES')
      return {
        call('ZRANGE', slots_key(pool), 0, -1, 'WITHSCORES'), call('ZCARD', leases_key(pool)),
        call('ZCARD', waiting_key(pool)), first[2] or false,
      }
      """#)
}
