// The records of implicit sessions: every client of an exclusive pool has a session, also one that never asked for it.
import Routing

enum SessionBirth {
  /// The template of a connection's session, with the limits of its pool. Redis fills in the instance.
  static func record(id: String, pool: PoolRecord, now: Int) -> SessionRecord {
    SessionRecord(
      id: id, pool: pool.name, origin: .connection, createdAt: now, expiresAt: now + pool.hardLimitMilliseconds,
      idleLimitMilliseconds: pool.idleLimitMilliseconds, graceMilliseconds: pool.graceMilliseconds)
  }

  /// A version 4 UUID in lower case (RFC 9562, 5.4): 122 bits of the system's generator, as session URLs are secrets.
  static func id() -> String {
    var random = SystemRandomNumberGenerator()
    var high: UInt64 = random.next()
    var low: UInt64 = random.next()
    high = high & 0xFFFF_FFFF_FFFF_0FFF | 0x4000
    low = low & 0x3FFF_FFFF_FFFF_FFFF | 0x8000_0000_0000_0000
    func hex(_ value: UInt64, _ digits: Int) -> String {
      let text = String(value, radix: 16)
      return String(repeating: "0", count: digits - text.utf8.count) + text
    }
    return hex(high >> 32, 8) + "-" + hex(high >> 16 & 0xFFFF, 4) + "-" + hex(high & 0xFFFF, 4) + "-"
      + hex(low >> 48, 4)
      + "-" + hex(low & 0xFFFF_FFFF_FFFF, 12)
  }
}
