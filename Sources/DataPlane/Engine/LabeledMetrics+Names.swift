// Which name has which row. A worker takes a lease for each table that it compiles and asks it for the rows of the table's
// names; a name stays as long as some table names it, a while longer for the last scrapes, and as long as anything of it is
// under way. Then its row may go to another name. Names beyond the bound share row 0, `other`, and are not remembered, so
// memory does not grow with them.
private import Posix
package import ProxyMachine
private import Synchronization

/// The labelled counters of all workers and the names of their rows. An engine owns one.
package final class LabeledMetrics: Sendable {
  /// In the order of the engine's workers.
  package let workers: [WorkerLabels]
  package let limits: LabelLimits
  private let names: Mutex<LabelNames>
  private let now: @Sendable () -> Int
  /// How long a name that no table holds is still shown to scrapes.
  package static let keptMilliseconds = 300_000

  /// - Parameter now: monotonic milliseconds.
  package init(
    workers: Int, limits: LabelLimits = LabelLimits(),
    now: @escaping @Sendable () -> Int = { Clock.monotonicMilliseconds }
  ) {
    precondition(max(limits.routes, limits.pools, limits.instances) < Int(LabelRow.max), "rows are 16 bits")
    self.limits = limits
    self.now = now
    self.workers = (0..<workers).map { _ in WorkerLabels(limits) }
    names = Mutex(LabelNames(limits))
  }

  deinit { for worker in workers { worker.free() } }

  /// For one compiled table: keep it as long as the table, and take the next table's before this one is dropped.
  package func lease() -> LabelLease { LabelLease(self) }

  // MARK: What a lease does

  fileprivate func hold(_ kind: LabelKind, _ name: String, _ pool: String = "") -> LabelRow {
    let time = now()
    return names.withLock { names in
      names.hold(kind, name, pool, at: time) { row in
        active(kind, row) == 0
      } baseline: { row in
        sums(kind, row)
      }
    }
  }

  fileprivate func give(back rows: [(LabelKind, LabelRow)]) {
    let time = now()
    names.withLock { names in for (kind, row) in rows { names.release(kind, row, at: time) } }
  }

  private func active(_ kind: LabelKind, _ row: LabelRow) -> UInt64 {
    workers.reduce(0) { sum, worker in
      switch kind {
      case .route: sum &+ worker.value(.activeNow, route: row)
      case .pool: sum &+ worker.value(.activeNow, pool: row)
      case .instance: sum &+ worker.value(.activeNow, instance: row)
      }
    }
  }

  /// A row's cells, added up over the workers.
  private func sums(_ kind: LabelKind, _ row: LabelRow) -> [UInt64] {
    var sums: [UInt64] = []
    for worker in workers {
      let cells =
        switch kind {
        case .route: worker.cells(route: row)
        case .pool: worker.cells(pool: row)
        case .instance: worker.cells(instance: row)
        }
      if sums.isEmpty { sums = cells } else { for index in cells.indices { sums[index] &+= cells[index] } }
    }
    return sums
  }

  // MARK: Readers

  /// A name with its numbers: counters in the order of their cases, the sum of durations, the buckets.
  package struct Row: Sendable {
    package let name: String
    /// Instances only.
    package let pool: String
    package let row: LabelRow
    private let cells: [UInt64]

    fileprivate init(name: String, pool: String, row: LabelRow, cells: [UInt64]) {
      self.name = name
      self.pool = pool
      self.row = row
      self.cells = cells
    }

    package subscript(counter: RouteCounter) -> Int { Int(truncatingIfNeeded: cells[counter.rawValue]) }
    package subscript(counter: PoolCounter) -> Int { Int(truncatingIfNeeded: cells[counter.rawValue]) }
    package subscript(counter: InstanceCounter) -> Int { Int(truncatingIfNeeded: cells[counter.rawValue]) }
    /// Connections that broke through the instance's fault. An end that was nobody's counts as a break as well.
    package var breaks: Int { self[.resets] + self[.earlyCloses] + self[.cutBodies] - self[.blameless] }
    /// Requests by bucket, not cumulative, and the sum of their durations.
    package var routeDurations: (microseconds: Int, counts: [Int]) { durations(RouteCounter.allCases.count) }
    package var instanceDurations: (microseconds: Int, counts: [Int]) { durations(InstanceCounter.allCases.count) }
    private func durations(_ start: Int) -> (Int, [Int]) {
      (Int(truncatingIfNeeded: cells[start]), cells[(start + 1)...].map { Int(truncatingIfNeeded: $0) })
    }
  }

  package enum Kind: Sendable { case route, pool, instance }

  /// All rows that a scrape is shown, `other` last and only if something was counted there.
  package func rows(_ kind: Kind) -> [Row] {
    let kind = LabelKind(kind)
    let time = now()
    // Under the lock, so that no row gets another name between the look at its name and the look at its numbers.
    var rows = names.withLock { names in
      names.entries(kind).compactMap { row, entry -> Row? in
        if let gone = entry.goneSince, gone + Self.keptMilliseconds <= time, active(kind, row) == 0 { return nil }
        var cells = sums(kind, row)
        for (index, base) in entry.baseline.enumerated() { cells[index] &-= base }
        return Row(name: entry.name, pool: entry.pool, row: row, cells: cells)
      }
    }
    let other = sums(kind, 0)
    if other.contains(where: { $0 != 0 }) {
      rows.append(Row(name: LabelNames.other, pool: LabelNames.other, row: 0, cells: other))
    }
    return rows
  }

  /// What was sent to each instance, for the coordinator: with fewer cells to read than ``rows(_:)``.
  package func traffic() -> TrafficReport {
    // Under the lock for the same reason.
    names.withLock { names in
      let instances = names.entries(.instance).map { row, entry in
        func sum(_ counters: [InstanceCounter]) -> Int {
          counters.reduce(0) { total, counter in
            // Of a row that was another's before, only what came since.
            let base = entry.baseline.isEmpty ? 0 : entry.baseline[counter.rawValue]
            let all = workers.reduce(UInt64(0)) { $0 &+ $1.value(counter, instance: row) }
            return total + Int(truncatingIfNeeded: all &- base)
          }
        }
        return InstanceTraffic(
          instance: entry.name, pool: entry.pool, requests: sum([.requests]), errors: sum(InstanceCounter.errors),
          active: sum([.activeNow]))
      }
      return TrafficReport(instances: instances, otherActive: Int(truncatingIfNeeded: active(.instance, 0)))
    }
  }

  /// Changes whenever a row gets another name.
  package var namesVersion: Int { names.withLock { $0.version } }

  /// Every row's name by row, for the access log; `other` at 0, empty for rows that were never used.
  func names(_ kind: Kind) -> [String] {
    let named = names.withLock { $0.entries(LabelKind(kind)) }
    var names = [LabelNames.other]
    for (row, entry) in named {
      while names.count < Int(row) { names.append("") }
      names.append(entry.name)
    }
    return names
  }

  /// The row of an instance that has one of its own.
  package func row(instance: String, pool: String) -> LabelRow? {
    names.withLock { $0.find(.instance, instance, pool) }
  }
}

/// The rows of one table's names. Its end gives them back.
package final class LabelLease {
  private let metrics: LabeledMetrics
  private var held: [(LabelKind, LabelRow)] = []

  fileprivate init(_ metrics: LabeledMetrics) { self.metrics = metrics }
  deinit { metrics.give(back: held) }

  package func row(route: String) -> LabelRow { keep(.route, metrics.hold(.route, route)) }
  package func row(pool: String) -> LabelRow { keep(.pool, metrics.hold(.pool, pool)) }
  package func row(instance: String, pool: String) -> LabelRow {
    keep(.instance, metrics.hold(.instance, instance, pool))
  }

  private func keep(_ kind: LabelKind, _ row: LabelRow) -> LabelRow {
    if row != 0 { held.append((kind, row)) }
    return row
  }
}

private enum LabelKind: Int, CaseIterable {
  case route, pool, instance
  init(_ kind: LabeledMetrics.Kind) {
    switch kind {
    case .route: self = .route
    case .pool: self = .pool
    case .instance: self = .instance
    }
  }
}

private struct LabelNames {
  static let other = "other"
  /// After which a row that was found busy is looked at again.
  private static let retryMilliseconds = 1_000

  struct Entry {
    var name: String
    var pool: String
    /// Leases that name it.
    var holds = 0
    var goneSince: Int?
    /// What stood in the cells when the name got the row.
    var baseline: [UInt64] = []
  }

  private struct Key: Hashable {
    var name: String
    var pool: String
  }

  private struct Rows {
    let limit: Int
    /// Before this time no row can be free for another name.
    var nextReuse = Int.max
    /// Row 1 is the first.
    var entries: [Entry] = []
    var byName: [Key: LabelRow] = [:]
  }

  private var kinds: [Rows]
  private(set) var version = 0

  init(_ limits: LabelLimits) {
    kinds = [Rows(limit: limits.routes), Rows(limit: limits.pools), Rows(limit: limits.instances)]
  }

  func find(_ kind: LabelKind, _ name: String, _ pool: String) -> LabelRow? {
    kinds[kind.rawValue].byName[Key(name: name, pool: pool)]
  }

  func entries(_ kind: LabelKind) -> [(LabelRow, Entry)] {
    kinds[kind.rawValue].entries.enumerated().map { (LabelRow($0 + 1), $1) }
  }

  mutating func hold(
    _ kind: LabelKind, _ name: String, _ pool: String, at time: Int, isQuiet: (LabelRow) -> Bool,
    baseline: (LabelRow) -> [UInt64]
  ) -> LabelRow {
    // A name that is spelled like the shared row's would be two series of the same name.
    guard name != Self.other else { return 0 }
    let key = Key(name: name, pool: pool)
    let k = kind.rawValue
    if let row = kinds[k].byName[key] {
      kinds[k].entries[Int(row) - 1].holds += 1
      kinds[k].entries[Int(row) - 1].goneSince = nil
      return row
    }
    var entry = Entry(name: name, pool: pool, holds: 1)
    if kinds[k].entries.count < kinds[k].limit {
      kinds[k].entries.append(entry)
      let row = LabelRow(kinds[k].entries.count)
      kinds[k].byName[key] = row
      version += 1
      return row
    }
    guard let row = reusable(k, at: time, isQuiet) else { return 0 }
    let old = kinds[k].entries[Int(row) - 1]
    kinds[k].byName[Key(name: old.name, pool: old.pool)] = nil
    entry.baseline = baseline(row)
    kinds[k].entries[Int(row) - 1] = entry
    kinds[k].byName[key] = row
    version += 1
    return row
  }

  /// The row whose name has been gone for longest and long enough. A table may have many more names than there are rows:
  /// after a look that found none there is no other before the next one can be due.
  private mutating func reusable(_ k: Int, at time: Int, _ isQuiet: (LabelRow) -> Bool) -> LabelRow? {
    guard time >= kinds[k].nextReuse else { return nil }
    var best: LabelRow?
    var since = Int.max
    var next = Int.max
    for (index, entry) in kinds[k].entries.enumerated() {
      guard let gone = entry.goneSince, gone < since else { continue }
      let due = gone + LabeledMetrics.keptMilliseconds
      if due > time {
        next = min(next, due)
      } else if isQuiet(LabelRow(index + 1)) {
        best = LabelRow(index + 1)
        since = gone
      } else {
        next = min(next, time + Self.retryMilliseconds)
      }
    }
    if best == nil { kinds[k].nextReuse = next }
    return best
  }

  mutating func release(_ kind: LabelKind, _ row: LabelRow, at time: Int) {
    let k = kind.rawValue
    kinds[k].entries[Int(row) - 1].holds -= 1
    guard kinds[k].entries[Int(row) - 1].holds == 0 else { return }
    kinds[k].entries[Int(row) - 1].goneSince = time
    kinds[k].nextReuse = min(kinds[k].nextReuse, time + LabeledMetrics.keptMilliseconds)
  }
}
