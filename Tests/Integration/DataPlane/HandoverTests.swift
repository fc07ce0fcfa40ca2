// The hand-over of listeners between two processes' ends, both here in one process: what is carried, and that whatever goes
// wrong leaves the former one as it was. The upgrade of real processes under load is an end-to-end test.
import Engine
import Foundation
import Glibc
import Observability
import Posix
import TestSupport
import Testing

@Suite("Hand-over of listeners")
struct HandoverTests {
  private let log = LogWriter(fileDescriptor: 2, level: .error)

  /// A path of a test's own, in a directory that goes with it.
  private func path() throws -> String { try TLSFolder().keep + "/handover" }

  /// What an open descriptor stands for. The number of a closed one may be another's at once: other threads of this process
  /// open some, too.
  private func inode(_ descriptor: Int32) -> UInt64? {
    var entry = stat()
    return unsafe fstat(descriptor, &entry) == 0 ? UInt64(entry.st_ino) : nil
  }

  private func listener(_ address: String = "127.0.0.1:0") -> Int32 {
    let fd = Socket.bindListener(SocketAddress(address)!, sharesPort: true, defersAccept: false)
    precondition(fd >= 0)
    return Int32(fd)
  }

  /// What the next process does, on a thread because it waits.
  private final class Next: @unchecked Sendable {
    private var thread: TLSPeerThread<Bool>?
    private(set) var claim: HandoverClaim?

    func claim(_ path: String, _ limits: HandoverLimits) {
      thread = TLSPeerThread { [self] in
        claim = try HandoverClaim.from(path: path, limits: limits)
        return claim != nil
      }
    }
    func takeOver() {
      thread = TLSPeerThread { [self] in try claim!.takeOver() == .taken }
    }
    func result() throws -> Bool { try thread!.value() }
    func goAway() { claim = nil }
  }

  /// Lets the former process go on until a condition holds; whether it has handed over.
  private func run(_ offer: HandoverOffer, now: Int = Clock.monotonicMilliseconds, until condition: () -> Bool) -> Bool
  {
    var isOver = false
    let deadline = Clock.monotonicMilliseconds + 60_000
    while !condition() && !isOver && Clock.monotonicMilliseconds < deadline {
      isOver = offer.advance(now: now)
      usleep(1_000)
    }
    return isOver
  }

  private func claimed(_ offer: HandoverOffer, _ path: String, _ limits: HandoverLimits = HandoverLimits()) throws
    -> Next
  {
    let next = Next()
    next.claim(path, limits)
    _ = run(offer) { next.claim != nil }
    #expect(try next.result())
    return next
  }

  @Test("listeners come over with their kinds and addresses, and what waits in them is the next one's")
  func carried() throws {
    let path = try path()
    let listeners = [(HandoverListener.Kind.plain, "127.0.0.1:0"), (.tls, "127.0.0.1:0"), (.admin, "[::1]:0")].map {
      let fd = listener($1)
      return HandoverListener(kind: $0, address: Socket.localAddress(fd), descriptor: fd)
    }
    _ = Socket.listen(listeners[0].descriptor, backlog: 8)
    let offer = try HandoverOffer(path: path, listeners: listeners, log: log)
    #expect(try HandoverClaim.from(path: path) == nil, "nobody is there before it is published")
    try offer.publish()
    let attributes = try FileManager.default.attributesOfItem(atPath: path)
    #expect(attributes[.posixPermissions] as? Int == 0o600)
    let client = Peer(connectingTo: listeners[0].address)
    let next = try claimed(offer, path)
    let got = try #require(next.claim?.listeners)
    #expect(got.map(\.kind) == [.plain, .tls, .admin])
    #expect(got.map(\.address.description) == listeners.map(\.address.description))
    #expect(next.claim?.predecessor == getpid())
    for listener in got { #expect(fcntl(listener.descriptor, F_GETFD) & FD_CLOEXEC == FD_CLOEXEC) }
    next.takeOver()
    #expect(run(offer) { false })
    for listener in listeners { Socket.close(listener.descriptor) }
    offer.confirm()
    #expect(try next.result())
    // The client that came before is served by the new descriptor of the old queue.
    var peer = SocketAddress()
    let accepted = Socket.accept(got[0].descriptor, from: &peer)
    #expect(accepted >= 0)
    Socket.close(Int32(accepted))
    #expect(client.ends())
    for listener in got { Socket.close(listener.descriptor) }
  }

  @Test("hundreds of listeners are more than a socket's buffer, and all come")
  func many() throws {
    let path = try path()
    let fd = listener()
    let listeners = (0..<700).map { _ in
      HandoverListener(kind: .plain, address: Socket.localAddress(fd), descriptor: fd)
    }
    let offer = try HandoverOffer(path: path, listeners: listeners, log: log)
    try offer.publish()
    let next = try claimed(offer, path)
    #expect(next.claim?.listeners.count == 700)
    for listener in next.claim?.listeners ?? [] { Socket.close(listener.descriptor) }
    Socket.close(fd)
  }

  @Test("a next process that goes away leaves the former one as it was, and another may come")
  func goneAway() throws {
    let path = try path()
    let fd = listener()
    let offer = try HandoverOffer(
      path: path, listeners: [HandoverListener(kind: .plain, address: Socket.localAddress(fd), descriptor: fd)],
      log: log)
    try offer.publish()
    let first = try claimed(offer, path)
    #expect(offer.deadline < Int.max)
    first.goAway()
    #expect(!run(offer) { offer.deadline == Int.max })
    let second = try claimed(offer, path)
    second.takeOver()
    #expect(run(offer) { false })
    offer.confirm()
    #expect(try second.result())
    Socket.close(fd)
  }

  @Test("one that takes too long is told, and must not go on")
  func late() throws {
    let path = try path()
    let fd = listener()
    let offer = try HandoverOffer(
      path: path, listeners: [HandoverListener(kind: .plain, address: Socket.localAddress(fd), descriptor: fd)],
      log: log)
    try offer.publish()
    let next = try claimed(offer, path)
    #expect(!run(offer, now: Clock.monotonicMilliseconds + 59_000) { true })
    #expect(!run(offer, now: Clock.monotonicMilliseconds + 61_000) { offer.deadline == Int.max })
    next.takeOver()
    #expect(throws: HandoverError.self) { try next.result() }
    Socket.close(fd)
  }

  @Test("who asks while another one takes over waits for a limited time and is told")
  func busy() throws {
    let path = try path()
    let offer = try HandoverOffer(path: path, listeners: [], log: log)
    try offer.publish()
    _ = try claimed(offer, path)
    var limits = HandoverLimits()
    limits.answerMilliseconds = 50
    #expect(throws: HandoverError.self) { try HandoverClaim.from(path: path, limits: limits) }
  }

  @Test("a socket that was left behind is nobody's; a file that is no socket is left alone; a stranger is refused")
  func paths() throws {
    let path = try path()
    do {
      let offer = try HandoverOffer(path: path, listeners: [], log: log)
      try offer.publish()
      // As after a SIGKILL: the file stays.
      #expect(unsafe link(path, path + ".left") == 0)
    }
    #expect(!FileManager.default.fileExists(atPath: path))
    #expect(try HandoverClaim.from(path: path) == nil)
    #expect(try HandoverClaim.from(path: path + ".left") == nil)
    try "mine".write(toFile: path, atomically: true, encoding: .utf8)
    #expect(throws: HandoverError.self) { try HandoverOffer(path: path, listeners: [], log: log) }
    #expect(try String(contentsOfFile: path, encoding: .utf8) == "mine")
    #expect(throws: HandoverError.self) {
      try HandoverOffer(path: "/" + String(repeating: "long", count: 40), listeners: [], log: log)
    }
    // Somebody else listens there.
    let stranger = UnixSocket.listen(path + ".stranger")
    #expect(stranger >= 0)
    let answer = TLSPeerThread {
      var fd = Errno.again
      while fd == Errno.again {
        fd = UnixSocket.accept(Int32(stranger))
        usleep(1_000)
      }
      _ = UnixSocket.send(Int32(fd), "hello there you")
      return Int32(fd)
    }
    #expect(throws: HandoverError.self) { try HandoverClaim.from(path: path + ".stranger") }
    Socket.close(try answer.value())
    Socket.close(Int32(stranger))
  }

  @Test("the path is the next process' once that has published its own offer")
  func successorsPath() throws {
    let path = try path()
    let former = try HandoverOffer(path: path, listeners: [], log: log)
    try former.publish()
    let next = try HandoverOffer(path: path + "x", listeners: [], log: log)
    try next.publish()
    #expect(unsafe rename(path + "x", path) == 0)
    former.close()
    #expect(FileManager.default.fileExists(atPath: path), "it is not the former one's any more")
    next.close()
  }

  @Test("an engine takes the listeners of its addresses, spreads them over its workers and closes the others")
  func engine() throws {
    let address = SocketAddress("127.0.0.1:0")!
    let former = try Engine(EngineConfiguration(listen: [address], workers: 3))
    try former.listen()
    let copies = former.handoverListeners.map {
      HandoverListener(kind: $0.kind, address: $0.address, descriptor: dup($0.descriptor))
    }
    #expect(copies.count == 3)
    let other = listener()
    let stray = HandoverListener(kind: .plain, address: Socket.localAddress(other), descriptor: other)
    let wrongKind = HandoverListener(kind: .tls, address: former.addresses[0], descriptor: listener())
    let others = [stray, wrongKind]
    let inodes = try others.map { try #require(inode($0.descriptor)) }
    let next = try Engine(
      EngineConfiguration(listen: former.addresses, workers: 2), inherited: copies + others)
    #expect(Set(next.handoverListeners.map(\.descriptor)) == Set(copies.map(\.descriptor)))
    #expect(next.addresses.map(\.description) == former.addresses.map(\.description))
    for (listener, inode) in zip(others, inodes) { #expect(self.inode(listener.descriptor) != inode) }
    for listener in former.handoverListeners + next.handoverListeners { Socket.close(listener.descriptor) }
  }
}

extension TLSFolder {
  /// The folder's path; the folder stays until the test run ends.
  fileprivate var keep: String {
    _ = unsafe Unmanaged.passRetained(self)
    return path
  }
}
