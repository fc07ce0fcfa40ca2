// What `berth up` says when it is ready. Pure; Launcher asks, tests read it.

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
          "http://\(LaunchSettings.urlHost(settings.adminHost)):\(settings.adminPort + $0)/metrics"
        }.joined(separator: "  "),
      "  Redis      \(redis)",
      "  logs       \(places.state)/log",
      "  TLS trust  \(places.certificate)",
      "",
    ] + examples(settings) + ["", "Ctrl-C ends everything."]
  }

  private static func examples(_ settings: LaunchSettings) -> [String] {
    let url = settings.url
    if let keys = settings.keysFile {
      return [
        "Clients show a key of \(keys) as a Bearer token, as the user of Basic, or in their URL:",
        "  curl -u KEY: \(url)/json/version",
        "  python3 -c 'from playwright.sync_api import sync_playwright as p; "
          + "print(p().start().chromium.connect_over_cdp(\"\(url)?token=KEY\").version)'",
        "  node -e 'require(\"puppeteer-core\").connect({browserWSEndpoint: \"ws\(url.dropFirst(4))?token=KEY\"})"
          + ".then(async b => { console.log(await b.version()); await b.close() })'",
      ]
    }
    return [
      "Try one of these:",
      "  curl \(url)/json/version",
      "  python3 -c 'from playwright.sync_api import sync_playwright as p; "
        + "print(p().start().chromium.connect_over_cdp(\"\(url)\").version)'",
      "  node -e 'require(\"puppeteer-core\").connect({browserURL: \"\(url)\"})"
        + ".then(async b => { console.log(await b.version()); await b.close() })'",
    ]
  }
}
