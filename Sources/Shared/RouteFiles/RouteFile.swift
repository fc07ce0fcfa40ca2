// A routes file in any of its forms, made into the records that replicas route by. `berth-data --routes FILE` reads it;
// docs/routes-files.md shows the forms.
//
//   pools, routes, instances by name    the records as they are in Redis
//   routes as a list, backends by name  the container balancer's form (ContainerForm.swift)
//   backends as a list                  the HTTP balancer's form (BackendsForm.swift)
import JSON
package import Routing

package struct RouteFile: Sendable {
  package var pools: [PoolRecord] = []
  package var routes: [RouteRecord] = []
  /// Their hosts may be names, which are not resolved yet.
  package var instances: [InstanceRecord] = []
  /// Keys that open routes. As soon as there are some, every route asks for one unless it says `auth: false`.
  package var apiKeys: [KeyRecord] = []
  /// By pool; pools that are missing are not checked.
  package var checks: [String: HealthCheck] = [:]
  /// What was read but has no effect, each with its place.
  package var warnings: [String] = []
  /// Where an instance stands in the file, by id.
  package var places: [String: String] = [:]

  init() {}

  /// - Parameter file: the name of the file, for errors.
  package init(_ text: String, file: String) throws(RouteFileError) {
    let document = try ConfigDocument(text, file: file)
    guard case .object(let top) = document.json else {
      throw document.error([], "must be a mapping with routes, pools or backends")
    }
    if case .array? = top["backends"] {
      self = try BackendsForm.read(document)
    } else if top["backends"] != nil || top["routes"]?.array != nil {
      self = try ContainerForm(document).routeFile()
    } else {
      try readRecords(document)
    }
    apiKeys = try document.names(["keys"]).map { (id) throws(RouteFileError) in
      try document.record(["keys", id]) { (fields: inout Fields) throws(RecordError) in
        var key = try KeyRecord(id: id, &fields)
        key.isDeclared = true
        return key
      }
    }
    if !apiKeys.isEmpty { for index in routes.indices where routes[index].auth == nil { routes[index].auth = true } }
    // An emptied file, or a template that came out empty, would answer every client with 404.
    let isMeant = top["routes"]?.array != nil || top["routes"]?.object != nil || top["backends"] != nil
    guard !routes.isEmpty || !pools.isEmpty || !instances.isEmpty || isMeant else {
      throw document.error([], "has no routes; if nothing is to be served, say so by: routes: []")
    }
  }

  /// `pools`, `routes` and `instances`, each by name.
  private mutating func readRecords(_ document: ConfigDocument) throws(RouteFileError) {
    var top = try document.fields([])
    for key in ["pools", "routes", "instances", "keys"] { _ = top.json(key) }
    let check = try Self.check(document, &top, path: [])
    try document.finish(top, at: [])

    for name in try document.names(["pools"]) {
      guard PoolRecord.isName(name) else { throw document.error(["pools", name], Self.nameRule) }
      pools.append(
        try document.record(["pools", name]) { (fields: inout Fields) throws(RecordError) in
          try PoolRecord(name: name, &fields)
        })
    }
    for id in try document.names(["routes"]) {
      routes.append(
        try document.record(["routes", id]) { (fields: inout Fields) throws(RecordError) in
          try RouteRecord(id: id, &fields)
        })
    }
    for id in try document.names(["instances"]) {
      let path = ["instances", id]
      let instance = try document.record(path) { (fields: inout Fields) throws(RecordError) in
        try InstanceRecord(id: id, &fields)
      }
      if let problem = ServerAddress.problem(host: instance.host) { throw document.error(path + ["host"], problem) }
      instances.append(instance)
      places[id] = document.place(path)
    }
    let names = Set(pools.map(\.name))
    func known(_ pool: String, _ path: [String]) throws(RouteFileError) {
      guard !names.contains(pool) else { return }
      throw document.error(path + ["pool"], "must be a pool of this file (\(names.sorted().joined(separator: ", ")))")
    }
    for route in routes { try known(route.pool, ["routes", route.id]) }
    for instance in instances { try known(instance.pool, ["instances", instance.id]) }
    if let check { for name in names { checks[name] = check } }
  }

  static let nameRule = "must be named with 1 to 40 lower-case letters, digits, - or _"

  /// `health:` of the mapping that `fields` reads.
  static func check(_ document: ConfigDocument, _ fields: inout Fields, path: [String]) throws(RouteFileError)
    -> HealthCheck?
  {
    do throws(RecordError) {
      guard var section = try fields.section("health") else { return nil }
      return try HealthCheck(&section)
    } catch { throw document.error(path, error) }
  }
}

extension ConfigDocument {
  /// The names of the mapping at a path, in the order of the file; none when nothing is there.
  func names(_ path: [String]) throws(RouteFileError) -> [String] {
    switch value(at: path) {
    case nil, .null?: return []
    case .object(let object)?: return object.fields.map(\.name)
    default: throw error(path, "must be a mapping of names to values")
    }
  }

  /// A record from the mapping at a path.
  func record<R>(_ path: [String], _ read: (inout Fields) throws(RecordError) -> R) throws(RouteFileError) -> R {
    var fields = try fields(path)
    do throws(RecordError) { return try read(&fields) } catch { throw self.error(path, error) }
  }

  func finish(_ fields: Fields, at path: [String]) throws(RouteFileError) {
    do throws(RecordError) { try fields.finish() } catch { throw self.error(path, error) }
  }
}
