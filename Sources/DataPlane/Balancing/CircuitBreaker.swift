// One member's circuit breaker: closed → open → half-open → closed or open again. A plain state machine; what a change
// means for the pool (who can be picked) is PoolBalancer+Ejection.swift's.

struct CircuitBreaker: Sendable, BitwiseCopyable {
  enum Phase: UInt8, Sendable {
    case closed, open
    /// Half-open: its time is over, and no request tries it yet.
    case waiting
    /// Half-open: one request tries it.
    case probing
  }

  private(set) var phase = Phase.closed
  /// Ejections in a row; the next one lasts base × 2^ejections.
  private(set) var ejections: UInt8 = 0
  private(set) var consecutiveFailures: UInt16 = 0
  /// When the member may be probed; as long as it is open.
  private(set) var until = 0
  /// When it closed, and for how long it had been out before.
  private var closedAt = 0
  private var lastDuration = 0

  init() {}

  var isHalfOpen: Bool { phase == .waiting || phase == .probing }

  // MARK: While closed

  mutating func succeeded() { consecutiveFailures = 0 }

  /// A failure after which `before` failures stand in a row, this one not counted. True when they are too many.
  mutating func failed(before: UInt16, limit: Int) -> Bool {
    consecutiveFailures = min(max(consecutiveFailures, before), UInt16.max - 1) + 1
    return limit > 0 && Int(consecutiveFailures) >= limit
  }

  /// closed → open
  mutating func eject(_ settings: BalancerSettings, now: Int) {
    precondition(phase == .closed, "only a closed circuit opens by failures; a probe's failure reopens it")
    // Who was well for as long as it was out before begins anew.
    if now - closedAt >= lastDuration { ejections = 0 }
    open(settings, now)
  }

  // MARK: While open and half-open

  /// open → half-open
  mutating func timeIsOver() {
    precondition(phase == .open, "only an open circuit waits")
    phase = .waiting
  }

  /// half-open: a request goes to the member to find out how it is.
  mutating func beginProbe() {
    precondition(phase == .waiting, "one probe at a time")
    phase = .probing
  }

  /// The probe said nothing: another request may be it.
  mutating func giveProbeBack() {
    precondition(phase == .probing, "no probe is under way")
    phase = .waiting
  }

  /// half-open → closed
  mutating func close(now: Int) {
    precondition(phase == .probing, "only a probe closes the circuit")
    phase = .closed
    consecutiveFailures = 0
    closedAt = now
  }

  /// half-open → open, for twice as long
  mutating func reopen(_ settings: BalancerSettings, now: Int) {
    precondition(phase == .probing, "only a probe opens the circuit again")
    open(settings, now)
  }

  private mutating func open(_ settings: BalancerSettings, _ now: Int) {
    let base = max(settings.ejectionBaseMilliseconds, 1)
    let longest = max(settings.ejectionMaximumMilliseconds, base)
    lastDuration = ejections >= 32 || base > longest >> Int(ejections) ? longest : base << Int(ejections)
    ejections = min(ejections, UInt8.max - 1) + 1
    consecutiveFailures = 0
    until = now + lastDuration
    phase = .open
  }
}
