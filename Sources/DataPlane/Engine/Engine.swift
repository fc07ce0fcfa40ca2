// The data plane's threads: binds the listeners or takes those of another process, starts one worker a thread, hands tables
// and certificates to them, drains them. berth-data owns one; tests make their own.
private import Glibc
package import Observability
package import Posix
package import ProxyMachine
private import Synchronization
package import TLS

/// What TLS clients are shown. Replaced as a whole when files change.
package struct Certificates: Sendable {
  package let context: TLSServerContext
  package init(context: TLSServerContext) { self.context = context }
}

package struct EngineConfiguration: Sendable {
  package var listen: [SocketAddress]
  package var tlsListen: [SocketAddress]
  package var certificates: Certificates?
  package var workers: Int
  package var limits: EngineLimits
  package var splice: SpliceMode
  /// TLS clients' records are left to the kernel where it takes them (decision 13).
  package var kernelTLS = false
  /// Peers whose X-Forwarded-For, Forwarded and X-Request-ID are kept and added to.
  package var trustedProxies: [AddressRange] = []
  /// Peers that must begin with the PROXY protocol.
  package var proxyProtocolFrom: [AddressRange] = []
  /// Routes that do not say whether they need a key do.
  package var requiresKeys = false

  package init(
    listen: [SocketAddress], tlsListen: [SocketAddress] = [], certificates: Certificates? = nil, workers: Int = 1,
    limits: EngineLimits = EngineLimits(), splice: SpliceMode = .auto
  ) {
    self.listen = listen
    self.tlsListen = tlsListen
    self.certificates = certificates
    self.workers = workers
    self.limits = limits
    self.splice = splice
  }
}

package struct EngineError: Error, CustomStringConvertible {
  package let description: String
}

package final class Engine: Sendable {
  /// One a worker, in the order of the coordinator's `SlotRequest.worker`.
  package let inboxes: [Mailbox]
  package let metrics: [WorkerMetrics]
  /// Counters by route, pool and instance.
  package let labels: LabeledMetrics
  /// Where the engine listens, with the ports that the kernel chose for port 0.
  package let addresses: [SocketAddress]
  package let tlsAddresses: [SocketAddress]
  private let configuration: EngineConfiguration
  private let shared: EngineShared
  /// By worker. Bound; they listen from ``listen()`` on.
  private let listeners: [[Int32]]
  private let tlsListeners: [[Int32]]
  /// Paths of unix sockets that are taken when they listen, with a descriptor of each.
  private let newPaths: [(path: String, descriptor: Int32)]
  /// The paths of listeners that are unix sockets, which the kernel knows by another name.
  private let paths: [Int32: SocketAddress]
  private let threads = Mutex<[Thread]>([])
  private let listens = Atomic<Bool>(false)

  /// Binds the listeners; nothing is accepted before ``start(coordinator:log:)``. Throws when an address cannot be had.
  /// - Parameter inherited: listeners of another process, which are the engine's from now on: those for its own addresses are
  ///   used, the others closed.
  package init(_ configuration: EngineConfiguration, inherited: [HandoverListener] = []) throws(EngineError) {
    precondition(configuration.workers > 0, "an engine has at least one worker")
    precondition(configuration.tlsListen.isEmpty || configuration.certificates != nil, "TLS needs a certificate")
    self.configuration = configuration
    inboxes = (0..<configuration.workers).map { _ in Mailbox() }
    shared = EngineShared(inboxes: inboxes)
    metrics = (0..<configuration.workers).map { _ in WorkerMetrics() }
    labels = LabeledMetrics(workers: configuration.workers)
    var given = inherited
    var opened = Opened()
    defer { for listener in given { Socket.close(listener.descriptor) } }
    do {
      (listeners, addresses) = try Self.bind(.plain, configuration.listen, configuration, &given, &opened)
      (tlsListeners, tlsAddresses) = try Self.bind(.tls, configuration.tlsListen, configuration, &given, &opened)
    } catch {
      for fd in opened.descriptors { Socket.close(fd) }
      for new in opened.newPaths { Socket.dropPath(new.path) }
      throw error
    }
    newPaths = opened.newPaths
    paths = opened.paths
  }

  /// What the start has opened so far.
  private struct Opened {
    var descriptors: [Int32] = []
    var newPaths: [(path: String, descriptor: Int32)] = []
    var paths: [Int32: SocketAddress] = [:]
  }

  /// At least one listener for each address and worker: the kernel spreads connections over them (SO_REUSEPORT). All that
  /// were given for an address are used, since what waits in one that nobody has open is lost.
  private static func bind(
    _ kind: HandoverListener.Kind, _ addresses: [SocketAddress], _ configuration: EngineConfiguration,
    _ given: inout [HandoverListener], _ opened: inout Opened
  ) throws(EngineError) -> ([[Int32]], [SocketAddress]) {
    var byWorker = [[Int32]](repeating: [], count: configuration.workers)
    var actual: [SocketAddress] = []
    for address in addresses {
      let ours: (HandoverListener) -> Bool = { $0.kind == kind && $0.address.description == address.description }
      let taken = given.filter(ours).map(\.descriptor)
      given.removeAll(where: ours)
      opened.descriptors += taken
      for (index, fd) in taken.enumerated() { byWorker[index % configuration.workers].append(fd) }
      if let path = address.unixPath {
        try share(path, address, taken, &byWorker, &opened)
        actual.append(address)
        continue
      }
      var address = address
      for worker in min(taken.count, configuration.workers)..<configuration.workers {
        let fd = Socket.bindListener(address, sharesPort: true, defersAccept: true)
        guard fd >= 0 else { throw EngineError(description: "cannot listen on \(address): \(Errno.text(fd))") }
        opened.descriptors.append(Int32(fd))
        byWorker[worker].append(Int32(fd))
        address = Socket.localAddress(Int32(fd))
      }
      actual.append(address)
    }
    return (byWorker, actual)
  }

  /// A path has one socket, which all workers accept from.
  private static func share(
    _ path: String, _ address: SocketAddress, _ taken: [Int32], _ byWorker: inout [[Int32]], _ opened: inout Opened
  ) throws(EngineError) {
    func checked(_ fd: Int) throws(EngineError) -> Int32 {
      guard fd >= 0 else { throw EngineError(description: "cannot listen on \(address): \(Errno.text(fd))") }
      opened.descriptors.append(Int32(fd))
      opened.paths[Int32(fd)] = address
      return Int32(fd)
    }
    for fd in taken { opened.paths[fd] = address }
    var first = taken.first
    for worker in min(taken.count, byWorker.count)..<byWorker.count {
      if let first {
        byWorker[worker].append(try checked(Socket.duplicate(first)))
      } else {
        let fd = try checked(Socket.bindListener(address, sharesPort: false, defersAccept: false))
        opened.newPaths.append((path, fd))
        byWorker[worker].append(fd)
        first = fd
      }
    }
  }

  /// Begins to listen: from now on the kernel takes connections for this engine, so call it when they can be served soon.
  /// Until then other processes that share the port get them all.
  package func listen() throws(EngineError) {
    guard !listens.exchange(true, ordering: .relaxed) else { return }
    for fd in (listeners + tlsListeners).flatMap(\.self) {
      let result = Socket.listen(fd, backlog: configuration.limits.listenBacklog)
      guard result >= 0 else {
        let address = paths[fd] ?? Socket.localAddress(fd)
        throw EngineError(description: "cannot listen on \(address): \(Errno.text(result))")
      }
    }
    for new in newPaths {
      let result = Socket.takePath(new.path)
      guard result >= 0 else {
        throw EngineError(description: "cannot listen on unix:\(new.path): \(Errno.text(result))")
      }
    }
  }

  /// What another process needs to take over. Valid until ``drain(milliseconds:)``.
  package var handoverListeners: [HandoverListener] {
    func named(_ byWorker: [[Int32]], _ kind: HandoverListener.Kind) -> [HandoverListener] {
      byWorker.flatMap(\.self).map {
        HandoverListener(kind: kind, address: paths[$0] ?? Socket.localAddress($0), descriptor: $0)
      }
    }
    return named(listeners, .plain) + named(tlsListeners, .tls)
  }

  /// Starts the workers, which accept at once; listens if that was not done before. `accessLog` has as many workers as the
  /// engine; nil = requests are not logged.
  package func start(coordinator: any Coordinator, log: LogWriter, accessLog: AccessLog? = nil) {
    do { try listen() } catch { log.error("the engine does not listen", ["reason": .string(error.description)]) }
    let capacity = Self.descriptorLimit()
    threads.withLock { threads in
      for index in 0..<configuration.workers {
        let configuration = WorkerConfiguration(
          index: index, limits: configuration.limits, spliceMode: configuration.splice,
          kernelTLS: configuration.kernelTLS, listeners: listeners[index],
          tlsListeners: tlsListeners[index], certificates: configuration.certificates, mailbox: inboxes[index],
          metrics: metrics[index], coordinator: coordinator, log: log, slabCapacity: capacity,
          trustedProxies: configuration.trustedProxies, proxyProtocolFrom: configuration.proxyProtocolFrom,
          shared: shared, labels: labels,
          access: accessLog?.workers[index] ?? .off, requiresKeys: configuration.requiresKeys)
        threads.append(Thread.start("berth-worker-\(index)") { Worker.run(configuration) })
      }
    }
  }

  package func replace(certificates: Certificates) {
    for inbox in inboxes { inbox.post(.certificates(certificates)) }
  }

  /// Stops accepting, lets requests and tunnels end until the deadline, then closes what is left.
  /// `keepsIdle`: a connection without a request is not closed at once, but told to end with the answer to its next one:
  /// for a hand-over, where there is time, and a request that is on its way would be lost.
  package func drain(milliseconds: Int, keepsIdle: Bool = false) {
    let deadline = Clock.monotonicMilliseconds + milliseconds
    for inbox in inboxes { inbox.post(.drain(deadlineMilliseconds: deadline, keepsIdle: keepsIdle)) }
  }

  /// Returns when all workers have drained.
  package func join() {
    let started = threads.withLock { threads in
      let started = threads
      threads = []
      return started
    }
    for thread in started { thread.join() }
  }

  /// Raises the limit of open descriptors as far as it goes and returns it: every slab has room for that many.
  private static func descriptorLimit() -> Int {
    var limit = rlimit()
    unsafe getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    limit.rlim_cur = min(limit.rlim_max, 1_048_576)
    unsafe setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    unsafe getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    return Int(min(limit.rlim_cur, 1_048_576))
  }
}
