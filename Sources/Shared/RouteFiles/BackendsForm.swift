// The HTTP balancer's form: one list of backends that all requests go to.
//
//   {"backends": [{"host": "backend-1", "port": 3001}, …]}
import JSON
import Routing

enum BackendsForm {
  private static let pool = "backends"

  static func read(_ document: ConfigDocument) throws(RouteFileError) -> RouteFile {
    var file = RouteFile()
    var top = try document.fields([])
    _ = top.json("keys")
    let entries = top.json("backends")?.array ?? []
    let check = try RouteFile.check(document, &top, path: [])
    // Everything that a route of its own could say, for the one route that there is.
    var record = PoolRecord(name: pool, kind: .http, slots: 0)
    let route: RouteRecord
    do throws(RecordError) {
      try record.readBalancing(&top)
      record.queueLimit = try top.int("queueLimit", in: 0...1_000_000, or: 1_000)
      route = try RouteRecord(id: "all", pool: pool, &top)
      try top.finish()
    } catch { throw document.error([], error) }

    for index in entries.indices {
      let path = ["backends", String(index)]
      let instance = try document.record(path) { (fields: inout Fields) throws(RecordError) in
        let host = try fields.string("host")
        if let problem = ServerAddress.problem(host: host) { throw fields.error("host", problem) }
        let isUnix = host.hasPrefix("unix:")
        let port = try isUnix ? 0 : fields.int("port", in: 1...65_535)
        let weight = try fields.int("weight", in: InstanceRecord.weights, or: 1)
        let isBackup = try fields.bool("backup", or: false)
        try fields.finish()
        return ServerAddress(host: host, port: port).instance(pool: pool, weight: weight, isBackup: isBackup)
      }
      guard file.places[instance.id] == nil else { throw document.error(path, "stands here twice; use weight instead") }
      file.instances.append(instance)
      file.places[instance.id] = document.place(path)
    }
    guard !entries.isEmpty else { throw document.error(["backends"], "must list at least one host and port") }
    file.pools = [record]
    file.routes = [route]
    file.checks[pool] = check ?? HealthCheck()
    return file
  }
}
