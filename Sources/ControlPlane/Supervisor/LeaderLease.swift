// Whether this control plane leads. A task of its own renews the lease, so that a long reconcile does not lose it; the
// supervisor asks before everything that only a leader may do.
package import Logging
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

  package nonisolated let id: String
  private let leadership: Leadership
  private let redis: RedisClient
  private let bell: WakeBell
  private let logger: Logger

  private var term: Term?
  private var terms = 0
  /// Until when nobody else can lead, on the monotonic clock, reckoned from before the renewal was sent.
  private var validUntil = ContinuousClock.now
  private var trouble: String?
  private var resigned = false
  /// Another one has led since this one last did.
  package private(set) var anotherLeads = false

  package init(id: String, keys: Keys, redis: RedisClient, bell: WakeBell, logger: Logger) {
    self.id = id
    leadership = Leadership(keys: keys)
    self.redis = redis
    self.bell = bell
    self.logger = logger
  }

  /// The term while this control plane leads for certain; nil when another may.
  package var current: Term? { term != nil && ContinuousClock.now < validUntil ? term : nil }

  /// Campaigns and renews until ``resign()`` or cancellation.
  package func run() async {
    while !resigned && !Task.isCancelled {
      await step()
      let pause = term == nil ? Self.campaignMilliseconds : Self.renewMilliseconds
      do { try await Task.sleep(for: .milliseconds(pause)) } catch { return }
    }
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
    do throws(RedisError) {
      try await redis.run(leadership.resign(id: id, fence: held.fence))
      logger.notice("the leader lease is given up", metadata: ["token": "\(held.fence.token)"])
    } catch {
      logger.warning("the leader lease ends by itself", metadata: ["error": "\(error)"])
    }
  }
}
