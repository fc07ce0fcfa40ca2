// The container balancer's form, in both of its shapes: routes that name a backend with servers, and routes that have
// the servers themselves. The data plane makes pools and fixed instances of it; the control plane's settings take its
// routes to pools that are declared beside it.
//
//   routes: [{path: /api/*, backend: api_servers}]
//   backends: {api_servers: {strategy: least_connections, servers: [{url: http://10.0.0.1:8080}]}}
//
//   routes: [{path: /api/*, docker_image: api-server, strategy: least_connections, servers: [{url: …}]}]
import JSON
package import Routing

package struct ContainerForm: Sendable {
  package struct Backend: Sendable {
    package let name: String
    /// Where it stands: an entry of `backends`, or a route with servers of its own.
    package let path: [String]
    package let image: String?
    /// Weighted members; their hosts may be names.
    package let servers: [(instance: InstanceRecord, path: [String])]
    package let check: HealthCheck?
    package let pool: PoolRecord
    fileprivate let strategy: String?
    fileprivate let hashOn: String?

    /// Where `docker_image` or `servers` stand, for whom has no use for them.
    package var fixedServersPath: [String] { path + [image == nil ? "servers" : "docker_image"] }
  }
  package let document: ConfigDocument
  package private(set) var backends: [Backend] = []
  package private(set) var routes: [(record: RouteRecord, path: [String])] = []
  package private(set) var check: HealthCheck?

  /// - Parameter others: names at the top of the file that are read elsewhere.
  package init(_ document: ConfigDocument, others: [String] = []) throws(RouteFileError) {
    self.document = document
    var top = try document.fields([])
    for key in others + ["routes", "backends", "keys"] { _ = top.json(key) }
    check = try RouteFile.check(document, &top, path: [])
    if others.isEmpty { try document.finish(top, at: []) }

    for name in try document.names(["backends"]) {
      let path = ["backends", name]
      guard PoolRecord.isName(name) else { throw document.error(path, RouteFile.nameRule) }
      var fields = try document.fields(path)
      let backend = try backend(name, path, &fields, strategy: true)
      try document.finish(fields, at: path)
      guard backend.image != nil || !backend.servers.isEmpty else {
        throw document.error(path, "needs servers, a list like [{url: http://10.0.0.1:8080}]")
      }
      backends.append(backend)
    }
    guard let list = document.value(at: ["routes"])?.array, !list.isEmpty else {
      throw document.error(["routes"], "must be a list of routes, each with a path and a backend")
    }
    for index in list.indices { try readRoute(["routes", String(index)]) }
  }

  // MARK: Reading

  /// The fields of a backend, wherever it stands. `strategy`: whether they are the backend's own.
  private func backend(_ name: String, _ path: [String], _ fields: inout Fields, strategy: Bool) throws(RouteFileError)
    -> Backend
  {
    let check = try RouteFile.check(document, &fields, path: path)
    var pool = PoolRecord(name: name, kind: .http, slots: 0)
    let image: String?
    var written: (strategy: String?, hashOn: String?)
    let hasServers: Bool
    do throws(RecordError) {
      image = try fields.optionalString("docker_image")
      if strategy {
        let strategy = try fields.choice("strategy", or: Strategy.roundRobin)
        written = (try fields.optionalString("strategy"), try fields.optionalString("hashOn"))
        if strategy.needsHashOn, written.hashOn == nil {
          throw fields.error("hashOn", "must name the header or cookie that strategy \(strategy.rawValue) goes by")
        }
      }
      try pool.readBalancing(&fields)
      pool.queueLimit = try fields.int("queueLimit", in: 0...1_000_000, or: 1_000)
      // A route with servers of its own has a field of that name itself.
      if strategy {
        pool.queueTimeoutMilliseconds = try fields.int("queueTimeoutMilliseconds", in: 0...86_400_000, or: 30_000)
      }
      hasServers = fields.json("servers") != nil
    } catch { throw document.error(path, error) }
    return Backend(
      name: name, path: path, image: image, servers: hasServers ? try servers(of: name, path + ["servers"]) : [],
      check: check, pool: pool, strategy: written.strategy, hashOn: written.hashOn)
  }

  private func servers(of pool: String, _ path: [String]) throws(RouteFileError) -> [(InstanceRecord, [String])] {
    guard let entries = document.value(at: path)?.array else {
      throw document.error(path, "must be a list like [{url: http://10.0.0.1:8080}]")
    }
    var servers: [(InstanceRecord, [String])] = []
    var ids: Set<String> = []
    for (index, entry) in entries.enumerated() {
      let path = path + [String(index)]
      // "And so on", as the balancer's notes have it.
      if entry.string == "..." { continue }
      let instance = try document.record(path) { (fields: inout Fields) throws(RecordError) in
        let url = try fields.string("url")
        let weight = try fields.int("weight", in: InstanceRecord.weights, or: 1)
        let isBackup = try fields.bool("backup", or: false)
        try fields.finish()
        do throws(ServerAddress.Problem) {
          return try ServerAddress(url: url).instance(pool: pool, weight: weight, isBackup: isBackup)
        } catch { throw fields.error("url", error.reason) }
      }
      guard ids.insert(instance.id).inserted else {
        throw document.error(path, "stands here twice; use weight instead")
      }
      servers.append((instance, path))
    }
    guard !servers.isEmpty else { throw document.error(path, "must list at least one server with its url") }
    return servers
  }

  private mutating func readRoute(_ path: [String]) throws(RouteFileError) {
    guard var object = document.value(at: path)?.object else {
      throw document.error(path, "must be a mapping with a path and a backend")
    }
    // What the route does not say itself, its backend may.
    let named = object["backend"]?.string.flatMap { name in backends.first { $0.name == name } }
    if object["strategy"] == nil, let strategy = named?.strategy {
      object["strategy"] = .string(strategy)
      if object["hashOn"] == nil, let hashOn = named?.hashOn { object["hashOn"] = .string(hashOn) }
    }
    var fields = try document.fields(path, instead: object)
    let backendName: String?
    let id: String?
    do throws(RecordError) {
      guard fields.json("path") != nil else { throw fields.error("path", "must be given, e.g. /api/*") }
      backendName = try fields.optionalString("backend")
      id = try fields.optionalString("id")
    } catch { throw document.error(path, error) }

    let pool: String
    let isInline = object["servers"] != nil || object["docker_image"] != nil
    switch (backendName, isInline) {
    case (let name?, false): pool = name
    case (nil, true):
      let backend = try backend(inlineName(object, path), path, &fields, strategy: false)
      backends.append(backend)
      pool = backend.name
    case (nil, false): throw document.error(path, "needs a backend, or servers of its own")
    case (_?, true):
      throw document.error(path + ["backend"], "must not stand beside servers or docker_image; keep one of them")
    }
    var record: RouteRecord
    do throws(RecordError) {
      record = try RouteRecord(id: "", pool: pool, &fields)
      try fields.finish()
    } catch { throw document.error(path, error) }
    // People look for a route by what it matches.
    record.id = id ?? (record.host ?? "") + record.path
    if let other = routes.first(where: { $0.record.id == record.id }) {
      throw document.error(
        path, "is the same as \(document.place(other.path)); take one of them out, or give each an id of its own")
    }
    routes.append((record, path))
  }

  /// The image without registry and tag, when that is a name nobody else has; else a name of the route's host and path:
  /// cookies, hashes and counters hang on it, so it must stay when the route's place in the file changes.
  private func inlineName(_ object: JSONObject, _ path: [String]) -> String {
    let image = object["docker_image"]?.string ?? ""
    let name = String(image.split(separator: "/").last?.prefix { $0 != ":" && $0 != "@" } ?? "")
    let taken = backends.map(\.name) + ((try? document.names(["backends"])) ?? [])
    return PoolRecord.isName(name) && !taken.contains(name) ? name : Self.name(of: object)
  }

  private static func name(of route: JSONObject) -> String {
    let match = route["id"]?.string ?? (route["host"]?.string ?? "") + (route["path"]?.string ?? "")
    let kept = match.lowercased().unicodeScalars.map { PoolRecord.isName(String($0)) ? Character($0) : "-" }
    let words = String(kept).split(separator: "-").joined(separator: "-").prefix(24)
    // FNV-1a: tells names apart that differ only in what is not kept.
    var hash: UInt32 = 0x811C_9DC5
    for byte in match.utf8 { hash = (hash ^ UInt32(byte)) &* 0x0100_0193 }
    let digits = String(hash & 0xFF_FFFF, radix: 16)
    return (["route", String(words), digits].filter { !$0.isEmpty }).joined(separator: "-")
  }
}

// MARK: For the data plane

extension ContainerForm {
  /// Pools, routes and fixed instances, as `berth-data --routes` serves them.
  func routeFile() -> RouteFile {
    var file = RouteFile()
    for backend in backends {
      file.pools.append(backend.pool)
      file.checks[backend.name] = backend.check ?? check ?? HealthCheck()
      for server in backend.servers {
        file.instances.append(server.instance)
        file.places[server.instance.id] = document.place(server.path)
      }
      if backend.image != nil {
        let effect =
          backend.servers.isEmpty
          ? "there are no servers, so its requests get 503; list them under servers"
          : "its servers are used as they are"
        file.warnings.append(
          "\(document.place(backend.path + ["docker_image"])): berth-data starts no containers; \(effect)")
      }
    }
    for (record, path) in routes {
      file.routes.append(record)
      if !file.pools.contains(where: { $0.name == record.pool }) {
        // As far as a file names a backend, the route is meant; and 503 says more than the 404 of no route.
        file.pools.append(PoolRecord(name: record.pool, kind: .http, slots: 0))
        file.warnings.append(
          "\(document.place(path + ["backend"])): there is no \"\(record.pool)\" in backends; requests to "
            + "\(record.id) get 503 until there is")
      }
    }
    return file
  }
}
