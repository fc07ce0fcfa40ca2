// The scripts of `Leases` that show sessions, and the one that prolongs a session and shows it then.

extension Leases {
  private static let viewing = #"""
    local function view(session)
      local json = call('GET', session_prefix .. session)
      local fields = call('HGETALL', lease_key(session))
      if not json or #fields == 0 then return nil end
      local pool = call('HGET', lease_key(session), 'pool')
      return {json, fields, call('ZSCORE', leases_key(pool), session) or '0'}
    end

    """#

  static let viewScript = SharedScript.script(
    "leases.get",
    viewing + #"""
      return {view(ARGV[5])}
      """#)

  static let listScript = SharedScript.script(
    "leases.list",
    viewing + #"""
      local views = {}
      for _, session in ipairs(call('ZRANGE', sessions_key, ARGV[5], ARGV[6])) do views[#views + 1] = view(session) end
      return views
      """#)

  /// Prolongs a session. The document is text that is never decoded and encoded again; only its one number changes.
  /// `"expiresAt":` with an unescaped quote and a number behind it stands in it once, as all values of metadata are
  /// strings.
  static let keepAliveScript = SharedScript.script(
    "leases.keepAlive",
    viewing + #"""
      local session, wanted = ARGV[5], tonumber(ARGV[6])
      local lease, json = lease_of(session), call('GET', session_prefix .. session)
      if not lease or not json or tonumber(lease.expiresAt) <= now then return {} end
      if wanted >= 0 then
        local pool = record(pools_key, lease.pool)
        local longest = pool and tonumber(pool.hardLimitMaximumMilliseconds or pool.hardLimitMilliseconds) or 0
        local hard = math.min(now + wanted, tonumber(lease.createdAt) + longest)
        if hard > tonumber(lease.expiresAt) then
          lease.expiresAt = whole(hard)
          json = string.gsub(json, '"expiresAt":%d+', '"expiresAt":' .. lease.expiresAt, 1)
          call('HSET', lease_key(session), 'expiresAt', lease.expiresAt)
          call('SET', session_prefix .. session, json, 'PX', hard + 60000 - now)
          call('ZADD', sessions_key, hard, session)
          change('session', session, json)
        end
      end
      if tonumber(lease.lastAccessed) < now then call('HSET', lease_key(session), 'lastAccessed', whole(now)) end
      -- A reservation is for a client that is about to connect: it runs out.
      if lease.state ~= 'reserved' then call('ZADD', leases_key(lease.pool), due(lease), session) end
      return {view(session)}
      """#)

  /// Goes through the sessions of the rarest of the wanted fields, the oldest first, and keeps those that have the
  /// others too. Answers with what was found and whether all were looked at.
  static let findScript = SharedScript.script(
    "leases.find",
    viewing + #"""
      local offset, count, patience = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
      local keys, rarest, fewest = {}, nil, nil
      for i = 8, #ARGV do
        local key = metadata_key(ARGV[i])
        local size = call('ZCARD', key)
        keys[#keys + 1] = key
        if not fewest or size < fewest then rarest, fewest = key, size end
      end
      local views, matches, from = {}, 0, 0
      while from < fewest do
        if from >= patience then return {views, 0} end
        local page = call('ZRANGE', rarest, from, from + 499)
        for _, session in ipairs(page) do
          local fits = true
          for _, key in ipairs(keys) do
            if key ~= rarest and not call('ZSCORE', key, session) then fits = false break end
          end
          if fits then
            matches = matches + 1
            if matches > offset then views[#views + 1] = view(session) end
            if #views == count then return {views, 1} end
          end
        end
        from = from + 500
      end
      return {views, 1}
      """#)
}
