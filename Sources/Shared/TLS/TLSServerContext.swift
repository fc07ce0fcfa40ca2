// A certificate with its key and the server settings, shared read-only by every worker. The data plane's daemon makes
// it at start (and again when files change); workers make connections from it.
import COpenSSL

/// The server side's certificate and settings: TLS 1.2 and 1.3, forward secrecy and AEAD only, ALPN `http/1.1`.
/// Immutable after init, so any number of threads may use it at once.
@safe package final class TLSServerContext: Sendable {
  /// `SSL_CTX`, whose reference count is atomic; every connection holds a reference of its own.
  nonisolated(unsafe) let context: OpaquePointer

  /// Reads a PEM certificate chain (leaf first) and its unencrypted PEM key. Errors name the file and the cause.
  package init(certificateFile: String, keyFile: String) throws(TLSError) {
    guard let context = unsafe SSL_CTX_new(TLS_server_method()) else {
      throw TLSError(.library, "no TLS context: \(describe(takeError()))")
    }
    unsafe self.context = unsafe context
    guard unsafe copenssl_configure_server(context) == 1 else {
      throw TLSError(.library, "no TLS settings: \(describe(takeError()))")
    }
    guard unsafe SSL_CTX_use_certificate_chain_file(context, certificateFile) == 1 else {
      throw TLSError(.file, "certificate file \(certificateFile): \(Self.cause(takeError(), wanted: "certificate"))")
    }
    guard unsafe SSL_CTX_use_PrivateKey_file(context, keyFile, SSL_FILETYPE_PEM) == 1 else {
      let code = takeError()
      if Self.mismatch(code) {
        throw TLSError(.file, "key file \(keyFile): this key does not belong to the certificate in \(certificateFile)")
      }
      throw TLSError(.file, "key file \(keyFile): \(Self.cause(code, wanted: "private key"))")
    }
    guard unsafe SSL_CTX_check_private_key(context) == 1 else {
      ERR_clear_error()
      throw TLSError(.file, "key file \(keyFile): this key does not belong to the certificate in \(certificateFile)")
    }
  }

  deinit { unsafe SSL_CTX_free(context) }

  private static func mismatch(_ code: UInt) -> Bool {
    library(of: code) == COPENSSL_LIBRARY_X509
      && [COPENSSL_KEY_VALUES_MISMATCH, COPENSSL_KEY_TYPE_MISMATCH].contains(reason(of: code))
  }

  private static func cause(_ code: UInt, wanted: String) -> String {
    switch (library(of: code), reason(of: code)) {
    case (COPENSSL_LIBRARY_PEM, COPENSSL_NO_START_LINE), (COPENSSL_LIBRARY_DECODER, COPENSSL_UNSUPPORTED):
      "there is no PEM \(wanted) in it"
    case (COPENSSL_LIBRARY_PEM, COPENSSL_BAD_PASSWORD_READ), (_, COPENSSL_INTERRUPTED):
      "it is encrypted, a key without a pass phrase is needed"
    default: describe(code)
    }
  }
}
