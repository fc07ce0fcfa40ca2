// The async client against a real Redis: many callers, a server that dies and comes back, a full queue, the end.
import Redis
import State
import Synchronization
import TestSupport
import Testing

private let counting = Script(name: "test.count", source: "return redis.call('INCR', KEYS[1])")
private func count(_ key: String) -> Command<Int> {
  Command(.script(counting, keys: [key], arguments: [])) { (reply: Reply) throws(StateError) in
    try reply.int(of: "count")
  }
}

/// Runs until it succeeds: Redis was away, and the client says so until it is back.
private func eventually<R: Sendable>(_ client: RedisClient, _ command: Command<R>) async throws -> R {
  var value: R?
  try await waitUntil("Redis is back") { () async throws -> Bool in
    do throws(RedisError) {
      value = try await client.run(command)
      return true
    } catch {
      guard error.isUnavailable else { throw error }
      return false
    }
  }
  guard let value else { throw FixtureError("no value") }
  return value
}

private final class Tally: Sendable {
  let count = Mutex(0)
}

@Suite struct RedisClientTests {
  @Test func manyCallersGetTheirOwnAnswers() async throws {
    let redis = try RedisFixture()
    let client = try RedisClient(url: redis.unixURL, threads: 3)
    let answers = try await withThrowingTaskGroup(of: (Int, String?, Int).self) { group in
      for number in 0..<2_000 {
        group.addTask {
          (number, try await client.run(raw("ECHO", "answer \(number)")).text, try await client.run(count("n")))
        }
      }
      var counts: Set<Int> = []
      for try await (number, text, count) in group {
        #expect(text == "answer \(number)")
        counts.insert(count)
      }
      return counts
    }
    #expect(answers == Set(1...2_000))
    await client.shutdown()
  }

  @Test func whatWaitsTogetherGoesOutTogether() async throws {
    let redis = try RedisFixture()
    let client = try RedisClient(url: redis.unixURL, threads: 1)
    try await client.run(raw("PING"))
    let before = try reads(redis)
    try await withThrowingTaskGroup(of: Void.self) { group in
      for number in 0..<1_000 { group.addTask { try await client.run(raw("SET", "k\(number)", "v")) } }
      try await group.waitForAll()
    }
    let used = try reads(redis) - before
    // Far fewer reads of the server than commands: they came in batches.
    #expect(used < 500, "\(used) reads for 1000 commands")
    await client.shutdown()
  }

  private func reads(_ redis: RedisFixture) throws -> Int {
    let stats = try redis.command("INFO", "stats").string(of: "INFO")
    for line in stats.split(whereSeparator: \.isNewline) where line.hasPrefix("total_reads_processed:") {
      return Int(line.dropFirst("total_reads_processed:".count)) ?? 0
    }
    throw FixtureError("no total_reads_processed in INFO")
  }

  @Test func aRestartedServerIsFoundAgainAndScriptsAreLoadedAgain() async throws {
    let redis = try RedisFixture()
    let client = try RedisClient(url: redis.tcpURL)
    #expect(try await client.run(count("n")) == 1)
    for _ in 0..<3 {
      try redis.restart()
      #expect(try await eventually(client, count("n")) == 1)
    }
    await client.shutdown()
  }

  @Test func whileRedisIsAwayCommandsFailWithTheReason() async throws {
    let redis = try RedisFixture()
    let client = try RedisClient(url: redis.tcpURL)
    try await client.run(raw("PING"))
    redis.stop()
    await #expect {
      // The first one may still meet the old connection.
      for _ in 0..<2 { try await client.run(raw("PING", mayRepeat: true)) }
    } throws: { error in
      "\(error)".contains("is Redis running there?") && (error as? RedisError)?.isUnavailable == true
    }
    try redis.start()
    #expect(try await eventually(client, raw("PING")) == .status("PONG"))
    await client.shutdown()
  }

  @Test func aLostAnswerIsAskedForAgainOnlyWhenThatIsSafe() async throws {
    let redis = try RedisFixture()
    // One connection, so that it is known which one is killed. BLPOP keeps the command without an answer.
    let client = try RedisClient(url: redis.unixURL, threads: 1)
    let watcher = try redis.connect()
    for mayRepeat in [false, true] {
      let answer = Task { () -> Result<Reply, RedisError> in
        do throws(RedisError) {
          return .success(try await client.run(raw("BLPOP", "list", "0", mayRepeat: mayRepeat)))
        } catch {
          return .failure(error)
        }
      }
      func waiting() throws -> String? {
        let list = try watcher.run(raw("CLIENT", "LIST")).string(of: "CLIENT LIST")
        let line = list.split(whereSeparator: \.isNewline).first { $0.contains("cmd=blpop") }
        return line?.split(separator: " ").first.map { String($0.dropFirst("id=".count)) }
      }
      try await waitUntil("BLPOP waits") { () async throws -> Bool in try waiting() != nil }
      let first = try #require(try waiting())
      try watcher.run(raw("CLIENT", "KILL", "ID", first))
      if mayRepeat {
        try await waitUntil("BLPOP waits on another connection") { () async throws -> Bool in
          let now = try waiting()
          return now != nil && now != first
        }
        try watcher.run(raw("RPUSH", "list", "x"))
        #expect(try await answer.value.get() == .array([.string(Array("list".utf8)), .string(Array("x".utf8))]))
      } else {
        let result = await answer.value
        #expect(result == .failure(.closed("\(redis.unixURL) ended the connection", mayHaveRun: true)))
      }
    }
    await client.shutdown()
  }

  @Test func anIdleConnectionThatTheServerClosedIsNoticedBeforeItIsUsed() async throws {
    let redis = try RedisFixture()
    let client = try RedisClient(url: redis.unixURL, threads: 1)
    for _ in 0..<20 {
      // May not be repeated: it only works when nothing was sent on the dead connection.
      try await client.run(raw("INCR", "n"))
      try redis.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    }
    #expect(try redis.command("GET", "n").text == "20")
    await client.shutdown()
  }

  @Test func aFullQueueSaysSo() async throws {
    let redis = try RedisFixture()
    let client = try RedisClient(
      url: redis.unixURL, options: RedisOptions(connectTimeoutMilliseconds: 5_000, commandTimeoutMilliseconds: 60_000),
      threads: 1, queueLimit: 10)
    try await client.run(raw("PING"))
    redis.freeze()
    let refusals = Tally()
    let calls = (0..<200).map { _ in
      Task { () -> RedisError? in
        do throws(RedisError) {
          try await client.run(raw("PING"))
          return nil
        } catch {
          refusals.count.withLock { $0 += 1 }
          return error
        }
      }
    }
    // Those that fit, and those that are on their way, wait until Redis goes on: at most one batch and the queue.
    try await waitUntil("the others are refused") { () async throws -> Bool in refusals.count.withLock { $0 } >= 100 }
    redis.thaw()
    var results: [RedisError?] = []
    for call in calls { results.append(await call.value) }
    let refused = results.compactMap { $0 }
    #expect(refused.count >= 100 && refused.count < 200)
    #expect(refused.allSatisfy { $0.description.hasPrefix("10 commands wait for Redis at unix:") }, "\(refused.first!)")
    await client.shutdown()
  }

  @Test func aTimeoutEndsTheWaitAndTheNextCommandGetsItsOwnAnswer() async throws {
    let redis = try RedisFixture()
    let client = try RedisClient(
      url: redis.unixURL, options: RedisOptions(connectTimeoutMilliseconds: 5_000, commandTimeoutMilliseconds: 1_000),
      threads: 1)
    try await client.run(raw("SET", "k", "v"))
    await #expect {
      try await client.run(raw("BLPOP", "never", "0"))
    } throws: { error in
      "\(error)".hasSuffix("did not answer BLPOP within 1000 ms; it may have been executed")
    }
    #expect(try await client.run(raw("GET", "k")).text == "v")
    await client.shutdown()
  }

  @Test func afterAShutdownNothingIsTakenAndItIsQuickWithoutRedis() async throws {
    let redis = try RedisFixture()
    let client = try RedisClient(url: redis.unixURL)
    async let last = client.run(raw("PING"))
    #expect(try await last == .status("PONG"))
    await client.shutdown()
    await client.shutdown()
    await #expect(throws: RedisError.shutdown) { try await client.run(raw("PING")) }

    redis.stop()
    let lost = try RedisClient(url: redis.unixURL)
    await #expect(throws: RedisError.self) { try await lost.run(raw("PING")) }
    await lost.shutdown()
  }

  @Test func aReplicaThatRefusesWritesIsLeft() async throws {
    let redis = try RedisFixture()
    let client = try RedisClient(url: redis.unixURL, threads: 1)
    let first = try await client.run(raw("CLIENT", "ID"))
    #expect(try await client.run(raw("CLIENT", "ID")) == first)
    try redis.command("REPLICAOF", "127.0.0.1", "1")
    await #expect {
      try await client.run(raw("SET", "k", "w"))
    } throws: { error in
      guard case .server(let message) = error as? RedisError else { return false }
      return message.hasPrefix("READONLY")
    }
    // It left the connection on which it was refused: the next one may lead to the new master.
    #expect(try await client.run(raw("CLIENT", "ID")) != first)
    try redis.command("REPLICAOF", "NO", "ONE")
    #expect(try await client.run(raw("SET", "k", "w")) == .status("OK"))
    await client.shutdown()
  }
}
