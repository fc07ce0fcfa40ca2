// The other side of the TLS tests: socket pairs, threads with an answer, a driver that feeds a server connection the way
// an event loop does (in pieces, through windows of a chosen size), and the `openssl` command.
import Foundation
import Glibc
import TLS
import TestSupport
import Testing

/// Drives one server connection over a blocking socket like a worker would: receive a piece, point the window at it,
/// call, send what the output holds.
@safe final class TLSServerDriver {
  let fileDescriptor: Int32
  let window: TLSWindow
  let connection: TLSServerConnection
  /// What the client has proved to be, as of the end of the handshake.
  private(set) var client: TLSClientCertificate?
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

  /// The whole handshake, with input in pieces of at most `piece` bytes. Then, as in a worker, OpenSSL's state goes.
  /// - Parameter mayDetach: false when the client's wishes keep it from that.
  func handshake(piece: Int = 65_536, detaches: Bool = true, mayDetach: Bool = true) throws {
    var input: [UInt8] = []
    while true {
      switch try turn(input, { $0.handshake($1) }) {
      case .done:
        client = connection.clientCertificate
        if detaches { connection.detach() }
        #expect(connection.isDetached == (detaches && mayDetach && connection.version == "TLSv1.3"))
        return
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
