// Why Redis could not do what was asked, in sentences that an operator can act on. Thrown by everything in this room.
package import State

package enum RedisError: Error, Sendable, Equatable, CustomStringConvertible {
  /// No connection could be made, or Redis refused the password, the database or the client.
  case connect(String)
  /// No answer in time. The connection is closed, as a late answer would be taken for the next one's.
  case timeout(String, mayHaveRun: Bool)
  /// The connection was lost, or is closed.
  case closed(String, mayHaveRun: Bool)
  /// Redis answered with an error; its own words, e.g. `FENCED …` or `OOM …`. Nothing else is wrong with the connection.
  case server(String)
  /// Redis answered with something else than expected.
  case state(StateError)
  /// ``RedisClient``'s queue is full.
  case queueFull(String)
  /// ``RedisInterrupter/interrupt()`` was called.
  case interrupted
  /// ``RedisClient/shutdown()`` was called before the command was sent.
  case shutdown

  /// Whether Redis may have executed the command although no answer came.
  package var mayHaveRun: Bool {
    switch self {
    case .timeout(_, let mayHaveRun), .closed(_, let mayHaveRun): mayHaveRun
    case .server, .state, .interrupted: true
    case .connect, .queueFull, .shutdown: false
    }
  }

  /// A guarded write came from a control plane that does not lead (any more).
  package var isFenced: Bool {
    if case .server(let message) = self { message.hasPrefix("FENCED") } else { false }
  }

  /// Whether the same thing may go well a little later: Redis cannot be reached or is overloaded now.
  package var isUnavailable: Bool {
    switch self {
    case .connect, .timeout, .closed, .queueFull: true
    case .server(let message): RedisError.isTemporary(message)
    case .state, .interrupted, .shutdown: false
    }
  }

  /// Errors of a server that starts, fails over or runs a stuck script; another connection, later, may work.
  static func isTemporary(_ message: String) -> Bool {
    ["LOADING", "READONLY", "MASTERDOWN", "NOREPLICAS", "BUSY", "TRYAGAIN", "CLUSTERDOWN"].contains {
      message.hasPrefix($0 + " ")
    }
  }

  package var description: String {
    switch self {
    case .connect(let text), .queueFull(let text): text
    case .timeout(let text, let mayHaveRun), .closed(let text, let mayHaveRun):
      mayHaveRun ? text + "; it may have been executed" : text
    case .server(let text): "Redis refused: " + text
    case .state(let error): error.description
    case .interrupted: "the wait for Redis was interrupted, because this program stops"
    case .shutdown: "the Redis client is shut down"
    }
  }
}
