// Places at the instances of a pool with `maxConnections`: how many requests each has, and who waits for one, first come
// first served. Pure; the engine shares one between its workers behind a lock (PlaceGate). Pools without the limit have none.

package struct PlaceQueue: ~Copyable, Sendable {
  package struct Waiter: Sendable, Equatable, BitwiseCopyable {
    package let worker: Int32
    package let ticket: UInt64
    /// The only instance that the request may go to; nil = any.
    package let instance: UInt64?

    package init(worker: Int, ticket: UInt64, instance: UInt64?) {
      self.worker = Int32(truncatingIfNeeded: worker)
      self.ticket = ticket
      self.instance = instance
    }
  }

  /// Requests that one instance may have at a time; 0 = as many as come.
  package var limit: Int
  /// Requests under way by instance (`StableHash` of its id).
  private var taken: [UInt64: Int] = [:]
  /// From `first` on: a queue that is shortened from its front without moving the rest each time.
  private var waiters: [Waiter] = []
  private var first = 0
  private var waitingForAny = 0

  package init(limit: Int) { self.limit = limit }

  package var waitingCount: Int { waiters.count - first }
  package func taken(at instance: UInt64) -> Int { taken[instance] ?? 0 }
  /// Somebody waits for whichever instance has room first, so nobody may pass.
  package var isWaitedForAny: Bool { waitingForAny > 0 }

  // MARK: Coming

  /// Takes a place if there is one that nobody waits for.
  package mutating func enter(_ instance: UInt64) -> Bool {
    guard hasRoom(instance), next(for: instance) == nil else { return false }
    taken[instance, default: 0] += 1
    return true
  }

  /// Stands in line. Call it only after ``enter(_:)`` was tried at all that would do, without letting anybody else in between.
  package mutating func wait(_ waiter: Waiter) {
    waiters.append(waiter)
    if waiter.instance == nil { waitingForAny += 1 }
  }

  /// Leaves the line; false when it is not there: a place is on its way to it.
  package mutating func cancel(worker: Int, ticket: UInt64) -> Bool {
    // Who waits longest gives up first.
    guard let index = waiters[first...].firstIndex(where: { $0.ticket == ticket && $0.worker == worker }) else {
      return false
    }
    remove(index)
    return true
  }

  // MARK: Going

  /// A request has left its instance.
  package mutating func leave(_ instance: UInt64) {
    guard let count = taken[instance] else { preconditionFailure("who leaves has entered") }
    taken[instance] = count > 1 ? count - 1 : nil
  }

  /// The place of this instance that is free for the longest waiter who would take it; it is the waiter's now.
  package mutating func give(_ instance: UInt64) -> Waiter? {
    guard first < waiters.count, hasRoom(instance), let index = next(for: instance) else { return nil }
    let waiter = waiters[index]
    taken[instance, default: 0] += 1
    remove(index)
    return waiter
  }

  // MARK: The line

  private func hasRoom(_ instance: UInt64) -> Bool { limit == 0 || (taken[instance] ?? 0) < limit }

  /// Where the first one stands who would take a place at this instance.
  private func next(for instance: UInt64) -> Int? {
    guard first < waiters.count else { return nil }
    return waiters[first...].firstIndex { $0.instance == nil || $0.instance == instance }
  }

  private mutating func remove(_ index: Int) {
    if waiters[index].instance == nil { waitingForAny -= 1 }
    if index == first { first += 1 } else { waiters.remove(at: index) }
    if first == waiters.count {
      waiters.removeAll(keepingCapacity: true)
      first = 0
    } else if first >= 64, first * 2 >= waiters.count {
      waiters.removeFirst(first)
      first = 0
    }
  }
}
