// Firecrawl: a job id leads back to the instance that made the job, as instances do not share their state. Which paths
// and answers hold ids is in JobPath.swift and JobAnswer.swift.

import Synchronization

/// A job's id as two independent hashes: long enough that no two jobs ever share one.
package struct JobKey: Sendable, Hashable, BitwiseCopyable {
  let a: UInt64
  let b: UInt64

  /// Of no job.
  fileprivate init() {
    a = 0
    b = 0
  }

  package init(_ id: Span<UInt8>) {
    a = StableHash.of(id)
    b = StableHash.of(id, seed: 0x9E6C_63D0_676A_9A99)
  }
}

/// Which instance made which job, for all workers of a process. It takes a lock, so only routes with job affinity ask it.
package final class JobAffinity: Sendable {
  private static let ways = 8

  private struct Entry: BitwiseCopyable {
    var job: JobKey
    var instance: UInt64
    /// When it was last asked for, in requests; 0 = empty.
    var used: UInt64 = 0
  }

  private struct Table {
    var entries: [Entry]
    var clock: UInt64 = 0
    var evictions: UInt64 = 0

    /// A job has eight places; of these, the one not asked for longest gives way.
    func home(of job: JobKey) -> Range<Int> {
      let first = Int(truncatingIfNeeded: job.b & UInt64(entries.count / JobAffinity.ways - 1)) * JobAffinity.ways
      return first..<first + JobAffinity.ways
    }
  }

  private let table: Mutex<Table>

  /// - Parameter capacity: jobs that are remembered, rounded up to a power of two; the ones not asked for longest give
  ///   way. 32 bytes each.
  package init(capacity: Int = 65_536) {
    var count = Self.ways
    while count < capacity, count < 1 << 24 { count *= 2 }
    let empty = Entry(job: JobKey(), instance: 0)
    table = Mutex(Table(entries: [Entry](repeating: empty, count: count)))
  }

  /// The instance's key (``BalancerMember/key``), or nil.
  package func instance(of job: JobKey) -> UInt64? {
    table.withLock { table in
      for index in table.home(of: job) where table.entries[index].used > 0 && table.entries[index].job == job {
        table.clock += 1
        table.entries[index].used = table.clock
        return table.entries[index].instance
      }
      return nil
    }
  }

  /// The job is this instance's from now on.
  package func remember(_ job: JobKey, instance: UInt64) {
    table.withLock { table in
      table.clock += 1
      var oldest = table.home(of: job).lowerBound
      for index in table.home(of: job) {
        if table.entries[index].used > 0, table.entries[index].job == job {
          oldest = index
          break
        }
        if table.entries[index].used < table.entries[oldest].used { oldest = index }
      }
      if table.entries[oldest].used > 0, table.entries[oldest].job != job { table.evictions += 1 }
      table.entries[oldest] = Entry(job: job, instance: instance, used: table.clock)
    }
  }

  /// Jobs that were forgotten to make room for others.
  package var evictions: UInt64 { table.withLock { $0.evictions } }
}
