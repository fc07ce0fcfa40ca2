// The coordinator of a replica without Redis: routes from a file (`berth-data --routes FILE`). Pools without a limit of
// slots work as ever; what would need a session is refused, because nobody keeps them.
import Glibc
import JSON
package import ProxyMachine
package import Routing
import Synchronization

/// Why a routes file is refused: the file, the place and what is wrong there.
package struct RouteFileError: Error, Equatable, Sendable, CustomStringConvertible {
  package let description: String
}

package final class FileCoordinator: RouteSource {
  package let path: String
  private struct State {
    var table: RoutingTable
    var inboxes: [any WorkerInbox] = []
    var counters = CoordinatorCounters()
  }
  private let state: Mutex<State>
  /// A file larger than this is no routes file.
  package static let maximumBytes = 16 << 20

  /// Reads the file.
  package init(path: String) throws(RouteFileError) {
    self.path = path
    state = Mutex(State(table: try Self.read(path)))
  }

  package func start(inboxes: [any WorkerInbox]) {
    let table = state.withLock { state in
      state.inboxes = inboxes
      return state.table
    }
    for inbox in inboxes { inbox.replace(table: table) }
  }

  @discardableResult package func stop(timeoutMilliseconds: Int) -> Bool { true }

  /// Reads the file anew (SIGHUP). When that fails, the table stays as it was.
  package func reload() throws(RouteFileError) {
    let table = try Self.read(path)
    let inboxes = state.withLock { state in
      state.table = table
      state.counters.tables += 1
      return state.inboxes
    }
    for inbox in inboxes { inbox.replace(table: table) }
  }

  package var table: RoutingTable? { state.withLock { $0.table } }
  package var counters: CoordinatorCounters {
    state.withLock { state in
      var counters = state.counters
      counters.connected = true
      return counters
    }
  }

  package func submit(_ request: SlotRequest) {
    let (inbox, refusal) = state.withLock { state in
      let refusal: SlotRefusal
      switch request.kind {
      case .acquire(let pool, _, _): refusal = Self.refusal(state.table.pools[pool])
      case .claim(let browser):
        refusal = Self.refusal(
          state.table.instance(browser: browser).flatMap { [table = state.table] in table.pools[$0.pool] })
      case .attach, .look, .reserved, .target: refusal = .unknown
      }
      state.counters.requests += 1
      state.counters.count(refusal)
      let inbox = state.inboxes.indices.contains(request.worker) ? state.inboxes[request.worker] : nil
      return (inbox, refusal)
    }
    inbox?.deliver(.refused(refusal), ticket: request.ticket)
  }

  /// Exclusive slots need Redis; a pool without them has no sessions at all.
  private static func refusal(_ pool: PoolRecord?) -> SlotRefusal { (pool?.slots ?? 0) > 0 ? .unavailable : .unknown }

  /// Nothing is held, so there is nothing to be told.
  package func notify(_ notice: SlotNotice) {}

  // MARK: The file

  /// `{"pools": {name: …}, "routes": {id: …}, "instances": {id: …}}`, the records as in Redis.
  static func table(of bytes: [UInt8], path: String) throws(RouteFileError) -> RoutingTable {
    let json: JSON
    do { json = try JSON(parsing: bytes) } catch { throw RouteFileError(description: "\(path): \(error)") }
    do throws(RecordError) {
      var fields = try Fields(json, of: "the routes file")
      let pools = try records(fields.json("pools"), "pools") { (name, json) throws(RecordError) in
        try PoolRecord(name: name, json: json)
      }
      let routes = try records(fields.json("routes"), "routes") { (id, json) throws(RecordError) in
        try RouteRecord(id: id, json: json)
      }
      let instances = try records(fields.json("instances"), "instances") { (id, json) throws(RecordError) in
        try InstanceRecord(id: id, json: json)
      }
      try fields.finish()
      let names = Set(pools.map(\.name))
      for route in routes where !names.contains(route.pool) {
        throw RecordError("route \"\(route.id)\": there is no pool \"\(route.pool)\"")
      }
      for instance in instances where !names.contains(instance.pool) {
        throw RecordError("instance \"\(instance.id)\": there is no pool \"\(instance.pool)\"")
      }
      return RoutingTable(pools: pools, routes: routes, instances: instances)
    } catch { throw RouteFileError(description: "\(path): \(error)") }
  }

  private static func records<R>(_ json: JSON?, _ what: String, _ read: (String, JSON) throws(RecordError) -> R)
    throws(RecordError) -> [R]
  {
    guard let json else { return [] }
    guard let object = json.object else { throw RecordError("\"\(what)\" must be an object of records by their names") }
    var records: [R] = []
    for field in object.fields { records.append(try read(field.name, field.value)) }
    return records
  }

  private static func read(_ path: String) throws(RouteFileError) -> RoutingTable {
    func problem() -> RouteFileError {
      RouteFileError(description: "\(path): \(unsafe String(cString: strerror(errno)))")
    }
    let file = unsafe open(path, O_RDONLY | O_CLOEXEC)
    guard file >= 0 else { throw problem() }
    defer { close(file) }
    var bytes: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 65_536)
    while true {
      let count = unsafe Glibc.read(file, &buffer, buffer.count)
      if count < 0 && errno == EINTR { continue }
      guard count >= 0 else { throw problem() }
      if count == 0 { break }
      bytes += buffer[..<count]
      guard bytes.count <= maximumBytes else {
        throw RouteFileError(description: "\(path): larger than \(maximumBytes) bytes")
      }
    }
    return try table(of: bytes, path: path)
  }
}
