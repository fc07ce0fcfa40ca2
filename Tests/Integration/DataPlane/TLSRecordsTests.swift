// Records of our own after OpenSSL's handshake: with OpenSSL's own client through key updates and tickets, and with a peer that
// seals whatever it likes.
import COpenSSL
import Foundation
import Glibc
import Posix
import TestSupport
import Testing

@testable import TLS

/// One side's records and buffers; two of them with each other's secrets are the ends of a connection.
@safe private final class RecordEnd {
  var records: TLSRecords
  private let window: TLSWindow
  private let output = UnsafeMutableRawBufferPointer.allocate(byteCount: 1 << 17, alignment: 1)

  init(suite: UInt16, reads: UInt8, writes: UInt8) throws {
    let length = suite == 0x1302 ? 48 : 32
    var traffic = copenssl_traffic()
    traffic.client_length = length
    traffic.server_length = length
    unsafe withUnsafeMutableBytes(of: &traffic.client) { unsafe _ = memset($0.baseAddress!, Int32(reads), length) }
    unsafe withUnsafeMutableBytes(of: &traffic.server) { unsafe _ = memset($0.baseAddress!, Int32(writes), length) }
    guard let window = TLSWindow(), let records = unsafe TLSRecords(suite: suite, &traffic) else {
      throw TLSTestFailure("no records")
    }
    self.window = window
    self.records = records
  }

  deinit {
    records.end()
    window.free()
    unsafe output.deallocate()
  }

  /// What one call appends to the output.
  private func outputOf(_ capacity: Int? = nil, _ call: (TLSWindow) throws -> Void) rethrows -> [UInt8] {
    unsafe window.setInput(nil, count: 0)
    unsafe window.setOutput(output.baseAddress!, capacity: capacity ?? output.count)
    try call(window)
    return unsafe Array(output.prefix(window.outputCount))
  }

  /// A record of any type and content. More than a record may hold is cut into the type's own byte and zeros by the caller.
  func sealed(_ type: UInt8, _ content: [UInt8]) throws -> [UInt8] {
    try outputOf { window in
      // A record without content still needs an address.
      let bytes = content + [0]
      let isSealed = unsafe bytes.withUnsafeBufferPointer { bytes in
        unsafe records.seal(type, bytes.baseAddress!, content.count, window)
      }
      try #require(isSealed)
    }
  }

  func written(_ bytes: [UInt8], capacity: Int? = nil) throws -> [UInt8] {
    try outputOf(capacity) { window in
      let result = unsafe bytes.withUnsafeBytes { unsafe records.write($0, window) }
      guard case .bytes(bytes.count) = result else { throw TLSTestFailure("\(result)") }
    }
  }

  func closed() -> [UInt8] {
    outputOf { window in
      let isSaid = records.shutdown(window)
      #expect(isSaid)
    }
  }

  /// Everything that the input holds, read through buffers of this size; what was said meanwhile; how it ended.
  func read(_ input: [UInt8], buffer: Int = 1 << 17) -> (plain: [UInt8], said: [UInt8], end: TLSReadResult) {
    let copy = input + [0]
    return unsafe copy.withUnsafeBytes { bytes in
      unsafe window.setInput(bytes.baseAddress!, count: input.count)
      unsafe window.setOutput(output.baseAddress!, capacity: output.count)
      var plain: [UInt8] = []
      let room = UnsafeMutableRawBufferPointer.allocate(byteCount: buffer, alignment: 1)
      defer { unsafe room.deallocate() }
      while true {
        let result = unsafe records.read(into: room, window)
        guard case .bytes(let count) = result else {
          return unsafe (plain, Array(output.prefix(window.outputCount)), result)
        }
        unsafe plain += room.prefix(count)
      }
    }
  }

  /// How a failure reads, as both ends see it.
  func refusal(of input: [UInt8], from peer: RecordEnd) throws -> (ours: String, theirs: String) {
    let (_, said, end) = read(input)
    guard case .failed(let failure) = end else { throw TLSTestFailure("\(end) instead of a failure") }
    guard case .failed(let again) = read([]).end else { throw TLSTestFailure("it did not stay failed") }
    #expect(again == failure)
    let result = unsafe [1].withUnsafeBytes { unsafe records.write($0, window) }
    guard case .failed(failure) = result else { throw TLSTestFailure("it could still write") }
    guard case .failed(let told) = peer.read(said).end else { throw TLSTestFailure("the peer was told nothing") }
    #expect(told.kind == .peerAlert)
    return (failure.reason, told.reason)
  }
}

/// OpenSSL's client as it comes, on a blocking socket.
@safe private final class OpenSSLClient {
  private let context: OpaquePointer
  private let ssl: OpaquePointer

  init(_ fileDescriptor: Int32, suite: String) throws {
    guard let context = unsafe SSL_CTX_new(TLS_client_method()) else { throw TLSTestFailure("no context") }
    unsafe self.context = unsafe context
    guard unsafe SSL_CTX_set_ciphersuites(context, suite) == 1, let ssl = unsafe SSL_new(context) else {
      throw TLSTestFailure("no connection")
    }
    unsafe self.ssl = unsafe ssl
    guard unsafe SSL_set_fd(ssl, fileDescriptor) == 1, unsafe SSL_connect(ssl) == 1 else {
      throw TLSTestFailure("no handshake")
    }
  }

  deinit {
    unsafe SSL_free(ssl)
    unsafe SSL_CTX_free(context)
  }

  func updateKey(_ kind: Int32) throws {
    guard unsafe SSL_key_update(ssl, kind) == 1, unsafe SSL_do_handshake(ssl) == 1 else {
      throw TLSTestFailure("no key update")
    }
  }

  func write(_ bytes: [UInt8]) throws {
    guard unsafe SSL_write(ssl, bytes, Int32(bytes.count)) == bytes.count else { throw TLSTestFailure("not written") }
  }

  /// Waits for the server's end: whether it said close_notify.
  var isEnded: Bool {
    var byte: UInt8 = 0
    let result = unsafe SSL_read(ssl, &byte, 1)
    return unsafe result == 0 && SSL_get_error(ssl, result) == SSL_ERROR_ZERO_RETURN
  }

  func read(_ count: Int) throws -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    var got = 0
    while got < count {
      let more = unsafe bytes.withUnsafeMutableBytes {
        unsafe SSL_read(ssl, $0.baseAddress! + got, Int32(count - got))
      }
      guard more > 0 else { throw TLSTestFailure("ended after \(got) bytes") }
      got += Int(more)
    }
    return bytes
  }
}

@Suite("TLS records") struct TLSRecordsTests {
  private static let suites: [UInt16] = [0x1301, 0x1302, 0x1303]

  private func pair(_ suite: UInt16 = 0x1302) throws -> (client: RecordEnd, server: RecordEnd) {
    (try RecordEnd(suite: suite, reads: 2, writes: 1), try RecordEnd(suite: suite, reads: 1, writes: 2))
  }

  @Test("bytes of any number pass, whole or cut anywhere, through buffers of any size", arguments: suites)
  func sizes(suite: UInt16) throws {
    let (client, server) = try pair(suite)
    for count in [1, 2, 15, 16, 17, 1_023, 1_024, 1_025, 16_383, 16_384, 16_385, 50_000] {
      let bytes = tlsPattern(count, seed: UInt64(count))
      let sealed = try client.written(bytes)
      #expect(sealed.count == count + (count + 16_383) / 16_384 * 22)
      #expect(server.read(sealed).plain == bytes)
      for buffer in [1, 16, 17, 1_000, 16_384, 16_385, 16_401] where buffer > 16 || count < 2_000 {
        #expect(server.read(try client.written(bytes), buffer: buffer).plain == bytes, "\(count) through \(buffer)")
      }
      let cut = try client.written(bytes)
      for place in [1, 4, 5, 6, cut.count / 2, cut.count - 1] {
        let again = try client.written(bytes)
        // The first one of the loop is read whole, in order.
        if place == 1 { #expect(server.read(cut).plain == bytes) }
        let head = server.read(Array(again[..<place]))
        guard case .wantRead = head.end else { throw TLSTestFailure("\(head.end)") }
        #expect(server.records.holdsInput)
        #expect(head.plain + server.read(Array(again[place...])).plain == bytes)
        #expect(!server.records.holdsInput)
      }
    }
  }

  @Test("padding is taken off, and records of nothing but padding are few")
  func padding() throws {
    let (client, server) = try pair()
    // The type stands in the content, and what seal adds is one more zero.
    #expect(server.read(try client.sealed(0, [1, 2, 0, 23, 0, 0])).plain == [1, 2, 0])
    let long = tlsPattern(100, seed: 1) + [23] + Array(repeating: 0, count: 16_000)
    #expect(server.read(try client.sealed(0, long)).plain.count == 100)
    for _ in 0..<TLSRecords.emptyRecords { #expect(server.read(try client.sealed(23, [])).plain.isEmpty) }
    #expect(server.read(try client.written([7])).plain == [7])
    // What we write makes them good, too.
    for _ in 0..<TLSRecords.emptyRecords { #expect(server.read(try client.sealed(0, [23, 0, 0])).plain.isEmpty) }
    #expect(client.read(try server.written([8])).plain == [8])
    for _ in 0..<TLSRecords.emptyRecords { #expect(server.read(try client.sealed(0, [23, 0, 0])).plain.isEmpty) }
    let said = try server.refusal(of: client.sealed(23, []), from: client)
    #expect(said.ours == "too many key updates" && said.theirs == "sslv3 alert unexpected message")
  }

  @Test(
    "a key update changes the key of one direction, and a request is answered before the next bytes", arguments: suites)
  func keyUpdates(suite: UInt16) throws {
    let (client, server) = try pair(suite)
    #expect(server.read(try client.written([1])).plain == [1])
    for isRequest in [true, false, true] {
      let update = try client.sealed(TLSRecords.ContentType.handshake, [24, 0, 0, 1, isRequest ? 1 : 0])
      client.records.takeNextKey()
      let (_, said, _) = server.read(update)
      #expect(said.isEmpty)
      #expect(server.read(try client.written([2, 3])).plain == [2, 3])
      let written = try server.written([4])
      #expect(written.count == 1 + 22 + (isRequest ? 5 + 22 : 0))
      #expect(client.read(written).plain == [4])
    }
    // Two requests that come together need one answer.
    var both = try client.sealed(22, [24, 0, 0, 1, 1])
    client.records.takeNextKey()
    both += try client.sealed(22, [24, 0, 0, 1, 1])
    client.records.takeNextKey()
    #expect(server.read(both).said.isEmpty)
    let written = try server.written([5])
    #expect(written.count == 1 + 22 + 5 + 22)
    #expect(client.read(written).plain == [5])
  }

  @Test("a key that has sealed its share of records is replaced, and the peer follows", arguments: suites)
  func renewal(suite: UInt16) throws {
    let (client, server) = try pair(suite)
    // Both ends at the number of the last record but one.
    server.records.sealed = TLSRecords.recordsPerKey - 1
    client.records.opened = TLSRecords.recordsPerKey - 1
    #expect(client.read(try server.written([1])).plain == [1])
    #expect(server.records.sealed == TLSRecords.recordsPerKey)
    let next = try server.written([2])
    #expect(next.count == 5 + 22 + 1 + 22)
    #expect(server.records.sealed == 1)
    #expect(client.read(next).plain == [2])
  }

  @Test("close_notify is the end, an alert of another kind a failure, user_canceled nothing")
  func alerts() throws {
    let (client, server) = try pair()
    #expect(server.read(try client.sealed(21, [1, 90])).plain.isEmpty)
    let (plain, said, end) = server.read(try client.written([1]) + client.closed() + client.written([2]))
    #expect(plain == [1] && said.isEmpty)
    guard case .closed = end, case .closed = server.read([]).end else { throw TLSTestFailure("\(end)") }
    // Our own direction stays open.
    #expect(client.read(try server.written([3])).plain == [3])
    let (other, failing) = try pair()
    guard case .failed(let failure) = failing.read(try other.sealed(21, [2, 48])).end else {
      throw TLSTestFailure("an alert was overlooked")
    }
    #expect(failure.kind == .peerAlert && failure.reason == "tlsv1 alert unknown ca")
  }

  @Test(
    "what must not come fails the connection and is told to the peer",
    arguments: [
      // content type, content, our reason, the peer's
      (22, [24, 0, 0, 1, 2], "bad key update", "sslv3 alert illegal parameter"),
      (22, [24, 0, 0, 1], "unexpected message", "sslv3 alert unexpected message"),
      (22, [24, 0, 0, 1, 0, 24, 0, 0, 1, 0], "unexpected message", "sslv3 alert unexpected message"),
      (22, [1, 0, 0, 0], "unexpected message", "sslv3 alert unexpected message"),
      (22, [], "unexpected message", "sslv3 alert unexpected message"),
      (20, [1], "unexpected record", "sslv3 alert unexpected message"),
      (24, [1], "unexpected record", "sslv3 alert unexpected message"),
      (0, [], "unexpected record", "sslv3 alert unexpected message"),
      (0, [0, 0], "unexpected record", "sslv3 alert unexpected message"),
      (21, [1], "invalid alert", "tlsv1 alert decode error"),
      (21, [1, 0, 0], "invalid alert", "tlsv1 alert decode error"),
    ] as [(UInt8, [UInt8], String, String)])
  func refused(type: UInt8, content: [UInt8], ours: String, theirs: String) throws {
    let (client, server) = try pair()
    let said = try server.refusal(of: client.sealed(type, content), from: client)
    #expect(said.ours == ours && said.theirs == theirs)
  }

  @Test("records that are too long, too short, unprotected, replayed or changed fail the connection")
  func broken() throws {
    func refusal(_ input: (RecordEnd) throws -> [UInt8]) throws -> String {
      let (client, server) = try pair()
      return try server.refusal(of: input(client), from: client).ours
    }
    let mac = "decryption failed or bad record mac"
    #expect(try refusal { try $0.sealed(23, tlsPattern(16_385, seed: 1)) } == "data length too long")
    #expect(try refusal { _ in [23, 3, 3, 0x41, 0x01] } == "data length too long")
    #expect(try refusal { _ in [23, 3, 3, 0, 16] } == mac)
    #expect(try refusal { _ in [23, 3, 3, 0, 0] } == mac)
    #expect(try refusal { _ in [21, 3, 3, 0, 2, 1, 0] } == "unexpected record")
    #expect(try refusal { _ in [20, 3, 3, 0, 1, 1] } == "unexpected record")
    #expect(try refusal { _ in Array("GET / HTTP/1.1\r\n".utf8) } == "unexpected record")
    #expect(
      try refusal {
        let record = try $0.written([1])
        return record + record
      } == mac)
    // Every byte of a record is protected but its first: another type is refused before it is looked at.
    let length = try pair().client.written([1, 2, 3]).count
    for place in 1..<length {
      let reason = try refusal {
        var record = try $0.written([1, 2, 3])
        record[place] ^= place == 3 ? 0 : 1
        if place == 3 { record.swapAt(5, 6) }
        return record + [0, 0]
      }
      #expect(reason == mac, "byte \(place)")
    }
  }

  @Test(
    "OpenSSL's client goes through key updates of both kinds",
    arguments: ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"])
  func opensslKeyUpdates(suite: String) throws {
    let folder = try TLSFolder()
    let (near, far) = try tlsSocketPair()
    let bytes = tlsPattern(100_000, seed: 9)
    let client = TLSPeerThread {
      defer { close(far) }
      let stream = try OpenSSLClient(far, suite: suite)
      for kind in [SSL_KEY_UPDATE_REQUESTED, SSL_KEY_UPDATE_NOT_REQUESTED, SSL_KEY_UPDATE_REQUESTED] {
        try stream.updateKey(kind)
        try stream.write(bytes)
        // What the server writes next is under its own next key when that was asked for.
        guard try stream.read(bytes.count) == bytes else { throw TLSTestFailure("other bytes came back") }
      }
    }
    let driver = try TLSServerDriver(folder.context(), near)
    try driver.handshake()
    #expect(driver.connection.cipher == suite)
    for _ in 0..<3 { try driver.write(driver.read(bytes.count)) }
    try client.value()
  }

  @Test("a client that asks for shorter records gets them: they stay OpenSSL's", arguments: ["512", "4096"])
  func shorterRecords(length: String) throws {
    let folder = try TLSFolder()
    let (listener, port) = try tlsListener()
    defer { close(listener) }
    let server = TLSPeerThread { [context = try folder.context()] in
      let driver = try TLSServerDriver(context, tlsAccept(listener))
      try driver.handshake(mayDetach: false)
      try driver.write(Array(repeating: UInt8(ascii: "x"), count: 30_000))
      _ = try driver.turn { $0.shutdown($1) }
    }
    let seen = try tlsClient(port, ["-tls1_3", "-maxfraglen", length, "-quiet", "-ign_eof"], input: "")
    try server.value()
    #expect(seen.output.count { $0 == "x" } >= 30_000)
  }

  @Test("records go on behind as many tickets as were written", arguments: [0, 1, 2, 5])
  func tickets(count: Int) throws {
    let folder = try TLSFolder()
    let files = try folder.certificate()
    var settings = TLSServerSettings(
      identities: [try TLSIdentity(certificateFile: files.certificate, keyFile: files.key)], ticketSecret: .random())
    settings.tickets = count
    let context = try TLSServerContext(settings)
    let (near, far) = try tlsSocketPair()
    let client = TLSPeerThread {
      defer { close(far) }
      let stream = try anyClient(far)
      try stream.writeAll([1])
      return try stream.readAll(3)
    }
    let driver = try TLSServerDriver(context, near)
    try driver.handshake()
    #expect(try driver.read(1) == [1])
    try driver.write([1, 2, 3])
    #expect(try client.value() == [1, 2, 3])
  }

  @Test(
    "the kernel goes on where the handshake ended, if it has TLS, and else all stays as it was",
    arguments: ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"])
  func offload(suite: String) throws {
    let folder = try TLSFolder()
    let (listener, port) = try tlsListener()
    defer { close(listener) }
    let bytes = tlsPattern(300_000, seed: 11)
    let client = TLSPeerThread {
      let (near, _) = Socket.connect(SocketAddress("127.0.0.1:\(port)")!)
      let fd = Int32(near)
      defer { close(fd) }
      _ = fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK)
      let stream = try OpenSSLClient(fd, suite: suite)
      guard try stream.read(bytes.count) == bytes else { throw TLSTestFailure("other bytes came") }
      try stream.updateKey(SSL_KEY_UPDATE_NOT_REQUESTED)
      try stream.write([1])
      guard stream.isEnded else { throw TLSTestFailure("no close_notify came") }
      try stream.updateKey(SSL_KEY_UPDATE_REQUESTED)
    }
    let driver = try TLSServerDriver(folder.context(), tlsAccept(listener))
    try driver.handshake()
    try driver.write(Array(bytes[..<1_000]))
    let result = driver.connection.offload(driver.fileDescriptor)
    #expect(result == (KernelTLS.isAvailable() ? .taken : .unavailable))
    if result == .taken {
      var sent = 1_000
      while sent < bytes.count {
        let count = unsafe bytes.withUnsafeBytes {
          unsafe send(driver.fileDescriptor, $0.baseAddress! + sent, $0.count - sent, 0)
        }
        try #require(count > 0)
        sent += count
      }
    } else {
      try driver.write(Array(bytes[1_000...]))
    }
    #expect(try driver.read(1) == [1])
    #expect(try driver.turn { $0.shutdown($1) })
    // The kernel has no next key to answer a request with.
    var end = TLSServerDriver.Read.wantRead
    while case .wantRead = end {
      let more = try driver.receive(65_536)
      if more.isEmpty { break }
      end = try driver.readOnce(more)
    }
    var hasFailed = false
    if case .failed = end { hasFailed = true }
    #expect(hasFailed == (result == .taken))
    try client.value()
    print("kernel TLS: \(result == .taken ? "sealed" : "not there, so not tried") with \(suite)")
  }
}
