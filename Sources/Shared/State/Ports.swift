// The allocator of one host's ports. The control plane leases a port before it starts an instance on it, and gives it
// back when the instance is gone. A port is in exactly one of three sorted sets: free, allocated or quarantined.
package import Routing

/// A port that is taken.
package struct PortLease: Sendable, Equatable {
  package let port: Int
  /// The instance that has it; empty when Redis lost the name.
  package let owner: String
  /// When it was taken or last renewed, Unix milliseconds.
  package let since: Int
  package init(port: Int, owner: String, since: Int) {
    self.port = port
    self.owner = owner
    self.since = since
  }
}

package struct PortFigures: Sendable, Equatable {
  package let free: Int
  package let allocated: Int
  package let quarantined: Int
  package init(free: Int, allocated: Int, quarantined: Int) {
    self.free = free
    self.allocated = allocated
    self.quarantined = quarantined
  }
}

/// The commands of one host's port allocator. An owner has at most one port: that is what makes ``allocate(owner:now:)``
/// repeatable after a lost answer. Times are Unix milliseconds.
package struct Ports: Sendable {
  package let host: String
  private let keys: [String]
  private let fence: Fence?

  /// With the leader's fence every change is refused with FENCED when another leads, or nobody does; a leader always has
  /// one. Without (tests, and those who only read) nothing is asked.
  package init(keys: Keys, host: String, fence: Fence? = nil) {
    self.host = host
    self.fence = fence
    self.keys = [
      keys.portsFree(host: host), keys.portsAllocated(host: host), keys.portsOwner(host: host),
      keys.portsByOwner(host: host), keys.portsQuarantined(host: host), keys.portsRange(host: host), keys.leader,
    ]
  }

  private func call<R: Sendable>(
    _ script: Script, now: Int, _ arguments: [String] = [],
    parse: @escaping @Sendable (Reply) throws(StateError) -> R
  ) -> Command<R> {
    Command(.script(script, keys: keys, arguments: [String(now), fence?.value ?? ""] + arguments), parse: parse)
  }

  /// Makes the range what it should be: new ports become free, free ones outside go. Ports that are taken stay taken,
  /// and are forgotten when they come back from outside the range.
  package func configure(range: ClosedRange<Int>, now: Int) -> Command<Void> {
    precondition(range.lowerBound >= 1 && range.upperBound <= 65_535, "ports are 1 to 65535")
    return call(
      Self.configureScript, now: now, [String(range.lowerBound), String(range.upperBound)], parse: Read.nothing())
  }

  /// The port that was unused for the longest time; nil when none is free. The same port again for an owner that has one.
  package func allocate(owner: String, now: Int) -> Command<Int?> {
    precondition(!owner.isEmpty, "a port needs an owner")
    return call(Self.allocateScript, now: now, [owner], parse: Read.optionalInt("ports.allocate"))
  }

  /// Gives a port back. False, and no change, when the owner does not have it (any more).
  package func release(port: Int, owner: String, now: Int) -> Command<Bool> {
    call(Self.releaseScript, now: now, [String(port), owner], parse: Read.bool("ports.release"))
  }

  /// Says that the port is still in use; false when the owner does not have it.
  package func renew(port: Int, owner: String, now: Int) -> Command<Bool> {
    call(Self.renewScript, now: now, [String(port), owner], parse: Read.bool("ports.renew"))
  }

  /// Puts aside a port that something else on the host uses; after `until` it is free again (seen by allocate and reclaim).
  package func quarantine(port: Int, owner: String, until: Int, now: Int) -> Command<Bool> {
    call(
      Self.quarantineScript, now: now, [String(port), owner, String(until)], parse: Read.bool("ports.quarantine"))
  }

  /// Takes this very port for an instance that was found running on it, e.g. after Redis lost its data. False when
  /// another owner has it. A different port that the owner had before goes back.
  package func adopt(port: Int, owner: String, now: Int) -> Command<Bool> {
    precondition(!owner.isEmpty, "a port needs an owner")
    return call(Self.adoptScript, now: now, [String(port), owner], parse: Read.bool("ports.adopt"))
  }

  /// Every taken port, the longest-taken first.
  package func list() -> Command<[PortLease]> {
    call(Self.listScript, now: 0, parse: Self.leases("ports.list"))
  }

  /// Frees what unknown owners took or renewed before `olderThan`, and returns it.
  package func reclaim(keeping owners: [String], olderThan: Int, now: Int) -> Command<[PortLease]> {
    call(Self.reclaimScript, now: now, [String(olderThan)] + owners, parse: Self.leases("ports.reclaim"))
  }

  package func figures() -> Command<PortFigures> {
    call(Self.figuresScript, now: 0) { (reply: Reply) throws(StateError) -> PortFigures in
      let counts = try reply.list(of: "ports.figures", count: 3)
      return PortFigures(
        free: try counts[0].int(of: "ports.figures"), allocated: try counts[1].int(of: "ports.figures"),
        quarantined: try counts[2].int(of: "ports.figures"))
    }
  }

  private static func leases(_ what: String) -> @Sendable (Reply) throws(StateError) -> [PortLease] {
    { (reply: Reply) throws(StateError) -> [PortLease] in
      var leases: [PortLease] = []
      for entry in try reply.list(of: what) {
        let parts = try entry.list(of: what, count: 3)
        leases.append(
          PortLease(
            port: try parts[0].int(of: what), owner: try parts[1].string(of: what), since: try parts[2].int(of: what)))
      }
      return leases
    }
  }
}

// The scripts. ARGV[1] is now, ARGV[2] the fence; KEYS are in the order of `Ports.keys`.
extension Ports {
  private static let common = #"""
    local free, allocated, owners, ports, quarantined, range, leader_key = unpack(KEYS)
    local now = tonumber(ARGV[1])
    local call = redis.call

    if ARGV[2] ~= '' and call('GET', leader_key) ~= ARGV[2] then
      local leader = call('GET', leader_key) or 'nobody'
      return redis.error_reply('FENCED ' .. leader .. ' leads now, not ' .. ARGV[2] .. '; nothing was written')
    end

    -- Nobody has the port: it is free again, unless the range no longer has it.
    local function give_back(port)
      local first, last = string.match(call('GET', range) or '', '^(%d+)-(%d+)$')
      local number = tonumber(port)
      if first and number >= tonumber(first) and number <= tonumber(last) then call('ZADD', free, now, port) end
    end

    local function take(port, owner)
      call('ZREM', free, port)
      call('ZREM', quarantined, port)
      call('ZADD', allocated, now, port)
      call('HSET', owners, port, owner)
      call('HSET', ports, owner, port)
    end

    local function drop(port, owner)
      call('ZREM', allocated, port)
      call('HDEL', owners, port)
      if call('HGET', ports, owner) == port then call('HDEL', ports, owner) end
    end

    -- Ports whose quarantine is over are free again, as the last to be handed out.
    local function thaw()
      repeat
        local due = call('ZRANGEBYSCORE', quarantined, '-inf', now, 'LIMIT', 0, 100)
        for _, port in ipairs(due) do
          call('ZREM', quarantined, port)
          give_back(port)
        end
      until #due == 0
    end

    """#

  static let configureScript = Script(
    name: "ports.configure",
    source: common + #"""
      local first, last = tonumber(ARGV[3]), tonumber(ARGV[4])
      call('SET', range, ARGV[3] .. '-' .. ARGV[4])
      for _, port in ipairs(call('ZRANGE', free, 0, -1)) do
        if tonumber(port) < first or tonumber(port) > last then call('ZREM', free, port) end
      end
      for number = first, last do
        local port = string.format('%d', number)
        if not call('ZSCORE', allocated, port) and not call('ZSCORE', quarantined, port) then
          call('ZADD', free, 'NX', 0, port)
        end
      end
      return 1
      """#)

  static let allocateScript = Script(
    name: "ports.allocate",
    source: common + #"""
      local owner = ARGV[3]
      local held = call('HGET', ports, owner)
      if held then
        call('ZADD', allocated, now, held)
        return tonumber(held)
      end
      thaw()
      local next = call('ZPOPMIN', free)
      if not next[1] then return false end
      take(next[1], owner)
      return tonumber(next[1])
      """#)

  static let releaseScript = Script(
    name: "ports.release",
    source: common + #"""
      local port, owner = ARGV[3], ARGV[4]
      if call('HGET', owners, port) ~= owner then return 0 end
      drop(port, owner)
      give_back(port)
      return 1
      """#)

  static let renewScript = Script(
    name: "ports.renew",
    source: common + #"""
      if call('HGET', owners, ARGV[3]) ~= ARGV[4] then return 0 end
      call('ZADD', allocated, now, ARGV[3])
      return 1
      """#)

  static let quarantineScript = Script(
    name: "ports.quarantine",
    source: common + #"""
      local port, owner = ARGV[3], ARGV[4]
      if call('HGET', owners, port) ~= owner then return 0 end
      drop(port, owner)
      call('ZADD', quarantined, tonumber(ARGV[5]), port)
      return 1
      """#)

  static let adoptScript = Script(
    name: "ports.adopt",
    source: common + #"""
      local port, owner = ARGV[3], ARGV[4]
      local has = call('HGET', owners, port)
      if has and has ~= owner then return 0 end
      local other = call('HGET', ports, owner)
      if other and other ~= port then
        drop(other, owner)
        give_back(other)
      end
      take(port, owner)
      return 1
      """#)

  private static let listing = #"""
    local function lease(port, since) return {port, call('HGET', owners, port) or '', since} end

    """#

  static let listScript = Script(
    name: "ports.list",
    source: common + listing + #"""
      local found, taken = {}, call('ZRANGE', allocated, 0, -1, 'WITHSCORES')
      for i = 1, #taken, 2 do found[#found + 1] = lease(taken[i], taken[i + 1]) end
      return found
      """#)

  static let reclaimScript = Script(
    name: "ports.reclaim",
    source: common + listing + #"""
      thaw()
      local keep = {}
      for i = 4, #ARGV do keep[ARGV[i]] = true end
      local freed, old = {}, call('ZRANGEBYSCORE', allocated, '-inf', '(' .. ARGV[3], 'WITHSCORES')
      for i = 1, #old, 2 do
        local found = lease(old[i], old[i + 1])
        if not keep[found[2]] then
          drop(old[i], found[2])
          give_back(old[i])
          freed[#freed + 1] = found
        end
      end
      return freed
      """#)

  static let figuresScript = Script(
    name: "ports.figures",
    source: common + #"""
      return {call('ZCARD', free), call('ZCARD', allocated), call('ZCARD', quarantined)}
      """#)
}
