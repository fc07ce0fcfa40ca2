// A file, and part of one, as the fields of a record: the readers of Routing check types and ranges, and what they find
// wrong gets its line here.
package import JSON
package import Routing
import Synchronization

extension ConfigNode {
  /// The same as JSON whose every value is a string: only who reads a field knows what it is meant to be.
  package var json: JSON {
    switch content {
    case .scalar(let text, _): isNothing ? .null : .string(text)
    case .list(let list): .array(list.map(\.json))
    case .mapping(let entries):
      .object(entries.reduce(into: JSONObject()) { $0.append($1.name, $1.value.json) })
    }
  }
}

/// The tree of a JSON file, made once: each server of a file has a place, and a file may have thousands.
private final class LazyTree: Sendable {
  private let made = Mutex<ConfigNode??>(nil)

  func root(of text: String, file: String) -> ConfigNode? {
    made.withLock { made in
      if let made { return made }
      let root = (try? ConfigNode.parse(text, file: file)).flatMap { $0 }
      made = .some(root)
      return root
    }
  }
}

/// The whole of a file.
package struct ConfigDocument: Sendable {
  package let file: String
  package let json: JSON
  /// Whether values are strings whatever they are meant to be.
  private let isText: Bool
  private let text: String
  private let root: ConfigNode?
  private let tree = LazyTree()

  /// Reads JSON when the text begins like it, else YAML. Lines that begin with `//` are taken for comments in JSON, as
  /// the HTTP balancer's documentation shows its file with one.
  package init(_ text: String, file: String) throws(RouteFileError) {
    self.file = file
    var text = text
    if let first = Self.firstVisible(text), first == UInt8(ascii: "/") { text = Self.withoutComments(text) }
    guard let first = Self.firstVisible(text), first == UInt8(ascii: "{") || first == UInt8(ascii: "[") else {
      let root = try ConfigNode.parse(text, file: file)
      self.root = root
      self.text = text
      isText = true
      json = root?.json ?? .object(JSONObject())
      return
    }
    self.text = text
    isText = false
    root = nil
    do throws(JSONError) { json = try JSON(parsing: text) } catch {
      throw RouteFileError("\(file):\(error.line): \(error.message) (column \(error.column))")
    }
  }

  private static func firstVisible(_ text: String) -> UInt8? {
    text.utf8.first { $0 != 0x20 && $0 != 0x09 && $0 != 0x0A && $0 != 0x0D }
  }

  /// Lines stay where they are.
  private static func withoutComments(_ text: String) -> String {
    text.split(separator: "\n", omittingEmptySubsequences: false)
      .map { $0.drop(while: { $0 == " " || $0 == "\t" }).hasPrefix("//") ? "" : $0 }
      .joined(separator: "\n")
  }

  /// The fields of the mapping at a path; `instead`: what is read in its place.
  package func fields(_ path: [String], instead: JSONObject? = nil) throws(RouteFileError) -> Fields {
    let value = instead.map { .object($0) } ?? value(at: path) ?? .object(JSONObject())
    do throws(RecordError) {
      return try Fields(value, of: "", isText: isText)
    } catch { throw self.error(path, "must be a mapping of names to values") }
  }

  package func value(at path: [String]) -> JSON? {
    var value: JSON? = json
    for step in path {
      switch value {
      case .object(let object)?: value = object[step]
      case .array(let array)?: value = Int(step).flatMap { array.indices.contains($0) ? array[$0] : nil }
      default: return nil
      }
    }
    return value
  }

  // MARK: Places

  /// `file:line: path`, e.g. `routes.yaml:7: backends.api.servers[0].url`.
  package func place(_ path: [String]) -> String {
    guard let line = line(of: path) else { return path.isEmpty ? file : "\(file): \(written(path))" }
    return "\(file):\(line)" + (path.isEmpty ? "" : ": \(written(path))")
  }

  /// An error about what stands at a path, or about what should.
  package func error(_ path: [String], _ reason: String) -> RouteFileError {
    var given = ""
    if reason.hasPrefix("must be "), !reason.contains(", not \"") {
      switch value(at: path) {
      case .string(let text)? where text.utf8.count <= 200: given = ", not \"\(text)\""
      case .number(let text)?: given = ", not \(text)"
      default: break
      }
    }
    return RouteFileError("\(place(path)): \(reason)\(given)")
  }

  /// The error of a record that was read from the mapping at a path.
  package func error(_ path: [String], _ error: RecordError) -> RouteFileError {
    self.error(path + error.field, error.reason)
  }

  /// `routes[0].path`: a step into a list stands in brackets.
  private func written(_ path: [String]) -> String {
    var out = ""
    for (index, step) in path.enumerated() {
      if case .array? = value(at: Array(path[..<index])) {
        out += "[\(step)]"
      } else {
        out += (out.isEmpty ? "" : ".") + step
      }
    }
    return out
  }

  /// The line of the deepest node on the path. The tree of a JSON file is only made when there is something to say.
  private func line(of path: [String]) -> Int? {
    guard var node = root ?? tree.root(of: text, file: file) else { return nil }
    for step in path {
      guard let next = node[step] else { break }
      node = next
    }
    return node.line
  }
}
