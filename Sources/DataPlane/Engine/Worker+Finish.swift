// How a client's connection ends: answers of our own, the last flush, the linger, the close with its reason.
import Balancing
import HTTPWire
import JSON
import Observability
import Posix
import ProxyMachine
import TLS

extension Worker {
  /// Answers a request ourselves with `{"error": sentence}`.
  /// - Parameters:
  ///   - reason: counted when the connection ends with this answer.
  ///   - closes: whether the connection must end, because its next byte is not known to start a request.
  ///   - retryAfter: seconds after which the client may succeed.
  ///   - isLogged: false for what a single client can cause as often as it likes; the access log has it anyway.
  func answer(
    _ fd: Int32, _ status: Int, _ sentence: String, _ reason: CloseReason, closes: Bool, retryAfter: Int? = nil,
    isLogged: Bool = true
  ) {
    if isLogged {
      s.log.info(
        "a request was answered here",
        [
          "status": .int(status), "reason": .string(reason.label), "error": .string(sentence),
          "client": .string(s.slab[fd].address.host),
        ])
    }
    let body = JSON.object(["error": .string(sentence)]).bytes
    answer(fd, status, contentType: "application/json", body: body, reason, closes: closes, retryAfter: retryAfter)
  }

  func answer(
    _ fd: Int32, _ status: Int, contentType: String, body: [UInt8], _ reason: CloseReason, closes: Bool,
    retryAfter: Int? = nil, location: String? = nil
  ) {
    guard s.slab[fd].machine.mayAnswer else { return closeClient(fd, reason) }
    dropInstance(fd, reuse: false)
    endVisit(fd)
    let isHead = s.slab[fd].machine.isHead
    let action = s.slab[fd].machine.answeredLocally(closes: closes)
    var ends = false
    if case .finish = action { ends = true }
    var text =
      "HTTP/1.1 \(status) \(Self.phrase(status))\r\nContent-Type: \(contentType)\r\nContent-Length: \(body.count)\r\n"
    // RFC 9110 §11.6.1; browsers ask their user for a Basic name and password.
    if status == 401 {
      text += "WWW-Authenticate: Bearer realm=\"berth\", Basic realm=\"berth\", charset=\"UTF-8\"\r\n"
    }
    if let location { text += "Location: \(location)\r\n" }
    if let retryAfter { text += "Retry-After: \(retryAfter)\r\n" }
    text += ends ? "Connection: close\r\n\r\n" : "\r\n"
    var bytes = Array(text.utf8)
    if !isHead { bytes += body }
    countAnswer(status, bytes.count)
    s.slab[fd].story.bytesToClient += UInt64(bytes.count)
    endStory(fd, status < 400 ? .responseComplete : reason, status: status)
    guard unsafe bytes.withUnsafeBytes({ unsafe send(fd, $0.baseAddress!, $0.count) }) else {
      return closeClient(fd, .clientReset)
    }
    if ends { finish(fd, closes ? reason : .responseComplete) } else { completed(fd, action) }
  }

  private func countAnswer(_ status: Int, _ bytes: Int) {
    s.metrics.add(.bytesToClients, bytes)
    switch status {
    case ..<300: s.metrics.add(.responses2xx)
    case ..<400: s.metrics.add(.responses3xx)
    case ..<500: s.metrics.add(.responses4xx)
    default: s.metrics.add(.responses5xx)
    }
  }

  private static func phrase(_ status: Int) -> String {
    switch status {
    case 200: "OK"
    case 308: "Permanent Redirect"
    case 400: "Bad Request"
    case 401: "Unauthorized"
    case 403: "Forbidden"
    case 404: "Not Found"
    case 405: "Method Not Allowed"
    case 408: "Request Timeout"
    case 409: "Conflict"
    case 413: "Content Too Large"
    case 414: "URI Too Long"
    case 417: "Expectation Failed"
    case 429: "Too Many Requests"
    case 431: "Request Header Fields Too Large"
    case 501: "Not Implemented"
    case 502: "Bad Gateway"
    case 503: "Service Unavailable"
    case 504: "Gateway Timeout"
    case 505: "HTTP Version Not Supported"
    default: "Error"
    }
  }

  /// Ends the connection once everything for the client is written.
  func finish(_ fd: Int32, _ reason: CloseReason) {
    s.slab[fd].closeReason = reason
    s.slab[fd].body.mode = .idle
    if s.slab[fd].outbound.isEmpty { finishNow(fd) } else { wait(fd, .flush) }
  }

  /// Everything is written. A client that may still be sending gets a FIN and time to read the answer: closing at once
  /// would reset the connection and could destroy the answer on its way (RFC 9112 §9.6).
  func finishNow(_ fd: Int32) {
    guard !s.slab[fd].isLingering else { return }
    if !s.slab[fd].isWatched { lookForMore(fd) }
    // Bytes behind the last request that nobody will read: closing would reset the connection because of them.
    let hasSentMore = !s.slab[fd].inbound.isEmpty || s.slab[fd].isReadable
    let mayBeSending =
      hasSentMore || !s.slab[fd].machine.requestIsDone || s.slab[fd].closeReason != .responseComplete
    let lingers = mayBeSending && !s.slab[fd].inputEnded
    // Without a linger close(2) says FIN.
    endOutput(fd, closesNext: !lingers)
    guard s.slab[fd].outbound.isEmpty else { return }
    guard s.slab[fd].outputEnded else { return wait(fd, .flush) }
    guard lingers else { return closeClient(fd, s.slab[fd].closeReason) }
    watch(fd)
    s.slab[fd].isLingering = true
    s.slab[fd].inbound.free(s.pool)
    wait(fd, .linger)
    discard(fd)
  }

  /// No event would have told of bytes behind the last request.
  private func lookForMore(_ fd: Int32) {
    let count = unsafe Socket.peek(fd, s.input, 1)
    s.slab[fd].isReadable = count > 0
    if count == 0 { s.slab[fd].inputEnded = true }
  }

  /// Reads what a lingering client still sends, and drops it.
  func discard(_ fd: Int32) {
    for _ in 0..<s.limits.roundsPerTurn {
      guard s.slab[fd].isReadable else { return }
      let count = unsafe Socket.receive(fd, s.input, s.limits.smallestPiece)
      if count == Errno.again {
        s.slab[fd].isReadable = false
        return
      }
      if count <= 0 { return closeClient(fd, s.slab[fd].closeReason) }
    }
    later(fd)
  }

  /// Ends a client's connection and everything that hangs on it. Every end comes through here and is counted.
  func closeClient(_ fd: Int32, _ reason: CloseReason) {
    guard s.slab[fd].kind == .client else { return }
    s.metrics.closed(reason)
    if s.slab[fd].machine.phase == .handshaking { countUnfinishedHandshake(reason) }
    endStory(fd, reason)
    let isCut = s.slab[fd].machine.responseHasStarted && s.slab[fd].body.mode != .tunnel && reason.cutsAnswer
    if isCut { Socket.resetOnClose(fd) }
    endTurn(fd, reason.blamesInstance ? .failure : .neutral)
    dropInstance(fd, reuse: false)
    endVisit(fd)
    releaseSession(fd)
    leavePermit(fd)
    if !s.jobAnswers.isEmpty { s.jobAnswers[fd] = nil }
    if !s.destinations.isEmpty { s.destinations[fd] = nil }
    if s.slab[fd].isTunnel { s.tunnels -= 1 }
    s.clients -= 1
    release(fd)
  }

  /// Gives back all that a connection of either kind holds.
  func release(_ fd: Int32) {
    s.timers.unlink(fd, s.slab)
    abandonPipe(fd)
    s.slab[fd].inbound.free(s.pool)
    s.slab[fd].outbound.free(s.pool)
    s.slab[fd].tls?.free()
    s.slab.close(fd)
    Socket.close(fd)
  }
}

extension CloseReason {
  /// The instance failed its client.
  var blamesInstance: Bool {
    switch self {
    case .cutBody, .instanceStalled, .badResponse, .instanceReset, .instanceClosedEarly: true
    default: false
    }
  }

  /// A client that has got a part of an answer must not take it for the whole: its connection is reset, not ended.
  var cutsAnswer: Bool {
    switch self {
    case .cutBody, .slowReader, .instanceStalled, .instanceReset, .instanceClosedEarly, .badResponse, .bodyTimeout,
      .internalError,
      .drainDeadline:
      true
    default: false
    }
  }
}
