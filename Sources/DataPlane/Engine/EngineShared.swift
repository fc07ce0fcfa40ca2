// What all workers of an engine share: limits that hold for the process, places at instances, and where Firecrawl's jobs
// live. None of it is touched by requests of routes that do not ask for it.
import Balancing

final class EngineShared: Sendable {
  let rates: RateLimiter
  let connections: ClientCounter
  let jobs = JobAffinity()
  let gates = PlaceGates()
  /// By worker: where a place that becomes free in one is told to the one whose client waits for it.
  let inboxes: [Mailbox]

  init(inboxes: [Mailbox]) {
    self.inboxes = inboxes
    // Secret, so that nobody can choose addresses that share an entry.
    rates = RateLimiter(seed: UInt64.random(in: 0...UInt64.max))
    connections = ClientCounter(seed: UInt64.random(in: 0...UInt64.max))
  }
}
