// Idempotency keys against a real Redis: who may carry a request out, what others get, and how long and how many are kept.
import Redis
import Routing
import State
import TestSupport
import Testing

@Suite struct StateIdempotencyTests {
  private let redis: RedisFixture
  private let connection: RedisConnection
  private let keys = Keys()

  init() throws {
    redis = try RedisFixture()
    connection = try redis.connect()
  }

  private func claim(_ key: String, _ body: String, _ owner: String, now: Int = 1_000, limit: Int = Idempotency.limit)
    throws -> IdempotencyClaim
  {
    try connection.run(
      Idempotency(keys: keys, limit: limit).claim(key, request: Array(body.utf8), owner: owner, now: now))
  }
  private func keep(_ key: String, _ body: String, _ owner: String, answer: String = "{}") throws -> Bool {
    try connection.run(
      Idempotency(keys: keys).keep(key, request: Array(body.utf8), owner: owner, answer: answer, now: 2_000))
  }
  private func release(_ key: String, _ owner: String) throws {
    try connection.run(Idempotency(keys: keys).release(key, owner: owner))
  }
  private func lifetime(_ key: String) throws -> Int {
    guard case .int(let milliseconds) = try redis.command("PTTL", keys.idempotency(key)) else { return -3 }
    return milliseconds
  }

  @Test func theFirstOneWorksAndItsAnswerIsEverybodys() throws {
    #expect(try claim("k", "a", "1") == .mine)
    #expect(try claim("k", "a", "1") == .mine)
    #expect(try claim("k", "a", "2") == .pending)
    #expect(try claim("k", "b", "2") == .other)
    #expect(try keep("k", "a", "1", answer: "{\"x\":1}"))
    #expect(try claim("k", "a", "2") == .done(answer: "{\"x\":1}"))
    #expect(try claim("k", "a", "1") == .done(answer: "{\"x\":1}"))
    #expect(try claim("k", "b", "3") == .other)
    #expect(try claim("other", "a", "3") == .mine)
  }

  @Test func whatWasNotCarriedOutMayBeTriedAgain() throws {
    #expect(try claim("k", "a", "1") == .mine)
    try release("k", "2")
    #expect(try claim("k", "a", "2") == .pending)
    try release("k", "1")
    #expect(try claim("k", "b", "2") == .mine)
    #expect(try keep("k", "b", "2"))
    // It was carried out, and its answer could not be delivered.
    try release("k", "2")
    #expect(try redis.keyspace() == [])
  }

  @Test func aWorkerThatIsNotHeardOfLosesItsKey() throws {
    #expect(try claim("k", "a", "1") == .mine)
    #expect(try (1...Idempotency.pendingMilliseconds).contains(lifetime("k")))
    // As when the time is over.
    try redis.command("DEL", keys.idempotency("k"))
    #expect(try claim("k", "a", "2") == .mine)
    #expect(try keep("k", "a", "1") == false)
    #expect(try keep("k", "a", "2"))
    #expect(try lifetime("k") > Idempotency.keptMilliseconds - 60_000)
  }

  @Test func anAnswerThatComesLateButAloneIsKept() throws {
    #expect(try claim("k", "a", "1") == .mine)
    try redis.command("DEL", keys.idempotency("k"))
    #expect(try keep("k", "a", "1", answer: "late"))
    #expect(try claim("k", "a", "2") == .done(answer: "late"))
    #expect(try claim("k", "b", "2") == .other)
  }

  @Test func theOldestGoWhenThereAreTooMany() throws {
    for number in 0..<8 { #expect(try claim("k-\(number)", "a", "1", now: 1_000 + number, limit: 5) == .mine) }
    #expect(try redis.keyspace().count == 6)
    #expect(try claim("k-2", "b", "2", now: 2_000, limit: 5) == .mine)
    #expect(try claim("k-7", "b", "2", now: 2_000, limit: 5) == .other)
    // And those whose time is over.
    #expect(try claim("new", "a", "1", now: 2_001 + Idempotency.keptMilliseconds) == .mine)
    guard case .int(let count) = try redis.command("ZCARD", keys.idempotencyKeys) else { return }
    #expect(count == 1)
  }
}
