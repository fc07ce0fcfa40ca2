// A Redis command as a value: which words go out and how the answer is read. Both planes build their commands here
// and run them with the Redis target (blocking on threads of their own, or async in the control plane).

/// A RESP2 value.
package enum Reply: Sendable, Equatable {
  case null
  case int(Int)
  case string([UInt8])
  case status(String)
  case error(String)
  case array([Reply])
}

/// A Lua script. Every change of more than one key is one script, and `now` is always an argument.
package struct Script: Sendable {
  /// Names it in logs and errors, e.g. `ports.allocate`.
  package let name: String
  package let source: String
  package init(name: String, source: String) {
    self.name = name
    self.source = source
  }
}

/// The answer of Redis was an error or not of the expected shape.
package struct StateError: Error, Equatable, Sendable, CustomStringConvertible {
  package let description: String
  package init(_ description: String) { self.description = description }
}

/// One command and the reading of its answer.
package struct Command<Result: Sendable>: Sendable {
  package enum Body: Sendable {
    /// The words of a plain command, e.g. `["HGETALL", "berth:pools"]`.
    case words([String])
    /// A script, sent as EVALSHA and loaded on NOSCRIPT.
    case script(Script, keys: [String], arguments: [String])
  }
  package let body: Body
  /// Reads the answer; never sees `.error`, which the executor turns into a ``StateError`` itself.
  package let parse: @Sendable (Reply) throws(StateError) -> Result

  package init(_ body: Body, parse: @escaping @Sendable (Reply) throws(StateError) -> Result) {
    self.body = body
    self.parse = parse
  }
}
