// Follows a chunked body (RFC 9112 §7.1) to find its end and to refuse what two readers could read differently. The
// bytes themselves are relayed as they are, so this never copies.

/// Where in a chunked body the next byte stands. A plain value of 16 bytes, part of a connection.
package struct ChunkedBody: Sendable, BitwiseCopyable {
  enum Position: UInt8 {
    case sizeStart, size, extensionText, sizeLF, data, dataCR, dataLF, trailerStart, trailer, trailerLF, endLF, ended
  }
  var position = Position.sizeStart
  /// Bytes of the current chunk, extension or trailer section so far or still to come.
  var digits: UInt8 = 0
  var small: UInt16 = 0
  var remaining: UInt64 = 0

  package init() {}

  package enum Outcome: Sendable, Equatable {
    /// All bytes belong to the body and it goes on.
    case more
    /// The body ended after this many of the bytes.
    case ended(Int)
    case failed(HTTPError)
  }

  /// Bytes that may pass without being looked at: inside a chunk's data the rest of it.
  package var dataRemaining: UInt64 { position == .data ? remaining : 0 }
  /// Says that so many bytes of the chunk's data passed unseen (by splice); at most ``dataRemaining``.
  package mutating func skip(_ count: UInt64) {
    remaining -= count
    if remaining == 0 { position = .dataCR }
  }

  package mutating func scan(_ bytes: Span<UInt8>) -> Outcome {
    var index = 0
    while index < bytes.count {
      let byte = bytes[index]
      switch position {
      case .sizeStart:
        guard hexadecimalDigit(byte) != nil else { return .failed(.badChunkSize) }
        position = .size
        remaining = 0
        digits = 0
        continue
      case .size:
        if let digit = hexadecimalDigit(byte) {
          digits += 1
          guard digits <= 15 else { return .failed(.badChunkSize) }
          remaining = remaining << 4 | UInt64(digit)
        } else if byte == 0x0D {
          position = .sizeLF
        } else if byte == UInt8(ascii: ";") {
          position = .extensionText
          small = 0
        } else {
          return .failed(.badChunkSize)
        }
      case .extensionText:
        if byte == 0x0D {
          position = .sizeLF
        } else {
          small += 1
          guard isFieldContent(byte), Int(small) <= HTTPLimits.chunkExtensionBytes else {
            return .failed(.chunkExtensionTooLong)
          }
        }
      case .sizeLF:
        guard byte == 0x0A else { return .failed(.badChunkSize) }
        small = 0
        position = remaining == 0 ? .trailerStart : .data
      case .data:
        let take = min(remaining, UInt64(bytes.count - index))
        remaining -= take
        index += Int(take)
        if remaining == 0 { position = .dataCR }
        continue
      case .dataCR:
        guard byte == 0x0D else { return .failed(.badChunk) }
        position = .dataLF
      case .dataLF:
        guard byte == 0x0A else { return .failed(.badChunk) }
        position = .sizeStart
      case .trailerStart:
        if byte == 0x0D {
          position = .endLF
        } else {
          guard isTokenCharacter(byte) else { return .failed(.badTrailer) }
          small += 1
          digits = 0  // counts nothing here: 0 = inside the name, 1 = after the colon
          position = .trailer
        }
      case .trailer:
        small += 1
        guard Int(small) <= HTTPLimits.trailerBytes else { return .failed(.trailerTooLarge) }
        if digits == 0 {
          if byte == UInt8(ascii: ":") {
            digits = 1
          } else {
            guard isTokenCharacter(byte) else { return .failed(.badTrailer) }
          }
        } else if byte == 0x0D {
          position = .trailerLF
        } else {
          guard isFieldContent(byte) else { return .failed(.badTrailer) }
        }
      case .trailerLF:
        guard byte == 0x0A else { return .failed(.badTrailer) }
        position = .trailerStart
      case .endLF:
        guard byte == 0x0A else { return .failed(.badTrailer) }
        position = .ended
        return .ended(index + 1)
      case .ended: preconditionFailure("a chunked body was scanned after its end")
      }
      index += 1
    }
    return .more
  }
}
