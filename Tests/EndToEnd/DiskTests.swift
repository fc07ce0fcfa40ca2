// A disk that takes no more, with a real control plane on a small file system of its own: launches fail with the
// reason, REST, figures and the log say so, and all is well again when there is room. The file system is mounted where
// only that program and its children see it, and goes with them; so these tests run as root, as the others of this
// kind do.
import Foundation
import Glibc
import JSON
import TestSupport
import Testing

extension EndToEnd {
  @Suite struct Disks {
    private static let configuration = """
      pools:
        web:
          kind: http
          command: python3
          arguments: [-m, http.server, "{port}", --bind, 127.0.0.1]
          restartInitialMilliseconds: 100
          restartMaximumMilliseconds: 200
          restartStableAfterMilliseconds: 0
      """

    /// A control plane whose state directory is a file system of four megabytes.
    private struct Control {
      let directory: String
      let port: Int
      let redis: RedisFixture
      let program: Program

      init(options: String) throws {
        directory = try Machine.scratchDirectory("disk")
        port = try Machine.freePort()
        let ports = try Machine.freePorts(20)
        redis = try RedisFixture()
        try Disks.configuration.write(toFile: directory + "/berth.yml", atomically: true, encoding: .utf8)
        try FileManager.default.createDirectory(atPath: directory + "/state", withIntermediateDirectories: false)
        program = try Program(
          "control",
          [
            try Machine.tool("unshare"), "--mount", "sh", "-c",
            #"mount -t tmpfs -o "$0" berth-test "$1" && shift && exec "$@""#, options, directory + "/state",
            try Machine.program("berth-control"), "--listen", "127.0.0.1:\(port)", "--state-directory",
            directory + "/state", "--config", directory + "/berth.yml", "--port-range-start", String(ports.lowerBound),
            "--port-range-end", String(ports.upperBound), "--stop-instances-on-exit",
          ], outputFile: directory + "/control.log",
          environment: ["REDIS_URL": "unix:\(redis.directory)/socket", "BERTH_TEST": directory])
      }

      /// The state directory as the program sees it.
      var state: String { "/proc/\(program.pid)/root\(directory)/state" }
      var pool: JSON? { HTTP.get(port, "/api/pools")?.json["pools"]?.array?.first }
      var disk: JSON? { HTTP.get(port, "/api/status")?.json["disk"] }
      var figure: String? {
        let text = HTTP.get(port, "/metrics")?.text.split(separator: "\n") ?? []
        return text.first { $0.hasPrefix("berth_control_disk_writable ") }.map(String.init)
      }

      func fill() throws {
        let file = unsafe open(state + "/fill", O_WRONLY | O_CREAT | O_CLOEXEC, 0o600)
        try #require(file >= 0)
        defer { close(file) }
        let bytes = [UInt8](repeating: 7, count: 4_096)
        while unsafe bytes.withUnsafeBytes({ unsafe write(file, $0.baseAddress, $0.count) }) > 0 {}
        #expect(errno == ENOSPC)
      }

      func end() async throws {
        try await program.stop()
        try await eventually("no process is left", within: 10) {
          Machine.processes(marked: directory).allSatisfy { $0.command.contains("redis-server") }
        }
        try FileManager.default.removeItem(atPath: directory)
      }
    }

    @Test func aFullDiskIsNamedAndWaitedFor() async throws {
      let control = try Control(options: "size=4m,mode=700")
      func isReady() -> Bool { control.pool?["ready"] == 1 }
      try await eventually("an instance is ready", show: control.program) { isReady() }
      #expect(control.disk == .null && control.figure == "berth_control_disk_writable 1")

      try control.fill()
      let instances = HTTP.get(control.port, "/api/instances")?.json["instances"]?.array
      kill(pid_t(try #require(instances?.first?["pid"]?.int)), SIGKILL)
      try await eventually("the launch's reason is shown", show: control.program) {
        let reason = control.pool?["trouble"]?["lastFailure"]?["reason"]?.string ?? ""
        return reason.contains("\(control.directory)/state/instances/")
          && reason.contains("No space left on device; free some space")
      }
      try await eventually("status says it", show: control.program) {
        control.disk?.string?.contains("\(control.directory)/state: No space left on device; free some space") == true
      }
      #expect(control.figure == "berth_control_disk_writable 0")
      #expect(control.program.output.contains("the disk takes no more: instances of processes do not start"))

      try FileManager.default.removeItem(atPath: control.state + "/fill")
      try await eventually("an instance is ready again", show: control.program) { isReady() }
      try await eventually("all is well", show: control.program) {
        control.disk == .null && control.figure == "berth_control_disk_writable 1"
      }
      #expect(control.program.output.contains("the disk can be written again"))
      try await control.end()
    }

    @Test func aReadOnlyStateDirectoryIsNamedAtTheStart() async throws {
      let control = try Control(options: "size=4m,mode=700,ro")
      #expect(try await control.program.ended(within: 30) != .exited(0))
      let said = control.program.output
      #expect(said.contains("the state directory cannot be used (--state-directory): mkdir "), "\(said)")
      #expect(said.contains("Read-only file system; mount it writable, or choose another --state-directory"), "\(said)")
      try FileManager.default.removeItem(atPath: control.directory)
    }
  }
}
