// Sessions over REST: made, listed, kept alive and ended. Creates wait in the same queue as clients that connect.
import Domain
import JSON
import Logging
import Redis
import Routing
import State
import Supervisor

extension Handlers {
  /// How often a waiting create asks again when nothing rings; the ticket in the queue lives much longer.
  private static let retryMilliseconds = 250
  private static let defaultPage = 1_000
  /// Tries to give back a slot, a second apart, before its limits have to do it.
  private static let cancelTries = 120

  /// One create while it is under way.
  struct Creation: Sendable {
    let id: String
    let spec: PoolSpec
    let limits: SessionLimits.Resolved
    let metadata: [String: String]
    let deadline: Int
  }

  func prepare(_ request: SessionRequest) throws(Refusal) -> Creation {
    let known = configuration.pools.map(\.name).joined(separator: ", ")
    let spec: PoolSpec
    if let name = request.pool {
      guard let found = configuration.pools.first(where: { $0.name == name }) else {
        throw Refusal(400, "there is no pool \"\(name)\"; there are \(known)")
      }
      guard found.slots > 0 else {
        throw Refusal(400, "pool \"\(name)\" has no sessions: every client may use it at any time")
      }
      spec = found
    } else {
      guard let found = configuration.defaultPool else {
        throw Refusal(400, "no pool has sessions; there are \(known)")
      }
      spec = found
    }
    let limits: SessionLimits.Resolved
    do { limits = try spec.sessions.resolve(timeout: request.timeout, idleTimeout: request.idleTimeout) } catch {
      throw Refusal(400, error.description)
    }
    return Creation(
      id: Self.newID(), spec: spec, limits: limits, metadata: request.metadata,
      deadline: clock() + spec.queue.timeoutMilliseconds)
  }

  /// 122 random bits from the system's generator, as a UUID of version 4: whoever knows it may use the session.
  private static func newID() -> String {
    var generator = SystemRandomNumberGenerator()
    var high: UInt64 = generator.next()
    var low: UInt64 = generator.next()
    high = high & 0xFFFF_FFFF_FFFF_0FFF | 0x4000
    low = low & 0x3FFF_FFFF_FFFF_FFFF | 0x8000_0000_0000_0000
    func hex(_ value: UInt64) -> String {
      let digits = String(value, radix: 16)
      return String(repeating: "0", count: 16 - digits.count) + digits
    }
    let text = Array(hex(high) + hex(low))
    return [text[0..<8], text[8..<12], text[12..<16], text[16..<20], text[20..<32]].map { String($0) }.joined(
      separator: "-")
  }

  /// Asks for the slot once; nil = the client waits.
  private func tryCreate(_ creation: Creation) async throws(Refusal) -> Answer? {
    let now = clock()
    // Sessions of connections count too; those beyond the limit are refused by the pools' own maxima.
    guard try await run(leases.count()) < configuration.maxSessions else { throw tooMany() }
    let record = SessionRecord(
      id: creation.id, pool: creation.spec.name, origin: .rest, url: url(of: creation.id), createdAt: now,
      expiresAt: now + creation.limits.hardMilliseconds, idleLimitMilliseconds: creation.limits.idleMilliseconds,
      metadata: creation.metadata)
    let grant = try await run(
      leases.acquire(record, holder: nil, reserveMilliseconds: nil, queue: true, now: now))
    switch grant {
    case .granted(let session):
      // Others may have come at the same time as this one: the limit holds for all of them together.
      if try await run(leases.count()) > configuration.maxSessions {
        _ = try await run(
          leases.end(session: session.id, reason: "more than \(configuration.maxSessions) sessions", now: clock()))
        throw tooMany()
      }
      logger.info(
        "session created", metadata: ["session": "\(Self.short(session.id))", "instance": "\(session.instance)"])
      return Answer([
        "sessionId": .string(session.id), "url": .string(url(of: session.id)),
        "expiresIn": .int(max(0, session.expiresAt - now)), "port": .int(session.port),
        "wsEndpoint": .string(webSocketURL(of: session.id)), "pool": .string(session.pool),
      ])
    case .queued, .busy:
      guard now < creation.deadline else {
        await cancel(creation)
        throw Refusal(
          503,
          "no slot of pool \"\(creation.spec.name)\" became free within "
            + "\(creation.spec.queue.timeoutMilliseconds) ms; try again later",
          retryAfterSeconds: 5)
      }
      return nil
    case .queueFull(let waiting):
      throw Refusal(
        429,
        "no slot of pool \"\(creation.spec.name)\" is free and \(waiting) clients wait already; try again later",
        retryAfterSeconds: 5)
    case .unknown:
      throw Refusal(
        503, "pool \"\(creation.spec.name)\" is not declared yet; the control plane may just be starting",
        retryAfterSeconds: 1)
    }
  }

  /// Waits in the queue until there is an answer, or until nobody wants one any more.
  func create(_ creation: Creation, clientHasGone: @Sendable () -> Bool) async throws(Refusal) -> Answer {
    while true {
      let seen = bell.rings
      let answer: Answer?
      do throws(Refusal) { answer = try await tryCreate(creation) } catch {
        await cancel(creation)
        throw error
      }
      if clientHasGone() || Task.isCancelled {
        await cancel(creation)
        throw Refusal(499, "the client has gone")
      }
      if let answer { return answer }
      await bell.wait(
        after: seen, pool: creation.spec.name,
        milliseconds: max(1, min(Self.retryMilliseconds, creation.deadline - clock())))
    }
  }

  /// The client does not wait any more, or nobody will hear of what it got.
  func cancel(_ creation: Creation) async {
    if await tryCancel(creation) { return }
    // Redis is away, and may have granted the slot before: it is given back as soon as that can be said.
    Task {
      for _ in 0..<Self.cancelTries {
        try? await Task.sleep(for: .seconds(1))
        if await tryCancel(creation) { return }
      }
    }
  }

  private func tryCancel(_ creation: Creation) async -> Bool {
    do throws(RedisError) {
      // Out of the queue first: a session that is granted after that cannot come of this ticket.
      try await redis.run(leases.cancelWaiting(session: creation.id, pool: creation.spec.name))
      try await redis.run(leases.end(session: creation.id, reason: "the client has gone", now: clock()))
      return true
    } catch {
      return false
    }
  }

  private func tooMany() -> Refusal {
    Refusal(
      429, "no more than \(configuration.maxSessions) sessions are allowed at once; end one or try again later",
      retryAfterSeconds: 5)
  }

  // MARK: Those that are there

  func session(_ id: String) async throws(Refusal) -> Answer {
    guard let view = try await run(leases.get(session: id)) else { throw .noSession(id) }
    var object: JSONObject = [
      "sessionId": .string(id), "url": .string(url(of: id)), "createdAt": .int(view.record.createdAt),
      "lastAccessed": .int(view.lastAccessed), "expiresIn": .int(max(0, view.leaseExpiry - clock())),
      "port": .int(view.record.port), "wsEndpoint": .string(webSocketURL(of: id)), "pool": .string(view.record.pool),
      "instance": .string(view.record.instance), "state": .string(view.state.rawValue),
    ]
    if !view.record.metadata.isEmpty {
      var metadata = JSONObject()
      for (name, value) in view.record.metadata.sorted(by: { $0.key < $1.key }) { metadata[name] = .string(value) }
      object["metadata"] = .object(metadata)
    }
    return Answer(.object(object))
  }

  func endSession(_ id: String) async throws(Refusal) -> Answer {
    guard try await run(leases.end(session: id, reason: "client", now: clock())) else { throw .noSession(id) }
    logger.info("session ended", metadata: ["session": "\(Self.short(id))"])
    return Answer(["message": .string("session \(id) has ended")])
  }

  func keepAlive(_ id: String) async throws(Refusal) -> Answer {
    try await run(leases.touch(sessions: [id], now: clock()))
    return try await session(id)
  }

  func sessions(_ query: [String: String]) async throws(Refusal) -> Answer {
    func number(_ name: String, _ fallback: Int, _ range: ClosedRange<Int>) throws(Refusal) -> Int {
      guard let text = query[name] else { return fallback }
      guard let number = Int(text), range.contains(number) else {
        throw Refusal(
          400, "\"\(name)\" must be a whole number from \(range.lowerBound) to \(range.upperBound), not \"\(text)\"")
      }
      return number
    }
    let views = try await run(
      leases.list(
        offset: try number("offset", 0, 0...10_000_000),
        limit: try number("limit", Self.defaultPage, 1...Self.defaultPage)))
    let now = clock()
    let list = views.map { view -> JSON in
      [
        "sessionId": .string(view.record.id), "url": .string(url(of: view.record.id)),
        "createdAt": .int(view.record.createdAt), "expiresIn": .int(max(0, view.leaseExpiry - now)),
      ]
    }
    return Answer(["sessions": .array(list)])
  }

  func sessionStats() async throws(Refusal) -> Answer {
    let active = try await run(leases.count())
    var allocated = 0
    var free = 0
    for host in configuration.portHosts {
      let figures = try await run(Ports(keys: keys, host: host).figures())
      allocated += figures.allocated
      free += figures.free
    }
    return Answer([
      "activeSessions": .int(active), "maxSessions": .int(configuration.maxSessions),
      "allocatedPorts": .int(allocated), "availablePorts": .int(free),
    ])
  }

  private func url(of id: String) -> String { "\(configuration.publicURL)/session/\(id)/" }

  private func webSocketURL(of id: String) -> String {
    let url = url(of: id)
    return url.hasPrefix("https:") ? "wss:" + url.dropFirst(6) : "ws:" + url.dropFirst(5)
  }

  /// A session's id opens it, so logs have only its beginning.
  static func short(_ id: String) -> String { String(id.prefix(8)) }
}
