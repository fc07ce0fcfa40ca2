// What Berth knows about starting a Chrome: where it is, which arguments it needs, and what it prints.

package enum Chrome {
  /// In the order of preference: the headless shell starts in a third of the time and half of the memory. Debian's
  /// /usr/bin/chromium-headless-shell is a script that stays as parent of the browser, so the binary comes first.
  package static let candidates = [
    "/usr/lib/chromium/chromium-headless-shell", "chromium-headless-shell", "headless_shell", "chrome-headless-shell",
    "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome",
  ]

  /// The file of a command: a path as it is, a name as PATH has it; nil when there is no such program.
  package static func locate(_ command: String, path: String) -> String? {
    if command.contains("/") { return Kernel.isExecutable(command) ? Kernel.absolutePathKeepingName(command) : nil }
    for directory in path.split(separator: ":") {
      let file = "\(directory)/\(command)"
      if Kernel.isExecutable(file) { return file }
    }
    return nil
  }

  /// The first Chrome that is installed.
  package static func find(path: String) -> String? {
    for candidate in candidates { if let file = locate(candidate, path: path) { return file } }
    return nil
  }

  /// The headless shell needs no `--headless` and ignores it.
  static func isHeadlessShell(_ file: String) -> Bool {
    let name = file.split(separator: "/").last ?? ""
    return name.contains("headless-shell") || name.contains("headless_shell")
  }

  /// The arguments before those of the pool. Measured with Playwright's connect_over_cdp and pyppeteer: without a
  /// startup window both find the default context, open pages and take screenshots, and an idle Chrome needs a renderer
  /// less (133 instead of 182 MiB with the headless shell, 236 instead of 357 MiB with Chromium).
  static func arguments(file: String, port: Int, directory: String, isRoot: Bool) -> [String] {
    var arguments = [
      "--remote-debugging-port=\(port)",
      "--user-data-dir=\(directory)/profile",
      "--no-first-run",
      "--no-default-browser-check",
      "--no-startup-window",
      // /dev/shm is 64 MB in most containers, where tabs crash when it is full.
      "--disable-dev-shm-usage",
      // Its handlers leave the session of the browser and would send what they gather to others.
      "--disable-breakpad", "--disable-crash-reporter",
      // What an automated browser has no use for: it costs start time, memory and calls to the outside.
      "--disable-background-networking", "--disable-component-update", "--disable-default-apps", "--disable-sync",
      "--metrics-recording-only", "--password-store=basic", "--use-mock-keychain", "--mute-audio",
      // A page that is not in front must run like any other: there is no front.
      "--disable-background-timer-throttling", "--disable-backgrounding-occluded-windows",
      "--disable-renderer-backgrounding", "--disable-hang-monitor", "--disable-popup-blocking",
      "--disable-prompt-on-repost",
    ]
    if !isHeadlessShell(file) { arguments.append("--headless=new") }
    // Chrome refuses to start as root with its sandbox.
    if isRoot { arguments.append("--no-sandbox") }
    return arguments
  }

  /// What the log of a Chrome that is starting says.
  package enum Announcement: Sendable, Equatable {
    case none
    /// It listens; the GUID names this very browser.
    case listening(port: Int, browser: String)
    /// It could not listen at its port, and runs on without.
    case portTaken
  }

  /// Reads the log: `DevTools listening on ws://127.0.0.1:50000/devtools/browser/<guid>`.
  package static func announcement(in log: [UInt8]) -> Announcement {
    // A line that is still being written has no end yet.
    let end = log.lastIndex(of: UInt8(ascii: "\n")) ?? 0
    for line in String(decoding: log[..<end], as: UTF8.self).split(whereSeparator: \.isNewline) {
      if line.contains("Cannot start http server for devtools") { return .portTaken }
      guard line.hasPrefix("DevTools listening on ws://") else { continue }
      let url = line.dropFirst("DevTools listening on ws://".count)
      guard let slash = url.firstIndex(of: "/"), let colon = url[..<slash].lastIndex(of: ":"),
        let port = Int(url[url.index(after: colon)..<slash])
      else { continue }
      let path = url[slash...]
      guard path.hasPrefix("/devtools/browser/") else { continue }
      let browser = path.dropFirst("/devtools/browser/".count)
      // Only [::1] means that something else has 127.0.0.1.
      if url.hasPrefix("[") { return .portTaken }
      guard !browser.isEmpty else { continue }
      return .listening(port: port, browser: String(browser))
    }
    return .none
  }
}
