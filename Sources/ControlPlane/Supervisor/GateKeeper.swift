// Holds slots back after Redis was restarted, failed over or emptied, until the data-plane replicas have put back the
// sessions that it may have forgotten: two clients in one browser are worse than none. The rule is pure; the supervisor
// asks it at each look. docs/operations.md says what an operator sees of it.
import Logging
import Redis
import State

package struct GateKeeper: Sendable {
  /// Replicas notice within a second that Redis was emptied under open connections, so before that "all is well" is no news.
  package static let leastMilliseconds = 3_000
  /// When nobody knows which replicas there were: each one tries to connect at least every two seconds, for one.
  package static let unknownMilliseconds = 6_000
  /// A replica that was there and does not come back within this has died with its sockets.
  package static let silentMilliseconds = 8_000
  /// One that beats and never says that it has put its sessions back cannot do it (it may be of an older release).
  package static let mostMilliseconds = 20_000

  private struct Wait {
    let redis: String
    let since: ContinuousClock.Instant
    /// The replicas that there were before.
    var known: Set<String>
    var guardsSomething = true
  }
  private var wait: Wait?
  /// The process in which it was open last, as far as this control plane knows. One that was the master before that, and
  /// is again without having heard of the other, has a gate of its own that stands open.
  private var last: String?

  package enum Verdict: Sendable, Equatable {
    case wait
    /// Without these, which did not say that they are done.
    case open(missing: [String])
  }

  var isWaiting: Bool { wait != nil }
  func isWaiting(in redis: String) -> Bool { wait?.redis == redis }
  var guardsSomething: Bool { wait?.guardsSomething ?? false }
  var milliseconds: Int { wait.map { (ContinuousClock.now - $0.since).milliseconds } ?? 0 }

  /// Begins to wait, or anew when Redis was lost once more meanwhile.
  mutating func shut(in redis: String, knowing replicas: Set<String>) {
    wait = Wait(redis: redis, since: .now, known: replicas.union(wait?.known ?? []))
  }

  /// What the take-over found: without an instance there is nobody who could have a slot.
  mutating func guards(_ something: Bool) { wait?.guardsSomething = something }

  mutating func opened() {
    last = wait?.redis
    wait = nil
  }

  /// Whether slots are given away in another process than this one last opened.
  func isAnother(_ redis: String) -> Bool { last.map { $0 != redis } ?? false }

  /// It was found open.
  mutating func isOpen(in redis: String) { if wait == nil { last = redis } }

  /// - Parameters:
  ///   - beating: replicas that Redis lists now; one that has fallen silent is taken off that list by the leader.
  ///   - settled: those that say that this very Redis process has all their sessions.
  func verdict(beating: Set<String>, settled: Set<String>) -> Verdict {
    guard let wait else { return .open(missing: []) }
    return Self.verdict(
      after: milliseconds, guardsSomething: wait.guardsSomething, known: wait.known, beating: beating, settled: settled)
  }

  package static func verdict(
    after milliseconds: Int, guardsSomething: Bool, known: Set<String>, beating: Set<String>, settled: Set<String>
  ) -> Verdict {
    guard guardsSomething else { return .open(missing: []) }
    let all = known.union(beating)
    let missing = all.subtracting(settled)
    if missing.isEmpty {
      return milliseconds >= (all.isEmpty ? unknownMilliseconds : leastMilliseconds) ? .open(missing: []) : .wait
    }
    let limit = missing.isDisjoint(with: beating) ? silentMilliseconds : mostMilliseconds
    return milliseconds >= limit ? .open(missing: missing.sorted()) : .wait
  }
}

extension Supervisor {
  /// Lets slots be given away again as soon as the replicas have put their sessions back.
  func openGate(_ term: Term, _ look: LeaderLook) async throws(RedisError) {
    guard gate.isWaiting(in: look.redis) else { return }
    let beating = try await redis.run(replicas.list()).map(\.id)
    var settled: Set<String> = []
    for id in beating where try await redis.run(replicas.figures(id: id))[Replicas.settledFigure] == look.redis {
      settled.insert(id)
    }
    guard case .open(let missing) = gate.verdict(beating: Set(beating), settled: settled) else { return }
    try await redis.run(Leadership(keys: keys).openGate(fence: term.fence))
    let (milliseconds, isNews) = (gate.milliseconds, gate.guardsSomething)
    gate.opened()
    bell.ring()
    guard isNews else { return }
    let without = missing.joined(separator: ", ")
    if missing.isEmpty {
      logger.notice("slots are given away again", metadata: ["milliseconds": "\(milliseconds)"])
    } else {
      logger.warning(
        "slots are given away again, without word of some replicas",
        metadata: ["milliseconds": "\(milliseconds)", "replicas": "\(without)"])
    }
    await record(
      "slots.opened", lease.id, reason: missing.isEmpty ? "all sessions are back" : "no word of \(without)",
      fields: ["milliseconds": String(milliseconds)])
  }
}
