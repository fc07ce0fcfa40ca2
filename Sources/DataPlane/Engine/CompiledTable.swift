// The routing table in a worker's own flat arrays, so that a request is matched without reference counts, and the state
// that a worker keeps per instance (kept connections, counts), which outlives the table that named it first.
import HTTPWire
import Posix
import Routing

struct CompiledRoute: BitwiseCopyable {
  var host = Slice.empty
  var path = Slice.empty
  var pool: Int32 = -1
  var strategy: UInt8 = 0
  var strips = false
}

struct CompiledPool: BitwiseCopyable {
  var kind: UInt8 = 0
  /// Clients must have a session to reach an instance.
  var needsSlot = false
  /// Members that take new requests, as a range of `CompiledTable.members`.
  var members = Slice.empty
  var cursor: UInt32 = 0
  /// Index into `RoutingTable.pools` by `CompiledTable.poolNames`.
  var name: Int32 = 0
}

/// What a worker knows of one instance.
struct InstanceSlot: BitwiseCopyable {
  var address = SocketAddress()
  /// Kept connections, newest first: the newest is the least likely to be closed by the instance.
  var idleHead: Int32 = -1
  var idleCount: Int32 = 0
  /// Requests and tunnels under way from this worker.
  var active: Int32 = 0
  var inTable = false
  var isFree = true
  var requests: UInt64 = 0
  var failures: UInt64 = 0
}

struct CompiledTable: ~Copyable {
  let source: RoutingTable
  let routes: FixedArray<CompiledRoute>
  let pools: FixedArray<CompiledPool>
  let poolNames: [String]
  let members: FixedArray<Int32>
  private let text: FixedArray<UInt8>

  /// - Parameter place: gives every instance its place in the worker's list.
  init(_ table: RoutingTable, place: (InstanceRecord) -> Int32?) {
    source = table
    poolNames = table.pools.keys.sorted()
    let indexes = Dictionary(uniqueKeysWithValues: poolNames.enumerated().map { ($1, Int32($0)) })
    var byPool = [[Int32]](repeating: [], count: poolNames.count)
    for instance in table.instances {
      guard let slot = place(instance), instance.state == .ready, let pool = indexes[instance.pool] else { continue }
      byPool[Int(pool)].append(slot)
    }
    var members: [Int32] = []
    var pools: [CompiledPool] = []
    for (index, name) in poolNames.enumerated() {
      let record = table.pools[name]!
      var pool = CompiledPool()
      pool.kind = record.kind.index
      pool.needsSlot = record.slots > 0
      pool.members = Slice(members.count, byPool[index].count)
      pool.name = Int32(index)
      members += byPool[index]
      pools.append(pool)
    }
    var text: [UInt8] = []
    var routes: [CompiledRoute] = []
    func store(_ string: String) -> Slice {
      let slice = Slice(text.count, string.utf8.count)
      text += Array(string.utf8)
      return slice
    }
    for record in table.routes {
      guard let pool = indexes[record.pool] else { continue }
      var route = CompiledRoute()
      route.host = store(record.host ?? "")
      route.path = store(record.path)
      route.pool = pool
      route.strategy = record.strategy.index
      route.strips = record.stripPrefix
      routes.append(route)
    }
    self.routes = FixedArray(routes)
    self.pools = FixedArray(pools)
    self.members = FixedArray(members)
    self.text = FixedArray(text)
  }

  func free() {
    routes.free()
    pools.free()
    members.free()
    text.free()
  }

  /// The first route that matches, or -1. Hosts are compared without port and case, paths by whole segments.
  @inline(__always) func match(_ bytes: Span<UInt8>, authority: Slice, path: Slice) -> Int {
    for index in 0..<routes.count {
      let route = routes[index]
      if !route.host.isEmpty, !hostMatches(bytes, authority, route.host) { continue }
      if pathMatches(bytes, path, route.path) { return index }
    }
    return -1
  }

  private func hostMatches(_ bytes: Span<UInt8>, _ authority: Slice, _ host: Slice) -> Bool {
    guard authority.count >= host.count else { return false }
    for offset in 0..<Int(host.count) {
      let byte = bytes[authority.lower + offset]
      guard (byte &- 0x41 < 26 ? byte | 0x20 : byte) == text[host.lower + offset] else { return false }
    }
    return authority.count == host.count || bytes[authority.lower + Int(host.count)] == UInt8(ascii: ":")
  }

  private func pathMatches(_ bytes: Span<UInt8>, _ path: Slice, _ prefix: Slice) -> Bool {
    if prefix.count == 1 { return true }
    guard path.count >= prefix.count else { return false }
    for offset in 0..<Int(prefix.count) where bytes[path.lower + offset] != text[prefix.lower + offset] { return false }
    return path.count == prefix.count || text[prefix.upper - 1] == UInt8(ascii: "/")
      || bytes[path.lower + Int(prefix.count)] == UInt8(ascii: "/")
  }

  /// How many bytes of the path a route with `stripPrefix` takes off: its prefix without a closing slash.
  func strippedBytes(_ route: Int) -> Int {
    let path = routes[route].path
    guard routes[route].strips else { return 0 }
    return text[path.upper - 1] == UInt8(ascii: "/") ? Int(path.count) - 1 : Int(path.count)
  }

  /// A route's prefix as it stands before the paths of its URLs: empty for `/`.
  func prefix(_ route: Int) -> String {
    let path = routes[route].path
    let bytes = (path.lower..<path.lower + strippedBytes(route)).map { text[$0] }
    return String(decoding: bytes, as: UTF8.self)
  }

  func record(pool: Int) -> PoolRecord { source.pools[poolNames[pool]]! }
}

extension PoolKind {
  var index: UInt8 { UInt8(PoolKind.allCases.firstIndex(of: self)!) }
}

extension Strategy {
  var index: UInt8 { UInt8(Strategy.allCases.firstIndex(of: self)!) }
  static let roundRobinIndex = Strategy.roundRobin.index
  static let leastConnectionsIndex = Strategy.leastConnections.index
}
