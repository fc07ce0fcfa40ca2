// Firecrawl: the ids of new jobs are read from the answers that make them, as these pass by.
import Balancing
import HTTPWire
import Posix
import ProxyMachine
import Routing

/// What of an answer has been read.
struct JobReading {
  var answer = JobAnswer()
  var chunks = ChunkedBody()
  let isChunked: Bool
  /// The instance that answers, and its pool.
  let instance: String
  let pool: String
}

extension Worker {
  /// The answer to a request that may make a job begins: its head is in `s.head`, `bytes` are what has come of its body.
  func beginJob(_ client: Int32, _ framing: BodyFraming, _ bytes: Span<UInt8>) {
    let place = s.slab[client].instance
    guard place >= 0, (200..<300).contains(s.head.status), framing != .none else {
      s.slab[client].makesJob = false
      return
    }
    let record = Int(s.instances[Int(place)].record)
    guard record >= 0, s.instances[Int(place)].inTable else {
      s.slab[client].makesJob = false
      return
    }
    let instance = s.table.source.instances[record]
    s.jobAnswers[client] = JobReading(isChunked: framing == .chunked, instance: instance.id, pool: instance.pool)
    readJob(client, bytes)
  }

  /// More of the body, as it came.
  func readJob(_ client: Int32, _ bytes: Span<UInt8>) {
    guard var reading = s.jobAnswers[client] else { return }
    // Changed in place: the dictionary must not hold a second reference meanwhile.
    s.jobAnswers[client] = nil
    switch reading.read(bytes) {
    case .needsMore: s.jobAnswers[client] = reading
    case .none: s.slab[client].makesJob = false
    case .found(let id):
      s.slab[client].makesJob = false
      s.shared.jobs.remember(JobKey(id.span), instance: StableHash.of(reading.instance))
      s.coordinator.notify(
        .job(id: String(decoding: id, as: UTF8.self), pool: reading.pool, instance: reading.instance))
    }
  }

  // MARK: Jobs that were made elsewhere

  /// The id of the job that the path of the request in `s.head` names.
  private func namedJob(_ fd: Int32) -> Slice? {
    let path = s.slab[fd].inbound.span.extracting(s.head.path.lower..<s.head.path.upper)
    guard case .names(let range) = JobPath(path) else { return nil }
    return Slice(s.head.path.lower + range.lowerBound, range.count)
  }

  /// Whether the request names a job that this process does not know, as another replica's answer made it.
  func asksForJob(_ fd: Int32, _ route: Int) -> Bool {
    guard let id = namedJob(fd) else { return false }
    let job = JobKey(s.slab[fd].inbound.span.extracting(id.lower..<id.upper))
    return s.shared.jobs.instance(of: job) == nil
  }

  /// Asks where the job is. The machine waits as for a slot, but not for long.
  func askForJob(_ fd: Int32, _ route: Int) {
    guard let slice = namedJob(fd) else { return closeClient(fd, .internalError) }
    let ticket = s.nextTicket
    s.nextTicket += 1
    s.tickets[ticket] = fd
    s.slab[fd].ticket = ticket
    wait(fd, .job)
    let pool = s.table.poolNames[Int(s.table.routes[route].pool)]
    s.coordinator.submit(
      SlotRequest(kind: .job(id: text(fd, slice), pool: pool), ticket: ticket, worker: s.index))
  }

  /// The answer, or that none came in time: then any instance is tried.
  func jobAnswered(_ owner: JobOwner, ticket: UInt64) {
    guard let fd = s.tickets.removeValue(forKey: ticket) else { return }
    s.slab[fd].ticket = 0
    // The worker's one head was used for others while this request waited.
    guard reparse(fd), let id = namedJob(fd) else { return }
    if case .instance(let name) = owner {
      let job = JobKey(s.slab[fd].inbound.span.extracting(id.lower..<id.upper))
      s.shared.jobs.remember(job, instance: StableHash.of(name))
    }
    s.slab[fd].machine.slotGranted()
    let route = s.table.match(s.slab[fd].inbound.span, authority: s.head.authority, path: s.head.path)
    guard route >= 0 else {
      return answer(fd, 404, "No route leads from this host and path to a pool.", .noRoute, closes: true)
    }
    s.slab[fd].route = Int32(route)
    chooseInstance(fd, route: route)
  }
}

extension JobReading {
  fileprivate mutating func read(_ bytes: Span<UInt8>) -> JobAnswer.Result {
    guard isChunked else { return answer.read(bytes) }
    var index = 0
    var result = JobAnswer.Result.needsMore
    while index < bytes.count, result == .needsMore {
      let data = Int(min(chunks.dataRemaining, UInt64(bytes.count - index)))
      if data > 0 {
        result = answer.read(bytes.extracting(index..<index + data))
        chunks.skip(UInt64(data))
        index += data
      } else {
        guard case .more = chunks.scan(bytes.extracting(index..<index + 1)) else { return .none }
        index += 1
      }
    }
    return result
  }
}
