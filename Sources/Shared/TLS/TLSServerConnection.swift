// Server-side TLS without I/O, for the data plane's event loop: ciphertext goes in and out through a window that the
// worker points at its own buffers, so that one `recv` and one `send` move up to a megabyte of records. Engine's workers
// call this; nothing here allocates except OpenSSL itself.
import COpenSSL
import Glibc

/// A worker's window: where all its connections read ciphertext from and append ciphertext to. Make one per thread, use
/// it on that thread only, and free it after the last connection that was made with it.
///
/// Before every call on a connection, point ``setInput(_:count:)`` at what `recv` brought for this very connection
/// (or at nothing), and ``setOutput(_:capacity:count:)`` at where its ciphertext goes; afterwards ``inputConsumed`` and
/// ``outputCount`` say what became of them. OpenSSL keeps no pointer into either buffer between calls.
@safe package struct TLSWindow {
  fileprivate let bio: OpaquePointer
  fileprivate let state: UnsafeMutablePointer<copenssl_window>

  /// nil when memory is short.
  package init?() {
    let state = UnsafeMutablePointer<copenssl_window>.allocate(capacity: 1)
    unsafe state.initialize(to: copenssl_window())
    guard let bio = unsafe copenssl_window_bio(state) else {
      unsafe state.deallocate()
      return nil
    }
    unsafe self.bio = unsafe bio
    unsafe self.state = unsafe state
  }

  /// Frees the window; no connection made with it may be used afterwards.
  package func free() {
    unsafe BIO_free(bio)
    unsafe state.pointee.spare?.deallocate()
    unsafe state.deallocate()
  }

  /// The ciphertext that came for the connection whose turn it is.
  package func setInput(_ bytes: UnsafeRawPointer?, count: Int) {
    unsafe state.pointee.input = unsafe bytes?.assumingMemoryBound(to: UInt8.self)
    unsafe state.pointee.input_length = count
    unsafe state.pointee.input_consumed = 0
  }

  /// The buffer that takes the connection's ciphertext; its first `count` bytes are in use already.
  package func setOutput(_ bytes: UnsafeMutableRawPointer?, capacity: Int, count: Int = 0) {
    unsafe state.pointee.output = unsafe bytes?.assumingMemoryBound(to: UInt8.self)
    unsafe state.pointee.output_capacity = capacity
    unsafe state.pointee.output_count = count
  }

  /// How much of the input OpenSSL has taken. What is left must be offered again, before any newer bytes.
  package var inputConsumed: Int { unsafe state.pointee.input_consumed }
  package var inputRemaining: Int { unsafe state.pointee.input_length - state.pointee.input_consumed }
  /// How many bytes of the output buffer are in use now; send them, whatever the call returned.
  package var outputCount: Int { unsafe state.pointee.output_count }
  package var outputRoom: Int { unsafe state.pointee.output_capacity - state.pointee.output_count }

  // For ``TLSRecords``, which uses the buffers without a BIO.

  /// The next byte of the input; only while there is one.
  var inputPointer: UnsafePointer<UInt8> { unsafe state.pointee.input! + state.pointee.input_consumed }
  func consume(_ count: Int) { unsafe state.pointee.input_consumed += count }
  /// Where the next byte of the output goes; only while there is room.
  var outputPointer: UnsafeMutablePointer<UInt8> { unsafe state.pointee.output! + state.pointee.output_count }
  func append(_ count: Int) { unsafe state.pointee.output_count += count }

  func takeSpare() -> UnsafeMutablePointer<UInt8>? {
    defer { unsafe state.pointee.spare = nil }
    return unsafe state.pointee.spare
  }
  func keepSpare(_ buffer: UnsafeMutablePointer<UInt8>) {
    guard unsafe state.pointee.spare == nil else { return unsafe buffer.deallocate() }
    unsafe state.pointee.spare = unsafe buffer
  }
}

package enum TLSStep {
  /// The handshake is complete. Ask what is to be known of it, call ``TLSServerConnection/detach()``, then `read` once with
  /// what is left of the input: the first request may have come in the same segment.
  case done
  /// All input is consumed and the peer's next bytes are needed.
  case wantRead
  /// The output buffer is full: send it, then call again with what is left of the input.
  case wantWrite
  /// Send what the output holds (an alert for the peer, perhaps), then close.
  case failed(TLSFailure)
}

package enum TLSReadResult {
  /// So many bytes of plaintext, at least one. Less than the buffer means: all input is consumed, and whatever ended
  /// the call early (close_notify, a failure) is told by the next one.
  case bytes(Int)
  /// All input is consumed and no plaintext is there; OpenSSL may hold a part of a record.
  case wantRead
  /// The peer said close_notify: nothing follows from it. Our direction is still open.
  case closed
  /// Send what the output holds (an alert for the peer, perhaps), then close.
  case failed(TLSFailure)
}

package enum TLSWriteResult {
  /// So many bytes of plaintext were taken; their records are complete in the output. Less than was offered, 0 included,
  /// means that the output has no room for another record: send it and offer the rest. No call ever takes bytes without
  /// having their whole record in the output, so the rest may be offered from another address, or never.
  case bytes(Int)
  case failed(TLSFailure)
}

/// What the kernel makes of the offer to seal a connection's records.
package enum TLSOffload: Equatable {
  case taken
  /// It has no TLS: there is no need to offer it others.
  case unavailable
  /// It does not take this one (-errno).
  case refused(Int)
}

/// What a connection is made of: OpenSSL's state, and after ``TLSServerConnection/detach()`` records of our own instead.
@safe struct TLSConnectionState {
  var ssl: OpaquePointer?
  /// What the handshake tells on its way; only until its end.
  var traffic: UnsafeMutablePointer<copenssl_traffic>?
  /// Remembers OpenSSL's failure, so that every later call fails alike; 0 = none.
  var failure: UInt64 = 0
  var resumed = false
  var records: TLSRecords?

  init(_ ssl: OpaquePointer, _ traffic: UnsafeMutablePointer<copenssl_traffic>) {
    unsafe self.ssl = unsafe ssl
    unsafe self.traffic = unsafe traffic
  }

  mutating func freeTraffic() {
    guard let traffic = unsafe traffic else { return }
    unsafe OPENSSL_cleanse(traffic, MemoryLayout<copenssl_traffic>.size)
    unsafe traffic.deallocate()
    unsafe self.traffic = nil
  }
}

/// One client's TLS connection: a pointer to its state, copied freely, freed by ``free()`` exactly once. It works on the
/// thread and with the window that it was made with.
@safe package struct TLSServerConnection {
  private let state: UnsafeMutablePointer<TLSConnectionState>
  /// OpenSSL's state; nil once the connection is detached from it.
  var ssl: OpaquePointer? { unsafe state.pointee.ssl }

  /// Room that the output must have for `read` and `shutdown`, which send small records of their own (an alert). `write`
  /// keeps this much free beside each record, for the record's own overhead and the answer to a key update before it, so
  /// an output must be larger than this.
  package static let reserve = 128
  /// The most plaintext in one record (RFC 8446, 5.1).
  package static let maximumRecord = 16_384

  /// nil when memory is short. A new connection costs about 6 KB until the handshake, see the bench notes for idle ones.
  package init?(context: TLSServerContext, window: TLSWindow) {
    guard let ssl = unsafe SSL_new(context.context) else {
      ERR_clear_error()
      return nil
    }
    let traffic = UnsafeMutablePointer<copenssl_traffic>.allocate(capacity: 1)
    unsafe traffic.initialize(to: copenssl_traffic())
    unsafe state = .allocate(capacity: 1)
    unsafe state.initialize(to: unsafe TLSConnectionState(ssl, traffic))
    guard unsafe copenssl_use_bio(ssl, window.bio) == 1, unsafe copenssl_set_traffic(ssl, traffic) == 1 else {
      free()
      return nil
    }
    unsafe SSL_set_accept_state(ssl)
  }

  /// Frees the connection without a word to the peer; see ``shutdown(_:)``.
  package func free() {
    unsafe SSL_free(state.pointee.ssl)
    unsafe state.pointee.freeTraffic()
    unsafe state.pointee.records?.end()
    unsafe state.deinitialize(count: 1)
    unsafe state.deallocate()
  }

  /// Takes the handshake as far as the input allows. The output may hold bytes to send after every result.
  package func handshake(_ window: TLSWindow) -> TLSStep {
    guard let ssl = unsafe ssl else { return .done }
    if let failure { return .failed(failure) }
    let result = unsafe SSL_do_handshake(ssl)
    if result == 1 { return .done }
    switch unsafe SSL_get_error(ssl, result) {
    case SSL_ERROR_WANT_READ: return .wantRead
    case SSL_ERROR_WANT_WRITE: return .wantWrite
    default: return unsafe .failed(failed(ssl, window, handshaking: true))
    }
  }

  /// After the handshake: goes on without OpenSSL's state, which is freed, where the version and the suite allow it (TLS 1.3
  /// with one of its three common suites). What is not asked of the handshake until then is lost, but for ``version``,
  /// ``cipher`` and ``resumed``.
  package func detach() {
    guard let ssl = unsafe ssl, failure == nil else { return }
    defer { unsafe state.pointee.freeTraffic() }
    unsafe state.pointee.resumed = unsafe SSL_session_reused(ssl) == 1
    let suite = unsafe copenssl_suite(ssl)
    // Without read-ahead OpenSSL has taken nothing behind the handshake.
    guard suite != 0, let traffic = unsafe state.pointee.traffic, unsafe SSL_has_pending(ssl) == 0,
      let records = unsafe TLSRecords(suite: suite, traffic)
    else {
      ERR_clear_error()
      unsafe copenssl_set_traffic(ssl, nil)
      unsafe copenssl_read_ahead(ssl)
      return
    }
    unsafe state.pointee.records = records
    unsafe state.pointee.ssl = nil
    // One that has not said goodbye would be looked for among the context's sessions, under a lock that all workers share.
    unsafe SSL_set_shutdown(ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN)
    unsafe SSL_free(ssl)
  }

  /// After ``detach()``, while none of our records waits to be written: lets the kernel seal what is written to the
  /// connection's socket from now on, and bytes may be spliced into it. `write` must not be called afterwards; `shutdown` sends
  /// by itself. Unless it is taken nothing has changed.
  package func offload(_ fileDescriptor: Int32) -> TLSOffload {
    unsafe state.pointee.records?.offload(fileDescriptor) ?? .refused(-Int(EINVAL))
  }

  /// After a `shutdown` that said false: the kernel, which seals, had no room for it now.
  package var awaitsRoom: Bool { unsafe state.pointee.records?.awaitsRoom ?? false }

  /// Decrypts into `buffer` until it is full or the input is used up. Until the result is not `.bytes` of the whole
  /// buffer, call again: OpenSSL may hold more plaintext, which no poller sees. `buffer` must not be empty.
  package func read(into buffer: UnsafeMutableRawBufferPointer, _ window: TLSWindow) -> TLSReadResult {
    precondition(buffer.count > 0, "an empty buffer could not be told from the end")
    guard let ssl = unsafe ssl else { return unsafe state.pointee.records!.read(into: buffer, window) }
    if let failure { return .failed(failure) }
    var filled = 0
    while filled < buffer.count {
      var count = 0
      let result = unsafe SSL_read_ex(ssl, buffer.baseAddress! + filled, buffer.count - filled, &count)
      if result == 1 {
        filled += count
        // Another call would only find out that there is nothing, and make and drop a buffer of 16 KiB for it.
        if window.inputRemaining == 0, !holdsInput { return .bytes(filled) }
        continue
      }
      switch unsafe SSL_get_error(ssl, result) {
      case SSL_ERROR_WANT_READ: return filled > 0 ? .bytes(filled) : .wantRead
      // OpenSSL remembers the close_notify, so the next call says so again.
      case SSL_ERROR_ZERO_RETURN: return filled > 0 ? .bytes(filled) : .closed
      case SSL_ERROR_WANT_WRITE:
        let failure = TLSFailure(kind: .outputFull, code: 0)
        mark(failure)
        return filled > 0 ? .bytes(filled) : .failed(failure)
      default:
        let failure = unsafe failed(ssl, window, handshaking: false)
        return filled > 0 ? .bytes(filled) : .failed(failure)
      }
    }
    return .bytes(filled)
  }

  /// After a read that gave bytes: whether another one could give more, or tell of the end or of a failure.
  package func mayGiveMore(_ window: TLSWindow) -> Bool {
    guard let ssl = unsafe ssl else { return unsafe state.pointee.records!.mayGiveMore(window) }
    return unsafe window.inputRemaining > 0 || holdsInput || SSL_get_shutdown(ssl) & SSL_RECEIVED_SHUTDOWN != 0
      || failure != nil
  }

  /// Encrypts as much of `bytes` as the output has room for, in records of up to 16 KiB.
  package func write(_ bytes: UnsafeRawBufferPointer, _ window: TLSWindow) -> TLSWriteResult {
    guard let ssl = unsafe ssl else { return unsafe state.pointee.records!.write(bytes, window) }
    if let failure { return .failed(failure) }
    var taken = 0
    while taken < bytes.count {
      // The check before each record is what makes "taken" mean "complete in the output": OpenSSL would otherwise keep
      // the tail of a record and insist on being offered the same bytes again.
      let room = window.outputRoom - Self.reserve
      guard room > 0 else { break }
      let piece = min(bytes.count - taken, Self.maximumRecord, room)
      var count = 0
      let result = unsafe SSL_write_ex(ssl, bytes.baseAddress! + taken, piece, &count)
      guard result == 1 else {
        // WANT_WRITE cannot happen within the reserve; were it to, bytes would be in doubt, so the connection ends.
        _ = unsafe SSL_get_error(ssl, result)
        return unsafe .failed(failed(ssl, window, handshaking: false))
      }
      taken += count
    }
    return .bytes(taken)
  }

  /// Appends our close_notify to the output: nothing may be written afterwards, reading goes on. False when there was no
  /// room for it or the connection failed before; closing then looks like a cut connection to the peer.
  @discardableResult
  package func shutdown(_ window: TLSWindow) -> Bool {
    guard let ssl = unsafe ssl else { return unsafe state.pointee.records!.shutdown(window) }
    guard failure == nil, window.outputRoom >= Self.reserve else { return false }
    let result = unsafe SSL_shutdown(ssl)
    if result < 0 { ERR_clear_error() }
    return result >= 0
  }

  /// Whether plaintext or a part of a record is held inside, i.e. whether a close now would lose bytes from the peer.
  package var holdsInput: Bool {
    guard let ssl = unsafe ssl else { return unsafe state.pointee.records!.holdsInput }
    return unsafe SSL_has_pending(ssl) == 1
  }
  /// E.g. `TLSv1.3`.
  package var version: String {
    guard let ssl = unsafe ssl else { return "TLSv1.3" }
    return unsafe String(cString: SSL_get_version(ssl))
  }
  /// E.g. `TLS_AES_256_GCM_SHA384`.
  package var cipher: String {
    guard let ssl = unsafe ssl else { return unsafe state.pointee.records!.cipher }
    return unsafe String(cString: SSL_CIPHER_get_name(SSL_get_current_cipher(ssl)))
  }
  /// Whether the client resumed an earlier session.
  package var resumed: Bool {
    guard let ssl = unsafe ssl else { return unsafe state.pointee.resumed }
    return unsafe SSL_session_reused(ssl) == 1
  }
  /// Whether OpenSSL's state is gone.
  package var isDetached: Bool { unsafe ssl == nil }

  private var failure: TLSFailure? {
    let mark = unsafe state.pointee.failure
    return mark == 0 ? nil : TLSFailure(mark: mark)
  }

  /// Takes OpenSSL's error, and remembers it so that every later call fails alike.
  private func failed(_ ssl: OpaquePointer, _ window: TLSWindow, handshaking: Bool) -> TLSFailure {
    var code = takeError()
    let reason = reason(of: code)
    var kind = TLSFailure.Kind.other
    if library(of: code) == COPENSSL_LIBRARY_SSL {
      switch reason {
      case COPENSSL_HTTP_REQUEST, COPENSSL_HTTPS_PROXY_REQUEST: kind = .plainHTTP
      case COPENSSL_WRONG_VERSION_NUMBER where handshaking:
        kind = window.inputStartsWithMethod ? .plainHTTP : .notTLS
      case COPENSSL_VERIFY_FAILED:
        kind = .clientCertificate
        code = UInt(unsafe SSL_get_verify_result(ssl))
      case COPENSSL_NO_CLIENT_CERTIFICATE:
        kind = .clientCertificate
        code = 0
      case COPENSSL_UNSUPPORTED_PROTOCOL, COPENSSL_VERSION_TOO_LOW, COPENSSL_NO_PROTOCOLS,
        COPENSSL_WRONG_VERSION_NUMBER,
        COPENSSL_INAPPROPRIATE_FALLBACK:
        kind = .version
      case COPENSSL_NO_SHARED_CIPHER, COPENSSL_NO_SHARED_SIGNATURE, COPENSSL_NO_SIGNATURE, COPENSSL_NO_KEY_SHARE,
        COPENSSL_NO_SHARED_GROUP, COPENSSL_NO_GROUP:
        kind = .cipher
      default: if reason >= COPENSSL_ALERT_OFFSET { kind = .peerAlert }
      }
    }
    let failure = TLSFailure(kind: kind, code: code)
    mark(failure)
    return failure
  }

  private func mark(_ failure: TLSFailure) { unsafe state.pointee.failure = failure.mark }
}

extension TLSWindow {
  /// Whether the input looks like the head of an HTTP request. OpenSSL itself knows four methods only.
  fileprivate var inputStartsWithMethod: Bool {
    let count = unsafe min(state.pointee.input_length, 8)
    guard let bytes = unsafe state.pointee.input else { return false }
    for index in 0..<count {
      let byte = unsafe bytes[index]
      if byte == UInt8(ascii: " ") { return index >= 3 }
      guard byte >= UInt8(ascii: "A") && byte <= UInt8(ascii: "Z") else { return false }
    }
    return false
  }
}

extension TLSFailure {
  /// The failure in one non-zero word: OpenSSL's codes have 32 bits.
  fileprivate var mark: UInt64 { UInt64(code) << 8 | UInt64(kind.rawValue) << 1 | 1 }
  fileprivate init(mark: UInt64) {
    self.init(kind: Kind(rawValue: UInt8(mark >> 1 & 0x7F)) ?? .other, code: UInt(mark >> 8))
  }
}
