// `berth up` as a person uses it: start it, wait for it, use it, try a second one, lose a part of it, press Ctrl-C.
import Foundation
import Glibc
import Testing

extension EndToEnd {
  @Suite struct Up {
    @Test func oneCommandGivesAPictureAndCtrlCLeavesNothing() async throws {
      try await with { home in
        let up = try home.start()
        try await home.isReady(up)
        for line in [
          "curl \(home.url)/json/version", "connect_over_cdp(\"\(home.url)\")", "browserURL: \"\(home.url)\"",
        ] {
          #expect(up.output.contains(line), "\(line)")
        }

        let example = try Program(
          "screenshot.py", [try Machine.python(), Machine.checkout + "/docs/examples/screenshot.py", home.url],
          outputFile: home.directory + "/example.log", in: home.directory)
        let ending = try await example.ended(within: 120)
        try #require(ending == .exited(0), "\(example.output)")
        let picture = try Data(contentsOf: URL(filePath: home.directory + "/screenshot.png"))
        #expect(picture.starts(with: [0x89] + Array("PNG".utf8)) && picture.count > 1_000)

        let second = try home.start("second")
        #expect(try await second.ended(within: 60) == .exited(1))
        #expect(
          second.output.contains("already running") && second.output.contains("pid \(up.pid)"), "\(second.output)")

        up.signal(SIGINT)
        #expect(try await up.ended(within: 120) == .exited(0))
        try await home.isClean()
        #expect(FileManager.default.fileExists(atPath: home.directory + "/.berth/redis/appendonlydir"))

        // What it kept does not stand in the way of the next run.
        let again = try home.start("again")
        try await home.isReady(again)
        again.signal(SIGTERM)
        #expect(try await again.ended(within: 120) == .exited(0))
        try await home.isClean()
      }
    }

    @Test func aTakenPortIsNamedWithItsFlag() async throws {
      try await with { home in
        let taken = try Program(
          "occupant", [try Machine.python(), "-m", "http.server", "--bind", "127.0.0.1", String(home.controlPort)],
          outputFile: home.directory + "/occupant.log", in: home.directory)
        try await eventually("the port is taken", within: 60, show: taken) {
          Machine.isFree(home.controlPort) ? nil : ()
        }
        let up = try home.start()
        #expect(try await up.ended(within: 60) == .exited(1))
        #expect(up.output.contains("port \(home.controlPort)") && up.output.contains("--control-port"), "\(up.output)")
        try await taken.stop()
      }
    }

    @Test(arguments: ["redis", "control", "data-1"])
    func aCrashedPartIsReportedAndHealed(part: String) async throws {
      try await with { home in
        let up = try home.start()
        try await home.isReady(up)
        let victim = try #require(home.child(part))
        kill(victim, SIGKILL)
        try await eventually("\(part) runs again", within: 60, show: up) {
          home.child(part).map { $0 != victim } == true ? () : nil
        }
        try await eventually("that is told", show: up) {
          up.output.contains("berth: \(part) was killed by signal 9")
        }
        try await eventually("it serves again", within: Deployment.patience, show: up) {
          HTTP.get(home.controlPort, "/api/health")?.status == 200
            && HTTP.get(home.port, "/json/version")?.status == 200
            ? () : nil
        }
        up.signal(SIGINT)
        #expect(try await up.ended(within: 120) == .exited(0))
        try await home.isClean()
      }
    }

    @Test func aKilledOneTakesItsPartsAlongAndTheNextOneCleansUp() async throws {
      try await with { home in
        let up = try home.start()
        try await home.isReady(up)
        let parts = ["redis", "control", "data-1"].compactMap(home.child)
        up.signal(SIGKILL)
        #expect(try await up.ended(within: 60) == .killed(SIGKILL))
        try await eventually("redis, the control plane and the replica end", within: 60) {
          parts.allSatisfy {
            kill($0, 0) != 0 || !Machine.processes(marked: home.directory).contains(where: { parts.contains($0.pid) })
          }
        }
        let next = try home.start("next")
        try await home.isReady(next)
        next.signal(SIGINT)
        #expect(try await next.ended(within: 120) == .exited(0))
        try await home.isClean()
      }
    }

    /// A directory in which `berth up` is run, with ports of its own.
    final class Home {
      let directory: String
      let port: Int
      let controlPort: Int
      private let flags: [String]

      init() throws {
        directory = try Machine.scratchDirectory("up")
        port = try Machine.freePort()
        controlPort = try Machine.freePort()
        let instancePorts = try Machine.freePorts(100)
        flags = [
          "--port", String(port), "--control-port", String(controlPort), "--tls-port", String(try Machine.freePort()),
          "--admin-port", String(try Machine.freePort()), "--port-range-start", String(instancePorts.lowerBound),
          "--port-range-end", String(instancePorts.upperBound), "--drain-seconds", "3",
        ]
      }

      var url: String { "http://127.0.0.1:\(port)" }

      func start(_ name: String = "up") throws -> Program {
        try Program(
          "berth \(name)", [try Machine.program("berth"), "up"] + flags, outputFile: "\(directory)/\(name).log",
          in: directory, environment: ["BERTH_TEST": directory, "REDIS_URL": nil])
      }

      func isReady(_ up: Program) async throws {
        try await eventually("berth up is ready", within: Deployment.patience, show: up) {
          if let ending = up.poll() { throw Failure("berth up \(ending):\n\(up.output)") }
          return up.output.contains("Berth is ready") ? () : nil
        }
      }

      /// The pid of a child, as berth up notes it.
      func child(_ name: String) -> pid_t? {
        let notes = (try? String(contentsOfFile: directory + "/.berth/run/children", encoding: .utf8)) ?? ""
        for line in notes.split(separator: "\n") {
          let words = line.split(separator: " ")
          if words.first == name[...], words.count == 3 { return pid_t(words[1]) }
        }
        return nil
      }

      /// No process, no port, no file of a run that is over.
      func isClean() async throws {
        try await eventually("no process is left", within: 60) { Machine.processes(marked: self.directory).isEmpty }
        for port in [port, controlPort] where !Machine.isFree(port) { throw Failure("port \(port) is still taken") }
        let running = try FileManager.default.contentsOfDirectory(atPath: directory + "/.berth/run")
        guard running.isEmpty else { throw Failure("left in .berth/run: \(running)") }
        let instances =
          FileManager.default.enumerator(atPath: directory + "/.berth/control")?.allObjects as? [String] ?? []
        // Whatever the control plane keeps, it is no browser's profile.
        let profiles = instances.filter { $0.contains("Default/") || $0.hasSuffix("SingletonLock") }
        guard profiles.isEmpty else { throw Failure("profiles are left: \(profiles)") }
      }
    }

    private func with(_ body: (Home) async throws -> Void) async throws {
      let home = try Home()
      do {
        try await body(home)
        try FileManager.default.removeItem(atPath: home.directory)
      } catch {
        for process in Machine.processes(marked: home.directory) { kill(process.pid, SIGKILL) }
        throw error
      }
    }
  }
}
