// TLS handshakes that came to nothing, by reason: which counter each is, and what /metrics calls it. Workers add, the daemon's
// page shows.
import ProxyMachine
import TLS

extension Counter {
  /// All reasons, with their labels.
  package static let tlsFailures: [(counter: Counter, label: String)] = [
    (.tlsPlainHTTP, "plain_http"), (.tlsNotTLS, "not_tls"), (.tlsVersion, "version"), (.tlsCipher, "cipher"),
    (.tlsClientCertificate, "client_certificate"), (.tlsAlert, "alert"), (.tlsGone, "gone"), (.tlsTimeout, "timeout"),
    (.tlsOther, "other"),
  ]

  /// What a failure that TLS itself has told counts as.
  init(_ kind: TLSFailure.Kind) {
    self =
      switch kind {
      case .plainHTTP: .tlsPlainHTTP
      case .notTLS: .tlsNotTLS
      case .version: .tlsVersion
      case .cipher: .tlsCipher
      case .clientCertificate: .tlsClientCertificate
      case .peerAlert: .tlsAlert
      case .outputFull, .other: .tlsOther
      }
  }

  /// What it counts as when a connection ends for this reason before its handshake has; nil when TLS has told before.
  init?(endOfHandshake reason: CloseReason) {
    switch reason {
    case .handshakeFailed: return nil
    case .handshakeTimeout: self = .tlsTimeout
    case .clientReset, .clientAborted: self = .tlsGone
    default: self = .tlsOther
    }
  }
}
