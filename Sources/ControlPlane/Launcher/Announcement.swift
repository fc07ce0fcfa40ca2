// What `berth up` says when it is ready, and when that is. Pure; Launcher asks, tests read it.
package import JSON

package enum Readiness {
  /// Whether `GET /api/pools` shows a ready instance in every pool that is to have one at all times.
  package static func poolsAreReady(_ answer: JSON?) -> Bool {
    guard let pools = answer?["pools"]?.array ?? answer?.array, !pools.isEmpty else { return false }
    return pools.allSatisfy { pool in
      let wanted = pool["min"]?.int ?? 0
      let ready = pool["ready"]?.int ?? pool["instances"]?["ready"]?.int ?? 0
      return ready >= min(wanted, 1)
    }
  }
}

package enum Announcement {
  package static func lines(_ settings: LaunchSettings, _ places: Places, seconds: String) -> [String] {
    let redis =
      places.redisServer == nil ? "the one that REDIS_URL names" : "redis-cli -s \(places.redisSocket)"
    return [
      "",
      "Berth is ready after \(seconds) s.",
      "  browsers   \(settings.url)  and with TLS  \(settings.tlsURL)",
      "  REST       \(settings.controlURL)/api/sessions",
      "  metrics    "
        + (0..<settings.replicas).map {
          "http://\(LaunchSettings.urlHost(settings.host)):\(settings.adminPort + $0)/metrics"
        }.joined(separator: "  "),
      "  Redis      \(redis)",
      "  logs       \(places.state)/log",
      "  TLS trust  \(places.certificate)",
      "",
      "Try one of these:",
      "  curl \(settings.url)/json/version",
      "  python3 -c 'from playwright.sync_api import sync_playwright as p; "
        + "print(p().start().chromium.connect_over_cdp(\"\(settings.url)\").version)'",
      "  node -e 'require(\"puppeteer-core\").connect({browserURL: \"\(settings.url)\"})"
        + ".then(async b => { console.log(await b.version()); await b.close() })'",
      "",
      "Ctrl-C ends everything.",
    ]
  }
}
