// Requests for browsers with options against a real Redis: who waits, who is told what, and that such a browser is
// nobody else's.
import JSON
import Redis
import Routing
import State
import TestSupport
import Testing

@Suite struct StateLaunchesTests {
  private let world: World
  private let launches: Launches
  private var options = LaunchOptions()

  init() throws {
    world = try World(pools: [World.pool(queueLimit: 2)])
    launches = Launches(keys: world.keys)
    options.locale = "de"
    options.arguments = ["--x=\"/\\ü{id}"]
  }

  private func ask(_ session: String, pool: String = "chrome") throws -> LaunchState {
    try world.connection.run(launches.ask(session: session, pool: pool, options: options, now: world.now))
  }
  private func pending() throws -> [LaunchRequest] { try world.connection.run(launches.pending(pool: "chrome")) }
  private func tailored(_ id: String, for session: String, state: InstanceState = .ready) -> InstanceRecord {
    var record = world.instance(id, state: state)
    record.session = session
    return record
  }

  @Test func theFirstIsTheFirstAndTheOptionsComeThrough() throws {
    #expect(try ask("a") == .waiting(position: 1))
    #expect(try ask("b") == .waiting(position: 2))
    #expect(try ask("a") == .waiting(position: 1))
    #expect(try ask("c") == .full(waiting: 2))
    #expect(try ask("a", pool: "nobody") == .unknown)
    #expect(
      try pending() == [
        LaunchRequest(session: "a", options: options), LaunchRequest(session: "b", options: options),
      ])
    try world.connection.run(launches.withdraw(session: "a", pool: "chrome"))
    #expect(try ask("c") == .waiting(position: 2))
    #expect(try pending().map(\.session) == ["b", "c"])
    for session in ["b", "c"] { try world.connection.run(launches.withdraw(session: session, pool: "chrome")) }
    #expect(try world.remains() == [])
  }

  @Test func aClientThatIsNotHeardOfIsForgotten() throws {
    _ = try ask("a")
    _ = try ask("b")
    guard case .int(let left) = try world.redis.command("PTTL", world.keys.launch(session: "a")) else {
      throw FixtureError("no time to live")
    }
    #expect((1...5_000).contains(left))
    // As when the time is over.
    try world.redis.command("DEL", world.keys.launch(session: "a"))
    #expect(try ask("c") == .waiting(position: 2))
    #expect(try pending().map(\.session) == ["b", "c"])
    try world.declare([])
    #expect(try !world.redis.keyspace().contains { $0.contains(":launches") })
  }

  @Test func anInstanceThatIsReadyIsItsSessionsAlone() throws {
    _ = try ask("a")
    try world.put(tailored("c-1", for: "a", state: .starting))
    #expect(try ask("a") == .waiting(position: 1))
    try world.put(tailored("c-1", for: "a"))
    #expect(try ask("a") == .ready(instance: "c-1"))
    #expect(try world.figures().freeSlots == [:])
    for wanted in [nil, "c-1"] {
      #expect(try world.acquire("b", instance: wanted).isGranted == false)
      #expect(try world.acquire("b", instance: wanted, queue: true).isGranted == false)
    }
    #expect(try world.claim("c-1", as: "b", holder: "r-1") == .busy)
    let own = try #require(try world.acquire("a", origin: .rest, instance: "c-1").session)
    #expect(own.instance == "c-1" && own.browser == "guid-c-1")
    #expect(try world.acquire("a", origin: .rest, instance: "c-1").session == own)
    // With the session on it, a client that knows the browser's address is the session's.
    #expect(try world.claim("c-1", as: "b", holder: "r-1").session?.id == "a")
    _ = try world.end("a")
    #expect(try world.figures().freeSlots == [:])
    #expect(try world.acquire("b").isGranted == false)
  }

  @Test func anInstanceThatWentIsNotPromised() throws {
    _ = try ask("a")
    try world.put(tailored("c-1", for: "a"))
    try world.put(tailored("c-1", for: "a", state: .draining))
    #expect(try ask("a") == .waiting(position: 1))
    #expect(try world.acquire("a", instance: "c-1") == .busy)
    try world.put(tailored("c-2", for: "a"))
    #expect(try ask("a") == .ready(instance: "c-2"))
    try world.remove("c-2")
    #expect(try ask("a") == .waiting(position: 1))
    #expect(try world.acquire("a", instance: "c-2") == .unknown)
  }

  @Test func aFailureIsTold() throws {
    _ = try ask("a")
    try world.connection.run(launches.fail(session: "a", pool: "chrome", reason: "no such snapshot"))
    #expect(try ask("a") == .failed(reason: "no such snapshot"))
    #expect(try pending() == [LaunchRequest(session: "a", options: options, hasFailed: true)])
    // Of one that has gone meanwhile nothing is left.
    try world.connection.run(launches.withdraw(session: "a", pool: "chrome"))
    try world.connection.run(launches.fail(session: "a", pool: "chrome", reason: "late"))
    #expect(try world.remains() == [])
  }
}
