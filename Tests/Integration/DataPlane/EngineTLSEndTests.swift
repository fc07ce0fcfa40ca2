// Ends of TLS connections as the engine sees them: a close_notify that comes with something else is not told by any event.
import Engine
import Glibc
import Posix
import TLS
import TestSupport
import Testing

@Suite struct EngineTLSEndTests {
  /// Sends a request and close_notify, at once with the handshake's end where that can be, and reads to the end of the
  /// connection. How many bytes of ciphertext came; nil when it did not end.
  private func askAndClose(_ engine: TestEngine, _ authority: String, requests: Int) throws -> Int? {
    let peer = Peer(connectingTo: engine.engine.tlsAddresses[0])
    let stream = try TLSClientStream(
      fileDescriptor: peer.fd, serverName: "localhost", caFile: authority, verify: true, timeoutMilliseconds: 60_000)
    try stream.writeAll(Array(String(repeating: "GET / HTTP/1.1\r\nHost: a\r\n\r\n", count: requests).utf8))
    stream.close()
    var count = 0
    while let bytes = peer.receive() {
      if bytes.isEmpty { return count }
      count += bytes.count
    }
    return nil
  }

  @Test("close_notify behind requests ends the connection after their answers", arguments: [1, 3])
  func closeBehindRequests(requests: Int) throws {
    let folder = try TLSFolder()
    let files = try folder.certificate()
    let body = String(repeating: "x", count: 5_000)
    let instance = AnsweringInstance { _ in "HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + body }
    var limits = EngineLimits()
    limits.keepAliveMilliseconds = 3_600_000
    limits.headMilliseconds = 3_600_000
    let engine = try TestEngine(instances: [instance.address], limits: limits, certificate: files)
    for _ in 0..<10 {
      let count = try #require(try askAndClose(engine, files.certificate, requests: requests))
      #expect(count > requests * 5_000)
    }
    #expect(eventually { engine.value(.responses2xx) == 10 * requests })
  }

  @Test("a failure that comes with the end of the handshake is told with an alert and ends the connection")
  func badRecordWithFinished() throws {
    let folder = try TLSFolder()
    let files = try folder.certificate()
    let instance = AnsweringInstance(saying: "never")
    let engine = try TestEngine(instances: [instance.address], certificate: files)
    let (near, far) = try tlsSocketPair()
    let upstream = Peer(connectingTo: engine.engine.tlsAddresses[0])
    // Between the client and the engine stands one that keeps the client's last flight until a request follows it, spoils
    // the last byte and passes all of it on at once.
    let client = TLSPeerThread { () -> String in
      defer { close(far) }
      let stream = try anyClient(far)
      try stream.writeAll(Array("GET / HTTP/1.1\r\nHost: a\r\n\r\n".utf8))
      shutdown(far, Int32(SHUT_WR))
      do { return "\(try stream.readAll(1).count) bytes" } catch { return "\(error)" }
    }
    let middle = Peer(fd: near)
    upstream.send(try #require(middle.receive()))
    // The server's flight goes back until the client answers it.
    while true {
      var entries = [upstream.fd, near].map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
      try #require(unsafe poll(&entries, 2, 60_000) > 0)
      if entries[1].revents != 0 { break }
      middle.send(try #require(upstream.receive()))
    }
    var flight: [UInt8] = []
    while let bytes = middle.receive(), !bytes.isEmpty { flight += bytes }
    flight[flight.count - 1] ^= 1
    upstream.send(flight)
    while let bytes = upstream.receive(), !bytes.isEmpty { middle.send(bytes) }
    middle.endOutput()
    #expect(try client.value().contains("bad record mac"))
    #expect(instance.requests == 0)
  }
}
