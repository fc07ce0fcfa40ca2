// Each way in which a handshake comes to nothing is counted by its reason, once, and nothing else is.
import Engine
import Foundation
import Glibc
import Posix
import ProxyMachine
import TLS
import TestSupport
import Testing

@Suite("TLS failures by reason")
struct TLSFailureCountTests {
  private let folder: TLSFolder
  private let engine: TestEngine

  init() throws {
    folder = try TLSFolder()
    try folder.authority()
    try folder.signed("server", names: ["localhost"])
    try folder.authority("others")
    try folder.signed("stranger", names: [], by: "others")
    var limits = EngineLimits()
    // One test waits for it; the programs of the others must not need so long.
    limits.handshakeMilliseconds = 3_000
    engine = try TestEngine(
      instances: [], limits: limits, certificate: (folder.file("server.pem"), folder.file("server.key")))
  }

  private var port: Int { engine.engine.tlsAddresses[0].port }

  /// Changes what the engine serves, and waits until it does.
  private func serve(_ change: (inout TLSFiles) -> Void) throws {
    var files = TLSFiles([.init(certificate: folder.file("server.pem"), key: folder.file("server.key"))])
    change(&files)
    engine.engine.replace(certificates: Certificates(context: try files.context()))
    // The worker's mailbox is read before the next connection that comes after it.
    let peer = engine.connect()
    peer.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    _ = peer.receiveAll()
  }

  private var counts: [String: Int] {
    var counts: [String: Int] = [:]
    for (reason, count) in Counter.tlsFailuresByReason({ engine.value($0) }) where count > 0 { counts[reason] = count }
    return counts
  }

  private func counted(_ expected: [String: Int]) throws {
    if !eventually({ counts == expected }) { throw TLSTestFailure("\(counts), not \(expected)") }
  }

  private func connect() -> Peer { Peer(connectingTo: engine.engine.tlsAddresses[0]) }

  @Test("plain requests, noise, silence, and clients that go away")
  func notTLS() throws {
    let plain = connect()
    plain.send("DELETE / HTTP/1.1\r\nHost: a\r\n\r\n")
    #expect(plain.receiveAll()?.hasPrefix("HTTP/1.1 400 ") == true)
    try counted(["plain_http": 1])
    let noise = connect()
    noise.send([UInt8](repeating: 0x7F, count: 32))
    _ = noise.receiveAll()
    try counted(["plain_http": 1, "not_tls": 1])
    let silent = connect()
    // The beginning of a record, so that the kernel gives the connection away.
    silent.send([0x16])
    #expect(silent.ends())
    try counted(["plain_http": 1, "not_tls": 1, "timeout": 1])
    #expect(eventually { engine.value(CloseReason.handshakeTimeout) == 1 })
    do {
      let gone = connect()
      gone.send([0x16, 0x03])
      gone.endOutput()
      #expect(gone.ends())
    }
    try counted(["plain_http": 1, "not_tls": 1, "timeout": 1, "gone": 1])
    do {
      let reset = connect()
      reset.send([0x16, 0x03])
      usleep(20_000)
      reset.reset()
    }
    try counted(["plain_http": 1, "not_tls": 1, "timeout": 1, "gone": 2])
    #expect(engine.value(.tlsHandshakes) == 0)
  }

  @Test("no common version or suite, and a client that does not trust us")
  func disagreement() throws {
    _ = try tlsClient(port, ["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"])
    try counted(["version": 1])
    _ = try tlsClient(port, ["-tls1_2", "-cipher", "AES256-SHA"])
    try counted(["version": 1, "cipher": 1])
    _ = try tlsClient(port, ["-tls1_3", "-sigalgs", "RSA-PSS+SHA256"])
    try counted(["version": 1, "cipher": 2])
    _ = try tlsClient(port, ["-tls1_2", "-CAfile", folder.file("others.pem"), "-verify_return_error"])
    try counted(["version": 1, "cipher": 2, "alert": 1])
    try serve { $0.minimumVersion = .v13 }
    _ = try tlsClient(port, ["-tls1_2"])
    try counted(["version": 2, "cipher": 2, "alert": 1])
    #expect(engine.value(.tlsHandshakes) == 0)
    // After all that a good client is served.
    #expect(try tlsClient(port, ["-tls1_3"]).output.contains("TLSv1.3"))
    #expect(eventually { engine.value(.tlsHandshakes) == 1 })
    try counted(["version": 2, "cipher": 2, "alert": 1])
  }

  @Test("client certificates that are missing or not good", arguments: ["-tls1_2", "-tls1_3"])
  func clientCertificates(version: String) throws {
    try serve {
      $0.clientAuthorities = folder.file("ca.pem")
      $0.clientCertificateIsRequired = true
    }
    _ = try tlsClient(port, [version])
    try counted(["client_certificate": 1])
    _ = try tlsClient(port, [version, "-cert", folder.file("stranger.pem"), "-key", folder.file("stranger.key")])
    try counted(["client_certificate": 2])
    _ = try tlsClient(port, [version, "-cert", folder.file("server.pem"), "-key", folder.file("server.key")])
    #expect(eventually { engine.value(.tlsHandshakes) == 1 })
    try counted(["client_certificate": 2])
  }

  @Test("handshakes that resume a session are told apart", arguments: ["-tls1_2", "-tls1_3"])
  func resumed(version: String) throws {
    let ticket = folder.file("ticket")
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    _ = try tlsClient(port, [version, "-sess_out", ticket, "-ign_eof"], input: request)
    #expect(eventually { engine.value(.tlsHandshakes) == 1 })
    #expect(engine.value(.tlsResumed) == 0)
    _ = try tlsClient(port, [version, "-sess_in", ticket, "-ign_eof"], input: request)
    #expect(eventually { engine.value(.tlsHandshakes) == 2 })
    #expect(eventually { engine.value(.tlsResumed) == 1 })
    try counted([:])
  }
}
