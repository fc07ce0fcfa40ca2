// The parts of RouteFeed that need no Redis: the counting of sockets against a model, the mailbox, the routes file.
import Glibc
import Observability
import ProxyMachine
import Redis
import RouteFiles
import Routing
import State
import TestSupport
import Testing

@testable import RouteFeed

@Suite("Route feed: pieces")
struct RouteFeedPieceTests {
  private func record(_ id: String) -> SessionRecord {
    SessionRecord(id: id, pool: "p", origin: .rest, instance: "i-\(id)", createdAt: 0, expiresAt: 1)
  }

  @Test("grants, releases and cancels in any order: a session is let go of exactly with its last socket")
  func holdings() {
    var random = SplitMix64(seed: SplitMix64.printedSeed(for: "holdings"))
    var holdings = Holdings()
    /// What workers know: sockets, and answers that are still on their way.
    var live: [String: Int] = [:]
    var inFlight: [(key: TicketKey, session: String)] = []
    var ticket: UInt64 = 0
    for _ in 0..<20_000 {
      let session = "s\(Int.random(in: 0..<4, using: &random))"
      switch Int.random(in: 0..<10, using: &random) {
      case 0..<4:
        ticket += 1
        let key = TicketKey(worker: Int(ticket % 3), ticket: ticket)
        holdings.grant(record(session), to: key)
        live[session, default: 0] += 1
        inFlight.append((key, session))
        // A worker takes up its answers soon.
        if inFlight.count > 20 { inFlight.removeFirst(10) }
      case 4..<7:
        let taken = live[session, default: 0] - inFlight.count { $0.session == session }
        guard taken > 0 else { continue }
        live[session]! -= 1
        let wasLast = holdings.release(session)
        #expect(wasLast == (live[session] == 0))
      case 7..<9:
        guard let index = inFlight.indices.randomElement(using: &random) else { continue }
        let (key, cancelled) = inFlight.remove(at: index)
        live[cancelled]! -= 1
        let result = holdings.cancel(key)
        #expect(result?.session == cancelled && result?.wasLast == (live[cancelled] == 0))
      default:
        guard Int.random(in: 0..<20, using: &random) == 0 else { continue }
        let wasHeld = holdings.end(session)
        #expect(wasHeld == (live[session, default: 0] > 0))
        // What still comes for it means nothing.
        for entry in inFlight where entry.session == session {
          let result = holdings.cancel(entry.key)
          #expect(result == nil)
        }
        inFlight.removeAll { $0.session == session }
        live[session] = nil
        let wasLast = holdings.release(session)
        #expect(!wasLast)
      }
      #expect(holdings.sessions == live.filter { $0.value > 0 }.keys.sorted())
    }
    #expect(holdings.count == live.count { $0.value > 0 })
  }

  @Test("a session whose sockets come and go for ever is counted right, in bounded room")
  func longLife() {
    var holdings = Holdings()
    holdings.grant(record("s"), to: TicketKey(worker: 0, ticket: 0))
    for ticket in 1...5_000 {
      holdings.grant(record("s"), to: TicketKey(worker: 0, ticket: UInt64(ticket)))
      let wasLast = holdings.release("s")
      #expect(!wasLast)
    }
    #expect(holdings.session(on: "i-s")?.id == "s" && holdings.session(on: "other") == nil)
    let forgotten = holdings.cancel(TicketKey(worker: 0, ticket: 1))
    #expect(forgotten == nil)
    let wasLast = holdings.release("s")
    #expect(wasLast)
    #expect(holdings.count == 0)
  }

  @Test("a full mailbox refuses requests, never notices; activity is told once")
  func mailbox() {
    let mailbox = Mailbox(limit: 2)
    func request(_ ticket: UInt64) -> SlotRequest { SlotRequest(kind: .look(session: "s"), ticket: ticket, worker: 0) }
    #expect(mailbox.put(request(1)) && mailbox.put(request(2)) && !mailbox.put(request(3)))
    for _ in 0..<5 {
      mailbox.put(.release(session: "s"))
      mailbox.put(.activity(session: "a"))
    }
    mailbox.wake(pool: "p")
    mailbox.wake(pool: "p")
    let batch = mailbox.take(waitingMilliseconds: 0)
    #expect(batch.errands.count == 7 && batch.active == ["a"] && batch.wakes == ["p"] && !batch.stopping)
    #expect(mailbox.put(request(4)))
    mailbox.stop()
    #expect(!mailbox.put(request(5)))
    #expect(mailbox.take(waitingMilliseconds: 60_000).stopping)
    #expect(mailbox.take(waitingMilliseconds: 60_000).stopping)
  }

  @Test("what Redis does not know any more is over only when the feed knows the whole history, and still does")
  func reattached() throws {
    let log = LogWriter(fileDescriptor: unsafe open("/dev/null", O_WRONLY | O_CLOEXEC))
    let core = try CoordinatorCore(
      url: RedisURL(parsing: "unix:/nonexistent"), options: RedisOptions(), keys: Keys(), replica: "r1", log: log,
      mailboxLimit: 1, retryMilliseconds: 1_000, jobRetryMilliseconds: 50, figures: { [:] },
      traffic: { TrafficReport() })
    let desk = CommandDesk(core)
    desk.holdings.grant(record("s"), to: TicketKey(worker: 0, ticket: 1))
    core.distrust()
    for losses in [nil, core.losses - 1] {
      #expect(desk.answered(desk.reattach("s", losses: losses), .grant(.unknown)).isEmpty)
      #expect(desk.holdings.isHeld("s"))
    }
    // Next it is asked why, and the workers are told.
    #expect(desk.answered(desk.reattach("s", losses: core.losses), .grant(.unknown)).count == 1)
    #expect(!desk.holdings.isHeld("s"))
  }

  @Test("stream ids are compared as numbers")
  func streamIDs() {
    #expect(FeedQueries.isOlder("9-0", than: "10-0") && FeedQueries.isOlder("10-9", than: "10-10"))
    #expect(!FeedQueries.isOlder("10-10", than: "10-10") && !FeedQueries.isOlder("10-0", than: "9-99"))
  }

  // MARK: The routes file

  static let good = #"""
    {"pools": {"web": {"kind": "http", "slots": 0}, "chrome": {"kind": "cdp", "slots": 1}},
     "routes": {"all": {"path": "/", "pool": "web"}},
     "instances": {"web-1": {"pool": "web", "host": "127.0.0.1", "port": 9000},
                   "chrome-1": {"pool": "chrome", "host": "127.0.0.1", "port": 9222, "browser": "guid", "slots": 1}}}
    """#

  @Test("a routes file gives a table; sessions need Redis")
  func file() throws {
    let file = RoutesFile(Self.good)
    let coordinator = try FileCoordinator(path: file.path)
    let worker = FeedWorker()
    coordinator.start(inboxes: [worker])
    #expect(worker.table?.instances.map(\.id) == ["chrome-1", "web-1"])
    #expect(worker.table?.routes.map(\.pool) == ["web"])
    for (index, (kind, refusal)) in [
      (SlotRequest.Kind.acquire(pool: "chrome", reserve: false, countsAsUse: true), SlotRefusal.unavailable),
      (.claim(browser: "guid"), .unavailable), (.claim(browser: "other"), .unknown),
      (.acquire(pool: "web", reserve: false, countsAsUse: true), .unknown), (.attach(session: "s"), .unknown),
      (.look(session: "s"), .unknown), (.target(id: "t"), .unknown),
    ].enumerated() {
      coordinator.submit(SlotRequest(kind: kind, ticket: UInt64(index), worker: 0))
      #expect(try worker.refused(UInt64(index)) == refusal)
    }
    coordinator.notify(.release(session: "s"))
    #expect(coordinator.counters.requests == 7 && coordinator.counters.unavailable == 2)

    file.write(#"{"routes": {}}"#)
    try coordinator.reload()
    #expect(worker.table?.instances.isEmpty == true && coordinator.table?.pools.isEmpty == true)
    file.write("{")
    #expect(throws: RouteFileError.self) { try coordinator.reload() }
    #expect(coordinator.table?.pools.isEmpty == true)
    #expect(coordinator.stop(timeoutMilliseconds: 10_000))
  }

  @Test(
    "a mistake in a routes file is named with its place",
    arguments: [
      ("{\n \"pools\": x}", ":2: unexpected character, a value was expected (column 11)"),
      (#"{"pols": {}}"#, ":1: pols: there is no such setting; known are health, instances, keys, pools, routes"),
    ])
  func mistakes(text: String, message: String) throws {
    let file = RoutesFile(text)
    #expect { try FileCoordinator(path: file.path) } throws: { "\($0)" == "\(file.path)\(message)" }
  }

  @Test("a file that is not there is named")
  func missing() {
    #expect { try FileCoordinator(path: "/nonexistent/routes.json") } throws: {
      "\($0)" == "/nonexistent/routes.json: No such file or directory"
    }
  }
}
