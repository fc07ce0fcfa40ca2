// Certificates and the server's settings, shared read-only by every worker. The data plane's daemon makes one at start and
// again when files change; workers make connections from it.
import COpenSSL

/// The server side's certificates and settings: TLS 1.2 and 1.3, forward secrecy and AEAD only, ALPN `http/1.1` and
/// `http/1.0`.
/// Immutable after init, so any number of threads may use it at once. A connection keeps what it needs of it alive.
@safe package final class TLSServerContext: Sendable {
  /// `SSL_CTX`, whose reference count is atomic; every connection holds a reference of its own. It has the certificates of
  /// clients that ask for no known name, and leads by name to the contexts of the other ones.
  nonisolated(unsafe) let context: OpaquePointer
  /// The certificate files with their ends in Unix seconds, in the order of preference.
  package let ends: [(certificateFile: String, notAfter: Int)]
  /// What is not as it was meant, in sentences: expired files, certificates that no client can get.
  package let warnings: [String]

  /// Errors name the file and the cause. The list of identities must not be empty.
  package init(_ settings: TLSServerSettings) throws(TLSError) {
    let identities = settings.identities
    precondition(!identities.isEmpty, "a server has a certificate")
    var warnings = identities.flatMap { $0.warnings }
    let served = Self.choose(identities, &warnings)
    // The first set is that of clients without a name.
    var sets = [served.unnamed]
    var known = Set(sets)
    for (_, set) in served.named where known.insert(set).inserted { sets.append(set) }
    var contexts: [OpaquePointer] = unsafe []
    // Those that are in use by then have further references.
    defer { for index in unsafe contexts.indices { unsafe SSL_CTX_free(contexts[index]) } }
    for set in sets { unsafe contexts.append(try Self.make(settings, set.map { identities[$0] })) }
    let front = unsafe contexts[0]
    let places = Dictionary(uniqueKeysWithValues: sets.enumerated().map { ($1, $0) })
    for (name, set) in served.named {
      guard let place = places[set], unsafe copenssl_add_name(front, name, contexts[place]) == 1 else {
        throw TLSError(.library, "no TLS context for \(name): \(describe(takeError()))")
      }
    }
    unsafe SSL_CTX_up_ref(front)
    unsafe context = unsafe front
    ends = identities.map { ($0.certificateFile, $0.notAfter) }
    self.warnings = warnings
  }

  /// One certificate with its key, and tickets that only this context takes.
  package convenience init(certificateFile: String, keyFile: String) throws(TLSError) {
    try self.init(
      TLSServerSettings(identities: [TLSIdentity(certificateFile: certificateFile, keyFile: keyFile)]))
  }

  deinit { unsafe SSL_CTX_free(context) }

  /// Which certificates each name gets: one for each type of key, the first that was given. Names are in the order of their
  /// bytes.
  private static func choose(_ identities: [TLSIdentity], _ warnings: inout [String]) -> (
    unnamed: [Int], named: [(name: String, set: [Int])]
  ) {
    var byName: [String: [Int]] = [:]
    var used = Set([0])
    for (index, identity) in identities.enumerated() {
      for name in identity.names {
        if byName[name, default: []].contains(where: { identities[$0].keyType == identity.keyType }) { continue }
        byName[name, default: []].append(index)
        used.insert(index)
      }
    }
    for (index, identity) in identities.enumerated() where !used.contains(index) {
      let why =
        identity.names.isEmpty
        ? "it has no DNS name and is not the first certificate"
        : "a certificate before it has the same names and the same type of key"
      warnings.append("certificate file \(identity.certificateFile): no client gets it, because \(why)")
    }
    let named = byName.map { (name: $0.key, set: $0.value) }
      .sorted { $0.name.utf8.lexicographicallyPrecedes($1.name.utf8) }
    // The first certificate's fellow of another key type serves clients without a name, too.
    return (identities[0].names.first.flatMap { byName[$0] } ?? [0], named)
  }

  @unsafe private static func make(_ settings: TLSServerSettings, _ identities: [TLSIdentity]) throws(TLSError)
    -> OpaquePointer
  {
    var parameters = unsafe copenssl_server_settings()
    unsafe parameters.minimum_version = settings.minimumVersion.number
    unsafe parameters.tickets = Int32(settings.tickets)
    unsafe parameters.clock_offset = Int64(settings.clockOffsetSeconds)
    unsafe parameters.client_store = unsafe settings.clients.authorities?.store
    unsafe parameters.client_names = unsafe settings.clients.authorities?.names
    unsafe parameters.client_required = settings.clients.isRequired ? 1 : 0
    unsafe withUnsafeMutableBytes(of: &parameters.ticket_secret) {
      unsafe $0.copyBytes(from: settings.ticketSecret.bytes)
    }
    unsafe withUnsafeMutableBytes(of: &parameters.session_context) {
      unsafe $0.copyBytes(from: settings.clients.sessionContext())
    }
    guard let context = unsafe copenssl_server_context(&parameters) else {
      throw TLSError(.library, "no TLS context: \(describe(takeError()))")
    }
    for identity in identities {
      guard unsafe copenssl_add_identity(context, identity.leaf, identity.key, identity.chain) == 1 else {
        let code = takeError()
        unsafe SSL_CTX_free(context)
        throw TLSError(.file, "certificate file \(identity.certificateFile): \(describe(code))")
      }
      if let staple = identity.staple,
        unsafe copenssl_staple(context, identity.leaf, staple.der, staple.der.count, staple.until) != 1
      {
        unsafe SSL_CTX_free(context)
        throw TLSError(.library, "no OCSP stapling for \(identity.certificateFile): \(describe(takeError()))")
      }
    }
    return unsafe context
  }
}
