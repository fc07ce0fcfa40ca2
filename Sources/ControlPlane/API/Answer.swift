// What goes back to a client: JSON with a status, and for errors a sentence that says what to do.
import Domain
package import JSON
import Redis
import Routing

/// An answer of the REST API, before it becomes HTTP.
package struct Answer: Sendable, Equatable {
  package var status: Int
  package var json: JSON
  /// Names in lower case.
  package var headers: [String: String] = [:]
  /// Text in Prometheus' format, which is sent instead of `json`.
  package var metrics: String?

  package init(_ status: Int, _ json: JSON, headers: [String: String] = [:]) {
    self.status = status
    self.json = json
    self.headers = headers
  }
  package init(_ json: JSON) { self.init(200, json) }
}

/// Why a request is not answered as asked.
package struct Refusal: Error, Sendable, Equatable {
  package let status: Int
  package let message: String
  package var headers: [String: String] = [:]

  package init(_ status: Int, _ message: String, retryAfterSeconds: Int? = nil) {
    self.status = status
    self.message = message
    if let retryAfterSeconds { headers["retry-after"] = String(retryAfterSeconds) }
  }

  package var answer: Answer { Answer(status, ["error": .string(message)], headers: headers) }

  /// Redis could not be asked.
  init(_ error: RedisError) {
    if error.isUnavailable || error == .shutdown {
      self.init(503, "Redis cannot be reached; try again in a moment (\(error))", retryAfterSeconds: 2)
    } else {
      self.init(500, "Redis gave an unexpected answer: \(error)")
    }
  }

  static func noSession(_ id: String) -> Refusal {
    Refusal(404, "there is no session \(id): it never was, or it has ended; POST /api/session/create makes a new one")
  }

  static func noInstance(_ id: String) -> Refusal {
    Refusal(404, "there is no instance \(id); GET /api/instances lists them")
  }
}

/// What `PATCH /api/instances/:id` may change.
package struct InstanceChange: Sendable, Equatable {
  package var weight: Int

  package init(body: [UInt8]) throws(Refusal) {
    let json: JSON
    do { json = try JSON(parsing: body) } catch { throw Refusal(400, "the body is not JSON: \(error)") }
    guard let fields = json.object?.fields else { throw Refusal(400, "the body must be a JSON object") }
    if let other = fields.first(where: { $0.name != "weight" }) {
      throw Refusal(400, "unknown field \"\(other.name)\"; known is weight")
    }
    let range = InstanceRecord.weights
    guard let weight = fields.first?.value.int, range.contains(weight) else {
      throw Refusal(400, "\"weight\" must be a whole number from \(range.lowerBound) to \(range.upperBound)")
    }
    self.weight = weight
  }
}
