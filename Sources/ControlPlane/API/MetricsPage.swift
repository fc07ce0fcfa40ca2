// The text of GET /metrics: what ControlMetrics holds, in Prometheus' format. docs/operations.md describes every name. Labels
// are pools of the configuration and words of fixed lists, so that the number of series is bounded.
import Domain
import JSON
import Observability
import Reconciler
import Routing
import Supervisor

struct MetricsPage {
  let figures: ControlMetrics.Figures

  private var pools: [(name: String, counters: PoolCounters)] {
    figures.pools.sorted { $0.key < $1.key }.map { ($0.key, $0.value) }
  }
  private var standings: [(name: String, standing: PoolStanding)] {
    (figures.standing?.pools ?? [:]).sorted { $0.key < $1.key }.map { ($0.key, $0.value) }
  }

  var answer: Answer {
    var answer = Answer(200, .null)
    answer.metrics = text
    return answer
  }

  private var text: String {
    var page = MetricsText()
    writeLeader(to: &page)
    writeStandings(to: &page)
    writeInstances(to: &page)
    writeSessions(to: &page)
    writeProcess(to: &page)
    return page.text
  }

  // MARK: Who leads

  private func writeLeader(to page: inout MetricsText) {
    page.single("berth_control_leader", .gauge, "1 while this control plane leads.", figures.standing == nil ? 0 : 1)
    page.family("berth_control_fencing_token", .gauge, "The leader's fencing token; only of the leader.")
    if let standing = figures.standing { page.sample(standing.token) }
    page.single("berth_control_terms_total", .counter, "Take-overs that this control plane has done.", figures.terms)
    page.family(
      "berth_control_gate_open", .gauge, "1 while slots are given away, 0 while sessions are put back; of the leader."
    )
    if let standing = figures.standing { page.sample(standing.isGateOpen ? 1 : 0) }
    page.family("berth_control_replicas", .gauge, "Data-plane replicas that beat; only of the leader.")
    if let standing = figures.standing { page.sample(standing.replicas) }
  }

  // MARK: How pools stand

  private func writeStandings(to page: inout MetricsText) {
    page.family("berth_pool_instances", .gauge, "Instances by state; only of the leader, as all of berth_pool_….")
    for (name, standing) in standings {
      for state in InstanceState.allCases {
        page.sample(standing.instances[state] ?? 0, ["pool": name, "state": state.rawValue])
      }
    }
    page.family("berth_pool_slots", .gauge, "Slots of ready instances; 0 for a pool without slots.")
    for (name, standing) in standings { page.sample(standing.slots, ["pool": name]) }
    page.family("berth_pool_slots_leased", .gauge, "Slots that sessions hold.")
    for (name, standing) in standings { page.sample(standing.leasedSlots, ["pool": name]) }
    page.family("berth_pool_slots_free", .gauge, "Slots that the next clients get.")
    for (name, standing) in standings { page.sample(standing.freeSlots, ["pool": name]) }
    page.family("berth_pool_waiting", .gauge, "Clients in the queue.")
    for (name, standing) in standings { page.sample(standing.waiting, ["pool": name]) }
    page.family("berth_pool_active", .gauge, "Requests and tunnels under way at all replicas, for pools without slots.")
    for (name, standing) in standings {
      if let active = standing.active { page.sample(active, ["pool": name]) }
    }
    page.family("berth_pool_condition", .gauge, "1 for the condition that the pool's launches are in.")
    for (name, standing) in standings {
      for condition in PoolCondition.allCases {
        page.sample(standing.condition == condition ? 1 : 0, ["pool": name, "condition": condition.rawValue])
      }
    }
  }

  // MARK: What became of instances

  private func writeInstances(to page: inout MetricsText) {
    page.family("berth_launches_total", .counter, "Launches begun.")
    for (name, counters) in pools { page.sample(counters.launches, ["pool": name]) }
    page.family("berth_launch_failures_total", .counter, "Launches that came to nothing, and deaths soon after one.")
    for (name, counters) in pools {
      for trouble in LaunchTrouble.allCases {
        page.sample(counters.launchTroubles[trouble] ?? 0, ["pool": name, "reason": trouble.rawValue])
      }
    }
    page.family("berth_launch_duration_seconds", .histogram, "From the beginning of a launch to a ready instance.")
    for (name, counters) in pools { page.histogram(counters.launchDurations, ["pool": name]) }
    page.family("berth_crash_loops_total", .counter, "Times that a pool began to crash loop.")
    for (name, counters) in pools { page.sample(counters.crashLoops, ["pool": name]) }
    page.family("berth_recycles_total", .counter, "Instances that were found worn, by the threshold that they reached.")
    for (name, counters) in pools {
      for cause in RecycleCause.allCases {
        page.sample(counters.recycles[cause] ?? 0, ["pool": name, "reason": cause.label])
      }
    }
    page.family("berth_stops_total", .counter, "Instances that are gone, by why.")
    for (name, counters) in pools {
      for cause in StopCause.allCases {
        page.sample(counters.stops[cause] ?? 0, ["pool": name, "reason": cause.rawValue])
      }
    }
    page.family("berth_health_checks_total", .counter, "Health checks made.")
    for (name, counters) in pools { page.sample(counters.healthChecks, ["pool": name]) }
    page.family("berth_health_check_failures_total", .counter, "Health checks that failed, by how deep they came.")
    for (name, counters) in pools {
      for depth in HealthDepth.allCases {
        let count = counters.failedHealthChecks[depth] ?? 0
        page.sample(count, ["pool": name, "depth": depth.name.lowercased()])
      }
    }
  }

  // MARK: Sessions

  private func writeSessions(to page: inout MetricsText) {
    page.family(
      "berth_sessions_created_total", .counter, "Sessions made anywhere while this one led, by who made them.")
    for (name, counters) in pools {
      for origin in SessionRecord.Origin.allCases {
        page.sample(counters.sessionsCreated[origin] ?? 0, ["pool": name, "origin": origin.rawValue])
      }
    }
    page.family("berth_sessions_ended_total", .counter, "Sessions ended anywhere while this one led, by why.")
    for (name, counters) in pools {
      for end in SessionEnd.allCases {
        page.sample(counters.sessionsEnded[end] ?? 0, ["pool": name, "reason": end.rawValue])
      }
    }
  }

  // MARK: This process

  private func writeProcess(to page: inout MetricsText) {
    page.family("berth_control_look_duration_seconds", .histogram, "One look of the leader at everything.")
    page.histogram(figures.looks)
    page.single(
      "berth_control_look_failures_total", .counter, "Looks that ended early as Redis failed.", figures.failedLooks)
    page.single(
      "berth_control_redis_connected", .gauge, "1 when Redis answered last.", figures.isRedisConnected ? 1 : 0)
    page.family("berth_control_redis_round_trip_seconds", .histogram, "From commands sent together to their answers.")
    page.histogram(figures.redisRoundTrips)
    page.single("berth_control_redis_commands_total", .counter, "Commands that were answered.", figures.redisCommands)
    page.single(
      "berth_control_redis_failures_total", .counter, "Connections to Redis that were lost or could not be made.",
      figures.redisFailures)
    page.single(
      "berth_control_descriptors_short", .gauge, "1 while this process can open no files and sockets.",
      figures.isShortOfDescriptors ? 1 : 0)
    page.single(
      "berth_control_leads_given_up_total", .counter, "Times that this one let others lead because of that.",
      figures.leadsGivenUp)
    page.single(
      "berth_control_disk_writable", .gauge, "0 while the state directory takes no more.",
      figures.diskProblem == nil ? 1 : 0)
    page.single(
      "berth_control_keys_reloads_total", .counter, "Times that the keys file was read again.", figures.keysFileReloads)
    page.single(
      "berth_control_keys_reload_failures_total", .counter, "Times that a changed keys file was bad.",
      figures.keysFileFailures)
    page.family("berth_control_responses_total", .counter, "Answers of REST by class of status.")
    for digit in 2...5 { page.sample(figures.responses[digit], ["class": "\(digit)xx"]) }
  }
}

extension RecycleCause {
  /// In figures.
  fileprivate var label: String {
    switch self {
    case .requests: "requests"
    case .sessions: "sessions"
    case .age: "age"
    case .memory: "memory"
    }
  }
}
