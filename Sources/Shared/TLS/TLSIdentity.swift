// A certificate with its key as they lie on the disk: PEM files in the forms that other servers read, too. TLSServerContext
// is made of them; the data plane's daemon reads them at start and again when they change.
import COpenSSL
import Glibc

/// A certificate chain, its private key, the names that it is for, and an OCSP answer if one lies beside it. Immutable.
@safe package final class TLSIdentity: Sendable {
  /// Where it came from; errors and metrics name it by the first.
  package let certificateFile: String
  package let keyFile: String
  /// Lower case; `*.example.com` stands for one label. Empty when the certificate has none.
  package let names: [String]
  /// Unix seconds at which the certificate ends.
  package let notAfter: Int
  /// What is wrong with the files beside it, which the certificate itself can do without.
  package let warnings: [String]

  nonisolated(unsafe) let leaf: OpaquePointer
  nonisolated(unsafe) let key: OpaquePointer
  nonisolated(unsafe) let chain: OpaquePointer
  let staple: Staple?
  /// Tells key types apart: one context takes one certificate of each.
  let keyType: Int32

  struct Staple: Sendable {
    let der: [UInt8]
    let until: Int64
  }

  /// Reads a PEM chain, leaf first, and its unencrypted PEM key. Without `keyFile` the key is looked for in the
  /// certificate's own file, then in `<file>.key`, then in the file of the same name that ends in `.key`.
  package init(certificateFile: String, keyFile: String? = nil, clockOffsetSeconds: Int = 0) throws(TLSError) {
    let text = try readFile(certificateFile, "certificate file")
    let chain = unsafe try Self.chain(text, certificateFile)
    let leaf = unsafe chain.leaf
    var key: OpaquePointer?
    var keySource = keyFile ?? certificateFile
    do throws(TLSError) {
      if let keyFile {
        unsafe key = try Self.key(try readFile(keyFile, "key file"), keyFile)
      } else {
        (unsafe key, keySource) = try unsafe Self.keyBeside(certificateFile, text)
      }
      guard let found = unsafe key, unsafe copenssl_fits(leaf, found) == 1 else {
        ERR_clear_error()
        let owner =
          keySource == certificateFile ? "the first certificate in it" : "the certificate in \(certificateFile)"
        throw TLSError(.file, "key file \(keySource): this key does not belong to \(owner)")
      }
    } catch {
      unsafe EVP_PKEY_free(key)
      unsafe X509_free(leaf)
      unsafe copenssl_free_chain(chain.rest)
      throw error
    }
    unsafe self.leaf = unsafe leaf
    unsafe self.key = unsafe key!
    unsafe self.chain = unsafe chain.rest
    self.certificateFile = certificateFile
    self.keyFile = keySource
    keyType = unsafe EVP_PKEY_get_base_id(key!)
    names = unsafe Self.names(leaf)
    notAfter = Int(unsafe copenssl_not_after(leaf))
    var warnings: [String] = []
    let now = time(nil) + clockOffsetSeconds
    if notAfter <= now { warnings.append("certificate file \(certificateFile): it has expired") }
    unsafe staple = Self.staple(certificateFile + ".ocsp", leaf, clockOffsetSeconds, &warnings)
    self.warnings = warnings
  }

  deinit {
    unsafe X509_free(leaf)
    unsafe EVP_PKEY_free(key)
    unsafe copenssl_free_chain(chain)
  }

  // MARK: Parts

  @unsafe private static func chain(_ text: [UInt8], _ file: String) throws(TLSError) -> (
    leaf: OpaquePointer, rest: OpaquePointer
  ) {
    guard let bio = unsafe copenssl_text(text, text.count), let rest = unsafe copenssl_new_chain() else {
      throw TLSError(.library, "certificate file \(file): \(describe(takeError()))")
    }
    defer { unsafe BIO_free(bio) }
    ERR_clear_error()
    var leaf: OpaquePointer?
    while let certificate = unsafe copenssl_next_certificate(bio) {
      if unsafe leaf == nil {
        unsafe leaf = unsafe certificate
      } else {
        _ = unsafe copenssl_extend_chain(rest, certificate)
        unsafe X509_free(certificate)
      }
    }
    let code = takeError()
    guard let found = unsafe leaf, code == 0 else {
      unsafe X509_free(leaf)
      unsafe copenssl_free_chain(rest)
      let why = code == 0 ? "there is no PEM certificate in it" : describe(code)
      throw TLSError(.file, "certificate file \(file): \(why)")
    }
    return unsafe (found, rest)
  }

  @unsafe private static func keyBeside(_ file: String, _ text: [UInt8]) throws(TLSError) -> (OpaquePointer, String) {
    if holdsKey(text) { return unsafe (try key(text, file), file) }
    let candidates = keyFiles(beside: file)
    for candidate in candidates where isThere(candidate) {
      return unsafe (try key(try readFile(candidate, "key file"), candidate), candidate)
    }
    throw TLSError(
      .file,
      "certificate file \(file): there is no private key in it, nor in \(candidates.joined(separator: " or "))")
  }

  /// Where the key of a certificate may lie that has none in its own file.
  static func keyFiles(beside file: String) -> [String] {
    var candidates = [file + ".key"]
    if let dot = file.lastIndex(of: "."), file[dot...].firstIndex(of: "/") == nil {
      candidates.append(String(file[..<dot]) + ".key")
    }
    return candidates
  }

  /// Whether a PEM private key of any kind begins in the text.
  static func holdsKey(_ text: [UInt8]) -> Bool { String(decoding: text, as: UTF8.self).contains("PRIVATE KEY-----") }

  @unsafe private static func key(_ text: [UInt8], _ file: String) throws(TLSError) -> OpaquePointer {
    guard let bio = unsafe copenssl_text(text, text.count) else {
      throw TLSError(.library, "key file \(file): \(describe(takeError()))")
    }
    defer { unsafe BIO_free(bio) }
    ERR_clear_error()
    if let key = unsafe copenssl_private_key(bio) {
      ERR_clear_error()
      return unsafe key
    }
    let code = takeError()
    let why =
      switch (library(of: code), reason(of: code)) {
      case (COPENSSL_LIBRARY_PEM, COPENSSL_NO_START_LINE), (COPENSSL_LIBRARY_DECODER, COPENSSL_UNSUPPORTED):
        "there is no PEM private key in it"
      case (COPENSSL_LIBRARY_PEM, COPENSSL_BAD_PASSWORD_READ), (_, COPENSSL_INTERRUPTED):
        "it is encrypted, a key without a pass phrase is needed"
      default: describe(code)
      }
    throw TLSError(.file, "key file \(file): \(why)")
  }

  @unsafe private static func names(_ leaf: OpaquePointer) -> [String] {
    guard let text = unsafe copenssl_names(leaf) else { return [] }
    defer { unsafe copenssl_free(text) }
    let lines = unsafe String(cString: text).lowercased().split(separator: "\n").map(String.init)
    // Only whole labels may be wild (RFC 6125, 6.4.3), and only the first one.
    return lines.filter { !$0.dropFirst($0.hasPrefix("*.") ? 2 : 0).contains("*") }
  }

  /// The answer of an OCSP responder beside the certificate. One that is of no use is left out, with a warning: clients
  /// that want one ask the responder themselves.
  @unsafe private static func staple(
    _ file: String, _ leaf: OpaquePointer, _ clockOffset: Int, _ warnings: inout [String]
  ) -> Staple? {
    guard isThere(file) else { return nil }
    let der: [UInt8]
    do { der = try readFile(file, "OCSP file") } catch {
      warnings.append(error.description)
      return nil
    }
    var until: Int64 = 0
    let why: String
    switch unsafe Int(copenssl_check_ocsp(der, der.count, leaf, Int64(clockOffset), &until)) {
    case COPENSSL_OCSP_GOOD: return Staple(der: der, until: until)
    case COPENSSL_OCSP_FAILED: why = "the responder answered with an error"
    case COPENSSL_OCSP_OTHER: why = "it is about another certificate"
    case COPENSSL_OCSP_EXPIRED: why = "it has expired"
    default: why = "it is no OCSP response in DER"
    }
    warnings.append("OCSP file \(file): \(why), so none is stapled")
    return nil
  }
}

func isThere(_ path: String) -> Bool { unsafe access(path, F_OK) == 0 }

/// A file's bytes. Certificates, keys and secrets are small, so more than a megabyte is a mistake.
func readFile(_ path: String, _ what: String, atMost limit: Int = 1 << 20) throws(TLSError) -> [UInt8] {
  let fileDescriptor = unsafe open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
  guard fileDescriptor >= 0 else {
    throw TLSError(.file, "\(what) \(path): \(unsafe String(cString: strerror(errno)))")
  }
  defer { close(fileDescriptor) }
  var bytes: [UInt8] = []
  var piece = [UInt8](repeating: 0, count: 65_536)
  while true {
    let count = unsafe read(fileDescriptor, &piece, piece.count)
    if count < 0 && errno == EINTR { continue }
    guard count >= 0 else { throw TLSError(.file, "\(what) \(path): \(unsafe String(cString: strerror(errno)))") }
    if count == 0 { return bytes }
    bytes += piece[..<count]
    guard bytes.count <= limit else {
      throw TLSError(.file, "\(what) \(path): it is larger than \(limit) bytes, which no such file is")
    }
  }
}
