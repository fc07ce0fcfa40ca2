// The configuration file: YAML whose every node remembers its line, so that errors can name it.
internal import Yams

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
  private var values: [(key: String, node: Node)]
  private var known: [String] = []

  /// The top of a file; an empty file is an empty section.
  init(_ config: ConfigText) throws(SettingsError) {
    file = config.name
    path = ""
    line = 1
    values = []
    let root: Node?
    do {
      root = try Yams.compose(yaml: config.text)
    } catch {
      throw Self.reading(error, file: config.name)
    }
    guard let root else { return }
    if root.scalar?.string.isEmpty == true { return }
    values = try Self.values(of: root, file: file, path: "the file")
  }

  private init(file: String, path: String, node: Node) throws(SettingsError) {
    self.file = file
    self.path = path
    line = node.mark?.line ?? 1
    values = try Self.values(of: node, file: file, path: path)
  }

  private static func values(of node: Node, file: String, path: String) throws(SettingsError) -> [(
    key: String, node: Node
  )] {
    guard let mapping = node.mapping else {
      throw SettingsError("\(file):\(node.mark?.line ?? 1): \(path) must be a mapping of names to values")
    }
    var values: [(key: String, node: Node)] = []
    for (key, value) in mapping {
      guard let name = key.scalar?.string else {
        throw SettingsError("\(file):\(key.mark?.line ?? 1): \(path): a name was expected")
      }
      values.append((name, value))
    }
    return values
  }

  private static func reading(_ error: any Error, file: String) -> SettingsError {
    switch error as? YamlError {
    case .scanner(_, let problem, let mark, _), .parser(_, let problem, let mark, _),
      .composer(_, let problem, let mark, _):
      return SettingsError("\(file):\(mark.line): \(problem) (column \(mark.column))")
    case .duplicatedKeysInMapping(let duplicates, let context):
      return SettingsError(
        "\(file):\(context.mark.line): \(duplicates.sorted().joined(separator: ", ")) stands here twice")
    case .reader(let problem, _, _, _):
      return SettingsError("\(file): \(problem)")
    default:
      return SettingsError("\(file): \(error)")
    }
  }

  private func place(_ key: String, _ node: Node) -> String {
    "\(file):\(node.mark?.line ?? line): \(path.isEmpty ? key : "\(path).\(key)")"
  }

  private mutating func node(_ key: String) -> Node? {
    known.append(key)
    guard let node = values.first(where: { $0.key == key })?.node else { return nil }
    // `key:` with nothing behind it is as if it were not there.
    if let scalar = node.scalar, scalar.string.isEmpty, scalar.style == .plain { return nil }
    return node
  }

  mutating func value(_ key: String) throws(SettingsError) -> Written? {
    guard let node = node(key) else { return nil }
    guard let scalar = node.scalar else { throw SettingsError("\(place(key, node)): must be a single value") }
    return Written(text: scalar.string, place: place(key, node))
  }

  mutating func list(_ key: String) throws(SettingsError) -> [String]? {
    guard let node = node(key) else { return nil }
    guard let sequence = node.sequence else { throw SettingsError("\(place(key, node)): must be a list") }
    var texts: [String] = []
    for entry in sequence {
      guard let text = entry.scalar?.string else {
        throw SettingsError("\(place(key, entry)): every entry of the list must be a single value")
      }
      texts.append(text)
    }
    return texts
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

  /// The names in the order of the file.
  var names: [String] { values.map(\.key) }

  /// Where the section begins, for errors about the whole of it.
  var place: String { "\(file):\(line): \(path)" }

  /// Where a name of this section stands.
  func place(of name: String) -> String {
    values.first { $0.key == name }.map { place(name, $0.node) } ?? place
  }

  /// Refuses names that no reader asked for.
  func finish() throws(SettingsError) {
    for (key, node) in values where !known.contains(key) {
      throw SettingsError(
        "\(place(key, node)): there is no such setting; known are \(known.sorted().joined(separator: ", "))")
    }
  }
}
