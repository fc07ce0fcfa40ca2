// What a replica reads: a snapshot of all records, then the changes after it. Called by the route feed, and by the
// control plane for its own view.
package import JSON
package import Routing

/// All records at one moment.
package struct Snapshot: Sendable {
  /// The id of the last change that is in the snapshot; `0-0` when there was none yet.
  package let streamID: String
  package let pools: [PoolRecord]
  package let routes: [RouteRecord]
  package let instances: [InstanceRecord]
  package let apiKeys: [KeyRecord]
  package let sessions: [SessionRecord]
  /// What could not be read and was left out, one sentence each.
  package let invalid: [String]

  init(_ reply: Reply) throws(StateError) {
    let parts = try reply.list(of: "registry.snapshot", count: 6)
    var invalid: [String] = []
    streamID = try parts[0].string(of: "registry.snapshot")
    pools = try Self.records(parts[1], of: "pools", invalid: &invalid) { (name, json) throws(RecordError) in
      try PoolRecord(name: name, json: json)
    }
    routes = try Self.records(parts[2], of: "routes", invalid: &invalid) { (id, json) throws(RecordError) in
      try RouteRecord(id: id, json: json)
    }
    instances = try Self.records(parts[3], of: "instances", invalid: &invalid) { (id, json) throws(RecordError) in
      try InstanceRecord(id: id, json: json)
    }
    sessions = try Self.records(parts[4], of: "sessions", invalid: &invalid) { (id, json) throws(RecordError) in
      try SessionRecord(id: id, json: json)
    }
    apiKeys = try Self.records(parts[5], of: "keys", invalid: &invalid) { (id, json) throws(RecordError) in
      try KeyRecord(id: id, json: json)
    }
    self.invalid = invalid
  }

  /// The records of a flat list of ids and JSON texts; what cannot be read goes to `invalid`.
  static func records<R>(
    _ reply: Reply, of what: String, invalid: inout [String], read: (String, JSON) throws(RecordError) -> R
  ) throws(StateError) -> [R] {
    var records: [R] = []
    for (id, value) in try reply.pairs(of: what) {
      let text = try value.string(of: what)
      do throws(JSONError) {
        let json = try JSON(parsing: text)
        do throws(RecordError) { records.append(try read(id, json)) } catch { invalid.append(error.description) }
      } catch {
        invalid.append("\(what) \"\(id)\": not JSON: \(error)")
      }
    }
    return records
  }
}

/// One record that was added, changed or removed.
package struct Change: Sendable, Equatable {
  package enum Kind: String, Sendable, CaseIterable { case pool, route, instance, session, key }
  package let streamID: String
  package let kind: Kind
  package let id: String
  /// The whole record; nil when it was removed.
  package let json: JSON?

  package init(streamID: String, kind: Kind, id: String, json: JSON?) {
    self.streamID = streamID
    self.kind = kind
    self.id = id
    self.json = json
  }

  package init(entry: StreamEntry) throws(StateError) {
    guard let kind = entry.fields["type"].flatMap(Kind.init), let id = entry.fields["id"],
      let text = entry.fields["json"]
    else { throw StateError("change \(entry.id): the fields type, id and json were expected, \(entry.fields) came") }
    do throws(JSONError) {
      self.init(streamID: entry.id, kind: kind, id: id, json: text.isEmpty ? nil : try JSON(parsing: text))
    } catch {
      throw StateError("change \(entry.id) of \(kind) \"\(id)\": not JSON: \(error)")
    }
  }

  /// The changes of entries that XREAD gave.
  package static func list(_ entries: [StreamEntry]) throws(StateError) -> [Change] {
    var changes: [Change] = []
    for entry in entries { changes.append(try Change(entry: entry)) }
    return changes
  }
}

/// What came after a stream id.
package enum ChangePage: Sendable, Equatable {
  case changes([Change])
  /// Some changes after that id are gone (trimmed, or Redis lost its data): load a new snapshot.
  case lost
}
