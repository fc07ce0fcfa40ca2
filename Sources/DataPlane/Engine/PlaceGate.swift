// The places of a pool's instances as the workers of a process share them, and the gates of all pools that have a limit.
// A request of such a pool takes the lock twice; requests of other pools know nothing of it. Worker+Places.swift uses it.
import Balancing
import Synchronization

/// One pool's places.
final class PlaceGate: Sendable {
  let pool: String
  private let queue: Mutex<PlaceQueue>

  init(pool: String, limit: Int) {
    self.pool = pool
    queue = Mutex(PlaceQueue(limit: limit))
  }

  @inline(__always) func withQueue<R: Sendable>(_ body: (inout PlaceQueue) -> R) -> R {
    queue.withLock { queue in body(&queue) }
  }
}

/// By pool, as long as some worker has a request or a table that needs it.
final class PlaceGates: Sendable {
  private struct Held {
    let gate: PlaceGate
    var holders = 0
  }
  private let gates = Mutex<[String: Held]>([:])

  /// The pool's gate, for the caller until it calls ``release(_:)``.
  func hold(_ pool: String, limit: Int) -> PlaceGate {
    gates.withLock { gates in
      var held = gates[pool] ?? Held(gate: PlaceGate(pool: pool, limit: limit))
      held.holders += 1
      gates[pool] = held
      return held.gate
    }
  }

  func release(_ pool: String) {
    gates.withLock { gates in
      guard var held = gates[pool] else { return }
      held.holders -= 1
      gates[pool] = held.holders == 0 ? nil : held
    }
  }
}
