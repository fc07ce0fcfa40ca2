// Which sessions this replica has live sockets of. Pure book-keeping of the coordinator's command thread: it decides when
// a session's last socket here has gone, and so when Redis is told.
import Routing

/// A waiting connection of a worker.
struct TicketKey: Hashable, Sendable {
  let worker: Int
  let ticket: UInt64
}

/// Every grant that holds is answered by exactly one release or, when the worker never saw the answer, one cancel. So the
/// number of live sockets is what was granted less what came back, for each session by itself: an entry goes with its
/// last socket, and nothing is carried over that could drift.
struct Holdings {
  private struct Hold {
    var record: SessionRecord
    /// The grants, in their order. The first `released` of them, whichever they were, have come back.
    var tickets: [TicketKey]
    var released = 0
    var live: Int { tickets.count - released }
  }
  private var holds: [String: Hold] = [:]
  /// The last session that a ticket was granted, for a cancel that crossed the answer.
  private var granted: [TicketKey: String] = [:]
  /// Grants of one session that are remembered one by one; a cancel crosses its answer within milliseconds.
  private static let remembered = 256

  var count: Int { holds.count }
  /// The sessions with live sockets here, sorted.
  var sessions: [String] { holds.keys.sorted() }
  func record(_ session: String) -> SessionRecord? { holds[session]?.record }
  func isHeld(_ session: String) -> Bool { holds[session] != nil }
  /// A session that this replica holds on the instance; the one that sorts first, so that the choice is always the same.
  func session(on instance: String) -> SessionRecord? {
    holds.values.lazy.map(\.record).filter { $0.instance == instance }.min { $0.id < $1.id }
  }

  /// Counts a socket.
  mutating func grant(_ record: SessionRecord, to ticket: TicketKey) {
    var hold = holds[record.id] ?? Hold(record: record, tickets: [])
    hold.record = record
    hold.tickets.append(ticket)
    if hold.tickets.count > 2 * Self.remembered && hold.released >= Self.remembered {
      for old in hold.tickets.prefix(Self.remembered) where granted[old] == record.id { granted[old] = nil }
      hold.tickets.removeFirst(Self.remembered)
      hold.released -= Self.remembered
    }
    holds[record.id] = hold
    granted[ticket] = record.id
  }

  /// One socket has gone; true when it was the session's last here.
  mutating func release(_ session: String) -> Bool {
    guard var hold = holds[session] else { return false }
    hold.released += 1
    return settle(session, &hold)
  }

  /// The worker never took this grant up. The session, and whether that was its last socket here; nil when the ticket
  /// holds nothing.
  mutating func cancel(_ ticket: TicketKey) -> (session: String, wasLast: Bool)? {
    guard let session = granted.removeValue(forKey: ticket), var hold = holds[session],
      let index = hold.tickets.lastIndex(of: ticket)
    else { return nil }
    hold.tickets.remove(at: index)
    return (session, settle(session, &hold))
  }

  private mutating func settle(_ session: String, _ hold: inout Hold) -> Bool {
    guard hold.live <= 0 else {
      holds[session] = hold
      return false
    }
    drop(session)
    return true
  }

  private mutating func drop(_ session: String) {
    for ticket in holds.removeValue(forKey: session)?.tickets ?? [] where granted[ticket] == session {
      granted[ticket] = nil
    }
  }

  /// The session is over: releases that are still to come mean nothing. True when it was held.
  mutating func end(_ session: String) -> Bool {
    let held = holds[session] != nil
    drop(session)
    return held
  }
}
