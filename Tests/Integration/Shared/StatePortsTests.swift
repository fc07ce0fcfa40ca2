// The port allocator against a real Redis: one port for one owner, the longest-unused first, nothing lost.
import Redis
import Routing
import State
import TestSupport
import Testing

@Suite struct StatePortsTests {
  let redis: RedisFixture
  let connection: RedisConnection
  let ports = Ports(keys: Keys(), host: "host-1")
  let now = 1_700_000_000_000

  init() throws {
    redis = try RedisFixture()
    connection = try redis.connect()
    try connection.run(ports.configure(range: 50_000...50_003, now: now))
  }

  @Test func portsAreHandedOutInOrderUntilNoneIsLeft() throws {
    for expected in 50_000...50_003 {
      #expect(try connection.run(ports.allocate(owner: "i-\(expected)", now: now)) == expected)
    }
    #expect(try connection.run(ports.allocate(owner: "one-more", now: now)) == nil)
    #expect(try connection.run(ports.figures()) == PortFigures(free: 0, allocated: 4, quarantined: 0))
  }

  @Test func theLongestUnusedPortComesFirst() throws {
    for owner in ["a", "b", "c", "d"] { try connection.run(ports.allocate(owner: owner, now: now)) }
    #expect(try connection.run(ports.release(port: 50_002, owner: "c", now: now + 1)))
    #expect(try connection.run(ports.release(port: 50_000, owner: "a", now: now + 2)))
    #expect(try connection.run(ports.allocate(owner: "e", now: now + 3)) == 50_002)
    #expect(try connection.run(ports.allocate(owner: "f", now: now + 3)) == 50_000)
  }

  @Test func askingAgainGivesTheSamePort() throws {
    let first = try connection.run(ports.allocate(owner: "a", now: now))
    #expect(try connection.run(ports.allocate(owner: "a", now: now + 5)) == first)
    #expect(try connection.run(ports.list()) == [PortLease(port: 50_000, owner: "a", since: now + 5)])
    #expect(try connection.run(ports.figures()) == PortFigures(free: 3, allocated: 1, quarantined: 0))
  }

  @Test func onlyTheOwnerReleasesRenewsAndQuarantines() throws {
    try connection.run(ports.allocate(owner: "a", now: now))
    #expect(try !connection.run(ports.release(port: 50_000, owner: "b", now: now)))
    #expect(try !connection.run(ports.renew(port: 50_000, owner: "b", now: now)))
    #expect(try !connection.run(ports.quarantine(port: 50_000, owner: "b", until: now + 10, now: now)))
    #expect(try !connection.run(ports.release(port: 50_001, owner: "a", now: now)))
    #expect(try connection.run(ports.renew(port: 50_000, owner: "a", now: now + 7)))
    #expect(try connection.run(ports.list()) == [PortLease(port: 50_000, owner: "a", since: now + 7)])
    #expect(try connection.run(ports.release(port: 50_000, owner: "a", now: now)))
    #expect(try !connection.run(ports.release(port: 50_000, owner: "a", now: now)))
    #expect(try connection.run(ports.figures()) == PortFigures(free: 4, allocated: 0, quarantined: 0))
  }

  @Test func aQuarantinedPortComesBackAfterItsTime() throws {
    try connection.run(ports.allocate(owner: "a", now: now))
    #expect(try connection.run(ports.quarantine(port: 50_000, owner: "a", until: now + 60_000, now: now)))
    #expect(try connection.run(ports.figures()) == PortFigures(free: 3, allocated: 0, quarantined: 1))
    // The owner may try another port, and saying the range again does not bring the quarantined one back.
    try connection.run(ports.configure(range: 50_000...50_003, now: now))
    for owner in ["a", "b", "c"] {
      #expect(try connection.run(ports.allocate(owner: owner, now: now + 59_999)) != 50_000)
    }
    #expect(try connection.run(ports.allocate(owner: "d", now: now + 59_999)) == nil)
    #expect(try connection.run(ports.allocate(owner: "d", now: now + 60_000)) == 50_000)
  }

  @Test func adoptingTakesThisPortFromWhereverItIs() throws {
    #expect(try connection.run(ports.adopt(port: 50_002, owner: "found", now: now)))
    #expect(try connection.run(ports.adopt(port: 50_002, owner: "found", now: now)))
    #expect(try !connection.run(ports.adopt(port: 50_002, owner: "other", now: now)))
    #expect(try connection.run(ports.figures()) == PortFigures(free: 3, allocated: 1, quarantined: 0))

    // Outside the range: it is in use all the same, and forgotten when it comes back.
    #expect(try connection.run(ports.adopt(port: 40_000, owner: "outside", now: now)))
    #expect(try connection.run(ports.release(port: 40_000, owner: "outside", now: now)))
    #expect(try connection.run(ports.figures()) == PortFigures(free: 3, allocated: 1, quarantined: 0))

    // Out of quarantine; and the port that an owner had before goes back.
    try connection.run(ports.allocate(owner: "q", now: now))
    try connection.run(ports.quarantine(port: 50_000, owner: "q", until: now + 10, now: now))
    #expect(try connection.run(ports.adopt(port: 50_000, owner: "squatter", now: now)))
    #expect(try connection.run(ports.adopt(port: 50_003, owner: "squatter", now: now)))
    #expect(try connection.run(ports.list()).map(\.port) == [50_002, 50_003])
    #expect(try connection.run(ports.figures()) == PortFigures(free: 2, allocated: 2, quarantined: 0))
  }

  @Test func adoptingBeforeTheRangeIsKnownKeepsThePortOutOfIt() throws {
    try redis.flush()
    #expect(try connection.run(ports.adopt(port: 50_001, owner: "found", now: now)))
    try connection.run(ports.configure(range: 50_000...50_003, now: now))
    #expect(try connection.run(ports.figures()) == PortFigures(free: 3, allocated: 1, quarantined: 0))
  }

  @Test func anotherRangeKeepsWhatIsTaken() throws {
    for owner in ["a", "b"] { try connection.run(ports.allocate(owner: owner, now: now)) }
    try connection.run(ports.configure(range: 50_001...50_005, now: now))
    #expect(try connection.run(ports.figures()) == PortFigures(free: 4, allocated: 2, quarantined: 0))
    // 50000 is outside now; 50001 comes back.
    #expect(try connection.run(ports.release(port: 50_000, owner: "a", now: now)))
    #expect(try connection.run(ports.release(port: 50_001, owner: "b", now: now)))
    #expect(try connection.run(ports.figures()) == PortFigures(free: 5, allocated: 0, quarantined: 0))
  }

  @Test func reclaimFreesWhatUnknownOwnersTookLongAgo() throws {
    try connection.run(ports.allocate(owner: "lives", now: now))
    try connection.run(ports.allocate(owner: "dead", now: now))
    try connection.run(ports.allocate(owner: "young", now: now + 100))
    let freed = try connection.run(ports.reclaim(keeping: ["lives"], olderThan: now + 100, now: now + 200))
    #expect(freed == [PortLease(port: 50_001, owner: "dead", since: now)])
    #expect(try connection.run(ports.list()).map(\.owner) == ["lives", "young"])
    #expect(try connection.run(ports.allocate(owner: "dead", now: now + 300)) == 50_003)
  }

  @Test func hostsHaveRangesOfTheirOwn() throws {
    let other = Ports(keys: Keys(), host: "host-2")
    try connection.run(other.configure(range: 50_000...50_000, now: now))
    #expect(try connection.run(other.allocate(owner: "a", now: now)) == 50_000)
    #expect(try connection.run(ports.allocate(owner: "a", now: now)) == 50_000)
  }

  @Test func nothingButTheRangeRemainsWhenAllIsReleased() throws {
    for owner in ["a", "b"] { try connection.run(ports.allocate(owner: owner, now: now)) }
    for lease in try connection.run(ports.list()) {
      try connection.run(ports.release(port: lease.port, owner: lease.owner, now: now))
    }
    #expect(try redis.keyspace() == ["berth:ports:host-1:free (zset)", "berth:ports:host-1:range (string)"])
  }
}
