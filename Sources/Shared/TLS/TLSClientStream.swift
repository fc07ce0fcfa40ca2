// A blocking TLS client on a connected socket, for `rediss://`. Redis' connections call it, each on the thread that owns
// the connection; every wait is a poll(2) with a limit.
import COpenSSL
import Glibc

/// TLS 1.2 or 1.3 as the client of one connected socket. Used by one thread at a time; the descriptor stays the caller's,
/// who may call `shutdown(2)` on it from another thread to end a wait.
@safe package final class TLSClientStream {
  private let fileDescriptor: Int32
  private let ssl: OpaquePointer
  private let bio: OpaquePointer
  private let name: String
  private var broken = false
  private var closed = false

  /// How long each handshake, read or write may wait for the peer.
  package var timeoutMilliseconds: Int

  /// Shakes hands. `serverName` is what the certificate must be for: a host name (sent as SNI) or an IP literal.
  /// `caFile` replaces the system's trust store. With `verify` false any certificate is accepted. A server that wants to
  /// know its client gets the chain in `certificateFile`, whose key is in `keyFile`.
  package init(
    fileDescriptor: Int32, serverName: String, caFile: String?, verify: Bool, certificateFile: String? = nil,
    keyFile: String? = nil, timeoutMilliseconds: Int
  ) throws(TLSError) {
    guard let context = unsafe SSL_CTX_new(TLS_client_method()) else {
      throw TLSError(.library, "no TLS context: \(describe(takeError()))")
    }
    // The connection holds a reference of its own.
    defer { unsafe SSL_CTX_free(context) }
    guard unsafe copenssl_configure_client(context) == 1 else {
      throw TLSError(.library, "no TLS settings: \(describe(takeError()))")
    }
    if let caFile {
      guard unsafe SSL_CTX_load_verify_locations(context, caFile, nil) == 1 else {
        let code = takeError()
        throw TLSError(.file, "CA file \(caFile): \(code == 0 ? "there is no PEM certificate in it" : describe(code))")
      }
    } else if verify {
      guard unsafe SSL_CTX_set_default_verify_paths(context) == 1 else {
        throw TLSError(.file, "the system's trusted certificates: \(describe(takeError()))")
      }
    }
    if let certificateFile, let keyFile {
      guard unsafe SSL_CTX_use_certificate_chain_file(context, certificateFile) == 1 else {
        throw TLSError(.file, "certificate \(certificateFile): \(describe(takeError()))")
      }
      guard unsafe SSL_CTX_use_PrivateKey_file(context, keyFile, SSL_FILETYPE_PEM) == 1,
        unsafe SSL_CTX_check_private_key(context) == 1
      else {
        throw TLSError(.file, "key \(keyFile): \(describe(takeError()))")
      }
    }
    guard let ssl = unsafe SSL_new(context) else {
      throw TLSError(.library, "no TLS connection: \(describe(takeError()))")
    }
    guard unsafe copenssl_expect_name(ssl, serverName, verify ? 1 : 0) == 1,
      let bio = unsafe copenssl_socket_bio(fileDescriptor)
    else {
      unsafe SSL_free(ssl)
      throw TLSError(.library, "no TLS connection to \(serverName): \(describe(takeError()))")
    }
    unsafe SSL_set_bio(ssl, bio, bio)
    unsafe SSL_set_connect_state(ssl)
    self.fileDescriptor = fileDescriptor
    unsafe self.ssl = unsafe ssl
    unsafe self.bio = unsafe bio
    name = serverName
    self.timeoutMilliseconds = timeoutMilliseconds
    try handshake()
  }

  deinit { unsafe SSL_free(ssl) }

  /// Reads what is there, waiting for at least one byte; 0 is the peer's close_notify. A connection cut without one is
  /// an error, because data may be missing. `buffer` must not be empty.
  package func read(into buffer: UnsafeMutableRawBufferPointer) throws(TLSError) -> Int {
    precondition(buffer.count > 0, "an empty buffer could not be told from the end")
    try checkUsable()
    let deadline = Deadline(milliseconds: timeoutMilliseconds)
    while true {
      var count = 0
      let result = unsafe SSL_read_ex(ssl, buffer.baseAddress!, buffer.count, &count)
      if result == 1 { return count }
      let error = unsafe SSL_get_error(ssl, result)
      if error == SSL_ERROR_ZERO_RETURN { return 0 }
      try wait(after: error, deadline, doing: "waiting for an answer")
    }
  }

  /// Writes at least one byte of `bytes` unless it is empty, and says how many. After `.timedOut` nothing of this call was
  /// taken, but a part of it may be on its way: the same bytes, or more, must be offered next.
  package func write(_ bytes: UnsafeRawBufferPointer) throws(TLSError) -> Int {
    guard bytes.count > 0 else { return 0 }
    try checkUsable()
    let deadline = Deadline(milliseconds: timeoutMilliseconds)
    while true {
      var count = 0
      let result = unsafe SSL_write_ex(ssl, bytes.baseAddress!, bytes.count, &count)
      if result == 1 { return count }
      try wait(after: unsafe SSL_get_error(ssl, result), deadline, doing: "sending")
    }
  }

  /// Whether a read would find bytes without the socket: poll(2) does not know of them.
  package var holdsInput: Bool { unsafe !closed && SSL_has_pending(ssl) == 1 }

  /// E.g. `TLSv1.3`.
  package var version: String { unsafe String(cString: SSL_get_version(ssl)) }

  /// Says close_notify if that is possible without waiting. The descriptor stays open, and nothing else may be called.
  package func close() {
    guard !closed else { return }
    closed = true
    guard !broken else { return }
    _ = unsafe SSL_shutdown(ssl)
    ERR_clear_error()
  }

  private func checkUsable() throws(TLSError) {
    guard !broken && !closed else { throw TLSError(.connection, "the TLS connection to \(name) is closed") }
  }

  private func handshake() throws(TLSError) {
    let deadline = Deadline(milliseconds: timeoutMilliseconds)
    while true {
      let result = unsafe SSL_do_handshake(ssl)
      if result == 1 { return }
      let error = unsafe SSL_get_error(ssl, result)
      let verification = unsafe SSL_get_verify_result(ssl)
      if error == SSL_ERROR_SSL && verification != Int(X509_V_OK) {
        broken = true
        ERR_clear_error()
        let why = unsafe String(cString: X509_verify_cert_error_string(verification))
        throw TLSError(.untrusted, "the certificate of \(name) is not trusted: \(why)")
      }
      if error == SSL_ERROR_SSL {
        broken = true
        throw TLSError(.handshake, "no TLS with \(name): \(describe(takeError()))")
      }
      try wait(after: error, deadline, doing: "shaking hands")
    }
  }

  /// Waits until the operation that ended with `error` can go on, or throws why it cannot.
  private func wait(after error: Int32, _ deadline: Deadline, doing what: String) throws(TLSError) {
    let events: Int32
    switch error {
    case SSL_ERROR_WANT_READ: events = POLLIN
    case SSL_ERROR_WANT_WRITE: events = POLLOUT
    default:
      broken = true
      let code = takeError()
      let number = unsafe copenssl_socket_error(bio)
      if number != 0 {
        throw TLSError(
          .connection, "the connection to \(name) broke while \(what): \(unsafe String(cString: strerror(number)))")
      }
      throw TLSError(
        .connection, "the connection to \(name) broke while \(what): \(code == 0 ? "the peer hung up" : describe(code))"
      )
    }
    while true {
      var poller = pollfd(fd: fileDescriptor, events: Int16(events), revents: 0)
      let ready = unsafe poll(&poller, 1, deadline.remainingMilliseconds)
      if ready > 0 { return }
      if ready == 0 { throw TLSError(.timedOut, "\(name) did not answer in time while \(what)") }
      guard errno == EINTR else {
        broken = true
        throw TLSError(.connection, "poll failed: \(unsafe String(cString: strerror(errno)))")
      }
    }
  }
}

/// A point on the monotonic clock.
private struct Deadline {
  private let end: Int

  init(milliseconds: Int) { end = Self.now + max(0, milliseconds) }

  /// What poll(2) takes; 0 when the time is over.
  var remainingMilliseconds: Int32 { Int32(clamping: max(0, end - Self.now)) }

  private static var now: Int {
    var time = timespec()
    unsafe clock_gettime(CLOCK_MONOTONIC, &time)
    return time.tv_sec * 1_000 + time.tv_nsec / 1_000_000
  }
}
