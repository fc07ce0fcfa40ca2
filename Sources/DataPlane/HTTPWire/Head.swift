// A parsed message head as offsets into the bytes that it was parsed from: nothing is copied, nothing allocated.
// Filled by HeadParser, read by HeadWriter and the engine.

/// A range of bytes in the buffer that a head was parsed from.
package struct Slice: Sendable, Equatable, BitwiseCopyable {
  package var start: UInt32
  package var count: UInt32
  package static let empty = Slice(0, 0)

  @inline(__always) package init(_ start: Int, _ count: Int) {
    self.start = UInt32(truncatingIfNeeded: start)
    self.count = UInt32(truncatingIfNeeded: count)
  }
  @inline(__always) package var lower: Int { Int(start) }
  @inline(__always) package var upper: Int { Int(start) + Int(count) }
  package var isEmpty: Bool { count == 0 }
}

/// The fields that the proxy itself acts on.
package enum FieldName: UInt8, Sendable, BitwiseCopyable {
  case other
  case connection, contentLength, expect, forwarded, host, keepAlive, origin, proxyConnection, te, trailer
  case transferEncoding, upgrade, via, xForwardedFor, xForwardedHost, xForwardedProto

  /// Fields that end at each hop (RFC 9110 §7.6.1). Transfer-Encoding stays, as bodies are relayed in their coding.
  package var isHopByHop: Bool {
    switch self {
    case .connection, .keepAlive, .proxyConnection, .te, .upgrade: true
    default: false
    }
  }
}

/// One header field line; `line` spans from the name's first byte to the LF.
package struct Field: Sendable, BitwiseCopyable {
  package var name: Slice
  package var value: Slice
  package var line: Slice
  package var known: FieldName
  package static let empty = Field(name: .empty, value: .empty, line: .empty, known: .other)
}

/// How a body ends (RFC 9112 §6.3).
package enum BodyFraming: Sendable, Equatable, BitwiseCopyable {
  case none
  case length(UInt64)
  case chunked
  /// Responses only: the body ends with the connection.
  case untilClose
}

package enum Upgrade: UInt8, Sendable, BitwiseCopyable { case none, webSocket, other }

/// The head of a request or response. One instance is used again and again by a worker.
package struct Head: ~Copyable {
  /// Bytes from the first of the start line to the empty line's LF, and what stood before it.
  package var byteCount = 0
  package var fieldCount = 0
  package var fields = InlineArray<128, Field>(repeating: .empty)

  // Start line of a request.
  package var method = Slice.empty
  package var target = Slice.empty
  /// Path of the target (origin form, or cut out of the absolute form); `*` for OPTIONS *.
  package var path = Slice.empty
  /// Query with its `?`, or empty.
  package var query = Slice.empty
  /// The authority that the request is for: of an absolute-form target, else of Host (RFC 9112 §3.2.2).
  package var authority = Slice.empty
  package var isHead = false
  package var isGet = false

  // Start line of a response.
  package var status = 0
  package var reason = Slice.empty

  /// 0 or 1 of HTTP/1.x.
  package var minorVersion: UInt8 = 1
  package var framing = BodyFraming.none
  /// Whether this side would keep the connection (RFC 9112 §9.3).
  package var keepsAlive = true
  package var upgrade = Upgrade.none
  package var expectsContinue = false
  /// Connection names fields beside close, keep-alive and upgrade, which then end here as well.
  package var nominatesFields = false

  package init() {}

  mutating func reset() {
    byteCount = 0
    fieldCount = 0
    method = .empty
    target = .empty
    path = .empty
    query = .empty
    authority = .empty
    isHead = false
    isGet = false
    status = 0
    reason = .empty
    minorVersion = 1
    framing = .none
    keepsAlive = true
    upgrade = .none
    expectsContinue = false
    nominatesFields = false
  }
}

package enum ParseResult: Sendable, Equatable {
  /// The head is not complete yet and nothing in it is wrong so far as it was looked at.
  case needsMore
  case complete
  case failed(HTTPError)
}
