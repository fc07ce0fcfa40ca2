// Which files make up the server side of TLS, and whether they have changed. The data plane's daemon has one, makes a context
// of it at start, looks at it every few seconds and makes another context when it should.
import COpenSSL  // timespec is this module's or Glibc's, whichever the compiler met first.
import Glibc

/// Where certificates, keys and the rest lie. A value: it reads the disk only when asked.
package struct TLSFiles: Sendable, Equatable {
  package struct Pair: Sendable, Equatable {
    package var certificate: String
    /// nil: in the certificate's own file or beside it, see ``TLSIdentity``.
    package var key: String?
    package init(certificate: String, key: String?) {
      self.certificate = certificate
      self.key = key
    }
  }
  /// The first one is for clients that ask for no known name.
  package var pairs: [Pair] = []
  /// Its `.pem`, `.crt` and `.cer` files follow, in the order of their names.
  package var directory: String?
  package var minimumVersion = TLSVersion.v12
  package var tickets = 1
  package var ticketSecret: String?
  package var clientAuthorities: String?
  package var clientCertificateIsRequired = false

  package init() {}

  package var isEmpty: Bool { pairs.isEmpty && directory == nil }

  /// Reads all of it. `processSecret` makes the tickets' keys when no file does.
  package func context(processSecret: TLSTicketSecret) throws(TLSError) -> TLSServerContext {
    var identities: [TLSIdentity] = []
    for pair in pairs { identities.append(try TLSIdentity(certificateFile: pair.certificate, keyFile: pair.key)) }
    for file in try certificatesInDirectory() { identities.append(try TLSIdentity(certificateFile: file)) }
    guard !identities.isEmpty else {
      throw TLSError(.file, "certificate directory \(directory ?? ""): there is no .pem, .crt or .cer file in it")
    }
    var settings = TLSServerSettings(identities: identities, ticketSecret: processSecret)
    if let ticketSecret { settings.ticketSecret = try TLSTicketSecret(file: ticketSecret) }
    settings.minimumVersion = minimumVersion
    settings.tickets = tickets
    if let clientAuthorities {
      let authorities = try TLSAuthorities(file: clientAuthorities)
      settings.clients = clientCertificateIsRequired ? .required(authorities) : .optional(authorities)
    }
    return try TLSServerContext(settings)
  }

  /// Files with a certificate's ending. A `.pem` file that has only a private key belongs to one of the others.
  private func certificatesInDirectory() throws(TLSError) -> [String] {
    guard let directory else { return [] }
    var files: [String] = []
    for name in try Self.names(in: directory) where Self.isCertificate(name) {
      let file = directory + "/" + name
      let text = try readFile(file, "certificate file")
      if TLSIdentity.holdsKey(text), !String(decoding: text, as: UTF8.self).contains("CERTIFICATE-----") { continue }
      files.append(file)
    }
    return files
  }

  private static func isCertificate(_ name: String) -> Bool {
    !name.hasPrefix(".") && [".pem", ".crt", ".cer"].contains { name.hasSuffix($0) }
  }

  private static func names(in directory: String) throws(TLSError) -> [String] {
    guard let stream = unsafe opendir(directory) else {
      throw TLSError(.file, "certificate directory \(directory): \(unsafe String(cString: strerror(errno)))")
    }
    defer { unsafe closedir(stream) }
    var names: [String] = []
    while let entry = unsafe readdir(stream) {
      names.append(
        unsafe withUnsafePointer(to: &entry.pointee.d_name) {
          unsafe $0.withMemoryRebound(to: CChar.self, capacity: Int(NAME_MAX) + 1) { unsafe String(cString: $0) }
        })
    }
    return names.sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) }
  }

  // MARK: Changes

  /// What stat(2) says of a file, followed through links: enough to see that it was written, replaced, or relinked, as
  /// Kubernetes does with mounted secrets.
  struct Stamp: Equatable, Sendable {
    var device: UInt = 0
    var inode: UInt = 0
    var size = 0
    var seconds = 0
    var nanoseconds = 0
    var changed = 0
    var changedNanoseconds = 0

    /// All zeros when there is no such file.
    init(of path: String) {
      var status = stat()
      guard unsafe stat(path, &status) == 0 else { return }
      (device, inode, size) = (UInt(status.st_dev), UInt(status.st_ino), Int(status.st_size))
      (seconds, nanoseconds) = (status.st_mtim.tv_sec, status.st_mtim.tv_nsec)
      (changed, changedNanoseconds) = (status.st_ctim.tv_sec, status.st_ctim.tv_nsec)
    }
  }

  /// Every file that counts, those that could appear included.
  func stamps() -> [String: Stamp] {
    var files = [ticketSecret, clientAuthorities, directory].compactMap(\.self)
    for pair in pairs {
      files += [pair.certificate, pair.certificate + ".ocsp"]
      files += pair.key.map { [$0] } ?? TLSIdentity.keyFiles(beside: pair.certificate)
    }
    if let directory, let names = try? Self.names(in: directory) {
      files += names.filter { $0 != "." && $0 != ".." }.map { directory + "/" + $0 }
    }
    var stamps: [String: Stamp] = [:]
    for file in files { stamps[file] = Stamp(of: file) }
    return stamps
  }
}

/// Sees that files have changed. Not shared between threads; whoever owns it calls ``look()`` every few seconds.
package struct TLSFilesWatch {
  package let files: TLSFiles
  private var inForce: [String: TLSFiles.Stamp]
  private var seen: [String: TLSFiles.Stamp]

  /// Begins with the files as they are now: make this before the first context, so that a change in between is seen.
  package init(_ files: TLSFiles) {
    self.files = files
    inForce = files.stamps()
    seen = inForce
  }

  /// Whether it is time to read the files again: they differ from those that were read last, and have not changed since
  /// the last look, because a certificate and its key cannot be replaced at once. Says so once for each change, so that bad
  /// files are complained about once.
  package mutating func look() -> Bool {
    let now = files.stamps()
    defer { seen = now }
    guard now == seen, now != inForce else { return false }
    inForce = now
    return true
  }

  /// Whoever reads the files without being told tells this first.
  package mutating func willRead() {
    inForce = files.stamps()
    seen = inForce
  }
}
