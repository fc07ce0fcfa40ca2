// The states of an instance and which one may follow which. The supervisor asks here before it writes a state, so that
// a late answer (a launch that succeeds after its instance was told to stop) cannot bring back what has been given up.
package import Routing

/// Where one instance is in its life.
///
///     starting → ready ⇄ unhealthy
///         │        │         │
///         │        └→ draining ←┘
///         └──────────→ stopping → gone
package struct InstanceLifecycle: Sendable, Equatable {
  /// nil = gone.
  package private(set) var state: InstanceState?

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
    return true
  }
}
