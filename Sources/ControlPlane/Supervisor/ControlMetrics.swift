// What a control plane counts for GET /metrics: counters since its process began and, while it leads, how its pools stood at
// its last look. The supervisor, the Redis clients and REST write here from their own threads; API/MetricsPage.swift reads.
package import Domain
package import Observability
package import Reconciler
package import Redis
package import Routing
import Synchronization

/// Why an instance was ended, as figures tell it apart; its events have the whole sentence.
package enum StopCause: String, Sendable, CaseIterable {
  /// Its clients are gone, and nobody else is to have it.
  case used
  case scaledDown = "scaled_down"
  case recycled
  /// An operator asked for a stop or a restart.
  case order
  case unhealthy
  /// Its process or container ended by itself.
  case died
  case launchFailed = "launch_failed"
  /// The session that it was launched for is over.
  case session
  /// Its pool is no longer declared.
  case undeclared
  /// The control plane ends, and takes its instances with it.
  case shutdown
}

/// Why a launch counts as failed.
package enum LaunchTrouble: String, Sendable, CaseIterable {
  case launch
  case noRoom = "no_room"
  /// It became ready and died soon after.
  case earlyDeath = "early_death"
  /// One with a session's own launch options, for which the pool is not to blame.
  case options
}

/// Why a session ended, as figures tell it apart.
package enum SessionEnd: String, Sendable, CaseIterable {
  case client
  case clientGone = "client_gone"
  case reservation
  case grace
  case idleLimit = "idle_limit"
  case hardLimit = "hard_limit"
  case maxSessions = "max_sessions"
  /// Redis had lost it, or its slot was another's by then.
  case lost
  /// Its instance ended or was restarted.
  case instance

  /// From the reason of `session.ended` (docs/redis-keys.md).
  package init(reason: String) {
    self =
      switch reason {
      case "client": .client
      case "the client has gone": .clientGone
      case "reservation ran out": .reservation
      case "grace ran out": .grace
      case "idle limit": .idleLimit
      case "hard limit": .hardLimit
      case "record lost", "overtaken": .lost
      default: reason.hasPrefix("more than ") ? .maxSessions : .instance
      }
  }
}

/// The counters of one pool.
package struct PoolCounters: Sendable {
  package var launches = 0
  package var launchTroubles: [LaunchTrouble: Int] = [:]
  /// From the beginning of a launch to a ready instance, seconds.
  package var launchDurations = Histogram(bounds: [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120])
  package var crashLoops = 0
  package var recycles: [RecycleCause: Int] = [:]
  package var stops: [StopCause: Int] = [:]
  package var healthChecks = 0
  package var failedHealthChecks: [HealthDepth: Int] = [:]
  package var sessionsCreated: [SessionRecord.Origin: Int] = [:]
  package var sessionsEnded: [SessionEnd: Int] = [:]
  package init() {}

  mutating func becameReady(afterMilliseconds milliseconds: Int) {
    launchDurations.observe(Double(milliseconds) / 1_000)
  }
}

/// How a pool stood at the leader's last look.
package struct PoolStanding: Sendable, Equatable {
  package var instances: [InstanceState: Int] = [:]
  /// Of its ready instances.
  package var slots = 0
  package var leasedSlots = 0
  package var freeSlots = 0
  package var waiting = 0
  /// Requests and tunnels under way, for pools without slots; nil before a replica has told.
  package var active: Int?
  package var condition = PoolCondition.ok
  package init() {}
}

/// What only the leader knows.
package struct LeaderStanding: Sendable, Equatable {
  package var token: Int
  package var isGateOpen: Bool
  package var replicas = 0
  package var pools: [String: PoolStanding] = [:]
  package init(token: Int, isGateOpen: Bool) {
    self.token = token
    self.isGateOpen = isGateOpen
  }
}

package final class ControlMetrics: Sendable {
  package struct Figures: Sendable {
    /// By name; those that are not declared here are counted together under ``ControlMetrics/otherPools``.
    package var pools: [String: PoolCounters] = [:]
    /// nil while another one leads, or nobody.
    package var standing: LeaderStanding?
    package var terms = 0
    /// No files and sockets can be opened, for some seconds already.
    package var isShortOfDescriptors = false
    /// Times that this control plane let others lead because of that.
    package var leadsGivenUp = 0
    /// One look of the leader at everything, with what it does at once, seconds.
    package var looks = Histogram(bounds: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5])
    package var failedLooks = 0
    package var redisRoundTrips = Histogram(
      bounds: [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1])
    package var redisCommands = 0
    package var redisFailures = 0
    package var isRedisConnected = false
    /// Why the state directory cannot be written, and what to do; nil while it can.
    package var diskProblem: String?
    package var keysFileReloads = 0
    package var keysFileFailures = 0
    /// Answers of REST by the first digit of their status.
    package var responses = [Int](repeating: 0, count: 6)

    mutating func looked(forMicroseconds microseconds: Int) { looks.observe(Double(microseconds) / 1e6) }
  }

  /// Where pools are counted that this control plane does not declare, however many there are.
  package static let otherPools = "(other)"

  private let declared: Set<String>
  private let figuresNow: Mutex<Figures>

  /// - Parameter pools: the names of the declared pools.
  package init(pools: [String]) {
    declared = Set(pools)
    var figures = Figures()
    for name in pools { figures.pools[name] = PoolCounters() }
    figuresNow = Mutex(figures)
  }

  package var figures: Figures { figuresNow.withLock { $0 } }

  package func count(_ body: (inout Figures) -> Void) { figuresNow.withLock { body(&$0) } }

  package func count(_ pool: String, _ body: (inout PoolCounters) -> Void) {
    let name = declared.contains(pool) ? pool : Self.otherPools
    figuresNow.withLock { body(&$0.pools[name, default: PoolCounters()]) }
  }

  /// For ``RedisClient``.
  package func observe(_ exchange: RedisExchange) {
    count { figures in
      switch exchange {
      case .answered(let commands, let microseconds):
        figures.redisRoundTrips.observe(Double(microseconds) / 1e6)
        figures.redisCommands += commands
        figures.isRedisConnected = true
      case .failed, .unreachable:
        figures.redisFailures += 1
        figures.isRedisConnected = false
      }
    }
  }
}
