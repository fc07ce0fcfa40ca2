// What the admin port shows. /healthz: the process is well. /readyz: it should get traffic. /metrics: Prometheus. /routes:
// the routing table that the workers have, in the form of a routes file. /instances: what this replica knows of each.
import Engine
import JSON
import Observability
import Posix
import RouteFeed
import Routing

struct AdminPages: Sendable {
  let replica: String
  let source: any RouteSource
  let workers: [WorkerMetrics]
  let labels: LabeledMetrics
  let accessLog: AccessLog?
  let certificates: CertificateKeeper.Figures?
  let log: LogWriter
  let phase: @Sendable () -> ReplicaPhase

  func answer(_ path: String, _ query: String) -> AdminAnswer {
    switch path {
    case "/healthz": AdminAnswer(status: 200, contentType: "text/plain", body: "ok\n")
    case "/readyz": readiness
    case "/metrics": AdminAnswer(status: 200, contentType: MetricsText.contentType, body: metrics)
    case "/routes": routes
    case "/instances": instances(query)
    default:
      AdminAnswer(
        status: 404, contentType: "text/plain", body: "Here are /healthz, /readyz, /metrics, /routes and /instances.\n")
    }
  }

  private var readiness: AdminAnswer {
    switch phase() {
    case .draining: return AdminAnswer(status: 503, contentType: "text/plain", body: "draining\n")
    case .serving where source.table != nil:
      return AdminAnswer(status: 200, contentType: "text/plain", body: "ready\n")
    case .starting, .serving:
      return AdminAnswer(status: 503, contentType: "text/plain", body: "no routing table yet\n")
    }
  }

  private var routes: AdminAnswer {
    guard let table = source.table else {
      return AdminAnswer(
        status: 503, contentType: "application/json", body: #"{"error":"no routing table yet"}"# + "\n")
    }
    var pools = JSONObject()
    for (name, pool) in table.pools.sorted(by: { $0.key < $1.key }) { pools[name] = pool.json }
    var routes = JSONObject()
    for route in table.routes { routes[route.id] = route.json }
    var instances = JSONObject()
    for instance in table.instances { instances[instance.id] = instance.json }
    let body = JSON.object(["pools": .object(pools), "routes": .object(routes), "instances": .object(instances)])
    return AdminAnswer(status: 200, contentType: "application/json", body: body.text + "\n")
  }

  private func instances(_ query: String) -> AdminAnswer {
    guard let table = source.table else {
      return AdminAnswer(
        status: 503, contentType: "application/json", body: #"{"error":"no routing table yet"}"# + "\n")
    }
    guard let question = InstancesPage.Question(query) else {
      let sentence = "/instances takes pool=NAME, after=ID and limit=1...\(InstancesPage.most)."
      return AdminAnswer(
        status: 400, contentType: "application/json", body: JSON.object(["error": .string(sentence)]).text + "\n")
    }
    let page = InstancesPage(
      table: table, labels: labels, workers: workers.count, now: Clock.monotonicMilliseconds)
    return AdminAnswer(status: 200, contentType: "application/json", body: page.json(question).text + "\n")
  }

  private var metrics: String {
    var page = MetricsText()
    MetricsPage(workers: workers).write(to: &page)
    LabeledPage(labels: labels).write(to: &page)
    if let accessLog {
      page.single("berth_access_log_lines_total", .counter, "Lines of the access log written.", accessLog.written)
      page.single(
        "berth_access_log_lost_total", .counter, "Requests that the access log does not show, as it could not keep up.",
        accessLog.dropped + accessLog.lost)
    }
    if let certificates { CertificatePage(figures: certificates.values).write(to: &page) }
    let counters = source.counters
    page.family("berth_slot_answers_total", .counter, "Answers of the coordinator to workers, by outcome.")
    for (outcome, count) in [
      ("granted", counters.granted), ("unknown", counters.unknown), ("busy", counters.busy),
      ("queue_full", counters.queueFull), ("timed_out", counters.timedOut), ("unavailable", counters.unavailable),
      ("cancelled", counters.cancelled),
    ] { page.sample(count, ["outcome": outcome]) }
    page.single("berth_slots_waiting", .gauge, "Clients that wait for a slot now.", counters.waiting)
    CoordinatorPage(counters: counters).write(to: &page)
    page.single("berth_sessions_held", .gauge, "Sessions with a socket at this replica now.", counters.held)
    if counters.hasRedis {
      page.single("berth_redis_connected", .gauge, "1 while Redis answers.", counters.connected ? 1 : 0)
    }
    page.single(
      "berth_redis_failures_total", .counter, "Redis commands or connections that failed.", counters.redisFailures)
    page.single("berth_route_snapshots_total", .counter, "Routing snapshots loaded in full.", counters.snapshots)
    page.single("berth_route_changes_total", .counter, "Changes applied one by one.", counters.changes)
    page.single("berth_log_dropped_total", .counter, "Log records dropped because the log was not read.", log.dropped)
    return page.text
  }
}
