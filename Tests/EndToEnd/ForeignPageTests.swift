// A page of strangers in a real browser, in front of a real Berth: its images, frames and requests that may not be read
// take no browser.
import Glibc
import Posix
import Redis
import Routing
import State
import Synchronization
import TestSupport
import Testing

extension EndToEnd {
  @Suite struct ForeignPages {
    @Test func aPageOfStrangersTakesNoBrowser() async throws {
      try await Deployment.with(configuration: Deployment.shortReservations) { berth in
        let rest = berth.controlPort
        let targets = [
          "\(berth.url)/json/version", "\(berth.url)/json/list", "http://localhost:\(berth.port)/json/version?b",
          "http://127.0.0.1:\(rest)/api/sessions",
        ]
        let images = targets.map { #"<img src="\#($0)">"# }.joined()
        let done = Mutex(false)
        let page = """
          <!doctype html><title>evil</title>\(images)<iframe src="\(berth.url)/json/version?frame"></iframe>
          <script>onload = () => fetch("\(berth.url)/json/version?fetch", {mode: "no-cors"})
            .then(r => r.text()).finally(() => fetch("/done"))</script>
          """
        let site = AnsweringInstance { head in
          if head.hasPrefix("GET /done ") { done.withLock { $0 = true } }
          let body = head.hasPrefix("GET / ") ? page : ""
          return "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: \(body.utf8.count)\r\n\r\n\(body)"
        }
        func refused() -> Int {
          let text = HTTP.get(berth.admin.lowerBound, "/metrics")?.text ?? ""
          let line = text.split(separator: "\n").first { $0.hasPrefix("berth_origins_refused_total ") }
          return line.flatMap { $0.split(separator: " ").last }.flatMap { Int($0) } ?? -1
        }
        let created = try sessionsCreated(berth)
        let profile = berth.directory + "/reader"
        let reader = try Program(
          "reader",
          [
            try Machine.tool("chromium-headless-shell"), "--no-sandbox", "--user-data-dir=\(profile)",
            // Kept open until the test ends it.
            "--remote-debugging-port=0", "http://127.0.0.1:\(site.address.port)/",
          ], outputFile: berth.directory + "/reader.log")
        // Debian's is a script that starts the program and waits for it.
        defer { for process in Machine.processes(marked: profile) { kill(process.pid, SIGKILL) } }
        try await eventually("the page has tried everything", show: reader) { done.withLock { $0 } }
        for process in Machine.processes(marked: profile) { kill(process.pid, SIGKILL) }
        _ = try await reader.ended(within: 10)
        // Three images, a frame and a fetch.
        #expect(refused() == 5)
        #expect(try sessionsCreated(berth) == created)
        #expect(HTTP.get(rest, "/metrics")?.text.contains(#"berth_control_responses_total{class="4xx"} 1"#) == true)
        // A program that sends no such fields gets its browser.
        #expect(HTTP.get(berth.port, "/json/version")?.status == 200)
        #expect(try sessionsCreated(berth) == created + 1)
      }
    }

    /// `session.created` in the history.
    private func sessionsCreated(_ berth: Deployment) throws -> Int {
      try berth.redis.connect().run(Events(keys: Keys()).recent(count: 100)).count { $0.type == "session.created" }
    }
  }
}
