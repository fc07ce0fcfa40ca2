// Clients of a fleet: those that ask Redis for slots themselves and watch what becomes of their instance, and those that
// come over HTTP and hold an answer that never ends.
import Foundation
import Glibc
import Posix
import Redis
import Routing
import State
import Synchronization
import TestSupport

/// Each takes a slot, keeps it for a while, and looks whether its instance lived as long and was nobody else's. For pools
/// whose instances serve one session.
final class SlotClients: Sendable {
  private struct Tally {
    var served = 0
    var violations: [String] = []
    /// Instances that somebody has had, and who has them.
    var had: Set<String> = []
    var running = 0
  }
  private let tally = Mutex(Tally())
  private let isOver = Atomic(false)
  private let redis: RedisURL
  private let pool: String
  /// Whether an instance's record names a process of this host.
  private let areProcesses: Bool

  init(_ count: Int, pool: String = "box", areProcesses: Bool = true, redis: RedisURL, seed: UInt64) {
    self.redis = redis
    self.pool = pool
    self.areProcesses = areProcesses
    for index in 0..<count {
      tally.withLock { $0.running += 1 }
      Foundation.Thread.detachNewThread { [self] in
        var random = SplitMix64(seed: seed &+ UInt64(index) &+ 1)
        while !isOver.load(ordering: .relaxed) {
          do { try serve(&random) } catch { usleep(50_000) }
        }
        tally.withLock { $0.running -= 1 }
      }
    }
  }

  var served: Int { tally.withLock { $0.served } }

  func stop() async throws -> (served: Int, violations: [String]) {
    isOver.store(true, ordering: .relaxed)
    try await eventually("the clients end", within: 60) { self.tally.withLock { $0.running == 0 } }
    return tally.withLock { ($0.served, $0.violations) }
  }

  private func violated(_ what: String) { tally.withLock { $0.violations.append(what) } }

  private func serve(_ random: inout SplitMix64) throws {
    let connection = try RedisConnection(url: redis)
    let leases = Leases(keys: Keys())
    let id = "c-" + String(random.next(), radix: 16)
    let now = Clock.unixMilliseconds
    let template = SessionRecord(id: id, pool: pool, origin: .rest, createdAt: now, expiresAt: now + 120_000)
    while true {
      let grant = try connection.run(
        leases.acquire(
          template, holder: nil, reserveMilliseconds: nil, queue: true, countsAsUse: true, now: Clock.unixMilliseconds))
      if case .granted(let record) = grant {
        try use(record, connection, &random)
        try connection.run(leases.end(session: id, reason: "client", now: Clock.unixMilliseconds))
        return
      }
      if isOver.load(ordering: .relaxed) {
        return try connection.run(leases.cancelWaiting(session: id, pool: pool))
      }
      usleep(20_000)
    }
  }

  private func use(_ session: SessionRecord, _ connection: RedisConnection, _ random: inout SplitMix64) throws {
    let isNew = tally.withLock { $0.had.insert(session.instance).inserted }
    if !isNew { violated("\(session.instance) was given to a second client") }
    let record = try connection.run(Registry(keys: Keys()).instances()).first { $0.id == session.instance }
    guard let record, !areProcesses || record.pid != nil else {
      return violated("\(session.instance) was given away without a process")
    }
    let end = Clock.monotonicMilliseconds + Int.random(in: 20...400, using: &random)
    while Clock.monotonicMilliseconds < end {
      if areProcesses, readFile("/proc/\(record.pid ?? 0)/stat")?.contains(") Z ") != false {
        return violated("\(session.instance), pid \(record.pid ?? 0), ended while its client had it")
      }
      usleep(10_000)
    }
    tally.withLock { $0.served += 1 }
  }
}

/// Each asks a replica for `/hold`, reads for a while, and goes. The instance itself says when it has two of them.
final class HoldingClients: Sendable {
  struct Tally: Sendable {
    var served = 0
    var refused = 0
    /// Answers that ended although their client wanted more.
    var broken: [String] = []
    fileprivate var running = 0
    /// When the last answer began (monotonic milliseconds), for measuring when they begin again.
    fileprivate var grants: [Int] = []
  }
  private let tally = Mutex(Tally())
  private let isOver = Atomic(false)
  private let port: Int

  init(_ count: Int, port: Int, seed: UInt64) {
    self.port = port
    for index in 0..<count {
      tally.withLock { $0.running += 1 }
      Foundation.Thread.detachNewThread { [self] in
        var random = SplitMix64(seed: seed &+ UInt64(index) &+ 1)
        while !isOver.load(ordering: .relaxed) {
          hold(milliseconds: Int.random(in: 100...3_000, using: &random))
          usleep(UInt32.random(in: 5_000...50_000, using: &random))
        }
        tally.withLock { $0.running -= 1 }
      }
    }
  }

  var now: Tally { tally.withLock { $0 } }

  /// When the first client got its answer at or after that time.
  func firstServed(after time: Int) -> Int? { tally.withLock { $0.grants.first { $0 >= time } } }

  func stop() async throws -> Tally {
    isOver.store(true, ordering: .relaxed)
    try await eventually("the clients end", within: 60) { self.tally.withLock { $0.running == 0 } }
    return now
  }

  private func hold(milliseconds: Int) {
    let (result, _) = Socket.connect(SocketAddress(host: "127.0.0.1", port: port)!)
    guard result >= 0 else { return }
    let fd = Int32(result)
    defer { Socket.close(fd) }
    guard waits(fd, POLLOUT, milliseconds: 5_000) else { return }
    let request = Array("GET /hold HTTP/1.1\r\nHost: localhost\r\n\r\n".utf8)
    guard unsafe request.withUnsafeBytes({ unsafe Socket.send(fd, $0.baseAddress!, $0.count) }) == request.count else {
      return
    }
    var piece = [UInt8](repeating: 0, count: 4_096)
    var end = Int.max
    while Clock.monotonicMilliseconds < end {
      if isOver.load(ordering: .relaxed) { return }
      guard waits(fd, POLLIN, milliseconds: 200) else { continue }
      let count = unsafe piece.withUnsafeMutableBytes { unsafe Socket.receive(fd, $0.baseAddress!, $0.count) }
      if count == Errno.again { continue }
      guard count > 0 else {
        if end != Int.max { tally.withLock { $0.broken.append("after \(end - Clock.monotonicMilliseconds) ms to go") } }
        return
      }
      guard end == Int.max else { continue }
      let head = String(decoding: piece.prefix(count), as: UTF8.self)
      guard head.hasPrefix("HTTP/1.1 200 ") else { return tally.withLock { $0.refused += 1 } }
      let now = Clock.monotonicMilliseconds
      end = now + milliseconds
      tally.withLock {
        $0.served += 1
        $0.grants.append(now)
      }
    }
  }
}
