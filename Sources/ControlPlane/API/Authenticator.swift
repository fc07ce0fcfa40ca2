// Who may ask what over REST: a key with the scope that a route needs. Keys of the configuration are known without Redis; others
// are read from it and kept for a moment.
import Hummingbird
package import Redis
package import Routing
import State
package import Supervisor
import Synchronization
import TLS

package final class Authenticator: Sendable {
  /// Keys that were made or removed over another control plane are noticed within this time.
  private static let freshMilliseconds = 1_000

  private let isRequired: Bool
  private let declared: DeclaredKeys
  private let redis: RedisClient
  private let apiKeys: APIKeys
  private let clock: @Sendable () -> Int
  private let known = Mutex<(keys: [KeyRecord], readAt: Int)>(([], Int.min / 2))

  /// - Parameters:
  ///   - isRequired: without it everybody may do everything.
  ///   - clock: Unix milliseconds.
  package init(
    isRequired: Bool, declared: DeclaredKeys, redis: RedisClient, keys: Keys, clock: @escaping @Sendable () -> Int
  ) {
    self.isRequired = isRequired
    self.declared = declared
    self.redis = redis
    apiKeys = APIKeys(keys: keys)
    self.clock = clock
  }

  /// Refuses a request whose key does not open what it asks for: 401 without a valid key, 403 with too small a one. The
  /// name of the key that opens it; nil where none is asked for.
  func check(_ route: APIRoute, _ request: Request) async throws(Refusal) -> String? {
    guard isRequired, let scope = route.scope else { return nil }
    let offered = Self.keys(of: request)
    let now = clock()
    let declared = declared.records
    var valid = offered.compactMap { key in declared.first { Self.matches($0, key) } }
    if valid.isEmpty, !offered.isEmpty {
      let others = try await current(now: now)
      valid = offered.compactMap { key in others.first { Self.matches($0, key) } }
    }
    guard valid.contains(where: { $0.opens(.session, now: now) }) else {
      var refusal = Refusal(
        401, "this needs an API key: Authorization: Bearer <key>, the user of Basic, or ?token=<key>; docs/security.md")
      refusal.headers["www-authenticate"] = "Bearer realm=\"berth\", Basic realm=\"berth\", charset=\"UTF-8\""
      throw refusal
    }
    guard let key = valid.first(where: { $0.opens(scope, now: now) }) else {
      throw Refusal(403, "this needs a key with the scope \(scope.rawValue)")
    }
    return key.id
  }

  /// The keys in Redis; those of a moment ago while it cannot be asked.
  private func current(now: Int) async throws(Refusal) -> [KeyRecord] {
    let (keys, readAt) = known.withLock { $0 }
    if now - readAt < Self.freshMilliseconds, now >= readAt { return keys }
    do throws(RedisError) {
      let fresh = try await redis.run(apiKeys.all())
      known.withLock { $0 = (fresh, now) }
      return fresh
    } catch {
      guard readAt > 0 else { throw Refusal(error) }
      return keys
    }
  }

  private static func matches(_ record: KeyRecord, _ key: String) -> Bool {
    guard (KeyRecord.shortestKey...KeyRecord.longestKey).contains(key.utf8.count),
      let digest = SHA256Digest(hexadecimal: record.sha256)
    else { return false }
    return SHA256Digest(of: key) == digest
  }

  /// The keys that a request brings: Bearer (RFC 6750), the user of Basic (RFC 7617), the query's `token`.
  static func keys(of request: Request) -> [String] {
    var keys: [String] = []
    if let value = request.headers[.authorization], let space = value.firstIndex(of: " ") {
      let rest = value[space...].drop { $0 == " " }
      switch value[..<space].lowercased() {
      case "bearer": keys.append(String(rest))
      case "basic":
        if let text = base64(rest), let colon = text.firstIndex(of: ":") {
          keys.append(String(colon == text.startIndex ? text.dropFirst() : text[..<colon]))
        }
      default: break
      }
    }
    if let token = request.uri.queryParameters["token"] { keys.append(String(token)) }
    return keys
  }

  /// RFC 4648 §4; nil when malformed.
  private static func base64(_ text: Substring) -> String? {
    var bytes: [UInt8] = []
    var bits = 0
    var held = 0
    for byte in text.utf8 where byte != UInt8(ascii: "=") {
      let value: Int
      switch byte {
      case UInt8(ascii: "A")...UInt8(ascii: "Z"): value = Int(byte) - 65
      case UInt8(ascii: "a")...UInt8(ascii: "z"): value = Int(byte) - 71
      case UInt8(ascii: "0")...UInt8(ascii: "9"): value = Int(byte) + 4
      case UInt8(ascii: "+"): value = 62
      case UInt8(ascii: "/"): value = 63
      default: return nil
      }
      bits = bits << 6 | value
      held += 6
      if held >= 8 {
        held -= 8
        bytes.append(UInt8(truncatingIfNeeded: bits >> held))
      }
      bits &= 0xFFFF
    }
    return String(validating: bytes, as: UTF8.self)
  }
}

extension APIRoute {
  /// What a key must open for this; nil = nobody needs one: probes ask for the health.
  var scope: KeyRecord.Scope? {
    switch self {
    case .health, .ready: nil
    // Who knows a session's id may use it, so lists of ids are for administrators.
    case .createSession, .session, .endSession, .keepAlive: .session
    case .status, .metrics, .sessions, .sessionStats, .pools, .instances, .instance, .changeInstance, .stopInstance,
      .restartInstance,
      .keys, .createKey, .deleteKey:
      .admin
    }
  }
}
