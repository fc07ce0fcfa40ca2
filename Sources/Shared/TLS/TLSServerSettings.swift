// What a server context is made of besides certificates: versions, where the keys of session tickets come from, whose client
// certificates are taken. The data plane's daemon fills it from its options.
import COpenSSL
import Glibc

/// The lowest version that clients may use.
package enum TLSVersion: String, Sendable, CaseIterable {
  case v12 = "1.2"
  case v13 = "1.3"

  var number: Int32 { self == .v12 ? TLS1_2_VERSION : TLS1_3_VERSION }
}

package struct TLSServerSettings: Sendable {
  /// In order of preference: clients that ask for no known name get the first.
  package var identities: [TLSIdentity]
  package var minimumVersion = TLSVersion.v12
  package var ticketSecret: TLSTicketSecret
  /// How many tickets a TLS 1.3 client gets after a full handshake; 0 = no resumption. Each costs about 10 µs, and a
  /// client that resumes gets a new one each time.
  package var tickets = 1
  package var clients = TLSClientCertificates.ignored
  /// Added to the clock by which keys of tickets change and OCSP answers end. For tests.
  package var clockOffsetSeconds = 0

  package init(identities: [TLSIdentity], ticketSecret: TLSTicketSecret = .random()) {
    self.identities = identities
    self.ticketSecret = ticketSecret
  }
}

/// Where the keys of session tickets come from. They change every two hours by themselves, and those of the last and the next
/// two hours are taken too; replicas with one secret and clocks less than two hours apart resume each other's sessions.
package struct TLSTicketSecret: Sendable, Equatable {
  let bytes: [UInt8]

  /// A secret shorter than this could be guessed, and with it what was said in TLS 1.2.
  package static let minimumBytes = 32

  /// For one process alone: its sessions end with it.
  package static func random() -> TLSTicketSecret {
    var bytes = [UInt8](repeating: 0, count: Int(COPENSSL_SECRET_BYTES))
    precondition(unsafe copenssl_random(&bytes, bytes.count) == 1, "without random numbers there is no TLS")
    return TLSTicketSecret(bytes: bytes)
  }

  /// Takes the file's bytes as they are, but for white space around them.
  package init(file: String) throws(TLSError) {
    let isSpace: (UInt8) -> Bool = { $0 == 0x20 || (0x09...0x0D).contains($0) }
    let text = try readFile(file, "ticket secret file", atMost: 4_096)
    let trimmed = Array(text.drop(while: isSpace).reversed().drop(while: isSpace).reversed())
    guard trimmed.count >= Self.minimumBytes else {
      throw TLSError(
        .file,
        "ticket secret file \(file): it has \(trimmed.count) bytes, at least \(Self.minimumBytes) are needed; "
          + "make one with: openssl rand -base64 48")
    }
    var bytes = [UInt8](repeating: 0, count: Int(COPENSSL_SECRET_BYTES))
    guard unsafe copenssl_ticket_secret(trimmed, trimmed.count, &bytes) == 1 else {
      throw TLSError(.library, "ticket secret file \(file): \(describe(takeError()))")
    }
    self.bytes = bytes
  }

  private init(bytes: [UInt8]) { self.bytes = bytes }
}

/// Whether clients are asked for a certificate.
package enum TLSClientCertificates: Sendable {
  case ignored
  /// One that is shown must be good; without one the connection goes on, and ``TLSServerConnection/clientCertificate`` is
  /// nil.
  case optional(TLSAuthorities)
  case required(TLSAuthorities)

  var authorities: TLSAuthorities? {
    switch self {
    case .ignored: nil
    case .optional(let authorities), .required(let authorities): authorities
    }
  }

  var isRequired: Bool { if case .required = self { true } else { false } }

  /// Sessions resume without a new look at the client's certificate, so one that began under other rules must not resume.
  func sessionContext() -> [UInt8] {
    var text = Array("berth sessions \(isRequired)".utf8)
    if let authorities { text += authorities.digest }
    return sha256(text)
  }
}

/// The authorities whose client certificates are good: the certificates of a PEM file.
@safe package final class TLSAuthorities: Sendable {
  nonisolated(unsafe) let store: OpaquePointer
  nonisolated(unsafe) let names: OpaquePointer
  let digest: [UInt8]

  package init(file: String) throws(TLSError) {
    let text = try readFile(file, "client CA file")
    digest = sha256(text)
    guard let store = unsafe copenssl_new_store(), let names = unsafe copenssl_new_names(),
      let bio = unsafe copenssl_text(text, text.count)
    else { throw TLSError(.library, "client CA file \(file): \(describe(takeError()))") }
    defer { unsafe BIO_free(bio) }
    unsafe self.store = unsafe store
    unsafe self.names = unsafe names
    ERR_clear_error()
    var count = 0
    while let certificate = unsafe copenssl_next_certificate(bio) {
      if unsafe copenssl_trust(store, names, certificate) == 1 { count += 1 }
      unsafe X509_free(certificate)
    }
    let code = takeError()
    guard code == 0, count > 0 else {
      throw TLSError(
        .file, "client CA file \(file): \(code == 0 ? "there is no PEM certificate in it" : describe(code))")
    }
  }

  deinit {
    unsafe copenssl_free_store(store)
    unsafe copenssl_free_names(names)
  }
}

func sha256(_ bytes: [UInt8]) -> [UInt8] {
  var digest = [UInt8](repeating: 0, count: 32)
  unsafe copenssl_sha256(bytes, bytes.count, &digest)
  return digest
}
