private import Glibc
// How a new process takes the listeners of the one that runs, so that an upgrade refuses and resets nobody. Over a unix
// socket: the old one sends a line and a descriptor for each listener, the new one starts with them up to serving, then
// says "take over", and the old one drains. Until that word nothing has changed for the old one, whatever becomes of the new
// one; from then on the queues are the new one's, whatever becomes of the old one. Each step has a limit. The daemon owns
// one end of each; docs/decisions/0012 tells why.
package import Observability
import Posix

package struct HandoverError: Error, CustomStringConvertible { package let description: String }

/// What is said. Versions are for processes of different releases: one that does not know the other's refuses.
enum HandoverWords {
  static let version = 1
  static let takeOver = "take-over"
  static let yours = "yours"
  static let tooLate = "too-late"
  static func hello(_ count: Int) -> String { "berth-handover \(version) \(count)" }
}

/// Limits of a hand-over, in milliseconds.
package struct HandoverLimits: Sendable {
  /// For one answer of the other process.
  package var answerMilliseconds = 5_000
  /// From the listeners to the word "take over": the new process loads its routes meanwhile.
  package var startMilliseconds = 60_000
  package init() {}
}

// MARK: The old process

/// The end of the process that has the listeners. Used by one thread, which polls ``descriptors`` and calls
/// ``advance(now:)`` when something is there or time has passed.
package final class HandoverOffer {
  private let path: String
  private let listeners: [HandoverListener]
  private let limits: HandoverLimits
  private let log: LogWriter
  private let socket: Int32
  private var identity: [UInt64] = []
  private var isPublished = false
  private var isOver = false
  private var successor: (fd: Int32, process: Int32, deadline: Int)?

  /// Listens beside `path`; a process that comes finds it from ``publish()`` on. Throws when that cannot be.
  package init(path: String, listeners: [HandoverListener], limits: HandoverLimits = HandoverLimits(), log: LogWriter)
    throws(HandoverError)
  {
    guard !UnixSocket.exists(path) || UnixSocket.isSocket(path) else {
      throw HandoverError(description: "\(path) is no socket, so it is left alone; choose another --handover")
    }
    let beside = Self.beside(path)
    UnixSocket.remove(beside)
    let fd = UnixSocket.listen(beside)
    guard fd >= 0 else {
      throw HandoverError(description: "cannot listen on \(beside) (--handover): \(Errno.text(fd))")
    }
    socket = Int32(fd)
    self.path = path
    self.listeners = listeners
    self.limits = limits
    self.log = log
    identity = UnixSocket.identity(beside)
  }

  deinit { close() }

  private static func beside(_ path: String) -> String { "\(path).\(getpid())" }

  /// Takes the place of whatever process stood at the path before.
  package func publish() throws(HandoverError) {
    let result = UnixSocket.rename(Self.beside(path), to: path)
    guard result >= 0 else {
      throw HandoverError(description: "cannot listen on \(path) (--handover): \(Errno.text(result))")
    }
    isPublished = true
  }

  /// What ``advance(now:)`` waits for input on.
  package var descriptors: [Int32] { isOver ? [] : successor.map { [$0.fd] } ?? [socket] }

  /// Monotonic milliseconds until which ``advance(now:)`` may wait.
  package var deadline: Int { successor?.deadline ?? Int.max }

  /// Goes on without waiting. True: a successor has the listeners now and serves; drain, and exit.
  package func advance(now: Int) -> Bool {
    guard !isOver else { return false }
    if successor == nil { meet(now) }
    guard let successor else { return false }
    let (count, text, descriptor) = UnixSocket.receive(successor.fd)
    if let descriptor { Socket.close(descriptor) }
    if count == Errno.again {
      if now >= successor.deadline {
        _ = UnixSocket.send(successor.fd, HandoverWords.tooLate)
        leave("it was not ready in time")
      }
      return false
    }
    guard count > 0 else {
      leave("it went away")
      return false
    }
    guard text == HandoverWords.takeOver else {
      leave("it said something else than \(HandoverWords.takeOver)")
      return false
    }
    log.info("another process takes over", ["pid": .int(Int(successor.process))])
    isOver = true
    return true
  }

  /// Tells the successor that all is its own. Call it when nothing else takes connections from the listeners that are not
  /// shared by their nature, such as the admin port's.
  package func confirm() {
    guard let successor else { return }
    _ = UnixSocket.send(successor.fd, HandoverWords.yours)
    Socket.close(successor.fd)
    self.successor = nil
    // The path is the successor's, which may have replaced it by now.
    Socket.close(socket)
    isClosed = true
  }

  private var isClosed = false

  /// Ends the offer; the path is removed if it still leads here.
  package func close() {
    guard !isClosed else { return }
    isClosed = true
    isOver = true
    if let successor { Socket.close(successor.fd) }
    successor = nil
    let file = isPublished ? path : Self.beside(path)
    if UnixSocket.identity(file) == identity { UnixSocket.remove(file) }
    Socket.close(socket)
  }

  private func meet(_ now: Int) {
    let fd = UnixSocket.accept(socket)
    guard fd >= 0 else { return }
    let peer = UnixSocket.peer(Int32(fd))
    guard let peer, peer.user == geteuid() || peer.user == 0 else {
      log.warning("another user's process wanted the listeners", ["user": .int(Int(peer?.user ?? 0))])
      Socket.close(Int32(fd))
      return
    }
    successor = (Int32(fd), peer.process, now + limits.startMilliseconds)
    log.info(
      "another process gets the listeners", ["pid": .int(Int(peer.process)), "listeners": .int(listeners.count)])
    var result = UnixSocket.send(Int32(fd), HandoverWords.hello(listeners.count))
    for listener in listeners where result >= 0 {
      result = sendPatiently(Int32(fd), "\(listener.kind.rawValue) \(listener.address)", listener.descriptor, now)
    }
    if result < 0 { leave("it does not take them: \(Errno.text(result))") }
  }

  /// Hundreds of listeners are more than a socket's buffer holds, so the other side has to read meanwhile.
  private func sendPatiently(_ fd: Int32, _ text: String, _ descriptor: Int32, _ start: Int) -> Int {
    while true {
      let result = UnixSocket.send(fd, text, descriptor: descriptor)
      guard result == Errno.again else { return result }
      let left = start + limits.answerMilliseconds - Clock.monotonicMilliseconds
      guard left > 0 else { return result }
      var entry = pollfd(fd: fd, events: Int16(POLLOUT), revents: 0)
      _ = unsafe poll(&entry, 1, Int32(clamping: left))
    }
  }

  private func leave(_ why: String) {
    guard let successor else { return }
    log.warning(
      "a hand-over came to nothing, this process goes on",
      ["pid": .int(Int(successor.process)), "reason": .string(why)])
    Socket.close(successor.fd)
    self.successor = nil
  }
}

// MARK: The new process

/// The end of the process that wants the listeners.
package final class HandoverClaim {
  /// The caller's, once it has taken them from here.
  package let listeners: [HandoverListener]
  /// The process that has handed them over.
  package let predecessor: Int32
  private let socket: Int32
  private let limits: HandoverLimits

  /// Asks whoever is at `path` for its listeners; nil when nobody is. Throws when somebody is who does not give them: going
  /// on without them would be two processes that both think that they are the one.
  package static func from(path: String, limits: HandoverLimits = HandoverLimits()) throws(HandoverError)
    -> HandoverClaim?
  {
    let deadline = Clock.monotonicMilliseconds + limits.answerMilliseconds
    while true {
      let fd = UnixSocket.connect(path)
      if fd == -Int(ENOENT) || fd == -Int(ECONNREFUSED) { return nil }
      guard fd >= 0 || fd == Errno.again else {
        throw HandoverError(description: "cannot reach the process at \(path) (--handover): \(Errno.text(fd))")
      }
      if fd >= 0, let claim = try HandoverClaim(Int32(fd), path, limits, deadline) { return claim }
      // It was just handing over to somebody else, who will be there in a moment.
      guard Clock.monotonicMilliseconds < deadline else { throw silent(path) }
      usleep(20_000)
    }
  }

  private static func silent(_ path: String) -> HandoverError {
    HandoverError(
      description:
        "the process at \(path) (--handover) does not hand its listeners over; perhaps another one is just taking them")
  }

  /// nil when the other side hung up without a word. The descriptor is the claim's, who closes it.
  private init?(_ fd: Int32, _ path: String, _ limits: HandoverLimits, _ deadline: Int) throws(HandoverError) {
    socket = fd
    self.limits = limits
    predecessor = UnixSocket.peer(fd)?.process ?? 0
    var received: [HandoverListener] = []
    var problem: HandoverError?
    var isEmpty = false
    do throws(HandoverError) {
      guard let peer = UnixSocket.peer(fd), peer.user == geteuid() || peer.user == 0 else {
        throw HandoverError(description: "the process at \(path) (--handover) is another user's")
      }
      let hello = try Self.receive(fd, deadline, path)
      if hello.text.isEmpty {
        isEmpty = true
      } else {
        let words = hello.text.split(separator: " ")
        guard words.count == 3, words[0] == "berth-handover", let count = Int(words[2]), (0...4_096).contains(count)
        else {
          throw HandoverError(description: "what answers at \(path) (--handover) is no berth-data")
        }
        guard words[1] == String(HandoverWords.version) else {
          throw HandoverError(
            description: "the process at \(path) (--handover) speaks version \(words[1]) of the hand-over and this one "
              + "version \(HandoverWords.version); end it first")
        }
        for _ in 0..<count {
          let message = try Self.receive(fd, deadline, path)
          let words = message.text.split(separator: " ", maxSplits: 1)
          guard words.count == 2, let kind = HandoverListener.Kind(rawValue: String(words[0])),
            let address = SocketAddress(String(words[1])), let descriptor = message.descriptor
          else {
            if let descriptor = message.descriptor { Socket.close(descriptor) }
            throw HandoverError(description: "the process at \(path) (--handover) broke off")
          }
          received.append(HandoverListener(kind: kind, address: address, descriptor: descriptor))
        }
      }
    } catch { problem = error }
    listeners = received
    if problem != nil || isEmpty {
      // The socket is closed by deinit, which runs from here on.
      for listener in received { Socket.close(listener.descriptor) }
      if let problem { throw problem }
      return nil
    }
  }

  /// A message; its text is empty at the end.
  private static func receive(_ fd: Int32, _ deadline: Int, _ path: String) throws(HandoverError) -> (
    text: String, descriptor: Int32?
  ) {
    while true {
      let (count, text, descriptor) = UnixSocket.receive(fd)
      if count > 0 { return (text, descriptor) }
      if count == 0 || count == Errno.connectionReset { return ("", nil) }
      let left = deadline - Clock.monotonicMilliseconds
      guard count == Errno.again, left > 0 else { throw silent(path) }
      var entry = pollfd(fd: fd, events: Int16(POLLIN), revents: 0)
      _ = unsafe poll(&entry, 1, Int32(clamping: left))
    }
  }

  package enum Outcome: Sendable { case taken, predecessorGone }

  /// Says that this process serves. Afterwards the other one drains, or is gone; when it has given up waiting meanwhile, it
  /// throws, and this process must end.
  package func takeOver() throws(HandoverError) -> Outcome {
    guard UnixSocket.send(socket, HandoverWords.takeOver) >= 0 else {
      // It may have told why before it hung up.
      return try answer() ?? .predecessorGone
    }
    return try answer() ?? .predecessorGone
  }

  /// nil when none came.
  private func answer() throws(HandoverError) -> Outcome? {
    let deadline = Clock.monotonicMilliseconds + limits.answerMilliseconds
    guard let message = try? Self.receive(socket, deadline, ""), !message.text.isEmpty else { return nil }
    guard message.text == HandoverWords.yours else {
      throw HandoverError(
        description: "the process \(predecessor) has given up waiting for this one, and goes on itself")
    }
    return .taken
  }

  deinit { Socket.close(socket) }
}
