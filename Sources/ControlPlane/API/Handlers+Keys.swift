// API keys over REST: made, listed and removed. A key is shown once, when it is made.
import JSON
import Logging
import Observability
package import Routing
import State
import Supervisor
import TLS

/// The body of POST /api/keys.
package struct KeyRequest: Sendable, Equatable {
  package var id: String
  package var scopes: Set<KeyRecord.Scope> = [.session]
  /// Milliseconds; nil = for ever.
  package var lifetime: Int?

  /// Ten years.
  private static let longest = 10 * 366 * 86_400_000

  package init(body: [UInt8]) throws(Refusal) {
    let json: JSON
    do { json = try JSON(parsing: body) } catch { throw Refusal(400, "the body is not JSON: \(error)") }
    guard let fields = json.object?.fields else { throw Refusal(400, "the body must be a JSON object") }
    var name: String?
    for field in fields where field.value != .null {
      switch field.name {
      case "id": name = field.value.string
      case "scopes":
        let words = field.value.array?.map { $0.string.flatMap(KeyRecord.Scope.init) } ?? []
        guard !words.isEmpty, !words.contains(nil) else {
          throw Refusal(400, "\"scopes\" must be a list of session and admin")
        }
        scopes = Set(words.compactMap { $0 })
      case "lifetime":
        guard let milliseconds = field.value.int, (1...Self.longest).contains(milliseconds) else {
          throw Refusal(400, "\"lifetime\" must be a whole number of milliseconds, up to \(Self.longest)")
        }
        lifetime = milliseconds
      default: throw Refusal(400, "unknown field \"\(field.name)\"; known are id, scopes, lifetime")
      }
    }
    guard let name, KeyRecord.isName(name) else {
      throw Refusal(400, "\"id\" must name the key with 1 to 64 letters, digits, ., _ or -")
    }
    id = name
  }
}

extension Handlers {
  func keys() async throws(Refusal) -> Answer {
    let list = try await run(APIKeys(keys: keys).all())
    return Answer(["keys": .array(list.map(describe))])
  }

  /// Without the digest: nobody needs it to tell keys apart.
  private func describe(_ record: KeyRecord) -> JSON {
    [
      "id": .string(record.id), "scopes": .array(record.scopes.map(\.rawValue).sorted().map { .string($0) }),
      "declared": .bool(record.isDeclared),
      "createdAt": record.createdAt > 0 ? .string(rfc3339(unixMilliseconds: record.createdAt)) : .null,
      "expiresAt": record.expiresAt.map { .string(rfc3339(unixMilliseconds: $0)) } ?? .null,
    ]
  }

  func create(_ request: KeyRequest) async throws(Refusal) -> Answer {
    // 192 random bits.
    let key = "berth_" + (0..<3).map { _ in hexadecimal(UInt64.random(in: 0 ... .max)) }.joined()
    let now = clock()
    var record = KeyRecord(id: request.id, sha256: SHA256Digest(of: key).hexadecimal, scopes: request.scopes)
    record.createdAt = now
    record.expiresAt = request.lifetime.map { now + $0 }
    switch try await run(APIKeys(keys: keys).create(record, now: now)) {
    case .exists: throw Refusal(409, "there is a key \(request.id) already; DELETE /api/keys/\(request.id) removes it")
    case .full: throw Refusal(429, "there are \(APIKeys.limit) keys, as many as may be; remove some")
    case .created: break
    }
    logger.notice(
      "key created", metadata: ["id": "\(request.id)", "scopes": "\(request.scopes.map(\.rawValue).sorted())"])
    guard var object = describe(record).object else { return Answer(201, .null) }
    object["key"] = .string(key)
    return Answer(201, .object(object))
  }

  func deleteKey(_ id: String) async throws(Refusal) -> Answer {
    if configuration.declaredKeys.contains(id) {
      throw Refusal(409, "the key \(id) stands in the keys file; take it out there, which is noticed within seconds")
    }
    guard try await run(APIKeys(keys: keys).remove(id, now: clock())) else {
      throw Refusal(404, "there is no key \(id); GET /api/keys lists them")
    }
    logger.notice("key removed", metadata: ["id": "\(id)"])
    return Answer(["message": .string("the key \(id) opens nothing any more")])
  }

  private func hexadecimal(_ number: UInt64) -> String {
    let digits = String(number, radix: 16)
    return String(repeating: "0", count: 16 - digits.count) + digits
  }
}
