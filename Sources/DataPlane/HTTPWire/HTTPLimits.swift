// What one HTTP message may cost the proxy, and every reason why a message is refused.

/// Limits of message heads. Bytes unless the name says otherwise.
package struct HTTPLimits: Sendable {
  /// Request or status line: long enough for every URL that browsers send, short enough to bound a parse.
  package var lineBytes = 16_384
  /// The whole head: a Chrome DevTools client with large cookies stays far below.
  package var headBytes = 65_536
  /// Header fields in one head; the parser's table has room for exactly this many.
  package static let fieldCount = 128
  /// Chunk extensions in one chunk header: nobody uses them, so little is enough (RFC 9112 §7.1.1).
  package static let chunkExtensionBytes = 256
  /// Trailer section of a chunked body.
  package static let trailerBytes = 8_192

  package init() {}
}

/// Why a message is refused. The text says what the peer must change; ``status`` is the answer to a request.
package enum HTTPError: UInt8, Error, Sendable, CaseIterable, BitwiseCopyable {
  case notHTTP, tlsOnPlainPort, badMethod, badTarget, dotSegment, badVersion, unsupportedVersion, bareLineFeed,
    bareCarriageReturn
  case badFieldName, ambiguousFieldName, whitespaceBeforeColon, foldedField, badFieldValue
  case lineTooLong, headTooLarge, tooManyFields
  case missingHost, duplicateHost, badHost
  case badContentLength, duplicateContentLength, lengthAndTransferEncoding, badTransferEncoding, transferEncodingIn10
  case connectMethod, traceMethod, unsupportedExpectation, badUpgrade
  case badChunkSize, badChunk, chunkExtensionTooLong, badTrailer, trailerTooLarge
  case badStatusLine

  /// The status of RFC 9110 §15 for a request with this fault.
  package var status: Int {
    switch self {
    case .lineTooLong: 414
    case .headTooLarge, .tooManyFields: 431
    case .unsupportedVersion: 505
    case .unsupportedExpectation: 417
    case .badTransferEncoding, .connectMethod, .traceMethod: 501
    default: 400
    }
  }

  package var sentence: String {
    switch self {
    case .notHTTP: "The first bytes are no HTTP request. Send HTTP/1.1."
    case .tlsOnPlainPort:
      "This is the plain port and a TLS handshake came in. Use http:// or ws:// here, or the TLS port."
    case .badMethod: "The method is not a token of RFC 9110 section 5.6.2."
    case .badTarget: "The request target is malformed. Percent-encode everything outside visible ASCII."
    case .dotSegment: "The path holds a segment . or .., which must be resolved before the request is sent."
    case .badVersion: "The request line must end with HTTP/1.1 or HTTP/1.0."
    case .unsupportedVersion: "Only HTTP/1.1 and HTTP/1.0 are spoken here."
    case .bareLineFeed: "A line ends with LF alone. Lines end with CR LF."
    case .bareCarriageReturn: "A CR stands without LF. Lines end with CR LF."
    case .badFieldName: "A header field name is empty or not a token."
    case .ambiguousFieldName: "A header field name has _ where a field of the proxy has -; some servers mix them up."
    case .whitespaceBeforeColon: "White space stands between a header field name and its colon."
    case .foldedField: "A header field is folded over several lines. Send it on one line."
    case .badFieldValue: "A header field value holds a control character."
    case .lineTooLong: "The request line is too long."
    case .headTooLarge: "The header section is too large."
    case .tooManyFields: "There are more header fields than the \(HTTPLimits.fieldCount) that are taken."
    case .missingHost: "The Host header field is missing."
    case .duplicateHost: "There is more than one Host header field."
    case .badHost: "The Host is not a host name or address with an optional port."
    case .badContentLength: "Content-Length is not a decimal number."
    case .duplicateContentLength: "There is more than one Content-Length."
    case .lengthAndTransferEncoding: "Content-Length and Transfer-Encoding exclude each other."
    case .badTransferEncoding: "The only transfer coding taken is chunked, once."
    case .transferEncodingIn10: "HTTP/1.0 has no Transfer-Encoding."
    case .connectMethod: "CONNECT is not offered. WebSocket tunnels begin with GET and Upgrade."
    case .traceMethod: "TRACE is not offered."
    case .unsupportedExpectation: "The only expectation taken is 100-continue."
    case .badUpgrade: "A WebSocket upgrade is a GET of HTTP/1.1 without a body."
    case .badChunkSize: "A chunk size is not a hexadecimal number of at most 15 digits."
    case .badChunk: "A chunk does not end with CR LF."
    case .chunkExtensionTooLong: "A chunk extension is too long or holds a control character."
    case .badTrailer: "A trailer field is malformed, or names what must stand in the header."
    case .trailerTooLarge: "The trailer section is too large."
    case .badStatusLine: "The status line is malformed."
    }
  }
}
