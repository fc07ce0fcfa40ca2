// Records of TLS 1.3 once OpenSSL has made the handshake (RFC 8446 §5, §4.6.3, §6): plaintext goes from one buffer of the worker
// straight into the other, and an idle connection holds two keys instead of OpenSSL's state. TLSServerConnection makes one
// of these in `detach`; decision 17 says why. Ciphers are OpenSSL's (copenssl_records.h); here is what records mean.
import COpenSSL
import Glibc

/// Both directions of one connection. A value that is moved, not copied: ``end()`` frees what it holds, exactly once.
@safe struct TLSRecords {
  /// RFC 8446 §5.1 and §5.2: the most plaintext in a record, and the most that follows its header.
  static let longestPlain = 16_384
  static let longestBody = longestPlain + 256
  /// A key seals so many records at most (RFC 8446 §5.5: 2^24.5 full ones for AES-GCM); then the next one is taken.
  static let recordsPerKey: UInt64 = 1 << 23
  /// Records in a row that bring no data (key updates, padding) while we write none: more is a peer that only makes work.
  static let emptyRecords = 256

  private var incoming = unsafe copenssl_direction()
  private var outgoing = unsafe copenssl_direction()
  /// Room for one record: the beginning of one whose rest has not come, or plaintext that the caller had no room for.
  private var buffer: UnsafeMutablePointer<UInt8>?
  /// Bytes of an unfinished record in `buffer`.
  private var partial = 0
  /// Plaintext in `buffer`.
  private var held = 0..<0
  private var quiet = 0
  /// The peer has asked for our next key, and gets it before the next bytes.
  private var owesKeyUpdate = false
  /// The peer said close_notify.
  private var isClosed = false
  /// The socket on which the kernel seals what we write; -1 = we do.
  private var kernelSocket: Int32 = -1
  /// It had no room for our last alert.
  private(set) var awaitsRoom = false
  private var failure: TLSFailure?

  /// Goes on where the server's handshake ended. nil: what it told does not fit the suite, or memory is short.
  init?(suite: UInt16, _ traffic: UnsafePointer<copenssl_traffic>) {
    guard unsafe copenssl_start(&incoming, suite, traffic, 0) == 1 else { return nil }
    guard unsafe copenssl_start(&outgoing, suite, traffic, 1) == 1 else {
      unsafe copenssl_end(&incoming)
      return nil
    }
  }

  mutating func end() {
    unsafe copenssl_end(&incoming)
    unsafe copenssl_end(&outgoing)
    unsafe buffer?.deallocate()
    unsafe buffer = nil
  }

  var cipher: String { unsafe String(cString: copenssl_suite_name(incoming.suite)) }
  /// A part of a record, or plaintext that nobody has taken yet.
  var holdsInput: Bool { partial > 0 || !held.isEmpty }
  /// After a read that filled the caller's buffer or not: whether another one has something to say.
  func mayGiveMore(_ window: TLSWindow) -> Bool {
    !held.isEmpty || window.inputRemaining > 0 || isClosed || failure != nil
  }

  // MARK: Reading

  /// See ``TLSServerConnection/read(into:_:)``.
  mutating func read(into target: UnsafeMutableRawBufferPointer, _ window: TLSWindow) -> TLSReadResult {
    var filled = 0
    while filled < target.count, failure == nil {
      let room = unsafe UnsafeMutableRawBufferPointer(rebasing: target[filled...])
      if !held.isEmpty {
        filled += unsafe takeHeld(room, window)
        continue
      }
      guard !isClosed, let record = unsafe nextRecord(window) else { break }
      filled += unsafe open(record, into: room, window)
      giveBackBuffer(window)
    }
    if filled > 0 { return .bytes(filled) }
    if let failure { return .failed(failure) }
    return isClosed ? .closed : .wantRead
  }

  private mutating func takeHeld(_ room: UnsafeMutableRawBufferPointer, _ window: TLSWindow) -> Int {
    guard let buffer = unsafe buffer else { preconditionFailure("what is held lies in the buffer") }
    let count = min(held.count, room.count)
    unsafe room.baseAddress!.copyMemory(from: buffer + held.lowerBound, byteCount: count)
    held = held.lowerBound + count..<held.upperBound
    giveBackBuffer(window)
    return count
  }

  /// The next whole record, in the input where it can be, else in `buffer`; nil: its rest has not come, or it failed.
  private mutating func nextRecord(_ window: TLSWindow) -> UnsafeBufferPointer<UInt8>? {
    if partial == 0 {
      guard window.inputRemaining > 0 else { return nil }
      if window.inputRemaining >= COPENSSL_HEADER {
        guard let count = unsafe recordCount(window.inputPointer, window) else { return nil }
        if window.inputRemaining >= count {
          let record = unsafe UnsafeBufferPointer(start: window.inputPointer, count: count)
          window.consume(count)
          return unsafe record
        }
      }
    }
    let buffer = unsafe ownBuffer(window)
    unsafe collect(Int(COPENSSL_HEADER), into: buffer, window)
    guard partial >= COPENSSL_HEADER, let count = unsafe recordCount(buffer, window) else { return nil }
    unsafe collect(count, into: buffer, window)
    guard partial == count else { return nil }
    partial = 0
    return unsafe UnsafeBufferPointer(start: buffer, count: count)
  }

  /// Moves input behind what is there of a record, until there are `count` bytes of it.
  private mutating func collect(_ count: Int, into buffer: UnsafeMutablePointer<UInt8>, _ window: TLSWindow) {
    let more = min(count - partial, window.inputRemaining)
    guard more > 0 else { return }
    unsafe (buffer + partial).update(from: window.inputPointer, count: more)
    window.consume(more)
    partial += more
  }

  /// The length of the record that this header begins, itself included. Nothing comes unprotected any more, and a record holds
  /// at least its type and its tag.
  private mutating func recordCount(_ header: UnsafePointer<UInt8>, _ window: TLSWindow) -> Int? {
    guard unsafe header[0] == ContentType.applicationData else {
      fail(COPENSSL_UNEXPECTED_RECORD, .unexpectedMessage, window)
      return nil
    }
    let body = unsafe Int(header[3]) << 8 | Int(header[4])
    guard body <= Self.longestBody else {
      fail(COPENSSL_RECORD_TOO_LONG, .recordOverflow, window)
      return nil
    }
    guard body > COPENSSL_TAG else {
      fail(COPENSSL_BAD_RECORD, .badRecordMAC, window)
      return nil
    }
    return Int(COPENSSL_HEADER) + body
  }

  /// Decrypts a record; how many bytes of data it gave. What has no room stays in `buffer`.
  private mutating func open(
    _ record: UnsafeBufferPointer<UInt8>, into room: UnsafeMutableRawBufferPointer, _ window: TLSWindow
  ) -> Int {
    let count = record.count - Int(COPENSSL_HEADER) - Int(COPENSSL_TAG)
    let fits = room.count >= count
    var place = unsafe room.baseAddress!.assumingMemoryBound(to: UInt8.self)
    if !fits { unsafe place = ownBuffer(window) + Int(COPENSSL_HEADER) }
    guard unsafe copenssl_open(&incoming, record.baseAddress!, record.count, place) == 1 else {
      ERR_clear_error()
      fail(COPENSSL_BAD_RECORD, .badRecordMAC, window)
      return 0
    }
    // RFC 8446 §5.4: the type is the last byte that is not zero.
    var end = count - 1
    while end >= 0, unsafe place[end] == 0 { end -= 1 }
    guard end >= 0 else {
      fail(COPENSSL_UNEXPECTED_RECORD, .unexpectedMessage, window)
      return 0
    }
    guard end <= Self.longestPlain else {
      fail(COPENSSL_RECORD_TOO_LONG, .recordOverflow, window)
      return 0
    }
    let type = unsafe place[end]
    if type == ContentType.applicationData, end > 0 {
      quiet = 0
      if fits { return end }
      held = Int(COPENSSL_HEADER)..<Int(COPENSSL_HEADER) + end
      return 0
    }
    quiet += 1
    guard quiet <= Self.emptyRecords else {
      fail(COPENSSL_TOO_MANY_EMPTY_RECORDS, .unexpectedMessage, window)
      return 0
    }
    let content = unsafe UnsafeBufferPointer(start: UnsafePointer(place), count: end)
    switch type {
    case ContentType.applicationData: break
    case ContentType.alert: unsafe alertCame(content, window)
    case ContentType.handshake: unsafe messageCame(content, window)
    default: fail(COPENSSL_UNEXPECTED_RECORD, .unexpectedMessage, window)
    }
    return 0
  }

  /// RFC 8446 §6: all but two alerts end the connection, whatever level they claim.
  private mutating func alertCame(_ content: UnsafeBufferPointer<UInt8>, _ window: TLSWindow) {
    guard content.count == 2 else { return fail(COPENSSL_BAD_ALERT, .decodeError, window) }
    switch unsafe Alert(rawValue: content[1]) {
    case .closeNotify: isClosed = true
    case .userCanceled: break
    default:
      let reason = unsafe Int32(COPENSSL_ALERT_OFFSET) + Int32(content[1])
      failure = TLSFailure(kind: .peerAlert, code: UInt(copenssl_error(reason)))
    }
  }

  /// Of all messages after the handshake a client may send us only KeyUpdate (RFC 8446 §4.6.3), in a record of its own, as a key
  /// must not change in the middle of one (§5.1).
  private mutating func messageCame(_ content: UnsafeBufferPointer<UInt8>, _ window: TLSWindow) {
    let isKeyUpdate = unsafe content.count == 5 && content.prefix(4).elementsEqual([Self.keyUpdate, 0, 0, 1])
    guard isKeyUpdate else { return fail(COPENSSL_UNEXPECTED_MESSAGE, .unexpectedMessage, window) }
    let request = unsafe content[4]
    guard request <= 1 else { return fail(COPENSSL_BAD_KEY_UPDATE, .illegalParameter, window) }
    guard unsafe copenssl_next_key(&incoming) == 1 else {
      ERR_clear_error()
      return fail(COPENSSL_INTERNAL, .internalError, window)
    }
    // Several that come before we write again need one answer. Kernels before 6.14 cannot change a key that they have.
    guard request == 0 || kernelSocket < 0 else { return fail(COPENSSL_UNEXPECTED_MESSAGE, .internalError, window) }
    if request == 1 { owesKeyUpdate = true }
  }

  // MARK: Writing

  /// Records under our present key, and under the peer's.
  var sealed: UInt64 {
    get { unsafe outgoing.sequence }
    set { unsafe outgoing.sequence = newValue }
  }
  var opened: UInt64 {
    get { unsafe incoming.sequence }
    set { unsafe incoming.sequence = newValue }
  }

  /// See ``TLSServerConnection/write(_:_:)``.
  mutating func write(_ bytes: UnsafeRawBufferPointer, _ window: TLSWindow) -> TLSWriteResult {
    if let failure { return .failed(failure) }
    precondition(kernelSocket < 0, "what the kernel seals is written to its socket")
    var taken = 0
    while taken < bytes.count {
      let room = window.outputRoom - TLSServerConnection.reserve
      guard room > 0 else { break }
      if owesKeyUpdate || sealed >= Self.recordsPerKey { updateKey(window) }
      let piece = min(bytes.count - taken, Self.longestPlain, room)
      let start = unsafe bytes.baseAddress!.assumingMemoryBound(to: UInt8.self) + taken
      guard failure == nil, unsafe seal(ContentType.applicationData, start, piece, window) else {
        return .failed(failure ?? TLSFailure(kind: .other, code: 0))
      }
      taken += piece
      quiet = 0
    }
    return .bytes(taken)
  }

  /// See ``TLSServerConnection/offload(_:)``.
  mutating func offload(_ fileDescriptor: Int32) -> TLSOffload {
    guard failure == nil, !owesKeyUpdate else { return .refused(-Int(EBUSY)) }
    switch unsafe copenssl_offload(&outgoing, fileDescriptor) {
    case 1:
      kernelSocket = fileDescriptor
      return .taken
    case 0: return .unavailable
    case let error: return .refused(Int(error))
    }
  }

  /// Appends close_notify, or has the kernel send it. False when there is no room for it or the connection has failed.
  mutating func shutdown(_ window: TLSWindow) -> Bool {
    guard failure == nil, window.outputRoom >= TLSServerConnection.reserve else { return false }
    return say(.closeNotify, window)
  }

  /// Says that our next records are under the next key, and takes it.
  private mutating func updateKey(_ window: TLSWindow) {
    let message: [5 of UInt8] = [Self.keyUpdate, 0, 0, 1, 0]
    owesKeyUpdate = false
    let isSealed = unsafe message.span.withUnsafeBufferPointer {
      unsafe seal(ContentType.handshake, $0.baseAddress!, $0.count, window)
    }
    if isSealed { takeNextKey() }
  }

  mutating func takeNextKey() {
    guard unsafe copenssl_next_key(&outgoing) != 1 else { return }
    ERR_clear_error()
    failure = TLSFailure(kind: .other, code: UInt(copenssl_error(Int32(COPENSSL_INTERNAL))))
  }

  private mutating func say(_ alert: Alert, _ window: TLSWindow) -> Bool {
    let level: UInt8 = alert == .closeNotify ? 1 : 2
    guard kernelSocket < 0 else {
      let result = copenssl_kernel_alert(kernelSocket, level, alert.rawValue)
      awaitsRoom = result == -EAGAIN
      return result == 1
    }
    guard window.outputRoom >= 2 + Int(COPENSSL_OVERHEAD) else { return false }
    let content: [2 of UInt8] = [level, alert.rawValue]
    return unsafe content.span.withUnsafeBufferPointer {
      unsafe seal(ContentType.alert, $0.baseAddress!, $0.count, window)
    }
  }

  mutating func seal(
    _ type: UInt8, _ bytes: UnsafePointer<UInt8>, _ count: Int, _ window: TLSWindow
  ) -> Bool {
    guard unsafe copenssl_seal(&outgoing, type, bytes, count, window.outputPointer) == 1 else {
      ERR_clear_error()
      if failure == nil { failure = TLSFailure(kind: .other, code: UInt(copenssl_error(Int32(COPENSSL_INTERNAL)))) }
      return false
    }
    window.append(count + Int(COPENSSL_OVERHEAD))
    return true
  }

  /// Ends the connection for a fault of the peer, and tells it.
  private mutating func fail(_ reason: Int, _ alert: Alert, _ window: TLSWindow) {
    _ = say(alert, window)
    failure = TLSFailure(kind: .other, code: UInt(copenssl_error(Int32(reason))))
  }

  // MARK: Memory

  private mutating func ownBuffer(_ window: TLSWindow) -> UnsafeMutablePointer<UInt8> {
    if let buffer = unsafe buffer { return unsafe buffer }
    let new = unsafe window.takeSpare() ?? .allocate(capacity: Int(COPENSSL_HEADER) + Self.longestBody)
    unsafe buffer = unsafe new
    return unsafe new
  }

  private mutating func giveBackBuffer(_ window: TLSWindow) {
    guard partial == 0, held.isEmpty, let old = unsafe buffer else { return }
    unsafe buffer = nil
    unsafe window.keepSpare(old)
  }

  // MARK: Numbers

  /// RFC 8446 §4: the type of the handshake message.
  static let keyUpdate: UInt8 = 24

  /// RFC 8446 §5.1.
  enum ContentType {
    static let alert: UInt8 = 21
    static let handshake: UInt8 = 22
    static let applicationData: UInt8 = 23
  }

  /// RFC 8446 §6: those that we tell apart or send.
  enum Alert: UInt8 {
    case closeNotify = 0
    case unexpectedMessage = 10
    case badRecordMAC = 20
    case recordOverflow = 22
    case illegalParameter = 47
    case decodeError = 50
    case internalError = 80
    case userCanceled = 90
  }
}
