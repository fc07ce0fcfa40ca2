import Observability
// The thread that answers workers' questions about slots and sessions: what comes in, in which order it is dealt with,
// who waits, and the heartbeat. What is said to Redis and what its answers mean is in CommandDesk+Answers.swift.
import Posix
import ProxyMachine
import Redis
import Routing
import State

/// Used by the command thread only.
final class CommandDesk {
  static let beatMilliseconds = 1_000
  /// Waiters that are tried when the doorbell rings; more when all of them got a slot.
  static let triesPerWake = 8
  /// Commands of one round trip.
  static let batch = 256
  /// How long an id that nobody knows is not looked up again.
  static let unknownMilliseconds = 1_000
  static let unknownLimit = 10_000
  /// Targets whose session is known without Redis.
  static let targetsLimit = 10_000
  /// A name that no pool has: the doorbell was not heard for a while.
  static let everyPool = ""

  let core: CoordinatorCore
  let leases: Leases
  let replicas: Replicas
  let registry: Registry
  let events: Events
  let targetKeys: Targets
  let balancing: Balancing
  let jobs: Jobs
  let reports: Reports
  let trafficKeys: Traffic

  var holdings = Holdings()
  /// By pool, in the order in which they came; the queue across replicas is in Redis.
  var waiters: [String: [Waiter]] = [:]
  var poolOfWaiter: [TicketKey: String] = [:]
  /// Reserved sessions that were granted lately, for a cancel that crossed the answer.
  var reserved: [TicketKey: (session: String, at: Int)] = [:]
  /// Which session a target belongs to, as discovery answers of this replica told.
  var sessionOfTarget: [String: String] = [:]
  var targetsOfSession: [String: [String]] = [:]
  /// Ids that Redis did not know lately, and until when that is believed (monotonic).
  var unknownUntil: [String: Int] = [:]
  /// The instances as Redis listed them last, for browsers that the table does not know yet.
  var lookup: (at: Int, instances: [InstanceRecord]) = (Int.min / 2, [])
  /// Questions about jobs that Redis did not know, and when they are asked again (monotonic).
  var askAgain: [(at: Int, question: JobQuestion)] = []
  var touched: Set<String> = []
  var owed = Owed()
  /// What workers were told last.
  var told = Told()
  var traffic = TrafficState()

  private var connection: RedisConnection? {
    didSet { core.count { [isConnected = connection != nil] in $0.connected = isConnected } }
  }
  private var backoff = Backoff()
  private var nextAttempt = 0
  private var hasBeaten = false
  private var nextBeat = 0
  private var lastRetry = Int.min / 2

  /// What could not be said to Redis while it was away. Everything here may be said twice.
  struct Owed {
    var detaches: Set<String> = []
    var ends: Set<String> = []
    /// Session → pool.
    var cancels: [String: String] = [:]
    var claims: [(claim: Claim, instance: InstanceRecord)] = []
    /// New job → its instance.
    var jobs: [JobName: String] = [:]
    /// What is held must be attached again: Redis took this replica for dead, or sockets came while Redis was away.
    var reattach = false
    /// The feed's word what became of Redis: then also what Redis does not know any more is decided.
    var reconcile: (lost: Bool, losses: Int)?
    var isEmpty: Bool {
      detaches.isEmpty && ends.isEmpty && cancels.isEmpty && claims.isEmpty && jobs.isEmpty && !reattach
        && reconcile == nil
    }
  }

  init(_ core: CoordinatorCore) {
    self.core = core
    leases = Leases(keys: core.keys)
    replicas = Replicas(keys: core.keys)
    registry = Registry(keys: core.keys)
    events = Events(keys: core.keys)
    targetKeys = Targets(keys: core.keys)
    balancing = Balancing(keys: core.keys)
    jobs = Jobs(keys: core.keys)
    reports = Reports(keys: core.keys)
    trafficKeys = Traffic(keys: core.keys)
  }

  var now: Int { Clock.unixMilliseconds }
  var monotonic: Int { Clock.monotonicMilliseconds }

  func run() {
    while true {
      let batch = core.mailbox.take(waitingMilliseconds: pause())
      touched.formUnion(batch.active)
      process(batch.errands)
      if batch.stopping { return stop() }
      for pool in batch.wakes { retry(pool) }
      expireWaiters()
      askForJobsAgain()
      if monotonic >= nextBeat { beat() }
      if monotonic >= traffic.due || batch.hasNewTable { reportTraffic() }
      if monotonic - lastRetry >= core.retryMilliseconds { retryAll() }
      payDebts()
      core.count {
        $0.held = holdings.count
        $0.waiting = poolOfWaiter.count
      }
    }
  }

  /// How long there is nothing to do.
  private func pause() -> Int {
    var due = min(nextBeat, traffic.due, askAgain.first?.at ?? Int.max)
    for queue in waiters.values { for waiter in queue { due = min(due, waiter.deadline) } }
    return max(0, due - monotonic)
  }

  // MARK: What came in

  private func process(_ errands: [Errand]) {
    var requests: [SlotRequest] = []
    var released: [String] = []
    var cancelled: [TicketKey] = []
    var operations: [Operation] = []
    for errand in errands {
      switch errand {
      case .request(let request): requests.append(request)
      case .notice(.release(let session)): released.append(session)
      case .notice(.end(let session)): operations.append(end(session))
      case .notice(.activity(let session)): touched.insert(session)
      case .notice(.targets(let targets, let session)): operations += remember(targets, of: session)
      case .notice(.borrow(let pool, let worker)): operations.append(borrow(pool, worker))
      case .notice(.job(let id, let pool, let instance)):
        if let operation = remember(JobName(pool: pool, id: id), instance: instance) { operations.append(operation) }
      case .notice(.cancel(let ticket, let worker)):
        let key = TicketKey(worker: worker, ticket: ticket)
        core.count { $0.cancelled += 1 }
        // Not even begun: nothing is to be given back.
        if let index = requests.lastIndex(where: { $0.ticket == ticket && $0.worker == worker }) {
          requests.remove(at: index)
        } else {
          cancelled.append(key)
        }
      case .ended(let session): operations += ended(session)
      case .reconcile(let lost, let losses): owed.reconcile = ((owed.reconcile?.lost ?? false) || lost, losses)
      }
    }
    perform(operations)
    // A slot that is given back serves who asks in the same batch. But when somebody joins a session by name, its slot
    // must not be given back just before: a client that reconnects would lose its browser.
    let joins = requests.contains { request in
      switch request.kind {
      case .claim, .attach, .target: true
      case .acquire, .look, .reserved, .job: false
      }
    }
    if joins {
      perform(requests.compactMap(begin))
      perform(released.compactMap(release) + cancelled.flatMap(cancel))
    } else {
      perform(released.compactMap(release) + cancelled.flatMap(cancel))
      perform(requests.compactMap(begin))
    }
  }

  /// The first command for a request; nil when it is answered without one.
  private func begin(_ request: SlotRequest) -> Operation? {
    let key = TicketKey(worker: request.worker, ticket: request.ticket)
    switch request.kind {
    case .acquire(let pool, let reserve, let countsAsUse):
      guard let record = core.table?.pools[pool] else {
        refuse(key, core.table == nil ? .unavailable : .unknown)
        return nil
      }
      let timeout = request.queueTimeoutMilliseconds ?? record.queueTimeoutMilliseconds
      return acquire(
        Waiter(
          key: key, session: SessionBirth.id(), pool: pool, reserve: reserve, queues: timeout > 0,
          countsAsUse: countsAsUse, deadline: monotonic + timeout))
    case .claim(let browser): return claim(Claim(key: key, browser: browser, session: SessionBirth.id()))
    case .attach(let session):
      if isUnknown(session) {
        refuse(key, .unknown)
        return nil
      }
      return attach(key, session)
    case .look(let session):
      if let record = core.session(session) {
        core.deliver(.granted(record), key)
        return nil
      }
      if isUnknown(session) {
        refuse(key, .unknown)
        return nil
      }
      return Operation(.look(key, session: session), leases.get(session: session)) { .view($0) }
    // The lease's state is in Redis alone.
    case .reserved(let session):
      return Operation(.reserved(key), leases.get(session: session)) { .view($0) }
    case .target(let target):
      if let session = sessionOfTarget[target] { return attach(key, session) }
      return Operation(.target(key, target: target), targetKeys.session(of: target)) { .text($0) }
    case .job(let id, let pool): return find(JobQuestion(key: key, job: JobName(pool: pool, id: id)))
    }
  }

  private func isUnknown(_ session: String) -> Bool {
    core.session(session) == nil && unknownUntil[session].map { $0 > monotonic } ?? false
  }

  func noteUnknown(_ session: String) {
    if unknownUntil.count >= Self.unknownLimit { unknownUntil = [:] }
    unknownUntil[session] = monotonic + Self.unknownMilliseconds
  }

  private func release(_ session: String) -> Operation? {
    holdings.release(session) ? detach(session) : nil
  }

  private func cancel(_ key: TicketKey) -> [Operation] {
    if let pool = poolOfWaiter[key], let waiter = leave(key, pool) { return withdraw(waiter) }
    if cancelJob(key) { return [] }
    if let (session, wasLast) = holdings.cancel(key) { return wasLast ? [detach(session)] : [] }
    if let (session, _) = reserved.removeValue(forKey: key) {
      return [Operation(.giveBack(session: session), leases.get(session: session)) { .view($0) }]
    }
    return []
  }

  private func remember(_ targets: [String], of session: String) -> [Operation] {
    guard let expiresAt = core.session(session)?.expiresAt ?? holdings.record(session)?.expiresAt else {
      // The session's record is still on its way here; its targets are good for as long as a discovery is.
      return targets.compactMap { remember($0, of: session, milliseconds: 600_000) }
    }
    return targets.compactMap { remember($0, of: session, milliseconds: max(1_000, expiresAt - now)) }
  }

  private func remember(_ target: String, of session: String, milliseconds: Int) -> Operation? {
    guard sessionOfTarget[target] != session else { return nil }
    if sessionOfTarget.count >= Self.targetsLimit { (sessionOfTarget, targetsOfSession) = ([:], [:]) }
    sessionOfTarget[target] = session
    targetsOfSession[session, default: []].append(target)
    return Operation(
      .remember(target: target), targetKeys.remember(target: target, session: session, ttlMilliseconds: milliseconds))
  }

  /// Tells the workers that a session is over; with its reason when there are sockets to be closed with it.
  func ended(_ session: String) -> [Operation] {
    for target in targetsOfSession.removeValue(forKey: session) ?? [] where sessionOfTarget[target] == session {
      sessionOfTarget[target] = nil
    }
    owed.detaches.remove(session)
    guard holdings.end(session) else {
      core.end(session, reason: Self.noReason)
      return []
    }
    return [Operation(.reasons([session]), events.recent(count: 64)) { .events($0) }]
  }
  static let noReason = "session ended"

  // MARK: Who waits

  func enqueue(_ waiter: Waiter) {
    waiters[waiter.pool, default: []].append(waiter)
    poolOfWaiter[waiter.key] = waiter.pool
    core.count { $0.queued += 1 }
  }

  func isWaiting(_ key: TicketKey) -> Bool { poolOfWaiter[key] != nil }

  @discardableResult
  func leave(_ key: TicketKey, _ pool: String) -> Waiter? {
    poolOfWaiter[key] = nil
    guard let index = waiters[pool]?.firstIndex(where: { $0.key == key }) else { return nil }
    let waiter = waiters[pool]!.remove(at: index)
    if waiters[pool]!.isEmpty { waiters[pool] = nil }
    return waiter
  }

  func doubt(_ key: TicketKey) {
    guard let pool = poolOfWaiter[key], let index = waiters[pool]?.firstIndex(where: { $0.key == key }) else { return }
    waiters[pool]![index].isUncertain = true
  }

  private func withdraw(_ waiter: Waiter) -> [Operation] {
    [cancelWaiting(waiter.session, waiter.pool)] + (waiter.isUncertain ? [end(waiter.session)] : [])
  }

  private func retry(_ pool: String) {
    guard pool != Self.everyPool else { return retryAll() }
    while let queue = waiters[pool] {
      let tried = queue.prefix(Self.triesPerWake)
      perform(tried.map(acquire))
      if tried.contains(where: { isWaiting($0.key) }) { return }
    }
  }

  /// Also tells Redis that they are alive.
  private func retryAll() {
    lastRetry = monotonic
    perform(waiters.values.flatMap { $0 }.map(acquire))
  }

  private func expireWaiters() {
    let late = waiters.values.flatMap { $0 }.filter { $0.deadline <= monotonic }
    guard !late.isEmpty else { return }
    for waiter in late {
      leave(waiter.key, waiter.pool)
      refuse(waiter.key, connection == nil ? .unavailable : .timedOut)
    }
    perform(late.flatMap(withdraw))
  }

  // MARK: The heartbeat

  private func beat() {
    nextBeat = monotonic + Self.beatMilliseconds
    let cut = now - 60_000
    reserved = reserved.filter { $0.value.at > cut }
    unknownUntil = unknownUntil.filter { $0.value > monotonic }
    let counters = core.counters
    var figures = core.figures()
    figures["heldSessions"] = String(holdings.count)
    figures["waiting"] = String(poolOfWaiter.count)
    figures["slotsGranted"] = String(counters.granted)
    let sent = touched
    touched = []
    // Counted after the beat, so that this replica is among them.
    perform(
      [
        Operation(
          .beat(touched: sent), replicas.beat(id: core.replica, figures: figures, touched: sent.sorted(), now: now)
        ) { .flag($0) }
      ] + readings() + (faultReport().map { [$0] } ?? []))
  }

  /// Redis did not know this replica: it is new, or was taken for dead and its sessions let go of.
  func wasUnknown() {
    if hasBeaten { owed.reattach = true }
    hasBeaten = true
    tellAllTraffic()
  }

  // MARK: Redis

  /// Says what it was owed, when there is a connection.
  private func payDebts() {
    guard !owed.isEmpty, connect() else { return }
    let debts = owed
    owed = Owed()
    var operations = debts.detaches.filter { !holdings.isHeld($0) }.map(detach)
    operations += debts.ends.map(end)
    operations += debts.cancels.map { cancelWaiting($0.key, $0.value) }
    operations += debts.claims.map(settleClaim)
    operations += debts.jobs.compactMap { remember($0.key, instance: $0.value) }
    perform(operations)
    if let (lost, losses) = debts.reconcile {
      reconcile(lost: lost, losses)
    } else if debts.reattach {
      perform(holdings.sessions.map { reattach($0, losses: nil) })
    }
  }

  /// Makes Redis know again what lives here, and then believes Redis.
  private func reconcile(lost: Bool, _ losses: Int) {
    var operations: [Operation] = []
    if lost {
      // The feed's record first: the session may have been prolonged since its socket came.
      operations = holdings.sessions.compactMap { core.session($0) ?? holdings.record($0) }.map(restore)
      // REST sessions that nobody is connected to have no other witness than the replicas.
      let kept = core.withView { view in view.sessions.values.filter { $0.origin == .rest && !$0.instance.isEmpty } }
      operations += kept.filter { !holdings.isHeld($0.id) && $0.expiresAt > now }.map(restore)
    } else {
      operations = holdings.sessions.map { reattach($0, losses: losses) }
    }
    perform(operations)
    guard connection != nil, !owed.reattach else {
      // Redis is away again; a newer word of the feed may come first.
      owed.reconcile = owed.reconcile ?? (lost, losses)
      return
    }
    core.trust(after: losses)
  }

  private func connect() -> Bool {
    if let connection, connection.isOpen { return true }
    if connection != nil {
      connection = nil
      nextAttempt = 0
    }
    guard monotonic >= nextAttempt else { return false }
    do throws(RedisError) {
      connection = try core.connect(.commands)
      backoff.reset()
      nextAttempt = 0
      return true
    } catch {
      nextAttempt = monotonic + backoff.next(random: UInt64.random(in: 0 ... .max))
      return false
    }
  }

  /// Runs operations in order, and those that follow from their answers, until none is left.
  func perform(_ operations: [Operation]) {
    var queue = operations[...]
    while !queue.isEmpty {
      let batch = Array(queue.prefix(Self.batch))
      queue = queue.dropFirst(Self.batch)
      var wasSent = false
      guard let results = exchange(batch, &wasSent) else {
        for operation in batch { failed(operation, mayHaveRun: wasSent) }
        for operation in queue { failed(operation, mayHaveRun: false) }
        return
      }
      var next: [Operation] = []
      for (operation, result) in zip(batch, results) {
        switch result {
        case .success(let outcome): next += answered(operation, outcome)
        case .failure(let error):
          core.log.error(
            "a command was refused",
            ["command": .string(operation.command.body.name), "error": .string(error.description)])
          core.count { $0.redisFailures += 1 }
          // It would be refused again and again.
          if case .rememberJob = operation.purpose {
            core.count { $0.jobsDropped += 1 }
            continue
          }
          failed(operation, mayHaveRun: error.mayHaveRun)
        }
      }
      queue = (Array(queue) + next)[...]
    }
  }

  /// The answers, or nil when there is no Redis. A lost connection is made again once, as a restarted Redis closes them
  /// all; every operation may be repeated.
  private func exchange(_ operations: [Operation], _ wasSent: inout Bool) -> [Result<Operation.Outcome, RedisError>]? {
    for _ in 0..<2 {
      guard connect(), let connection else { return nil }
      wasSent = true
      do throws(RedisError) { return try connection.pipeline(operations.map(\.command)) } catch {
        core.count { $0.redisFailures += 1 }
        self.connection = nil
        nextAttempt = 0
      }
    }
    return nil
  }

  /// Refuses who waits and lets go of everything at once, as the leader would after some seconds of silence.
  private func stop() {
    let waiting = waiters.values.flatMap { $0 }
    for waiter in waiting { refuse(waiter.key, .unavailable) }
    for (_, question) in askAgain { answer(question, .unavailable) }
    waiters = [:]
    poolOfWaiter = [:]
    perform(waiting.flatMap(withdraw))
    traffic.nextBeat = 0
    reportTraffic()
    guard connect(), let connection else { return }
    do throws(RedisError) {
      try connection.run(replicas.forget(id: core.replica, now: now))
    } catch {
      core.log.warning("sessions of this replica stay until it is missed", ["error": .string(error.description)])
    }
    connection.close()
  }
}
