// What an operator says about the size of a pool beyond min, max and spare. Settings fills it, the scaler goes by it;
// docs/scaling.md has the formulas.

/// How a pool grows and shrinks. Durations are milliseconds.
package struct ScalingPolicy: Sendable, Equatable {
  /// How long more instances than needed must have been there before one is stopped, so that a lull does not cost the
  /// next client a cold start.
  package var downAfterMilliseconds: Int
  /// For pools without slots: the requests and connections that one instance should have at a time. They count as its
  /// slots for the scaler, and only for it: nobody is refused or queued by them. 0 = such a pool does not grow.
  package var targetActive: Int

  package init(downAfterMilliseconds: Int = 60_000, targetActive: Int = 0) {
    self.downAfterMilliseconds = downAfterMilliseconds
    self.targetActive = targetActive
  }
}
