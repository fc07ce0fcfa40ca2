// What clients get when the kernel is asked to seal their records: the same bytes, whether it does or not. Which of the two
// was tried here is printed, and checked against what the kernel says of itself.
import Engine
import Foundation
import Glibc
import Posix
import Routing
import TestSupport
import Testing

@Suite("Kernel TLS for clients") struct EngineKernelTLSTests {
  private func engine(_ instances: [SocketAddress], _ folder: TLSFolder, splice: SpliceMode = .never) throws
    -> (TestEngine, String)
  {
    let files = try folder.certificate()
    return (
      try TestEngine(instances: instances, splice: splice, certificate: files, kernelTLS: true), files.certificate
    )
  }

  /// The engine leaves records to the kernel exactly where that has TLS.
  private func check(_ engine: TestEngine, clients: Int) {
    let isThere = KernelTLS.isAvailable()
    #expect(eventually { engine.value(.tlsHandshakes) == clients })
    #expect(engine.value(.tlsOffloaded) == (isThere ? clients : 0))
    print("kernel TLS: \(isThere ? "the kernel sealed these" : "this kernel has none, so Berth sealed these itself")")
  }

  @Test("answers of every size arrive whole on one connection, and its end is told")
  func answers() throws {
    let folder = try TLSFolder()
    let text = String(decoding: tlsPattern(3_000_000, seed: 1).map { $0 & 0x3F | 0x40 }, as: UTF8.self)
    let instance = AnsweringInstance { head in
      let count = Int(head.split(separator: " ")[1].dropFirst())!
      return "HTTP/1.1 200 OK\r\nContent-Length: \(count)\r\n\r\n" + text.prefix(count)
    }
    let (engine, authority) = try engine([instance.address], folder)
    let client = try engine.connectTLS(caFile: authority)
    for count in [0, 1, 100, 16_384, 16_385, 200_000, 3_000_000] {
      client.send("GET /\(count) HTTP/1.1\r\nHost: a\r\n\r\n")
      #expect(client.receive(upTo: "\r\n\r\n")?.contains("200 OK") == true)
      let body = client.receive(count: count)
      #expect(body.map { String(decoding: $0, as: UTF8.self) == text.prefix(count) } == true, "\(count) bytes")
    }
    // Without close_notify the client would call the end a cut.
    client.send("GET /1000000 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    #expect(client.receive(upTo: "\r\n\r\n")?.contains("200 OK") == true)
    #expect(client.receive(count: 1_000_000)?.count == 1_000_000)
    #expect(client.receive() == [])
    check(engine, clients: 1)
  }

  @Test("a slow reader of a long answer gets it whole, and the end behind it")
  func slowReader() throws {
    let folder = try TLSFolder()
    let body = String(repeating: "0123456789abcdef", count: 1 << 19)
    let instance = AnsweringInstance { _ in "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body }
    let (engine, authority) = try engine([instance.address], folder)
    let client = try engine.connectTLS(caFile: authority)
    client.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n")
    #expect(client.receive(upTo: "\r\n\r\n")?.contains("200 OK") == true)
    // The engine has filled the kernel's buffers when the rest waits in its own.
    #expect(eventually { engine.engine.metrics[0].value(.bytesToClients) > 100_000 })
    var got = 0
    while let bytes = client.receive(), !bytes.isEmpty { got += bytes.count }
    #expect(got == body.utf8.count)
    check(engine, clients: 1)
  }

  @Test("a tunnel carries both ways, copied and spliced", arguments: [SpliceMode.never, .always])
  func tunnel(splice: SpliceMode) throws {
    let folder = try TLSFolder()
    let instance = ScriptedInstance()
    let (engine, authority) = try engine([instance.address], folder, splice: splice)
    let client = try engine.connectTLS(caFile: authority)
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    let far = try #require(instance.accept())
    #expect(far.receive(upTo: "\r\n\r\n")?.contains("websocket") == true)
    far.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    #expect(client.receive(upTo: "\r\n\r\n")?.contains("101") == true)
    for count in [1, 1_000, 100_000, 5_000_000] {
      let bytes = tlsPattern(count, seed: UInt64(count))
      // Whoever reads runs beside whoever writes.
      let down = TLSPeerThread { far.send(bytes) }
      #expect(client.receive(count: count) == bytes, "\(count) bytes to the client")
      try down.value()
      let up = TLSPeerThread { client.send(bytes) }
      #expect(far.receive(count: count) == bytes, "\(count) bytes from the client")
      try up.value()
    }
    if splice == .always, KernelTLS.isAvailable() { #expect(engine.value(.splicedBytes) > 1_000_000) }
    far.endOutput()
    #expect(client.receive() == [])
    check(engine, clients: 1)
  }
}
