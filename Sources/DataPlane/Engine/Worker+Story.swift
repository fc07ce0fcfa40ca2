// What is told of each request when it is over: the access log's record and the counters by route, pool and instance.
// A story begins with a routed head and ends once, with its answer, its tunnel or its connection.
import HTTPWire
import Posix
import ProxyMachine

extension Worker {
  /// The head in `s.head` was matched to a route.
  func beginStory(_ fd: Int32, _ route: CompiledRoute) {
    s.slab[fd].story = RequestStory()
    s.slab[fd].story.isOpen = true
    s.slab[fd].story.isLogged = route.isLogged
    s.slab[fd].story.route = route.row
    s.slab[fd].story.pool = route.poolRow
    s.slab[fd].story.idHigh = nextRandom()
    s.slab[fd].story.idLow = nextRandom()
    s.slab[fd].story.bytesFromClient = UInt64(s.head.byteCount)
    s.labels.began(route: route.row, pool: route.poolRow)
    if route.isLogged { keepText(fd) }
  }

  /// Keeps id, method and target of the request in `s.head` for its line in the log.
  func keepText(_ fd: Int32) {
    guard s.access.isOn else { return }
    let bytes = s.slab[fd].inbound.span
    func part(_ slice: Slice) -> Range<Int> { slice.lower..<slice.upper }
    var forwarding = Forwarding()
    forwarding.trustsPeer = s.slab[fd].isTrusted
    let method = bytes.extracting(part(s.head.method))
    let authority = bytes.extracting(part(s.head.authority))
    // Path and query, which stand side by side.
    let target = bytes.extracting(s.head.path.lower..<s.head.path.upper + Int(s.head.query.count))
    if let id = s.head.requestID(bytes, forwarding: forwarding) {
      s.slab[fd].story.text = s.access.begin(
        id: bytes.extracting(part(id)), method: method, authority: authority, target: target)
    } else {
      writeRequestID(fd)
      let id = unsafe Span<UInt8>(_unsafeStart: s.requestID, count: 32)
      s.slab[fd].story.text = s.access.begin(id: id, method: method, authority: authority, target: target)
    }
  }

  /// The request's id in hexadecimal: 128 random bits, enough that two requests of a fleet never share one.
  func writeRequestID(_ fd: Int32) {
    for half in 0..<2 {
      var bits = half == 0 ? s.slab[fd].story.idHigh : s.slab[fd].story.idLow
      for index in 0..<16 {
        let digit = UInt8(truncatingIfNeeded: bits & 15)
        unsafe s.requestID[half * 16 + index] = digit < 10 ? 0x30 + digit : 0x57 + digit
        bits >>= 4
      }
    }
  }

  /// An attempt at an instance begins.
  func storyAttempt(_ fd: Int32, instance: LabelRow, _ address: SocketAddress) {
    storyLeavesInstance(fd)
    s.slab[fd].story.instance = instance
    s.slab[fd].story.instanceAddress = address
    guard instance != AccessRecord.noRow else { return }
    s.labels.add(.requests, instance: instance)
    s.labels.add(.activeNow, instance: instance)
  }

  /// The attempt failed, and another one may follow.
  func storyLeavesInstance(_ fd: Int32) {
    let row = s.slab[fd].story.instance
    guard s.slab[fd].story.isOpen, row != AccessRecord.noRow else { return }
    s.slab[fd].story.instance = AccessRecord.noRow
    s.labels.ended(instance: row, status: 0, microseconds: 0, bytesFromClient: 0, bytesToClient: 0)
  }

  func storyFault(_ fd: Int32, _ fault: InstanceFault, isBlameless: Bool) {
    let row = s.slab[fd].story.instance
    guard s.slab[fd].story.isOpen, row != AccessRecord.noRow else { return }
    if isBlameless { s.labels.add(.blameless, instance: row) }
    switch fault {
    case .connectFailed: s.labels.add(.connectFailures, instance: row)
    case .connectTimeout: s.labels.add(.connectTimeouts, instance: row)
    case .closed, .brokenHead:
      s.labels.add(s.slab[fd].machine.responseHasStarted ? .cutBodies : .earlyCloses, instance: row)
    case .reset: s.labels.add(.resets, instance: row)
    case .firstByteTimeout: s.labels.add(.firstByteTimeouts, instance: row)
    case .badResponse: s.labels.add(.badResponses, instance: row)
    }
  }

  /// Microseconds since a moment, as far as the log tells them.
  @inline(__always) func since(_ moment: Int) -> Int32 { Int32(clamping: Clock.monotonicMicroseconds - moment) }

  /// The request is over. What never became a routed request is told when it was answered.
  func endStory(_ fd: Int32, _ reason: CloseReason, status: Int? = nil) {
    let started = s.slab[fd].requestStarted
    guard s.slab[fd].story.isOpen else {
      let text = s.slab[fd].story.text
      s.slab[fd].story.text = .none
      guard let status, s.access.isOn else { return s.access.drop(text) }
      var record = AccessRecord()
      record.startedMicroseconds = started > 0 ? started : Clock.monotonicMicroseconds
      record.status = UInt16(clamping: status)
      record.reason = reason
      record.client = s.slab[fd].address
      return s.access.end(text, record)
    }
    s.slab[fd].story.isOpen = false
    if let status { s.slab[fd].story.status = UInt16(clamping: status) }
    let story = s.slab[fd].story
    s.slab[fd].story.text = .none
    let total = Clock.monotonicMicroseconds - started
    let bytesIn = Int(clamping: story.bytesFromClient)
    let bytesOut = Int(clamping: story.bytesToClient)
    s.labels.ended(
      route: story.route, pool: story.pool, status: Int(story.status), microseconds: total, bytesFromClient: bytesIn,
      bytesToClient: bytesOut)
    if story.instance != AccessRecord.noRow {
      // An answer of ours says nothing of the instance's.
      s.labels.ended(
        instance: story.instance, status: status == nil ? Int(story.status) : 0, microseconds: total,
        bytesFromClient: bytesIn, bytesToClient: bytesOut)
    }
    guard s.access.isOn, story.isLogged else { return s.access.drop(story.text) }
    var record = AccessRecord()
    record.startedMicroseconds = started
    record.totalMicroseconds = total
    record.bytesFromClient = story.bytesFromClient
    record.bytesToClient = story.bytesToClient
    record.queueMicroseconds = story.queueMicroseconds
    record.connectMicroseconds = story.connectMicroseconds
    record.firstByteMicroseconds = story.firstByteMicroseconds
    record.client = s.slab[fd].address
    record.instanceAddress = story.instanceAddress
    record.route = story.route
    record.pool = story.pool
    record.instance = story.instance
    record.status = story.status
    record.reason = reason
    var flags: UInt8 = 0
    if s.slab[fd].tls != nil { flags |= AccessRecord.Flags.tls.rawValue }
    if s.slab[fd].isTunnel { flags |= AccessRecord.Flags.tunnel.rawValue }
    if story.isSession { flags |= AccessRecord.Flags.session.rawValue }
    record.flags = AccessRecord.Flags(rawValue: flags)
    record.retries = story.retries
    s.access.end(story.text, record)
  }
}
