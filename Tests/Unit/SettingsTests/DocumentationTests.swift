// docs/configuration.md must list every setting with its key, variable, flag and default, and every field of a pool.
import Glibc
import Settings
import Testing

@Suite struct DocumentationTests {
  private func documentation() throws -> String {
    let path = String(#filePath).split(separator: "/").dropLast(4).map { "/" + $0 }.joined() + "/docs/configuration.md"
    guard let file = unsafe fopen(path, "r") else {
      Issue.record("\(path) is missing")
      return ""
    }
    defer { unsafe fclose(file) }
    var bytes = [UInt8](repeating: 0, count: 1 << 18)
    let count = unsafe fread(&bytes, 1, bytes.count, file)
    return String(decoding: bytes[..<count], as: UTF8.self)
  }

  @Test func everySettingHasItsRow() throws {
    let rows = try documentation().split(separator: "\n").filter { $0.hasPrefix("| `") }
    for setting in ControlSettings.settings {
      let row = rows.first { $0.hasPrefix("| `\(setting.key)` | `\(setting.variable)` | `\(setting.flag)` | ") }
      #expect(row?.contains("\(setting.fallback)") == true, "\(setting.key)")
    }
  }

  @Test func everyFieldOfAPoolHasItsRow() throws {
    // The complaint about an unknown field names the known ones.
    let complaint = #expect(throws: SettingsError.self) {
      try ControlSettings.load(
        file: ConfigText(name: "f", text: "pools: {a: {nonsense: 1}}"), environment: [:], flags: [:])
    }
    let known = try #require(complaint?.description.split(separator: "known are ").last).split(separator: ", ")
    #expect(known.count > 25)
    let text = try documentation()
    for field in known { #expect(text.contains("| `\(field)` | "), "\(field)") }
  }
}
