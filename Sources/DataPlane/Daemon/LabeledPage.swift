// The part of /metrics that is told by route, pool and instance. How many names have numbers of their own is bounded
// (LabelLimits); all others are counted together under the name that LabeledMetrics gives them.
import Engine
import Observability

struct LabeledPage {
  let labels: LabeledMetrics

  private static let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"]
  static let failures: [(InstanceCounter, String)] = [
    (.connectFailures, "connect"), (.connectTimeouts, "connect_timeout"), (.firstByteTimeouts, "first_byte_timeout"),
    (.resets, "reset"), (.earlyCloses, "early_close"), (.badResponses, "bad_response"), (.cutBodies, "cut_body"),
  ]

  func write(to page: inout MetricsText) {
    let routes = labels.rows(.route)
    let pools = labels.rows(.pool)
    let instances = labels.rows(.instance)
    page.family("berth_route_responses_total", .counter, "Responses to clients by route and class of status.")
    let byRoute: [RouteCounter] = [.responses1xx, .responses2xx, .responses3xx, .responses4xx, .responses5xx]
    for row in routes {
      for (counter, label) in zip(byRoute, Self.classes) {
        page.sample(row[counter], ["route": row.name, "class": label])
      }
    }
    page.family("berth_route_active", .gauge, "Requests and tunnels under way by route.")
    for row in routes { page.sample(row[RouteCounter.activeNow], ["route": row.name]) }
    page.family("berth_route_bytes_total", .counter, "Bytes by route and direction, heads included.")
    for row in routes {
      page.sample(row[RouteCounter.bytesFromClients], ["route": row.name, "direction": "from_clients"])
      page.sample(row[RouteCounter.bytesToClients], ["route": row.name, "direction": "to_clients"])
    }
    page.family("berth_route_retries_total", .counter, "Requests tried on another connection, by route.")
    for row in routes { page.sample(row[RouteCounter.retries], ["route": row.name]) }
    page.family("berth_route_refused_total", .counter, "Requests that a route's limits refused, by reason.")
    for row in routes {
      for (counter, reason) in [
        (RouteCounter.rateLimited, "rate"), (.connectionsLimited, "connections"), (.bodiesRefused, "body"),
        (.addressesDenied, "address"),
      ] { page.sample(row[counter], ["route": row.name, "reason": reason]) }
    }
    page.family(
      "berth_route_duration_seconds", .histogram, "From a request's head to its response's last byte, by route.")
    for row in routes {
      let durations = row.routeDurations
      page.histogram(
        bounds: WorkerMetrics.durationBounds.map { Double($0) / 1e6 }, counts: durations.counts,
        sum: Double(durations.microseconds) / 1e6, ["route": row.name])
    }
    page.family("berth_pool_requests_total", .counter, "Requests by pool.")
    for row in pools { page.sample(row[PoolCounter.requests], ["pool": row.name]) }
    page.family("berth_pool_active", .gauge, "Requests and tunnels under way by pool.")
    for row in pools { page.sample(row[PoolCounter.activeNow], ["pool": row.name]) }
    page.family("berth_pool_waiting", .gauge, "Requests that wait for a slot or a place by pool.")
    for row in pools { page.sample(row[PoolCounter.waitingNow], ["pool": row.name]) }
    page.family("berth_pool_refused_total", .counter, "Requests that no instance of a pool was there for, by reason.")
    for row in pools {
      for (counter, reason) in [
        (PoolCounter.withoutInstance, "no_instance"), (.queueFull, "queue_full"), (.queueTimeouts, "queue_timeout"),
        (.queueUnavailable, "unavailable"),
      ] { page.sample(row[counter], ["pool": row.name, "reason": reason]) }
    }
    page.family("berth_pool_queue_seconds_total", .counter, "Time that requests have waited in a pool's queue.")
    for row in pools { page.sample(Double(row[PoolCounter.queueMicroseconds]) / 1e6, ["pool": row.name]) }
    page.family("berth_pool_queue_waits_total", .counter, "Requests that got a slot or a place after they had waited.")
    for row in pools { page.sample(row[PoolCounter.queueWaits], ["pool": row.name]) }
    write(instances, to: &page)
  }

  private func write(_ instances: [LabeledMetrics.Row], to page: inout MetricsText) {
    page.family("berth_instance_responses_total", .counter, "Responses of instances by class of status.")
    let byInstance: [InstanceCounter] = [.responses1xx, .responses2xx, .responses3xx, .responses4xx, .responses5xx]
    for row in instances {
      for (counter, label) in zip(byInstance, Self.classes) {
        page.sample(row[counter], ["instance": row.name, "pool": row.pool, "class": label])
      }
    }
    page.family("berth_instance_active", .gauge, "Requests and tunnels under way by instance.")
    for row in instances {
      page.sample(row[InstanceCounter.activeNow], ["instance": row.name, "pool": row.pool])
    }
    page.family("berth_instance_failures_total", .counter, "Attempts that an instance failed, by what it did.")
    for row in instances {
      for (counter, label) in Self.failures {
        page.sample(row[counter], ["instance": row.name, "pool": row.pool, "kind": label])
      }
    }
    page.family("berth_instance_duration_seconds", .histogram, "The same as for routes, by instance.")
    for row in instances {
      let durations = row.instanceDurations
      page.histogram(
        bounds: WorkerLabels.instanceBounds.map { Double($0) / 1e6 }, counts: durations.counts,
        sum: Double(durations.microseconds) / 1e6, ["instance": row.name, "pool": row.pool])
    }
  }
}
