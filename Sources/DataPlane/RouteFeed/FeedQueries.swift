// Whether the history of changes that the feed has followed still goes on, asked after a connection was lost.
import Redis
import Routing
import State

/// What became of the stream of changes since a reader's last entry.
enum Continuity: Equatable {
  /// The entry is still there: what follows it is all that was missed.
  case whole
  /// The entry was trimmed: some changes are missed for good, but it is the same history, so what a snapshot does not
  /// have any more has been removed.
  case trimmed
  /// Redis came back empty, or with an older state: what a snapshot does not have may be alive all the same.
  case lost
}

struct FeedQueries {
  /// What XINFO STREAM tells: entries now, entries ever, and the ids of the last entry ever and the first one now.
  private struct Stream: Sendable {
    let length: Int
    let added: Int
    let newest: String
    let oldest: String?
  }

  let keys: Keys

  func continuity(after id: String, on connection: RedisConnection) throws(RedisError) -> Continuity {
    // Two plain commands: whatever is written between them cannot turn one answer into another, as entries only go at
    // the old end and come at the new one.
    let entry = Command<Bool>(.words(["XRANGE", keys.changes, id, id]), mayRepeat: true) {
      (reply: Reply) throws(StateError) in try !reply.streamEntries(of: "XRANGE").isEmpty
    }
    if id != "0-0", try connection.run(entry) { return .whole }
    let information = Command<Stream>(
      .words(["XINFO", "STREAM", keys.changes]), mayRepeat: true
    ) { (reply: Reply) throws(StateError) in
      var fields: [String: Reply] = [:]
      for (name, value) in try reply.pairs(of: "XINFO") { fields[name] = value }
      let first = fields["first-entry"] ?? .null
      return Stream(
        length: try (fields["length"] ?? .null).int(of: "XINFO"),
        added: try (fields["entries-added"] ?? .null).int(of: "XINFO"),
        newest: try (fields["last-generated-id"] ?? .null).string(of: "XINFO"),
        oldest: first == .null ? nil : try first.list(of: "XINFO", count: 2)[0].string(of: "XINFO"))
    }
    let stream: Stream
    do { stream = try connection.run(information) } catch {
      // No stream yet: nothing was missed by a reader that never saw an entry, everything by another.
      if case .server(let message) = error, message.contains("no such key") { return id == "0-0" ? .whole : .lost }
      throw error
    }
    if id == "0-0" { return stream.added == stream.length ? .whole : .trimmed }
    // A stream that never lost an entry and yet does not have ours is another one.
    guard stream.added > stream.length, !Self.isOlder(stream.newest, than: id) else { return .lost }
    // Ours can only have been trimmed together with everything before it.
    return stream.oldest.map { Self.isOlder(id, than: $0) } ?? true ? .trimmed : .lost
  }

  /// Compares `<ms>-<sequence>`.
  static func isOlder(_ a: String, than b: String) -> Bool {
    func parts(_ id: String) -> (UInt64, UInt64) {
      let parts = id.split(separator: "-")
      return (parts.first.flatMap { UInt64($0) } ?? 0, parts.dropFirst().first.flatMap { UInt64($0) } ?? 0)
    }
    return parts(a) < parts(b)
  }
}
