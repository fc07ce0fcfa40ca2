// A self-signed certificate for trying Berth on one's own machine and for tests. Called by `berth up --tls` and by tests;
// never by a replica on its own, because nobody could trust it.
import COpenSSL
import Glibc

package enum DevelopmentCertificate {
  /// How long it is valid; browsers refuse longer ones.
  package static let days = 825

  /// Writes a self-signed ECDSA P-256 certificate for `names` (host names and IP literals) and its key, both PEM. Each
  /// file appears whole or not at all; the key's mode is 0600, and it is there before the certificate.
  package static func write(
    certificateFile: String, keyFile: String, names: [String] = ["localhost", "127.0.0.1", "::1"]
  ) throws(TLSError) {
    guard let first = names.first else { throw TLSError(.file, "a certificate needs a name") }
    for name in names where name.isEmpty || !name.utf8.allSatisfy(isPlain) {
      throw TLSError(.file, "\"\(name)\" cannot be the name in a certificate")
    }
    guard let key = unsafe copenssl_new_p256_key(), let certificate = unsafe X509_new() else { throw failed() }
    defer {
      unsafe EVP_PKEY_free(key)
      unsafe X509_free(certificate)
    }
    // 63 random bits, so that two certificates of one issuer name differ (RFC 5280, 4.1.2.2).
    let serial = Int.random(in: 1...Int.max)
    guard unsafe X509_set_version(certificate, 2) == 1,
      unsafe ASN1_INTEGER_set_int64(X509_get_serialNumber(certificate), Int64(serial)) == 1,
      // An hour back, for clocks that are late.
      unsafe X509_gmtime_adj(X509_getm_notBefore(certificate), -3_600) != nil,
      unsafe X509_gmtime_adj(X509_getm_notAfter(certificate), days * 86_400) != nil,
      unsafe X509_set_pubkey(certificate, key) == 1,
      let subject = unsafe X509_get_subject_name(certificate),
      unsafe addText(to: subject, field: "O", "Berth development certificate"),
      unsafe addText(to: subject, field: "CN", first),
      unsafe X509_set_issuer_name(certificate, subject) == 1
    else { throw failed() }
    let alternatives = names.map { (isAddress($0) ? "IP:" : "DNS:") + $0 }.joined(separator: ",")
    let extensions: [(Int32, String)] = [
      (NID_basic_constraints, "critical,CA:FALSE"), (NID_key_usage, "critical,digitalSignature"),
      (NID_ext_key_usage, "serverAuth"), (NID_subject_key_identifier, "hash"), (NID_subject_alt_name, alternatives),
    ]
    for (nid, value) in extensions {
      guard unsafe copenssl_add_extension(certificate, nid, value) == 1 else { throw failed() }
    }
    guard unsafe X509_sign(certificate, key, EVP_sha256()) > 0 else { throw failed() }

    let keyText = unsafe try pem { bio in unsafe PEM_write_bio_PrivateKey(bio, key, nil, nil, 0, nil, nil) }
    let certificateText = unsafe try pem { bio in unsafe PEM_write_bio_X509(bio, certificate) }
    try replace(file: keyFile, with: keyText, mode: 0o600)
    try replace(file: certificateFile, with: certificateText, mode: 0o644)
  }

  private static func failed() -> TLSError { TLSError(.library, "no certificate was made: \(describe(takeError()))") }

  /// What stands in host names and IP literals; anything else could change the meaning of the extension's notation.
  private static func isPlain(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "a")...UInt8(ascii: "z"),
      UInt8(ascii: "A")...UInt8(ascii: "Z"),
      UInt8(ascii: "."), UInt8(ascii: "-"), UInt8(ascii: "*"), UInt8(ascii: ":"):
      true
    default: false
    }
  }

  private static func isAddress(_ name: String) -> Bool {
    var address = in6_addr()
    return unsafe inet_pton(AF_INET, name, &address) == 1 || inet_pton(AF_INET6, name, &address) == 1
  }

  private static func addText(to subject: OpaquePointer, field: String, _ text: String) -> Bool {
    unsafe X509_NAME_add_entry_by_txt(subject, field, MBSTRING_UTF8, Array(text.utf8), Int32(text.utf8.count), -1, 0)
      == 1
  }

  private static func pem(_ write: (OpaquePointer) -> Int32) throws(TLSError) -> [UInt8] {
    guard let bio = unsafe BIO_new(BIO_s_mem()) else { throw failed() }
    defer { unsafe BIO_free(bio) }
    guard unsafe write(bio) == 1 else { throw failed() }
    var bytes: UnsafeMutablePointer<CChar>?
    let count = unsafe copenssl_memory(bio, &bytes)
    return unsafe Array(UnsafeRawBufferPointer(start: bytes, count: count))
  }

  /// Writes beside the file and renames, so that a reader never sees a part.
  private static func replace(file: String, with bytes: [UInt8], mode: mode_t) throws(TLSError) {
    func problem(_ what: String) -> TLSError {
      TLSError(.file, "\(what) \(file): \(unsafe String(cString: strerror(errno)))")
    }
    let temporary = "\(file).\(getpid()).new"
    unsafe unlink(temporary)
    let fileDescriptor = unsafe open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode)
    guard fileDescriptor >= 0 else { throw problem("cannot write") }
    var written = 0
    while written < bytes.count {
      let count = unsafe bytes.withUnsafeBytes {
        unsafe Glibc.write(fileDescriptor, $0.baseAddress! + written, $0.count - written)
      }
      if count < 0 && errno == EINTR { continue }
      guard count > 0 else {
        let problem = problem("cannot write")
        close(fileDescriptor)
        unsafe unlink(temporary)
        throw problem
      }
      written += count
    }
    close(fileDescriptor)
    guard unsafe rename(temporary, file) == 0 else {
      let problem = problem("cannot replace")
      unsafe unlink(temporary)
      throw problem
    }
  }
}
