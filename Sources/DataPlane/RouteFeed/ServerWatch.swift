// The fixed servers of a routes file at this moment: which addresses their names have, and which of them are well.
// Pure: FileCoordinator brings the lookups, the checks and the time.
import RouteFiles
import Routing

/// What is asked of one server.
struct ServerProbe: Sendable, Equatable {
  let id: String
  let host: String
  let port: Int
  /// As in the file, for the Host field.
  let name: String
  let path: String?
  /// Statuses that are well.
  let expect: [ClosedRange<Int>]
  /// Of the PROXY header that the server expects; 0 = none.
  let proxyProtocol: Int
  let timeoutMilliseconds: Int
}

struct ServerWatch: Sendable {
  /// While the number of checks that decides is not reached, the next one comes this soon: a server that fails is out
  /// about this time after it was noticed, however long the interval is.
  static let doubtMilliseconds = 1_000
  /// How often a name without any address is looked up again.
  static let missingNameMilliseconds = 2_000

  private(set) var file: RouteFile
  /// Of checks and lookups whose pool says nothing else; 0 = never.
  let intervalMilliseconds: Int
  private(set) var addresses: [String: [String]] = [:]

  private struct Health {
    let pool: String
    /// The host as the file has it.
    let name: String
    /// Where it stands in the file.
    let place: String?
    var isWell = true
    /// Checks in a row that say the contrary of `isWell`.
    var contrary = 0
    var nextCheck: Int
    var isChecking = false
  }
  private var health: [String: Health] = [:]
  /// The instances with their addresses; the file's order.
  private(set) var instances: [InstanceRecord] = []

  init(_ file: RouteFile, intervalMilliseconds: Int) {
    self.file = file
    self.intervalMilliseconds = intervalMilliseconds
  }

  // MARK: Names

  /// Hosts that are not addresses.
  var names: [String] { Set(file.instances.map(\.host).filter { !Self.isLiteral($0) }).sorted() }
  var namesWithoutAddress: [String] { names.filter { addresses[$0] == nil } }

  private static func isLiteral(_ host: String) -> Bool {
    host.contains(":")
      || (host.utf8.allSatisfy { $0 == UInt8(ascii: ".") || ($0 >= UInt8(ascii: "0") && $0 <= UInt8(ascii: "9")) }
        && host.utf8.count { $0 == UInt8(ascii: ".") } == 3)
  }

  /// Takes what was found; names without an answer keep what they had. True when the instances are others now.
  mutating func resolved(_ answers: [String: [String]], now: Int) -> Bool {
    for (name, found) in answers where !found.isEmpty { addresses[name] = found }
    return arrange(now: now)
  }

  /// A new reading of the file: what is known of names and servers that stay is kept.
  mutating func replace(_ new: RouteFile, _ answers: [String: [String]], now: Int) {
    file = new
    for (name, found) in answers where !found.isEmpty { addresses[name] = found }
    let names = Set(names)
    addresses = addresses.filter { names.contains($0.key) }
    _ = arrange(now: now)
  }

  /// Makes the instances: one for each address of a name, with the address in its id.
  private mutating func arrange(now: Int) -> Bool {
    let before = instances
    instances = []
    var kept: [String: Health] = [:]
    for declared in file.instances {
      let isLiteral = Self.isLiteral(declared.host)
      for address in isLiteral ? [declared.host] : addresses[declared.host] ?? [] {
        var instance = declared
        if !isLiteral { instance.id = "\(declared.id)@\(address)" }
        instance.host = address
        instances.append(instance)
        guard interval(of: instance.pool) > 0, instance.state == .ready else { continue }
        kept[instance.id] =
          health[instance.id]
          ?? Health(pool: declared.pool, name: declared.host, place: file.places[declared.id], nextCheck: now)
      }
    }
    health = kept
    return instances != before
  }

  // MARK: Health

  private func interval(of pool: String) -> Int {
    guard let check = file.checks[pool] else { return 0 }
    return check.intervalMilliseconds ?? intervalMilliseconds
  }

  /// When the next check is due, monotonic milliseconds; nil when there are none.
  var nextCheck: Int? { health.values.filter { !$0.isChecking }.map(\.nextCheck).min() }

  /// The checks that are due, at most so many; each must be answered by ``checked(_:problem:now:)``.
  mutating func takeDue(limit: Int, now: Int) -> [ServerProbe] {
    var probes: [ServerProbe] = []
    for instance in instances where probes.count < limit {
      guard let entry = health[instance.id], !entry.isChecking, entry.nextCheck <= now,
        let check = file.checks[instance.pool]
      else { continue }
      health[instance.id]?.isChecking = true
      probes.append(
        ServerProbe(
          id: instance.id, host: instance.host, port: instance.port, name: entry.name,
          path: check.path, expect: check.expect,
          proxyProtocol: file.pools.first { $0.name == instance.pool }?.proxyProtocol ?? 0,
          timeoutMilliseconds: check.timeoutMilliseconds))
    }
    return probes
  }

  /// Takes the outcome of a check; whether the server is well from now on when that has changed, else nil.
  mutating func checked(_ id: String, problem: String?, now: Int) -> Bool? {
    guard var entry = health[id], let check = file.checks[entry.pool] else { return nil }
    defer { health[id] = entry }
    entry.isChecking = false
    let interval = interval(of: entry.pool)
    let isWell = problem == nil
    if isWell == entry.isWell {
      entry.contrary = 0
      entry.nextCheck = now + interval
      return nil
    }
    entry.contrary += 1
    guard entry.contrary >= (isWell ? check.successes : check.failures) else {
      entry.nextCheck = now + min(interval, Self.doubtMilliseconds)
      return nil
    }
    entry.isWell = isWell
    entry.contrary = 0
    entry.nextCheck = now + interval
    return isWell
  }

  /// Where a checked server stands in the file.
  func place(of id: String) -> String? { health[id]?.place }

  var unhealthy: Int { health.values.count { !$0.isWell } }

  // MARK: The table

  var table: RoutingTable {
    RoutingTable(
      pools: file.pools, routes: file.routes,
      instances: instances.map { instance in
        var instance = instance
        if health[instance.id]?.isWell == false { instance.state = .unhealthy }
        return instance
      }, apiKeys: file.apiKeys)
  }
}
