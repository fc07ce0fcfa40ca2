// The certificates and settings as other programs see them: the `openssl` command reads and verifies the development
// certificate, and talks to a server context.
import Foundation
import Glibc
import TLS
import TestSupport
import Testing

@Suite("TLS certificates and settings")
struct TLSCertificateTests {
  @Test("a development certificate names localhost, 127.0.0.1 and ::1, and its key is private")
  func development() throws {
    let folder = try TLSFolder()
    let files = try folder.certificate()
    let text = try openssl(["x509", "-in", files.certificate, "-noout", "-text"]).output
    #expect(text.contains("DNS:localhost, IP Address:127.0.0.1, IP Address:0:0:0:0:0:0:0:1"))
    #expect(text.contains("NIST CURVE: P-256"))
    #expect(text.contains("TLS Web Server Authentication"))
    #expect(
      try openssl(["verify", "-CAfile", files.certificate, "-verify_hostname", "localhost", files.certificate]).status
        == 0)
    #expect(try openssl(["verify", "-CAfile", files.certificate, "-verify_ip", "::1", files.certificate]).status == 0)
    #expect(
      try openssl(["verify", "-CAfile", files.certificate, "-verify_hostname", "other", files.certificate]).status != 0)
    let mode = try FileManager.default.attributesOfItem(atPath: files.key)[.posixPermissions] as? Int
    #expect(mode == 0o600)
    // Nothing is left beside them, and a second one replaces the first.
    let before = try String(contentsOfFile: files.certificate, encoding: .utf8)
    _ = try folder.certificate()
    #expect(try String(contentsOfFile: files.certificate, encoding: .utf8) != before)
    #expect(
      try FileManager.default.contentsOfDirectory(atPath: folder.path).sorted() == ["certificate.pem", "key.pem"])
  }

  @Test(
    "a name that could change the certificate's extensions is refused", arguments: ["", "a,IP:1.2.3.4", "a b", "é"])
  func names(name: String) throws {
    let folder = try TLSFolder()
    #expect {
      try DevelopmentCertificate.write(certificateFile: folder.file("c"), keyFile: folder.file("k"), names: [name])
    } throws: { ($0 as? TLSError)?.description.contains("cannot be the name") == true }
    #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path).isEmpty)
  }

  @Test("a folder that is not there is named")
  func noFolder() throws {
    #expect {
      try DevelopmentCertificate.write(certificateFile: "/nonexistent/c.pem", keyFile: "/nonexistent/k.pem")
    } throws: { "\($0)" == "cannot write /nonexistent/k.pem: No such file or directory" }
  }

  @Test("a file that cannot be used is named, with the cause")
  func unusable() throws {
    let folder = try TLSFolder()
    let files = try folder.certificate()
    let other = (folder.file("other.pem"), folder.file("other-key.pem"))
    try DevelopmentCertificate.write(certificateFile: other.0, keyFile: other.1)
    let rsa = folder.file("rsa.pem")
    try openssl(["genrsa", "-out", rsa, "2048"])
    let locked = folder.file("locked.pem")
    try openssl(["ec", "-in", files.key, "-aes128", "-passout", "pass:secret", "-out", locked])
    let empty = folder.file("empty.pem")
    try Data().write(to: URL(fileURLWithPath: empty))
    let missing = folder.file("missing.pem")

    func message(_ certificate: String, _ key: String) -> String {
      do {
        _ = try TLSServerContext(certificateFile: certificate, keyFile: key)
        return "accepted"
      } catch { return error.description }
    }
    #expect(message(files.certificate, files.key) == "accepted")
    #expect(message(missing, files.key) == "certificate file \(missing): No such file or directory")
    #expect(message(files.certificate, missing) == "key file \(missing): No such file or directory")
    #expect(message(empty, files.key) == "certificate file \(empty): there is no PEM certificate in it")
    #expect(message(files.key, files.key) == "certificate file \(files.key): there is no PEM certificate in it")
    #expect(message(files.certificate, empty) == "key file \(empty): there is no PEM private key in it")
    #expect(
      message(files.certificate, files.certificate)
        == "key file \(files.certificate): there is no PEM private key in it")
    for wrong in [other.1, rsa] {
      #expect(
        message(files.certificate, wrong)
          == "key file \(wrong): this key does not belong to the certificate in \(files.certificate)")
    }
    #expect(
      message(files.certificate, locked) == "key file \(locked): it is encrypted, a key without a pass phrase is needed"
    )
  }

  @Test("TLS 1.2 and 1.3 with ALPN http/1.1 and X25519 first; older versions and h2 alone are refused")
  func settings() throws {
    let folder = try TLSFolder()
    let context = try folder.context()
    let (listener, port) = try tlsListener()
    defer { close(listener) }
    let trusted = ["-CAfile", folder.file("certificate.pem"), "-verify_return_error"]

    var server = tlsServe(context, listener)
    var seen = try tlsClient(port, trusted + ["-alpn", "h2,http/1.1"])
    #expect(seen.output.contains("ALPN protocol: http/1.1"))
    #expect(seen.output.contains("Server Temp Key: X25519"))
    #expect(try server.value().version == "TLSv1.3")

    server = tlsServe(context, listener)
    seen = try tlsClient(port, trusted + ["-tls1_2"])
    #expect(seen.output.contains("No ALPN negotiated"))
    #expect(seen.output.contains("Cipher is ECDHE-ECDSA-"))
    #expect(try server.value().version == "TLSv1.2")

    // Clients of HTTP/1.0, curl for one, offer it alone; who offers both gets 1.1.
    for (offered, chosen) in [("http/1.0", "http/1.0"), ("http/1.0,http/1.1", "http/1.1")] {
      server = tlsServe(context, listener)
      seen = try tlsClient(port, trusted + ["-alpn", offered])
      #expect(seen.output.contains("ALPN protocol: \(chosen)"))
      #expect(try server.value().version == "TLSv1.3")
    }

    server = tlsServe(context, listener)
    seen = try tlsClient(port, ["-alpn", "h2"])
    #expect(seen.output.contains("no application protocol"))
    #expect(try server.value().failure == "no application protocol")

    server = tlsServe(context, listener)
    seen = try tlsClient(port, ["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"])
    #expect(seen.output.contains("protocol version"))
    #expect(try server.value().failure == "unsupported protocol")

    server = tlsServe(context, listener)
    seen = try tlsClient(port, ["-verify_return_error"])
    #expect(seen.status != 0)
    let failure = try server.value().failure
    #expect(failure?.contains("alert") == true, "an untrusting client says so: \(failure ?? "nothing")")
  }

  @Test("sessions are resumed by ticket", arguments: ["-tls1_2", "-tls1_3"])
  func resumption(version: String) throws {
    let folder = try TLSFolder()
    let context = try folder.context()
    let (listener, port) = try tlsListener()
    defer { close(listener) }
    let ticket = folder.file("ticket")
    // The client must stay until the ticket has come, so the server ends this one.
    var server = tlsServe(context, listener, answer: [1])
    _ = try tlsClient(port, [version, "-sess_out", ticket, "-ign_eof"], input: "hello\n")
    #expect(try server.value().resumed == false)
    server = tlsServe(context, listener)
    let seen = try tlsClient(port, [version, "-sess_in", ticket])
    #expect(seen.output.contains("Reused, TLSv1."))
    #expect(try server.value().resumed)
  }

  @Test("a key update is answered in front of the next write, within its reserve")
  func keyUpdate() throws {
    let folder = try TLSFolder()
    let context = try folder.context()
    let (listener, port) = try tlsListener()
    defer { close(listener) }
    let greeted = DispatchSemaphore(value: 0)
    let updated = DispatchSemaphore(value: 0)
    let server = TLSPeerThread { () -> [UInt8] in
      let driver = try TLSServerDriver(context, tlsAccept(listener))
      try driver.handshake()
      #expect(try driver.read(6) == Array("hello\n".utf8))
      greeted.signal()
      // The client's request to update is not plaintext.
      #expect(try driver.readOnce(driver.receive(1_000)) == .wantRead)
      #expect(driver.window.outputCount == 0)
      updated.signal()
      let line = try driver.read(6)
      try driver.write(Array("seen\n".utf8))
      _ = try driver.turn { $0.shutdown($1) }
      return line
    }
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/openssl")
    process.arguments = ["s_client", "-connect", "127.0.0.1:\(port)"]
    let (input, output) = (Pipe(), Pipe())
    process.standardInput = input
    process.standardOutput = output
    process.standardError = FileHandle.nullDevice
    try process.run()
    try input.fileHandleForWriting.write(contentsOf: Data("hello\n".utf8))
    try #require(greeted.wait(timeout: .now() + 60) == .success)
    try input.fileHandleForWriting.write(contentsOf: Data("K\n".utf8))
    try #require(updated.wait(timeout: .now() + 60) == .success)
    try input.fileHandleForWriting.write(contentsOf: Data("again\n".utf8))
    #expect(try server.value() == Array("again\n".utf8))
    let text = try output.fileHandleForReading.readToEnd() ?? Data()
    process.waitUntilExit()
    #expect(String(decoding: text, as: UTF8.self).contains("seen\n"))
  }
}
