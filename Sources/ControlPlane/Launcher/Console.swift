// What a person sees while `berth up` runs: its own words, and of the children's lines only those that want attention.
// The rest is in `.berth/log/`.
internal import Glibc
internal import JSON

/// How a child's line is shown. The daemons write one JSON object a line: `level`, `message` and further fields.
package enum LogLine {
  /// The line for the terminal, nil when it is only worth its file.
  package static func forTerminal(_ line: String, of name: String, verbose: Bool) -> String? {
    guard let object = try? JSON(parsing: Array(line.utf8)).object, let level = object["level"]?.string else {
      return verbose ? "\(name): \(line)" : nil
    }
    guard verbose || ["warning", "warn", "error", "critical", "fatal"].contains(level) else { return nil }
    let message = object["message"]?.string ?? object["msg"]?.string ?? line
    let told: Set<String> = ["level", "message", "msg", "time", "timestamp", "at", "label", "logger", "source"]
    var text = "\(name): \(level): \(message)"
    for field in object.fields where !told.contains(field.name) {
      text += " \(field.name)=\(field.value.string ?? field.value.text)"
    }
    return text
  }
}

package struct Console {
  package init() {}

  package func say(_ text: String) { System.write(STDOUT_FILENO, Array((text + "\n").utf8)) }
  package func warn(_ text: String) { System.write(STDERR_FILENO, Array((text + "\n").utf8)) }
}
