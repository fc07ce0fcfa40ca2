// An API key as Redis, routes files and replicas know it: never the key itself, only its SHA-256. Keys are made at random and
// long, so a plain digest cannot be turned back. The control plane writes the records, both planes check keys by them.
package import JSON

package struct KeyRecord: Sendable, Equatable {
  /// What a key opens.
  package enum Scope: String, Sendable, CaseIterable {
    /// REST as a whole, and everything that `session` opens.
    case admin
    /// Routes that ask for a key, and sessions over REST.
    case session
  }

  /// A name that people gave it: 1 to 64 letters, digits, `.`, `_` or `-`.
  package var id: String
  /// SHA-256 of the key: 64 hexadecimal digits in lower case.
  package var sha256: String
  package var scopes: Set<Scope>
  /// It stands in the configuration and lives as long as it stands there; others are made and removed over REST.
  package var isDeclared = false
  /// Unix milliseconds.
  package var createdAt = 0
  /// Unix milliseconds from which it opens nothing; nil = never.
  package var expiresAt: Int?

  /// Shorter keys could be guessed.
  package static let shortestKey = 16
  /// Longer ones are not looked at.
  package static let longestKey = 256

  package init(id: String, sha256: String, scopes: Set<Scope>) {
    self.id = id
    self.sha256 = sha256
    self.scopes = scopes
  }

  package init(id: String, json: JSON) throws(RecordError) {
    var fields = try Fields(json, of: "key \"\(id)\"")
    try self.init(id: id, &fields)
  }

  /// Reads all fields and refuses others.
  package init(id: String, _ fields: inout Fields) throws(RecordError) {
    guard Self.isName(id) else {
      throw RecordError("key \"\(id)\": must be named with 1 to 64 letters, digits, ., _ or -")
    }
    let digest = try fields.string("sha256")
    guard digest.utf8.count == 64, digest.utf8.allSatisfy(isHexadecimal) else {
      throw fields.error("sha256", "must be 64 hexadecimal digits: what `printf %s KEY | sha256sum` prints")
    }
    self.init(id: id, sha256: digest.lowercased(), scopes: [])
    let words = try fields.list("scopes")
    for word in words.isEmpty ? [Scope.session.rawValue] : words {
      guard let scope = Scope(rawValue: word) else {
        throw fields.error("scopes", "must be a list of admin and session, not \"\(word)\"")
      }
      scopes.insert(scope)
    }
    isDeclared = try fields.bool("declared", or: false)
    createdAt = try fields.int("createdAt", in: 0...Int.max, or: 0)
    expiresAt = try fields.optionalInt("expiresAt", in: 0...Int.max)
    try fields.finish()
  }

  package var json: JSON {
    var object: JSONObject = [
      "sha256": .string(sha256), "scopes": .array(scopes.map(\.rawValue).sorted().map { .string($0) }),
    ]
    object.set("declared", isDeclared, unless: false)
    object["createdAt"] = .int(createdAt)
    if let expiresAt { object["expiresAt"] = .int(expiresAt) }
    return .object(object)
  }

  package static func isName(_ text: String) -> Bool {
    (1...64).contains(text.utf8.count)
      && text.utf8.allSatisfy { byte in
        isHexadecimal(byte) || UInt8(ascii: "a")...UInt8(ascii: "z") ~= byte | 0x20
          || byte == UInt8(ascii: ".") || byte == UInt8(ascii: "_") || byte == UInt8(ascii: "-")
      }
  }

  /// Whether it opens what needs this scope at this moment (Unix milliseconds).
  package func opens(_ scope: Scope, now: Int) -> Bool {
    guard expiresAt.map({ now < $0 }) ?? true else { return false }
    return scopes.contains(scope) || scopes.contains(.admin)
  }
}

private func isHexadecimal(_ byte: UInt8) -> Bool {
  switch byte {
  case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "a")...UInt8(ascii: "f"),
    UInt8(ascii: "A")...UInt8(ascii: "F"):
    true
  default: false
  }
}
