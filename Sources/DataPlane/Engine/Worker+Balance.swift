// Which instance a request goes to: what binds it to one (a sticky cookie, a job), what its route's strategy looks at, and
// what the balancer is told of how it went. The choice itself is Balancing's.
import Balancing
import HTTPWire
import Observability
import Posix
import ProxyMachine
import Routing

extension Worker {
  /// Picks an instance of an unlimited pool and connects to it. The request's head is in `s.head`.
  /// - Parameter avoiding: the instance that has just failed this request, or -1
  func chooseInstance(_ fd: Int32, route index: Int, avoiding: Int32 = -1) {
    let route = s.table.routes[index]
    let compiled = s.table.pools[Int(route.pool)]
    guard let pool = compiled.state else { return closeClient(fd, .internalError) }
    if compiled.hasTiers { return chooseByTier(fd, route: index, pool, avoiding: avoiding) }
    if route.binds, avoiding < 0, let place = boundInstance(fd, route, pool) {
      s.slab[fd].setsCookie = false
      return connect(fd, instance: place, pool)
    }
    s.slab[fd].setsCookie = !route.stickyName.isEmpty
    let place = pick(fd, route, pool, avoiding: avoiding)
    guard place >= 0 else { return refuseWithoutInstance(fd, route) }
    connect(fd, instance: place, pool)
  }

  func refuseWithoutInstance(_ fd: Int32, _ route: CompiledRoute) {
    s.labels.add(.withoutInstance, pool: route.poolRow)
    answer(fd, 503, "No instance of this pool is ready. Try again shortly.", .refused, closes: true, retryAfter: 1)
  }

  /// What the route's strategy says, for a request or a look at a shared browser; -1 = nobody takes requests.
  /// - Parameter mayReturn: the one that is avoided is better than nobody
  func pick(
    _ fd: Int32, _ route: CompiledRoute, _ pool: PoolHandle, avoiding: Int32 = -1, mayReturn: Bool = true
  ) -> Int32 {
    var method = route.method
    var hash: UInt64 = 0
    var sequence: UInt64?
    if method == .hash {
      if let found = hashed(fd, route) { hash = found } else { method = .roundRobin }
    } else if method == .globalRoundRobin {
      sequence = avoiding < 0 ? pool.nextIndex() : nil
      if !pool.s.isBackup, pool.wantsBlock(now: s.now) {
        let name = s.table.poolNames[Int(route.pool)]
        s.coordinator.notify(.borrow(pool: name, worker: s.index))
      }
    }
    let place = pool.s.balancer.pick(
      method, hash: hash, avoiding: avoiding, now: s.now, random: &s.random, sequence: sequence)
    // Only the one that failed is left: better there than nowhere.
    guard place < 0, avoiding >= 0, mayReturn else { return place }
    return pool.s.balancer.pick(method, hash: hash, now: s.now, random: &s.random)
  }

  /// What the route hashes, or nil when the request has no such header or cookie: then its turn is as good as any.
  private func hashed(_ fd: Int32, _ route: CompiledRoute) -> UInt64? {
    let bytes = s.slab[fd].inbound.span
    let value: Slice?
    switch route.hashSource {
    case .client: return clientHash(fd)
    case .header: value = s.head.value(of: s.table.bytes(route.hashName), in: bytes)
    case .cookie: value = s.head.cookie(s.table.bytes(route.hashName), in: bytes)
    }
    guard let value, !value.isEmpty else { return nil }
    return StableHash.of(bytes.extracting(value.lower..<value.upper))
  }

  /// The client as hashes and limits see it.
  func clientHash(_ fd: Int32) -> UInt64 {
    let (high, low) = clientBits(fd)
    return ClientAddress(v6: high, low).hash
  }

  /// The connection's peer, or for a listed proxy the last address in its X-Forwarded-For that is not a listed proxy's own.
  func clientBits(_ fd: Int32) -> (high: UInt64, low: UInt64) {
    var last = s.slab[fd].address.bits
    guard s.slab[fd].isTrusted, let list = s.head.lastValue(of: .xForwardedFor) else { return last }
    let bytes = s.slab[fd].inbound.span
    var end = list.upper
    while end > list.lower {
      var start = end
      while start > list.lower, bytes[start - 1] != UInt8(ascii: ",") { start -= 1 }
      let element = bytes.trimmed(start, end)
      guard let address = PeerAddress(ipv4: bytes, element, port: 0) ?? PeerAddress(ipv6: bytes, element, port: 0)
      else { return last }
      let number = SocketAddress(address)
      last = number.bits
      guard s.trustedProxies.holds(number) else { return last }
      end = start - 1
    }
    return last
  }

  // MARK: Bound to an instance

  /// The instance that a job's id or a sticky cookie leads to, if it takes the request.
  func boundInstance(_ fd: Int32, _ route: CompiledRoute, _ pool: PoolHandle) -> Int32? {
    let bytes = s.slab[fd].inbound.span
    if route.jobAffinity {
      let path = bytes.extracting(s.head.path.lower..<s.head.path.upper)
      switch JobPath(path) {
      case .makes: s.slab[fd].makesJob = bytes.isExactly(s.head.method, "POST")
      case .names(let range):
        let job = JobKey(path.extracting(range))
        if let key = s.shared.jobs.instance(of: job), let place = instance(ofKey: key, pool) { return place }
      case .other: break
      }
    }
    guard !route.stickyName.isEmpty, let value = s.head.cookie(s.table.bytes(route.stickyName), in: bytes),
      let key = bytes.hexadecimal(value)
    else { return nil }
    let place = pool.s.balancer.place(ofKey: key)
    return place >= 0 && pool.s.balancer.admits(place, now: s.now) ? place : nil
  }

  /// Who made a job answers for it to its end, also while it drains.
  private func instance(ofKey key: UInt64, _ pool: PoolHandle) -> Int32? {
    let place = pool.s.balancer.place(ofKey: key)
    if place >= 0 { return place }
    return s.drainingPlaces[key]
  }

  /// Writes the value of the cookie that binds the client to the instance that answers into `cookieOutput`. Returns its
  /// bytes: 0 when none is due.
  func writeStickyCookie(_ fd: Int32, _ route: CompiledRoute) -> Int {
    guard s.slab[fd].setsCookie, s.slab[fd].instance >= 0 else { return 0 }
    let name = s.table.bytes(route.stickyName)
    let tail = s.table.bytes(route.stickyTail)
    let secure: StaticString = "; Secure"
    var count = 0
    guard name.count + 17 + tail.count + secure.utf8CodeUnitCount <= s.cookieCapacity else { return 0 }
    func append(_ byte: UInt8) {
      unsafe s.cookieOutput[count] = byte
      count += 1
    }
    for index in 0..<name.count { append(name[index]) }
    append(UInt8(ascii: "="))
    let key = s.instances[Int(s.slab[fd].instance)].key
    for shift in stride(from: 60, through: 0, by: -4) {
      let digit = UInt8(truncatingIfNeeded: key >> UInt64(shift) & 15)
      append(digit < 10 ? 0x30 + digit : 0x57 + digit)
    }
    for index in 0..<tail.count { append(tail[index]) }
    if s.slab[fd].tls != nil {
      secure.withUTF8Buffer { text in
        for index in 0..<text.count { unsafe append(text[index]) }
      }
    }
    return count
  }

  // MARK: Turns

  /// The client's request goes to this instance.
  @inline(__always) func beginTurn(_ fd: Int32, _ place: Int32, _ pool: PoolHandle) {
    s.slab[fd].turn = pool.s.balancer.began(place, now: s.now)
    s.slab[fd].turnPool = pool
    pool.s.turns += 1
  }

  /// The head of the instance's answer is there.
  @inline(__always) func turnAnswered(_ fd: Int32, status: Int) {
    guard let pool = s.slab[fd].turnPool else { return }
    let cannot = status == 502 || status == 503 || status == 504
    // What a further attempt took says nothing of the instance that answered at last.
    let microseconds = s.slab[fd].story.retries == 0 ? Int(s.slab[fd].story.firstByteMicroseconds) : -1
    pool.s.balancer.answered(
      &s.slab[fd].turn, cannot ? .failure : .success, microseconds: microseconds, now: s.now)
  }

  /// Nothing more of the request is under way at its instance.
  @inline(__always) func endTurn(_ fd: Int32, _ outcome: Outcome) {
    guard let pool = s.slab[fd].turnPool else { return }
    s.slab[fd].turnPool = nil
    pool.s.turns -= 1
    pool.s.balancer.ended(&s.slab[fd].turn, outcome, now: s.now)
    if s.slab[fd].place != .none { leavePlace(fd, pool) }
  }

  // MARK: Members

  /// The balancers learn of a new table; those of pools that are no more go when their last turn is over.
  func updateBalancers() {
    for (_, handle) in s.poolStates { handle.s.isInTable = false }
    var methods = [BalancingMethods](repeating: BalancingMethods(.roundRobin), count: s.table.pools.count)
    for index in 0..<s.table.routes.count {
      let route = s.table.routes[index]
      methods[Int(route.pool)].formUnion(BalancingMethods(route.method))
    }
    s.hasGates = false
    for index in 0..<s.table.pools.count {
      let members = s.table.membersByPool[index]
      s.table.pools[index].state = updateBalancer(index, members, methods[index], isBackup: false)
      let backups = s.table.backupsByPool[index]
      if !backups.isEmpty {
        s.table.pools[index].backups = updateBalancer(index, backups, methods[index], isBackup: true)
      }
    }
    for (name, handle) in s.poolStates where !handle.s.isInTable {
      handle.s.balancer.update([], methods: BalancingMethods(.roundRobin), now: s.now)
      guard handle.s.turns == 0 else { continue }
      s.poolStates[name] = nil
      if unsafe handle.s.gate != nil { s.shared.gates.release(handle.s.pool) }
      handle.free()
    }
    s.drainingPlaces = [:]
    for instance in s.table.source.instances where instance.state == .draining {
      let key = StableHash.of(instance.id)
      if let place = s.instancePlaces[Self.placeKey(instance)] { s.drainingPlaces[key] = place }
    }
    if !s.loads.isEmpty { applyLoads() }
    fillPlaces()
  }

  /// Brings the balancer of one tier of a pool up to date, and makes it if it is new.
  private func updateBalancer(_ index: Int, _ members: [BalancerMember], _ methods: BalancingMethods, isBackup: Bool)
    -> PoolHandle
  {
    let pool = s.table.poolNames[index]
    let record = s.table.record(pool: index)
    let name = isBackup ? PoolState.backupName(pool) : pool
    let settings = BalancerSettings(record)
    let handle = s.poolStates[name] ?? PoolHandle(settings, seed: nextRandom(), pool: pool, isBackup: isBackup)
    s.poolStates[name] = handle
    handle.s.isInTable = true
    handle.s.balancer.update(settings: settings)
    handle.s.balancer.update(members, methods: methods, now: s.now)
    if record.maxConnections > 0, unsafe handle.s.gate == nil {
      let gate = s.shared.gates.hold(pool, limit: record.maxConnections)
      unsafe handle.s.gate = .passUnretained(gate)
    }
    if let gate = unsafe handle.s.gate {
      s.hasGates = true
      unsafe gate._withUnsafeGuaranteedRef { $0.withQueue { $0.limit = record.maxConnections } }
    }
    return handle
  }

  /// How busy instances are, as the control plane has published it; those that it does not name count as not measured.
  func applyLoads() {
    for instance in s.table.source.instances {
      let name = instance.isBackup ? PoolState.backupName(instance.pool) : instance.pool
      guard let handle = s.poolStates[name] else { continue }
      let place = handle.s.balancer.place(ofKey: StableHash.of(instance.id))
      let load = s.loads[instance.id]
      let cpu = load.map { Int($0.cpuPercent) } ?? -1
      handle.s.balancer.setLoad(place, cpu: cpu, memory: load.map { Int($0.memoryPercent) } ?? -1)
    }
  }

  /// Tells of instances that were taken out or came back since the last second.
  func reportEjections() {
    var ejected = 0
    for (_, handle) in s.poolStates {
      let name = handle.s.pool
      ejected += handle.s.balancer.ejectedCount
      let counters = handle.s.balancer.counters
      let told = handle.s.told
      guard counters != told else { continue }
      handle.s.told = counters
      s.metrics.add(.ejections, Int(counters.ejections - told.ejections))
      s.metrics.add(.recoveries, Int(counters.recoveries - told.recoveries))
      s.metrics.add(.panicPicks, Int(counters.panicPicks - told.panicPicks))
      if let row = poolRow(name) { s.labels.add(.panics, pool: row, Int(counters.panicPicks - told.panicPicks)) }
      guard counters.ejections != told.ejections || counters.recoveries != told.recoveries else { continue }
      let out = s.table.source.instances.filter { instance in
        guard instance.pool == name else { return false }
        let place = handle.s.balancer.place(ofKey: StableHash.of(instance.id))
        return handle.s.balancer.state(of: place).map { $0.circuit != .closed } ?? false
      }
      s.log.warning(
        "instances were ejected or came back",
        [
          "pool": .string(name), "ejected": .string(out.map(\.id).sorted().joined(separator: ", ")),
          "panic": .bool(handle.s.balancer.isPanicking),
        ])
    }
    s.metrics.set(.ejectedNow, ejected)
  }

  private func poolRow(_ name: String) -> LabelRow? {
    for index in 0..<s.table.routes.count where s.table.poolNames[Int(s.table.routes[index].pool)] == name {
      return s.table.routes[index].poolRow
    }
    return nil
  }

  /// What /instances tells of each instance as this worker sees it. Every second, so no name is put together for it.
  func reportInstances() {
    for pool in 0..<s.table.pools.count {
      if let handle = s.table.pools[pool].state { reportInstances(handle, s.table.membersByPool[pool]) }
      if let handle = s.table.pools[pool].backups { reportInstances(handle, s.table.backupsByPool[pool]) }
    }
  }

  private func reportInstances(_ handle: PoolHandle, _ members: [BalancerMember]) {
    for member in members {
      let slot = s.instances[Int(member.place)]
      guard slot.row != 0, let state = handle.s.balancer.state(of: member.place) else { continue }
      let isOut = state.circuit != .closed
      if isOut, !slot.wasOut { s.labels.add(.ejections, instance: slot.row) }
      s.instances[Int(member.place)].wasOut = isOut
      s.labels.set(.weightNow, instance: slot.row, state.weight * state.rampPercent * 10)
      s.labels.set(.responseMicrosecondsNow, instance: slot.row, state.responseMicroseconds)
      s.labels.set(.keptConnectionsNow, instance: slot.row, Int(slot.idleCount))
      s.labels.set(.ejectedUntilNow, instance: slot.row, state.ejectedUntil)
    }
  }
}

extension SocketAddress {
  init(_ address: PeerAddress) {
    let mapped = address.family == .ipv4 ? 0xFFFF_0000_0000 | address.low : address.low
    self.init(high: address.high, low: mapped, port: address.port)
  }
}

extension PeerAddress {
  init(_ address: SocketAddress) {
    let (high, low) = address.bits
    let port = UInt16(truncatingIfNeeded: address.port)
    if high == 0, low >> 32 == 0xFFFF {
      self.init(ipv4: UInt32(truncatingIfNeeded: low), port: port)
    } else {
      self.init(ipv6: high, low, port: port)
    }
  }
}

extension Span where Element == UInt8 {
  /// Sixteen hexadecimal digits in lower case.
  fileprivate func hexadecimal(_ slice: Slice) -> UInt64? {
    guard slice.count == 16 else { return nil }
    var value: UInt64 = 0
    for index in slice.lower..<slice.upper {
      switch self[index] {
      case 0x30...0x39: value = value << 4 | UInt64(self[index] - 0x30)
      case 0x61...0x66: value = value << 4 | UInt64(self[index] - 0x57)
      default: return nil
      }
    }
    return value
  }
}
