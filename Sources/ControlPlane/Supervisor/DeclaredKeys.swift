// The API keys of the keys file as they are now. The daemon replaces them when the file changes, REST compares requests with
// them, and the leader declares them to the replicas (Supervisor.swift).
package import Routing
import Synchronization

package final class DeclaredKeys: Sendable {
  private let state: Mutex<(records: [KeyRecord], version: Int)>

  package init(_ records: [KeyRecord] = []) { state = Mutex((records, 1)) }

  package var records: [KeyRecord] { state.withLock { $0.records } }

  /// With a number that changes when they do.
  package var current: (records: [KeyRecord], version: Int) { state.withLock { $0 } }

  package func replace(_ records: [KeyRecord]) {
    state.withLock { $0 = (records, $0.version + 1) }
  }

  package func contains(_ id: String) -> Bool { state.withLock { $0.records.contains { $0.id == id } } }
}
