// Who a client has proved to be by a certificate. Workers ask for it once a connection, when a route forwards it; making its
// text is not for the hot path.
import COpenSSL

/// The facts of a client's certificate that was verified. All text is printable ASCII, so it may stand in a header.
package struct TLSClientCertificate: Sendable, Equatable {
  /// As RFC 4514 writes it, most specific part first, e.g. `CN=robot,O=Example`.
  package let subject: String
  package let issuer: String
  /// Hexadecimal, upper case.
  package let serial: String
  /// SHA-256 of the certificate, hexadecimal, lower case.
  package let fingerprint: String
  /// Unix seconds.
  package let notAfter: Int
}

extension TLSServerConnection {
  /// The certificate that the client has shown and that one of the authorities has signed; nil when it has shown none.
  /// One that is not good fails the handshake, so there is no third case. To be asked before ``detach()``.
  package var clientCertificate: TLSClientCertificate? {
    guard let ssl = unsafe ssl, let certificate = unsafe copenssl_client_certificate(ssl) else { return nil }
    defer { unsafe X509_free(certificate) }
    var digest = [UInt8](repeating: 0, count: 32)
    guard unsafe copenssl_fingerprint(certificate, &digest) == 1,
      let subject = unsafe take(copenssl_subject(certificate)),
      let issuer = unsafe take(copenssl_issuer(certificate)), let serial = unsafe take(copenssl_serial(certificate))
    else {
      ERR_clear_error()
      return nil
    }
    let digits = Array("0123456789abcdef".utf8)
    let fingerprint = String(
      decoding: digest.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] }, as: UTF8.self)
    return TLSClientCertificate(
      subject: subject, issuer: issuer, serial: serial, fingerprint: fingerprint,
      notAfter: Int(unsafe copenssl_not_after(certificate)))
  }
}

@unsafe private func take(_ text: UnsafeMutablePointer<CChar>?) -> String? {
  guard let text = unsafe text else { return nil }
  defer { unsafe copenssl_free(text) }
  return unsafe String(cString: text)
}
