// What clients may say about a session: the body of a create and of a keepalive, the idempotency key, and the settings of
// a search. Read here, judged by the pool's limits in Handlers+Create.swift.
import JSON
package import Routing

/// A field of a body.
typealias NamedField = (name: String, value: JSON)

/// The body of POST /api/session/create.
package struct SessionRequest: Sendable, Equatable {
  package var pool: String?
  /// Milliseconds; nil = the pool's.
  package var timeout: Int?
  package var idleTimeout: Int?
  /// nil = it stays to its limits, whether it has sockets or not.
  package var grace: Int?
  package var metadata: [String: String] = [:]
  /// nil = any browser of the pool will do.
  package var launch: LaunchOptions?

  /// Metadata is kept in Redis and shown in lists, so it is kept small.
  package static let maximumMetadataFields = 50
  package static let maximumMetadataBytes = 8_192

  package init(body: [UInt8]) throws(Refusal) {
    for field in try Self.fields(of: body) where field.value != .null {
      switch field.name {
      case "pool":
        guard let name = field.value.string else { throw Refusal(400, "\"pool\" must be a string") }
        pool = name
      case "timeout": timeout = try Self.milliseconds(field)
      case "idleTimeout": idleTimeout = try Self.milliseconds(field)
      case "grace": grace = try Self.milliseconds(field)
      case "metadata": metadata = try Self.metadata(field.value)
      case "launch": launch = try Self.launch(field.value)
      default:
        throw Refusal(
          400, "unknown field \"\(field.name)\"; known are pool, timeout, idleTimeout, grace, metadata, launch")
      }
    }
  }

  /// The options of a launch; none when nothing is asked for.
  private static func launch(_ value: JSON) throws(Refusal) -> LaunchOptions? {
    do {
      var fields = try Fields(value, of: "launch")
      let options = try LaunchOptions(&fields)
      return options.isEmpty ? nil : options
    } catch {
      throw Refusal(400, error.description)
    }
  }

  private static func metadata(_ value: JSON) throws(Refusal) -> [String: String] {
    guard let entries = value.object?.fields else { throw Refusal(400, "\"metadata\" must be an object of strings") }
    var metadata: [String: String] = [:]
    var bytes = 0
    for entry in entries {
      guard let text = entry.value.string else { throw Refusal(400, "\"metadata.\(entry.name)\" must be a string") }
      metadata[entry.name] = text
      bytes += entry.name.utf8.count + text.utf8.count
    }
    guard entries.count <= maximumMetadataFields, bytes <= maximumMetadataBytes else {
      throw Refusal(
        400, "\"metadata\" may have \(maximumMetadataFields) fields of \(maximumMetadataBytes) bytes together")
    }
    return metadata
  }

  /// The fields of a body that may be left out.
  static func fields(of body: [UInt8]) throws(Refusal) -> [NamedField] {
    guard body.contains(where: { $0 > 0x20 }) else { return [] }
    let json: JSON
    do { json = try JSON(parsing: body) } catch { throw Refusal(400, "the body is not JSON: \(error)") }
    guard let fields = json.object?.fields else { throw Refusal(400, "the body must be a JSON object") }
    return fields
  }

  static func milliseconds(_ field: NamedField) throws(Refusal) -> Int {
    guard let number = field.value.int else {
      throw Refusal(400, "\"\(field.name)\" must be a whole number of milliseconds")
    }
    return number
  }
}

/// The body of POST /api/session/:id/keepalive.
package struct KeepAliveRequest: Sendable, Equatable {
  /// How long the session should be able to live from now on, milliseconds; nil = its hard limit stays.
  package var timeout: Int?

  package init(body: [UInt8]) throws(Refusal) {
    for field in try SessionRequest.fields(of: body) where field.value != .null {
      guard field.name == "timeout" else { throw Refusal(400, "unknown field \"\(field.name)\"; known is timeout") }
      timeout = try SessionRequest.milliseconds(field)
    }
  }
}

/// The header Idempotency-Key.
package struct IdempotencyKey: Sendable, Equatable {
  package static let maximumBytes = 255
  package let text: String

  package init(_ text: String) throws(Refusal) {
    guard (1...Self.maximumBytes).contains(text.utf8.count), text.utf8.allSatisfy({ (0x21...0x7E).contains($0) }) else {
      throw Refusal(
        400, "Idempotency-Key must be 1 to \(Self.maximumBytes) visible ASCII characters, e.g. a random UUID")
    }
    self.text = text
  }
}

/// The query of GET /api/sessions.
package struct SessionQuery: Sendable, Equatable {
  package static let maximumPage = 1_000
  package static let maximumFields = 10
  private static let metadataPrefix = "metadata."

  package var offset = 0
  package var limit = Self.maximumPage
  package var metadata: [String: String] = [:]

  package init(_ settings: [(name: String, value: String)]) throws(Refusal) {
    for (name, value) in settings {
      switch name {
      case "offset": offset = try Self.number(name, value, 0...10_000_000)
      case "limit": limit = try Self.number(name, value, 1...Self.maximumPage)
      case _ where name.hasPrefix(Self.metadataPrefix):
        let field = String(name.dropFirst(Self.metadataPrefix.count))
        guard SessionRecord.isSearchable(name: field, value: value) else {
          throw Refusal(
            400,
            "\"\(name)\": sessions are found by fields of 1 to 64 letters, digits, _, - and . with values of 1 to "
              + "\(SessionRecord.longestSearchedValue) bytes")
        }
        guard metadata[field] == nil else { throw Refusal(400, "\"\(name)\" stands in the query twice") }
        metadata[field] = value
      default:
        throw Refusal(400, "unknown query setting \"\(name)\"; known are offset, limit, metadata.<field>")
      }
    }
    guard metadata.count <= Self.maximumFields else {
      throw Refusal(400, "at most \(Self.maximumFields) fields of metadata can be searched for at once")
    }
  }

  private static func number(_ name: String, _ text: String, _ range: ClosedRange<Int>) throws(Refusal) -> Int {
    guard let number = Int(text), range.contains(number) else {
      throw Refusal(
        400, "\"\(name)\" must be a whole number from \(range.lowerBound) to \(range.upperBound), not \"\(text)\"")
    }
    return number
  }
}
