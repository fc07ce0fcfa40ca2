// One worker: a thread with its own listeners, poller, connections, timers and view of the routing table. Nothing here is
// shared with another thread but the mailbox and the metrics. The other Worker files are its methods by phase:
// Accept → Request (→ Sessions) → Instance → Response → Relay / Splice → Finish; Output and Input move bytes.
import Balancing
import CLinux
import HTTPWire
import Observability
import Posix
import ProxyMachine
import Routing
import TLS

/// What a worker is started with.
struct WorkerConfiguration: Sendable {
  var index: Int
  var limits: EngineLimits
  var spliceMode: SpliceMode
  /// TLS clients' records are left to the kernel where it takes them.
  var kernelTLS: Bool
  var listeners: [Int32]
  var tlsListeners: [Int32]
  var certificates: Certificates?
  var mailbox: Mailbox
  var metrics: WorkerMetrics
  var coordinator: any Coordinator
  var log: LogWriter
  var slabCapacity: Int
  var trustedProxies: [AddressRange]
  var proxyProtocolFrom: [AddressRange]
  var shared: EngineShared
  var labels: LabeledMetrics
  var access: WorkerAccessLog
  /// Routes that do not say whether they need a key do.
  var requiresKeys: Bool
}

/// All state of one worker, behind a pointer so that no access costs an exclusivity check.
@safe struct WorkerState: ~Copyable {
  /// Scratch for what is read. It stands first because ThreadSanitizer's instrumentation of Swift 6.3 takes the first word
  /// of a state that is reached by an addressor for an address, and crashes the compiler when it is a number.
  let input: UnsafeMutableRawPointer
  let index: Int
  let limits: EngineLimits
  let parser: HeadParser
  let spliceMode: SpliceMode
  var offersKernelTLS: Bool
  let mailbox: Mailbox
  let metrics: WorkerCells
  /// Owns the cells.
  private let metricsOwner: WorkerMetrics
  let coordinator: any Coordinator
  let log: LogWriter
  let slab: Slab
  let pool = BufferPool()
  let poller = Poller()
  let window: TLSWindow?
  let trustedProxies: FixedArray<AddressRange>
  let proxyProtocolFrom: FixedArray<AddressRange>
  let shared: EngineShared
  /// Two of `shared`, as they are asked for each request of a limited route: without a reference count.
  let rates: Unmanaged<RateLimiter>
  let connectionCounts: Unmanaged<ClientCounter>
  let labelNames: LabeledMetrics
  let labels: WorkerLabels
  let access: WorkerAccessLog
  let requiresKeys: Bool

  /// Clients at a time: as configured, and so many that each may have an instance's connection besides its own.
  let clientLimit: Int
  var listeners: [Int32]
  var tlsListeners: [Int32]
  var certificates: Certificates? {
    didSet { unsafe tlsContext = certificates.map { unsafe .passUnretained($0.context) } }
  }
  /// That of `certificates`, for each new client: without a reference count.
  private(set) var tlsContext: Unmanaged<TLSServerContext>?
  var table: CompiledTable
  var instances: FixedArray<InstanceSlot>
  var instancePlaces: [String: Int32] = [:]
  var freeInstancePlaces: [Int32] = []
  var poolStates: [String: PoolHandle] = [:]
  /// Some pool limits what its instances get.
  var hasGates = false
  /// Instances that take no new requests but those that belong to them, by key.
  var drainingPlaces: [UInt64: Int32] = [:]
  var loads: [String: InstanceLoad] = [:]
  /// Live replicas, as far as known.
  var replicas = 1
  /// Where PROXY headers said that their clients meant to connect to.
  var destinations: [Int32: PeerAddress] = [:]
  /// What of new jobs' ids has been read, by client.
  var jobAnswers: [Int32: JobReading] = [:]
  var timers: TimerWheel
  /// Monotonic milliseconds at the start of this turn of the loop.
  var now: Int
  var clients = 0
  var instanceConnections = 0
  var tunnels = 0
  var acceptsPaused = false
  /// How many connections are taken at once: as many as seem to wait, because to find that there is none costs half of
  /// what taking one does.
  var acceptBatch = 1
  /// Full batches in a row.
  var fullAccepts = 0
  /// Clients whose connection ends with the answer that they wait for. Most get it so soon that the poller never hears of
  /// them.
  var unwatched: [Poller.Token] = []
  var nextWatch = 0
  var isDraining = false
  var drainDeadline = Int.max
  var nextSecond: Int
  var random: UInt64
  /// Connections that had more to do when their turn was over.
  var again: [Poller.Token] = []

  // Sessions and discovery: off the way of plain requests.
  var nextTicket: UInt64 = 1
  var tickets: [UInt64: Int32] = [:]
  var sessions = SessionSockets()
  var visits: [Int32: Visit] = [:]
  /// The session that a connection's first discovery reserved.
  var reservations: [Int32: String] = [:]

  // Scratch memory, valid within one call only.
  var head = Head()
  /// Room in ``input`` for the largest piece and a head before it.
  let inputCapacity: Int
  let cipherInput: UnsafeMutableRawPointer
  let cipherOutput: UnsafeMutableRawPointer
  let cipherOutputCapacity: Int
  let headOutput: UnsafeMutablePointer<UInt8>
  let headOutputCapacity: Int
  /// The client's address as text, for the request that is being written.
  let clientText: UnsafeMutablePointer<UInt8>
  /// The id of the request that is being written.
  let requestID: UnsafeMutablePointer<UInt8>
  /// A client's key, while it is looked up.
  let keyBytes: UnsafeMutablePointer<UInt8>
  /// A Set-Cookie value that is being written.
  let cookieOutput: UnsafeMutablePointer<UInt8>
  let cookieCapacity = 16_384
  /// The time, for responses that came without one: `HTTPDate.byteCount` bytes, as of this second.
  let date: UnsafeMutablePointer<UInt8>
  var pipes: [Pipe] = []
  var freePipes: [Int32] = []

  init(_ configuration: WorkerConfiguration) {
    index = configuration.index
    limits = configuration.limits
    let share = (configuration.slabCapacity - 64) / 2 / max(configuration.labels.workers.count, 1)
    clientLimit = min(configuration.limits.clientConnections, max(share, 1))
    parser = HeadParser(limits: configuration.limits.http)
    spliceMode = configuration.spliceMode
    offersKernelTLS = configuration.kernelTLS
    mailbox = configuration.mailbox
    metrics = configuration.metrics.cells
    metricsOwner = configuration.metrics
    coordinator = configuration.coordinator
    log = configuration.log
    slab = Slab(capacity: configuration.slabCapacity)
    trustedProxies = FixedArray(configuration.trustedProxies)
    proxyProtocolFrom = FixedArray(configuration.proxyProtocolFrom)
    shared = configuration.shared
    unsafe rates = .passUnretained(configuration.shared.rates)
    unsafe connectionCounts = .passUnretained(configuration.shared.connections)
    labelNames = configuration.labels
    labels = configuration.labels.workers[configuration.index]
    access = configuration.access
    requiresKeys = configuration.requiresKeys
    listeners = configuration.listeners
    tlsListeners = configuration.tlsListeners
    certificates = configuration.certificates
    unsafe tlsContext = configuration.certificates.map { unsafe .passUnretained($0.context) }
    window = configuration.tlsListeners.isEmpty ? nil : TLSWindow()
    now = Clock.monotonicMilliseconds
    timers = TimerWheel(now: now)
    nextSecond = now + 1_000
    random = UInt64.random(in: 1...UInt64.max)
    instances = FixedArray(repeating: InstanceSlot(), count: 0)
    table = CompiledTable(
      RoutingTable(pools: [], routes: [], instances: []), lease: configuration.labels.lease(), place: { _ in nil })
    inputCapacity = limits.largestPiece + limits.http.headBytes
    unsafe input = .allocate(byteCount: inputCapacity, alignment: 64)
    let hasTLS = !configuration.tlsListeners.isEmpty
    cipherOutputCapacity = hasTLS ? limits.largestPiece + limits.largestPiece / 256 + 65_536 : 0
    unsafe cipherInput = .allocate(byteCount: hasTLS ? limits.largestPiece : 64, alignment: 64)
    unsafe cipherOutput = .allocate(byteCount: max(cipherOutputCapacity, 64), alignment: 64)
    headOutputCapacity = limits.http.headBytes + 8_192
    unsafe headOutput = .allocate(capacity: headOutputCapacity)
    unsafe headOutput.initialize(repeating: 0, count: headOutputCapacity)
    unsafe clientText = .allocate(capacity: PeerAddress.longestText + 1)
    unsafe clientText.initialize(repeating: 0, count: PeerAddress.longestText + 1)
    unsafe requestID = .allocate(capacity: 32)
    unsafe requestID.initialize(repeating: 0, count: 32)
    unsafe keyBytes = .allocate(capacity: KeyRecord.longestKey)
    unsafe keyBytes.initialize(repeating: 0, count: KeyRecord.longestKey)
    unsafe cookieOutput = .allocate(capacity: cookieCapacity)
    unsafe date = .allocate(capacity: HTTPDate.byteCount)
    unsafe date.initialize(repeating: 0, count: HTTPDate.byteCount)
  }

  deinit {
    unsafe input.deallocate()
    unsafe cipherInput.deallocate()
    unsafe cipherOutput.deallocate()
    unsafe headOutput.deallocate()
    unsafe requestID.deallocate()
    unsafe clientText.deallocate()
    unsafe keyBytes.deallocate()
    unsafe cookieOutput.deallocate()
    unsafe date.deallocate()
    window?.free()
    trustedProxies.free()
    proxyProtocolFrom.free()
    table.free()
    for (_, handle) in poolStates { handle.free() }
    instances.free()
    timers.free()
    slab.free()
  }
}

/// A worker as its methods see it: a pointer that is passed by value.
@safe struct Worker {
  private let state: UnsafeMutablePointer<WorkerState>

  @inline(__always) var s: WorkerState {
    @_transparent unsafeAddress { unsafe UnsafePointer(state) }
    @_transparent nonmutating unsafeMutableAddress { unsafe state }
  }

  /// Runs a worker on the calling thread until it has drained.
  static func run(_ configuration: WorkerConfiguration) {
    let state = UnsafeMutablePointer<WorkerState>.allocate(capacity: 1)
    unsafe state.initialize(to: WorkerState(configuration))
    let worker = unsafe Worker(state: state)
    worker.loop()
    unsafe state.deinitialize(count: 1)
    unsafe state.deallocate()
  }

  private func loop() {
    let doorbell = s.mailbox.doorbell.descriptor
    writeDate()
    s.poller.addInput(.init(fd: doorbell, generation: 0))
    for listener in s.listeners + s.tlsListeners { s.poller.addInput(.init(fd: listener, generation: 0)) }
    while !(s.isDraining && s.clients == 0) {
      let timeout: Int32 = s.again.isEmpty ? 100 : 0
      s.poller.wait(milliseconds: timeout) { token, readiness in
        if token.generation == 0 {
          if token.fd == doorbell { readMailbox() } else { _ = accept(token.fd) }
        } else if s.slab.isCurrent(token.fd, token.generation) {
          handle(token.fd, readiness)
        }
      }
      s.now = Clock.monotonicMilliseconds
      runAgain()
      while let fd = s.timers.nextExpired(now: s.now, s.slab) { expired(fd) }
      if s.now >= s.nextSecond { everySecond() }
      if s.now >= s.nextWatch { watchAll() }
    }
    closeEverything()
    closePipes()
    s.mailbox.ended()
  }

  /// Generation 0 belongs to listeners and the doorbell: connections start at 1.
  private func handle(_ fd: Int32, _ readiness: Poller.Readiness) {
    if readiness.holdsAny(.anyInput) { s.slab[fd].isReadable = true }
    if readiness.holdsAny(.anyEnd) { s.slab[fd].peerEnds = true }
    let couldNotWrite = !s.slab[fd].isWritable
    if readiness.holdsAny(.output) { s.slab[fd].isWritable = true }
    switch s.slab[fd].kind {
    case .free: break
    case .client:
      // Reset by the client: whatever it waits for or holds is free again at once.
      if readiness.holdsAny(.error) { return closeClient(fd, .clientReset) }
      if couldNotWrite, s.slab[fd].isWritable, !flush(fd) { return }
      if s.slab[fd].kind == .client { advanceClient(fd) }
    case .instance:
      if s.slab[fd].isConnecting {
        if readiness.holdsAny(.connected) { connectEnded(fd) }
        // An instance that ended at once told so in this very event.
        if s.slab[fd].kind == .instance, s.slab[fd].isReadable, !s.slab[fd].isConnecting { advanceInstance(fd) }
        return
      }
      if couldNotWrite, s.slab[fd].isWritable, !flush(fd) { return }
      if s.slab[fd].kind == .instance { advanceInstance(fd) }
    }
  }

  /// Goes on with a connection at the end of the turn, so that one busy connection does not hold up the others.
  func later(_ fd: Int32) { s.again.append(.init(fd: fd, generation: s.slab.generation(fd))) }

  private func runAgain() {
    guard !s.again.isEmpty else { return }
    let tokens = s.again
    s.again.removeAll(keepingCapacity: true)
    for token in tokens where s.slab.isCurrent(token.fd, token.generation) {
      if s.slab[token.fd].kind == .client { advanceClient(token.fd) } else { advanceInstance(token.fd) }
    }
  }

  private func readMailbox() {
    for message in s.mailbox.take() {
      switch message {
      case .answer(let answer, let ticket): slotAnswered(answer, ticket: ticket)
      case .sessionEnded(let session, _): endSession(session)
      case .table(let table):
        replace(table)
        s.mailbox.tookTable()
      case .loads(let loads):
        s.loads = loads
        applyLoads()
      case .replicas(let count): s.replicas = count
      case .block(let block, let pool): s.poolStates[pool]?.lend(block)
      case .job(let owner, let ticket): jobAnswered(owner, ticket: ticket)
      case .place(let gate, let key, let ticket): placeGranted(gate, key, ticket: ticket)
      case .certificates(let certificates): s.certificates = certificates
      case .drain(let deadline, let keepsIdle): drain(deadline, keepsIdle: keepsIdle)
      }
    }
  }

  private func everySecond() {
    s.nextSecond = s.now + 1_000
    reportActivity()
    reportEjections()
    reportInstances()
    fillPlaces()
    writeDate()
    s.metrics.set(.clientsNow, s.clients)
    s.metrics.set(.instancesNow, s.instanceConnections)
    s.metrics.set(.tunnelsNow, s.tunnels)
    s.metrics.set(.bufferedBytesNow, s.pool.outstandingBytes)
    if s.acceptsPaused { resumeAccepting() }
    if s.now >= s.drainDeadline { closeEverything() }
  }

  /// The second that responses get as their Date.
  private func writeDate() {
    var out = unsafe MutableSpan(_unsafeStart: s.date, count: HTTPDate.byteCount)
    _ = HTTPDate.write(secondsSince1970: Clock.unixMilliseconds / 1_000, into: &out)
  }

  // MARK: Routing table

  private func replace(_ table: RoutingTable) {
    for index in 0..<s.instances.count { s.instances[index].inTable = false }
    let lease = s.labelNames.lease()
    var index: Int32 = -1
    let compiled = CompiledTable(table, requiresKeys: s.requiresKeys, lease: lease) { instance in
      index += 1
      guard let place = place(instance) else { return nil }
      s.instances[Int(place)].record = index
      s.instances[Int(place)].key = StableHash.of(instance.id)
      s.instances[Int(place)].row = lease.row(instance: instance.id, pool: instance.pool)
      s.instances[Int(place)].keepsConnections = instance.state == .ready
      return place
    }
    renumberRoutes(compiled)
    s.table.free()
    s.table = compiled
    updateBalancers()
    for (key, place) in s.instancePlaces {
      let slot = s.instances[Int(place)]
      // One that is on its way out ends its connections at some time, and no request should meet that.
      if !slot.inTable || !slot.keepsConnections { closeIdle(instance: place) }
      if !slot.inTable, slot.active == 0 { forget(place, key) }
    }
  }

  /// Requests under way keep their routes by name: the next table has them in other places, or not at all.
  private func renumberRoutes(_ next: borrowing CompiledTable) {
    var places: [String: Int32] = [:]
    for (index, record) in next.routeRecords.enumerated() { places[record.id] = Int32(index) }
    let moves = s.table.routeRecords.map { places[$0.id] ?? -1 }
    for (old, new) in moves.enumerated() where new >= 0 {
      let percents = (s.table.routeRecords[old].retryBudgetPercent, next.routeRecords[Int(new)].retryBudgetPercent)
      if percents.0 == percents.1 { next.budgets[Int(new)] = s.table.budgets[old] }
    }
    for fd in s.slab.used where s.slab.generation(fd) > 0 && s.slab[fd].kind == .client {
      let route = s.slab[fd].route
      if route >= 0 { s.slab[fd].route = moves[Int(route)] }
    }
  }

  /// The place of an instance in this worker's list: kept from table to table as long as address and generation stay.
  private func place(_ instance: InstanceRecord) -> Int32? {
    // Its scheduler has not said yet where it comes to.
    guard !instance.host.isEmpty else { return nil }
    guard let address = SocketAddress(host: instance.host, port: instance.port) else {
      s.log.warning(
        "an instance has no usable address and is left out",
        ["instance": .string(instance.id), "host": .string(instance.host)])
      return nil
    }
    let key = Self.placeKey(instance)
    if let known = s.instancePlaces[key] {
      s.instances[Int(known)].inTable = true
      return known
    }
    if s.freeInstancePlaces.isEmpty {
      let count = s.instances.count
      let bigger = FixedArray(repeating: InstanceSlot(), count: max(64, count * 2))
      for index in 0..<count { bigger[index] = s.instances[index] }
      s.instances.free()
      s.instances = bigger
      s.freeInstancePlaces = (count..<bigger.count).reversed().map { Int32($0) }
    }
    let place = s.freeInstancePlaces.removeLast()
    s.instances[Int(place)] = InstanceSlot()
    s.instances[Int(place)].address = address
    s.instances[Int(place)].inTable = true
    s.instances[Int(place)].isFree = false
    s.instancePlaces[key] = place
    return place
  }

  /// Names an instance's place in this worker's list.
  static func placeKey(_ instance: InstanceRecord) -> String {
    "\(instance.id)#\(instance.generation)@\(instance.host):\(instance.port)"
  }

  private func forget(_ place: Int32, _ key: String) {
    s.instances[Int(place)].isFree = true
    s.instancePlaces[key] = nil
    s.freeInstancePlaces.append(place)
  }

  // MARK: End

  private func drain(_ deadline: Int, keepsIdle: Bool) {
    guard !s.isDraining else { return }
    s.isDraining = true
    s.drainDeadline = deadline
    // What the kernel has accepted already would be reset by closing the listener, so it is taken first.
    for listener in s.listeners + s.tlsListeners {
      while accept(listener) {}
      s.poller.remove(listener)
      Socket.close(listener)
    }
    s.listeners = []
    s.tlsListeners = []
    for fd in s.slab.used where s.slab.generation(fd) > 0 && s.slab[fd].kind == .client {
      let insideHead = !s.slab[fd].inbound.isEmpty
      if case .close(let reason) = s.slab[fd].machine.drain(insideHead: insideHead, keepsIdle: keepsIdle) {
        closeClient(fd, reason)
      }
    }
  }

  private func closeEverything() {
    for fd in s.slab.used where s.slab.generation(fd) > 0 {
      switch s.slab[fd].kind {
      case .client: closeClient(fd, .drainDeadline)
      case .instance where s.slab[fd].peer < 0: closeInstance(fd)
      default: break
      }
    }
  }
}
