// Sessions over REST that are there: shown, found, kept alive and ended. Handlers+Create.swift makes them.
import Domain
import JSON
import Logging
import Redis
import Routing
import State
import Supervisor

extension Handlers {
  func session(_ id: String) async throws(Refusal) -> Answer {
    guard let view = try await run(leases.get(session: id)) else { return try await gone(id) }
    return describe(view)
  }

  /// Why a session is not there. A client whose WebSocket ended without a word finds the reason here.
  private func gone(_ id: String) async throws(Refusal) -> Answer {
    guard let endedAt = try await run(leases.ended(session: id)),
      let reason = try await run(Events(keys: keys).end(of: id, at: endedAt))
    else { throw .noSession(id) }
    return Answer(
      404,
      [
        "error": .string("session \(id) has ended: \(reason); POST /api/session/create makes a new one"),
        "reason": .string(reason), "endedAt": .int(endedAt),
      ])
  }

  private func describe(_ view: SessionView) -> Answer {
    let (record, id, now) = (view.record, view.record.id, clock())
    var object: JSONObject = [
      "sessionId": .string(id), "url": .string(url(of: id)), "createdAt": .int(record.createdAt),
      "lastAccessed": .int(view.lastAccessed), "expiresIn": .int(max(0, view.leaseExpiry - now)),
      "hardExpiresIn": .int(max(0, record.expiresAt - now)), "idleTimeout": .int(record.idleLimitMilliseconds),
      // A connection that says nothing of it ends its session.
      "grace": (record.graceMilliseconds ?? (record.origin == .connection ? 0 : nil)).map { .int($0) } ?? .null,
      "port": .int(record.port), "wsEndpoint": .string(webSocketURL(of: id)), "pool": .string(record.pool),
      "instance": .string(record.instance), "state": .string(view.state.rawValue),
      "origin": .string(record.origin.rawValue),
    ]
    if let launch = record.launch { object["launch"] = launch.json }
    Self.add(record.metadata, to: &object)
    return Answer(.object(object))
  }

  private static func add(_ metadata: [String: String], to object: inout JSONObject) {
    guard !metadata.isEmpty else { return }
    var fields = JSONObject()
    for (name, value) in metadata.sorted(by: { $0.key < $1.key }) { fields[name] = .string(value) }
    object["metadata"] = .object(fields)
  }

  func endSession(_ id: String) async throws(Refusal) -> Answer {
    guard try await run(leases.end(session: id, reason: "client", now: clock())) else { throw .noSession(id) }
    logger.info("session ended", metadata: ["session": "\(Self.short(id))"])
    return Answer(["message": .string("session \(id) has ended")])
  }

  package func keepAlive(_ id: String, _ request: KeepAliveRequest) async throws(Refusal) -> Answer {
    if let timeout = request.timeout {
      guard let view = try await run(leases.get(session: id)) else { return try await gone(id) }
      // A pool that only another control plane declares has its maximum in Redis.
      if let spec = configuration.pools.first(where: { $0.name == view.record.pool }) {
        do { try spec.sessions.checkKeepAlive(timeout: timeout) } catch { throw Refusal(400, error.description) }
      } else if timeout < SessionLimits.shortestMilliseconds {
        throw Refusal(400, "\"timeout\" must be at least \(SessionLimits.shortestMilliseconds) milliseconds")
      }
    }
    guard
      let view = try await run(leases.keepAlive(session: id, hardMilliseconds: request.timeout, now: clock()))
    else { return try await gone(id) }
    return describe(view)
  }

  package func sessions(_ query: SessionQuery) async throws(Refusal) -> Answer {
    let views: [SessionView]
    var isComplete = true
    if query.metadata.isEmpty {
      views = try await run(leases.list(offset: query.offset, limit: query.limit))
    } else {
      (views, isComplete) = try await run(
        leases.find(metadata: query.metadata, offset: query.offset, limit: query.limit))
    }
    let now = clock()
    let list = views.map { view -> JSON in
      var object: JSONObject = [
        "sessionId": .string(view.record.id), "url": .string(url(of: view.record.id)),
        "createdAt": .int(view.record.createdAt), "expiresIn": .int(max(0, view.leaseExpiry - now)),
        "pool": .string(view.record.pool), "state": .string(view.state.rawValue),
      ]
      Self.add(view.record.metadata, to: &object)
      return .object(object)
    }
    var answer: JSONObject = ["sessions": .array(list)]
    if !isComplete { answer["incomplete"] = .bool(true) }
    return Answer(.object(answer))
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

  func url(of id: String) -> String { "\(configuration.publicURL)/session/\(id)/" }

  func webSocketURL(of id: String) -> String {
    let url = url(of: id)
    return url.hasPrefix("https:") ? "wss:" + url.dropFirst(6) : "ws:" + url.dropFirst(5)
  }

  /// A session's id opens it, so logs have only its beginning.
  static func short(_ id: String) -> String { String(id.prefix(8)) }
}
