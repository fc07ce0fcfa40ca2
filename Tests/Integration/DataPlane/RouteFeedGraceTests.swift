// Reconnecting across replicas: two coordinators and a real Redis on the real clock. A session's slot stays its own while it
// waits for its client, through whichever replica that comes.
import ProxyMachine
import RouteFeed
import Routing
import State
import TestSupport
import Testing

@Suite("Route feed: reconnecting") struct RouteFeedGraceTests {
  private func session(_ deployment: FeedDeployment, grace: Int) -> SessionRecord {
    SessionRecord(
      id: "own", pool: "chrome", origin: .rest, createdAt: deployment.now, expiresAt: deployment.now + 600_000,
      graceMilliseconds: grace)
  }

  @Test("the same session through the other replica, and nobody in between")
  func otherReplica() throws {
    let deployment = try FeedDeployment()
    let (r1, r2) = try (
      FeedReplica("r1", url: deployment.redis.unixURL), FeedReplica("r2", url: deployment.redis.unixURL)
    )
    for replica in [r1, r2] { try replica.routes("a") }
    _ = try deployment.run(
      deployment.leases.acquire(
        session(deployment, grace: 60_000), holder: nil, reserveMilliseconds: nil, queue: false, now: deployment.now))
    for (replica, other) in [(r1, r2), (r2, r1), (r1, r2)] {
      #expect(try replica.worker.granted(replica.ask(.attach(session: "own"))).instance == "a")
      replica.release("own")
      try waitUntil("it is in its grace") { try deployment.view("own")?.state == .grace }
      // A stranger has to wait, at either replica.
      for replica in [replica, other] {
        #expect(
          try replica.worker.refused(
            replica.ask(
              .acquire(pool: "chrome", reserve: false, countsAsUse: true), queueTimeout: 1)) == .timedOut)
      }
      // The browser's own address leads to the session, too.
      #expect(try other.worker.granted(other.ask(.claim(browser: "guid-a"))).id == "own")
      other.release("own")
      try waitUntil("it is in its grace again") { try deployment.view("own")?.state == .grace }
    }
  }

  @Test("a grace that is over frees the slot for who waits")
  func expiry() throws {
    let deployment = try FeedDeployment()
    let (r1, r2) = try (
      FeedReplica("r1", url: deployment.redis.unixURL), FeedReplica("r2", url: deployment.redis.unixURL)
    )
    for replica in [r1, r2] { try replica.routes("a") }
    _ = try deployment.run(
      deployment.leases.acquire(
        session(deployment, grace: 100), holder: nil, reserveMilliseconds: nil, queue: false, now: deployment.now))
    _ = try r1.worker.granted(r1.ask(.attach(session: "own")))
    let waits = r2.acquire()
    try waitUntil("it waits") { try deployment.figures().waiting == 1 }
    r1.release("own")
    // As the leader does.
    try waitUntil("the grace is over") {
      try deployment.run(deployment.leases.endExpired(pool: "chrome", now: deployment.now, limit: 10)) == ["own"]
    }
    _ = try r2.worker.granted(waits)
    #expect(try r1.worker.refused(r1.ask(.attach(session: "own"))) == .unknown)
  }

  @Test("what is put back after a loss of data lives as long as it was prolonged, unless it was ended")
  func loss() throws {
    let deployment = try FeedDeployment(instances: ["a", "b"])
    let replica = try FeedReplica("r1", url: deployment.redis.unixURL)
    try replica.routes("a", "b")
    for id in ["long", "over"] {
      let record = SessionRecord(
        id: id, pool: "chrome", origin: .rest, createdAt: deployment.now, expiresAt: deployment.now + 60_000)
      _ = try deployment.run(
        deployment.leases.acquire(record, holder: nil, reserveMilliseconds: nil, queue: false, now: deployment.now))
      _ = try replica.worker.granted(replica.ask(.attach(session: id)))
    }
    let prolonged = try deployment.run(
      deployment.leases.keepAlive(session: "long", hardMilliseconds: 900_000, now: deployment.now))?.record
    try waitUntil("the replica knows") {
      guard case .granted(let known) = try replica.worker.answer(replica.ask(.look(session: "long"))) else {
        return false
      }
      return known == prolonged
    }
    try deployment.redis.flush()
    // Whether it comes before or after the replica puts it back.
    _ = try deployment.run(deployment.leases.end(session: "over", reason: "client", now: deployment.now))
    try waitUntil("what lives is put back") { try deployment.view("long")?.holders == ["r1"] }
    #expect(try deployment.view("long")?.record == prolonged)
    try waitUntil("the other one is over for its client") { replica.worker.reason(of: "over") != nil }
    #expect(try deployment.view("over") == nil)
    #expect(replica.worker.reason(of: "long") == nil)
  }
}
