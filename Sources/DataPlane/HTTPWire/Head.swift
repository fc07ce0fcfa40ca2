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
package enum FieldName: UInt8, Sendable, CaseIterable, BitwiseCopyable {
  case other
  case authorization, connection, contentLength, cookie, date, expect, forwarded, host, http2Settings, keepAlive
  case maxForwards, origin
  case proxyConnection, te, trailer, transferEncoding, upgrade, via
  case xForwardedFor, xForwardedHost, xForwardedProto, xRealIP, xRequestID
  /// Any other name that begins with `X-Forwarded-`.
  case xForwardedOther
}

/// A set of field names in one word: what a head holds, what a writer leaves out.
package struct FieldSet: Sendable, Equatable, BitwiseCopyable {
  private var bits: UInt32 = 0

  @inline(__always) package init() {}
  @inline(__always) package func contains(_ name: FieldName) -> Bool { bits >> UInt32(name.rawValue) & 1 != 0 }
  @inline(__always) package mutating func insert(_ name: FieldName) { bits |= 1 << UInt32(name.rawValue) }
  @inline(__always) package func with(_ name: FieldName) -> FieldSet {
    var set = self
    set.insert(name)
    return set
  }
  @inline(__always) package mutating func formUnion(_ other: FieldSet) { bits |= other.bits }

  // Computed, so that they are constants where they are used instead of globals that are made at their first use.
  /// Fields that end at each hop (RFC 9110 §7.6.1). Transfer-Encoding stays, as bodies are relayed in their coding.
  @inline(__always) package static var hopByHop: FieldSet {
    FieldSet().with(.connection).with(.http2Settings).with(.keepAlive).with(.proxyConnection).with(.te).with(.upgrade)
  }
  /// What a peer says about where a request comes from: believed only of a trusted proxy.
  @inline(__always) package static var claims: FieldSet {
    FieldSet().with(.forwarded).with(.xForwardedFor).with(.xForwardedHost).with(.xForwardedProto)
      .with(.xForwardedOther).with(.xRealIP)
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
  /// The first ``fieldCount`` are of this head. Made once and changed in place: readers would copy an inline array.
  package internal(set) var fields = [Field](repeating: .empty, count: HTTPLimits.fieldCount)
  /// The known names among the fields.
  package internal(set) var names = FieldSet()

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
  /// OPTIONS without a path: of the server as such.
  package var isOptionsOfServer = false
  /// Max-Forwards of an OPTIONS request (RFC 9110 §7.6.2): at 0 the proxy itself has to answer.
  package var maxForwards: Int?

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
    names = FieldSet()
    method = .empty
    target = .empty
    path = .empty
    query = .empty
    authority = .empty
    isHead = false
    isGet = false
    isOptionsOfServer = false
    maxForwards = nil
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
