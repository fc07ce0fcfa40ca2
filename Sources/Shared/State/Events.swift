// What happened to instances and sessions, for the dashboard, webhooks and logs. Scripts record session.created,
// session.ended and the instance events themselves; everything else is appended here.
package import Routing

package struct Event: Sendable, Equatable {
  package let streamID: String
  /// What happened, e.g. `session.ended`.
  package let type: String
  /// To whom: the id of the session, instance, replica …
  package let id: String
  package let reason: String
  /// Unix milliseconds.
  package let at: Int
  package let fields: [String: String]

  package init(streamID: String, type: String, id: String, reason: String, at: Int, fields: [String: String]) {
    self.streamID = streamID
    self.type = type
    self.id = id
    self.reason = reason
    self.at = at
    self.fields = fields
  }
}

package struct Events: Sendable {
  private let keys: Keys
  package init(keys: Keys) { self.keys = keys }

  /// Records what happened. Not repeated after a lost answer, since that could record it twice.
  package func append(type: String, id: String, reason: String, fields: [String: String] = [:], now: Int)
    -> Command<Void>
  {
    var words = [
      "XADD", keys.events, "MAXLEN", "~", String(SharedScript.streamLength), "*", "type", type, "id", id,
      "reason", reason, "at", String(now),
    ]
    for (name, value) in fields.sorted(by: { $0.key < $1.key }) {
      precondition(!["type", "id", "reason", "at"].contains(name), "an event has its own field \(name)")
      words += [name, value]
    }
    return Command(.words(words), parse: Read.nothing())
  }

  /// The newest events, the newest first.
  package func recent(count: Int) -> Command<[Event]> {
    Command(.words(["XREVRANGE", keys.events, "+", "-", "COUNT", String(count)]), mayRepeat: true) {
      (reply: Reply) throws(StateError) -> [Event] in
      var events: [Event] = []
      for entry in try reply.streamEntries(of: "events") { events.append(try Event(entry: entry)) }
      return events
    }
  }
}

extension Events {
  /// Redis gives events its own clock's time, hosts give sessions theirs; the two should agree within a second.
  private static let clocksApart = 2_000
  /// As many are looked through: those of some seconds at hundreds of sessions a second.
  private static let looksAt = 2_000

  /// Why a session ended at this time; nil when that is forgotten, or too much happened around it.
  package func end(of session: String, at time: Int) -> Command<String?> {
    let words = [
      "XRANGE", keys.events, String(max(0, time - Self.clocksApart)), String(time + Self.clocksApart), "COUNT",
      String(Self.looksAt),
    ]
    return Command(.words(words), mayRepeat: true) { (reply: Reply) throws(StateError) -> String? in
      for entry in try reply.streamEntries(of: "events") {
        let event = try Event(entry: entry)
        if event.type == "session.ended", event.id == session { return event.reason }
      }
      return nil
    }
  }

  /// The events after the one with this id, the oldest first.
  package func after(_ streamID: String, count: Int) -> Command<[Event]> {
    Command(.words(["XRANGE", keys.events, "(" + streamID, "+", "COUNT", String(count)]), mayRepeat: true) {
      (reply: Reply) throws(StateError) -> [Event] in
      var events: [Event] = []
      for entry in try reply.streamEntries(of: "events") { events.append(try Event(entry: entry)) }
      return events
    }
  }
}

extension Event {
  package init(entry: StreamEntry) throws(StateError) {
    var fields = entry.fields
    guard let type = fields.removeValue(forKey: "type"), let id = fields.removeValue(forKey: "id"),
      let at = fields.removeValue(forKey: "at").flatMap({ Int($0) })
    else { throw StateError("event \(entry.id): the fields type, id and at were expected, \(entry.fields) came") }
    self.init(
      streamID: entry.id, type: type, id: id, reason: fields.removeValue(forKey: "reason") ?? "", at: at, fields: fields
    )
  }
}
