// What lists and dashboards show of sessions and pools. Read by `Leases`.
import JSON
package import Routing

package enum LeaseState: String, Sendable, CaseIterable {
  /// Kept for the socket that should follow a discovery.
  case reserved
  /// At least one replica has sockets of it.
  case active
  /// No socket, and kept to its idle or hard limit: a REST session between clients.
  case idle
  /// No socket any more: it ends when its grace is over, unless a client comes back.
  case grace
}

/// A session with its lease. Times are Unix milliseconds.
package struct SessionView: Sendable, Equatable {
  package let record: SessionRecord
  package let state: LeaseState
  /// When bytes last moved, as far as its replicas have told.
  package let lastAccessed: Int
  /// When it ends if nothing more happens.
  package let leaseExpiry: Int
  /// The replicas with live sockets of it.
  package let holders: [String]
  /// Whether it has counted as a use of its instance.
  package let used: Bool

  package init(
    record: SessionRecord, state: LeaseState, lastAccessed: Int, leaseExpiry: Int, holders: [String], used: Bool
  ) {
    self.record = record
    self.state = state
    self.lastAccessed = lastAccessed
    self.leaseExpiry = leaseExpiry
    self.holders = holders
    self.used = used
  }

  /// Reads {JSON, fields of the lease, expiry}.
  init(_ reply: Reply) throws(StateError) {
    let parts = try reply.list(of: "session", count: 3)
    var lease: [String: String] = [:]
    for (name, value) in try parts[1].pairs(of: "lease") { lease[name] = try value.string(of: "lease") }
    let record = try Self.record(parts[0])
    guard let state = lease["state"].flatMap(LeaseState.init), let seen = lease["lastAccessed"].flatMap({ Int($0) })
    else { throw StateError("lease of \(record.id): the fields state and lastAccessed were expected, \(lease) came") }
    self.init(
      record: record, state: state, lastAccessed: seen, leaseExpiry: try parts[2].int(of: "lease"),
      holders: lease.keys.filter { $0.hasPrefix("holder:") }.map { String($0.dropFirst(7)) }.sorted(),
      used: lease["used"] == "1")
  }

  /// The record of a session's JSON text.
  static func record(_ reply: Reply) throws(StateError) -> SessionRecord {
    let text = try reply.string(of: "session")
    let json: JSON
    do throws(JSONError) { json = try JSON(parsing: text) } catch { throw StateError("session: not JSON: \(error)") }
    guard let id = json["sessionId"]?.string else { throw StateError("session: no \"sessionId\" in \(text)") }
    do throws(RecordError) { return try SessionRecord(id: id, json: json) } catch {
      throw StateError(error.description)
    }
  }
}

/// The slots, leases and queue of a pool.
package struct PoolFigures: Sendable, Equatable {
  /// Free slots by instance. A ready instance that is missing here has had all the sessions its pool allows.
  package let freeSlots: [String: Int]
  /// Held slots.
  package let leases: Int
  /// Clients that wait.
  package let waiting: Int
  /// Since when the first of them waits, Unix milliseconds; nil when none does.
  package let oldestWaiting: Int?

  package init(freeSlots: [String: Int], leases: Int, waiting: Int, oldestWaiting: Int?) {
    self.freeSlots = freeSlots
    self.leases = leases
    self.waiting = waiting
    self.oldestWaiting = oldestWaiting
  }
}
