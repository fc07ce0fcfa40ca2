// What tests of TLS need on both planes: socket pairs, threads with an answer, folders of certificates, and the `openssl`
// command.
import Foundation
import Glibc
package import TLS

/// Work on a thread of its own, because both ends of a blocking conversation must run at once.
package final class TLSPeerThread<Value: Sendable>: @unchecked Sendable {
  private let done = DispatchSemaphore(value: 0)
  private var result: Result<Value, any Error>?

  package init(_ work: @escaping @Sendable () throws -> Value) {
    Thread.detachNewThread {
      self.result = Result { try work() }
      self.done.signal()
    }
  }

  /// Waits; a thread that never ends is a failure after a minute, not a hanging run.
  package func value() throws -> Value {
    guard done.wait(timeout: .now() + 60) == .success, let result else {
      throw TLSTestFailure("the other side never ended")
    }
    return try result.get()
  }
}

package struct TLSTestFailure: Error, CustomStringConvertible {
  package let description: String
  package init(_ description: String) { self.description = description }
}

/// A connected pair of stream sockets whose blocking calls give up after a minute.
package func tlsSocketPair() throws -> (Int32, Int32) {
  var ends: [Int32] = [-1, -1]
  guard unsafe socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &ends) == 0 else {
    throw TLSTestFailure("socketpair")
  }
  for end in ends { tlsBound(end) }
  return (ends[0], ends[1])
}

/// So that a mistake ends a test instead of hanging the run.
package func tlsBound(_ fileDescriptor: Int32) {
  var limit = timeval(tv_sec: 60, tv_usec: 0)
  for option in [SO_RCVTIMEO, SO_SNDTIMEO] {
    _ = unsafe setsockopt(fileDescriptor, SOL_SOCKET, option, &limit, socklen_t(MemoryLayout<timeval>.size))
  }
}

/// A listening socket on a free loopback port.
package func tlsListener() throws -> (fileDescriptor: Int32, port: Int) {
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

package func tlsAccept(_ listener: Int32) throws -> Int32 {
  tlsBound(listener)
  let accepted = accept(listener, nil, nil)
  guard accepted >= 0 else { throw TLSTestFailure("nobody connected") }
  tlsBound(accepted)
  return accepted
}

/// Files of one test, removed with it.
package final class TLSFolder {
  package let path: String
  package init() throws {
    path = NSTemporaryDirectory() + "berth-tls-" + UUID().uuidString
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
  }
  deinit { try? FileManager.default.removeItem(atPath: path) }
  package func file(_ name: String) -> String { path + "/" + name }

  /// A certificate for localhost that this folder holds.
  package func certificate() throws -> (certificate: String, key: String) {
    let files = (file("certificate.pem"), file("key.pem"))
    try DevelopmentCertificate.write(certificateFile: files.0, keyFile: files.1)
    return files
  }
  package func context() throws -> TLSServerContext {
    let files = try certificate()
    return try TLSServerContext(certificateFile: files.certificate, keyFile: files.key)
  }
}

/// Runs the `openssl` command to its end.
@discardableResult
package func openssl(_ arguments: [String], input: String? = nil) throws -> (status: Int32, output: String) {
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
package func tlsPattern(_ count: Int, seed: UInt64) -> [UInt8] {
  var state = seed
  return (0..<count).map { _ in
    state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
    return UInt8(truncatingIfNeeded: state >> 33)
  }
}
