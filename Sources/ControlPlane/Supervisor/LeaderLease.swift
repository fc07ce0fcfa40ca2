// Whether this control plane leads. A task of its own renews the lease, so that a long reconcile does not lose it; the
// supervisor asks before everything that only a leader may do.
package import Logging
import Posix
package import Redis
package import Routing
package import State

/// The time from one gain of the lease to its loss.
package struct Term: Sendable, Equatable {
  /// Counts this process's terms: after Redis lost its data a new term may have an old fence.
  package let number: Int
  package let fence: Fence
}

package actor LeaderLease {
  /// A standby leads within this and ``campaignMilliseconds`` after the leader's death: less than five seconds.
  package static let ttlMilliseconds = 4_000
  /// Four renewals may fail before the lease is lost.
  private static let renewMilliseconds = 1_000
  private static let campaignMilliseconds = 250
  /// One without descriptors leaves others so much time to take the lead, and leads itself when nobody does.
  private static let shortMilliseconds = 3_000

  package nonisolated let id: String
  private let leadership: Leadership
  private let redis: RedisClient
  private let bell: WakeBell
  private let logger: Logger
  private let metrics: ControlMetrics?
  private let hasDescriptors: @Sendable () -> Bool
  private var descriptors = DescriptorWatch()

  private var term: Term?
  private var terms = 0
  /// Until when nobody else can lead, on the monotonic clock, reckoned from before the renewal was sent.
  private var validUntil = ContinuousClock.now
  private var trouble: String?
  private var resigned = false
  /// Another one has led since this one last did.
  package private(set) var anotherLeads = false

  /// `hasDescriptors`: whether this process can open files and sockets just now.
  package init(
    id: String, keys: Keys, redis: RedisClient, bell: WakeBell, logger: Logger, metrics: ControlMetrics? = nil,
    hasDescriptors: @escaping @Sendable () -> Bool = { true }
  ) {
    self.id = id
    leadership = Leadership(keys: keys)
    self.redis = redis
    self.bell = bell
    self.logger = logger
    self.metrics = metrics
    self.hasDescriptors = hasDescriptors
  }

  /// The term while this control plane leads for certain; nil when another may.
  package var current: Term? { term != nil && ContinuousClock.now < validUntil ? term : nil }

  /// Campaigns and renews until ``resign()`` or cancellation.
  package func run() async {
    while !resigned && !Task.isCancelled {
      await lookAtDescriptors()
      guard !Task.isCancelled else { return }
      await step()
      let campaign = descriptors.isShort ? Self.shortMilliseconds : Self.campaignMilliseconds
      let pause = term == nil ? campaign : Self.renewMilliseconds
      do { try await Task.sleep(for: .milliseconds(pause)) } catch { return }
    }
  }

  /// A leader without descriptors gives the lease up. Who is short comes after the others: see ``shortMilliseconds``.
  private func lookAtDescriptors() async {
    let now = Clock.monotonicMilliseconds
    switch descriptors.look(hasRoom: hasDescriptors(), at: now) {
    case .none: break
    case .short:
      metrics?.count { $0.isShortOfDescriptors = true }
      logger.error(
        "no descriptors are left: nothing can be launched or checked; raise the limit of open files (LimitNOFILE)")
    case .recovered:
      metrics?.count { $0.isShortOfDescriptors = false }
      logger.notice("descriptors are free again")
    }
    guard !resigned, let held = term, descriptors.givesUp(at: now) else { return }
    term = nil
    bell.ring()
    metrics?.count { $0.leadsGivenUp += 1 }
    await giveBack(held, because: "no descriptors are left")
    try? await Task.sleep(for: .milliseconds(Self.shortMilliseconds))
  }

  private func step() async {
    let started = ContinuousClock.now
    do throws(RedisError) {
      if let held = term {
        let kept = try await redis.run(
          leadership.renew(id: id, fence: held.fence, ttlMilliseconds: Self.ttlMilliseconds))
        if kept {
          validUntil = started + .milliseconds(Self.ttlMilliseconds)
        } else {
          term = nil
          logger.warning("the leader lease is lost", metadata: ["token": "\(held.fence.token)"])
          bell.ring()
        }
      }
      if term == nil && !resigned {
        if let fence = try await redis.run(leadership.campaign(id: id, ttlMilliseconds: Self.ttlMilliseconds)) {
          if resigned {
            // It was given up while this answer was on its way.
            try await redis.run(leadership.resign(id: id, fence: fence))
            return
          }
          terms += 1
          // Seen or not (it may have come and gone while this process stood still): somebody else has led since.
          if let before = fence.predecessor, before != id { anotherLeads = true }
          term = Term(number: terms, fence: fence)
          validUntil = started + .milliseconds(Self.ttlMilliseconds)
          logger.notice("this control plane leads", metadata: ["id": "\(id)", "token": "\(fence.token)"])
          bell.ring()
        } else if !anotherLeads {
          anotherLeads = true
          logger.info("another control plane leads, this one stands by", metadata: ["id": "\(id)"])
          bell.ring()
        }
      }
      if trouble != nil {
        trouble = nil
        logger.notice("Redis answers again")
      }
    } catch {
      if trouble == nil { logger.error("Redis does not answer; instances go on", metadata: ["error": "\(error)"]) }
      trouble = error.description
    }
  }

  /// What the supervisor has taken over from others is its own from now on.
  package func tookOver() { anotherLeads = false }

  /// Gives the lease up for good, so that a standby leads at once.
  package func resign() async {
    resigned = true
    guard let held = term else { return }
    term = nil
    await giveBack(held, because: "this control plane ends")
  }

  private func giveBack(_ held: Term, because reason: String) async {
    do throws(RedisError) {
      try await redis.run(leadership.resign(id: id, fence: held.fence))
      logger.notice(
        "the leader lease is given up", metadata: ["token": "\(held.fence.token)", "reason": "\(reason)"])
    } catch {
      logger.warning("the leader lease ends by itself", metadata: ["error": "\(error)"])
    }
  }
}
