// A leading control plane whose descriptors are all taken, as whole processes: it says so and lets the other one lead,
// which launches what the first one could not, and no browser is ended over it.
import Foundation
import Glibc
import JSON
import TestSupport
import Testing

extension EndToEnd {
  @Suite struct Descriptors {
    @Test func aLeaderThatCanOpenNothingLetsTheOtherLead() async throws {
      let directory = try Machine.scratchDirectory("descriptors")
      // Chromes outlive their control planes here.
      defer {
        for process in Machine.processes(marked: directory) { kill(process.pid, SIGKILL) }
        try? FileManager.default.removeItem(atPath: directory)
      }
      let redis = try RedisFixture()
      let ports = try Machine.freePorts(20)
      func control(_ name: String, _ port: Int) throws -> Program {
        try Program(
          name,
          [
            try Machine.program("berth-control"), "--listen", "127.0.0.1:\(port)", "--id", name, "--state-directory",
            directory + "/state", "--port-range-start", String(ports.lowerBound), "--port-range-end",
            String(ports.upperBound),
          ], outputFile: "\(directory)/\(name).log",
          environment: ["REDIS_URL": "unix:\(redis.directory)/socket", "BERTH_TEST": directory])
      }
      let (firstPort, secondPort) = (try Machine.freePort(), try Machine.freePort())
      func leader(_ port: Int) -> String? {
        HTTP.get(port, "/api/health")?.json["leader"]?.string.map { String($0.prefix { $0 != "#" }) }
      }
      func instances() -> [Int: String] {
        var found: [Int: String] = [:]
        for instance in HTTP.get(secondPort, "/api/instances")?.json["instances"]?.array ?? [] {
          if let pid = instance["pid"]?.int, let state = instance["state"]?.string { found[pid] = state }
        }
        return found
      }

      let first = try control("first", firstPort)
      try await eventually("the first one leads", show: first) { leader(firstPort) == "first" }
      let second = try control("second", secondPort)
      try await eventually("a Chrome is ready", within: Deployment.patience, show: first, second) {
        instances().values.contains("ready")
      }
      let before = Set(instances().keys)

      // Nothing new can be opened from here on: descriptors are given from the lowest number up.
      let taken = try FileManager.default.contentsOfDirectory(atPath: "/proc/\(first.pid)/fd").count
      try await limit(first, to: String(taken / 2), directory)
      try await eventually("the second one leads", show: first, second) { leader(secondPort) == "second" }
      #expect(first.output.contains("no descriptors are left: nothing can be launched or checked"))
      #expect(first.output.contains(#""message":"the leader lease is given up""#))
      #expect(Set(instances().keys).isSuperset(of: before), "a browser was ended over it")

      // What the first one could not have done.
      kill(pid_t(try #require(before.first)), SIGKILL)
      try await eventually("another Chrome is ready", within: Deployment.patience, show: second) {
        instances().contains { !before.contains($0.key) && $0.value == "ready" }
      }
      try await limit(first, to: "1024", directory)
      try await eventually("the first one is well", show: first) {
        HTTP.get(firstPort, "/api/status")?.json["descriptors"] == .null
      }
      #expect(first.output.contains("descriptors are free again"))
      #expect(
        HTTP.get(firstPort, "/metrics")?.text.contains("\nberth_control_leads_given_up_total 1\n") == true)

      try await first.stop()
      try await second.stop()
    }

    /// Sets how many descriptors a program may have; its highest possible limit stays.
    private func limit(_ program: Program, to count: String, _ directory: String) async throws {
      let words = [try Machine.tool("prlimit"), "--pid", "\(program.pid)", "--nofile=\(count):"]
      let tool = try Program("prlimit", words, outputFile: directory + "/prlimit.log")
      try #require(try await tool.ended(within: 10) == .exited(0), "\(tool.output)")
    }
  }
}
