// Firecrawl: the ids of new jobs are read from the answers that make them, as these pass by.
import Balancing
import HTTPWire
import Posix

/// What of an answer has been read.
struct JobReading {
  var answer = JobAnswer()
  var chunks = ChunkedBody()
  let isChunked: Bool
  /// Key of the instance that answers.
  let instance: UInt64
}

extension Worker {
  /// The answer to a request that may make a job begins: its head is in `s.head`, `bytes` are what has come of its body.
  func beginJob(_ client: Int32, _ framing: BodyFraming, _ bytes: Span<UInt8>) {
    let place = s.slab[client].instance
    guard place >= 0, (200..<300).contains(s.head.status), framing != .none else {
      s.slab[client].makesJob = false
      return
    }
    s.jobAnswers[client] = JobReading(isChunked: framing == .chunked, instance: s.instances[Int(place)].key)
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
      s.shared.jobs.remember(JobKey(id.span), instance: reading.instance)
    }
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
