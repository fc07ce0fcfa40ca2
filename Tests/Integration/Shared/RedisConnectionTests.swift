// The blocking connection against a real Redis: answers, errors, timeouts, interruptions, scripts after a restart.
import Redis
import State
import TestSupport
import Testing

/// A plain command whose reply is looked at as it is.
func raw(_ words: String..., mayRepeat: Bool = false) -> Command<Reply> {
  Command(.words(words), mayRepeat: mayRepeat) { (reply: Reply) in reply }
}

/// The error of a body that must fail with one.
func failure(_ body: () throws(RedisError) -> Void) -> RedisError? {
  do throws(RedisError) {
    try body()
    return nil
  } catch {
    return error
  }
}

private let counting = Script(name: "test.count", source: "return redis.call('INCRBY', KEYS[1], ARGV[1])")

@Suite struct RedisConnectionTests {
  @Test(arguments: [true, false]) func everyKindOfReplyComesBack(overTCP: Bool) throws {
    let redis = try RedisFixture()
    let connection = try RedisConnection(url: overTCP ? redis.tcpURL : redis.unixURL)
    #expect(try connection.run(raw("PING")) == .status("PONG"))
    #expect(try connection.run(raw("ECHO", "")) == .string([]))
    #expect(try connection.run(raw("ECHO", "ü\r\n\u{0} \"x\"")) == .string(Array("ü\r\n\u{0} \"x\"".utf8)))
    #expect(try connection.run(raw("GET", "nothing")) == .null)
    #expect(try connection.run(raw("INCRBY", "n", "9007199254740993")) == .int(9_007_199_254_740_993))
    #expect(
      try connection.run(raw("EVAL", "return {1, 'two', {false, {}}, redis.status_reply('FINE')}", "0"))
        == .array([.int(1), .string(Array("two".utf8)), .array([.null, .array([])]), .status("FINE")]))
    #expect(
      failure { () throws(RedisError) in try connection.run(raw("INCR", "n", "m")) }?.description
        == "Redis refused: ERR wrong number of arguments for 'incr' command")
    #expect(connection.isOpen)
  }

  @Test func megabytesGoBothWays() throws {
    let redis = try RedisFixture()
    let connection = try RedisConnection(url: redis.tcpURL)
    let text = String(repeating: "0123456789abcdef", count: 1 << 18)
    try connection.run(raw("SET", "big", text))
    #expect(try connection.run(raw("GET", "big")).text == text)
    let many = (0..<20_000).map { raw("RPUSH", "list", "value \($0)") }
    try connection.pipeline(many)
    #expect(try connection.run(raw("LRANGE", "list", "0", "-1")).list(of: "list").count == 20_000)
  }

  @Test func aReplyThatIsTooLongIsRefused() throws {
    let redis = try RedisFixture()
    var options = RedisOptions()
    options.maximumReplyBytes = 100_000
    let connection = try redis.connect(options)
    try connection.run(raw("SET", "fits", String(repeating: "x", count: 99_000)))
    #expect(try connection.run(raw("GET", "fits")).text?.utf8.count == 99_000)
    try connection.run(raw("APPEND", "fits", String(repeating: "x", count: 2_000)))
    let error = failure { () throws(RedisError) in try connection.run(raw("GET", "fits")) }
    #expect(error?.description.contains("more than 100000 bytes") == true, "\(String(describing: error))")
    #expect(!connection.isOpen)
  }

  @Test func aPipelineGivesEachCommandItsOwnResult() throws {
    let redis = try RedisFixture()
    let connection = try redis.connect()
    let results = try connection.pipeline([raw("SET", "a", "1"), raw("LPUSH", "a", "x"), raw("GET", "a")])
    #expect(try results[0].get() == .status("OK"))
    #expect(throws: RedisError.server("WRONGTYPE Operation against a key holding the wrong kind of value")) {
      try results[1].get()
    }
    #expect(try results[2].get().text == "1")
    #expect(try connection.pipeline([Command<Reply>]()).isEmpty)
  }

  @Test func anAnswerOfAnotherShapeSaysWhatCame() throws {
    let redis = try RedisFixture()
    let connection = try redis.connect()
    let command = Command(.words(["ECHO", "x"])) { (reply: Reply) throws(StateError) in try reply.int(of: "echo") }
    let error = failure { () throws(RedisError) in try connection.run(command) }
    #expect(error?.description == "echo: a whole number was expected from Redis, the text \"x\" came")
  }

  // MARK: Scripts

  @Test func scriptsAreLoadedAndLoadedAgainWhenRedisForgotThem() throws {
    let redis = try RedisFixture()
    let connection = try redis.connect()
    let command = Command(.script(counting, keys: ["n"], arguments: ["5"])) { (reply: Reply) in reply }
    #expect(try connection.run(command) == .int(5))
    #expect(try connection.run(command) == .int(10))
    try connection.run(raw("SCRIPT", "FLUSH"))
    // In the middle of a pipeline too, and each is executed once.
    let results = try connection.pipeline([raw("INCR", "n"), command, raw("INCR", "n"), command])
    #expect(results.count == 4)
    #expect(try connection.run(raw("GET", "n")).text == "22")
  }

  @Test func twoScriptsOfOneNameAreNotMixedUp() throws {
    let redis = try RedisFixture()
    let connection = try redis.connect()
    func answer(_ text: String) -> Command<Reply> {
      Command(.script(Script(name: "same", source: "return '\(text)'"), keys: [], arguments: [])) { (reply: Reply) in
        reply
      }
    }
    #expect(try connection.run(answer("one")).text == "one")
    #expect(try connection.run(answer("two")).text == "two")
    #expect(try connection.run(answer("one")).text == "one")
  }

  @Test func aScriptThatDoesNotCompileNamesItself() throws {
    let redis = try RedisFixture()
    let connection = try redis.connect()
    let broken = Command(.script(Script(name: "test.broken", source: "return +"), keys: [], arguments: [])) {
      (_: Reply) in
    }
    let error = failure { () throws(RedisError) in try connection.run(broken) }
    #expect(error?.description.hasPrefix("Redis refused: script test.broken: ERR Error compiling script") == true)
    #expect(try connection.run(raw("PING")) == .status("PONG"))
  }

  // MARK: Losing it

  @Test func aKilledServerIsAClosedConnectionThatStaysClosed() throws {
    let redis = try RedisFixture()
    let connection = try redis.connect()
    let waiting = TestThread { [redis] in try redis.connect().run(raw("BLPOP", "never", "0")) }
    try waitUntil("somebody waits") { try connection.run(raw("CLIENT", "LIST")).text?.contains("cmd=blpop") == true }
    redis.kill()
    #expect(throws: RedisError.closed("\(redis.unixURL) ended the connection", mayHaveRun: true)) { try waiting.join() }
    let error = failure { () throws(RedisError) in try connection.run(raw("PING")) }
    guard case .closed = error else {
      Issue.record("closed was expected, \(String(describing: error)) came")
      return
    }
    #expect(!connection.isOpen)
    try redis.start()
    let later = failure { () throws(RedisError) in try connection.run(raw("PING")) }
    #expect(later?.mayHaveRun == false)
    #expect(try redis.connect().run(raw("PING")) == .status("PONG"))
  }

  @Test func aHangingServerIsATimeoutThatClosesTheConnection() throws {
    let redis = try RedisFixture()
    let options = RedisOptions(connectTimeoutMilliseconds: 1_000, commandTimeoutMilliseconds: 1_000)
    let connection = try redis.connect(options)
    redis.freeze()
    let error = failure { () throws(RedisError) in try connection.run(raw("INCR", "n")) }
    #expect(error?.description == "\(redis.unixURL) did not answer INCR within 1000 ms; it may have been executed")
    // A late answer must not become the next command's.
    let later = failure { () throws(RedisError) in try connection.run(raw("GET", "n")) }
    #expect(later?.mayHaveRun == false)
    let connecting = failure { () throws(RedisError) in
      _ = try RedisConnection(url: redis.tcpURL, options: options)
    }
    guard case .connect = connecting else {
      Issue.record("a connect error was expected, \(String(describing: connecting)) came")
      return
    }
    redis.thaw()
  }

  @Test func nobodyThereSaysWhereAndAsksTheRightQuestion() throws {
    let redis = try RedisFixture()
    redis.stop()
    for url in [redis.tcpURL, redis.unixURL] {
      let error = failure { () throws(RedisError) in _ = try RedisConnection(url: url) }
      #expect(error?.description.hasPrefix("\(url): ") == true)
      #expect(error?.description.hasSuffix("is Redis running there?") == true)
    }
    let nowhere = try RedisURL(parsing: "redis://no-such-host.invalid")
    let error = failure { () throws(RedisError) in _ = try RedisConnection(url: nowhere) }
    #expect(error?.description.hasPrefix("redis://no-such-host.invalid:6379: no address for the host") == true)
  }

  @Test func somethingElseThatListensIsNotTakenForRedis() throws {
    let redis = try RedisFixture(arguments: ["--enable-debug-command", "yes"])
    let connection = try redis.connect()
    // A reply of the newer protocol is what this reader cannot read.
    let error = failure { () throws(RedisError) in
      try connection.run(raw("HELLO", "3"))
    }
    #expect(error?.description.contains("not the Redis protocol") == true, "\(String(describing: error))")
    #expect(!connection.isOpen)
  }

  // MARK: Passwords and databases

  @Test func passwordsOpenTheDoorAndAreNeverShown() throws {
    let redis = try RedisFixture(arguments: ["--requirepass", "s3cret/@:"])
    func url(_ credentials: String) throws -> RedisURL {
      try RedisURL(parsing: "redis://\(credentials)127.0.0.1:\(redis.port)")
    }
    let connection = try RedisConnection(url: url(":s3cret%2F%40%3A@"))
    try connection.run(raw("ACL", "SETUSER", "berth", "on", ">word#1", "~*", "&*", "+@all"))
    #expect(try RedisConnection(url: url("berth:word%231@")).run(raw("ACL", "WHOAMI")).text == "berth")
    #expect(try RedisConnection(url: url("default:s3cret/@:@")).run(raw("PING")) == .status("PONG"))

    let wrong = failure { () throws(RedisError) in
      guard let url = try? url("berth:wr0ng@") else { return }
      _ = try RedisConnection(url: url)
    }
    #expect(
      wrong?.description
        == "redis://127.0.0.1:\(redis.port): Redis refused the user or password of REDIS_URL: WRONGPASS "
        + "invalid username-password pair or user is disabled.")
    let none = failure { () throws(RedisError) in _ = try RedisConnection(url: redis.tcpURL) }
    #expect(none?.description.contains("wants a password; write it into REDIS_URL") == true)
  }

  @Test func databasesAreApartAndMustExist() throws {
    let redis = try RedisFixture()
    try redis.connect().run(raw("SET", "a", "zero"))
    let one = try RedisURL(parsing: "unix:\(redis.directory)/socket?db=1")
    #expect(try RedisConnection(url: one).run(raw("GET", "a")) == .null)
    let tcp = try RedisURL(parsing: "redis://127.0.0.1:\(redis.port)/99")
    let error = failure { () throws(RedisError) in _ = try RedisConnection(url: tcp) }
    #expect(error?.description.contains("database number of REDIS_URL: ERR DB index is out of range") == true)
  }

  @Test func theClientNameIsSeenInTheClientList() throws {
    let redis = try RedisFixture()
    let connection = try redis.connect(
      RedisOptions(connectTimeoutMilliseconds: 2_000, commandTimeoutMilliseconds: 2_000, clientName: "berth-test"))
    #expect(try connection.run(raw("CLIENT", "LIST")).text?.contains("name=berth-test") == true)
  }

  // MARK: Listening

  @Test func messagesOfSubscribedChannelsCome() throws {
    let redis = try RedisFixture()
    let listener = try redis.connect()
    try listener.subscribe(["one", "two"])
    #expect(try listener.nextMessage(timeoutMilliseconds: 1) == nil)
    for (channel, text) in [("one", "a"), ("other", "b"), ("two", "ü")] { try redis.command("PUBLISH", channel, text) }
    let first = try #require(try listener.nextMessage(timeoutMilliseconds: 10_000))
    #expect(first == ("one", "a"))
    let second = try #require(try listener.nextMessage(timeoutMilliseconds: 10_000))
    #expect(second == ("two", "ü"))
    redis.kill()
    let error = failure { () throws(RedisError) in _ = try listener.nextMessage(timeoutMilliseconds: 10_000) }
    #expect(error == .closed("\(redis.unixURL) ended the connection", mayHaveRun: false))
  }

  @Test func entriesOfAStreamCome() throws {
    let redis = try RedisFixture()
    let connection = try redis.connect()
    #expect(try connection.readStream(key: "s", after: "0-0", count: 10, blockMilliseconds: 1) == nil)
    for number in 1...3 { try redis.command("XADD", "s", "\(number)-0", "n", "\(number)", "empty", "") }
    let page = try connection.readStream(key: "s", after: "1-0", count: 1, blockMilliseconds: 10_000)
    #expect(page == [StreamEntry(id: "2-0", fields: ["n": "2", "empty": ""])])
    try redis.command("SET", "text", "x")
    #expect(
      failure { () throws(RedisError) in
        _ = try connection.readStream(key: "text", after: "0", count: 1, blockMilliseconds: 1)
      }
        == .server("WRONGTYPE Operation against a key holding the wrong kind of value"))
    // It waits longer than a command may take.
    let patient = try redis.connect(RedisOptions(connectTimeoutMilliseconds: 5_000, commandTimeoutMilliseconds: 1_000))
    #expect(try patient.readStream(key: "s", after: "3-0", count: 1, blockMilliseconds: 2_000) == nil)
  }

  @Test func waitsEndWhenAnotherThreadInterruptsThem() throws {
    let redis = try RedisFixture()
    let watcher = try redis.connect()
    func waits(_ word: String) throws -> Bool {
      try watcher.run(raw("CLIENT", "LIST")).text?.contains("cmd=\(word)") == true
    }
    let works: [(String, @Sendable (RedisConnection) throws(RedisError) -> Void)] = [
      (
        "subscribe",
        { (connection: RedisConnection) throws(RedisError) in
          try connection.subscribe(["c"])
          _ = try connection.nextMessage(timeoutMilliseconds: 60_000)
        }
      ),
      (
        "xread",
        { (connection: RedisConnection) throws(RedisError) in
          _ = try connection.readStream(key: "s", after: "$", count: 1, blockMilliseconds: 60_000)
        }
      ),
      (
        "blpop",
        { (connection: RedisConnection) throws(RedisError) in try connection.run(raw("BLPOP", "l", "0")) }
      ),
    ]
    for (command, work) in works {
      let interrupter = try RedisInterrupter()
      let thread = TestThread { () -> RedisError? in
        failure { () throws(RedisError) in
          let connection = try RedisConnection(url: redis.unixURL, interrupter: interrupter)
          try work(connection)
        }
      }
      try waitUntil("\(command) waits") { try waits(command) }
      interrupter.interrupt()
      interrupter.interrupt()
      #expect(try thread.join() == .interrupted, "\(command)")
      // For good: not even a new connection is made.
      #expect(interrupter.wait(milliseconds: 60_000))
      #expect(
        failure { () throws(RedisError) in _ = try RedisConnection(url: redis.unixURL, interrupter: interrupter) }
          == .interrupted)
    }
  }

  @Test func aSleepBetweenTriesEndsWithAnInterruption() throws {
    let interrupter = try RedisInterrupter()
    #expect(!interrupter.wait(milliseconds: 1))
    let thread = TestThread { interrupter.wait(milliseconds: 60_000) }
    interrupter.interrupt()
    #expect(try thread.join())
  }
}
