// docs/redis-keys.md against a real Redis: it names every key that there can be, with its type, and none besides.
import Redis
import Routing
import State
import TestSupport
import Testing

@Suite struct StateKeysGuideTests {
  @Test func theGuideNamesEveryKeyWithItsTypeAndNoOther() throws {
    let world = try World()
    try world.declare([World.pool()], routes: [RouteRecord(id: "all", pool: "chrome")])
    let ports = Ports(keys: world.keys, host: "<host>")
    try world.connection.run(ports.configure(range: 50_000...50_009, now: world.now))
    for owner in ["a", "b"] { try world.connection.run(ports.allocate(owner: owner, now: world.now)) }
    try world.connection.run(ports.quarantine(port: 50_000, owner: "a", until: world.now + 1, now: world.now))
    // Ids that read like the guide's placeholders.
    try world.put(world.instance("<instance>"))
    _ = try world.acquire("over", holder: "<replica>")
    _ = try world.end("over")
    try world.connection.run(
      world.leases.acquire(
        world.session("<session>", metadata: ["name": "value"]), holder: "<replica>",
        reserveMilliseconds: nil, queue: false, now: world.now))
    _ = try world.connection.run(
      Launches(keys: world.keys).ask(session: "<session>", pool: "chrome", options: LaunchOptions(), now: world.now))
    try world.connection.run(
      Idempotency(keys: world.keys).claim("<key>", of: "<api-key>", request: [], owner: "<session>", now: world.now))
    _ = try world.acquire("waits", queue: true)
    try world.connection.run(world.replicas.beat(id: "<replica>", figures: [:], touched: [], now: world.now))
    try world.connection.run(world.targets.remember(target: "<target>", session: "<session>", ttlMilliseconds: 60_000))
    let balancing = Balancing(keys: world.keys)
    try world.connection.run(balancing.block(pool: "chrome"))
    try world.connection.run(balancing.put(loads: ["<instance>": InstanceLoad(cpuPercent: 1, memoryPercent: 2)]))
    try world.connection.run(Jobs(keys: world.keys).remember("<job>", pool: "chrome", instance: "<instance>"))
    let key = KeyRecord(id: "<key>", sha256: String(repeating: "0", count: 64), scopes: [.session])
    try world.connection.run(APIKeys(keys: world.keys).create(key, now: world.now))
    let faults = InstanceFaults(instance: "<instance>", counts: [.connect: 1])
    try world.connection.run(Reports(keys: world.keys).report([faults]))
    try world.connection.run(
      Troubles(keys: world.keys).put(
        PoolTrouble(pool: "chrome", state: "backing_off"), pool: "chrome", fence: world.fence, now: world.now))
    // The supervisor's own.
    try world.redis.command("HSET", world.keys.orders, "<instance>", "restart")
    try world.redis.command("HSET", world.keys.weights, "<instance>", "3")
    try world.connection.run(world.leadership.openGate(fence: world.fence))

    var here: Substring = #filePath[...]
    for _ in 0..<4 { here = here[..<(here.lastIndex(of: "/") ?? here.startIndex)] }
    let guide = try #require(readFile("\(here)/docs/redis-keys.md"))
    var documented: [String] = []
    for line in guide.split(separator: "\n") where line.hasPrefix("| `") {
      let cells = line.split(separator: "|").map { $0.filter { $0 != " " && $0 != "`" } }
      documented.append("\(cells[0]) (\(cells[1]))")
    }
    let actual = try world.redis.keyspace().map { key in
      key.split(separator: ":", omittingEmptySubsequences: false).map { word in
        word == "chrome"
          ? "<pool>" : word.hasPrefix("name=value") ? "<name>=<value>" + word.dropFirst(10) : String(word)
      }.joined(separator: ":")
    }
    #expect(actual.sorted() == documented.sorted())
  }
}
