// Job affinity over replicas: a job that one replica saw being made is found by all others. Coordinators against one
// real Redis.
import ProxyMachine
import Redis
import Routing
import State
import TestSupport
import Testing

@testable import RouteFeed

@Suite("Route feed: jobs") struct RouteFeedJobTests {
  private let pools = [World.pool(), World.pool("web", slots: 0)]

  @Test("a job made at one replica is found at another, in its own pool only")
  func found() throws {
    let deployment = try FeedDeployment(pools: pools)
    let replicas = try ["r1", "r2"].map { try FeedReplica($0, url: deployment.redis.unixURL) }
    for replica in replicas { try replica.routes("a") }
    replicas[0].made("0198f2c4-7a1e", by: "web-1")
    // At the same replica it is known at once, as everything is done in order.
    #expect(try replicas[0].worker.owner(replicas[0].find("0198f2c4-7a1e")) == .instance("web-1"))
    #expect(try replicas[1].worker.owner(replicas[1].find("0198f2c4-7a1e")) == .instance("web-1"))
    let elsewhere = replicas[1].find("0198f2c4-7a1e", pool: "chrome")
    #expect(try replicas[1].worker.owner(elsewhere) == .unknown)
    let life = try deployment.redis.command("PTTL", "berth:job:web:0198f2c4-7a1e").int(of: "PTTL")
    #expect((Jobs.lifeMilliseconds - 600_000...Jobs.lifeMilliseconds).contains(life))
    // Said again, by whoever: the last word holds.
    replicas[1].made("0198f2c4-7a1e", by: "web-2")
    #expect(try replicas[1].worker.owner(replicas[1].find("0198f2c4-7a1e")) == .instance("web-2"))
    #expect(replicas[1].coordinator.counters.jobsFound == 2 && replicas[1].coordinator.counters.jobsUnknown == 1)
  }

  @Test("who asks before the job was told gets it all the same")
  func early() throws {
    let deployment = try FeedDeployment(pools: pools)
    let one = try FeedReplica("r1", url: deployment.redis.unixURL)
    let two = try FeedReplica("r2", url: deployment.redis.unixURL, jobRetryMilliseconds: 3_000)
    for replica in [one, two] { try replica.routes("a") }
    let ticket = two.find("early")
    try waitUntil("Redis did not know it") { two.coordinator.counters.jobsAskedAgain == 1 }
    #expect(two.worker.owners(ticket).isEmpty)
    one.made("early", by: "web-1")
    #expect(try two.worker.owner(ticket) == .instance("web-1"))
    #expect(two.worker.owners(ticket).count == 1)
  }

  @Test("a job that nobody knows is unknown, and an id that cannot be one is neither asked for nor kept")
  func unknown() throws {
    let deployment = try FeedDeployment(pools: pools)
    let replica = try FeedReplica("r1", url: deployment.redis.unixURL)
    try replica.routes("a")
    #expect(try replica.worker.owner(replica.find("nobody")) == .unknown)
    let counters = replica.coordinator.counters
    #expect(counters.jobsAskedAgain == 1 && counters.jobsUnknown == 1)
    let wrong = ["", "a:b", "a/b", "a b", "é", String(repeating: "x", count: 65), "a\r\nb"]
    for id in wrong {
      replica.made(id, by: "web-1")
      #expect(try replica.worker.owner(replica.find(id)) == .unknown, "\(id)")
    }
    #expect(replica.coordinator.counters.jobsAskedAgain == 1 && replica.coordinator.counters.jobsDropped == wrong.count)
    let longest = String(repeating: "x", count: 64)
    replica.made(longest, by: "web-1")
    #expect(try replica.worker.owner(replica.find(longest)) == .instance("web-1"))
    #expect(try deployment.redis.keyspace().filter { $0.contains(":job:") } == ["berth:job:web:\(longest) (string)"])
  }

  @Test("without Redis nobody can say, and what was made meanwhile is told later")
  func withoutRedis() throws {
    let deployment = try FeedDeployment(pools: pools)
    let relay = try FeedRelay(deployment.redis)
    defer { relay.close() }
    let cut = try FeedReplica("r1", url: relay.url)
    let other = try FeedReplica("r2", url: deployment.redis.unixURL)
    for replica in [cut, other] { try replica.routes("a") }
    other.made("before", by: "web-1")
    #expect(try other.worker.owner(other.find("before")) == .instance("web-1"))
    relay.cut()
    #expect(try cut.worker.owner(cut.find("before")) == .unavailable)
    cut.made("meanwhile", by: "web-2")
    #expect(try cut.worker.owner(cut.find("meanwhile")) == .instance("web-2"))
    #expect(try other.worker.owner(other.find("meanwhile")) == .unknown)
    relay.mend()
    try waitUntil("it is told") { try other.worker.owner(other.find("meanwhile")) == .instance("web-2") }
    try waitUntil("and asked") { try cut.worker.owner(cut.find("before")) == .instance("web-1") }
    #expect(cut.coordinator.counters.jobsUnavailable >= 1 && cut.coordinator.counters.jobsDropped == 0)
  }

  @Test("no more than so many jobs are kept for later")
  func owed() throws {
    let deployment = try FeedDeployment(pools: pools)
    let relay = try FeedRelay(deployment.redis)
    defer { relay.close() }
    let replica = try FeedReplica("r1", url: relay.url)
    try replica.routes("a")
    relay.cut()
    for number in 0..<CommandDesk.owedJobsLimit + 7 { replica.made("job-\(number)", by: "web-1") }
    try waitUntil("seven were dropped") { replica.coordinator.counters.jobsDropped == 7 }
    relay.mend()
    // Only jobs: a replica's own keys come and go meanwhile.
    let count = "return #redis.call('KEYS', 'berth:job:*')"
    try waitUntil("Redis is told of the others") {
      try deployment.redis.command("EVAL", count, "0").int(of: "EVAL") == CommandDesk.owedJobsLimit
    }
    #expect(replica.coordinator.counters.jobsDropped == 7)
  }

  @Test("a question that was taken back is not answered, and the end answers the others")
  func cancelled() throws {
    let deployment = try FeedDeployment(pools: pools)
    let replica = try FeedReplica("r1", url: deployment.redis.unixURL, jobRetryMilliseconds: 600_000)
    try replica.routes("a")
    let (first, second) = (replica.find("x"), replica.find("y"))
    try waitUntil("both are to be asked again") { replica.coordinator.counters.jobsAskedAgain == 2 }
    replica.cancel(first)
    #expect(replica.coordinator.stop(timeoutMilliseconds: 5_000))
    #expect(replica.worker.owners(second) == [.unavailable])
    #expect(replica.worker.owners(first).isEmpty)
  }

  @Test("new jobs do not fill the mailbox of a coordinator that hangs")
  func mailbox() {
    let mailbox = Mailbox(limit: 2)
    let jobs = (0..<4).map { mailbox.put(.job(id: "\($0)", pool: "web", instance: "web-1")) }
    #expect(jobs == [true, true, false, false])
    #expect(mailbox.put(.release(session: "s")))
    #expect(mailbox.take(waitingMilliseconds: 0).errands.count == 3)
    #expect(mailbox.put(.job(id: "4", pool: "web", instance: "web-1")))
  }
}
