private import Glibc
// The data plane's threads: opens the listeners, starts one worker a thread, hands tables and certificates to them, drains
// them. berth-data owns one; tests make their own.
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
  /// Peers whose X-Forwarded-For, Forwarded and X-Request-ID are kept and added to.
  package var trustedProxies: [AddressRange] = []

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
  private let listeners: [[Int32]]
  private let tlsListeners: [[Int32]]
  private let threads = Mutex<[Thread]>([])

  /// Opens the listeners; nothing is accepted before ``start(coordinator:log:)``. Throws when an address cannot be had.
  package init(_ configuration: EngineConfiguration) throws(EngineError) {
    precondition(configuration.workers > 0, "an engine has at least one worker")
    precondition(configuration.tlsListen.isEmpty || configuration.certificates != nil, "TLS needs a certificate")
    self.configuration = configuration
    inboxes = (0..<configuration.workers).map { _ in Mailbox() }
    metrics = (0..<configuration.workers).map { _ in WorkerMetrics() }
    labels = LabeledMetrics(workers: configuration.workers)
    var opened: [Int32] = []
    do {
      (listeners, addresses) = try Self.open(configuration.listen, configuration, &opened)
      (tlsListeners, tlsAddresses) = try Self.open(configuration.tlsListen, configuration, &opened)
    } catch {
      for fd in opened { Socket.close(fd) }
      throw error
    }
  }

  /// One listener for each address and worker: the kernel spreads connections over them (SO_REUSEPORT).
  private static func open(
    _ addresses: [SocketAddress], _ configuration: EngineConfiguration, _ opened: inout [Int32]
  ) throws(EngineError) -> ([[Int32]], [SocketAddress]) {
    var byWorker = [[Int32]](repeating: [], count: configuration.workers)
    var actual: [SocketAddress] = []
    for address in addresses {
      var address = address
      for worker in 0..<configuration.workers {
        let fd = Socket.listen(
          address, backlog: configuration.limits.listenBacklog, sharesPort: true, defersAccept: true)
        guard fd >= 0 else {
          throw EngineError(description: "cannot listen on \(address): \(Errno.text(fd))")
        }
        opened.append(Int32(fd))
        byWorker[worker].append(Int32(fd))
        if worker == 0 {
          address = Socket.localAddress(Int32(fd))
          actual.append(address)
        }
      }
    }
    return (byWorker, actual)
  }

  /// `accessLog` has as many workers as the engine; nil = requests are not logged.
  package func start(coordinator: any Coordinator, log: LogWriter, accessLog: AccessLog? = nil) {
    let capacity = Self.descriptorLimit()
    threads.withLock { threads in
      for index in 0..<configuration.workers {
        let configuration = WorkerConfiguration(
          index: index, limits: configuration.limits, spliceMode: configuration.splice, listeners: listeners[index],
          tlsListeners: tlsListeners[index], certificates: configuration.certificates, mailbox: inboxes[index],
          metrics: metrics[index], coordinator: coordinator, log: log, slabCapacity: capacity,
          trustedProxies: configuration.trustedProxies, labels: labels,
          access: accessLog?.workers[index] ?? .off)
        threads.append(Thread.start("berth-worker-\(index)") { Worker.run(configuration) })
      }
    }
  }

  package func replace(certificates: Certificates) {
    for inbox in inboxes { inbox.post(.certificates(certificates)) }
  }

  /// Stops accepting, lets requests and tunnels end until the deadline, then closes what is left.
  package func drain(milliseconds: Int) {
    let deadline = Clock.monotonicMilliseconds + milliseconds
    for inbox in inboxes { inbox.post(.drain(deadlineMilliseconds: deadline)) }
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
