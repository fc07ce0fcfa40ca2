// Where the master is, by the word of Redis Sentinel: the sentinels are asked one after the other for its address, and
// whoever connects there checks by ROLE that it is one (RedisConnection). As redis.io describes it for clients.
import State
import Synchronization

enum SentinelLookup {
  /// For one sentinel; with several that do not answer, the whole connect's time is divided among them.
  private static let mostMilliseconds = 500
  private static let leastMilliseconds = 100

  /// The sentinel to begin with, by URL: the one that answered last.
  private static let first = Mutex<[String: Int]>([:])

  /// The URL itself, or that of the master that the sentinels name.
  static func server(
    of url: RedisURL, interrupter: RedisInterrupter, _ deadline: Deadline
  ) throws(RedisError) -> RedisURL {
    guard case .sentinel(let sentinels) = url.place else { return url }
    let count = sentinels.addresses.count
    let start = first.withLock { $0[url.description] ?? 0 }
    var problems: [String] = []
    for offset in 0..<count {
      let index = (start + offset) % count
      let share = deadline.remainingMilliseconds / (count - offset + 1)
      guard deadline.remainingMilliseconds > 0 else { break }
      do throws(RedisError) {
        let connection = try connect(
          to: sentinels.addresses[index], of: sentinels, tls: url.tls,
          milliseconds: max(leastMilliseconds, min(mostMilliseconds, share)), interrupter: interrupter)
        defer { connection.close() }
        if let address = try connection.run(master(sentinels.master)) {
          first.withLock { $0[url.description] = index }
          var server = url
          server.place = .tcp(host: address.host, port: address.port)
          return server
        }
        problems.append("\(connection.url) knows no master \"\(sentinels.master)\"")
      } catch {
        if error == .interrupted { throw error }
        problems.append(error.description)
      }
    }
    throw .connect("\(url): no sentinel names the master: \(problems.joined(separator: "; "))")
  }

  /// The address led nowhere, or to a replica: another sentinel may know better.
  static func wasWrong(_ url: RedisURL) {
    guard case .sentinel(let sentinels) = url.place else { return }
    first.withLock { $0[url.description] = (($0[url.description] ?? 0) + 1) % sentinels.addresses.count }
  }

  static func connect(
    to address: RedisURL.Sentinels.Address, of sentinels: RedisURL.Sentinels, tls: RedisURL.TLS?, milliseconds: Int,
    interrupter: RedisInterrupter
  ) throws(RedisError) -> RedisConnection {
    let url = RedisURL(
      host: address.host, port: address.port, tls: tls, user: sentinels.user, password: sentinels.password)
    return try RedisConnection(
      url: url,
      options: RedisOptions(connectTimeoutMilliseconds: milliseconds, commandTimeoutMilliseconds: milliseconds),
      interrupter: interrupter)
  }

  static func master(_ name: String) -> Command<RedisURL.Sentinels.Address?> {
    Command(.words(["SENTINEL", "GET-MASTER-ADDR-BY-NAME", name]), mayRepeat: true) {
      (reply: Reply) throws(StateError) -> RedisURL.Sentinels.Address? in
      if case .null = reply { return nil }
      let parts = try reply.list(of: "SENTINEL", count: 2)
      return RedisURL.Sentinels.Address(
        host: try parts[0].string(of: "SENTINEL"), port: try parts[1].int(of: "SENTINEL"))
    }
  }
}
