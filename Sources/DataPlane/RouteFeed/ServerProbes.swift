// Asks fixed servers whether they are well: a TCP connection, or GET and its status. All servers of a round are asked
// at once by one thread, and each answer comes within its own time limit. Called by FileCoordinator.
import Glibc
import HTTPWire
import Posix

enum ServerProbes {
  /// Servers that are asked at once.
  static let limit = 256
  /// The status line is in the first bytes of a response.
  private static let answerBytes = 1_024

  private struct Attempt {
    let probe: ServerProbe
    let fd: Int32
    let deadline: Int
    var isConnected = false
    var answer: [UInt8] = []
  }

  /// What is wrong with each server, by id; nil for those that are well.
  static func run(_ probes: [ServerProbe]) -> [String: String?] {
    var outcomes: [String: String?] = [:]
    var attempts: [Attempt] = []
    for probe in probes {
      guard let address = SocketAddress(host: probe.host, port: probe.port) else {
        outcomes[probe.id] = "\(probe.host) is no address"
        continue
      }
      let (fd, _) = Socket.connect(address)
      if fd < 0 {
        outcomes[probe.id] = "no connection: \(Errno.text(fd))"
      } else {
        attempts.append(
          Attempt(probe: probe, fd: Int32(fd), deadline: Clock.monotonicMilliseconds + probe.timeoutMilliseconds))
      }
    }
    while !attempts.isEmpty {
      let now = Clock.monotonicMilliseconds
      let left = attempts.map { $0.deadline - now }.min() ?? 0
      var entries = attempts.map {
        pollfd(fd: $0.fd, events: Int16($0.isConnected ? POLLIN : POLLOUT), revents: 0)
      }
      _ = unsafe poll(&entries, nfds_t(entries.count), Int32(clamping: max(0, left)))
      let after = Clock.monotonicMilliseconds
      var open: [Attempt] = []
      for (entry, attempt) in zip(entries, attempts) {
        var attempt = attempt
        var end: End?
        if entry.revents != 0 { end = attempt.isConnected ? read(&attempt) : connected(&attempt) }
        if end == nil, after >= attempt.deadline {
          let waited = attempt.isConnected ? "answer" : "connection"
          end = .ill("no \(waited) within \(attempt.probe.timeoutMilliseconds) ms")
        }
        switch end {
        case nil: open.append(attempt)
        case .well?:
          outcomes[attempt.probe.id] = .some(nil)
          Socket.close(attempt.fd)
        case .ill(let problem)?:
          outcomes[attempt.probe.id] = problem
          Socket.close(attempt.fd)
        }
      }
      attempts = open
    }
    return outcomes
  }

  private enum End {
    case well
    case ill(String)
  }

  private static func connected(_ attempt: inout Attempt) -> End? {
    let error = Socket.takeError(attempt.fd)
    guard error == 0 else { return .ill("no connection: \(Errno.text(error))") }
    guard let path = attempt.probe.path else { return .well }
    attempt.isConnected = true
    var header: [UInt8] = []
    if attempt.probe.proxyProtocol > 0 {
      // The check speaks for itself, not for a client.
      header = [UInt8](repeating: 0, count: ProxyProtocol.longestWritten)
      var span = header.mutableSpan
      let count = ProxyProtocol.write(
        version: attempt.probe.proxyProtocol, source: nil, destination: nil, into: &span)
      header.removeLast(header.count - (count ?? 0))
    }
    let isUnix = attempt.probe.name.hasPrefix("unix:")
    let name = attempt.probe.name.contains(":") ? "[\(attempt.probe.name)]" : attempt.probe.name
    let host = isUnix ? "localhost" : "\(name):\(attempt.probe.port)"
    let request =
      header
      + Array(
        """
        GET \(path) HTTP/1.1\r
        Host: \(host)\r
        User-Agent: berth-health\r
        Accept: */*\r
        Connection: close\r
        \r

        """.utf8)
    let sent = unsafe request.withUnsafeBytes { unsafe Socket.send(attempt.fd, $0.baseAddress!, $0.count) }
    // A fresh connection takes a few hundred bytes at once.
    return sent == request.count ? nil : .ill("the request was not taken")
  }

  private static func read(_ attempt: inout Attempt) -> End? {
    var piece = [UInt8](repeating: 0, count: answerBytes)
    let count = unsafe piece.withUnsafeMutableBytes { unsafe Socket.receive(attempt.fd, $0.baseAddress!, $0.count) }
    if count == Errno.again { return nil }
    if count < 0 { return .ill("the connection broke: \(Errno.text(count))") }
    attempt.answer += piece.prefix(count)
    guard attempt.answer.count >= 12 else { return count == 0 ? .ill("it closed without an answer") : nil }
    guard let status = status(of: attempt.answer) else { return .ill("it does not speak HTTP") }
    return attempt.probe.expect.contains { $0.contains(status) } ? .well : .ill("status \(status)")
  }

  /// The status of a response that begins with at least `HTTP/1.1 200`.
  static func status(of answer: [UInt8]) -> Int? {
    let line = String(decoding: answer.prefix(12), as: UTF8.self)
    guard line.hasPrefix("HTTP/1."), line.dropFirst(8).hasPrefix(" ") else { return nil }
    return Int(line.suffix(3)).flatMap { (100...599).contains($0) ? $0 : nil }
  }
}
