// What a pool lets clients ask of their browsers: the section launchOptions of its declaration.
import Domain

extension ControlSettings {
  static func launchPolicy(
    _ file: inout FileSection?, _ runtime: RuntimeSpec
  ) throws(SettingsError) -> LaunchPolicy {
    var policy = LaunchPolicy()
    guard var section = try file?.section("launchOptions") else { return policy }
    for entry in try section.list("arguments") ?? [] {
      if let objection = LaunchPolicy.objection(to: entry) {
        throw SettingsError("\(section.place(of: "arguments")): \"\(entry)\" \(objection)")
      }
      policy.arguments.append(entry)
    }
    if let value = try section.value("snapshots") {
      guard runtime.isProcess else {
        throw SettingsError("\(value.place): profiles are copied for pools of runtime process only")
      }
      guard value.text.hasPrefix("/") else { throw value.wrong("a path that begins with /") }
      policy.snapshots = value.text.hasSuffix("/") ? String(value.text.dropLast()) : value.text
    }
    if let value = try section.value("instances") { policy.instances = try value.int(in: 0...10_000) }
    try section.finish()
    return policy
  }
}
