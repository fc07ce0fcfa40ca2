// From the workers' counters to what the coordinator tells the control plane: what instances did wrong since the last look.
// Read once a second by the coordinator's thread, so that it costs workers nothing.
import Engine
import RouteFeed
import State
import Synchronization

final class FaultReader: Sendable {
  private let labels: LabeledMetrics
  /// The counts of the last look by pool and instance; as bounded as the rows are.
  private let last = Mutex<[Name: [InstanceFaultKind: Int]]>([:])

  private struct Name: Hashable {
    let pool: String
    let instance: String
  }

  init(_ labels: LabeledMetrics) { self.labels = labels }

  func read() -> [WitnessedFaults] {
    var counts: [Name: [InstanceFaultKind: Int]] = [:]
    // Row 0 is all those beyond the bound together: nobody knows which of them failed.
    for row in labels.rows(.instance) where row.row != 0 {
      let now = Self.counts(row)
      if !now.isEmpty { counts[Name(pool: row.pool, instance: row.name)] = now }
    }
    return last.withLock { last in
      defer { last = counts }
      return counts.compactMap { name, now in
        let before = last[name] ?? [:]
        var new: [InstanceFaultKind: Int] = [:]
        for (kind, count) in now where count > before[kind] ?? 0 { new[kind] = count - (before[kind] ?? 0) }
        return new.isEmpty ? nil : WitnessedFaults(instance: name.instance, pool: name.pool, counts: new)
      }
    }
  }

  private static func counts(_ row: LabeledMetrics.Row) -> [InstanceFaultKind: Int] {
    let all: [InstanceFaultKind: Int] = [
      .connect: row[InstanceCounter.connectFailures] + row[.connectTimeouts], .reset: row.breaks,
      .timeout: row[InstanceCounter.firstByteTimeouts], .badAnswer: row[InstanceCounter.badResponses],
      .serverError: row[InstanceCounter.responses5xx],
    ]
    return all.filter { $0.value > 0 }
  }
}
