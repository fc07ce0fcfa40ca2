// Client certificates, optional and required: what the server learns, and why it refuses.
import Foundation
import Glibc
import TLS
import TestSupport
import Testing

@Suite("TLS client certificates")
struct TLSClientCertificateTests {
  private func folder() throws -> TLSFolder {
    let folder = try TLSFolder()
    try folder.authority()
    try folder.authority("others")
    try folder.signed("server", names: ["localhost"])
    try folder.signed("robot", names: [], subject: "/O=Exämple, Inc/CN=robot", serial: 0xBEEF)
    try folder.signed("stranger", names: [], by: "others")
    try folder.signed("old", names: [], days: -1)
    return folder
  }

  private func context(_ folder: TLSFolder, required: Bool) throws -> TLSServerContext {
    var files = TLSFiles([.init(certificate: folder.file("server.pem"), key: folder.file("server.key"))])
    files.clientAuthorities = folder.file("ca.pem")
    files.clientCertificateIsRequired = required
    return try files.context()
  }

  private func show(_ folder: TLSFolder, _ name: String) -> [String] {
    ["-cert", folder.file("\(name).pem"), "-key", folder.file("\(name).key")]
  }

  @Test("a good one is known by subject, issuer, serial and fingerprint", arguments: [true, false])
  func good(required: Bool) throws {
    let folder = try folder()
    let context = try context(folder, required: required)
    for version in ["-tls1_2", "-tls1_3"] {
      let seen = try tlsExchange(context, [version] + show(folder, "robot"))
      #expect(seen.server.failure == nil)
      let client = try #require(seen.server.client)
      #expect(client.subject == "CN=robot,O=Ex\\C3\\A4mple\\, Inc")
      #expect(client.issuer == "CN=ca,O=Berth tests")
      #expect(client.serial == "BEEF")
      let printed = try openssl(["x509", "-in", folder.file("robot.pem"), "-noout", "-fingerprint", "-sha256"]).output
      #expect(printed.filter { $0 != ":" }.lowercased().contains(client.fingerprint))
      #expect(abs(client.notAfter - Int(Date().timeIntervalSince1970) - 20 * 86_400) < 3_600)
      #expect(seen.output.contains("Acceptable client certificate CA names\nO = Berth tests, CN = ca"))
    }
  }

  @Test("without one, a connection goes on when it is optional, and the reason is named when it is required")
  func missing() throws {
    let folder = try folder()
    for version in ["-tls1_2", "-tls1_3"] {
      let optional = try tlsExchange(context(folder, required: false), [version])
      #expect(optional.server.failure == nil)
      #expect(optional.server.client == nil)
      let required = try tlsExchange(context(folder, required: true), [version])
      #expect(required.server.failure == "the client sent no certificate, and one is required")
    }
  }

  @Test("one that is not good is refused with the reason, optional or not", arguments: [true, false])
  func bad(required: Bool) throws {
    let folder = try folder()
    let context = try context(folder, required: required)
    for version in ["-tls1_2", "-tls1_3"] {
      let stranger = try tlsExchange(context, [version] + show(folder, "stranger"))
      #expect(stranger.server.failure == "the client's certificate is not good: unable to get local issuer certificate")
      let old = try tlsExchange(context, [version] + show(folder, "old"))
      #expect(old.server.failure == "the client's certificate is not good: certificate has expired")
    }
  }

  @Test("nobody is asked who need not show one")
  func ignored() throws {
    let folder = try folder()
    let context = try TLSFiles([.init(certificate: folder.file("server.pem"), key: nil)]).context()
    let seen = try tlsExchange(context, show(folder, "stranger"))
    #expect(seen.server.failure == nil)
    #expect(seen.server.client == nil)
    #expect(seen.output.contains("No client certificate CA names sent"))
  }

  @Test(
    "a resumed session knows the client, and one from other rules is not resumed", arguments: ["-tls1_2", "-tls1_3"])
  func resumption(version: String) throws {
    let folder = try folder()
    try folder.write(String(repeating: "k", count: 32), "secret")
    func context(_ mode: TLSClientCertificates) throws -> TLSServerContext {
      var settings = TLSServerSettings(
        identities: [try TLSIdentity(certificateFile: folder.file("server.pem"))],
        ticketSecret: try TLSTicketSecret(file: folder.file("secret")))
      settings.clients = mode
      return try TLSServerContext(settings)
    }
    let (ours, others) = (
      try TLSAuthorities(file: folder.file("ca.pem")), try TLSAuthorities(file: folder.file("others.pem"))
    )
    let ticket = folder.file("ticket")
    #expect(try !tlsResume(context(.required(ours)), to: ticket, [version] + show(folder, "robot")))
    let (listener, port) = try tlsListener()
    defer { close(listener) }
    let server = tlsServe(try context(.required(ours)), listener)
    _ = try tlsClient(port, [version, "-sess_in", ticket])
    let served = try server.value()
    #expect(served.resumed)
    #expect(served.client?.serial == "BEEF")
    #expect(try !tlsResume(context(.optional(others)), from: ticket, [version]))
    // Most of all: who never showed one does not get in by a ticket.
    for (mode, more) in [(TLSClientCertificates.ignored, []), (.optional(ours), [])]
      as [(TLSClientCertificates, [String])]
    {
      #expect(try !tlsResume(context(mode), to: ticket, [version] + more))
      let (listener, port) = try tlsListener()
      defer { close(listener) }
      let server = tlsServe(try context(.required(ours)), listener)
      _ = try tlsClient(port, [version, "-sess_in", ticket])
      #expect(try server.value().failure == "the client sent no certificate, and one is required")
    }
  }

  @Test("a CA file that cannot be used is named")
  func authorities() throws {
    let folder = try folder()
    for (file, why) in [
      ("missing.pem", "No such file or directory"), ("robot.key", "there is no PEM certificate in it"),
    ] {
      #expect {
        try TLSAuthorities(file: folder.file(file))
      } throws: {
        "\($0)" == "client CA file \(folder.file(file)): \(why)"
      }
    }
  }
}
