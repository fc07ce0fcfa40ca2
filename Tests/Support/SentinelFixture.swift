// A real Redis with a replica and three sentinels that watch them, all on loopback.
package import Redis
import State

package final class SentinelFixture: Sendable {
  package static let masterName = "berth-test"
  package let first: RedisFixture
  package let second: RedisFixture
  package let sentinels: [RedisFixture]

  /// - Parameter downAfterMilliseconds: of silence, after which a sentinel takes the master for dead.
  package init(downAfterMilliseconds: Int = 1_000) throws {
    // Without the delay a replica that has just connected would be waited for in vain.
    let options = ["--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"]
    first = try RedisFixture(arguments: options)
    second = try RedisFixture(arguments: options + ["--replicaof", "127.0.0.1 \(first.port)"])
    let (first, second) = (first, second)
    try waitUntil("the replica follows", withinMilliseconds: 120_000) {
      try second.command("INFO", "replication").text?.contains("master_link_status:up") ?? false
    }
    var sentinels: [RedisFixture] = []
    for _ in 0..<3 {
      sentinels.append(
        try RedisFixture(sentinel: [
          "sentinel monitor \(Self.masterName) 127.0.0.1 \(first.port) 2",
          "sentinel down-after-milliseconds \(Self.masterName) \(downAfterMilliseconds)",
          "sentinel failover-timeout \(Self.masterName) 5000",
        ]))
    }
    self.sentinels = sentinels
    let all = sentinels
    // They find each other by messages of every two seconds, and the replica by a question of every ten.
    try waitUntil("the sentinels know each other and the replica", withinMilliseconds: 120_000) {
      try all.allSatisfy { sentinel in
        let connection = try RedisConnection(url: sentinel.tcpURL)
        let words = try connection.run(
          Command(.words(["SENTINEL", "MASTER", Self.masterName])) { (reply: Reply) throws(StateError) in
            try reply.strings(of: "SENTINEL")
          })
        func field(_ name: String) -> String? { words.firstIndex(of: name).map { words[$0 + 1] } }
        return field("num-other-sentinels") == "2" && field("num-slaves") == "1"
      }
    }
  }

  package var url: RedisURL {
    let hosts = sentinels.map { "127.0.0.1:\($0.port)" }.joined(separator: ",")
    do { return try RedisURL(parsing: "redis+sentinel://\(hosts)/\(Self.masterName)") } catch { fatalError("\(error)") }
  }

  /// The server that is a master by its own word; of two, the one that the sentinels name.
  package func master() throws -> RedisFixture {
    let connection = try RedisConnection(url: url)
    guard case .tcp(_, let port) = connection.server.place else { throw FixtureError("no master") }
    return port == first.port ? first : second
  }
}
