// One blocking connection to Redis, for a thread that may wait: the threads of RedisClient, the route feed and the
// coordinator of a replica. It does not reconnect; its owner makes a new one after an error, with Backoff between tries.
package import State

/// Limits and names of connections.
package struct RedisOptions: Sendable {
  /// For asking sentinels, looking up, connecting, TLS and AUTH together.
  package var connectTimeoutMilliseconds = 2_000
  /// For the answers of one ``RedisConnection/run(_:)`` or pipeline.
  package var commandTimeoutMilliseconds = 5_000
  /// Shown by CLIENT LIST; no spaces.
  package var clientName: String? = nil
  package var maximumReplyBytes = 256 << 20
  package init() {}
  package init(connectTimeoutMilliseconds: Int, commandTimeoutMilliseconds: Int, clientName: String? = nil) {
    self.connectTimeoutMilliseconds = connectTimeoutMilliseconds
    self.commandTimeoutMilliseconds = commandTimeoutMilliseconds
    self.clientName = clientName
  }
}

/// A connection that belongs to one thread. After ``RedisError/timeout(_:mayHaveRun:)`` or
/// ``RedisError/closed(_:mayHaveRun:)`` it is closed: make a new one. Error replies leave it open.
package final class RedisConnection {
  /// As it was given; with sentinels, ``server`` is the master they named.
  package let url: RedisURL
  /// Where it leads.
  package let server: RedisURL
  package let options: RedisOptions
  /// Names the Redis process at its other end (`run_id` of INFO), which a restart or a fail-over changes; nil where INFO is
  /// not allowed.
  package private(set) var process: String?
  /// Ends this connection's waits from another thread.
  package let interrupter: RedisInterrupter
  private let transport: any Transport
  private let reader: ReplyReader
  private var buffer = [UInt8](repeating: 0, count: 32 << 10)
  /// What SCRIPT LOAD answered, by the script's name.
  private var loaded: [String: (source: String, sha: String)] = [:]
  /// Why it is closed; nil while it is open.
  private var end: String?
  private var channels: [String] = []

  /// Connects, authenticates and chooses the database. `interrupter`: given by an owner that makes several connections
  /// one after the other.
  package init(url: RedisURL, options: RedisOptions = RedisOptions(), interrupter: RedisInterrupter? = nil)
    throws(RedisError)
  {
    let interrupter =
      if let interrupter { interrupter } else { try RedisInterrupter() }
    if interrupter.isInterrupted { throw .interrupted }
    self.url = url
    self.options = options
    self.interrupter = interrupter
    reader = ReplyReader(maximumReplyBytes: options.maximumReplyBytes)
    let deadline = Deadline(milliseconds: options.connectTimeoutMilliseconds)
    server = try SentinelLookup.server(of: url, interrupter: interrupter, deadline)
    let plain: PlainTransport
    do throws(RedisError) {
      let socket = try dial(server, interrupter: interrupter, deadline)
      plain = PlainTransport(socket: socket, interrupter: interrupter)
      if let tls = server.tls, case .tcp(let host, _) = server.place {
        transport = try TLSTransport(plain, host: host, settings: tls, interrupter: interrupter, deadline)
      } else {
        transport = plain
      }
    } catch {
      SentinelLookup.wasWrong(url)
      throw error
    }
    do throws(RedisError) { try greet(deadline) } catch {
      SentinelLookup.wasWrong(url)
      throw error
    }
    if case .sentinel(let sentinels) = url.place, case .tcp(let host, let port) = server.place {
      plain.watch = SentinelWatch.of(url, sentinels)
      plain.watch?.follow(plain.socket, to: RedisURL.Sentinels.Address(host: host, port: port))
    }
  }

  deinit { transport.close() }

  package var isOpen: Bool { end == nil }

  package func close() { shut("the connection to \(url) was closed") }

  /// Runs one command and waits for its answer.
  @discardableResult
  package func run<R: Sendable>(_ command: Command<R>) throws(RedisError) -> R {
    try exchange([command.body])[0].read(command)
  }

  /// Runs commands in one round trip; each has its own result. Throws when the connection was lost: then none of the
  /// results is known.
  @discardableResult
  package func pipeline<R: Sendable>(_ commands: [Command<R>]) throws(RedisError) -> [Result<R, RedisError>] {
    let replies = try exchange(commands.map(\.body))
    return zip(replies, commands).map { reply, command in
      Result { () throws(RedisError) -> R in try reply.read(command) }
    }
  }

  /// Whether Redis has said or ended something although nothing was asked: an idle connection that is broken is
  /// noticed before anything is sent on it.
  var isStale: Bool { end != nil || transport.hasInput }
}

// MARK: Commands

extension RedisConnection {
  /// Sends the commands and reads their replies, error replies included. Scripts that this connection has not loaded,
  /// or that Redis lost in a restart, are loaded first, in round trips of their own.
  func exchange(_ bodies: [CommandBody]) throws(RedisError) -> [Reply] {
    guard !bodies.isEmpty else { return [] }
    if let end { throw .closed(end, mayHaveRun: false) }
    precondition(channels.isEmpty, "a subscribed connection runs no commands")
    let deadline = Deadline(milliseconds: options.commandTimeoutMilliseconds)
    try load(bodies, deadline)
    var replies = try roundTrip(bodies.map(words), deadline, name: bodies[0].name)

    // NOSCRIPT means that nothing was executed, so these may go again.
    let missing = replies.indices.filter { replies[$0].isNoScript }
    if !missing.isEmpty {
      loaded = [:]
      let again = missing.map { bodies[$0] }
      try load(again, deadline)
      let later = try roundTrip(again.map(words), deadline, name: again[0].name)
      for (index, reply) in zip(missing, later) { replies[index] = reply }
    }
    // It was the master and is none any more: the next connection finds the one that is.
    if replies.contains(where: \.isReadOnly) { shut("\(server) is a replica now") }
    return replies
  }

  private func load(_ bodies: [CommandBody], _ deadline: Deadline) throws(RedisError) {
    var scripts: [Script] = []
    for case .script(let script, _, _) in bodies
    where loaded[script.name]?.source != script.source && !scripts.contains(where: { $0.name == script.name }) {
      scripts.append(script)
    }
    guard !scripts.isEmpty else { return }
    let replies = try roundTrip(
      scripts.map { ["SCRIPT", "LOAD", $0.source] }, deadline, name: "SCRIPT LOAD", runs: false)
    for (script, reply) in zip(scripts, replies) {
      if case .error(let message) = reply { throw .server("script \(script.name): \(message)") }
      guard let sha = reply.text else { throw .state(StateError("SCRIPT LOAD of \(script.name): no SHA1 came")) }
      loaded[script.name] = (script.source, sha)
    }
  }

  private func words(_ body: CommandBody) -> [String] {
    switch body {
    case .words(let words): return words
    case .script(let script, let keys, let arguments):
      guard let sha = loaded[script.name]?.sha else { preconditionFailure("script \(script.name) is not loaded") }
      return ["EVALSHA", sha, String(keys.count)] + keys + arguments
    }
  }

  /// `runs`: whether the words may change data, for the error that says so.
  private func roundTrip(_ commands: [[String]], _ deadline: Deadline, name: String, runs: Bool = true)
    throws(RedisError) -> [Reply]
  {
    var bytes: [UInt8] = []
    for command in commands { encode(command, into: &bytes) }
    try send(bytes, deadline, name: name, runs: runs)
    var replies: [Reply] = []
    replies.reserveCapacity(commands.count)
    while replies.count < commands.count {
      guard let reply = try receive(deadline, runs: runs) else {
        shut("\(url) did not answer \(name) within \(options.commandTimeoutMilliseconds) ms")
        throw .timeout(end!, mayHaveRun: runs)
      }
      replies.append(reply)
    }
    return replies
  }

  private func send(_ bytes: [UInt8], _ deadline: Deadline, name: String, runs: Bool) throws(RedisError) {
    do throws(RedisError) {
      let result = unsafe bytes.withUnsafeBytes { bytes in
        Result { () throws(RedisError) -> Bool in unsafe try transport.write(bytes, deadline) }
      }
      if try result.get() { return }
    } catch {
      throw lost(error, runs: runs)
    }
    shut("\(name) could not be sent to \(url) within \(options.commandTimeoutMilliseconds) ms")
    throw .timeout(end!, mayHaveRun: runs)
  }

  /// The next reply; nil when time ran out.
  private func receive(_ deadline: Deadline, runs: Bool) throws(RedisError) -> Reply? {
    while true {
      do throws(StateError) {
        if let reply = try reader.next() { return reply }
      } catch {
        shut("the connection to \(url) was closed: \(error); is it Redis that listens there?")
        throw .closed(end!, mayHaveRun: runs)
      }
      var count: Int?
      do throws(RedisError) {
        let result = unsafe buffer.withUnsafeMutableBytes { buffer in
          Result { () throws(RedisError) -> Int? in unsafe try transport.read(into: buffer, deadline) }
        }
        count = try result.get()
      } catch {
        throw lost(error, runs: runs)
      }
      guard let count else { return nil }
      if count == 0 { throw lost(.closed("", mayHaveRun: runs), runs: runs) }
      let problem = unsafe buffer.withUnsafeBytes { unsafe reader.feed(UnsafeRawBufferPointer(rebasing: $0[..<count])) }
      if let problem {
        shut("the connection to \(url) was closed: \(problem)")
        throw .closed(end!, mayHaveRun: runs)
      }
    }
  }

  /// Closes the connection after an error of its transport. An interruption may show as a broken socket: it shuts it down.
  private func lost(_ error: RedisError, runs: Bool) -> RedisError {
    if interrupter.isInterrupted {
      shut("the wait for \(url) was interrupted")
      return .interrupted
    }
    if case .closed(let why, _) = error {
      shut(why.isEmpty ? "\(url) ended the connection" : "the connection to \(url) was lost: \(why)")
      return .closed(end!, mayHaveRun: runs)
    }
    shut(error.description)
    return error
  }

  private func shut(_ why: String) {
    guard end == nil else { return }
    end = why
    transport.close()
  }

  /// AUTH, SELECT, CLIENT SETNAME and PING in one round trip.
  private func greet(_ deadline: Deadline) throws(RedisError) {
    var commands: [[String]] = []
    if let password = url.password { commands.append(["AUTH"] + (url.user.map { [$0] } ?? []) + [password]) }
    if url.database != 0 { commands.append(["SELECT", String(url.database)]) }
    if let name = options.clientName { commands.append(["CLIENT", "SETNAME", name]) }
    commands.append(["INFO", "server"])
    var followsMaster = false
    if case .sentinel = url.place { followsMaster = true }
    if followsMaster { commands.append(["ROLE"]) }
    commands.append(["PING"])
    let replies: [Reply]
    do throws(RedisError) { replies = try roundTrip(commands, deadline, name: "PING", runs: false) } catch {
      if error == .interrupted { throw error }
      throw .connect(error.description)
    }
    for (command, reply) in zip(commands, replies) {
      if command[0] == "INFO", let text = reply.text { process = Self.process(in: text) }
      if command[0] == "ROLE", case .array(let parts) = reply, parts.first?.text != "master" {
        shut("\(server) is no master")
        let role = parts.first?.text ?? "stranger"
        throw .connect("\(url): \(server), which a sentinel named, is a \(role): a fail-over is under way")
      }
      // Without the right to see INFO one only knows less.
      guard case .error(let message) = reply, command[0] != "INFO" else { continue }
      shut("the greeting failed")
      throw .connect(Self.sentence(url, command[0], message))
    }
  }

  /// Some services that speak like Redis have none: then they are never seen to be another one (see State's Leadership).
  private static func process(in text: String) -> String {
    let mark = "run_id:"
    let line = text.split(whereSeparator: \.isNewline).first { $0.hasPrefix(mark) }
    return line.map { String($0.dropFirst(mark.count)) } ?? "unknown"
  }

  /// What a refused greeting means; Redis never repeats the password.
  private static func sentence(_ url: RedisURL, _ command: String, _ message: String) -> String {
    if message.hasPrefix("NOAUTH") {
      return "\(url): Redis wants a password; write it into REDIS_URL as redis://:password@… or redis://user:password@…"
    }
    return switch command {
    case "AUTH": "\(url): Redis refused the user or password of REDIS_URL: \(message)"
    case "SELECT": "\(url): Redis refused the database number of REDIS_URL: \(message)"
    case "CLIENT": "\(url): Redis refused the client's name: \(message)"
    default: "\(url): Redis is not ready: \(message)"
    }
  }
}

extension Reply {
  fileprivate var isReadOnly: Bool {
    if case .error(let message) = self { message.hasPrefix("READONLY") } else { false }
  }

  fileprivate var isNoScript: Bool {
    if case .error(let message) = self { message.hasPrefix("NOSCRIPT") } else { false }
  }

  /// The command's reading of its reply; error replies are thrown.
  func read<R: Sendable>(_ command: Command<R>) throws(RedisError) -> R {
    if case .error(let message) = self { throw .server(message) }
    do throws(StateError) { return try command.parse(self) } catch { throw .state(error) }
  }
}

// MARK: Listening

extension RedisConnection {
  /// Listens to channels; from now on only ``nextMessage(timeoutMilliseconds:)`` may be called.
  package func subscribe(_ channels: [String]) throws(RedisError) {
    precondition(!channels.isEmpty && self.channels.isEmpty, "subscribe once, to at least one channel")
    if let end { throw .closed(end, mayHaveRun: false) }
    let deadline = Deadline(milliseconds: options.commandTimeoutMilliseconds)
    var bytes: [UInt8] = []
    encode(["SUBSCRIBE"] + channels, into: &bytes)
    try send(bytes, deadline, name: "SUBSCRIBE", runs: false)
    // One confirmation for each channel comes first.
    for _ in channels {
      guard let reply = try receive(deadline, runs: false) else {
        shut("\(url) did not answer SUBSCRIBE within \(options.commandTimeoutMilliseconds) ms")
        throw .timeout(end!, mayHaveRun: false)
      }
      if case .error(let message) = reply { throw .server(message) }
    }
    self.channels = channels
  }

  /// The next message of the channels; nil when none came in time.
  package func nextMessage(timeoutMilliseconds: Int) throws(RedisError) -> (channel: String, payload: String)? {
    precondition(!channels.isEmpty, "subscribe first")
    if let end { throw .closed(end, mayHaveRun: false) }
    let deadline = Deadline(milliseconds: timeoutMilliseconds)
    while let reply = try receive(deadline, runs: false) {
      if case .array(let parts) = reply, parts.count == 3, parts[0].text == "message",
        let channel = parts[1].text, let payload = parts[2].text
      {
        return (channel, payload)
      }
    }
    return nil
  }

  /// Entries of a stream after an id (XREAD BLOCK); nil when none came in time.
  package func readStream(key: String, after: String, count: Int, blockMilliseconds: Int) throws(RedisError)
    -> [StreamEntry]?
  {
    precondition(blockMilliseconds > 0 && count > 0, "0 would wait for ever")
    if let end { throw .closed(end, mayHaveRun: false) }
    let deadline = Deadline(milliseconds: blockMilliseconds + options.commandTimeoutMilliseconds)
    let words = ["XREAD", "COUNT", String(count), "BLOCK", String(blockMilliseconds), "STREAMS", key, after]
    let reply = try roundTrip([words], deadline, name: "XREAD", runs: false)[0]
    if case .error(let message) = reply { throw .server(message) }
    if case .null = reply { return nil }
    do throws(StateError) {
      // One stream was asked for: [[key, entries]].
      guard let stream = try reply.list(of: "XREAD").first else { return nil }
      return try stream.list(of: "XREAD", count: 2)[1].streamEntries(of: "XREAD")
    } catch {
      throw .state(error)
    }
  }
}
