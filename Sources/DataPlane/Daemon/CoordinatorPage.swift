// The part of /metrics that is about this replica among the others, through Redis: turns, jobs, replicas, and the servers of
// a routes file, which it has instead.
import Observability
import RouteFeed

struct CoordinatorPage {
  let counters: CoordinatorCounters

  func write(to page: inout MetricsText) {
    page.single(
      "berth_replicas", .gauge, "Replicas that are alive, this one included; limits per client are divided by them.",
      counters.replicas)
    page.single(
      "berth_turn_blocks_total", .counter, "Blocks of turns of global_round_robin that workers got.", counters.blocks)
    page.family("berth_job_answers_total", .counter, "Questions of workers where a job is, by outcome.")
    for (outcome, count) in [
      ("found", counters.jobsFound), ("unknown", counters.jobsUnknown), ("unavailable", counters.jobsUnavailable),
    ] { page.sample(count, ["outcome": outcome]) }
    page.single(
      "berth_jobs_dropped_total", .counter, "New jobs that other replicas will not find.", counters.jobsDropped)
    page.single(
      "berth_fault_reports_total", .counter,
      "Failing instances that the control plane was told of, once a second each.",
      counters.faultReports)
    page.single(
      "berth_fault_reports_dropped_total", .counter, "Those it was not told of: too many at a time, or no Redis.",
      counters.faultReportsDropped)
    page.family("berth_server_checks_total", .counter, "Health checks of a routes file's servers, by outcome.")
    page.sample(counters.healthChecks - counters.healthChecksFailed, ["outcome": "well"])
    page.sample(counters.healthChecksFailed, ["outcome": "failed"])
    page.single(
      "berth_servers_unhealthy", .gauge, "Servers of a routes file that get no requests now.", counters.unhealthyServers
    )
  }
}
