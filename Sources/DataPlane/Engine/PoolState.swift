// What a worker keeps of a pool from table to table: its balancer, with what is known of the members, and the indexes that
// were lent for global_round_robin. Behind a pointer each, so that routes and requests under way can name it for good.
import Balancing
import Routing

@safe struct PoolState: ~Copyable {
  var balancer: PoolBalancer
  /// Requests and tunnels under way that have a turn here.
  var turns = 0
  var isInTable = true
  /// Indexes that nobody else has, for global_round_robin: those in use, and those for afterwards.
  var block: Range<UInt64> = 0..<0
  var nextBlock: Range<UInt64> = 0..<0
  /// When more were asked for last.
  var borrowedAt = Int.min / 2
  /// What of the balancer's counters has been told already.
  var told = BalancerCounters()
  let pool: String
  /// These are the backups of the pool.
  let isBackup: Bool
  /// The places of the pool's instances, if they are or were limited; held in `PlaceGates`.
  var gate: Unmanaged<PlaceGate>?

  init(_ settings: BalancerSettings, seed: UInt64, pool: String, isBackup: Bool) {
    balancer = PoolBalancer(settings, seed: seed)
    self.pool = pool
    self.isBackup = isBackup
  }

  /// By which the backups of a pool stand beside it; no pool has a space in its name.
  static func backupName(_ pool: String) -> String { pool + " backup" }
}

/// A pool's state, passed by value. It stays valid while it is in the table or a turn is under way.
@safe struct PoolHandle: BitwiseCopyable {
  private let state: UnsafeMutablePointer<PoolState>

  init(_ settings: BalancerSettings, seed: UInt64, pool: String, isBackup: Bool) {
    unsafe state = .allocate(capacity: 1)
    unsafe state.initialize(to: PoolState(settings, seed: seed, pool: pool, isBackup: isBackup))
  }

  @inline(__always) var s: PoolState {
    @_transparent unsafeAddress { unsafe UnsafePointer(state) }
    @_transparent nonmutating unsafeMutableAddress { unsafe state }
  }

  func free() {
    unsafe state.deinitialize(count: 1)
    unsafe state.deallocate()
  }

  /// The next index of the blocks that were lent, or nil when there is none.
  func nextIndex() -> UInt64? {
    if s.block.isEmpty {
      s.block = s.nextBlock
      s.nextBlock = 0..<0
    }
    guard !s.block.isEmpty else { return nil }
    let index = s.block.lowerBound
    s.block = index + 1..<s.block.upperBound
    return index
  }

  /// Whether another block should be asked for. At most once a second, as none comes while Redis is away.
  func wantsBlock(now: Int) -> Bool {
    guard s.nextBlock.isEmpty, s.block.count < 128, now - s.borrowedAt >= 1_000 else { return false }
    s.borrowedAt = now
    return true
  }

  func lend(_ block: Range<UInt64>) {
    if s.block.isEmpty { s.block = block } else { s.nextBlock = block }
    s.borrowedAt = Int.min / 2
  }
}

extension BalancerSettings {
  init(_ pool: PoolRecord) {
    self.init()
    slowStartMilliseconds = pool.slowStartMilliseconds
    consecutiveFailures = pool.ejection.consecutiveFailures
    errorPercent = pool.ejection.errorPercent
    ejectionBaseMilliseconds = pool.ejection.baseMilliseconds
    ejectionMaximumMilliseconds = pool.ejection.maximumMilliseconds
    panicPercent = pool.panicPercent
  }
}

extension Strategy {
  var method: BalancingMethod {
    switch self {
    case .roundRobin: .roundRobin
    case .globalRoundRobin: .globalRoundRobin
    case .leastConnections: .leastConnections
    case .powerOfTwo: .powerOfTwo
    case .random: .random
    case .ipHash, .headerHash, .cookieHash: .hash
    case .responseTime: .responseTime
    case .resources: .resources
    }
  }
}
