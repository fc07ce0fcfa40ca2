// How long sessions of a pool may live and wait, and what a client may ask for within that. Settings fills the limits,
// REST resolves what a client asked for.

/// The limits of a pool's sessions. Durations are milliseconds.
package struct SessionLimits: Sendable, Equatable {
  /// The longest life of a session that asks for no other.
  package var hardMilliseconds: Int
  /// The longest life that a client may ask for; 0 = as `hardMilliseconds`.
  package var hardMaximumMilliseconds: Int
  /// How long a session may move no byte; 0 = as long as the hard limit.
  package var idleMilliseconds: Int
  /// How long discovery (`/json/version`) holds a slot for the WebSocket that should follow.
  package var reservationMilliseconds: Int
  /// How long a session that was not made through REST outlives its last socket.
  package var graceMilliseconds: Int
  /// The longest grace that a client may ask for; 0 = as long as its session may live.
  package var graceMaximumMilliseconds: Int

  /// What is shorter than this ends before a client could use it.
  package static let shortestMilliseconds = 1_000

  package init(
    hardMilliseconds: Int = 1_800_000, idleMilliseconds: Int = 0, reservationMilliseconds: Int = 10_000,
    graceMilliseconds: Int = 0, hardMaximumMilliseconds: Int = 0, graceMaximumMilliseconds: Int = 0
  ) {
    self.hardMilliseconds = hardMilliseconds
    self.idleMilliseconds = idleMilliseconds
    self.reservationMilliseconds = reservationMilliseconds
    self.graceMilliseconds = graceMilliseconds
    self.hardMaximumMilliseconds = hardMaximumMilliseconds
    self.graceMaximumMilliseconds = graceMaximumMilliseconds
  }

  /// The longest life that a session can have, however often it is prolonged.
  package var longestLifeMilliseconds: Int { Swift.max(hardMilliseconds, hardMaximumMilliseconds) }

  /// What one session gets.
  package struct Resolved: Sendable, Equatable {
    package var hardMilliseconds: Int
    package var idleMilliseconds: Int
    /// How long it outlives its last socket; nil = to its limits.
    package var graceMilliseconds: Int?

    package init(_ hardMilliseconds: Int, _ idleMilliseconds: Int, grace: Int? = nil) {
      self.hardMilliseconds = hardMilliseconds
      self.idleMilliseconds = idleMilliseconds
      graceMilliseconds = grace
    }
  }

  /// Why a client cannot have the limits that it asked for.
  package struct Refusal: Error, Equatable, Sendable, CustomStringConvertible {
    package let description: String
  }

  /// The limits of a session whose client asked for these; nil = the pool's. Asking for more than the pool allows is
  /// refused rather than cut short, because a client that plans with an hour should not find out after half of it.
  package func resolve(timeout: Int?, idleTimeout: Int?, grace: Int? = nil) throws(Refusal) -> Resolved {
    let hard = timeout ?? hardMilliseconds
    try check("timeout", hard, in: Self.shortestMilliseconds...longestLifeMilliseconds)
    if let grace {
      try check("grace", grace, in: 0...(graceMaximumMilliseconds > 0 ? graceMaximumMilliseconds : hard))
    }
    guard let idle = idleTimeout else {
      return Resolved(hard, Swift.min(idleMilliseconds, hard), grace: grace)
    }
    let longest = idleMilliseconds > 0 ? Swift.min(idleMilliseconds, hard) : hard
    try check("idleTimeout", idle, in: Self.shortestMilliseconds...longest)
    return Resolved(hard, idle, grace: grace)
  }

  /// The time that a keepalive asks for.
  package func checkKeepAlive(timeout: Int) throws(Refusal) {
    try check("timeout", timeout, in: Self.shortestMilliseconds...longestLifeMilliseconds)
  }

  private func check(_ name: String, _ value: Int, in range: ClosedRange<Int>) throws(Refusal) {
    guard !range.contains(value) else { return }
    throw Refusal(
      description: "\"\(name)\" must be from \(range.lowerBound) to \(range.upperBound) milliseconds, not \(value)")
  }
}

/// How clients wait for a slot.
package struct QueueLimits: Sendable, Equatable {
  /// How long a client waits before it gets 503.
  package var timeoutMilliseconds: Int
  /// How many clients may wait before the next one gets 429.
  package var limit: Int

  package init(timeoutMilliseconds: Int = 30_000, limit: Int = 1_000) {
    self.timeoutMilliseconds = timeoutMilliseconds
    self.limit = limit
  }
}
