// How a client's connection begins: accept, TLS handshake, and what to do next with it by its phase.
import HTTPWire
import Observability
import Posix
import ProxyMachine
import TLS

extension Worker {
  /// Takes what waits on a listener, in bounded batches: the poller says so again while there is more. True: there may be.
  func accept(_ listener: Int32) -> Bool {
    let isTLS = s.tlsListeners.contains(listener)
    for _ in 0..<s.acceptBatch {
      guard s.clients < s.clientLimit || (Socket.hasInput(listener) && giveUpIdle()) else {
        // Without a newcomer nobody has to go, and accept(2) would find nobody.
        guard Socket.hasInput(listener) else { return false }
        pauseAccepting()
        return false
      }
      var address = SocketAddress()
      let result = Socket.accept(listener, from: &address)
      guard result >= 0 else {
        if result == Errno.tooManyFiles || result == Errno.tooManyFilesInSystem {
          if giveUpIdle() { continue }
          s.metrics.add(.acceptFailures)
          pauseAccepting()
        }
        // Anything else is would-block, or a client that has gone already.
        s.acceptBatch = max(s.acceptBatch / 2, 1)
        s.fullAccepts = 0
        return false
      }
      let fd = Int32(result)
      guard Int(fd) < s.slab.capacity else {
        s.metrics.add(.acceptFailures)
        Socket.close(fd)
        return false
      }
      begin(fd, from: address, isTLS: isTLS)
    }
    s.fullAccepts += 1
    if s.fullAccepts == 4 {
      s.fullAccepts = 0
      s.acceptBatch = min(s.acceptBatch * 2, 64)
    }
    return true
  }

  private func begin(_ fd: Int32, from peer: SocketAddress, isTLS: Bool) {
    // Who comes over a unix socket is a client of this machine.
    let address = peer.isUnix ? SocketAddress(high: 0, low: 0xFFFF_7F00_0001, port: 0) : peer
    let generation = s.slab.open(fd, .client)
    s.slab[fd].machine = ExchangeMachine(isTLS: isTLS)
    s.slab[fd].isRemote = !address.isLoopback
    setAddress(fd, address)
    s.slab[fd].awaitsProxyHeader = s.proxyProtocolFrom.holds(address)
    s.slab[fd].isReadable = true
    s.clients += 1
    s.metrics.add(.accepted)
    if s.slab[fd].isRemote {
      Socket.keepAlive(
        fd, idle: s.limits.keepAliveIdleSeconds, interval: s.limits.keepAliveIntervalSeconds,
        count: s.limits.keepAliveProbes)
    }
    if isTLS {
      guard let window = s.window, let context = unsafe s.tlsContext,
        let tls = unsafe context._withUnsafeGuaranteedRef({ TLSServerConnection(context: $0, window: window) })
      else { return closeClient(fd, .internalError) }
      s.slab[fd].tls = tls
      s.slab[fd].seals = true
      watch(fd)
    }
    wait(fd, isTLS ? .handshake : .head)
    advanceClient(fd)
    guard s.slab.isCurrent(fd, generation), !s.slab[fd].isWatched else { return }
    guard s.slab[fd].machine.awaitsOnlyItsAnswer else { return watch(fd) }
    s.unwatched.append(.init(fd: fd, generation: generation))
  }

  /// Lets the poller tell of a connection from now on.
  func watch(_ fd: Int32) {
    guard !s.slab[fd].isWatched else { return }
    s.slab[fd].isWatched = true
    s.poller.addEdgeTriggered(.init(fd: fd, generation: s.slab.generation(fd)))
  }

  /// Clients that wait longer may give up meanwhile, which the poller tells.
  func watchAll() {
    s.nextWatch = s.now + 50
    guard !s.unwatched.isEmpty else { return }
    // By index: a loop over the array would count references and copy it.
    for index in s.unwatched.indices {
      let token = s.unwatched[index]
      if s.slab.isCurrent(token.fd, token.generation) { watch(token.fd) }
    }
    s.unwatched.removeAll(keepingCapacity: true)
  }

  /// Stops accepting until the next second: the kernel's backlog holds newcomers meanwhile.
  private func pauseAccepting() {
    guard !s.acceptsPaused else { return }
    s.acceptsPaused = true
    for listener in s.listeners + s.tlsListeners { s.poller.remove(listener) }
    s.log.warning("accepting pauses: no room for more connections", ["clients": .int(s.clients)])
  }

  func resumeAccepting() {
    guard
      s.clients < s.clientLimit
        || ((s.listeners + s.tlsListeners).contains(where: Socket.hasInput) && giveUpIdle())
    else { return }
    s.acceptsPaused = false
    for listener in s.listeners + s.tlsListeners { s.poller.addInput(.init(fd: listener, generation: 0)) }
  }

  /// Ends kept connections between two requests, those first that have been idle for longest, so that newcomers find room. A
  /// few at a time, as looking for them costs more than ending them. False: nobody is idle.
  private func giveUpIdle() -> Bool {
    let limit = max(1, min(32, s.clientLimit / 16))
    let idle = s.timers.first(.keepAlive, limit: limit, s.slab) { fd in
      // A request that is on its way would be lost.
      s.slab[fd].kind == .client && s.slab[fd].inbound.isEmpty && s.slab[fd].outbound.isEmpty && !Socket.hasInput(fd)
    }
    for fd in idle { closeClient(fd, .idleGivenUp) }
    return !idle.isEmpty
  }

  /// Goes on with a client whose socket has something new, or whose turn has come again.
  func advanceClient(_ fd: Int32) {
    if s.slab[fd].awaitsProxyHeader, !readProxyHeader(fd) { return }
    switch s.slab[fd].machine.phase {
    case .handshaking: handshake(fd)
    case .readingHead: readRequest(fd)
    case .awaitingSlot:
      if s.slab[fd].peerEnds { hurry(fd) }
    case .connecting: break
    case .exchanging: if !s.slab[fd].machine.requestIsDone { pump(fd) }
    case .tunneling: pump(fd)
    case .finishing: if s.slab[fd].isLingering { discard(fd) }
    case .closed: break
    }
  }

  private func handshake(_ fd: Int32) {
    guard let tls = s.slab[fd].tls, let window = s.window else { return closeClient(fd, .internalError) }
    while s.slab[fd].isReadable {
      let count = receiveCiphertext(fd)
      guard count > 0 else {
        if count < 0 { closeClient(fd, count == Errno.connectionReset ? .clientReset : .clientAborted) }
        return
      }
      unsafe window.setInput(s.cipherInput, count: count)
      unsafe window.setOutput(s.cipherOutput, capacity: s.cipherOutputCapacity)
      let step = tls.handshake(window)
      guard sendCiphertext(fd, window.outputCount) else { return closeClient(fd, .clientReset) }
      switch step {
      case .wantRead: continue
      case .wantWrite:
        // The output is larger than any handshake flight.
        return closeClient(fd, .internalError)
      case .failed(let failure):
        countFailedHandshake(failure)
        guard failure.kind == .plainHTTP else {
          s.log.info(
            "a TLS handshake failed",
            ["error": .string(failure.reason), "client": .string(Socket.peerAddress(fd).host)])
          return closeClient(fd, .handshakeFailed)
        }
        // Nothing of TLS was said yet, so the client can read a plain answer.
        tls.free()
        s.slab[fd].tls = nil
        s.slab[fd].seals = false
        s.slab[fd].machine = ExchangeMachine(isTLS: false)
        return answer(
          fd, 400, "This is the TLS port and a plain request came in. Use https:// or wss:// here.", .handshakeFailed,
          closes: true)
      case .done:
        s.metrics.add(.tlsHandshakes)
        if tls.resumed { s.metrics.add(.tlsResumed) }
        tls.detach()
        if s.offersKernelTLS, s.slab[fd].outbound.isEmpty { offload(fd, tls) }
        s.slab[fd].machine.handshakeFinished()
        wait(fd, .head)
        // The request may have come with the last flight: what is left of the input is decrypted now.
        s.slab[fd].inbound.reserve(max(window.inputRemaining, BufferPool.blockBytes), s.pool)
        unsafe window.setOutput(s.cipherOutput, capacity: s.cipherOutputCapacity)
        let isGood = decryptRest(fd, tls, window)
        // An alert, when it is not.
        guard sendCiphertext(fd, window.outputCount), isGood else { return closeClient(fd, .clientAborted) }
        if s.slab[fd].inbound.isEmpty { s.slab[fd].inbound.free(s.pool) }
        return readRequest(fd)
      }
    }
  }

  /// Leaves the sealing of what this client gets to the kernel. One that has no TLS is not asked again.
  private func offload(_ fd: Int32, _ tls: TLSServerConnection) {
    guard tls.isDetached else { return }
    switch tls.offload(fd) {
    case .taken:
      s.slab[fd].seals = false
      s.metrics.add(.tlsOffloaded)
    case .unavailable:
      s.offersKernelTLS = false
      s.log.warning(
        "this kernel has no TLS (modprobe tls), so records are sealed here", ["option": .string("--kernel-tls")])
    case .refused(let error):
      s.log.debug("the kernel does not seal this client's records", ["error": .string(Errno.text(error))])
    }
  }

  /// Decrypts what follows a handshake in the same read into `inbound`. False: the connection is broken.
  private func decryptRest(_ fd: Int32, _ tls: TLSServerConnection, _ window: TLSWindow) -> Bool {
    while true {
      s.slab[fd].inbound.reserve(BufferPool.blockBytes, s.pool)
      let room = s.slab[fd].inbound.room
      let buffer = unsafe UnsafeMutableRawBufferPointer(start: s.slab[fd].inbound.end, count: room)
      switch unsafe tls.read(into: buffer, window) {
      case .bytes(let count):
        s.slab[fd].inbound.filled(count)
        if count < room, !tls.mayGiveMore(window) { return true }
      case .wantRead: return true
      case .closed:
        s.slab[fd].inputEnded = true
        return true
      case .failed: return false
      }
    }
  }

  /// Whether a client that we have bytes for took some of them since the last look. The kernel asks for more only when a
  /// third of its own buffer is free, which for a slow reader can take longer than any deadline.
  private func stillReads(_ fd: Int32) -> Bool {
    guard !s.slab[fd].outbound.isEmpty else { return false }
    let before = s.slab[fd].unsent
    let now = Int32(truncatingIfNeeded: Socket.unsentBytes(fd))
    s.slab[fd].unsent = now
    return now < before
  }

  // MARK: Waits

  /// Sets what the connection waits for and until when.
  func wait(_ fd: Int32, _ wait: Wait) {
    let limits = s.limits
    let milliseconds =
      switch wait {
      case .none: 0
      case .handshake: limits.handshakeMilliseconds
      case .head: limits.headMilliseconds
      case .keepAlive: limits.keepAliveMilliseconds
      case .slot: limits.coordinatorMilliseconds
      case .goneWithoutSlot: limits.goneMilliseconds
      case .connect: own(s.slab[fd].waits.connect, limits.connectMilliseconds)
      case .firstByte: own(s.slab[fd].waits.firstByte, limits.firstByteMilliseconds)
      case .body, .flush: own(s.slab[fd].waits.body, limits.bodyMilliseconds)
      case .tunnel: own(s.slab[fd].waits.tunnel, limits.tunnelIdleMilliseconds)
      case .linger: limits.lingerMilliseconds
      case .instanceIdle: limits.instanceIdleMilliseconds
      case .job: limits.jobMilliseconds
      case .place: limits.coordinatorMilliseconds
      }
    if wait == .none {
      s.slab[fd].wait = .none
    } else {
      s.timers.set(fd, wait, at: s.now + milliseconds, s.slab)
    }
  }

  /// A route's own limit, or the engine's.
  @inline(__always) private func own(_ route: Int32, _ engine: Int) -> Int { route > 0 ? Int(route) : engine }

  /// A deadline has passed.
  func expired(_ fd: Int32) {
    let wait = s.slab[fd].wait
    s.slab[fd].wait = .none
    if (wait == .body || wait == .flush) && s.slab[fd].kind == .client && stillReads(fd) {
      return self.wait(fd, wait)
    }
    guard s.slab[fd].kind == .client else {
      if wait == .instanceIdle, s.slab[fd].peer < 0 {
        s.metrics.add(.instanceClosesIdle)
        closeInstance(fd)
      }
      return
    }
    switch wait {
    case .none: break
    case .goneWithoutSlot:
      if case .close(let reason) = s.slab[fd].machine.clientEnd(insideHead: false) { closeClient(fd, reason) }
    case .instanceIdle: preconditionFailure("only instances are kept idle")
    case .handshake where s.slab[fd].awaitsProxyHeader, .head where s.slab[fd].awaitsProxyHeader:
      closeClient(fd, .badProxyHeader)
    case .handshake: closeClient(fd, .handshakeTimeout)
    case .head:
      if s.slab[fd].inbound.isEmpty {
        closeClient(fd, .headTimeout)
      } else {
        answer(fd, 408, "The request head did not come in time.", .headTimeout, closes: true)
      }
    case .keepAlive: closeClient(fd, .idleKeepAlive)
    case .slot: refuse(fd, .timedOut)
    case .place: refuseInLine(fd, .queueTimeout)
    case .job:
      let ticket = s.slab[fd].ticket
      s.coordinator.notify(.cancel(ticket: ticket, worker: s.index))
      jobAnswered(.unavailable, ticket: ticket)
    case .connect: instanceFailed(fd, .connectTimeout)
    case .firstByte: instanceFailed(fd, .firstByteTimeout)
    case .body:
      // Whoever does not take bytes is slow; else it is whoever does not send them.
      let peer = s.slab[fd].peer
      if !s.slab[fd].outbound.isEmpty {
        closeClient(fd, .slowReader)
      } else if s.slab[fd].machine.responseHasStarted || (peer >= 0 && !s.slab[peer].outbound.isEmpty) {
        if s.slab[fd].machine.responseHasStarted {
          closeClient(fd, .instanceStalled)
        } else {
          instanceFailed(fd, .firstByteTimeout)
        }
      } else if bodyDeadline(fd) <= s.now {
        answer(fd, 408, "The request body comes too slowly.", .bodyTooSlow, closes: true)
      } else {
        answer(fd, 408, "The request body did not come in time.", .bodyTimeout, closes: true)
      }
    case .flush: closeClient(fd, .slowReader)
    case .tunnel: closeClient(fd, .tunnelIdle)
    case .linger: closeClient(fd, s.slab[fd].closeReason)
    }
  }
}
