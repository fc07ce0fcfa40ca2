// Sessions and the slots they hold. Replicas and the REST API acquire, claim and attach; replicas detach and touch; the
// leader ends what has expired. A session has one lease, named by the session's id (LeaseScripts.swift).
import JSON
package import Routing

/// What comes of asking for a slot.
package enum Grant: Sendable, Equatable {
  /// The session as it is stored, with its instance, host, port and browser filled in.
  case granted(SessionRecord)
  /// It waits; 1 = next in line. Ask again when the doorbell rings, and at least every two seconds to be believed alive.
  case queued(position: Int)
  /// As many clients wait as the pool allows.
  case queueFull(waiting: Int)
  /// No slot is free (or others wait for the free ones) and waiting was not asked for.
  case busy
  /// No such session, instance or pool, the pool has no sessions, or the session's hard limit is over.
  case unknown
}

/// The commands of sessions and their slots. Times are Unix milliseconds; the clocks of one deployment's hosts may
/// differ by what a pool's shortest limit can bear, and by less than five seconds for the queue.
package struct Leases: Sendable {
  let keys: Keys
  package init(keys: Keys) { self.keys = keys }

  /// Asks for a slot of the session's pool, or of one instance of it; first come, first served among those who wait.
  /// - `session`: the template; instance, host, port and browser are filled in. With the id of a session that has a
  ///   lease, that session is granted again.
  /// - `holder`: the replica that has a socket of it (the session is then active); nil for none yet.
  /// - `reserveMilliseconds`: without a holder, how long the slot is kept for the first one (the session is then
  ///   reserved). nil: a REST session is kept to its idle and hard limit; one of a connection as the pool reserves.
  /// - `queue`: wait when there is no slot. The ticket is the session's id; it lives 5 s after each call.
  /// - `countsAsUse`: counts towards the pool's `recycleAfterSessions` at once, not when it is first attached.
  package func acquire(
    _ session: SessionRecord, instance: String? = nil, holder: String?, reserveMilliseconds: Int?, queue: Bool,
    countsAsUse: Bool = false, now: Int
  ) -> Command<Grant> {
    keys.call(
      Self.acquireScript, now: now,
      Self.template(session) + [
        instance ?? "", holder ?? "", String(reserveMilliseconds ?? -1), queue ? "1" : "0", countsAsUse ? "1" : "0",
      ], parse: Self.grant)
  }

  /// A WebSocket to this very browser: takes over its oldest reserved session; else joins the session that has an
  /// exclusive instance; else acquires a slot of it for `session`.
  package func claim(instance: String, session: SessionRecord, holder: String, now: Int) -> Command<Grant> {
    precondition(!holder.isEmpty)
    return keys.call(
      Self.claimScript, now: now, Self.template(session) + [instance, holder], parse: Self.grant)
  }

  /// A socket of a session: the replica holds it from now on. `unknown` when the session is over.
  package func attach(session: String, holder: String, now: Int) -> Command<Grant> {
    precondition(!holder.isEmpty)
    return keys.call(Self.attachScript, now: now, [session, holder], parse: Self.grant)
  }

  /// The replica's last socket of the session has gone. Without any holder a connection's session ends now or after
  /// its grace; a REST session stays to its idle or hard limit.
  package func detach(session: String, holder: String, now: Int) -> Command<Void> {
    keys.call(Self.detachScript, now: now, [session, holder], parse: Read.nothing())
  }

  /// The session is wanted still: its idle limit, or its grace, starts anew. With `hardMilliseconds` it may also live for
  /// so long from now, within the longest life that its pool allows; never shorter than before. nil when it is over.
  package func keepAlive(session: String, hardMilliseconds: Int?, now: Int) -> Command<SessionView?> {
    keys.call(Self.keepAliveScript, now: now, [session, String(hardMilliseconds ?? -1)], parse: Self.optionalView)
  }

  /// Bytes moved on these sessions: their idle limits start anew.
  package func touch(sessions: [String], now: Int) -> Command<Void> {
    keys.call(Self.touchScript, now: now, sessions, parse: Read.nothing())
  }

  /// Ends a session and frees its slot; false when there was none (any more). In both cases nobody puts it back for ten
  /// minutes: see ``restore(_:holder:now:)``.
  package func end(session: String, reason: String, now: Int) -> Command<Bool> {
    keys.call(Self.endScript, now: now, [session, reason], parse: Read.bool("leases.end"))
  }

  /// Ends the sessions of a pool whose leases have expired, at most `limit`, and returns them. Looks and acts in one
  /// script, so it cannot end a session that was attached or touched in between. The recorded reason is `reservation
  /// ran out`, `grace ran out`, `idle limit` or `hard limit`.
  package func endExpired(pool: String, now: Int, limit: Int) -> Command<[String]> {
    keys.call(Self.endExpiredScript, now: now, [pool, String(limit)], parse: Read.strings("leases.endExpired"))
  }

  /// Puts back a session that still lives although Redis lost its data: on its own instance, also when that has not
  /// been registered again yet. `unknown` when its hard limit is over or it was ended since then. `busy` when others have all slots of the instance,
  /// `queued` when that may be old data: ask again.
  package func restore(_ session: SessionRecord, holder: String?, now: Int) -> Command<Grant> {
    keys.call(
      Self.restoreScript, now: now, Self.template(session) + [session.instance, holder ?? "", session.json.text],
      parse: Self.grant)
  }

  /// The client no longer waits.
  package func cancelWaiting(session: String, pool: String) -> Command<Void> {
    keys.call(Self.cancelWaitingScript, now: 0, [session, pool], parse: Read.nothing())
  }

  /// Sessions of a pool whose leases have expired; see ``endExpired(pool:now:limit:)`` for ending them.
  package func expired(pool: String, now: Int, limit: Int) -> Command<[String]> {
    Command(
      .words(["ZRANGEBYSCORE", keys.leases(pool: pool), "-inf", String(now), "LIMIT", "0", String(limit)]),
      mayRepeat: true, parse: Read.strings("leases.expired"))
  }

  package func get(session: String) -> Command<SessionView?> {
    keys.call(Self.viewScript, now: 0, [session], parse: Self.optionalView)
  }

  /// When a session ended, of those of the last minutes; nil when it lives, never was, or that is forgotten.
  package func ended(session: String) -> Command<Int?> {
    Command(.words(["ZSCORE", keys.ended, session]), mayRepeat: true, parse: Read.optionalInt("ended"))
  }

  private static let optionalView: @Sendable (Reply) throws(StateError) -> SessionView? = {
    (reply: Reply) throws(StateError) -> SessionView? in
    try reply.list(of: "session").first.map { (view) throws(StateError) in try SessionView(view) }
  }

  /// Sessions by the end of their hard limit, the earliest first.
  package func list(offset: Int, limit: Int) -> Command<[SessionView]> {
    precondition(offset >= 0 && limit > 0)
    return keys.call(Self.listScript, now: 0, [String(offset), String(offset + limit - 1)]) {
      (reply: Reply) throws(StateError) -> [SessionView] in
      var views: [SessionView] = []
      for view in try reply.list(of: "sessions") { views.append(try SessionView(view)) }
      return views
    }
  }

  /// Sessions that one search looks at, at most.
  package static let searchLimit = 10_000

  /// The sessions whose metadata has all these fields, the oldest first. `isComplete` is false when there were more to
  /// look at than ``searchLimit``. Each field must be searchable, see `SessionRecord.isSearchable`.
  package func find(metadata: [String: String], offset: Int, limit: Int) -> Command<
    (views: [SessionView], isComplete: Bool)
  > {
    precondition(!metadata.isEmpty && offset >= 0 && limit > 0)
    return keys.call(
      Self.findScript, now: 0,
      [String(offset), String(limit), String(Self.searchLimit)] + metadata.map { "\($0.key)=\($0.value)" }.sorted()
    ) { (reply: Reply) throws(StateError) -> (views: [SessionView], isComplete: Bool) in
      let parts = try reply.list(of: "leases.find", count: 2)
      var views: [SessionView] = []
      for view in try parts[0].list(of: "leases.find") { views.append(try SessionView(view)) }
      return (views, try parts[1].int(of: "leases.find") == 1)
    }
  }

  /// How many sessions there are.
  package func count() -> Command<Int> {
    Command(.words(["ZCARD", keys.sessions]), mayRepeat: true, parse: Read.int("sessions"))
  }

  /// Free slots, leases and queue of a pool; forgets waiters that are not alive any more.
  package func figures(pool: String, now: Int) -> Command<PoolFigures> {
    keys.call(Self.figuresScript, now: now, [pool]) { (reply: Reply) throws(StateError) -> PoolFigures in
      let parts = try reply.list(of: "leases.figures", count: 4)
      var free: [String: Int] = [:]
      for (instance, slots) in try parts[0].pairs(of: "leases.figures") {
        free[instance] = try slots.int(of: "leases.figures")
      }
      return PoolFigures(
        freeSlots: free, leases: try parts[1].int(of: "leases.figures"),
        waiting: try parts[2].int(of: "leases.figures"),
        oldestWaiting: parts[3] == .null ? nil : try parts[3].int(of: "leases.figures"))
    }
  }

  /// ARGV[5] to ARGV[14] of the scripts that may make a session. Its JSON goes out in two halves, between which the
  /// script writes what it has chosen: the document is never decoded and encoded again.
  private static func template(_ session: SessionRecord) -> [String] {
    var head = JSONObject()
    var tail = JSONObject()
    for field in session.json.object?.fields ?? [] {
      switch field.name {
      case "instance", "host", "port", "browser": break
      case "sessionId", "pool", "origin": head[field.name] = field.value
      default: tail[field.name] = field.value
      }
    }
    let search = session.metadata.filter { SessionRecord.isSearchable(name: $0.key, value: $0.value) }
      .map { "\($0.key)=\($0.value)" }.sorted()
    return [
      session.id, session.pool, session.origin.rawValue, String(session.createdAt), String(session.expiresAt),
      String(session.idleLimitMilliseconds), session.graceMilliseconds.map(String.init) ?? "",
      String(JSON.object(head).text.dropLast()),
      "," + JSON.object(tail).text.dropFirst(),
      search.isEmpty ? "" : JSON.array(search.map { .string($0) }).text,
    ]
  }

  private static let grant: @Sendable (Reply) throws(StateError) -> Grant = {
    (reply: Reply) throws(StateError) -> Grant in
    let parts = try reply.list(of: "grant")
    let word = try parts.first?.string(of: "grant")
    switch (word, parts.count) {
    case ("granted", 2): return .granted(try SessionView.record(parts[1]))
    case ("queued", 2): return .queued(position: try parts[1].int(of: "grant"))
    case ("full", 2): return .queueFull(waiting: try parts[1].int(of: "grant"))
    case ("busy", 1): return .busy
    case ("unknown", 1): return .unknown
    default: throw StateError("grant: \"\(word ?? "")\" with \(parts.count) parts came from Redis")
    }
  }
}
