// Whether this process can still open files and sockets. A leader that cannot launches nothing, checks nothing, and
// keeps the lead with the connections that it has; another control plane may do better. Pure: LeaderLease asks it at
// each step.

package struct DescriptorWatch: Sendable, Equatable {
  /// A moment without descriptors is none: many launches at once end by themselves.
  package static let shortAfterMilliseconds = 3_000
  /// A leader that got the lead back, because nobody else wanted it, keeps it for so long before it tries again.
  package static let againMilliseconds = 60_000

  private var since: Int?
  private var gaveUpAt: Int?
  package private(set) var isShort = false

  package init() {}

  /// What a look at the descriptors changed.
  package enum Change: Sendable, Equatable {
    case none
    /// There have been none for a while.
    case short
    case recovered
  }

  /// - Parameters:
  ///   - hasRoom: whether some could be opened just now.
  ///   - now: milliseconds of a clock that only grows.
  package mutating func look(hasRoom: Bool, at now: Int) -> Change {
    guard !hasRoom else {
      since = nil
      defer { isShort = false }
      return isShort ? .recovered : .none
    }
    let began = since ?? now
    since = began
    guard !isShort, now - began >= Self.shortAfterMilliseconds else { return .none }
    isShort = true
    return .short
  }

  /// Whether a leader should let another one lead now; if so, it does.
  package mutating func givesUp(at now: Int) -> Bool {
    guard isShort, gaveUpAt.map({ now - $0 >= Self.againMilliseconds }) ?? true else { return false }
    gaveUpAt = now
    return true
  }
}
