// The other side of the TLS tests: socket pairs, threads with an answer, a driver that feeds a server connection the way
// an event loop does (in pieces, through windows of a chosen size), and the `openssl` command.
import Foundation
import Glibc
import TLS
import Testing

/// Work on a thread of its own, because both ends of a blocking conversation must run at once.
final class TLSPeerThread<Value: Sendable>: @unchecked Sendable {
  private let done = DispatchSemaphore(value: 0)
  private var result: Result<Value, any Error>?

  init(_ work: @escaping @Sendable () throws -> Value) {
    Thread.detachNewThread {
      self.result = Result { try work() }
      self.done.signal()
    }
  }

  /// Waits; a thread that never ends is a failure after a minute, not a hanging run.
  func value() throws -> Value {
    guard done.wait(timeout: .now() + 60) == .success, let result else {
      throw TLSTestFailure("the other side never ended")
    }
    return try result.get()
  }
}

struct TLSTestFailure: Error, CustomStringConvertible {
  let description: String
  init(_ description: String) { self.description = description }
}

/// A connected pair of stream sockets whose blocking calls give up after a minute.
func tlsSocketPair() throws -> (Int32, Int32) {
  var ends: [Int32] = [-1, -1]
  guard unsafe socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &ends) == 0 else {
    throw TLSTestFailure("socketpair")
  }
  for end in ends { tlsBound(end) }
  return (ends[0], ends[1])
}

/// So that a mistake ends a test instead of hanging the run.
func tlsBound(_ fileDescriptor: Int32) {
  var limit = timeval(tv_sec: 60, tv_usec: 0)
  for option in [SO_RCVTIMEO, SO_SNDTIMEO] {
    _ = unsafe setsockopt(fileDescriptor, SOL_SOCKET, option, &limit, socklen_t(MemoryLayout<timeval>.size))
  }
}

/// A listening socket on a free loopback port.
func tlsListener() throws -> (fileDescriptor: Int32, port: Int) {
  let listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
  var address = sockaddr_in()
  address.sin_family = sa_family_t(AF_INET)
  address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
  var length = socklen_t(MemoryLayout<sockaddr_in>.size)
  let bound = unsafe withUnsafeMutablePointer(to: &address) {
    unsafe $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
      unsafe bind(listener, $0, length) == 0 && listen(listener, 8) == 0 && getsockname(listener, $0, &length) == 0
    }
  }
  guard bound else { throw TLSTestFailure("no listener") }
  return (listener, Int(UInt16(bigEndian: address.sin_port)))
}

func tlsAccept(_ listener: Int32) throws -> Int32 {
  tlsBound(listener)
  let accepted = accept(listener, nil, nil)
  guard accepted >= 0 else { throw TLSTestFailure("nobody connected") }
  tlsBound(accepted)
  return accepted
}

/// Files of one test, removed with it.
final class TLSFolder {
  let path: String
  init() throws {
    path = NSTemporaryDirectory() + "berth-tls-" + UUID().uuidString
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
  }
  deinit { try? FileManager.default.removeItem(atPath: path) }
  func file(_ name: String) -> String { path + "/" + name }

  /// A certificate for localhost that this folder holds.
  func certificate() throws -> (certificate: String, key: String) {
    let files = (file("certificate.pem"), file("key.pem"))
    try DevelopmentCertificate.write(certificateFile: files.0, keyFile: files.1)
    return files
  }
  func context() throws -> TLSServerContext {
    let files = try certificate()
    return try TLSServerContext(certificateFile: files.certificate, keyFile: files.key)
  }
}

/// Runs the `openssl` command to its end.
@discardableResult
func openssl(_ arguments: [String], input: String? = nil) throws -> (status: Int32, output: String) {
  let process = Process()
  process.executableURL = URL(fileURLWithPath: "/usr/bin/openssl")
  process.arguments = arguments
  let output = Pipe()
  let stdin = Pipe()
  process.standardOutput = output
  process.standardError = output
  process.standardInput = stdin
  try process.run()
  if let input { try stdin.fileHandleForWriting.write(contentsOf: Data(input.utf8)) }
  try stdin.fileHandleForWriting.close()
  let bytes = try output.fileHandleForReading.readToEnd() ?? Data()
  process.waitUntilExit()
  return (process.terminationStatus, String(decoding: bytes, as: UTF8.self))
}

/// Bytes whose every position tells, so that lost, doubled or swapped pieces show.
func tlsPattern(_ count: Int, seed: UInt64) -> [UInt8] {
  var state = seed
  return (0..<count).map { _ in
    state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
    return UInt8(truncatingIfNeeded: state >> 33)
  }
}

/// Drives one server connection over a blocking socket like a worker would: receive a piece, point the window at it,
/// call, send what the output holds.
@safe final class TLSServerDriver {
  let fileDescriptor: Int32
  let window: TLSWindow
  let connection: TLSServerConnection
  private let output: UnsafeMutableRawBufferPointer
  /// Bytes of the output that pretend to be taken by somebody else's records.
  var occupied = 0
  private var carried: [UInt8] = []

  init(_ context: TLSServerContext, _ fileDescriptor: Int32, outputCapacity: Int = 65_536) throws {
    guard let window = TLSWindow(), let connection = TLSServerConnection(context: context, window: window) else {
      throw TLSTestFailure("no memory")
    }
    self.fileDescriptor = fileDescriptor
    self.window = window
    self.connection = connection
    unsafe output = .allocate(byteCount: outputCapacity, alignment: 1)
  }

  deinit {
    connection.free()
    window.free()
    unsafe output.deallocate()
    close(fileDescriptor)
  }

  /// At most `limit` bytes from the peer; empty at its end.
  func receive(_ limit: Int) throws -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: limit)
    let count = unsafe recv(fileDescriptor, &bytes, limit, 0)
    guard count >= 0 else { throw TLSTestFailure("nothing came: errno \(errno)") }
    return Array(bytes.prefix(count))
  }

  /// Exactly `count` bytes from the peer.
  func receiveExactly(_ count: Int) throws -> [UInt8] {
    var bytes: [UInt8] = []
    while bytes.count < count {
      let piece = try receive(count - bytes.count)
      guard !piece.isEmpty else { throw TLSTestFailure("the peer ended") }
      bytes += piece
    }
    return bytes
  }

  /// One call with this input; sends what came out. The buffer of the input is gone afterwards, so a connection that kept
  /// a pointer into it would be found out.
  func turn<Result>(_ input: [UInt8] = [], _ call: (TLSServerConnection, TLSWindow) -> Result) throws -> Result {
    let bytes = carried + input
    let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: max(1, bytes.count), alignment: 1)
    defer { unsafe copy.deallocate() }
    unsafe copy.copyBytes(from: bytes)
    unsafe window.setInput(UnsafeRawPointer(copy.baseAddress!), count: bytes.count)
    unsafe window.setOutput(output.baseAddress!, capacity: output.count, count: occupied)
    let result = call(connection, window)
    carried = Array(bytes[window.inputConsumed...])
    var sent = occupied
    while sent < window.outputCount {
      let count = unsafe send(
        fileDescriptor, output.baseAddress! + sent, window.outputCount - sent, Int32(MSG_NOSIGNAL))
      guard count > 0 else { throw TLSTestFailure("the peer does not take bytes: errno \(errno)") }
      sent += count
    }
    unsafe memset(copy.baseAddress!, 0xEE, copy.count)
    return result
  }

  /// The whole handshake, with input in pieces of at most `piece` bytes.
  func handshake(piece: Int = 65_536) throws {
    var input: [UInt8] = []
    while true {
      switch try turn(input, { $0.handshake($1) }) {
      case .done: return
      case .wantRead:
        #expect(carried.isEmpty, "wantRead means that the input is used up")
        input = try receive(piece)
        guard !input.isEmpty else { throw TLSTestFailure("the peer ended in the handshake") }
      case .wantWrite: input = []
      case .failed(let failure): throw TLSTestFailure(failure.reason)
      }
    }
  }

  /// Reads until there are `count` bytes, through a plaintext buffer of `buffer` bytes.
  func read(_ count: Int, piece: Int = 65_536, buffer: Int = 65_536) throws -> [UInt8] {
    var got: [UInt8] = []
    var input: [UInt8] = []
    while got.count < count {
      let result = try readOnce(input, buffer: buffer)
      input = []
      switch result {
      case .plain(let bytes): got += bytes
      case .wantRead:
        #expect(carried.isEmpty, "wantRead means that the input is used up")
        input = try receive(piece)
        guard !input.isEmpty else { throw TLSTestFailure("the peer ended after \(got.count) bytes") }
      case .closed: throw TLSTestFailure("close_notify after \(got.count) bytes")
      case .failed(let failure): throw TLSTestFailure(failure.reason)
      }
    }
    return got
  }

  enum Read: Equatable {
    case plain([UInt8])
    case wantRead
    case closed
    case failed(TLSFailure)
  }

  func readOnce(_ input: [UInt8] = [], buffer: Int = 65_536) throws -> Read {
    var plain = [UInt8](repeating: 0, count: buffer)
    let result = try unsafe plain.withUnsafeMutableBytes { bytes in
      try turn(input) { unsafe $0.read(into: bytes, $1) }
    }
    return switch result {
    case .bytes(let count): .plain(Array(plain.prefix(count)))
    case .wantRead: .wantRead
    case .closed: .closed
    case .failed(let failure): .failed(failure)
    }
  }

  /// One write; how many bytes were taken.
  func writeOnce(_ bytes: ArraySlice<UInt8>) throws -> Int {
    // A fresh copy each time: the rest of a write may come from another address.
    let copy = Array(bytes)
    let result = try unsafe copy.withUnsafeBytes { bytes in
      try turn { unsafe $0.write(bytes, $1) }
    }
    switch result {
    case .bytes(let count): return count
    case .failed(let failure): throw TLSTestFailure(failure.reason)
    }
  }

  func write(_ bytes: [UInt8]) throws {
    var rest = bytes[...]
    while !rest.isEmpty {
      let taken = try writeOnce(rest)
      guard taken > 0 else { throw TLSTestFailure("an empty output took nothing") }
      rest = rest.dropFirst(taken)
    }
  }
}

extension TLSClientStream {
  func writeAll(_ bytes: [UInt8]) throws {
    var sent = 0
    while sent < bytes.count {
      sent += try unsafe bytes.withUnsafeBytes { unsafe try write(UnsafeRawBufferPointer(rebasing: $0[sent...])) }
    }
  }
  /// Reads `count` bytes, or fewer when the peer ends.
  func readAll(_ count: Int) throws -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    var got = 0
    while got < count {
      let piece = try unsafe bytes.withUnsafeMutableBytes {
        unsafe try read(into: UnsafeMutableRawBufferPointer(rebasing: $0[got...]))
      }
      if piece == 0 { break }
      got += piece
    }
    return Array(bytes.prefix(got))
  }
}

/// A client that trusts nothing in particular, for tests of the server.
func anyClient(_ fileDescriptor: Int32) throws -> TLSClientStream {
  try TLSClientStream(
    fileDescriptor: fileDescriptor, serverName: "localhost", caFile: nil, verify: false, timeoutMilliseconds: 60_000)
}
