// A session's making over REST: what was asked is judged, a slot is waited for in the same queue as clients that connect,
// and whatever nobody hears of is given back.
import Domain
import JSON
import Logging
import Redis
import Routing
import State
import Supervisor

/// What came of a create.
package enum Created: Sendable {
  /// A session that has yet to be told to its client.
  case session(Answer, Handlers.Creation)
  /// The answer of an earlier create with the same idempotency key.
  case replayed(Answer)
}

extension Handlers {
  /// How often a waiting create asks again when nothing rings; the ticket in the queue lives much longer.
  private static let retryMilliseconds = 250
  /// How often it says that its idempotency key is still being worked on; well below the time after which it is free.
  private static let renewMilliseconds = 2_000
  /// Tries to give back a slot, a second apart, before its limits have to do it.
  private static let cancelTries = 120

  /// One create while it is under way.
  package struct Creation: Sendable {
    let id: String
    let spec: PoolSpec
    let limits: SessionLimits.Resolved
    let metadata: [String: String]
    let launch: LaunchOptions?
    let deadline: Int
    /// The client's key, the API key that it showed ("" = none), and the body that it is for.
    let key: IdempotencyKey?
    let client: String
    let body: [UInt8]
  }

  func prepare(_ body: [UInt8], key: IdempotencyKey?, client: String) throws(Refusal) -> Creation {
    let request = try SessionRequest(body: body)
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
    do {
      limits = try spec.sessions.resolve(
        timeout: request.timeout, idleTimeout: request.idleTimeout, grace: request.grace)
    } catch {
      throw Refusal(400, error.description)
    }
    if let refusal = request.launch.flatMap(spec.refusal(of:)) { throw Refusal(400, refusal) }
    return Creation(
      id: Self.newID(), spec: spec, limits: limits, metadata: request.metadata, launch: request.launch,
      deadline: clock() + spec.queue.timeoutMilliseconds, key: key, client: client, body: body)
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
    var record = SessionRecord(
      id: creation.id, pool: creation.spec.name, origin: .rest, url: url(of: creation.id), createdAt: now,
      expiresAt: now + creation.limits.hardMilliseconds, idleLimitMilliseconds: creation.limits.idleMilliseconds,
      graceMilliseconds: creation.limits.graceMilliseconds, metadata: creation.metadata)
    record.launch = creation.launch
    let grant: Grant
    if let options = creation.launch {
      grant = try await acquireTailored(record, options, spec: creation.spec, now: now)
    } else {
      grant = try await run(leases.acquire(record, holder: nil, reserveMilliseconds: nil, queue: true, now: now))
    }
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
  package func create(_ creation: Creation, clientHasGone: @Sendable () -> Bool) async throws(Refusal) -> Created {
    if let earlier = try await claim(creation) { return .replayed(earlier) }
    var claimedAt = clock()
    while true {
      let seen = bell.rings
      let answer: Answer?
      do throws(Refusal) {
        answer = try await tryCreate(creation)
        if let answer {
          try await keep(answer, for: creation)
        } else if clock() - claimedAt >= Self.renewMilliseconds {
          claimedAt = clock()
          _ = try await claim(creation)
        }
      } catch {
        await cancel(creation)
        throw error
      }
      if clientHasGone() || Task.isCancelled {
        await cancel(creation)
        throw Refusal(499, "the client has gone")
      }
      if let answer { return .session(answer, creation) }
      await bell.wait(
        after: seen, pool: creation.spec.name,
        milliseconds: max(1, min(Self.retryMilliseconds, creation.deadline - clock())))
    }
  }

  /// Asks for an instance that is launched for this session, and takes it when it is there.
  private func acquireTailored(
    _ record: SessionRecord, _ options: LaunchOptions, spec: PoolSpec, now: Int
  ) async throws(Refusal) -> Grant {
    switch try await run(launches.ask(session: record.id, pool: spec.name, options: options, now: now)) {
    case .waiting(let position): return .queued(position: position)
    case .full(let waiting): return .queueFull(waiting: waiting)
    case .unknown: return .unknown
    case .failed(let reason):
      throw Refusal(502, "a browser with these launch options does not start: \(reason)")
    case .ready(let instance):
      let grant = try await run(
        leases.acquire(
          record, instance: instance, holder: nil, reserveMilliseconds: nil, queue: false, now: now))
      switch grant {
      case .granted:
        try await run(launches.withdraw(session: record.id, pool: spec.name))
        return grant
      // It ended in this moment, and another one will be launched.
      case .busy, .unknown, .queued, .queueFull: return .busy
      }
    }
  }

  // MARK: The idempotency key

  /// Takes the client's key for this create; the answer when an earlier one was carried out.
  private func claim(_ creation: Creation) async throws(Refusal) -> Answer? {
    guard let key = creation.key else { return nil }
    let command = idempotency.claim(
      key.text, of: creation.client, request: creation.body, owner: creation.id, now: clock())
    switch try await run(command) {
    case .mine: return nil
    case .pending: throw .sameKeyAtWork
    case .other:
      throw Refusal(
        422, "Idempotency-Key \"\(key.text)\" was used for a request with another body; use a new key for a new request"
      )
    case .done(let text):
      guard let json = try? JSON(parsing: text) else { throw Refusal(500, "Redis gave an unexpected answer: \(text)") }
      return Answer(200, json, headers: ["idempotency-replayed": "true"])
    }
  }

  /// From now on the same request gets the same answer.
  private func keep(_ answer: Answer, for creation: Creation) async throws(Refusal) {
    guard let key = creation.key else { return }
    let isOurs = try await run(
      idempotency.keep(
        key.text, of: creation.client, request: creation.body, owner: creation.id, answer: answer.json.text,
        now: clock()))
    if !isOurs { throw .sameKeyAtWork }
  }

  // MARK: Nobody wants it

  /// The client does not wait any more, or nobody will hear of what it got.
  package func cancel(_ creation: Creation) async {
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
      if creation.launch != nil {
        try await redis.run(launches.withdraw(session: creation.id, pool: creation.spec.name))
      }
      try await redis.run(leases.end(session: creation.id, reason: "the client has gone", now: clock()))
      // Last: the next create with this key makes a session of its own.
      if let key = creation.key {
        try await redis.run(idempotency.release(key.text, of: creation.client, owner: creation.id))
      }
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
}

extension Refusal {
  fileprivate static var sameKeyAtWork: Refusal {
    Refusal(
      409, "another request with this Idempotency-Key is being carried out; ask again in a moment",
      retryAfterSeconds: 1)
  }
}
