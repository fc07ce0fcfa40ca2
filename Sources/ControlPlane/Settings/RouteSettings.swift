// The routes of the configuration file: by name, or as a list in the container balancer's form. Without any there is
// one that sends every path to the first pool of Chromes.
import Domain
import RouteFiles
import Routing

extension ControlSettings {
  /// Called after ``readPools(_:)``, as a route names a pool.
  mutating func readRoutes(_ top: inout FileSection?, _ config: ConfigText?) throws(SettingsError) {
    let backends = top?.isMissing("backends") == false
    if let config, top?.isList("routes") == true || backends {
      return try readContainerForm(config)
    }
    guard var declared = try top?.section("routes") else {
      let first = pools.first { $0.kind == .cdp } ?? pools[0]
      routes = [RouteRecord(id: "default", path: "/", pool: first.name)]
      return
    }
    for id in declared.names {
      guard var section = try declared.section(id) else {
        throw SettingsError("\(declared.place(of: id)): a route needs at least a pool")
      }
      routes.append(try route(id, &section))
    }
  }

  private func route(_ id: String, _ file: inout FileSection) throws(SettingsError) -> RouteRecord {
    guard let pool = try file.value("pool") else { throw SettingsError("\(file.place): a route needs a pool") }
    guard pools.contains(where: { $0.name == pool.text }) else { throw pool.wrong("a declared pool (\(poolNames))") }
    let route = try file.record { (fields: inout Fields) throws(RecordError) in
      try RouteRecord(id: id, pool: pool.text, &fields)
    }
    try file.finish()
    return route
  }

  private var poolNames: String { pools.map(\.name).joined(separator: ", ") }

  /// `routes` as a list whose entries name a pool as their `backend`. Servers that run already, and images, are for
  /// runtimes that the control plane does not have.
  private mutating func readContainerForm(_ config: ConfigText) throws(SettingsError) {
    do throws(RouteFileError) {
      let document = try ConfigDocument(config.text, file: config.name)
      let form = try ContainerForm(document, others: Self.settings.map(\.key) + ["pools"])
      for backend in form.backends {
        let path = backend.fixedServersPath
        if backend.image != nil {
          throw document.error(
            path,
            "declare a pool with runtime: docker and this image under pools, and name it as the route's backend")
        }
        throw document.error(
          path,
          "declare a pool with runtime: static and these servers under pools, and name it as the route's backend; or serve "
            + "this file with berth-data --routes")
      }
      for (record, path) in form.routes {
        guard pools.contains(where: { $0.name == record.pool }) else {
          throw document.error(path + ["backend"], "must be a declared pool (\(poolNames))")
        }
        routes.append(record)
      }
    } catch { throw SettingsError(error.description) }
  }
}
