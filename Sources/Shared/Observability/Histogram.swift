// Observations counted by size, for durations in /metrics. A value: whoever shares one guards it.

package struct Histogram: Sendable, Equatable {
  /// Upper bounds in ascending order, in base units.
  package let bounds: [Double]
  /// One count for each bound, and one for what lies above all of them.
  package private(set) var counts: [Int]
  package private(set) var sum = 0.0

  package init(bounds: [Double]) {
    precondition(!bounds.isEmpty && zip(bounds, bounds.dropFirst()).allSatisfy { $0 < $1 }, "bounds must ascend")
    self.bounds = bounds
    counts = [Int](repeating: 0, count: bounds.count + 1)
  }

  package var count: Int { counts.reduce(0, +) }

  package mutating func observe(_ value: Double) {
    counts[bounds.firstIndex { value <= $0 } ?? bounds.count] += 1
    sum += value
  }
}

extension MetricsText {
  /// One histogram of the family that was begun.
  package mutating func histogram(_ histogram: Histogram, _ labels: Labels = [:]) {
    self.histogram(bounds: histogram.bounds, counts: histogram.counts, sum: histogram.sum, labels)
  }
}
