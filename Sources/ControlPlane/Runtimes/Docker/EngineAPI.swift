// The Docker Engine API as Berth speaks it with one endpoint: the version that both know, calls and their errors, and the
// end of a log. Engine (containers) and Swarm (services) ask through it. Everything here blocks.
import Domain
import JSON
import Synchronization

final class EngineAPI: Sendable {
  let endpoint: EngineEndpoint
  /// What both sides speak; nil before the first contact.
  private let agreed = Mutex<APIVersion?>(nil)

  /// The newest version of the API that this code was written against, and the oldest that has all it needs (engines
  /// from 20.10 on, of which `one-shot` figures are the latest thing).
  static let newestVersion = APIVersion(major: 1, minor: 47)
  static let oldestVersion = APIVersion(major: 1, minor: 41)
  /// Answers beyond this are no list of containers.
  private static let maximumAnswerBytes = 32 << 20

  init(_ endpoint: EngineEndpoint) { self.endpoint = endpoint }

  var version: APIVersion? { agreed.withLock { $0 } }

  /// It is silent: what comes back may be an older one.
  func forgetVersion() { agreed.withLock { $0 = nil } }

  struct Answer: Sendable {
    var status: Int
    var json: JSON
  }

  /// Agrees on a version.
  func greet(_ deadline: Deadline) throws(EngineError) {
    let answer = try request("GET", "/version", nil, deadline)
    guard answer.status == 200, let newest = answer.json["ApiVersion"]?.string.flatMap(APIVersion.init) else {
      throw EngineError("\(endpoint): what answers there is no engine")
    }
    let oldest = answer.json["MinAPIVersion"]?.string.flatMap(APIVersion.init) ?? APIVersion(major: 1, minor: 0)
    let version = try APIVersion.agree(oldest: oldest, newest: newest)
    agreed.withLock { $0 = version }
  }

  /// A call whose answer must be a success; `allowing` names further statuses that are as good.
  @discardableResult func call(
    _ method: String, _ path: String, body: JSON? = nil, allowing: Set<Int> = [], deadline: Deadline
  ) throws(EngineError) -> JSON {
    let answer = try request(method, try versioned(path, deadline), body, deadline)
    guard (200...299).contains(answer.status) || allowing.contains(answer.status) else {
      throw EngineError(status: answer.status, Self.message(answer))
    }
    return answer.json
  }

  static func message(_ answer: Answer) -> String { answer.json["message"]?.string ?? "it answered \(answer.status)" }

  func versioned(_ path: String, _ deadline: Deadline) throws(EngineError) -> String {
    if let version { return "/v\(version)\(path)" }
    try greet(deadline)
    return "/v\(version ?? Self.oldestVersion)\(path)"
  }

  private func request(
    _ method: String, _ path: String, _ body: JSON?, _ deadline: Deadline
  ) throws(EngineError) -> Answer {
    let connection = try EngineConnection(endpoint, deadline: deadline)
    try connection.send(method, path, body: body, deadline: deadline)
    let bytes = try connection.rest(limit: Self.maximumAnswerBytes, deadline)
    return Answer(status: connection.status, json: (try? JSON(parsing: bytes)) ?? .null)
  }

  /// The last lines of what a container or service has written (`/containers/…`, `/services/…`); empty when there are none.
  func logTail(of thing: String, _ deadline: Deadline) -> [String] {
    // More than are shown, as empty ones are left out.
    let path = "\(thing)/logs?stdout=1&stderr=1&tail=\(3 * LogTail.maximumLines)"
    guard let path = try? versioned(path, deadline),
      let connection = try? EngineConnection(endpoint, deadline: deadline),
      (try? connection.send("GET", path, body: nil, deadline: deadline)) != nil, connection.status == 200,
      let bytes = try? connection.rest(limit: 4 << 20, deadline)
    else { return [] }
    return LogTail.lines(Self.lines(ofLog: bytes).map { $0[...] })
  }

  /// Takes apart what a container without terminal wrote: frames of one byte for the stream, three of zero, four for the
  /// length, and the text (Docker Engine API, "Attach to a container").
  static func lines(ofLog bytes: [UInt8]) -> [String] {
    var text: [UInt8] = []
    var rest = bytes[...]
    while rest.count >= 8 {
      let head = rest.prefix(8)
      let length = head.suffix(4).reduce(0) { $0 << 8 | Int($1) }
      guard head.dropFirst().prefix(3).allSatisfy({ $0 == 0 }) else { break }
      rest = rest.dropFirst(8)
      text += rest.prefix(length)
      rest = rest.dropFirst(length)
    }
    return String(decoding: text, as: UTF8.self).split(whereSeparator: \.isNewline).map(String.init)
  }

  /// A text as the value of a query.
  static func escaped(_ text: String) -> String {
    let hex = Array("0123456789ABCDEF")
    var out = ""
    for byte in text.utf8 {
      switch byte {
      case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
        UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: "."):
        out.unicodeScalars.append(Unicode.Scalar(byte))
      default:
        out += "%"
        out.append(hex[Int(byte >> 4)])
        out.append(hex[Int(byte & 15)])
      }
    }
    return out
  }
}

/// A version of the Engine API.
package struct APIVersion: Sendable, Equatable, Comparable, CustomStringConvertible {
  package var major: Int
  package var minor: Int

  package init(major: Int, minor: Int) {
    self.major = major
    self.minor = minor
  }

  package init?(_ text: String) {
    let parts = text.split(separator: ".").map { Int($0) }
    guard parts.count == 2, let major = parts[0], let minor = parts[1] else { return nil }
    self.init(major: major, minor: minor)
  }

  package static func < (a: APIVersion, b: APIVersion) -> Bool { (a.major, a.minor) < (b.major, b.minor) }
  package var description: String { "\(major).\(minor)" }

  /// The version to speak with an engine that knows those from `oldest` to `newest`.
  package static func agree(oldest: APIVersion, newest: APIVersion) throws(EngineError) -> APIVersion {
    let version = min(newest, EngineAPI.newestVersion)
    guard version >= EngineAPI.oldestVersion else {
      throw EngineError(
        status: 400,
        "the engine knows its API up to \(newest), but \(EngineAPI.oldestVersion) is needed; update it to 20.10 or later"
      )
    }
    guard version >= oldest else {
      throw EngineError(status: 400, "the engine knows its API from \(oldest) on, but this Berth only up to \(version)")
    }
    return version
  }
}

extension Duration {
  var wholeMilliseconds: Int { Int(components.seconds) * 1_000 + Int(components.attoseconds / 1_000_000_000_000_000) }
}
