// The limits that an operator may change, by name: one table for `--limit NAME=VALUE`, the variables and the documents.
// berth-data reads its options with it. What stands in EngineLimits and not here is nobody's business but the engine's.
import HTTPWire

/// A limit with its name outside, its unit and the values that make sense.
package struct LimitName: Sendable {
  package enum Unit: Sendable, Equatable { case duration, bytes, count }

  /// E.g. `head-timeout`.
  package let name: String
  package let unit: Unit
  package let range: ClosedRange<Int>
  /// What it bounds, in a few words.
  package let meaning: String
  fileprivate let path: any WritableKeyPath<EngineLimits, Int> & Sendable

  fileprivate init(
    _ name: String, _ unit: Unit, _ range: ClosedRange<Int>, _ path: any WritableKeyPath<EngineLimits, Int> & Sendable,
    _ meaning: String
  ) {
    self.name = name
    self.unit = unit
    self.range = range
    self.path = path
    self.meaning = meaning
  }

  /// E.g. `BERTH_HEAD_TIMEOUT`.
  package var variable: String { "BERTH_" + name.uppercased().replacing("-", with: "_") }

  /// E.g. `10s`.
  package var defaultText: String { text(EngineLimits()[keyPath: path]) }

  /// A value as it would be written.
  package func text(_ value: Int) -> String {
    for (suffix, size) in suffixes.reversed() where value > 0 && value % size == 0 { return "\(value / size)\(suffix)" }
    return "\(value)"
  }

  /// Suffixes from small to large.
  fileprivate var suffixes: [(String, Int)] {
    switch unit {
    case .duration: [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)]
    case .bytes: [("", 1), ("k", 1_024), ("m", 1_048_576)]
    case .count: [("", 1)]
    }
  }

  fileprivate var form: String {
    switch unit {
    case .duration: "a number with ms, s, m, h or d behind it"
    case .bytes: "a number of bytes, or of KiB or MiB with k or m behind it"
    case .count: "a whole number"
    }
  }
}

/// Why a limit is refused, in a sentence that says what would be taken.
package struct LimitError: Error, CustomStringConvertible { package let description: String }

extension EngineLimits {
  /// All that can be set, in the order in which they meet a client.
  package static let names: [LimitName] = {
    let second = 1_000
    let wait = 10...3_600 * second
    let week = 10...7 * 86_400 * second
    // The kernel's bounds of tcp(7): 1 to 32,767 seconds, 1 to 127 probes.
    let probes = second...32_767 * second
    return [
      LimitName(
        "handshake-timeout", .duration, wait, \.handshakeMilliseconds, "from accept to a finished TLS handshake"),
      LimitName(
        "head-timeout", .duration, wait, \.headMilliseconds, "from accept, or a head's first byte, to its last"),
      LimitName("keep-alive-timeout", .duration, wait, \.keepAliveMilliseconds, "between two requests of a client"),
      LimitName("body-timeout", .duration, week, \.bodyMilliseconds, "between two pieces of a body, either way"),
      LimitName(
        "body-grace", .duration, week, \.bodyGraceMilliseconds,
        "from a request body's first piece, before its rate counts"),
      LimitName(
        "body-rate", .bytes, 0...1_073_741_824, \.bodyBytesPerSecond,
        "that a request's body must bring in a second on average, after body-grace; 0 = any"),
      LimitName("connect-timeout", .duration, wait, \.connectMilliseconds, "one attempt to connect to an instance"),
      LimitName(
        "first-byte-timeout", .duration, week, \.firstByteMilliseconds,
        "from a request's end to its answer's first byte"),
      LimitName("tunnel-timeout", .duration, week, \.tunnelIdleMilliseconds, "without a byte in a tunnel"),
      LimitName("linger-timeout", .duration, wait, \.lingerMilliseconds, "for one side to end after the other has"),
      LimitName(
        "gone-timeout", .duration, wait, \.goneMilliseconds, "for a slot after the client has ended its side"),
      LimitName(
        "job-timeout", .duration, wait, \.jobMilliseconds, "for Redis to say where a job is that another replica saw"),
      LimitName(
        "instance-idle-timeout", .duration, wait, \.instanceIdleMilliseconds, "a kept connection to an instance, unused"
      ),
      LimitName(
        "coordinator-timeout", .duration, wait, \.coordinatorMilliseconds,
        "for the coordinator, beyond a pool's queue timeout"),
      LimitName("connections", .count, 1...1_000_000, \.clientConnections, "clients at a time, per worker"),
      LimitName(
        "idle-instance-connections", .count, 0...65_536, \.idleInstanceConnections, "kept per instance and worker"),
      LimitName(
        "backlog", .count, 1...65_535, \.backlog, "connections that wait to be accepted, per worker and address"),
      LimitName("line-bytes", .bytes, 256...1_048_576, \.http.lineBytes, "a request or status line"),
      LimitName("head-bytes", .bytes, 1_024...1_048_576, \.http.headBytes, "a whole head"),
      LimitName(
        "discovery-bytes", .bytes, 65_536...67_108_864, \.discoveryBytes, "a DevTools answer that is rewritten"),
      LimitName("pipes", .count, 0...4_096, \.pooledPipes, "kept for splicing, per worker"),
      LimitName(
        "probe-after", .duration, probes, \.probeAfter, "of silence, then TCP asks a client whether it is there"),
      LimitName("probe-interval", .duration, probes, \.probeInterval, "between two such questions"),
      LimitName("probes", .count, 1...127, \.probes, "without an answer, then the client is gone"),
    ]
  }()

  private var backlog: Int {
    get { Int(listenBacklog) }
    set { listenBacklog = Int32(clamping: newValue) }
  }

  // The kernel counts in whole seconds; what is less than one more is rounded up.
  private var probeAfter: Int {
    get { Int(keepAliveIdleSeconds) * 1_000 }
    set { keepAliveIdleSeconds = Int32(clamping: (newValue + 999) / 1_000) }
  }
  private var probeInterval: Int {
    get { Int(keepAliveIntervalSeconds) * 1_000 }
    set { keepAliveIntervalSeconds = Int32(clamping: (newValue + 999) / 1_000) }
  }
  private var probes: Int {
    get { Int(keepAliveProbes) }
    set { keepAliveProbes = Int32(clamping: newValue) }
  }

  /// Sets one by its name. `source` is what the operator wrote it as, and begins every complaint.
  package mutating func set(_ name: String, to text: String, source: String) throws(LimitError) {
    guard let limit = Self.names.first(where: { $0.name == name }) else {
      throw LimitError(
        description: "\(source): there is no limit \"\(name)\"; there are "
          + Self.names.map(\.name).joined(separator: ", ") + ".")
    }
    let digits = text.utf8.prefix { (0x30...0x39).contains($0) }.count
    let suffix = text.dropFirst(digits)
    guard let number = Int(text.prefix(digits)), let size = limit.suffixes.first(where: { $0.0 == suffix })?.1 else {
      throw LimitError(
        description: "\(source) is \"\(text)\"; it must be \(limit.form), e.g. \(limit.defaultText).")
    }
    let (value, overflow) = number.multipliedReportingOverflow(by: size)
    guard !overflow, limit.range.contains(value) else {
      throw LimitError(
        description: "\(source) is \(text); it must be from \(limit.text(limit.range.lowerBound)) to "
          + "\(limit.text(limit.range.upperBound)).")
    }
    self[keyPath: limit.path] = value
  }

  /// Takes what variables say, then the flags in their order: `NAME=VALUE` each.
  package mutating func set(flags: [String], environment: (String) -> String?) throws(LimitError) {
    for limit in Self.names {
      guard let text = environment(limit.variable) else { continue }
      try set(limit.name, to: text, source: limit.variable)
    }
    for flag in flags {
      guard let equals = flag.firstIndex(of: "=") else {
        throw LimitError(description: "--limit is \"\(flag)\"; it must be NAME=VALUE, e.g. head-timeout=10s.")
      }
      let name = String(flag[..<equals])
      try set(name, to: String(flag[flag.index(after: equals)...]), source: "--limit \(name)")
    }
    guard http.lineBytes <= http.headBytes else {
      throw LimitError(
        description:
          "line-bytes is \(http.lineBytes) and head-bytes only \(http.headBytes): a line is a part of a head.")
    }
  }
}
