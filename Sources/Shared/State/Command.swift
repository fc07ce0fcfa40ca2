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

/// The answer of Redis was not of the expected shape.
package struct StateError: Error, Equatable, Sendable, CustomStringConvertible {
  package let description: String
  package init(_ description: String) { self.description = description }
}

/// What goes to Redis.
package enum CommandBody: Sendable {
  /// The words of a plain command, e.g. `["HGETALL", "berth:pools"]`.
  case words([String])
  /// A script, sent as EVALSHA and loaded on NOSCRIPT.
  case script(Script, keys: [String], arguments: [String])

  /// What errors call the command; arguments are left out, as they may be long or secret.
  package var name: String {
    switch self {
    case .words(let words): words.first ?? "(empty command)"
    case .script(let script, _, _): script.name
    }
  }
}

/// One command and the reading of its answer.
package struct Command<Result: Sendable>: Sendable {
  package typealias Body = CommandBody

  package let body: CommandBody
  /// Whether it may be sent again when the connection was lost before the answer came. True for every script of this
  /// room: each one finds its own earlier work and leaves it as it is.
  package let mayRepeat: Bool
  /// Reads the answer; never sees `.error`, which the executor throws as `RedisError.server` itself.
  package let parse: @Sendable (Reply) throws(StateError) -> Result

  /// `mayRepeat`: nil means yes for a script, no for plain words.
  package init(
    _ body: CommandBody, mayRepeat: Bool? = nil, parse: @escaping @Sendable (Reply) throws(StateError) -> Result
  ) {
    self.body = body
    self.mayRepeat =
      switch (mayRepeat, body) {
      case (let given?, _): given
      case (nil, .script): true
      case (nil, .words): false
      }
    self.parse = parse
  }

  /// The same command when only its success matters, so that commands of different kinds share a pipeline.
  package var ignoringResult: Command<Void> {
    Command<Void>(body, mayRepeat: mayRepeat) { [parse] (reply: Reply) throws(StateError) in _ = try parse(reply) }
  }
}
