// A replica is replaced by another process, or drained, under a steady load of new connections: nobody is refused or reset.
import Foundation
import Glibc
import Posix
import Redis
import Routing
import State
import TLS
import TestSupport
import Testing

extension EndToEnd {
  @Suite struct Upgrade {
    /// Files and ports of replicas that follow one another.
    struct Place {
      let directory: String
      let server: SmallServer
      let plain: Int
      let tls: Int
      let admin: Int
      var authority: String { directory + "/certificate.pem" }
      var socket: String { directory + "/handover" }

      let redis: RedisFixture?

      /// With a Redis of its own, pools and routes come from there.
      init(redis: Bool = false) throws {
        self.redis = redis ? try RedisFixture() : nil
        directory = try Machine.scratchDirectory("upgrade")
        server = try SmallServer()
        (plain, tls, admin) = (try Machine.freePort(), try Machine.freePort(), try Machine.freePort())
        try DevelopmentCertificate.write(
          certificateFile: directory + "/certificate.pem", keyFile: directory + "/certificate.key")
        try """
        {"pools": {"web": {"kind": "http", "slots": 0}}, "routes": {"all": {"path": "/", "pool": "web"}},
         "instances": {"web-1": {"pool": "web", "host": "127.0.0.1", "port": \(server.port)}}}
        """.write(toFile: directory + "/routes.json", atomically: true, encoding: .utf8)
      }

      /// - Parameter certificate: the place's own one, before what `more` says.
      func start(
        _ name: String, workers: Int = 2, routes: String = "routes.json", plain: Int? = nil, tls: Int? = nil,
        admin: Int? = nil, certificate: Bool = true, _ more: [String] = []
      ) throws -> Program {
        var words = [
          try Machine.program("berth-data"), "--workers", "\(workers)",
          "--listen", "127.0.0.1:\(plain ?? self.plain)", "--tls-listen", "127.0.0.1:\(tls ?? self.tls)",
          "--admin", "127.0.0.1:\(admin ?? self.admin)", "--drain-seconds", "30",
        ]
        words += redis.map { ["--redis-url", $0.unixURL.description] } ?? ["--routes", directory + "/" + routes]
        if certificate { words += ["--certificate", authority] }
        return try Program(
          name, words + more, outputFile: directory + "/\(name).log",
          environment: ["REDIS_URL": nil, "BERTH_HANDOVER": nil])
      }

      func serves(_ program: Program) async throws {
        try await eventually("\(program.name) serves", within: 60, show: program) {
          program.output.contains(#""the replica serves""#)
        }
      }

      func remove() throws { try FileManager.default.removeItem(atPath: directory) }
    }

    @Test("three upgrades under load refuse and reset no connection, and let a request end that was under way")
    func underLoad() async throws {
      let place = try Place()
      let handover = ["--handover", place.socket]
      var current = try place.start("first", handover)
      try await place.serves(current)
      let load = SteadyLoad(plain: place.plain, tls: place.tls, .tls(authority: place.authority))
      let held = Visit(place.plain, .plain, path: "/held")
      // More workers than before, fewer, and as many: listeners have to be made, shared and kept.
      for (round, workers) in [3, 1, 1].enumerated() {
        let before = load.served
        try await eventually("connections are made", within: 60, show: current) { load.served >= before + 20 }
        let next = try place.start("upgrade-\(round)", workers: workers, handover)
        try await place.serves(next)
        try await eventually("\(current.name) drains", show: current) { current.output.contains(#""draining""#) }
        if round == 0 {
          // The request that the first one has is still waited for.
          #expect(current.poll() == nil)
          place.server.letGo()
        }
        #expect(try await current.ended(within: 60) == .exited(0))
        #expect(HTTP.get(place.admin, "/readyz")?.status == 200)
        let after = load.served
        try await eventually("connections are made", within: 60, show: next) { load.served >= after + 20 }
        current = next
      }
      let seen = try await load.stop()
      #expect(seen.failures == [])
      #expect(try await held.failure() == nil)
      print("upgrades: \(seen.plain) plain and \(seen.tls) TLS connections, \(seen.failures.count) failed")
      try await current.stop()
      #expect(!FileManager.default.fileExists(atPath: place.socket))
      try place.remove()
    }

    @Test("an upgrade with routes from Redis waits for them; without Redis the former process goes on")
    func withRedis() async throws {
      let place = try Place(redis: true)
      let redis = try #require(place.redis)
      let connection = try redis.connect()
      let keys = Keys()
      let now = Clock.unixMilliseconds
      let fence = try #require(
        try connection.run(Leadership(keys: keys).campaign(id: "control", ttlMilliseconds: 600_000)))
      let registry = Registry(keys: keys)
      try connection.run(
        registry.declare(
          pools: [PoolRecord(name: "web", kind: .http, slots: 0)], routes: [RouteRecord(id: "all", pool: "web")],
          fence: fence, now: now))
      let instance = InstanceRecord(id: "web-1", pool: "web", host: "127.0.0.1", port: place.server.port, slots: 0)
      try connection.run(registry.put(instance: instance, fence: fence, now: now))
      let handover = ["--handover", place.socket, "--handover-seconds", "2"]
      let first = try place.start("first", handover)
      try await place.serves(first)
      let load = SteadyLoad(plain: place.plain, tls: place.tls, .tls(authority: place.authority))
      try await eventually("connections are made", within: 60, show: first) { load.served >= 20 }
      redis.freeze()
      let blind = try place.start("blind", handover)
      #expect(try await blind.ended(within: 60) != .exited(0))
      #expect(blind.output.contains("there was no routing table"))
      redis.thaw()
      // However slowly it starts.
      let next = try place.start("next", ["--handover", place.socket])
      try await place.serves(next)
      #expect(try await first.ended(within: 60) == .exited(0))
      let before = load.served
      try await eventually("connections are made", within: 60, show: next) { load.served >= before + 20 }
      let seen = try await load.stop()
      #expect(seen.failures == [])
      try await next.stop()
      try place.remove()
    }

    @Test("a process that cannot serve takes nothing over, and the next one that can does")
    func bad() async throws {
      let place = try Place()
      let handover = ["--handover", place.socket]
      let first = try place.start("first", handover)
      try await place.serves(first)
      let load = SteadyLoad(plain: place.plain, tls: place.tls, .tls(authority: place.authority))
      try "nonsense".write(toFile: place.directory + "/bad.json", atomically: true, encoding: .utf8)
      let bad = try place.start("bad", routes: "bad.json", handover)
      #expect(try await bad.ended(within: 60) != .exited(0))
      #expect(bad.output.contains("bad.json"))
      try await eventually("the first one says so", show: first) {
        first.output.contains("a hand-over came to nothing")
      }
      let next = try place.start("next", handover)
      try await place.serves(next)
      #expect(try await first.ended(within: 60) == .exited(0))
      let before = load.served
      try await eventually("connections are made", within: 60, show: next) { load.served >= before + 20 }
      let seen = try await load.stop()
      #expect(seen.failures == [])
      try await next.stop()
      try place.remove()
    }

    @Test("a process that is killed while it takes over harms nobody")
    func killed() async throws {
      let place = try Place()
      let first = try place.start("first", ["--handover", place.socket])
      try await place.serves(first)
      // Stopped as soon as it has the listeners: it neither serves nor goes away.
      let stuck = try place.start("stuck", ["--handover", place.socket])
      try await eventually("it gets the listeners", show: first) { first.output.contains("gets the listeners") }
      stuck.signal(SIGKILL)
      _ = try await stuck.ended(within: 60)
      // Whether it was killed before or after it said that it serves, somebody can be started to serve now.
      let next = try place.start("next", ["--handover", place.socket])
      try await place.serves(next)
      #expect(try await first.ended(within: 60) == .exited(0))
      #expect(visit(place.plain, .plain) == nil)
      try await next.stop()
      try place.remove()
    }

    @Test("SIGTERM serves who is there, and only then ends")
    func drain() async throws {
      let place = try Place()
      let replica = try place.start("replica")
      try await place.serves(replica)
      let held = Visit(place.plain, .plain, path: "/held")
      let heldTLS = Visit(place.tls, .tls(authority: place.authority), path: "/held")
      try await eventually("both requests are there", show: replica) {
        HTTP.get(place.admin, "/metrics")?.text.contains("berth_requests_total 2\n") == true
      }
      replica.signal(SIGTERM)
      try await eventually("it refuses who comes now", show: replica) {
        visit(place.plain, .plain)?.hasPrefix("connect: ") == true
      }
      try await eventually("it is not ready any more", show: replica) {
        HTTP.get(place.admin, "/readyz")?.status == 503
      }
      #expect(replica.poll() == nil)
      place.server.letGo()
      #expect(try await held.failure() == nil)
      #expect(try await heldTLS.failure() == nil)
      #expect(try await replica.ended(within: 60) == .exited(0))
      try place.remove()
    }
  }
}
