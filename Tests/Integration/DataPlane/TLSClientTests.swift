// TLSClientStream against our own server connection and against peers that misbehave.
import Foundation
import Glibc
import TLS
import TestSupport
import Testing

@Suite("TLS client streams")
struct TLSClientTests {
  /// A server that shakes hands, answers three bytes with three bytes, and ends.
  private func server(_ folder: TLSFolder) throws -> (fileDescriptor: Int32, done: TLSPeerThread<String>) {
    let context = try folder.context()
    let (near, far) = try tlsSocketPair()
    let done = TLSPeerThread {
      do {
        let driver = try TLSServerDriver(context, near)
        try driver.handshake()
        try driver.write(driver.read(3).reversed())
        _ = try driver.turn { $0.shutdown($1) }
        return "served"
      } catch { return "\(error)" }
    }
    return (far, done)
  }

  @Test("a certificate is trusted by its CA file and name", arguments: ["localhost", "127.0.0.1", "::1"])
  func trusted(name: String) throws {
    let folder = try TLSFolder()
    let (fileDescriptor, done) = try server(folder)
    defer { close(fileDescriptor) }
    let stream = try TLSClientStream(
      fileDescriptor: fileDescriptor, serverName: name, caFile: folder.file("certificate.pem"), verify: true,
      timeoutMilliseconds: 60_000)
    try stream.writeAll([1, 2, 3])
    #expect(try stream.readAll(10) == [3, 2, 1])
    #expect(try done.value() == "served")
    stream.close()
    #expect { try stream.writeAll([1]) } throws: { ($0 as? TLSError)?.kind == .connection }
  }

  @Test("an unknown certificate or another name is refused, and the error says which")
  func untrusted() throws {
    let folder = try TLSFolder()
    for (name, caFile) in [
      ("localhost", nil), ("example.org", folder.file("certificate.pem")),
      ("127.0.0.2", folder.file("certificate.pem")),
    ] {
      let (fileDescriptor, done) = try server(folder)
      do {
        _ = try TLSClientStream(
          fileDescriptor: fileDescriptor, serverName: name, caFile: caFile, verify: true, timeoutMilliseconds: 60_000)
        Issue.record("\(name) was trusted")
      } catch {
        #expect(error.kind == .untrusted)
        #expect(error.description.contains(name))
        let cause = caFile == nil ? "self-signed" : name == "example.org" ? "hostname mismatch" : "IP address mismatch"
        #expect(error.description.contains(cause))
      }
      close(fileDescriptor)
      #expect(try done.value() != "served")
    }
  }

  @Test("a CA file that cannot be used is named")
  func caFile() throws {
    let folder = try TLSFolder()
    let missing = folder.file("missing.pem")
    #expect {
      try TLSClientStream(
        fileDescriptor: -1, serverName: "localhost", caFile: missing, verify: true, timeoutMilliseconds: 1)
    } throws: { ($0 as? TLSError)?.kind == .file && "\($0)".contains(missing) }
  }

  @Test("a silent peer ends in timedOut, a plain one in a handshake error, a gone one in a connection error")
  func badPeers() throws {
    func attempt(_ prepare: (Int32) -> Void, milliseconds: Int) throws -> TLSError? {
      let (near, far) = try tlsSocketPair()
      defer {
        close(far)
        close(near)
      }
      prepare(near)
      do {
        _ = try TLSClientStream(
          fileDescriptor: far, serverName: "localhost", caFile: nil, verify: false, timeoutMilliseconds: milliseconds)
        return nil
      } catch { return error }
    }
    #expect(try attempt({ _ in }, milliseconds: 20)?.kind == .timedOut)
    let plain = try attempt({ _ = unsafe send($0, "-ERR unknown command\r\n", 22, 0) }, milliseconds: 60_000)
    #expect(plain?.kind == .handshake)
    #expect(try attempt({ shutdown($0, Int32(SHUT_RDWR)) }, milliseconds: 60_000)?.kind == .connection)
  }

  @Test("a write that waited in vain goes on later, without a lost or doubled byte")
  func slowPeer() throws {
    let folder = try TLSFolder()
    let context = try folder.context()
    let (near, far) = try tlsSocketPair()
    defer { close(far) }
    let go = DispatchSemaphore(value: 0)
    let bytes = tlsPattern(3 << 20, seed: 6)
    let done = TLSPeerThread {
      let driver = try TLSServerDriver(context, near)
      try driver.handshake()
      go.wait()
      return try driver.read(bytes.count)
    }
    let stream = try anyClient(far)
    stream.timeoutMilliseconds = 1
    var sent = 0
    var waits = 0
    while sent < bytes.count {
      do {
        sent += try unsafe bytes.withUnsafeBytes {
          unsafe try stream.write(UnsafeRawBufferPointer(rebasing: $0[sent...]))
        }
      } catch {
        #expect((error as? TLSError)?.kind == .timedOut)
        if waits == 0 { go.signal() }
        waits += 1
        stream.timeoutMilliseconds = 60_000
      }
    }
    #expect(waits == 1)
    #expect(try done.value() == bytes)
  }

  @Test("a peer that went away is an error, not a signal")
  func brokenPipe() throws {
    let folder = try TLSFolder()
    let (fileDescriptor, done) = try server(folder)
    defer { close(fileDescriptor) }
    let stream = try anyClient(fileDescriptor)
    try stream.writeAll([1, 2, 3])
    #expect(try stream.readAll(4) == [3, 2, 1])
    #expect(try done.value() == "served")
    #expect { for _ in 0..<100 { try stream.writeAll(tlsPattern(100_000, seed: 7)) } } throws: {
      ($0 as? TLSError)?.kind == .connection && "\($0)".contains("Broken pipe")
    }
  }
}
