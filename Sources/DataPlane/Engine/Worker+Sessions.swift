// Requests that need a session, and the DevTools protocol's addresses: which browser, by whose slot, under which path.
// Slots are the coordinator's to give; the worker asks, goes on with others, and is answered through its mailbox.
import Balancing
import CDP
import HTTPWire
import Observability
import Posix
import ProxyMachine
import Routing

extension Worker {
  /// Decides where a request to a DevTools or session pool goes. Its head is in `s.head`.
  func visit(_ fd: Int32, route: Int) {
    let poolIndex = Int(s.table.routes[route].pool)
    let pool = s.table.record(pool: poolIndex)
    let whole = text(fd, s.head.path)
    let query = text(fd, s.head.query)
    let below = String(decoding: whole.utf8.dropFirst(s.table.strippedBytes(route)), as: UTF8.self)
    let upgrades = s.head.upgrade == .webSocket
    let method = text(fd, s.head.method)
    var authority = text(fd, s.head.authority)
    if authority.isEmpty { authority = "localhost" }
    let path = below.isEmpty ? "/" : below
    let endpoint = CDPEndpoint(method: method, path: path, isUpgrade: upgrades)
    let origin = PublicOrigin(
      secure: s.slab[fd].tls != nil, authority: authority, prefix: s.table.prefix(route), token: Visit.token(in: query))
    _ = s.slab[fd].machine.requestRead(requestFacts(), exclusive: true)
    if case .invalid(let fault) = endpoint.action {
      return answer(fd, 400, "The address is refused: \(fault).", .refused, closes: false)
    }
    // A session's id cannot be guessed: who knows it may use it.
    if case .session = endpoint.scope {
      if s.table.routes[route].needsKey { _ = hasKey(fd) }
    } else if s.table.routes[route].needsKey {
      guard hasKey(fd) else { return refuseWithoutKey(fd) }
    } else if upgrades, !trustsOrigin(fd, route: route) {
      return refuseOrigin(fd)
    }
    let request = VisitRequest(
      pool: pool, endpoint: endpoint, origin: origin, query: instanceQuery(fd, query, pool), upgrades: upgrades,
      queueTimeoutMilliseconds: s.table.routeRecords[route].queueTimeoutMilliseconds)
    if pool.kind == .cdp { visitBrowser(fd, request) } else { visitSession(fd, request) }
  }

  /// What of the query (with its `?`) is for the instance, without its `?`. Browsers' queries are CDPEndpoint's.
  private func instanceQuery(_ fd: Int32, _ query: String, _ pool: PoolRecord) -> String? {
    guard !query.isEmpty else { return nil }
    let whole = String(query.dropFirst())
    guard s.slab[fd].keyPlace == .query, pool.kind != .cdp else { return whole }
    var parts = whole.split(separator: "&", omittingEmptySubsequences: false)
    if let place = parts.firstIndex(where: { $0.hasPrefix("token=") }) { parts.remove(at: place) }
    return parts.isEmpty ? nil : parts.joined(separator: "&")
  }

  struct VisitRequest {
    let pool: PoolRecord
    let endpoint: CDPEndpoint
    let origin: PublicOrigin
    /// Without its `?`.
    let query: String?
    let upgrades: Bool
    /// The route's own; nil = the pool's.
    let queueTimeoutMilliseconds: Int?
  }

  func text(_ fd: Int32, _ slice: Slice) -> String {
    let span = s.slab[fd].inbound.span
    return unsafe String(unsafeUninitializedCapacity: Int(slice.count)) { buffer in
      for offset in 0..<Int(slice.count) { unsafe buffer[offset] = span[slice.lower + offset] }
      return Int(slice.count)
    }
  }

  // MARK: Browsers

  private func visitBrowser(_ fd: Int32, _ request: VisitRequest) {
    if request.endpoint.action == .upgradeRequired { return refuseAddress(fd, request) }
    switch request.endpoint.scope {
    case .session(let id):
      // HTTP at the session itself: a person looks at its URL.
      if request.endpoint.path == "/", !request.upgrades { return refuseAddress(fd, request) }
      ask(fd, request, request.upgrades ? .attach(session: id) : .look(session: id), holds: request.upgrades)
    case .instance(let id):
      guard request.pool.slots == 0, let instance = s.table.source.instance(id: id), instance.pool == request.pool.name
      else { return answer(fd, 404, "There is no such instance to be reached directly.", .refused, closes: false) }
      visitDirectly(fd, request, instance)
    case .root:
      switch request.endpoint.action {
      case .frontend, .other, .upgradeRequired, .invalid: refuseAddress(fd, request)
      case _ where request.pool.slots == 0: visitShared(fd, request)
      case .browser(let guid): ask(fd, request, .claim(browser: guid), holds: true)
      case .page(let target): ask(fd, request, .target(id: target), holds: true)
      case .connect:
        ask(fd, request, .acquire(pool: request.pool.name, reserve: false, countsAsUse: true), holds: true)
      case .version, .list, .new, .activate, .close, .protocolDescription:
        discover(fd, request)
      }
    }
  }

  /// Discovery at the root. /json/version is how a client begins, so each gets a browser of its own, even on a connection
  /// that an HTTP agent shares among clients that begin at once. What follows on that connection (/json/list, /json/new)
  /// is about the same browser until a client took it.
  private func discover(_ fd: Int32, _ request: VisitRequest) {
    if request.endpoint.action != .version, let reserved = s.reservations[fd] {
      return ask(fd, request, .reserved(session: reserved), holds: false)
    }
    let changes =
      switch request.endpoint.action {
      case .new, .activate, .close: true
      default: false
      }
    ask(fd, request, .acquire(pool: request.pool.name, reserve: true, countsAsUse: changes), holds: false)
  }

  /// A DevTools pool without slots: no sessions, any instance serves everybody.
  private func visitShared(_ fd: Int32, _ request: VisitRequest) {
    if case .browser(let guid) = request.endpoint.action {
      guard let instance = s.table.source.instance(browser: guid) else { return refuse(fd, .unknown) }
      return visitDirectly(fd, request, instance)
    }
    if case .page = request.endpoint.action {
      return answer(
        fd, 404, "Which browser? Use the webSocketDebuggerUrl of /json/list, which names its instance.", .refused,
        closes: false)
    }
    let route = s.slab[fd].route
    guard route >= 0, let pool = s.poolStates[request.pool.name] else { return closeClient(fd, .internalError) }
    let compiled = s.table.routes[Int(route)]
    let place = pickByTier(fd, compiled, pool, s.table.pools[Int(compiled.pool)].backups).place
    guard place >= 0 else {
      return answer(
        fd, 503, "No instance of this pool is ready. Try again shortly.", .refused, closes: true, retryAfter: 1)
    }
    visitDirectly(fd, request, s.table.source.instances[Int(s.instances[Int(place)].record)])
  }

  private func visitDirectly(_ fd: Int32, _ request: VisitRequest, _ instance: InstanceRecord) {
    guard let address = SocketAddress(host: instance.host, port: instance.port) else {
      return answer(fd, 502, "The instance has no usable address.", .connectFailed, closes: true)
    }
    let visit = makeVisit(fd, request, holds: false)
    visit.origin.prefix += "/instance/\(instance.id)"
    visit.origin.browserPrefix = visit.origin.prefix
    if let pool = s.poolStates[instance.pool] {
      beginTurn(fd, pool.s.balancer.place(ofKey: StableHash.of(instance.id)), pool)
    }
    // One without a row of its own counts among the others.
    let row = s.labelNames.row(instance: instance.id, pool: instance.pool) ?? 0
    storyAttempt(fd, instance: row, address)
    s.slab[fd].machine.slotGranted()
    go(fd, visit, browser: instance.browser, to: address)
  }

  private func refuseAddress(_ fd: Int32, _ request: VisitRequest) {
    if request.upgrades {
      answer(
        fd, 404, "There is no WebSocket at this path. Connect to /, /devtools/browser/<id> or /session/<id>/.",
        .refused,
        closes: false)
    } else if request.endpoint.action == .upgradeRequired || request.endpoint.path == "/" {
      answer(
        fd, 400, "This address takes a WebSocket. Clients that discover by HTTP ask /json/version below it.", .refused,
        closes: false)
    } else {
      answer(fd, 404, "There is nothing at this path. Browsers are found by /json/version.", .refused, closes: false)
    }
  }

  // MARK: Other session pools

  /// Desktops and other pools with slots: everything below a session's path belongs to its instance; every other path
  /// gets a slot for as long as the connection lives.
  private func visitSession(_ fd: Int32, _ request: VisitRequest) {
    if case .session(let id) = request.endpoint.scope {
      ask(fd, request, request.upgrades ? .attach(session: id) : .look(session: id), holds: request.upgrades)
    } else if s.slab[fd].session >= 0 {
      ask(fd, request, .look(session: s.sessions.id(s.slab[fd].session)), holds: false)
    } else {
      ask(fd, request, .acquire(pool: request.pool.name, reserve: false, countsAsUse: true), holds: true)
    }
  }

  // MARK: Asking

  private func makeVisit(_ fd: Int32, _ request: VisitRequest, holds: Bool) -> Visit {
    let visit = Visit(
      endpoint: request.endpoint, pool: request.pool, origin: request.origin, query: request.query, holds: holds,
      queueTimeoutMilliseconds: request.queueTimeoutMilliseconds)
    s.visits[fd] = visit
    return visit
  }

  private func ask(_ fd: Int32, _ request: VisitRequest, _ kind: SlotRequest.Kind, holds: Bool) {
    _ = makeVisit(fd, request, holds: holds)
    s.slab[fd].story.stepStarted = Clock.monotonicMicroseconds
    s.slab[fd].story.isSession = true
    let ticket = s.nextTicket
    s.nextTicket += 1
    s.tickets[ticket] = fd
    s.slab[fd].ticket = ticket
    s.labels.add(.waitingNow, pool: s.slab[fd].story.pool)
    s.slab[fd].isWaiting = true
    // As long as the pool lets clients wait, and a while for the coordinator itself.
    let patience =
      (request.queueTimeoutMilliseconds ?? request.pool.queueTimeoutMilliseconds) + s.limits.coordinatorMilliseconds
    s.timers.set(fd, .slot, at: s.now + patience, s.slab)
    if s.slab[fd].peerEnds { hurry(fd) }
    s.coordinator.submit(
      SlotRequest(
        kind: kind, ticket: ticket, worker: s.index, queueTimeoutMilliseconds: request.queueTimeoutMilliseconds))
  }

  func waitsNoMore(_ fd: Int32) {
    guard s.slab[fd].isWaiting else { return }
    s.slab[fd].isWaiting = false
    s.labels.add(.waitingNow, pool: s.slab[fd].story.pool, -1)
  }

  /// The client has ended its side while it waits for a slot or a place: it may be gone, so it does not wait long.
  func hurry(_ fd: Int32) {
    if s.slab[fd].wait == .slot || s.slab[fd].wait == .place { wait(fd, .goneWithoutSlot) }
  }

  /// The coordinator's answer. A client that has gone meanwhile has cancelled its ticket.
  func slotAnswered(_ answer: SlotAnswer, ticket: UInt64) {
    guard let fd = s.tickets.removeValue(forKey: ticket) else { return }
    s.slab[fd].ticket = 0
    waitsNoMore(fd)
    switch answer {
    case .refused(.unknown) where s.reservations[fd] != nil:
      // The browser that this connection was shown is taken or gone: it asks for another client now, or comes late.
      s.reservations[fd] = nil
      guard let visit = s.visits[fd], visit.endpoint.scope == .root else { return refuse(fd, .unknown) }
      discover(
        fd,
        VisitRequest(
          pool: visit.pool, endpoint: visit.endpoint, origin: visit.origin, query: visit.query, upgrades: false,
          queueTimeoutMilliseconds: visit.queueTimeoutMilliseconds))
    case .refused(let refusal): refuse(fd, refusal)
    case .granted(let session):
      guard let visit = s.visits[fd] else { return closeClient(fd, .internalError) }
      guard let address = SocketAddress(host: session.host, port: session.port) else {
        if visit.holds { s.coordinator.notify(.release(session: session.id)) }
        return self.answer(fd, 502, "The instance has no usable address.", .connectFailed, closes: true)
      }
      visit.session = session
      let waited = since(s.slab[fd].story.stepStarted)
      s.slab[fd].story.queueMicroseconds = waited
      s.labels.add(.queueWaits, pool: s.slab[fd].story.pool)
      s.labels.add(.queueMicroseconds, pool: s.slab[fd].story.pool, Int(waited))
      let row = s.labelNames.row(instance: session.instance, pool: visit.pool.name) ?? AccessRecord.noRow
      storyAttempt(fd, instance: row, address)
      if visit.endpoint.scope == .root {
        if !visit.holds, visit.speaksDevTools { s.reservations[fd] = session.id }
        visit.origin.prefix += "/session/\(session.id)"
      } else {
        visit.origin.prefix += "/session/\(session.id)"
        visit.origin.browserPrefix = visit.origin.prefix
      }
      if visit.holds { s.slab[fd].session = s.sessions.add(fd, to: session.id) }
      s.slab[fd].machine.slotGranted()
      go(fd, visit, browser: session.browser, to: address)
    }
  }

  private func go(_ fd: Int32, _ visit: Visit, browser: String?, to address: SocketAddress) {
    visit.address = address
    visit.host = address.description
    guard let target = visit.target(browser: browser) else {
      return answer(fd, 502, "This instance has no browser address yet.", .badResponse, closes: true)
    }
    visit.upstreamTarget = target
    // The worker's one head was used for others while this request waited.
    if reparse(fd) { connect(fd, to: address) }
  }

  func refuse(_ fd: Int32, _ refusal: SlotRefusal) {
    // A reservation that ran out is not the client's fault: the next discovery makes another.
    s.reservations[fd] = nil
    switch refusal {
    case .unknown:
      answer(fd, 404, "There is no such session or browser, or it has ended.", .refused, closes: false)
    case .busy:
      answer(fd, 409, "This browser is in use by another client.", .refused, closes: false)
    case .queueFull:
      s.labels.add(.queueFull, pool: s.slab[fd].story.pool)
      answer(fd, 429, "As many clients wait for this pool as may.", .refused, closes: false, retryAfter: 5)
    case .timedOut:
      s.labels.add(.queueTimeouts, pool: s.slab[fd].story.pool)
      answer(fd, 503, "No slot of this pool became free in time.", .refused, closes: false, retryAfter: 5)
    case .unavailable:
      s.labels.add(.queueUnavailable, pool: s.slab[fd].story.pool)
      answer(
        fd, 503, "No new exclusive slot can be given while Redis cannot be reached.", .refused, closes: false,
        retryAfter: 2)
    }
  }

  // MARK: Ends

  /// The request is over: whatever it still asks for is not wanted any more.
  func endVisit(_ fd: Int32) {
    let ticket = s.slab[fd].ticket
    if ticket != 0 {
      s.slab[fd].ticket = 0
      waitsNoMore(fd)
      s.tickets[ticket] = nil
      s.coordinator.notify(.cancel(ticket: ticket, worker: s.index))
    }
    s.visits[fd] = nil
  }

  /// A client's connection ends: it holds its session no more.
  func releaseSession(_ fd: Int32) {
    s.reservations[fd] = nil
    let index = s.slab[fd].session
    guard index >= 0 else { return }
    s.slab[fd].session = -1
    s.coordinator.notify(.release(session: s.sessions.remove(fd, from: index)))
  }

  /// A session is over, by its limit, by REST or with its instance: so are its sockets.
  func endSession(_ id: String) {
    for fd in s.sessions.sockets(of: id) { closeClient(fd, .sessionEnded) }
  }

  /// Tells which sessions moved bytes since the last time.
  func reportActivity() {
    s.sessions.eachSession { id, sockets in
      var moved = false
      for fd in sockets {
        let peer = s.slab[fd].peer
        if s.slab[fd].moved || (peer >= 0 && s.slab[peer].moved) { moved = true }
        s.slab[fd].moved = false
        if peer >= 0 { s.slab[peer].moved = false }
      }
      if moved { s.coordinator.notify(.activity(session: id)) }
    }
  }
}
