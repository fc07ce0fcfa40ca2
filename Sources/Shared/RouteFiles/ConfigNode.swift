// A YAML text as a tree whose every node remembers its line, so that errors can name it. Read by the settings of the
// control plane and by routes files; nothing else imports Yams. JSON is read by it too, as YAML includes it.
internal import Yams

/// What is wrong with a file, as one sentence that begins with the file and the line.
package struct RouteFileError: Error, Equatable, Sendable, CustomStringConvertible {
  package let description: String
  package init(_ description: String) { self.description = description }
}

package struct ConfigNode: Sendable {
  package enum Content: Sendable {
    /// Plain = without quotes, so that an empty one, `~` and `null` stand for nothing.
    case scalar(String, isPlain: Bool)
    case list([ConfigNode])
    /// Names are unique, in the order of the file.
    case mapping([(name: String, value: ConfigNode)])
  }
  package let content: Content
  package let line: Int

  /// More nodes than this are refused: aliases can blow a short text up beyond all bounds.
  private static let maximumNodes = 1_000_000

  /// Parses the text of a file; nil when there is nothing in it.
  package static func parse(_ text: String, file: String) throws(RouteFileError) -> ConfigNode? {
    let root: Node?
    do {
      root = try Yams.compose(yaml: text)
    } catch {
      throw reading(error, file: file)
    }
    guard let root else { return nil }
    var left = maximumNodes
    let node = try ConfigNode(root, file: file, &left)
    return node.isNothing ? nil : node
  }

  private init(_ node: Node, file: String, _ left: inout Int) throws(RouteFileError) {
    line = node.mark?.line ?? 1
    left -= 1
    guard left > 0 else { throw RouteFileError("\(file): more than \(Self.maximumNodes) values") }
    switch node {
    case .scalar(let scalar): content = .scalar(scalar.string, isPlain: scalar.style == .plain)
    case .alias: throw RouteFileError("\(file):\(line): an alias must follow its anchor")
    case .sequence(let sequence):
      var list: [ConfigNode] = []
      for entry in sequence { list.append(try ConfigNode(entry, file: file, &left)) }
      content = .list(list)
    case .mapping(let mapping):
      var entries: [(name: String, value: ConfigNode)] = []
      for (key, value) in mapping {
        guard let name = key.scalar?.string else {
          throw RouteFileError("\(file):\(key.mark?.line ?? line): a name was expected")
        }
        entries.append((name, try ConfigNode(value, file: file, &left)))
      }
      content = .mapping(entries)
    }
  }

  private static func reading(_ error: any Error, file: String) -> RouteFileError {
    switch error as? YamlError {
    case .scanner(_, let problem, let mark, _), .parser(_, let problem, let mark, _),
      .composer(_, let problem, let mark, _):
      return RouteFileError("\(file):\(mark.line): \(problem) (column \(mark.column))")
    case .duplicatedKeysInMapping(let duplicates, let context):
      return RouteFileError(
        "\(file):\(context.mark.line): \(duplicates.sorted().joined(separator: ", ")) stands here twice")
    case .reader(let problem, _, _, _):
      return RouteFileError("\(file): \(problem)")
    default:
      return RouteFileError("\(file): \(error)")
    }
  }

  // MARK: What is in it

  /// A name with nothing behind it is as if it were not there.
  package var isNothing: Bool {
    if case .scalar(let text, isPlain: true) = content { return text.isEmpty || text == "~" || text == "null" }
    return false
  }
  package var scalar: String? { if case .scalar(let text, _) = content { text } else { nil } }
  package var list: [ConfigNode]? { if case .list(let list) = content { list } else { nil } }
  package var mapping: [(name: String, value: ConfigNode)]? {
    if case .mapping(let entries) = content { entries } else { nil }
  }

  /// The entry of a mapping by its name, or of a list by its index.
  package subscript(step: String) -> ConfigNode? {
    switch content {
    case .scalar: nil
    case .list(let list): Int(step).flatMap { list.indices.contains($0) ? list[$0] : nil }
    case .mapping(let entries): entries.first { $0.name == step }?.value
    }
  }
}
