// Which requests make Firecrawl jobs and which ask for one: the paths of its routers, apps/api/src/routes/v0.ts, v1.ts and
// v2.ts in github.com/firecrawl/firecrawl. The worker asks for each request of a route with job affinity.

/// What a path says about jobs.
package enum JobPath: Equatable, Sendable {
  /// `POST` to it may make a job, whose id is in the answer: `/v1/crawl`, `/v2/batch/scrape`, `/v1/extract`, `/v1/scrape` …
  case makes
  /// It names a job, at this range of the path: `/v1/crawl/<id>`, `/v2/crawl/<id>/errors` …
  case names(Range<Int>)
  case other

  /// - Parameter path: without query. What a route put before `/v1` does not matter.
  package init(_ path: Span<UInt8>) {
    self = .other
    var segment = Self.next(path, 0)
    while !segment.isEmpty, !Self.isVersion(path, segment) { segment = Self.next(path, segment.upperBound) }
    guard !segment.isEmpty else { return }
    segment = Self.next(path, segment.upperBound)
    guard let kind = Self.kinds.firstIndex(where: { Self.equals(path, segment, $0) }) else { return }
    var following = Self.next(path, segment.upperBound)
    if kind == Self.batch {
      guard Self.equals(path, following, Self.scrape) else { return }
      following = Self.next(path, following.upperBound)
    }
    // v0 says what it wants before the id.
    if Self.equals(path, following, Self.status) || Self.equals(path, following, Self.cancel) {
      following = Self.next(path, following.upperBound)
    }
    if following.isEmpty {
      self = kind == Self.check ? .other : .makes
    } else if Self.isID(path, following) {
      self = .names(following)
    }
  }

  private static let scrape = Array("scrape".utf8)
  private static let status = Array("status".utf8)
  private static let cancel = Array("cancel".utf8)
  private static let kinds = [
    "batch", "checkJobStatus", "crawl", "scrape", "extract", "agent", "llmstxt", "deep-research",
  ].map { Array($0.utf8) }
  private static let batch = 0
  private static let check = 1

  /// Ids are UUIDs; whatever else may come, words like `ongoing` or `params-preview` have no digit.
  private static func isID(_ path: Span<UInt8>, _ segment: Range<Int>) -> Bool {
    guard (8...64).contains(segment.count) else { return false }
    var hasDigit = false
    for index in segment {
      switch path[index] {
      case UInt8(ascii: "0")...UInt8(ascii: "9"): hasDigit = true
      case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"): break
      case UInt8(ascii: "-"), UInt8(ascii: "_"): break
      default: return false
      }
    }
    return hasDigit
  }

  /// `v` and digits.
  private static func isVersion(_ path: Span<UInt8>, _ segment: Range<Int>) -> Bool {
    guard segment.count >= 2, path[segment.lowerBound] == UInt8(ascii: "v") else { return false }
    for index in segment.dropFirst() where path[index] &- 0x30 > 9 { return false }
    return true
  }

  /// The segment after this index; empty at the end.
  private static func next(_ path: Span<UInt8>, _ index: Int) -> Range<Int> {
    var start = index
    while start < path.count, path[start] == UInt8(ascii: "/") { start += 1 }
    var end = start
    while end < path.count, path[end] != UInt8(ascii: "/") { end += 1 }
    return start..<end
  }

  private static func equals(_ path: Span<UInt8>, _ segment: Range<Int>, _ text: [UInt8]) -> Bool {
    guard segment.count == text.count else { return false }
    for index in text.indices where path[segment.lowerBound + index] != text[index] { return false }
    return true
  }
}
