// A master, its replica and three sentinels, all real: connections and the client follow every kind of fail-over, and no
// wait has no end. URLs and name lookups without any of them.
import Glibc
import Redis
import Routing
import State
import Synchronization
import TestSupport
import Testing

@Suite struct RedisSentinelURLTests {
  private typealias Address = RedisURL.Sentinels.Address

  @Test func theFormsOfTheClientsAreRead() throws {
    let plain = try RedisURL(parsing: "redis+sentinel://s1,s2:7000,[::1]:7001/mymaster")
    #expect(
      plain.place
        == .sentinel(
          RedisURL.Sentinels(
            addresses: [
              Address(host: "s1", port: 26_379), Address(host: "s2", port: 7_000), Address(host: "::1", port: 7_001),
            ], master: "mymaster")))
    #expect(plain.tls == nil && plain.database == 0 && plain.password == nil)
    #expect(plain.description == "redis+sentinel://s1:26379,s2:7000,[::1]:7001/mymaster")
    #expect(try RedisURL(parsing: plain.description) == plain)

    let full = try RedisURL(
      parsing: "rediss+sentinel://me:p%40ss@s1/mymaster/3?sentinelUser=w&sentinelPassword=hush&verify=no")
    #expect(full.user == "me" && full.password == "p@ss" && full.database == 3)
    #expect(full.tls == RedisURL.TLS(caFile: nil, verify: false))
    guard case .sentinel(let sentinels) = full.place else { throw FixtureError("no sentinels") }
    #expect(sentinels.user == "w" && sentinels.password == "hush")
    #expect(!full.description.contains("hush") && !full.description.contains("p@ss"))

    // Lettuce's form: the master's name behind a #.
    let other = try RedisURL(parsing: "redis-sentinel://:secret@s1:26379,s2/2#mymaster")
    guard case .sentinel(let named) = other.place else { throw FixtureError("no sentinels") }
    #expect(named.master == "mymaster" && named.addresses.count == 2 && other.database == 2)
    #expect(other.password == "secret")
  }

  @Test(arguments: [
    "redis+sentinel://s1", "redis+sentinel://s1/", "redis+sentinel:///mymaster", "redis+sentinel://s1,/mymaster",
    "redis+sentinel://s1:x/mymaster", "redis+sentinel://s1/mymaster/x", "redis+sentinel://s1/mymaster?verify=no",
    "redis+sentinel://s1/mymaster?sentinelUser=me", "redis+sentinel://s1#", "redis://s1/0#mymaster",
    "redis+sentinel://\(Array(repeating: "s", count: 33).joined(separator: ","))/mymaster",
  ]) func whatIsWrongIsRefused(text: String) {
    #expect {
      try RedisURL(parsing: text)
    } throws: { error in
      "\(error)".hasPrefix("REDIS_URL: ") && "\(error)".contains("redis+sentinel://")
    }
  }
}

@Suite struct RedisLookupTests {
  @Test func aNameServerThatDoesNotAnswerCostsOneThreadAndNoMoreThanTheTime() throws {
    let asked = Atomic(0)
    let isReleased = Atomic(false)
    let lookup: @Sendable (String, Int) -> HostLookup.Outcome = { _, _ in
      asked.wrappingAdd(1, ordering: .relaxed)
      while !isReleased.load(ordering: .relaxed) { usleep(2_000) }
      return .found([HostLookup.Address(family: AF_INET, bytes: [1])])
    }
    for _ in 0..<5 {
      #expect(
        HostLookup.find("slow.example", port: 1, milliseconds: 60, isInterrupted: { false }, lookup: lookup) == .late)
    }
    #expect(
      HostLookup.find("slow.example", port: 1, milliseconds: 60_000, isInterrupted: { true }, lookup: lookup)
        == .interrupted)
    try waitUntil("it is asked") { asked.load(ordering: .relaxed) > 0 }
    #expect(asked.load(ordering: .relaxed) == 1)
    // Another name is not held up by it, and an address needs no lookup at all.
    #expect(
      HostLookup.find(
        "other.example", port: 1, milliseconds: 10_000, isInterrupted: { false }, lookup: { _, _ in .none("why") })
        == .none("why"))
    guard
      case .found(let addresses) = HostLookup.find(
        "127.0.0.1", port: 80, milliseconds: 0, isInterrupted: { false }, lookup: lookup)
    else { throw FixtureError("an address was not found") }
    #expect(addresses.count == 1 && addresses[0].family == AF_INET && addresses[0].bytes.count == 16)
    isReleased.store(true, ordering: .relaxed)
    try waitUntil("the answer comes") {
      HostLookup.find("slow.example", port: 1, milliseconds: 60, isInterrupted: { false }, lookup: lookup)
        == .found([HostLookup.Address(family: AF_INET, bytes: [1])])
    }
  }

  @Test func aNameThatDoesNotExistIsSaid() {
    let error = failure { () throws(RedisError) in
      _ = try RedisConnection(url: try! RedisURL(parsing: "redis://no-such-host.invalid:6379"))
    }
    #expect(error?.description.contains("no address for the host") == true, "\(String(describing: error))")
  }
}

@Suite(.serialized) struct RedisSentinelTests {
  private static let options = RedisOptions(connectTimeoutMilliseconds: 2_000, commandTimeoutMilliseconds: 3_000)

  private func port(_ connection: RedisConnection) throws -> Int {
    guard case .tcp(_, let port) = connection.server.place else { throw FixtureError("it leads to no port") }
    return port
  }

  /// Sets a key through the client as soon as that goes well.
  private func write(_ client: RedisClient, _ value: String) async throws {
    try await waitUntil("\(value) is written", withinMilliseconds: 120_000) {
      do throws(RedisError) {
        _ = try await client.run(raw("SET", "value", value, mayRepeat: true))
        return true
      } catch {
        return false
      }
    }
  }

  @Test func theMasterIsFoundAlsoWhenTheFirstSentinelsAreDead() throws {
    let fixture = try SentinelFixture()
    let connection = try RedisConnection(url: fixture.url)
    #expect(try port(connection) == fixture.first.port)
    #expect(try connection.run(raw("SET", "a", "1")) == .status("OK"))
    #expect(connection.process?.count == 40)
    // One is dead and one hangs: the third one tells, within the time of one connect.
    fixture.sentinels[0].kill()
    fixture.sentinels[1].freeze()
    #expect(try port(RedisConnection(url: fixture.url, options: Self.options)) == fixture.first.port)
    fixture.sentinels[1].thaw()
    var url = fixture.url
    guard case .sentinel(var sentinels) = url.place else { throw FixtureError("no sentinels") }
    sentinels.master = "another"
    url.place = .sentinel(sentinels)
    let error = failure { () throws(RedisError) in _ = try RedisConnection(url: url, options: Self.options) }
    #expect(error?.description.contains("knows no master \"another\"") == true, "\(String(describing: error))")
  }

  @Test func aKilledMasterIsFollowedByItsReplica() async throws {
    let fixture = try SentinelFixture()
    let client = try RedisClient(url: fixture.url, options: Self.options)
    try await write(client, "one")
    try await waitUntil("the replica has it") { () async throws in
      try fixture.second.command("GET", "value").text == "one"
    }
    fixture.first.kill()
    try await write(client, "two")
    #expect(try fixture.second.command("GET", "value").text == "two")
    await client.shutdown()
  }

  @Test func aMasterThatHangsIsLeftWhenTheSentinelsSaySo() async throws {
    let fixture = try SentinelFixture()
    // A command's own limit is far away: it is the sentinels' word that ends the wait.
    let client = try RedisClient(
      url: fixture.url, options: RedisOptions(connectTimeoutMilliseconds: 2_000, commandTimeoutMilliseconds: 120_000),
      threads: 1)
    try await write(client, "one")
    let url = fixture.url
    let listens = Atomic(false)
    let waits = TestThread { () -> Bool in
      let listener = try RedisConnection(url: url)
      try listener.subscribe(["channel"])
      listens.store(true, ordering: .relaxed)
      do {
        _ = try listener.nextMessage(timeoutMilliseconds: 120_000)
        return false
      } catch {
        return true
      }
    }
    try await waitUntil("it listens") { () async in listens.load(ordering: .relaxed) }
    fixture.first.freeze()
    try await write(client, "two")
    #expect(try fixture.second.command("GET", "value").text == "two")
    #expect(try waits.join(), "a connection that only listens is ended too")
    // The old master comes back, is made a replica, and nobody writes to it.
    fixture.first.thaw()
    try await waitUntil("it is a replica", withinMilliseconds: 120_000) { () async throws in
      // Whoever makes it one ends the connections to it.
      (try? fixture.first.command("INFO", "replication"))?.text?.contains("role:slave") ?? false
    }
    try await write(client, "three")
    #expect(try fixture.second.command("GET", "value").text == "three")
    await client.shutdown()
  }

  @Test func aMasterThatBecameAReplicaIsLeftAtItsFirstRefusal() throws {
    let fixture = try SentinelFixture()
    // By its address, as a URL without sentinels has it.
    let connection = try RedisConnection(url: fixture.first.tcpURL)
    try fixture.second.command("REPLICAOF", "NO", "ONE")
    try fixture.first.command("REPLICAOF", "127.0.0.1", String(fixture.second.port))
    let error = failure { () throws(RedisError) in try connection.run(raw("SET", "a", "1")) }
    #expect(error?.isUnavailable == true, "\(String(describing: error))")
    #expect(!connection.isOpen)
  }
}
