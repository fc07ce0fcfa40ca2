// What the supervisor asks Redis for beyond the rooms of State: operators' orders, held slots by instance, and the figures
// of processes. Each is one command or one script.
package import Reconciler
package import Routing
import Runtimes
package import State

/// Orders of operators. REST of any control plane writes them, the leader carries them out and then removes them, so an
/// order survives a change of leaders.
package struct Orders: Sendable {
  private let keys: Keys
  package init(keys: Keys) { self.keys = keys }

  /// Records an order for a known instance and wakes the leader; false when there is no such instance.
  package func give(_ order: InstanceOrder, to instance: String, pool: String) -> Command<Bool> {
    Command(
      .script(
        Self.giveScript, keys: [keys.orders, keys.instances],
        arguments: [instance, Self.text(order), keys.wake, pool])
    ) { (reply: Reply) throws(StateError) -> Bool in try reply.int(of: "orders.give") == 1 }
  }

  /// Gives a known instance another weight and wakes the leader; false when there is no such instance.
  package func weigh(_ instance: String, weight: Int, pool: String) -> Command<Bool> {
    Command(
      .script(
        Self.giveScript, keys: [keys.weights, keys.instances],
        arguments: [instance, String(weight), keys.wake, pool])
    ) { (reply: Reply) throws(StateError) -> Bool in try reply.int(of: "orders.weigh") == 1 }
  }

  /// The weights that operators gave, until their instances go.
  func weights() -> Command<[String: Int]> {
    Command(.words(["HGETALL", keys.weights]), mayRepeat: true) {
      (reply: Reply) throws(StateError) -> [String: Int] in
      var weights: [String: Int] = [:]
      for (id, value) in try reply.pairs(of: "weights") {
        // What somebody's hand wrote wrong changes nothing.
        if let weight = try? value.int(of: id), InstanceRecord.weights.contains(weight) { weights[id] = weight }
      }
      return weights
    }
  }

  /// Slots of an instance that clients hold.
  package func sessions(of instance: String) -> Command<Int> {
    Command(.words(["ZCARD", keys.instanceSessions(instance: instance)]), mayRepeat: true) {
      (reply: Reply) throws(StateError) -> Int in try reply.int(of: "instance sessions")
    }
  }

  /// All orders by instance.
  func all() -> Command<[String: InstanceOrder]> {
    Command(.words(["HGETALL", keys.orders]), mayRepeat: true) {
      (reply: Reply) throws(StateError) -> [String: InstanceOrder] in
      var orders: [String: InstanceOrder] = [:]
      for (id, value) in try reply.pairs(of: "orders") {
        let words = (value.text ?? "").split(separator: " ")
        guard let kind = words.first.flatMap({ InstanceOrder.Kind(rawValue: String($0)) }) else {
          throw StateError("orders: \"\(value.text ?? "")\" for \(id) is no order")
        }
        orders[id] = InstanceOrder(kind, force: words.contains("force"))
      }
      return orders
    }
  }

  /// The leader has carried an order out; one that does not lead any more takes none of its successor's away.
  func done(instance: String, fence: Fence) -> Command<Void> {
    Command(.script(Self.doneScript, keys: [keys.orders, keys.leader], arguments: [instance, fence.value])) {
      (_: Reply) in
    }
  }

  private static let doneScript = Script(
    name: "orders.done",
    source: #"""
      if redis.call('GET', KEYS[2]) ~= ARGV[2] then return redis.error_reply('FENCED another one leads') end
      return redis.call('HDEL', KEYS[1], ARGV[1])
      """#)

  private static func text(_ order: InstanceOrder) -> String { order.kind.rawValue + (order.force ? " force" : "") }

  private static let giveScript = Script(
    name: "orders.give",
    source: #"""
      if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 0 then return 0 end
      redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
      redis.call('PUBLISH', ARGV[3], ARGV[4])
      return 1
      """#)
}

/// What the leader reads of all instances at once.
struct InstanceFacts: Sendable {
  private let keys: Keys
  init(keys: Keys) { self.keys = keys }

  /// Held slots of each of the instances, in their order.
  func leases(of instances: [String]) -> Command<[Int]> {
    Command(.script(Self.leasesScript, keys: instances.map(keys.instanceSessions(instance:)), arguments: [])) {
      (reply: Reply) throws(StateError) -> [Int] in
      var counts: [Int] = []
      for count in try reply.list(of: "instances.leases") { counts.append(try count.int(of: "instances.leases")) }
      return counts
    }
  }

  /// The ids of all registered instances.
  func registered() -> Command<[String]> {
    Command(.words(["HKEYS", keys.instances]), mayRepeat: true) { (reply: Reply) throws(StateError) -> [String] in
      try reply.strings(of: "instances")
    }
  }

  /// Keeps what an instance's processes use beside its other counters, unless the instance is gone meanwhile.
  func keep(_ figures: ProcessFigures, of instance: String, now: Int) -> Command<Void> {
    Command(
      .script(
        Self.keepScript, keys: [keys.instances, keys.counters(instance: instance)],
        arguments: [
          instance, "cpuMilliseconds", String(figures.cpuMilliseconds), "memoryBytes", String(figures.memoryBytes),
          "processes", String(figures.processes), "measuredAt", String(now),
        ])
    ) { (_: Reply) in }
  }

  private static let leasesScript = Script(
    name: "instances.leases",
    source: #"""
      local counts = {}
      for i, key in ipairs(KEYS) do counts[i] = redis.call('ZCARD', key) end
      return counts
      """#)

  private static let keepScript = Script(
    name: "instances.keep",
    source: #"""
      if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 0 end
      for i = 2, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
      return 1
      """#)
}
