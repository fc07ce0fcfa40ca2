// docs/configuration.md must list every setting with its key, variable, flag and default, and every field of a pool.
import Glibc
import Routing
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

  /// The complaint about an unknown field names the known ones.
  private func known(_ yaml: String) throws -> [Substring] {
    let complaint = #expect(throws: SettingsError.self) {
      try ControlSettings.load(file: ConfigText(name: "f", text: yaml), environment: [:], flags: [:])
    }
    return try #require(complaint?.description.split(separator: "known are ").last).split(separator: ", ")
  }

  @Test(arguments: [
    ("Pools", "pools: {a: {nonsense: 1}}", "", 30), ("Pools", "pools: {a: {ejection: {nonsense: 1}}}", "ejection.", 4),
    ("Pools", "pools: {a: {launchOptions: {nonsense: 1}}}", "launchOptions.", 3),
    ("Routes", "routes: {a: {pool: chrome, nonsense: 1}}", "", 24),
  ]) func everyFieldHasItsRow(section: String, nonsense: String, prefix: String, count: Int) throws {
    let fields = try known(nonsense)
    #expect(fields.count >= count)
    let sections = try documentation().split(separator: "\n## ")
    let text = try #require(sections.first { $0.hasPrefix(section) })
    for field in fields { #expect(text.contains("\n| `\(prefix)\(field)` | "), "\(field)") }
    // And nothing that is not there.
    let rows = text.split(separator: "\n").filter { $0.hasPrefix("| `") && $0.split(separator: "|").count == 3 }
    for row in rows {
      let name = row.dropFirst(3).prefix { $0 != "`" }
      guard prefix.isEmpty ? !name.contains(".") : name.hasPrefix(prefix) else { continue }
      #expect(fields.contains(name.dropFirst(prefix.count)), "\(name)")
    }
  }

  @Test func everyStrategyIsExplained() throws {
    let text = try documentation()
    let rows = try #require(text.split(separator: "| strategy | chooses |").last).prefix { $0 != "#" }
    for strategy in Strategy.allCases { #expect(rows.contains("`\(strategy.rawValue)`"), "\(strategy)") }
  }
}
