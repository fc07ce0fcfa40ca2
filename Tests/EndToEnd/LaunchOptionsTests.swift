// A client that asks for a browser of its own kind, as its pages see it.
import Foundation
import JSON
import Testing

extension EndToEnd {
  @Suite struct LaunchOptions {
    @Test func pagesSeeWhatTheirClientAskedFor() async throws {
      let snapshots = try Machine.scratchDirectory("snapshots")
      defer { try? FileManager.default.removeItem(atPath: snapshots) }
      let configuration = """
        pools:
          chrome:
            max: 4
            launchOptions:
              arguments: ["--force-color-profile=*"]
              snapshots: \(snapshots)
        """
      try await Deployment.with(replicas: 2, configuration: configuration) { berth in
        let chrome = try #require(berth.browsers().first)
        let file = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/\(chrome.pid)/exe")
        #expect(try await Client.launch("prepare", snapshots + "/shop", file, in: berth)["cookies"] == 1)

        let body = """
          {"metadata": {"for": "shop"}, "launch": {"args": ["--force-color-profile=srgb"], "locale": "de-CH",
           "viewport": {"width": 801, "height": 602}, "userAgent": "Quay/1 (test)", "timeZone": "Asia/Tokyo",
           "snapshot": "shop"}}
          """
        let made = try #require(HTTP.request("POST", berth.controlPort, "/api/session/create", body: body))
        #expect(made.status == 200, "\(made.text)")
        let url = try #require(made.json["url"]?.string)
        let seen = try await Client.launch("look", url, in: berth)
        #expect(seen["language"] == "de-CH" && seen["languages"] == ["de-CH", "de"], "\(seen.text)")
        #expect(seen["userAgent"] == "Quay/1 (test)" && seen["timeZone"] == "Asia/Tokyo", "\(seen.text)")
        // The full Chrome in its new headless mode keeps some of the height for itself.
        #expect(seen["width"] == 801 && (500...602).contains(seen["height"]?.int ?? 0), "\(seen.text)")
        #expect(seen["cookies"] == ["basket=full"], "\(seen.text)")

        // Anybody else has a browser of the pool.
        let other = try await Client.launch("look", berth.url, in: berth)
        #expect(other["userAgent"]?.string?.contains("Quay") == false && other["cookies"] == [], "\(other.text)")
        let id = try #require(made.json["sessionId"]?.string)
        let found = HTTP.get(berth.controlPort, "/api/sessions?metadata.for=shop")?.json["sessions"]?.array ?? []
        #expect(found.map { $0["sessionId"] } == [.string(id)])
        #expect(HTTP.request("DELETE", berth.controlPort, "/api/session/\(id)")?.status == 200)
      }
    }

    @Test func whatThePoolDoesNotAllowIsRefused() async throws {
      try await Deployment.with { berth in
        for (body, words) in [
          (#"{"launch":{"args":["--user-data-dir=/tmp"]}}"#, "does not allow"),
          (#"{"launch":{"snapshot":"shop"}}"#, "has no snapshots"),
          (#"{"launch":{"proxy":"http://user:secret@proxy:1"}}"#, "without user or password"),
          (#"{"launch":{"headless":false}}"#, "unknown field"),
        ] {
          let refused = try #require(HTTP.request("POST", berth.controlPort, "/api/session/create", body: body))
          #expect(refused.status == 400 && refused.text.contains(words), "\(refused.text)")
        }
      }
    }
  }
}
