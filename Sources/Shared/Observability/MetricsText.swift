// Prometheus' text format for /metrics of both daemons (exposition format 0.0.4). Called by admin ports, on no hot path.

/// Builds one answer to a scrape: `family` begins a metric, the samples after it belong to it.
package struct MetricsText: Sendable {
  /// What the answer's Content-Type says.
  package static let contentType = "text/plain; version=0.0.4; charset=utf-8"

  package enum Kind: String, Sendable { case counter, gauge, histogram }
  /// Label names and values, in the order in which they are written.
  package typealias Labels = KeyValuePairs<String, String>

  /// The answer so far.
  package private(set) var text = ""
  private var family = ""
  private var kind = Kind.gauge
  private var families: Set<String> = []

  package init() {}

  /// Begins a metric. `name` is unique in the answer and follows Prometheus' rules (counters end in `_total`, units are
  /// base units: seconds, bytes).
  package mutating func family(_ name: String, _ kind: Kind, _ help: String) {
    precondition(Self.isName(name, colons: true), "\(name) cannot be the name of a metric")
    precondition(kind != .counter || name.hasSuffix("_total"), "the counter \(name) must end in _total")
    precondition(families.insert(name).inserted, "the metric \(name) was written before")
    family = name
    self.kind = kind
    text += "# HELP \(name) \(Self.escaped(help, quotes: false))\n# TYPE \(name) \(kind.rawValue)\n"
  }

  /// A counter's or gauge's value.
  package mutating func sample(_ value: Int, _ labels: Labels = [:]) { line(family, labels, String(value)) }
  package mutating func sample(_ value: Double, _ labels: Labels = [:]) { line(family, labels, Self.number(value)) }

  /// A counter or gauge with one value only.
  package mutating func single(_ name: String, _ kind: Kind, _ help: String, _ value: Int) {
    family(name, kind, help)
    sample(value)
  }

  /// One histogram. `counts[i]` are the observations above `bounds[i - 1]` and up to `bounds[i]`; the last of `counts`
  /// are those above every bound.
  package mutating func histogram(bounds: [Double], counts: [Int], sum: Double, _ labels: Labels = [:]) {
    precondition(
      kind == .histogram && counts.count == bounds.count + 1, "\(family): one count for each bound, and one more")
    var total = 0
    for (bound, count) in zip(bounds, counts) {
      total += count
      line(family + "_bucket", labels, String(total), limit: Self.number(bound))
    }
    total += counts.last!
    line(family + "_bucket", labels, String(total), limit: "+Inf")
    line(family + "_sum", labels, Self.number(sum))
    line(family + "_count", labels, String(total))
  }

  private mutating func line(_ name: String, _ labels: Labels, _ value: String, limit: String? = nil) {
    precondition(!family.isEmpty, "a sample needs a family before it")
    text += name
    var separator = "{"
    for (label, value) in labels {
      precondition(Self.isName(label, colons: false) && label != "le", "\(label) cannot be the name of a label")
      text += "\(separator)\(label)=\"\(Self.escaped(value, quotes: true))\""
      separator = ","
    }
    if let limit {
      text += "\(separator)le=\"\(limit)\""
      separator = ","
    }
    text += separator == "{" ? " " : "} "
    text += value
    text += "\n"
  }

  private static func number(_ value: Double) -> String {
    if value.isNaN { return "NaN" }
    if value.isInfinite { return value > 0 ? "+Inf" : "-Inf" }
    return value.description
  }

  private static func isName(_ name: String, colons: Bool) -> Bool {
    guard let first = name.utf8.first, !(0x30...0x39).contains(first) else { return false }
    return name.utf8.allSatisfy { byte in
      switch byte {
      case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "_"),
        UInt8(ascii: "0")...UInt8(ascii: "9"):
        true
      case UInt8(ascii: ":"): colons
      default: false
      }
    }
  }

  private static func escaped(_ text: String, quotes: Bool) -> String {
    var out: [UInt8] = []
    for byte in text.utf8 {
      switch byte {
      case UInt8(ascii: "\\"): out += "\\\\".utf8
      case UInt8(ascii: "\n"): out += "\\n".utf8
      case UInt8(ascii: "\"") where quotes: out += "\\\"".utf8
      default: out.append(byte)
      }
    }
    return String(decoding: out, as: UTF8.self)
  }
}
