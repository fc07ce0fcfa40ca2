// The states of an instance and which one may follow which. The supervisor asks here before it writes a state, so that
// a late answer (a launch that succeeds after its instance was told to stop) cannot bring back what has been given up.
package import Routing

/// Where one instance is in its life, and what its last health checks said.
///
///     starting → ready ⇄ unhealthy
///         │        │         │
///         │        └→ draining ←┘
///         └──────────→ stopping → gone
package struct InstanceLifecycle: Sendable, Equatable {
  /// nil = gone.
  package private(set) var state: InstanceState?
  /// Failed health checks in a row.
  package private(set) var failures = 0
  /// Good health checks in a row, counted while it is unhealthy.
  package private(set) var successes = 0

  package init(_ state: InstanceState) { self.state = state }

  /// What can happen to an instance.
  package enum Event: Sendable, Equatable, CaseIterable {
    /// It answered as it should for the first time.
    case answered
    /// Too many health checks failed.
    case failed
    /// Enough health checks were good again.
    case recovered
    /// It shall get no more clients; those it has may finish.
    case drain
    /// It shall end now.
    case stop
    /// Its process has ended.
    case exited
  }

  /// The state that follows, or nil in `some` form when it is gone; `.none` when the event has no meaning in this state.
  package func next(_ event: Event) -> InstanceState?? {
    guard let state else { return .none }
    return switch (state, event) {
    case (_, .exited): .some(nil)
    case (.starting, .answered), (.unhealthy, .recovered): .ready
    case (.ready, .failed): .unhealthy
    case (.ready, .drain), (.unhealthy, .drain): .draining
    case (.starting, .stop), (.ready, .stop), (.unhealthy, .stop), (.draining, .stop): .stopping
    default: .none
    }
  }

  /// Takes the event; false and no change when it has no meaning in this state.
  package mutating func apply(_ event: Event) -> Bool {
    guard let next = next(event) else { return false }
    state = next
    if event == .answered || event == .recovered { failures = 0 }
    return true
  }

  /// Counts a health check; returns the event that it amounts to, which the caller then applies.
  package mutating func checked(well: Bool, by policy: HealthPolicy) -> Event? {
    if well {
      failures = 0
      successes += 1
      return state == .unhealthy && successes >= policy.successes ? .recovered : nil
    }
    successes = 0
    failures += 1
    return state == .ready && failures >= policy.failures ? .failed : nil
  }
}
