// rediss:// against a real Redis with a TLS port.
import Redis
import State
import TLS
import TestSupport
import Testing

@Suite struct RedisTLSTests {
  let redis: RedisFixture
  let files: RedisFixture
  var certificate: String { files.directory + "/certificate.pem" }

  init() throws {
    // The certificate must be there before the server: it lies in the directory of another one.
    files = try RedisFixture()
    let (certificate, key) = (files.directory + "/certificate.pem", files.directory + "/key.pem")
    try DevelopmentCertificate.write(certificateFile: certificate, keyFile: key)
    redis = try RedisFixture(certificateFile: certificate, keyFile: key)
  }

  private func url(_ host: String = "127.0.0.1", _ settings: String) throws -> RedisURL {
    try RedisURL(parsing: "rediss://\(host):\(redis.tlsPort ?? 0)\(settings)")
  }

  @Test(arguments: ["127.0.0.1", "localhost"]) func commandsAndMegabytesGoOverTLS(host: String) throws {
    let connection = try RedisConnection(url: url(host, "/1?ca=\(certificate)"))
    #expect(try connection.run(raw("PING")) == .status("PONG"))
    let text = String(repeating: "0123456789abcdef", count: 1 << 18)
    try connection.run(raw("SET", "big", text))
    #expect(try connection.run(raw("GET", "big")).text == text)
    try connection.pipeline((0..<5_000).map { raw("RPUSH", "list", "value \($0)") })
    #expect(try connection.run(raw("LLEN", "list")) == .int(5_000))
  }

  @Test func anUntrustedCertificateIsRefusedUnlessThatIsAskedFor() throws {
    let untrusted = try url("127.0.0.1", "")
    let error = failure { () throws(RedisError) in _ = try RedisConnection(url: untrusted) }
    #expect(error?.description.contains("is not trusted") == true, "\(String(describing: error))")
    #expect(error?.description.hasSuffix("name the CA's file with ?ca=FILE in REDIS_URL") == true)
    #expect(try RedisConnection(url: url("127.0.0.1", "?verify=no")).run(raw("PING")) == .status("PONG"))
  }

  @Test func aPlainPortIsNotTakenForTLS() throws {
    let plain = try RedisURL(parsing: "rediss://127.0.0.1:\(redis.port)?verify=no")
    // Redis waits for the rest of what it takes for a command.
    let options = RedisOptions(connectTimeoutMilliseconds: 200, commandTimeoutMilliseconds: 200)
    let error = failure { () throws(RedisError) in _ = try RedisConnection(url: plain, options: options) }
    guard case .connect = error else {
      Issue.record("a connect error was expected, \(String(describing: error)) came")
      return
    }
  }

  @Test func listeningTimesOutGoesOnAndIsInterruptible() throws {
    let url = try url("127.0.0.1", "?ca=\(certificate)")
    let interrupter = try RedisInterrupter()
    let listener = try RedisConnection(url: url, interrupter: interrupter)
    try listener.subscribe(["c"])
    #expect(try listener.nextMessage(timeoutMilliseconds: 1) == nil)
    try redis.command("PUBLISH", "c", "one")
    try redis.command("PUBLISH", "c", "two")
    #expect(try listener.nextMessage(timeoutMilliseconds: 10_000)?.payload == "one")
    #expect(try listener.nextMessage(timeoutMilliseconds: 10_000)?.payload == "two")

    let thread = TestThread { () -> RedisError? in
      failure { () throws(RedisError) in
        let connection = try RedisConnection(url: url, interrupter: interrupter)
        _ = try connection.readStream(key: "s", after: "$", count: 1, blockMilliseconds: 60_000)
      }
    }
    try waitUntil("XREAD waits") { try redis.command("CLIENT", "LIST").text?.contains("cmd=xread") == true }
    interrupter.interrupt()
    #expect(try thread.join() == .interrupted)
    #expect(failure { () throws(RedisError) in _ = try listener.nextMessage(timeoutMilliseconds: 60_000) } != nil)
  }

  @Test func theClientSpeaksTLSAndFindsARestartedServer() async throws {
    let client = try RedisClient(url: url("127.0.0.1", "?ca=\(certificate)"))
    for _ in 0..<2 {
      try await waitUntil("Redis answers") { () async throws -> Bool in
        do throws(RedisError) { return try await client.run(raw("INCR", "n", mayRepeat: true)) == .int(1) } catch {
          guard error.isUnavailable else { throw error }
          return false
        }
      }
      try redis.restart()
    }
    await client.shutdown()
  }
}
