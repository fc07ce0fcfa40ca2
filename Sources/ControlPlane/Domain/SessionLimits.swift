// How long sessions of a pool may live and wait, and what a client may ask for within that. Settings fills the limits,
// REST resolves what a client asked for.

/// The limits of a pool's sessions. Durations are milliseconds.
package struct SessionLimits: Sendable, Equatable {
  /// The longest life of a session.
  package var hardMilliseconds: Int
  /// How long a session may move no byte; 0 = as long as the hard limit.
  package var idleMilliseconds: Int
  /// How long discovery (`/json/version`) holds a slot for the WebSocket that should follow.
  package var reservationMilliseconds: Int
  /// How long a session that was not made through REST outlives its last socket.
  package var graceMilliseconds: Int

  /// What is shorter than this ends before a client could use it.
  package static let shortestMilliseconds = 1_000

  package init(
    hardMilliseconds: Int = 1_800_000, idleMilliseconds: Int = 0, reservationMilliseconds: Int = 10_000,
    graceMilliseconds: Int = 0
  ) {
    self.hardMilliseconds = hardMilliseconds
    self.idleMilliseconds = idleMilliseconds
    self.reservationMilliseconds = reservationMilliseconds
    self.graceMilliseconds = graceMilliseconds
  }

  /// What one session gets.
  package struct Resolved: Sendable, Equatable {
    package var hardMilliseconds: Int
    package var idleMilliseconds: Int

    package init(_ hardMilliseconds: Int, _ idleMilliseconds: Int) {
      self.hardMilliseconds = hardMilliseconds
      self.idleMilliseconds = idleMilliseconds
    }
  }

  /// Why a client cannot have the limits that it asked for.
  package struct Refusal: Error, Equatable, Sendable, CustomStringConvertible {
    package let description: String
  }

  /// The limits of a session whose client asked for these; nil = the pool's. Asking for more than the pool allows is
  /// refused rather than cut short, because a client that plans with an hour should not find out after half of it.
  package func resolve(timeout: Int?, idleTimeout: Int?) throws(Refusal) -> Resolved {
    let hard = timeout ?? hardMilliseconds
    guard hard >= Self.shortestMilliseconds, hard <= hardMilliseconds else {
      throw Refusal(
        description:
          "\"timeout\" must be from \(Self.shortestMilliseconds) to \(hardMilliseconds) milliseconds, not \(hard)")
    }
    guard let idle = idleTimeout else {
      return Resolved(hard, Swift.min(idleMilliseconds, hard))
    }
    let longest = idleMilliseconds > 0 ? Swift.min(idleMilliseconds, hard) : hard
    guard idle >= Self.shortestMilliseconds, idle <= longest else {
      throw Refusal(
        description:
          "\"idleTimeout\" must be from \(Self.shortestMilliseconds) to \(longest) milliseconds, not \(idle)")
    }
    return Resolved(hard, idle)
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
