// Follows a chunked body (RFC 9112 §7.1) to find its end and to refuse what two readers could read differently. The
// bytes themselves are relayed as they are, so this never copies.

/// Where in a chunked body the next byte stands. A plain value of 24 bytes, part of a connection.
package struct ChunkedBody: Sendable, BitwiseCopyable {
  enum Position: UInt8 {
    case sizeStart, size, extensionText, sizeLF, data, dataCR, dataLF, trailerStart, trailer, trailerLF, endLF, ended
  }
  var position = Position.sizeStart
  /// Bytes of the current chunk, extension or trailer section so far or still to come.
  var digits: UInt8 = 0
  var small: UInt16 = 0
  /// Of a chunk: bytes of its data still to come. In a trailer's name: a hash of the name so far.
  var remaining: UInt64 = 0
  /// Bytes of the body itself so far, without what chunks it.
  package private(set) var dataBytes: UInt64 = 0

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
    dataBytes &+= count
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
        dataBytes &+= take
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
          remaining = Self.add(byte, to: Self.nameHash)
          position = .trailer
        }
      case .trailer:
        small += 1
        guard Int(small) <= HTTPLimits.trailerBytes else { return .failed(.trailerTooLarge) }
        if digits == 0 {
          if byte == UInt8(ascii: ":") {
            guard !Self.mayNotTrail(remaining) else { return .failed(.badTrailer) }
            digits = 1
          } else {
            guard isTokenCharacter(byte) else { return .failed(.badTrailer) }
            remaining = Self.add(byte, to: remaining)
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

  // MARK: Names that may not trail

  /// Fields that frame or route a message must stand in its header (RFC 9110 §6.5.1): a server that merges trailers
  /// into the header would believe them. A name is known by its FNV-1a hash, because its bytes may have passed already.
  private static func mayNotTrail(_ hash: UInt64) -> Bool {
    switch hash {
    case 0xC7F5_97EA_639B_1B59: true  // connection
    case 0x2D69_A1E6_EE91_6E7D: true  // content-length
    case 0xDFE9_32C2_A3FA_588B: true  // forwarded
    case 0x4077_F8CC_7EAF_4D6F: true  // host
    case 0x47B6_1074_EA27_35D5: true  // http2-settings
    case 0x9B91_2FCF_8DA6_9BE0: true  // keep-alive
    case 0x5BC2_B1FC_8570_C386: true  // proxy-connection
    case 0x08C8_3307_B56A_B672: true  // te
    case 0xDAC5_827C_E61E_8E00: true  // trailer
    case 0x8640_BD73_5E9D_802C: true  // transfer-encoding
    case 0x7F7D_77D7_C2A0_3DB7: true  // upgrade
    case 0x9093_1636_2464_0828: true  // x-forwarded-for
    case 0xB05C_1BCF_BB65_B387: true  // x-forwarded-host
    case 0xF86F_AEA5_DA3D_2459: true  // x-forwarded-proto
    case 0x6E08_5FE4_6E59_36A0: true  // x-real-ip
    default: false
    }
  }

  private static let nameHash: UInt64 = 0xCBF2_9CE4_8422_2325

  @inline(__always) private static func add(_ byte: UInt8, to hash: UInt64) -> UInt64 {
    (hash ^ UInt64(byte == UInt8(ascii: "_") ? UInt8(ascii: "-") : lowercase(byte))) &* 0x100_0000_01B3
  }
}
