// A deployment whose Chromes are containers, as docs/docker.md has it: real clients, a container killed, a new control plane,
// and sessions that begin cold. The engine is the one of scripts/test-engine.
import Foundation
import Glibc
import JSON
import Testing

extension EndToEnd {
  @Suite struct Docker {
    private let engine: String

    init() throws {
      let out = try Self.run("bash", [Machine.checkout + "/scripts/test-engine", "host"])
      engine = out.trimmingCharacters(in: .whitespacesAndNewlines)
    }

    static func run(_ program: String, _ arguments: [String]) throws -> String {
      let process = Process()
      process.executableURL = URL(filePath: "/usr/bin/env")
      process.arguments = [program] + arguments
      let pipe = Pipe()
      process.standardOutput = pipe
      process.standardInput = FileHandle.nullDevice
      try process.run()
      let out = String(decoding: pipe.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
      process.waitUntilExit()
      guard process.terminationStatus == 0 else {
        throw Failure("\(program) \(arguments.joined(separator: " ")): run scripts/test-engine up first\n\(out)")
      }
      return out
    }

    private func containers(_ owner: String) throws -> [String] {
      try Self.run("docker", ["--host", engine, "ps", "-aq", "--no-trunc", "--filter", "label=berth.owner=\(owner)"])
        .split(whereSeparator: \.isNewline).map(String.init)
    }

    private func with(_ fields: String, _ body: (Deployment, String) async throws -> Void) async throws {
      let owner = "e2e-\(UInt32.random(in: 0...UInt32.max))"
      let ports = try Machine.freePorts(50)
      let configuration = """
        docker:
          owner: \(owner)
          hosts:
            local: {url: "\(engine)", portRangeStart: \(ports.lowerBound), portRangeEnd: \(ports.upperBound)}
        pools:
          chrome:
            runtime: docker
            image: berth/chrome:test
            pull: never
            seccomp: \(Machine.checkout)/deploy/chrome/seccomp.json
            readOnly: true
            tmpfs: {/tmp: "size=256m,mode=1777"}
            memoryMegabytes: 1024
            \(fields)
        """
      defer {
        for container in (try? containers(owner)) ?? [] {
          _ = try? Self.run("docker", ["--host", engine, "rm", "-f", container])
        }
      }
      try await Deployment.with(configuration: configuration) { berth in
        try await body(berth, owner)
      }
      #expect(try containers(owner).isEmpty)
    }

    @Test func aSessionsLaunchOptionsHoldInItsContainer() async throws {
      try await with("spare: 1\n    launchOptions: {arguments: [\"--force-color-profile=*\"]}") { berth, owner in
        let body = """
          {"launch": {"args": ["--force-color-profile=srgb"], "locale": "de-CH", "proxy": "http://127.0.0.1:9",
           "viewport": {"width": 801, "height": 602}, "userAgent": "Quay/1 (test)", "timeZone": "Asia/Tokyo"}}
          """
        let made = try #require(HTTP.request("POST", berth.controlPort, "/api/session/create", body: body))
        #expect(made.status == 200, "\(made.text)")
        let id = try #require(made.json["sessionId"]?.string)
        let url = try #require(made.json["url"]?.string)
        let instance = try #require(HTTP.get(berth.controlPort, "/api/session/\(id)")?.json["instance"]?.string)
        // What its pages see, through a replica and CDP. Nobody listens at that proxy of the container.
        let seen = try await Client.launch("look", url, "http://shop.test/", in: berth)
        #expect(seen["language"] == "de-CH" && seen["languages"] == ["de-CH", "de"], "\(seen.text)")
        #expect(seen["userAgent"] == "Quay/1 (test)" && seen["timeZone"] == "Asia/Tokyo", "\(seen.text)")
        #expect(seen["width"] == 801 && seen["height"] == 602, "\(seen.text)")
        #expect(seen["visit"]?.string?.contains("ERR_PROXY_CONNECTION_FAILED") == true, "\(seen.text)")
        let label = "label=berth.instance=\(instance)"
        func own() throws -> [Substring] {
          let all = ["--host", engine, "ps", "-q", "--filter", "label=berth.owner=\(owner)"]
          return try Self.run("docker", all + ["--filter", label]).split(whereSeparator: \.isNewline)
        }
        let container = try #require(try own().first)
        let processes = try Self.run("docker", ["--host", engine, "top", String(container), "-eo", "pid,args"])
        #expect(processes.contains("--force-color-profile=srgb"))

        // Anybody else has a browser of the pool, and this one goes with its session.
        let other = try await Client.launch("look", berth.url, "http://shop.test/", in: berth)
        #expect(other["userAgent"]?.string?.contains("Quay") == false, "\(other.text)")
        #expect(other["timeZone"] != "Asia/Tokyo", "\(other.text)")
        #expect(other["visit"]?.string?.contains("ERR_PROXY") == false, "\(other.text)")
        #expect(HTTP.request("DELETE", berth.controlPort, "/api/session/\(id)")?.status == 200)
        try await eventually("its container is gone", show: berth.control) { try own().isEmpty ? () : nil }
      }
    }

    @Test func realClientsUseChromesInContainers() async throws {
      try await with("spare: 1") { berth, owner in
        let sessions = try await Client.playwright(berth.url, in: berth)["sessions"]?.array ?? []
        #expect(sessions.first?["title"]?.string == "Berth" && sessions.first?["sum"]?.int == 42)
        #expect(sessions.first?["screenshot"]?.int ?? 0 > 1_000)
        let pyppeteer = try await Client.pyppeteer("url", berth.url, in: berth)
        #expect(pyppeteer["title"]?.string == "Berth")

        // What dies is replaced, and a control plane that dies is followed by one that adopts.
        // Not one that is on its way out with its session.
        try await berth.settles()
        let before = try #require(try containers(owner).first)
        _ = try Self.run("docker", ["--host", engine, "kill", before])
        try await eventually("another container is ready", within: Deployment.patience, show: berth.control) {
          let all = try self.containers(owner)
          return try berth.readyInstances() > 0 && !all.isEmpty && !all.contains(before) ? () : nil
        }
        let kept = try containers(owner)
        let old = try #require(berth.leader)
        berth.control.signal(SIGKILL)
        _ = try await berth.control.ended(within: 60)
        try berth.restartControl()
        try await berth.newLeader(after: old)
        #expect(Set(kept).isSubset(of: Set(try containers(owner))))
        #expect(try await Client.playwright(berth.url, in: berth)["sessions"]?.array?.count == 1)
      }
    }
  }
}
