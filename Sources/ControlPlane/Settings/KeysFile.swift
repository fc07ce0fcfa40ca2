// The file of API keys (`keysFile`): one key a line, so that a secret store can write it. The daemon reads it at its start and
// when it changes, and the leader declares what is in it.
package import Routing
import TLS

package enum KeysFile {
  /// Reads lines of name, scopes and key:
  ///
  ///     # name    scopes    key, or its digest as sha256:<64 hexadecimal digits>
  ///     ops       admin     5b0f8c1f6b1d4a0e9d3c
  ///     ci        session   sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
  ///
  /// - Parameter name: of the file, for errors.
  package static func parse(_ text: String, name: String) throws(SettingsError) -> [KeyRecord] {
    var records: [KeyRecord] = []
    var digests: [String: String] = [:]
    for (index, line) in text.split(separator: "\n", omittingEmptySubsequences: false).enumerated() {
      let words = line.split(whereSeparator: { $0 == " " || $0 == "\t" || $0 == "\r" })
      guard let first = words.first, !first.hasPrefix("#") else { continue }
      let place = "\(name):\(index + 1)"
      // What stands there may be a key: no error repeats it.
      guard words.count == 3 else {
        throw SettingsError("\(place): a line has a name, scopes (session, admin) and a key, with spaces between them")
      }
      let id = String(first)
      guard KeyRecord.isName(id) else {
        throw SettingsError("\(place): a key is named with 1 to 64 letters, digits, ., _ or -")
      }
      guard !records.contains(where: { $0.id == id }) else {
        throw SettingsError("\(place): there is a key \(id) already; each needs a name of its own")
      }
      var scopes: Set<KeyRecord.Scope> = []
      for word in words[1].split(separator: ",") {
        guard let scope = KeyRecord.Scope(rawValue: String(word)) else {
          throw SettingsError("\(place): scopes are session and admin, with a comma between them")
        }
        scopes.insert(scope)
      }
      let digest = try digest(of: String(words[2]), place: place)
      if let other = digests[digest] { throw SettingsError("\(place): \(id) is the same key as \(other)") }
      digests[digest] = id
      var record = KeyRecord(id: id, sha256: digest, scopes: scopes)
      record.isDeclared = true
      records.append(record)
    }
    guard !records.isEmpty else { throw SettingsError("\(name): has no key, so nobody could use anything") }
    return records
  }

  private static func digest(of key: String, place: String) throws(SettingsError) -> String {
    if key.hasPrefix("sha256:") {
      guard let digest = SHA256Digest(hexadecimal: String(key.dropFirst(7))) else {
        throw SettingsError(
          "\(place): after sha256: come 64 hexadecimal digits, as `printf %s KEY | sha256sum` prints them")
      }
      return digest.hexadecimal
    }
    guard (KeyRecord.shortestKey...KeyRecord.longestKey).contains(key.utf8.count) else {
      throw SettingsError(
        "\(place): a key has \(KeyRecord.shortestKey) to \(KeyRecord.longestKey) bytes; make one by: openssl rand -hex 24"
      )
    }
    return SHA256Digest(of: key).hexadecimal
  }
}

/// Sees that the file has changed. A change counts when two looks in a row have found the same: who writes a file in place
/// writes it in pieces, and half a file may be a good one with fewer keys.
package struct KeysFileWatch: Sendable {
  private var seen: [UInt8]?
  private var told: [UInt8]?

  /// - Parameter bytes: as it is now; nil = it cannot be read.
  package init(_ bytes: [UInt8]?) {
    seen = bytes
    told = bytes
  }

  /// Whether it is time to read it again; said once for each change, so that a bad file is complained about once.
  package mutating func look(_ bytes: [UInt8]?) -> Bool {
    defer { seen = bytes }
    guard bytes == seen, bytes != told else { return false }
    told = bytes
    return true
  }
}
