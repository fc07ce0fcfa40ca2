// A request's way to an instance: read its head, find its route, choose an instance, connect or reuse, send it on.
import Balancing
import HTTPWire
import Observability
import Posix
import ProxyMachine
import Routing

extension Worker {
  /// Reads a client's next request as far as it has come. Called between requests only.
  func readRequest(_ fd: Int32) {
    while s.slab[fd].kind == .client, s.slab[fd].machine.phase == .readingHead {
      // While an answer is still on its way to this client, its next request waits (a bound on pipelining).
      guard s.slab[fd].outbound.isEmpty else { return }
      let looked = s.slab[fd].headLooked
      if looked == s.slab[fd].inbound.count {
        switch receiveHead(fd) {
        case .bytes(let count):
          s.metrics.add(.bytesFromClients, count)
          // Nothing is parsed again for pieces of a line, so that a head that comes byte by byte costs no more than it is.
          if looked > 0, !s.parser.goesOn(s.slab[fd].inbound.span, from: Int(looked)) {
            s.slab[fd].headLooked = s.slab[fd].inbound.count
            continue
          }
        case .wouldBlock: return
        case .end:
          if case .close(let reason) = s.slab[fd].machine.clientEnd(insideHead: !s.slab[fd].inbound.isEmpty) {
            closeClient(fd, reason)
          }
          return
        case .reset: return closeClient(fd, .clientReset)
        }
      }
      if s.slab[fd].wait == .keepAlive { wait(fd, .head) }
      switch s.parser.parse(.request, s.slab[fd].inbound.span, into: &s.head) {
      case .needsMore: s.slab[fd].headLooked = s.slab[fd].inbound.count
      case .failed(let error): return refuseBadRequest(fd, error)
      case .complete:
        s.slab[fd].headLooked = 0
        s.slab[fd].heldHead = Int32(s.head.byteCount)
        s.slab[fd].requestStarted = Clock.monotonicMicroseconds
        s.metrics.add(.requests)
        route(fd)
      }
    }
  }

  private func refuseBadRequest(_ fd: Int32, _ error: HTTPError) {
    if error == .tlsOnPlainPort {
      // Nobody there would read an HTTP answer.
      s.log.info(
        "a connection was closed",
        [
          "reason": .string(CloseReason.badRequest.label), "error": .string(error.sentence),
          "client": .string(Socket.peerAddress(fd).host),
        ])
      return closeClient(fd, .badRequest)
    }
    answer(fd, error.status, error.sentence, .badRequest, closes: true)
  }

  /// The head in `s.head` is the client's current request. Finds out where it goes.
  private func route(_ fd: Int32) {
    let route = s.table.match(s.slab[fd].inbound.span, authority: s.head.authority, path: s.head.path)
    guard route >= 0 else {
      s.slab[fd].route = -1
      keepText(fd)
      _ = s.slab[fd].machine.requestRead(requestFacts(), exclusive: false)
      return answer(fd, 404, "No route leads from this host and path to a pool.", .noRoute, closes: false)
    }
    let compiled = s.table.routes[route]
    s.slab[fd].route = Int32(route)
    beginStory(fd, compiled)
    s.slab[fd].waits = compiled.waits
    s.slab[fd].setsCookie = false
    s.slab[fd].makesJob = false
    if compiled.isGuarded, !admits(fd, compiled) { return }
    s.slab[fd].keyPlace = .none
    s.table.budgets[route].requested(now: s.now)
    s.slab[fd].bodyRoom = compiled.bodyBytes > 0 ? compiled.bodyBytes : UInt64.max
    if s.head.maxForwards == 0 {
      // RFC 9110 §7.6.2: the request goes no further, so Berth itself is what is asked for its options.
      _ = s.slab[fd].machine.requestRead(requestFacts(), exclusive: false)
      return answer(fd, 200, contentType: "text/plain", body: [], .responseComplete, closes: false)
    }
    // RFC 9110 §7.8: a server may ignore an Upgrade; the request then goes on as a plain one.
    if !compiled.upgrades { s.head.upgrade = .none }
    if case .length(let count) = s.head.framing, count > s.slab[fd].bodyRoom {
      _ = s.slab[fd].machine.requestRead(requestFacts(), exclusive: false)
      return refuseLargeBody(fd)
    }
    let pool = s.table.pools[Int(compiled.pool)]
    if pool.needsSlot || pool.kind != PoolKind.httpIndex { return visit(fd, route: route) }
    if compiled.needsKey, !showsKey(fd) { return }
    s.slab[fd].stripped = compiled.stripped
    let asks = compiled.jobAffinity && asksForJob(fd, route)
    _ = s.slab[fd].machine.requestRead(requestFacts(attempts: compiled.attempts), exclusive: asks)
    if asks { return askForJob(fd, route) }
    chooseInstance(fd, route: route)
  }

  func requestFacts(attempts: UInt8 = 3) -> RequestFacts {
    RequestFacts(
      keepsAlive: s.head.keepsAlive, hasBody: s.head.framing != .none, isHead: s.head.isHead,
      upgrades: s.head.upgrade == .webSocket, isIdempotent: s.head.isGet || s.head.isHead,
      isVersion10: s.head.minorVersion == 0, maximumAttempts: attempts)
  }

  func refuseLargeBody(_ fd: Int32) {
    s.labels.add(.bodiesRefused, route: s.slab[fd].story.route)
    answer(fd, 413, "The request body is larger than this route takes.", .bodyTooLarge, closes: true)
  }

  /// xorshift64: spreads well enough for balancing, costs a nanosecond.
  func nextRandom() -> UInt64 {
    var x = s.random
    x ^= x << 13
    x ^= x >> 7
    x ^= x << 17
    s.random = x
    return x
  }

  // MARK: Connection to the instance

  /// Takes a kept connection to the instance or makes one.
  func connect(_ fd: Int32, instance: Int32, _ pool: PoolHandle) {
    beginTurn(fd, instance, pool)
    s.slab[fd].instance = instance
    s.instances[Int(instance)].active += 1
    s.instances[Int(instance)].requests += 1
    storyAttempt(fd, instance: s.instances[Int(instance)].row, s.instances[Int(instance)].address)
    if let kept = takeIdle(instance: instance) {
      s.metrics.add(.instanceReuses)
      s.slab[kept].peer = fd
      s.slab[fd].peer = kept
      wait(kept, .none)
      s.slab[fd].story.isReused = true
      s.slab[fd].machine.connected(reused: true)
      sendRequest(fd)
    } else {
      connect(fd, to: s.instances[Int(instance)].address)
    }
  }

  /// Begins a new connection for the client's request.
  func connect(_ fd: Int32, to address: SocketAddress) {
    s.slab[fd].story.isReused = false
    s.slab[fd].story.stepStarted = Clock.monotonicMicroseconds
    let (result, pending) = Socket.connect(address)
    guard result >= 0, result < s.slab.capacity else {
      if result >= 0 { Socket.close(Int32(result)) }
      if result >= 0 || result == Errno.tooManyFiles || result == Errno.tooManyFilesInSystem {
        // Our own shortage is no fault of the instance.
        return answer(
          fd, 503, "This replica has no descriptor left for another connection.", .overloaded, closes: true,
          retryAfter: 1)
      }
      return instanceFailed(fd, .connectFailed)
    }
    let instance = Int32(result)
    let generation = s.slab.open(instance, .instance)
    s.slab[instance].instance = s.slab[fd].instance
    s.slab[instance].peer = fd
    s.slab[fd].peer = instance
    s.instanceConnections += 1
    s.metrics.add(.instanceConnections)
    s.slab[instance].isWatched = true
    s.poller.addEdgeTriggered(.init(fd: instance, generation: generation))
    if pending {
      s.slab[instance].isConnecting = true
      s.slab[instance].isWritable = false
      wait(fd, .connect)
    } else {
      s.slab[fd].machine.connected(reused: false)
      sendRequest(fd)
    }
  }

  /// The kernel says what became of a connection attempt.
  func connectEnded(_ instance: Int32) {
    let client = s.slab[instance].peer
    s.slab[instance].isConnecting = false
    guard Socket.takeError(instance) == 0 else {
      if client >= 0 { instanceFailed(client, .connectFailed) } else { closeInstance(instance) }
      return
    }
    guard client >= 0 else { return closeInstance(instance) }
    let microseconds = since(s.slab[client].story.stepStarted)
    s.slab[client].story.connectMicroseconds = microseconds
    if s.slab[client].story.isOpen {
      s.labels.add(.connections, instance: s.slab[client].story.instance)
      s.labels.add(.connectMicroseconds, instance: s.slab[client].story.instance, Int(microseconds))
    }
    s.slab[client].machine.connected(reused: false)
    if reparse(client) { sendRequest(client) }
  }

  /// Parses the held head again: the worker's one head was used for others meanwhile.
  func reparse(_ fd: Int32) -> Bool {
    guard s.parser.parse(.request, s.slab[fd].inbound.span, into: &s.head) == .complete else {
      closeClient(fd, .internalError)
      return false
    }
    return true
  }

  /// Writes the request in `s.head` for the instance and sends it, with what has come of its body.
  func sendRequest(_ fd: Int32) {
    let instance = s.slab[fd].peer
    let proxyBytes = writeProxyHeader(fd)
    guard let written = writeRequestHead(fd, after: proxyBytes) else {
      return answer(fd, 431, "The header section is too large to be forwarded.", .badRequest, closes: true)
    }
    let headBytes = proxyBytes + written
    s.slab[fd].body = BodyState(s.head.framing)
    let held = Int(s.slab[fd].heldHead)
    var bodyBytes = 0
    var ended = true
    if s.slab[fd].body.mode != .idle {
      let available = Int(s.slab[fd].inbound.count) - held
      guard let followed = follow(fd, s.slab[fd].inbound.span.extracting(held..<held + available)) else {
        return refuseBadBody(fd)
      }
      (bodyBytes, ended) = followed
      guard takesBody(fd, bodyBytes) else { return refuseLargeBody(fd) }
    }
    guard
      unsafe sendHead(instance, headBytes, s.slab[fd].inbound.pointer + held, bodyBytes)
    else { return writeFailed(instance) }
    if bodyBytes > 0 {
      s.slab[fd].machine.bodyForwarded()
      dropHeldHead(fd)
      s.slab[fd].inbound.consume(bodyBytes, s.pool)
      s.slab[fd].story.bytesFromClient += UInt64(bodyBytes)
    }
    if ended {
      s.slab[fd].body.mode = .idle
      if bodyBytes > 0 { _ = s.slab[fd].machine.requestBodyEnded() }
      wait(fd, .firstByte)
    } else {
      s.slab[fd].bodyDue = bodyRate(fd) > 0 ? Connection.unmeasured : 0
      wait(fd, .body)
      pump(fd)
    }
  }

  /// Writes it behind so many bytes of `headOutput`; its own bytes, or nil when they have no room.
  private func writeRequestHead(_ fd: Int32, after lead: Int) -> Int? {
    var changes = RequestChanges()
    changes.stripped = Int(s.slab[fd].stripped)
    changes.upgrades = s.slab[fd].machine.upgrades
    let bytes = s.slab[fd].inbound.span
    switch s.slab[fd].keyPlace {
    case .none: break
    case .authorization: changes.dropsAuthorization = true
    case .query: changes.gap = s.head.tokenGap(bytes)
    }
    var output = unsafe MutableSpan(_unsafeStart: s.headOutput + lead, count: s.headOutputCapacity - lead)
    let route = s.slab[fd].route >= 0 ? s.table.routes[Int(s.slab[fd].route)] : CompiledRoute()
    let removed = s.table.bytes(route.requestRemoved)
    let added = s.table.bytes(route.requestAdded)
    let visit = s.visits.isEmpty ? nil : s.visits[fd]
    if let visit, visit.speaksDevTools {
      // A browser has no use for what is told of its client.
      changes.dropsOrigin = true
      let host = Array(visit.host.utf8)
      let target = Array(visit.upstreamTarget.utf8)
      return s.head.writeRequest(
        bytes, changes: changes, target: target.span, host: host.span, removed: removed, added: added, into: &output)
    }
    changes.forwarding = Forwarding()
    changes.forwarding.isSecure = s.slab[fd].tls != nil
    changes.forwarding.trustsPeer = s.slab[fd].isTrusted
    writeRequestID(fd)
    let requestID = unsafe Span<UInt8>(_unsafeStart: s.requestID, count: 32)
    var clientOutput = unsafe MutableSpan(_unsafeStart: s.clientText, count: PeerAddress.longestText + 1)
    let clientCount = PeerAddress(s.slab[fd].address).writeText(into: &clientOutput) ?? 0
    let client = unsafe Span<UInt8>(_unsafeStart: s.clientText, count: clientCount)
    // Even an empty array has its references counted.
    guard let visit else {
      return s.head.writeRequest(
        bytes, changes: changes, target: Span(), host: Span(), prefix: s.table.bytes(route.replacement),
        client: client, requestID: requestID, removed: removed, added: added, into: &output)
    }
    let target = Array(visit.upstreamTarget.utf8)
    return s.head.writeRequest(
      bytes, changes: changes, target: target.span, host: Span(), prefix: s.table.bytes(route.replacement),
      client: client, requestID: requestID, removed: removed, added: added, into: &output)
  }

  /// Whether so many more bytes of the client's body are within its route's limit.
  @inline(__always) func takesBody(_ fd: Int32, _ count: Int) -> Bool {
    // What chunks a body is not of it.
    if s.slab[fd].body.mode == .chunked { return s.slab[fd].body.chunks.dataBytes <= s.slab[fd].bodyRoom }
    guard UInt64(count) <= s.slab[fd].bodyRoom else { return false }
    if s.slab[fd].bodyRoom != UInt64.max { s.slab[fd].bodyRoom -= UInt64(count) }
    return true
  }

  // MARK: Rate of a body

  /// Bytes a second that the request's body has to come with; 0 = any.
  private func bodyRate(_ fd: Int32) -> Int {
    let route = s.slab[fd].route
    let own = route >= 0 ? Int(s.table.routes[Int(route)].bodyRate) : -1
    return own >= 0 ? own : s.limits.bodyBytesPerSecond
  }

  /// The time that the bytes which have come are good for.
  private func bodyCredit(_ fd: Int32) -> Int {
    let rate = bodyRate(fd)
    guard rate > 0 else { return Int.max / 4 }
    let product = Int(clamping: s.slab[fd].story.bytesFromClient).multipliedReportingOverflow(by: 1_000)
    return product.overflow ? Int.max / 4 : min(product.partialValue / rate, Int.max / 4)
  }

  /// When the body will have come too slowly: each byte that comes puts it off.
  func bodyDeadline(_ fd: Int32) -> Int {
    let due = s.slab[fd].bodyDue
    return due == 0 || due == Connection.unmeasured ? Int.max : due + bodyCredit(fd)
  }

  /// A piece has moved while the request's body is measured.
  func bodyProgress(_ source: Int32, _ target: Int32, _ client: Int32) {
    if s.slab[client].machine.responseHasStarted || s.slab[client].isTunnel {
      // Who answers early or talks both ways may have a client that takes its time.
      s.slab[client].bodyDue = 0
      return progress(source, target)
    }
    wait(client, .body)
    guard source == client else { return }
    guard s.slab[target].outbound.isEmpty else {
      // The instance does not keep up: what comes later is not the client's doing.
      s.slab[client].bodyDue = Connection.unmeasured
      return
    }
    if s.slab[client].bodyDue == Connection.unmeasured {
      s.slab[client].bodyDue = s.now + s.limits.bodyGraceMilliseconds - bodyCredit(client)
      // Neither of the two words.
      if s.slab[client].bodyDue == 0 { s.slab[client].bodyDue = 1 }
    }
    let deadline = bodyDeadline(client)
    if deadline < s.slab[client].deadline { s.timers.set(client, .body, at: max(deadline, s.now), s.slab) }
  }

  func refuseBadBody(_ fd: Int32) {
    answer(fd, 400, "The chunked coding of the body is malformed.", .badRequest, closes: true)
  }

  /// The held head is not needed for another attempt any more.
  func dropHeldHead(_ fd: Int32) {
    let held = Int(s.slab[fd].heldHead)
    guard held > 0 else { return }
    s.slab[fd].heldHead = 0
    s.slab[fd].inbound.consume(held, s.pool)
  }

  // MARK: Faults

  /// No connection came to stand, or no answer came in time.
  func instanceFailed(_ fd: Int32, _ fault: InstanceFault) {
    let place = s.slab[fd].instance
    if place >= 0 { s.instances[Int(place)].failures += 1 }
    instanceLost(fd, fault)
  }

  /// The instance of this client's request is of no more use: another attempt, an answer, or a cut.
  func instanceLost(_ fd: Int32, _ fault: InstanceFault) {
    let failed = s.slab[fd].instance
    // A kept connection that ends without a byte was most likely closed before the request came.
    let isStale = s.slab[fd].story.isReused && (fault == .closed || fault == .reset)
    let isBlameless = s.slab[fd].isTunnel ? fault != .reset : isStale && !s.slab[fd].machine.responseHasStarted
    endTurn(fd, isBlameless ? .neutral : .failure)
    dropInstance(fd, reuse: false)
    storyFault(fd, fault, isBlameless: isBlameless)
    if s.slab[fd].isTunnel { return closeClient(fd, fault == .reset ? .instanceReset : .tunnelEnded) }
    switch self.fault(fd, fault) {
    case .retry:
      s.metrics.add(.retries)
      s.labels.add(.retries, route: s.slab[fd].story.route)
      s.labels.add(.retries, pool: s.slab[fd].story.pool)
      s.slab[fd].story.retries &+= 1
      retry(fd, avoiding: isStale ? -1 : failed)
    case .answer(let status, let reason):
      answer(fd, status, Self.sentence(of: reason), reason, closes: true)
    case .cut(let reason): closeClient(fd, reason)
    }
  }

  private func retry(_ fd: Int32, avoiding: Int32) {
    guard reparse(fd) else { return }
    if let visit = s.visits[fd] {
      guard let address = visit.address else { return closeClient(fd, .internalError) }
      return connect(fd, to: address)
    }
    let route = s.table.match(s.slab[fd].inbound.span, authority: s.head.authority, path: s.head.path)
    guard route >= 0 else {
      return answer(fd, 404, "No route leads from this host and path to a pool.", .noRoute, closes: true)
    }
    s.slab[fd].route = Int32(route)
    chooseInstance(fd, route: route, avoiding: avoiding)
  }

  static func sentence(of reason: CloseReason) -> String {
    switch reason {
    case .connectFailed: "The instance refuses connections."
    case .connectTimeout: "The instance does not accept connections in time."
    case .instanceClosedEarly: "The instance closed the connection before it answered."
    case .instanceReset: "The instance reset the connection before it answered."
    case .firstByteTimeout: "The instance did not answer in time."
    case .badResponse: "The instance's answer is no valid HTTP response."
    default: "The instance failed."
    }
  }
}
