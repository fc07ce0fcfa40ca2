// The keys file of a running deployment is changed: both planes follow within seconds, and a bad file changes nothing.
import Foundation
import Glibc
import JSON
import Testing

extension EndToEnd {
  @Suite struct KeysFile {
    @Test func aChangedFileIsFollowedAndABadOneChangesNothing() async throws {
      let directory = try Machine.scratchDirectory("keys")
      defer { try? FileManager.default.removeItem(atPath: directory) }
      let file = directory + "/keys"
      func write(_ text: String) throws { try text.write(toFile: file, atomically: true, encoding: .utf8) }
      let (old, new, last) = ("old-key-00000000001", "new-key-00000000001", "last-key-0000000001")
      try write("ops admin \(old)\n")
      let configuration = "keysFile: \(file)\n" + Deployment.shortReservations
      try await Deployment.with(configuration: configuration) { berth in
        func rest(_ key: String) -> Int? { HTTP.get(berth.controlPort, "/api/pools?token=\(key)")?.status }
        func client(_ key: String) -> Int? { HTTP.get(berth.port, "/json/version?token=\(key)")?.status }
        func complaints() -> Int { berth.control.lines.count { $0.contains("the keys in force stay") } }
        #expect(rest(old) == 200 && rest(new) == 401 && client(old) == 200 && client(new) == 401)

        try write("ops admin \(new)\n")
        try await eventually("the new key opens both planes", within: 60, show: berth.control) {
          rest(new) == 200 && client(new) == 200 ? () : nil
        }
        try await eventually("the old one opens nothing", within: 60, show: berth.control) {
          rest(old) == 401 && client(old) == 401 ? () : nil
        }

        try write("ops everything \(last)\n")
        try await eventually("the bad file is complained about", within: 60, show: berth.control) {
          complaints() == 1 ? () : nil
        }
        berth.control.signal(SIGHUP)
        try await eventually("and again when it is asked for", within: 60, show: berth.control) {
          complaints() == 2 ? () : nil
        }
        #expect(!berth.control.output.contains(last), "a key in the log")
        #expect(rest(new) == 200 && client(new) == 200 && rest(last) == 401)
        try await eventually("both are counted", show: berth.control) {
          HTTP.get(berth.controlPort, "/metrics?token=\(new)")?.text
            .contains("\nberth_control_keys_reload_failures_total 2\n") == true
        }

        try write("ops admin \(last)\n")
        berth.control.signal(SIGHUP)
        try await eventually("the last key opens both planes", within: 60, show: berth.control) {
          rest(last) == 200 && client(last) == 200 ? () : nil
        }
      }
    }
  }
}
