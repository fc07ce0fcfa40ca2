// Readiness with a Redis that answers and takes no writes: out of memory, and a replica.
import Domain
import JSON
import Redis
import Routing
import State
import TestSupport
import Testing

@Suite struct ControlReadyTests {
  @Test func aRedisWithoutMemoryIsNotReadyAndReadyAgainWhenItWrites() async throws {
    let bench = try ControlBench()
    let pools = [bench.pool()]
    let control = try bench.start("a", pools)
    let api = try await RunningAPI(bench, pools, bell: control.bell)
    try await bench.settled(1)
    let ready = try await api.ask("GET", "/api/ready")
    #expect(ready.status == 200 && ready.json["ready"] == true && ready.json["error"] == nil)
    let keys = try bench.redis.keyspace()
    let leader = try bench.redis.command("GET", bench.keys.leader)

    try bench.redis.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    try bench.redis.command("CONFIG", "SET", "maxmemory", "1")
    let full = try await api.ask("GET", "/api/ready")
    #expect(full.status == 503 && full.json["ready"] == false)
    #expect(
      full.json["error"] == "Redis is out of memory and refuses to write; raise its maxmemory or free some",
      "\(full.text)")
    // It leads on, its pool is there, and only writes are the matter.
    #expect(full.json["leader"] == "a" && full.json["waitingFor"] == [])
    try bench.redis.command("CONFIG", "SET", "maxmemory", "0")
    #expect(try await api.ask("GET", "/api/ready").status == 200)
    // The question itself has written nothing.
    #expect(try bench.redis.command("GET", bench.keys.leader) == leader)
    #expect(Set(keys).isSubset(of: Set(try bench.redis.keyspace())))
    #expect(try await api.ask("POST", "/api/session/create", body: "{}").status == 200)
    await control.stop(instances: true)
  }

  /// A replica that beats must not be taken for dead because Redis is full: its sessions would be ended.
  @Test func replicasGoOnBeatingInAFullRedis() async throws {
    let bench = try ControlBench()
    let replicas = Replicas(keys: bench.keys)
    #expect(try await bench.client.run(replicas.beat(id: "r-1", figures: ["a": "1"], touched: [], now: 1_000)) == false)
    try bench.redis.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    try bench.redis.command("CONFIG", "SET", "maxmemory", "1")
    await #expect(throws: RedisError.self) {
      try await bench.client.run(Leadership(keys: bench.keys).write())
    }
    #expect(try await bench.client.run(replicas.beat(id: "r-1", figures: ["a": "2"], touched: [], now: 2_000)))
    #expect(try await bench.client.run(replicas.list()).map(\.lastBeat) == [2_000])
    #expect(try await bench.client.run(replicas.figures(id: "r-1"))["a"] == "2")
  }

  @Test func askingWritesNothingAndAReplicaSaysSo() async throws {
    let bench = try ControlBench()
    let leadership = Leadership(keys: bench.keys)
    try await bench.client.run(leadership.write())
    #expect(try bench.redis.keyspace().isEmpty)

    let api = try await RunningAPI(bench, [])
    try bench.redis.command("REPLICAOF", "127.0.0.1", "1")
    let reply = try await api.ask("GET", "/api/ready")
    #expect(reply.status == 503 && reply.json["error"]?.string?.contains("READONLY") == true, "\(reply.text)")
  }
}
