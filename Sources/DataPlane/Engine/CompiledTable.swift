// The routing table in a worker's own flat arrays, so that a request is matched without reference counts, and the state
// that a worker keeps per instance (kept connections, counts), which outlives the table that named it first.
import Balancing
import HTTPWire
import Posix
import Routing

struct CompiledRoute: BitwiseCopyable {
  /// Without the `*` of a wildcard, whose dot it keeps.
  var host = Slice.empty
  var isWildcard = false
  /// Without a closing `/*`, which says nothing more than a prefix does.
  var path = Slice.empty
  /// There is a `*` inside the path, for one segment each.
  var hasAnySegment = false
  var pool: Int32 = -1
  var method = BalancingMethod.roundRobin
  /// For the method `hash`: of what.
  var hashSource = HashSource.client
  var hashName = Slice.empty
  /// The sticky cookie's name, and what follows its value in Set-Cookie.
  var stickyName = Slice.empty
  var stickyTail = Slice.empty
  var jobAffinity = false
  /// Some request may be bound to an instance.
  var binds: Bool { jobAffinity || !stickyName.isEmpty }
  /// Of a client, over all replicas; 0 = no limit.
  var requestsPerSecond: Int32 = 0
  var burst: Int32 = 0
  /// Of a client, at this replica; 0 = no limit.
  var connectionsPerClient: Int32 = 0
  /// Tells this route's limits from those of others.
  var limitKey: UInt64 = 0
  /// Blocks of addresses that may come, unless there are none, and that may not.
  var allowed = Slice.empty
  var denied = Slice.empty
  /// Of https://, for requests that came without TLS; 0 = they are served.
  var redirectPort: Int32 = 0
  /// Not every request goes on: one of the fields since `requestsPerSecond` is set.
  var isGuarded = false
  /// How long a request waits for a place at an instance.
  var queueMilliseconds: Int32 = 0
  /// Bytes that come off the path's start, and what stands there instead.
  var stripped: Int32 = 0
  var replacement = Slice.empty
  /// Header fields that the route takes away and adds, in the form of ``HeaderLines``.
  var requestRemoved = Slice.empty
  var requestAdded = Slice.empty
  var responseRemoved = Slice.empty
  var responseAdded = Slice.empty
  /// Of the labelled counters and the access log.
  var row = AccessRecord.noRow
  var poolRow = AccessRecord.noRow
  var isLogged = true
  var upgrades = true
  var attempts: UInt8 = 1
  var waits = RouteWaits()
  /// Of a request's body; 0 = no limit.
  var bodyBytes: UInt64 = 0
  /// Bytes a second that it has to come with; 0 = any, negative = as the engine says.
  var bodyRate: Int32 = -1
  /// A client must show a key, or a session's id.
  var needsKey = false
  /// Whether the host was named exactly, so that no name of somebody else's leads here.
  var namesHost: Bool { !host.isEmpty && !isWildcard }
}

/// What of a request decides its place on the ring.
enum HashSource: UInt8, BitwiseCopyable { case client, header, cookie }

/// A route's own limits of time in milliseconds; 0 = those of the engine.
struct RouteWaits: BitwiseCopyable {
  var connect: Int32 = 0
  var firstByte: Int32 = 0
  var body: Int32 = 0
  var tunnel: Int32 = 0
  init() {}
  init(_ route: RouteRecord) {
    connect = Int32(clamping: route.connectTimeoutMilliseconds)
    firstByte = Int32(clamping: route.firstByteTimeoutMilliseconds)
    body = Int32(clamping: route.bodyTimeoutMilliseconds)
    tunnel = Int32(clamping: route.tunnelIdleMilliseconds)
  }
}

struct CompiledPool: BitwiseCopyable {
  var kind: UInt8 = 0
  /// Clients must have a session to reach an instance.
  var needsSlot = false
  /// Of the PROXY header that instances expect; 0 = none.
  var proxyProtocol: UInt8 = 0
  /// Requests that one instance may have at a time; 0 = as many as come. How many may wait for a place.
  var maxConnections: Int32 = 0
  var queueLimit: Int32 = 0
  /// There are backups, or that limit: an instance is not chosen the plain way.
  var hasTiers = false
  /// The balancer, which outlives the table; and that of the backups, if there are some.
  var state: PoolHandle?
  var backups: PoolHandle?
  /// Index into `RoutingTable.pools` by `CompiledTable.poolNames`.
  var name: Int32 = 0
}

/// What a worker knows of one instance.
struct InstanceSlot: BitwiseCopyable {
  var address = SocketAddress()
  /// Of the instance's id (`StableHash`).
  var key: UInt64 = 0
  /// Its place in the source's list of instances, while it is in the table.
  var record: Int32 = -1
  var row = AccessRecord.noRow
  /// Kept connections, newest first: the newest is the least likely to be closed by the instance.
  var idleHead: Int32 = -1
  var idleCount: Int32 = 0
  /// Requests and tunnels under way from this worker.
  var active: Int32 = 0
  var inTable = false
  /// It is ready, so that connections are kept for further requests.
  var keepsConnections = false
  /// Its ejection has been counted.
  var wasOut = false
  var isFree = true
  var requests: UInt64 = 0
  var failures: UInt64 = 0
}

struct CompiledTable: ~Copyable {
  let source: RoutingTable
  /// Keeps the rows of this table's names.
  let lease: LabelLease
  let routes: FixedArray<CompiledRoute>
  /// What each of `routes` was made from.
  let routeRecords: [RouteRecord]
  let pools: FixedArray<CompiledPool>
  let poolNames: [String]
  /// Those that take new requests, by pool.
  let membersByPool: [[BalancerMember]]
  /// The backups of each pool.
  let backupsByPool: [[BalancerMember]]
  private let blocks: FixedArray<AddressBlock>
  /// What each of `routes` may still retry.
  let budgets: FixedArray<RetryBudget>
  private let text: FixedArray<UInt8>
  /// The keys that open routes.
  let apiKeys: FixedArray<CompiledKey>

  /// - Parameters:
  ///   - requiresKeys: routes that do not say whether they need a key do.
  ///   - place: gives every instance its place in the worker's list.
  init(_ table: RoutingTable, requiresKeys: Bool = false, lease: LabelLease, place: (InstanceRecord) -> Int32?) {
    source = table
    apiKeys = FixedArray(table.apiKeys.compactMap(CompiledKey.init))
    self.lease = lease
    poolNames = table.pools.keys.sorted()
    let indexes = Dictionary(uniqueKeysWithValues: poolNames.enumerated().map { ($1, Int32($0)) })
    var byPool = [[BalancerMember]](repeating: [], count: poolNames.count)
    var backupsByPool = byPool
    for instance in table.instances {
      guard let slot = place(instance), instance.state == .ready, let pool = indexes[instance.pool] else { continue }
      let key = StableHash.of(instance.id)
      let member = BalancerMember(place: slot, key: key, generation: instance.generation, weight: instance.weight)
      if instance.isBackup { backupsByPool[Int(pool)].append(member) } else { byPool[Int(pool)].append(member) }
    }
    var pools: [CompiledPool] = []
    for (index, name) in poolNames.enumerated() {
      let record = table.pools[name]!
      var pool = CompiledPool()
      pool.kind = record.kind.index
      pool.needsSlot = record.slots > 0
      pool.proxyProtocol = UInt8(record.proxyProtocol)
      pool.maxConnections = Int32(clamping: record.maxConnections)
      pool.queueLimit = Int32(clamping: record.queueLimit)
      pool.hasTiers = record.maxConnections > 0 || !backupsByPool[index].isEmpty
      pool.name = Int32(index)
      pools.append(pool)
    }
    var text: [UInt8] = []
    var routeRecords: [RouteRecord] = []
    var routes: [CompiledRoute] = []
    func store(_ bytes: [UInt8]) -> Slice {
      let slice = Slice(text.count, bytes.count)
      text += bytes
      return slice
    }
    func store(_ string: String) -> Slice { store(Array(string.utf8)) }
    var blocks: [AddressBlock] = []
    func store(blocks texts: [String]) -> Slice {
      let parsed = texts.compactMap { AddressBlock($0) }
      blocks += parsed
      return Slice(blocks.count - parsed.count, parsed.count)
    }
    for record in table.routes {
      guard let pool = indexes[record.pool] else { continue }
      var route = CompiledRoute()
      let host = record.host ?? ""
      route.isWildcard = HostPattern.isWildcard(host)
      route.host = store(route.isWildcard ? String(host.dropFirst()) : host)
      let path = record.path.hasSuffix("/*") ? String(record.path.dropLast(2)) : record.path
      route.path = store(path.isEmpty ? "/" : path)
      route.hasAnySegment = path.contains("*")
      route.pool = pool
      route.method = record.strategy.method
      route.hashSource = record.strategy == .headerHash ? .header : record.strategy == .cookieHash ? .cookie : .client
      let hashOn = record.hashOn ?? ""
      route.hashName = store(route.hashSource == .header ? hashOn.lowercased() : hashOn)
      if let cookie = record.stickyCookie {
        route.stickyName = store(cookie)
        let prefix = PathPattern.prefix(record.path)
        route.stickyTail = store("; Path=\(prefix.isEmpty ? "/" : prefix); HttpOnly; SameSite=Lax")
      }
      route.jobAffinity = record.jobAffinity
      route.requestsPerSecond = Int32(clamping: record.requestsPerSecond)
      route.burst = Int32(clamping: record.burst)
      route.connectionsPerClient = Int32(clamping: record.connectionsPerClient)
      route.limitKey = StableHash.of(record.id)
      route.allowed = store(blocks: record.allow)
      route.denied = store(blocks: record.deny)
      route.redirectPort = Int32(clamping: record.redirectPort ?? 0)
      route.isGuarded =
        route.requestsPerSecond > 0 || route.connectionsPerClient > 0 || !record.allow.isEmpty || !record.deny.isEmpty
        || route.redirectPort > 0
      route.queueMilliseconds = Int32(
        clamping: record.queueTimeoutMilliseconds ?? table.pools[record.pool]?.queueTimeoutMilliseconds ?? 0)
      if record.stripPrefix || record.replacePrefix != nil {
        route.stripped = Int32(PathPattern.prefix(record.path).utf8.count)
      }
      if let replacement = record.replacePrefix {
        route.replacement = store(String(replacement.hasSuffix("/") ? replacement.dropLast() : replacement[...]))
      }
      route.requestRemoved = store(
        HeaderLines.removed(
          record.requestHeaders.remove + Self.replaced(record.requestHeaders, Self.ownRequestFields)
            + Self.dropped(record, table.pools[record.pool])))
      route.requestAdded = store(HeaderLines.added(record.requestHeaders.add.map { ($0.name, $0.value) }))
      route.responseRemoved = store(
        HeaderLines.removed(record.responseHeaders.remove + Self.replaced(record.responseHeaders, ["date"])))
      route.responseAdded = store(HeaderLines.added(record.responseHeaders.add.map { ($0.name, $0.value) }))
      route.row = lease.row(route: record.id)
      route.poolRow = lease.row(pool: record.pool)
      route.isLogged = record.accessLog
      route.upgrades = record.upgrades
      route.attempts = UInt8(clamping: record.retries + 1)
      route.waits = RouteWaits(record)
      route.bodyBytes = UInt64(record.bodyBytes)
      if let rate = record.minBodyBytesPerSecond { route.bodyRate = Int32(clamping: rate) }
      route.needsKey = record.auth ?? requiresKeys
      routes.append(route)
      routeRecords.append(record)
    }
    self.routeRecords = routeRecords
    self.routes = FixedArray(routes)
    self.pools = FixedArray(pools)
    membersByPool = byPool
    self.backupsByPool = backupsByPool
    self.blocks = FixedArray(blocks)
    budgets = FixedArray(routeRecords.map { RetryBudget(percent: $0.retryBudgetPercent) })
    self.text = FixedArray(text)
  }

  /// Fields that do not go on because compressed answers could not be read: those of browsers, whose frames cost more to
  /// compress than that saves, and those that name new jobs.
  private static func dropped(_ route: RouteRecord, _ pool: PoolRecord?) -> [String] {
    (pool?.kind == .cdp ? ["Sec-WebSocket-Extensions"] : []) + (route.jobAffinity ? ["Accept-Encoding"] : [])
  }

  /// Fields that Berth writes itself and that stand in a message once.
  private static let ownRequestFields = [
    "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-request-id", "via",
  ]

  /// Those of them that a rule adds: its line stands in the place of Berth's.
  private static func replaced(_ rules: HeaderRules, _ own: [String]) -> [String] {
    own.filter { name in rules.add.contains { $0.name.lowercased() == name } }
  }

  /// Whether one of the blocks that a route's slice names has the address.
  func holds(_ slice: Slice, _ address: (high: UInt64, low: UInt64)) -> Bool {
    for index in slice.lower..<slice.upper where blocks[index].contains(address.high, address.low) { return true }
    return false
  }

  func free() {
    blocks.free()
    routes.free()
    pools.free()
    budgets.free()
    text.free()
    apiKeys.free()
  }

  /// The first route that matches, or -1. Hosts are compared without port and case, paths by whole segments.
  @inline(__always) func match(_ bytes: Span<UInt8>, authority: Slice, path: Slice) -> Int {
    for index in 0..<routes.count {
      let route = routes[index]
      if !route.host.isEmpty, !hostMatches(bytes, authority, route) { continue }
      if pathMatches(bytes, path, route) { return index }
    }
    return -1
  }

  private func hostMatches(_ bytes: Span<UInt8>, _ authority: Slice, _ route: CompiledRoute) -> Bool {
    let host = route.host
    var start = authority.lower
    if route.isWildcard {
      let name = nameBytes(bytes, authority)
      // At least one byte stands before the dot.
      guard name > Int(host.count) else { return false }
      start += name - Int(host.count)
    }
    guard authority.upper - start >= Int(host.count) else { return false }
    for offset in 0..<Int(host.count) {
      let byte = bytes[start + offset]
      guard (byte &- 0x41 < 26 ? byte | 0x20 : byte) == text[host.lower + offset] else { return false }
    }
    let end = start + Int(host.count)
    return authority.upper == end || bytes[end] == UInt8(ascii: ":")
  }

  /// Bytes of an authority before its port. An address in brackets matches no wildcard, so its colons do not matter.
  private func nameBytes(_ bytes: Span<UInt8>, _ authority: Slice) -> Int {
    var count = 0
    while count < Int(authority.count), bytes[authority.lower + count] != UInt8(ascii: ":") { count += 1 }
    return count
  }

  /// Whether the path begins with the pattern's segments, each as a whole.
  private func pathMatches(_ bytes: Span<UInt8>, _ path: Slice, _ route: CompiledRoute) -> Bool {
    let prefix = route.path
    if prefix.count == 1 { return true }
    if route.hasAnySegment { return segmentsMatch(bytes, path, prefix) }
    guard path.count >= prefix.count else { return false }
    for offset in 0..<Int(prefix.count) where bytes[path.lower + offset] != text[prefix.lower + offset] { return false }
    return path.count == prefix.count || text[prefix.upper - 1] == UInt8(ascii: "/")
      || bytes[path.lower + Int(prefix.count)] == UInt8(ascii: "/")
  }

  private func segmentsMatch(_ bytes: Span<UInt8>, _ path: Slice, _ pattern: Slice) -> Bool {
    var position = path.lower
    var wanted = pattern.lower
    while wanted < pattern.upper {
      if text[wanted] == UInt8(ascii: "*") {
        let start = position
        while position < path.upper, bytes[position] != UInt8(ascii: "/") { position += 1 }
        guard position > start else { return false }
        wanted += 1
      } else {
        guard position < path.upper, bytes[position] == text[wanted] else { return false }
        position += 1
        wanted += 1
      }
    }
    return position == path.upper || text[pattern.upper - 1] == UInt8(ascii: "/")
      || bytes[position] == UInt8(ascii: "/")
  }

  /// How many bytes of the path a route takes off.
  @inline(__always) func strippedBytes(_ route: Int) -> Int { Int(routes[route].stripped) }

  /// What the path of a route's public URLs begins with: the prefix that is taken off before the instance sees them.
  func prefix(_ route: Int) -> String {
    String(routeRecords[route].path.utf8.prefix(strippedBytes(route))) ?? ""
  }

  /// Bytes that a route's slices name, as long as this table is in force.
  @inline(__always) @_lifetime(immortal) func bytes(_ slice: Slice) -> Span<UInt8> {
    text.part(slice.lower, Int(slice.count))
  }

  func record(pool: Int) -> PoolRecord { source.pools[poolNames[pool]]! }
}

extension PoolKind {
  var index: UInt8 { UInt8(PoolKind.allCases.firstIndex(of: self)!) }
  static let httpIndex = PoolKind.http.index
}
