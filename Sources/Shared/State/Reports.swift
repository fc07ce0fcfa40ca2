// What replicas tell of instances that failed their requests, so that the leader checks those at once instead of at their
// next turn. Replicas add up, the leader takes all; a report that nobody takes is forgotten, as it would be old news.
package import Routing

/// What an instance did wrong, as a replica counts it.
package enum InstanceFaultKind: String, Sendable, CaseIterable {
  /// No connection, or none in time.
  case connect
  /// A connection that was reset, or closed before the answer or its body was over.
  case reset
  /// No answer in time.
  case timeout
  /// An answer that was no HTTP.
  case badAnswer = "bad-answer"
  /// A status of 500 to 599, where the pool says that it counts.
  case serverError = "server-error"
}

/// The failures of one instance since the last word on it.
package struct InstanceFaults: Sendable, Equatable {
  package var instance: String
  package var counts: [InstanceFaultKind: Int]

  package init(instance: String, counts: [InstanceFaultKind: Int]) {
    self.instance = instance
    self.counts = counts
  }

  package var total: Int { counts.values.reduce(0, +) }

  /// In words, e.g. `3 connect, 1 reset`.
  package var text: String {
    InstanceFaultKind.allCases.compactMap { kind in counts[kind].map { "\($0) \(kind.rawValue)" } }
      .joined(separator: ", ")
  }
}

package struct Reports: Sendable {
  private let keys: Keys
  package init(keys: Keys) { self.keys = keys }

  /// Instances that one replica reports at a time, those that failed most first.
  package static let perReplica = 64
  /// Entries that wait for the leader, of all replicas together; what comes beyond them is dropped.
  package static let limit = 4_096
  /// How long a report waits for a leader: what is older a check of its own has found, or it is over.
  package static let lifeMilliseconds = 10_000

  /// Adds failures to what waits, and wakes the leader. Instances that are not registered are left out. Sent again after a
  /// lost answer it counts twice, which changes nothing: one failure is as good a reason for a check as two.
  /// - Returns: entries that were dropped because too many wait.
  package func report(_ faults: [InstanceFaults]) -> Command<Int> {
    var arguments = [keys.wake, String(Self.limit), String(Self.lifeMilliseconds)]
    for instance in faults.prefix(Self.perReplica) {
      for (kind, count) in instance.counts.sorted(by: { $0.key.rawValue < $1.key.rawValue }) where count > 0 {
        arguments += [instance.instance, kind.rawValue, String(count)]
      }
    }
    return Command(
      .script(Self.reportScript, keys: [keys.instances, keys.reports], arguments: arguments),
      parse: Read.int("health.report"))
  }

  /// Takes all that waits, by instance. What is lost with an answer is reported again, or over.
  package func take() -> Command<[InstanceFaults]> {
    Command(.script(Self.takeScript, keys: [keys.reports], arguments: [])) {
      (reply: Reply) throws(StateError) -> [InstanceFaults] in
      var counts: [String: [InstanceFaultKind: Int]] = [:]
      for (name, value) in try reply.pairs(of: "reports") {
        let words = name.split(separator: " ")
        guard words.count == 2, let kind = InstanceFaultKind(rawValue: String(words[1])) else { continue }
        counts[String(words[0]), default: [:]][kind] = try value.int(of: "reports")
      }
      return counts.sorted { $0.key < $1.key }.map { InstanceFaults(instance: $0.key, counts: $0.value) }
    }
  }
}

extension Reports {
  static let reportScript = Script(
    name: "health.report",
    source: #"""
      local waiting, dropped, pools = redis.call('HLEN', KEYS[2]), 0, {}
      for i = 4, #ARGV, 3 do
        local json = redis.call('HGET', KEYS[1], ARGV[i])
        if json then
          local field = ARGV[i] .. ' ' .. ARGV[i + 1]
          if redis.call('HEXISTS', KEYS[2], field) == 0 then
            if waiting >= tonumber(ARGV[2]) then field = nil else waiting = waiting + 1 end
          end
          if field then
            redis.call('HINCRBY', KEYS[2], field, ARGV[i + 2])
            local fine, record = pcall(cjson.decode, json)
            if fine and record.pool then pools[record.pool] = true end
          else
            dropped = dropped + 1
          end
        end
      end
      redis.call('PEXPIRE', KEYS[2], ARGV[3])
      for pool in pairs(pools) do redis.call('PUBLISH', ARGV[1], pool) end
      return dropped
      """#)

  static let takeScript = Script(
    name: "health.take",
    source: #"""
      local all = redis.call('HGETALL', KEYS[1])
      redis.call('DEL', KEYS[1])
      return all
      """#)
}
