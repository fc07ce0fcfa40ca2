// What must be true of Redis after every single command, and of the deployment when it has come to rest.
import Domain
import Redis
import Routing
import State

enum Invariants {
  /// The books: slots, sessions, leases, ports and instances must agree with each other at every moment. Returns how often
  /// the doorbell has rung, and what does not agree, as sentences.
  private static let booksSource = #"""
    local prefix, host, problems = ARGV[1], ARGV[2], {}
    local call = redis.call
    local function problem(text) problems[#problems + 1] = text end

    local flat, records, count, places = call('HGETALL', prefix .. 'instances'), {}, {}, {}
    for i = 1, #flat, 2 do
      local id, record = flat[i], cjson.decode(flat[i + 1])
      records[id] = record
      count[record.pool] = (count[record.pool] or 0) + 1
      local place = record.host .. ':' .. record.port
      if places[place] then problem(id .. ' and ' .. places[place] .. ' are both at ' .. place) end
      places[place] = id
      if record.state ~= 'starting' and call('HGET', prefix .. 'ports:' .. host .. ':owner', record.port) ~= id then
        problem(id .. ' does not own its port ' .. record.port)
      end
    end

    local held = 0
    for i = 4, #ARGV, 2 do
      local pool, most = ARGV[i], tonumber(ARGV[i + 1])
      local text = call('HGET', prefix .. 'pools', pool)
      local settings = text and cjson.decode(text) or {recycleAfterSessions = 0}
      if (count[pool] or 0) > most then problem(pool .. ' has ' .. count[pool] .. ' instances, and may have ' .. most) end
      local leased = 0
      for id, record in pairs(records) do
        if record.pool == pool then
          local sessions = call('ZRANGE', prefix .. 'instance:' .. id .. ':sessions', 0, -1)
          leased = leased + #sessions
          if #sessions > record.slots then problem(id .. ' has ' .. #sessions .. ' sessions in ' .. record.slots .. ' slots') end
          local uses = tonumber(call('HGET', prefix .. 'counters:' .. id, 'sessions') or 0)
          local limit = tonumber(settings.recycleAfterSessions) or 0
          local free, expected = call('ZSCORE', prefix .. 'pool:' .. pool .. ':slots', id), false
          if record.state == 'ready' and record.slots > 0 and not (limit > 0 and uses >= limit) then
            expected = tostring(record.slots - #sessions)
          end
          if free ~= expected then problem(id .. ' has ' .. tostring(free) .. ' free slots, not ' .. tostring(expected)) end
          for _, session in ipairs(sessions) do
            if call('HGET', prefix .. 'lease:' .. session, 'instance') ~= id then problem(session .. ' is not on ' .. id) end
            if not call('ZSCORE', prefix .. 'pool:' .. pool .. ':leases', session) then problem(session .. ' has no expiry') end
            if not call('ZSCORE', prefix .. 'sessions', session) then problem(session .. ' is not listed') end
          end
        end
      end
      if call('ZCARD', prefix .. 'pool:' .. pool .. ':leases') ~= leased then problem(pool .. ' has leases without an instance') end
      local waiting = call('ZCARD', prefix .. 'pool:' .. pool .. ':waiting')
      if waiting ~= call('ZCARD', prefix .. 'pool:' .. pool .. ':waiting-expiry') then problem(pool .. ' has waiters without expiry') end
      held = held + leased
    end
    if call('ZCARD', prefix .. 'sessions') ~= held then problem('other sessions are listed than held') end

    local ports = prefix .. 'ports:' .. host .. ':'
    local sets, seen, ranged = {'free', 'allocated', 'quarantined'}, {}, 0
    for _, set in ipairs(sets) do
      for _, port in ipairs(call('ZRANGE', ports .. set, 0, -1)) do
        if seen[port] then problem('port ' .. port .. ' is ' .. seen[port] .. ' and ' .. set) end
        seen[port] = set
        ranged = ranged + 1
      end
    end
    if call('EXISTS', ports .. 'range') == 1 and ranged ~= tonumber(ARGV[3]) then
      problem(ranged .. ' ports are on the books, not ' .. ARGV[3])
    end
    local owners = call('HGETALL', ports .. 'owner')
    for i = 1, #owners, 2 do
      if seen[owners[i]] ~= 'allocated' then problem('port ' .. owners[i] .. ' is owned and ' .. tostring(seen[owners[i]])) end
      if call('HGET', ports .. 'by-owner', owners[i + 1]) ~= owners[i] then problem(owners[i + 1] .. ' has two ports') end
    end
    if #owners / 2 ~= call('ZCARD', ports .. 'allocated') then problem('allocated ports have no owners') end
    table.insert(problems, 1, call('GET', prefix .. 'rings') or '0')
    return problems
    """#
  private static let books = Script(name: "simulation.books", source: booksSource)

  @Simulated static func books(_ scene: Scene, keys: Keys) -> Command<Reply> {
    var arguments = [keys.prefix, SimulatedLeader.host, String(scene.ports.count)]
    for pool in scene.pools {
      arguments += [pool.name, String(scene.most(of: pool) + scene.adopted[pool.name, default: 0])]
    }
    return Command(.script(books, keys: [], arguments: arguments)) { $0 }
  }

  // MARK: First come, first served

  /// Who asks for a slot of which pool.
  struct Ticket {
    var session: String
    var pool: String
    var now: String
  }

  static func ticket(of body: CommandBody) -> Ticket? {
    guard case .script(let script, _, let arguments) = body, script.name == "leases.acquire" else { return nil }
    return Ticket(session: arguments[4], pool: arguments[5], now: arguments[3])
  }

  private static let queueScript = Script(
    name: "simulation.queue",
    source: #"""
      local prefix, session, pool, now = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
      local free, before = 0, 0
      local slots = redis.call('ZRANGE', prefix .. 'pool:' .. pool .. ':slots', 0, -1, 'WITHSCORES')
      for i = 2, #slots, 2 do free = free + math.max(0, tonumber(slots[i])) end
      for _, waiter in ipairs(redis.call('ZRANGE', prefix .. 'pool:' .. pool .. ':waiting', 0, -1)) do
        if waiter == session then break end
        if tonumber(redis.call('ZSCORE', prefix .. 'pool:' .. pool .. ':waiting-expiry', waiter)) >= now then before = before + 1 end
      end
      return {free, before, redis.call('EXISTS', prefix .. 'lease:' .. session)}
      """#)

  static func queue(_ ticket: Ticket, keys: Keys) -> Command<Reply> {
    Command(.script(queueScript, keys: [], arguments: [keys.prefix, ticket.session, ticket.pool, ticket.now])) { $0 }
  }

  /// Whom a grant has passed by: there must have been more free slots than living waiters before it.
  static func overtakes(_ before: Reply, _ answer: Reply) -> String? {
    guard case .array(let parts) = before, case .array(let granted) = answer, granted.first?.text == "granted",
      parts.count == 3, case .int(let free) = parts[0], case .int(let ahead) = parts[1], parts[2] == .int(0),
      ahead >= free
    else { return nil }
    return "got a slot although \(ahead) waited longer for \(free)"
  }
}
