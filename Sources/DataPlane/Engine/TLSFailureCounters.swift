// TLS handshakes that came to nothing: all of them are counted together, those with a known reason also by it. Workers add,
// the daemon's /metrics page shows.
import ProxyMachine
import TLS

extension Counter {
  private static let tlsReasons: [(counter: Counter, label: String)] = [
    (.tlsPlainHTTP, "plain_http"), (.tlsNotTLS, "not_tls"), (.tlsVersion, "version"), (.tlsCipher, "cipher"),
    (.tlsClientCertificate, "client_certificate"), (.tlsAlert, "alert"), (.tlsGone, "gone"), (.tlsTimeout, "timeout"),
  ]

  /// Every reason with its number; what has no counter of its own is `other`.
  package static func tlsFailuresByReason(_ value: (Counter) -> Int) -> [(reason: String, count: Int)] {
    let known = tlsReasons.map { (reason: $0.label, count: value($0.counter)) }
    // The two are not read at the same moment.
    return known + [("other", max(0, value(.tlsFailures) - known.reduce(0) { $0 + $1.count }))]
  }

  /// What a failure that TLS itself has told counts as, beside ``tlsFailures``.
  fileprivate init?(_ kind: TLSFailure.Kind) {
    switch kind {
    case .plainHTTP: self = .tlsPlainHTTP
    case .notTLS: self = .tlsNotTLS
    case .version: self = .tlsVersion
    case .cipher: self = .tlsCipher
    case .clientCertificate: self = .tlsClientCertificate
    case .peerAlert: self = .tlsAlert
    case .outputFull, .other: return nil
    }
  }
}

extension Worker {
  /// Counts a handshake that TLS itself has failed; the connection is then closed as ``CloseReason/handshakeFailed``.
  func countFailedHandshake(_ failure: TLSFailure) {
    s.metrics.add(.tlsFailures)
    if let counter = Counter(failure.kind) { s.metrics.add(counter) }
  }

  /// Counts a connection that ends before its handshake has, unless TLS has told before.
  func countUnfinishedHandshake(_ reason: CloseReason) {
    guard reason != .handshakeFailed else { return }
    s.metrics.add(.tlsFailures)
    switch reason {
    case .handshakeTimeout: s.metrics.add(.tlsTimeout)
    case .clientReset, .clientAborted: s.metrics.add(.tlsGone)
    default: break
    }
  }
}
