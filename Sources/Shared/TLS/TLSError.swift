// What goes wrong in TLS, in sentences that an operator can act on. Thrown by contexts and client streams; server
// connections return the cheap `TLSFailure` instead, whose text is only made when somebody logs it.
import COpenSSL
import Glibc

/// Why a certificate, a client connection or a file could not be used.
package struct TLSError: Error, Equatable, Sendable, CustomStringConvertible {
  package enum Kind: Sendable, Equatable {
    /// A certificate, key or CA file is missing, unreadable, malformed, or does not fit the other.
    case file
    /// The peer's certificate is not trusted or is not for this name.
    case untrusted
    /// The peer did not speak TLS with us, or broke off.
    case handshake
    /// Nothing came or could be sent for as long as the caller allows. The stream stays usable.
    case timedOut
    /// The connection is broken.
    case connection
    /// OpenSSL itself failed, e.g. no memory.
    case library
  }
  package let kind: Kind
  /// A sentence without a full stop; never contains secrets.
  package let description: String

  package init(_ kind: Kind, _ description: String) {
    self.kind = kind
    self.description = description
  }
}

/// Why a server connection failed. A value of 16 bytes; ``reason`` formats it, so call that off the hot path.
package struct TLSFailure: Error, Equatable, Sendable {
  package enum Kind: UInt8, Sendable {
    /// A plain HTTP request came to the TLS port; nothing was written to the output, so it may be answered in plain.
    case plainHTTP
    /// The first bytes were neither TLS nor HTTP.
    case notTLS
    /// The peer sent a fatal alert, e.g. because it does not trust the certificate.
    case peerAlert
    /// Client certificates are required, and the client sent none (code 0) or one that is not good (code: `X509_V_ERR_…`).
    case clientCertificate
    /// The output window had no room for a record that OpenSSL had to send (see ``TLSServerConnection/reserve``).
    case outputFull
    /// No version of TLS that both take.
    case version
    /// No suite, group or signature that both take.
    case cipher
    /// Everything else: a bad record, no memory.
    case other
  }
  package let kind: Kind
  /// OpenSSL's packed error code, or what the kind says; 0 when it gave none.
  package let code: UInt

  init(kind: Kind, code: UInt) {
    self.kind = kind
    self.code = code
  }

  /// A short reason, e.g. `unsupported protocol`.
  package var reason: String {
    switch kind {
    case .plainHTTP: "a plain HTTP request came to the TLS port"
    case .outputFull: "no room for a record in the output window"
    case .notTLS: "the peer does not speak TLS"
    case .clientCertificate:
      code == 0
        ? "the client sent no certificate, and one is required"
        : "the client's certificate is not good: \(unsafe String(cString: X509_verify_cert_error_string(Int(code))))"
    case .peerAlert, .version, .cipher, .other: code == 0 ? "unexpected end" : describe(code)
    }
  }
}

/// Which part of OpenSSL failed, one of `COPENSSL_LIBRARY_…`.
func library(of code: UInt) -> Int { Int(copenssl_error_library(code)) }
/// Why, within that part.
func reason(of code: UInt) -> Int { Int(copenssl_error_reason(code)) }

/// OpenSSL's words for an error code.
func describe(_ code: UInt) -> String {
  if let text = unsafe ERR_reason_error_string(code) { return unsafe String(cString: text) }
  // System errors have no entry in OpenSSL's table: their reason is errno.
  if copenssl_error_system(code) == 1, let text = unsafe strerror(copenssl_error_reason(code)) {
    return unsafe String(cString: text)
  }
  return "OpenSSL error \(code)"
}

/// Takes the earliest error off this thread's queue and clears the rest. The first error is the cause, those after it
/// only say who passed it on. Every failure must be taken, because OpenSSL reads the queue to tell failures apart.
func takeError() -> UInt {
  let code = ERR_get_error()
  ERR_clear_error()
  return code
}
