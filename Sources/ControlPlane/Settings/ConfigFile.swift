// The configuration file as sections whose values are asked for by name, so that an error names file, line and setting,
// and a name that nobody asks for is refused.
import JSON
import RouteFiles
import Routing

/// A configuration file's name (for errors) and text.
package struct ConfigText: Sendable {
  package let name: String
  package let text: String
  package init(name: String, text: String) {
    self.name = name
    self.text = text
  }
}

/// A mapping of the file. Every value is read once by its key; ``finish()`` then refuses what nobody asked for.
struct FileSection {
  private let file: String
  /// Names the section in errors, e.g. `pools.chrome`; empty at the top.
  private let path: String
  private let line: Int
  private var values: [(name: String, value: ConfigNode)]
  private var known: Set<String> = []

  /// The top of a file; an empty file is an empty section.
  init(_ config: ConfigText) throws(SettingsError) {
    file = config.name
    path = ""
    line = 1
    values = []
    let root: ConfigNode?
    do throws(RouteFileError) { root = try ConfigNode.parse(config.text, file: config.name) } catch {
      throw SettingsError(error.description)
    }
    if let root { values = try Self.values(of: root, file: file, path: "the file") }
  }

  private init(file: String, path: String, node: ConfigNode) throws(SettingsError) {
    self.file = file
    self.path = path
    line = node.line
    values = try Self.values(of: node, file: file, path: path)
  }

  private static func values(of node: ConfigNode, file: String, path: String) throws(SettingsError) -> [(
    name: String, value: ConfigNode
  )] {
    guard let mapping = node.mapping else {
      throw SettingsError("\(file):\(node.line): \(path) must be a mapping of names to values")
    }
    return mapping
  }

  private func place(_ key: String, _ node: ConfigNode?) -> String {
    "\(file):\(node?.line ?? line): \(path.isEmpty ? key : "\(path).\(key)")"
  }

  private mutating func node(_ key: String) -> ConfigNode? {
    known.insert(key)
    return values.first { $0.name == key }.flatMap { $0.value.isNothing ? nil : $0.value }
  }

  mutating func value(_ key: String) throws(SettingsError) -> Written? {
    guard let node = node(key) else { return nil }
    guard let text = node.scalar else { throw SettingsError("\(place(key, node)): must be a single value") }
    return Written(text: text, place: place(key, node))
  }

  mutating func list(_ key: String) throws(SettingsError) -> [String]? {
    guard let node = node(key) else { return nil }
    guard let entries = node.list else { throw SettingsError("\(place(key, node)): must be a list") }
    var texts: [String] = []
    for entry in entries {
      guard let text = entry.scalar else {
        throw SettingsError("\(place(key, entry)): every entry of the list must be a single value")
      }
      texts.append(text)
    }
    return texts
  }

  /// An entry of a list that is a single value or a mapping.
  enum Entry {
    case value(Written)
    case section(FileSection)
  }

  mutating func entries(_ key: String) throws(SettingsError) -> [Entry]? {
    guard let node = node(key) else { return nil }
    guard let list = node.list else { throw SettingsError("\(place(key, node)): must be a list") }
    var entries: [Entry] = []
    for (index, entry) in list.enumerated() {
      let name = "\(key)[\(index + 1)]"
      if let text = entry.scalar {
        entries.append(.value(Written(text: text, place: place(name, entry))))
      } else {
        let path = path.isEmpty ? name : "\(path).\(name)"
        entries.append(.section(try FileSection(file: file, path: path, node: entry)))
      }
    }
    return entries
  }

  mutating func strings(_ key: String) throws(SettingsError) -> [String: String]? {
    guard var section = try section(key) else { return nil }
    var strings: [String: String] = [:]
    for name in section.names { strings[name] = try section.value(name)?.text ?? "" }
    return strings
  }

  mutating func section(_ key: String) throws(SettingsError) -> FileSection? {
    guard let node = node(key) else { return nil }
    return try FileSection(file: file, path: path.isEmpty ? key : "\(path).\(key)", node: node)
  }

  /// Refuses a name that other declarations of its kind have, with the reason why this one cannot.
  func refuse(_ key: String, because reason: String) throws(SettingsError) {
    guard let (_, node) = values.first(where: { $0.name == key }) else { return }
    throw SettingsError("\(place(key, node)): \(reason)")
  }

  mutating func isMissing(_ key: String) -> Bool { node(key) == nil }

  /// Whether a list stands there instead of a section or a value.
  mutating func isList(_ key: String) -> Bool { node(key)?.list != nil }

  /// Reads fields of a record, as Redis and routes files have them too; they count as asked for.
  mutating func record<R>(_ read: (inout Fields) throws(RecordError) -> R) throws(SettingsError) -> R {
    var object = JSONObject()
    for (name, value) in values { object.append(name, value.json) }
    do throws(RecordError) {
      var fields = try Fields(.object(object), of: path, isText: true)
      let record = try read(&fields)
      known.formUnion(fields.names)
      return record
    } catch { throw placed(error) }
  }

  private func placed(_ error: RecordError) -> SettingsError {
    var node: ConfigNode?
    var isWhole = true
    for (index, step) in error.field.enumerated() {
      guard let next = index == 0 ? values.first(where: { $0.name == step })?.value : node?[step] else {
        isWhole = false
        break
      }
      node = next
    }
    let name = error.field.joined(separator: ".")
    guard let text = node?.scalar, isWhole, error.reason.hasPrefix("must be "), !error.reason.contains(", not \"")
    else {
      return SettingsError("\(place(name, node)): \(error.reason)")
    }
    return Written(text: text, place: place(name, node)).wrong(String(error.reason.dropFirst("must be ".count)))
  }

  /// The names in the order of the file.
  var names: [String] { values.map(\.name) }

  /// Where the section begins, for errors about the whole of it.
  var place: String { "\(file):\(line): \(path)" }

  /// Where a name of this section stands.
  func place(of name: String) -> String {
    values.first { $0.name == name }.map { place(name, $0.value) } ?? place
  }

  /// Refuses names that no reader asked for.
  func finish() throws(SettingsError) {
    for (name, value) in values where !known.contains(name) {
      throw SettingsError(
        "\(place(name, value)): there is no such setting; known are \(known.sorted().joined(separator: ", "))")
    }
  }
}
