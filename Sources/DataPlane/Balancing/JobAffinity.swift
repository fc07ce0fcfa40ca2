// Firecrawl: a job id leads back to the instance that made the job, as instances do not share their state.

/// A job's id as two independent hashes: long enough that no two jobs ever share one.
package struct JobKey: Sendable, Hashable, BitwiseCopyable {
  let a: UInt64
  let b: UInt64
  package init(_ id: Span<UInt8>) {
    a = StableHash.of(id)
    b = 0
  }
}

/// Which instance made which job, for all workers of a process. It takes a lock, so only routes with job affinity ask it.
package final class JobAffinity: Sendable {
  /// - Parameter capacity: jobs that are remembered; the ones not asked for longest give way. About 32 bytes each.
  package init(capacity: Int = 65_536) {}

  /// The instance's key (``BalancerMember/key``), or nil.
  package func instance(of job: JobKey) -> UInt64? { nil }
  package func remember(_ job: JobKey, instance: UInt64) {}
  /// Jobs that were forgotten to make room for others.
  package var evictions: UInt64 { 0 }
}

/// What a path says about jobs.
package enum JobPath: Equatable, Sendable {
  /// `POST` to it may make a job, whose id is in the answer: `/v1/crawl`, `/v2/batch/scrape`, `/v1/extract`, `/v1/scrape` …
  case makes
  /// It names a job, at this range of the path: `/v1/crawl/<id>`, `/v2/crawl/<id>/errors` …
  case names(Range<Int>)
  case other

  /// - Parameter path: without query. What a route put before `/v1` does not matter.
  package init(_ path: Span<UInt8>) { self = .other }
}

/// Finds the id of a new job in the answer's body, piece by piece. Costs an allocation: for routes with job affinity only.
package struct JobAnswer: Sendable {
  package enum Result: Equatable, Sendable {
    case needsMore
    case found(id: [UInt8])
    /// There is none: not an object, malformed, or not within the first 64 KiB.
    case none
  }
  package static let limit = 65_536

  package init() {}
  /// - Parameter bytes: the next piece of the body, without transfer coding
  package mutating func read(_ bytes: Span<UInt8>) -> Result { .none }
}
