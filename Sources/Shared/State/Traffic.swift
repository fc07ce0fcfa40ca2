// What replicas have sent to instances, added up over all of them, and what each replica has under way: written by replicas
// with their heartbeat, read by the leader, which recycles instances by it and ends none that a replica still uses.
package import Routing

/// What one replica tells of one instance.
package struct TrafficEntry: Sendable, Equatable {
  package var instance: String
  package var generation: Int
  /// The state by which all of the replica's workers route: once it is not `ready`, no new client is sent there.
  package var state: InstanceState
  /// Since the entry before.
  package var requests: Int
  package var errors: Int
  /// Requests and tunnels under way.
  package var active: Int

  package init(
    instance: String, generation: Int, state: InstanceState, requests: Int = 0, errors: Int = 0, active: Int = 0
  ) {
    self.instance = instance
    self.generation = generation
    self.state = state
    self.requests = requests
    self.errors = errors
    self.active = active
  }
}

/// What is known of one instance.
package struct InstanceCounters: Sendable, Equatable {
  /// What a replica told last.
  package struct Line: Sendable, Equatable {
    package var generation: Int
    package var state: InstanceState
    package var active: Int

    package init(generation: Int, state: InstanceState, active: Int) {
      self.generation = generation
      self.state = state
      self.active = active
    }

    /// Reads `<generation> <state> <active> <time>`.
    init?(_ text: String) {
      let words = text.split(separator: " ")
      guard words.count == 4, let generation = Int(words[0]), let state = InstanceState(rawValue: String(words[1])),
        let active = Int(words[2])
      else { return nil }
      self.init(generation: generation, state: state, active: active)
    }
  }
  /// Sessions, requests and errors of this generation, and what its processes use; by the names in docs/redis-keys.md.
  package var numbers: [String: Int] = [:]
  package var replicas: [String: Line] = [:]

  package init() {}

  /// Reads the fields of `berth:counters:<instance>`; what somebody's hand wrote wrong is left out.
  init(_ reply: Reply) throws(StateError) {
    for (name, value) in try reply.pairs(of: "counters") {
      if name.hasPrefix("replica:") {
        replicas[String(name.dropFirst("replica:".count))] = value.text.flatMap(Line.init)
      } else {
        numbers[name] = try? value.int(of: name)
      }
    }
  }

  /// Requests and tunnels that replicas have under way at this generation; nil when none has told.
  package func active(generation: Int) -> Int? {
    let told = replicas.values.filter { $0.generation == generation }
    return told.isEmpty ? nil : told.reduce(0) { $0 + $1.active }
  }
}

package struct Traffic: Sendable {
  private let keys: Keys
  package init(keys: Keys) { self.keys = keys }

  /// Adds what a replica has counted since its last flush. Entries of instances that are gone, or of another generation,
  /// are left out. Rings the pool's bell when the replica has let go of an instance that is on its way out.
  /// - Parameter at: Unix milliseconds, others for each flush of a replica: the same flush again counts nothing twice.
  package func flush(replica: String, at: Int, entries: [TrafficEntry]) -> Command<Void> {
    var arguments = [replica, String(at), keys.wake]
    for entry in entries {
      arguments += [
        entry.instance, String(entry.generation), entry.state.rawValue, String(entry.requests), String(entry.errors),
        String(entry.active),
      ]
    }
    return Command(
      .script(
        Self.flushScript, keys: [keys.instances] + entries.map { keys.counters(instance: $0.instance) },
        arguments: arguments), parse: Read.nothing())
  }

  /// What is known of each of the instances, in their order.
  package func counters(of instances: [String]) -> Command<[InstanceCounters]> {
    Command(
      .script(Self.countersScript, keys: instances.map(keys.counters(instance:)), arguments: []), mayRepeat: true
    ) { (reply: Reply) throws(StateError) -> [InstanceCounters] in
      var counters: [InstanceCounters] = []
      for one in try reply.list(of: "traffic.counters", count: instances.count) {
        counters.append(try InstanceCounters(one))
      }
      return counters
    }
  }
}

extension Traffic {
  static let flushScript = Script(
    name: "traffic.flush",
    source: #"""
      local field, at = 'replica:' .. ARGV[1], ARGV[2]
      for i = 2, #KEYS do
        local id, generation, state, requests, errors, active = unpack(ARGV, 4 + (i - 2) * 6, 9 + (i - 2) * 6)
        -- Looked for in the text, as to read all of it would cost more than the rest; an id has no quotes.
        local json = redis.call('HGET', KEYS[1], id)
        if json and string.match(json, '"generation":(%d+)') == generation then
          local old = redis.call('HGET', KEYS[i], field) or ''
          if string.match(old, '(%d+)$') ~= at then
            if requests ~= '0' then redis.call('HINCRBY', KEYS[i], 'requests', requests) end
            if errors ~= '0' then redis.call('HINCRBY', KEYS[i], 'errors', errors) end
          end
          local line = generation .. ' ' .. state .. ' ' .. active
          redis.call('HSET', KEYS[i], field, line .. ' ' .. at)
          local isLeaving = state == 'draining' or state == 'stopping'
          if isLeaving and active == '0' and string.match(old, '^(.*) %d+$') ~= line then
            redis.call('PUBLISH', ARGV[3], string.match(json, '"pool":"([^"]*)"') or '')
          end
        end
      end
      return 1
      """#)

  static let countersScript = Script(
    name: "traffic.counters",
    source: #"""
      local all = {}
      for i, key in ipairs(KEYS) do all[i] = redis.call('HGETALL', key) end
      return all
      """#)
}
