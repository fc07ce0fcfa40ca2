// All that the balancer of a pool knows of one member.

struct Member: Sendable, BitwiseCopyable {
  var place: Int32 = -1
  /// Requests and tunnels under way.
  var active: Int32 = 0
  /// Weight in units of 1/256, with slow start.
  var effective: UInt32 = 0
  /// Where it is in `PoolBalancer.order`; -1 = nowhere (weight 0 or gone).
  var position: Int32 = -1
  /// Where it is in `PoolBalancer.probes`; -1 = nowhere.
  var probe: Int32 = -1
  /// Results of turns of an earlier epoch say nothing of the circuit as it is now.
  var epoch: UInt32 = 0
  /// Turns of an earlier epoch are not of this member: another one had its place.
  var born: UInt32 = 0
  var weight: UInt16 = 0
  /// Percent; the higher one of CPU and memory. Half when unknown.
  var load: UInt8 = Self.unknownLoad
  /// It left the pool with turns under way.
  var isGone = false
  var isRamping = false
  var breaker = CircuitBreaker()
  var response = ResponseTime()
  var key: UInt64 = 0
  var generation = 0
  /// When its slow start began, and when its weight was last adapted to it.
  var rampStart = 0
  var rampedAt = 0

  static let unknownLoad: UInt8 = 50

  /// Its full weight in the unit of `effective`.
  var fullWeight: UInt32 { UInt32(weight) << 8 }

  /// May be picked, as far as the circuit breaker is concerned.
  @inline(__always) var isUsable: Bool { breaker.phase == .closed && position >= 0 }
}
