// The text of /metrics: the workers' numbers added up, in Prometheus' format.
import Engine
import Observability
import ProxyMachine

struct MetricsPage {
  let workers: [WorkerMetrics]

  private func sum(_ counter: Counter) -> Int { workers.reduce(0) { $0 + Int($1.value(counter)) } }

  func write(to page: inout MetricsText) {
    page.single("berth_connections_accepted_total", .counter, "Client connections accepted.", sum(.accepted))
    page.single("berth_requests_total", .counter, "Request heads read in full.", sum(.requests))
    page.family("berth_responses_total", .counter, "Responses to clients by class of status, our own included.")
    for (counter, label) in [
      (Counter.responses1xx, "1xx"), (.responses2xx, "2xx"), (.responses3xx, "3xx"), (.responses4xx, "4xx"),
      (.responses5xx, "5xx"),
    ] { page.sample(sum(counter), ["class": label]) }
    page.family("berth_bytes_total", .counter, "Plain bytes moved, by direction.")
    page.sample(sum(.bytesFromClients), ["direction": "from_clients"])
    page.sample(sum(.bytesToClients), ["direction": "to_clients"])
    page.single("berth_spliced_bytes_total", .counter, "Bytes of these moved by splice(2).", sum(.splicedBytes))
    page.single("berth_retries_total", .counter, "Requests tried on another connection.", sum(.retries))
    page.single(
      "berth_retries_refused_total", .counter, "Requests not tried again because the route's budget was used up.",
      sum(.retriesRefused))
    page.single(
      "berth_requests_refused_total", .counter, "Requests over their client's rate on a route.", sum(.requestsRefused))
    page.single(
      "berth_connections_refused_total", .counter, "Requests on connections over their client's number on a route.",
      sum(.connectionsRefused))
    page.single(
      "berth_unauthorized_total", .counter, "Requests without a valid key to routes that ask for one.",
      sum(.unauthorized))
    page.single(
      "berth_origins_refused_total", .counter, "WebSockets refused because of the page that asked for them.",
      sum(.originsRefused))
    page.single(
      "berth_places_refused_total", .counter, "Requests for which no instance had room (maxConnections) in time.",
      sum(.placesRefused))
    page.single(
      "berth_addresses_denied_total", .counter, "Requests refused by a route's allow or deny.", sum(.addressesDenied))
    page.single("berth_redirects_total", .counter, "Plain requests sent to https.", sum(.redirects))
    page.single("berth_ejections_total", .counter, "Instances taken out for their failures.", sum(.ejections))
    page.single("berth_recoveries_total", .counter, "Ejected instances that came back.", sum(.recoveries))
    page.single(
      "berth_panic_picks_total", .counter, "Choices while so many were ejected that it was ignored.", sum(.panicPicks))
    page.single(
      "berth_ejected_instances", .gauge, "Instances ejected now, added up over the workers.", sum(.ejectedNow))
    page.single(
      "berth_instance_connections_total", .counter, "Connections made to instances.", sum(.instanceConnections))
    page.single("berth_instance_reuses_total", .counter, "Requests sent on a kept connection.", sum(.instanceReuses))
    page.single(
      "berth_instance_idle_closes_total", .counter, "Kept connections that ended unused.", sum(.instanceClosesIdle))
    page.single("berth_tunnels_total", .counter, "Tunnels begun.", sum(.tunnels))
    page.single("berth_discoveries_total", .counter, "DevTools discovery answers rewritten.", sum(.discoveries))
    page.single(
      "berth_browser_closes_total", .counter, "Browser.close from clients, not passed on to browsers.",
      sum(.browserCloses))
    page.family("berth_tls_handshakes_total", .counter, "TLS handshakes finished, by whether a session was resumed.")
    page.sample(sum(.tlsResumed), ["resumed": "true"])
    page.sample(sum(.tlsHandshakes) - sum(.tlsResumed), ["resumed": "false"])
    page.single(
      "berth_tls_kernel_connections_total", .counter, "TLS clients whose answers the kernel seals (--kernel-tls).",
      sum(.tlsOffloaded))
    page.family("berth_tls_failures_total", .counter, "TLS handshakes that came to nothing, by reason.")
    for (reason, count) in Counter.tlsFailuresByReason(sum) { page.sample(count, ["reason": reason]) }
    page.single(
      "berth_accept_failures_total", .counter, "Connections not accepted for want of descriptors.", sum(.acceptFailures)
    )
    page.single("berth_clients", .gauge, "Client connections now.", sum(.clientsNow))
    page.single(
      "berth_instance_connections", .gauge, "Connections to instances now, kept ones included.", sum(.instancesNow))
    page.single("berth_tunnels", .gauge, "Tunnels now.", sum(.tunnelsNow))
    page.single("berth_buffered_bytes", .gauge, "Bytes that connections hold in memory now.", sum(.bufferedBytesNow))
    page.family("berth_closes_total", .counter, "Client connections ended, by reason.")
    for reason in CloseReason.allCases {
      page.sample(workers.reduce(0) { $0 + Int($1.value(reason)) }, ["reason": reason.label])
    }
    page.family("berth_request_duration_seconds", .histogram, "From a request's head to its response's last byte.")
    var counts = [Int](repeating: 0, count: WorkerMetrics.durationBounds.count + 1)
    var microseconds = 0
    for worker in workers {
      for (index, count) in worker.durationCounts.enumerated() { counts[index] += Int(count) }
      microseconds += Int(worker.durationSumMicroseconds)
    }
    page.histogram(
      bounds: WorkerMetrics.durationBounds.map { Double($0) / 1e6 }, counts: counts, sum: Double(microseconds) / 1e6)
  }
}
