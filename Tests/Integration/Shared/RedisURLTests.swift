// REDIS_URL and the waits between tries to connect: pure, no Redis.
import Redis
import TestSupport
import Testing

@Suite struct RedisURLTests {
  @Test func tcpURLsAreRead() throws {
    let plain = try RedisURL(parsing: "redis://example.com")
    #expect(plain.place == .tcp(host: "example.com", port: 6_379))
    #expect(plain.database == 0 && plain.password == nil && plain.user == nil && plain.tls == nil)
    let full = try RedisURL(parsing: "redis://me:p%40ss%25@[::1]:7000/3")
    #expect(full.place == .tcp(host: "::1", port: 7_000))
    #expect(full.user == "me" && full.password == "p@ss%" && full.database == 3)
    let passwordOnly = try RedisURL(parsing: "redis://:secret@10.0.0.1:1/?db=2")
    #expect(passwordOnly.user == nil && passwordOnly.password == "secret" && passwordOnly.database == 2)
    #expect(try RedisURL(parsing: "REDIS://h:1/").database == 0)
  }

  @Test func tlsAndItsSettingsAreRead() throws {
    #expect(try RedisURL(parsing: "rediss://h").tls == RedisURL.TLS(caFile: nil, verify: true))
    let own = try RedisURL(parsing: "rediss://h:1/2?ca=/etc/berth/ca%20file.pem&verify=no")
    #expect(own.tls == RedisURL.TLS(caFile: "/etc/berth/ca file.pem", verify: false))
    #expect(own.database == 2)
  }

  @Test func unixSocketsAreRead() throws {
    #expect(try RedisURL(parsing: "unix:/run/redis.sock").place == .unix(path: "/run/redis.sock"))
    #expect(try RedisURL(parsing: "unix:///run/redis.sock?db=4").database == 4)
    let full = try RedisURL(parsing: "unix://me:secret@/run/redis.sock")
    #expect(full.place == .unix(path: "/run/redis.sock"))
    #expect(full.user == "me" && full.password == "secret")
  }

  @Test(arguments: [
    "", "redis", "http://h", "redis:h", "redis://", "redis://:80", "redis://h:0", "redis://h:65536", "redis://h:x",
    "redis://::1", "redis://[::1", "redis://[::1]x", "redis://h/one", "redis://h/-1", "redis://me@h", "redis://:@h",
    "redis://h?db", "redis://h?unknown=1", "redis://h?verify=no", "rediss://h?verify=maybe", "redis://h/1#x",
    "redis://:%zz@h", "redis://:%ff@h", "unix:", "unix:relative", "unix:/\(String(repeating: "x", count: 107))",
  ]) func whatIsWrongIsRefusedWithAnExample(text: String) {
    #expect {
      try RedisURL(parsing: text)
    } throws: { error in
      "\(error)".hasPrefix("REDIS_URL: ") && "\(error)".contains("expected is redis://")
    }
  }

  @Test func noTextOfAURLShowsThePassword() throws {
    for text in ["redis://me:hush-hush@h:1/2", "rediss://:hush-hush@h", "unix://me:hush-hush@/run/s?db=1"] {
      let url = try RedisURL(parsing: text)
      #expect(url.password == "hush-hush")
      for shown in ["\(url)", String(reflecting: url), url.description, String(describing: Optional(url))] {
        #expect(!shown.contains("hush") && !shown.contains("me:"), "\(shown)")
      }
    }
    for wrong in ["redis://me:hush-hush@h:x", "redis://me:hush-hush@h/one", "redis://me:hush-hush%@h", "hush-hush://h"]
    {
      #expect {
        try RedisURL(parsing: wrong)
      } throws: { error in
        wrong.hasPrefix("hush") || !"\(error)".contains("hush")
      }
    }
  }
}

@Suite struct RedisBackoffTests {
  @Test func delaysDoubleUpToTheMaximumAndAreJittered() {
    var shortest = Backoff(firstMilliseconds: 50, maximumMilliseconds: 2_000)
    var longest = shortest
    // A delay is between half its limit (random 0) and the limit (a random number of that remainder).
    for limit in [50, 100, 200, 400, 800, 1_600, 2_000, 2_000] {
      #expect(shortest.next(random: 0) == limit / 2)
      #expect(longest.next(random: UInt64(limit - limit / 2)) == limit)
    }
    #expect(shortest.failures == 8)
    shortest.reset()
    #expect(shortest.next(random: 0) == 25)
  }

  @Test func everyRandomNumberGivesADelayWithinTheLimit() {
    var random = SplitMix64(seed: SplitMix64.printedSeed(for: "backoff"))
    var backoff = Backoff()
    for _ in 0..<10_000 {
      let delay = backoff.next(random: random.next())
      #expect((25...2_000).contains(delay))
    }
  }
}
