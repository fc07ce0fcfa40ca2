// swift-log on top of Shared's log writer: one JSON line a record on stderr, the metadata as its fields.
import Logging
import Observability
import Settings

struct JSONLogHandler: LogHandler {
  private let writer: LogWriter
  var logLevel: Logger.Level = .info
  var metadata: Logger.Metadata = [:]

  init(writer: LogWriter) { self.writer = writer }

  /// The level of a writer that leaves out nothing that a logger of this level lets through.
  static func writerLevel(_ level: Settings.LogLevel) -> Observability.LogLevel {
    switch level {
    case .trace, .debug: .debug
    case .info, .notice: .info
    case .warning: .warning
    case .error, .critical: .error
    }
  }

  subscript(metadataKey key: String) -> Logger.Metadata.Value? {
    get { metadata[key] }
    set { metadata[key] = newValue }
  }

  func log(event: LogEvent) {
    var fields: [(key: String, value: LogValue)] = []
    let all = metadata.merging(event.metadata ?? [:]) { _, new in new }
    for (name, value) in all.sorted(by: { $0.key < $1.key }) { fields.append((name, Self.field(value))) }
    let level: Observability.LogLevel =
      switch event.level {
      case .trace, .debug: .debug
      case .info, .notice: .info
      case .warning: .warning
      case .error, .critical: .error
      }
    writer.write(level, event.message.description, fields: fields)
  }

  private static func field(_ value: Logger.MetadataValue) -> LogValue {
    let text = value.description
    if let number = Int(text), String(number) == text { return .int(number) }
    return .string(text)
  }
}
