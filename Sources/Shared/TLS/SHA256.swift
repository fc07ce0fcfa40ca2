// SHA-256 for API keys, which are known by their digests only. Called by workers for each request of a route that asks for a
// key, and by the control plane.
import COpenSSL

/// A digest as four words, big end first, so that comparing two is cheap and takes the same time for all.
package struct SHA256Digest: Sendable, Equatable, BitwiseCopyable {
  package var words: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)

  package init() {}

  /// Of some bytes (FIPS 180-4). Does not allocate.
  package init(of bytes: Span<UInt8>) {
    var digest: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)
    unsafe withUnsafeMutableBytes(of: &digest) { output in
      unsafe bytes.withUnsafeBufferPointer { input in
        // A null pointer is no input, not even of no bytes.
        var nothing: UInt8 = 0
        let out = unsafe output.assumingMemoryBound(to: UInt8.self).baseAddress!
        if let base = input.baseAddress {
          unsafe copenssl_sha256(base, input.count, out)
        } else {
          unsafe copenssl_sha256(&nothing, 0, out)
        }
      }
    }
    words = (digest.0.bigEndian, digest.1.bigEndian, digest.2.bigEndian, digest.3.bigEndian)
  }

  package init(of text: String) { self.init(of: Array(text.utf8).span) }

  /// Reads 64 hexadecimal digits.
  package init?(hexadecimal text: String) {
    let digits = Array(text.utf8)
    guard digits.count == 64 else { return nil }
    var words: [UInt64] = []
    for start in stride(from: 0, to: 64, by: 16) {
      guard let word = UInt64(String(decoding: digits[start..<start + 16], as: UTF8.self), radix: 16) else {
        return nil
      }
      words.append(word)
    }
    self.words = (words[0], words[1], words[2], words[3])
  }

  /// 64 hexadecimal digits in lower case.
  package var hexadecimal: String {
    var text = ""
    for word in [words.0, words.1, words.2, words.3] {
      let digits = String(word, radix: 16)
      text += String(repeating: "0", count: 16 - digits.count) + digits
    }
    return text
  }

  /// Looks at all words whether the first differ or not.
  @inline(__always) package static func == (a: SHA256Digest, b: SHA256Digest) -> Bool {
    (a.words.0 ^ b.words.0) | (a.words.1 ^ b.words.1) | (a.words.2 ^ b.words.2) | (a.words.3 ^ b.words.3) == 0
  }
}
