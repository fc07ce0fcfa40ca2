// What one line of the access log tells, in the form in which a worker notes it. Workers fill one at the end of a request
// or tunnel; AccessLogLines writes it as JSON, docs/access-log.md explains each field.
package import Posix
package import ProxyMachine

package struct AccessRecord: BitwiseCopyable, Sendable {
  package struct Flags: OptionSet, BitwiseCopyable, Sendable {
    package let rawValue: UInt8
    @inline(__always) package init(rawValue: UInt8) { self.rawValue = rawValue }
    /// The client speaks TLS.
    package static let tls = Flags(rawValue: 1)
    /// Its TLS session was resumed.
    package static let resumed = Flags(rawValue: 2)
    /// The exchange became a tunnel; the record is written at the tunnel's end.
    package static let tunnel = Flags(rawValue: 4)
    /// It belongs to a session of an exclusive pool.
    package static let session = Flags(rawValue: 8)
  }

  /// Monotonic microseconds at which the request's head was complete; for a connection without a request, its accept.
  package var startedMicroseconds = 0
  /// From there to the last byte of the answer, or to the end of the tunnel.
  package var totalMicroseconds = 0
  /// Bytes of the client's head and body, and of what it was sent; of a tunnel all of both directions.
  package var bytesFromClient: UInt64 = 0
  package var bytesToClient: UInt64 = 0
  /// Waiting for a slot; -1 = it needed none.
  package var queueMicroseconds: Int32 = -1
  /// The connection attempt that succeeded; -1 = a kept connection was used.
  package var connectMicroseconds: Int32 = -1
  /// From the start to the first byte of the instance's answer; -1 = there was none.
  package var firstByteMicroseconds: Int32 = -1
  package var client = SocketAddress()
  /// Said in the place of a name when the instance has no row of its own.
  package var instanceAddress = SocketAddress()
  package var route: LabelRow = AccessRecord.noRow
  package var pool: LabelRow = AccessRecord.noRow
  package var instance: LabelRow = AccessRecord.noRow
  /// What the client was answered; 0 = nothing.
  package var status: UInt16 = 0
  /// ``CloseReason/responseComplete``, which is not written, for requests that went well.
  package var reason = CloseReason.responseComplete
  package var flags = Flags(rawValue: 0)
  package var retries: UInt8 = 0

  package init() {}

  package static let noRow = LabelRow.max
  /// A family was set: it is no address that nobody filled.
  @inline(__always) var hasInstanceAddress: Bool { instanceAddress.port != 0 }

  /// What is longer than this is cut: a record is bounded, and so is what a client can make a log grow by.
  package static let idBytes = 128
  package static let methodBytes = 32
  package static let authorityBytes = 255
  package static let targetBytes = 512
}
