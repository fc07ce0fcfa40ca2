// What an operator says about replacing instances that work but are worn: a browser that has leaked for a day, a Firecrawl
// after its hundredth request. Settings fills it, the reconciler's Recycling goes by it; docs/recycling.md has the formulas.

/// When an instance is replaced, and how many may be replaced at once. 0 = never, for each of the thresholds. The sessions
/// after which an instance is replaced stand in the pool itself, because replicas count them.
package struct RecyclePolicy: Sendable, Equatable {
  /// Requests, tunnels included, over all replicas.
  package var afterRequests: Int
  /// Its age.
  package var afterMilliseconds: Int
  /// The memory of its processes.
  package var aboveMemoryMegabytes: Int
  /// By how much the thresholds of single instances may lie below these, so that instances that started together are not
  /// replaced together.
  package var jitterPercent: Int
  /// Replacements that may be there, besides `max`, before what they replace goes; 0 = it goes first.
  package var maxSurge: Int
  /// Instances that may be out because of recycling, without a replacement that is ready.
  package var maxUnavailable: Int
  /// Recycling without a replacement never leaves fewer ready instances than this.
  package var minReady: Int
  package var drain: DrainPolicy

  package init(
    afterRequests: Int = 0, afterMilliseconds: Int = 0, aboveMemoryMegabytes: Int = 0, jitterPercent: Int = 10,
    maxSurge: Int = 1, maxUnavailable: Int = 0, minReady: Int = 1, drain: DrainPolicy = DrainPolicy()
  ) {
    self.afterRequests = afterRequests
    self.afterMilliseconds = afterMilliseconds
    self.aboveMemoryMegabytes = aboveMemoryMegabytes
    self.jitterPercent = jitterPercent
    self.maxSurge = maxSurge
    self.maxUnavailable = maxUnavailable
    self.minReady = minReady
    self.drain = drain
  }

  /// Whether something beside sessions can make an instance due.
  package var hasThresholds: Bool { afterRequests > 0 || afterMilliseconds > 0 || aboveMemoryMegabytes > 0 }

  /// Memory of an instance that is younger is not looked at, so that a threshold below what a start needs does not
  /// replace instances as fast as they start.
  package var memorySettlingMilliseconds = 60_000

  /// The first thing that cannot work, as a sentence.
  package func contradiction(max: Int) -> String? {
    if maxSurge == 0, maxUnavailable == 0 {
      return "maxSurge and maxUnavailable are both 0, so that no instance could ever be replaced"
    }
    if maxSurge == 0, minReady >= max {
      return "minReady (\(minReady)) leaves none of max (\(max)) instances that could be replaced without a surge"
    }
    if drain.timeoutMilliseconds > 0, drain.minimumMilliseconds > drain.timeoutMilliseconds {
      return
        "drainMinimumMilliseconds (\(drain.minimumMilliseconds)) is longer than drainTimeoutMilliseconds (\(drain.timeoutMilliseconds))"
    }
    return nil
  }
}

/// How long an instance that gets no more clients keeps those it has. Durations are milliseconds.
package struct DrainPolicy: Sendable, Equatable {
  /// Also when nothing is under way: for servers that work on after they have answered.
  package var minimumMilliseconds: Int
  /// After which whatever is left is cut off; 0 = as long as it takes.
  package var timeoutMilliseconds: Int

  /// Of pools without slots, unless the configuration says something else: whoever has a slot has a session, which ends at
  /// its own limit.
  package static let usualTimeoutMilliseconds = 300_000

  package init(minimumMilliseconds: Int = 0, timeoutMilliseconds: Int = 0) {
    self.minimumMilliseconds = minimumMilliseconds
    self.timeoutMilliseconds = timeoutMilliseconds
  }
}
