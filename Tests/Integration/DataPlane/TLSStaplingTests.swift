// OCSP answers from files: stapled when the client asks and they are good, left out with a warning when they are not.
import Foundation
import Glibc
import TLS
import TestSupport
import Testing

@Suite("TLS OCSP stapling")
struct TLSStaplingTests {
  /// Makes `<name>.pem.ocsp`, as the authority's responder would answer.
  private func answer(_ folder: TLSFolder, _ name: String, about: String? = nil, minutes: Int = 60) throws {
    let about = about ?? name
    let serial = try openssl(["x509", "-in", folder.file("\(about).pem"), "-noout", "-serial"]).output
      .split(separator: "=").last!.trimmingCharacters(in: .whitespacesAndNewlines)
    try folder.write("V\t400101000000Z\t\t\(serial)\tunknown\t/CN=\(about)\n", "index.txt")
    let made = try openssl([
      "ocsp", "-index", folder.file("index.txt"), "-rsigner", folder.file("ca.pem"), "-rkey", folder.file("ca.key"),
      "-CA", folder.file("ca.pem"), "-issuer", folder.file("ca.pem"), "-cert", folder.file("\(about).pem"),
      "-respout", folder.file("\(name).pem.ocsp"), "-nmin", String(minutes),
    ])
    guard made.status == 0 else { throw TLSTestFailure(made.output) }
  }

  private func folder() throws -> TLSFolder {
    let folder = try TLSFolder()
    try folder.authority()
    try folder.signed("one", names: ["one.test"])
    try folder.signed("two", names: ["two.test"])
    return folder
  }

  private func context(_ folder: TLSFolder, clock: Int = 0) throws -> TLSServerContext {
    var settings = TLSServerSettings(
      identities: try ["one", "two"].map {
        try TLSIdentity(certificateFile: folder.file("\($0).pem"), clockOffsetSeconds: clock)
      })
    settings.clockOffsetSeconds = clock
    return try TLSServerContext(settings)
  }

  private func staple(_ context: TLSServerContext, _ name: String, _ more: [String] = []) throws -> String {
    let seen = try tlsExchange(context, ["-status"] + more, name: name)
    if let failure = seen.server.failure { throw TLSTestFailure(failure) }
    return seen.output
  }

  @Test("whoever asks gets the answer of the certificate that it gets", arguments: ["-tls1_2", "-tls1_3"])
  func stapled(version: String) throws {
    let folder = try folder()
    try answer(folder, "two")
    let context = try context(folder)
    #expect(context.warnings.isEmpty)
    let text = try staple(context, "two.test", [version])
    #expect(text.contains("OCSP Response Status: successful (0x0)"))
    #expect(text.contains("Cert Status: good"))
    #expect(try staple(context, "one.test", [version]).contains("OCSP response: no response sent"))
    // Who does not ask gets none.
    let silent = try tlsExchange(context, [version], name: "two.test")
    #expect(!silent.output.contains("OCSP"))
    try answer(folder, "one")
    #expect(try staple(self.context(folder), "one.test", [version]).contains("Cert Status: good"))
  }

  @Test("an answer that ends is stapled no longer, while the process runs")
  func ends() throws {
    let folder = try folder()
    try answer(folder, "one", minutes: 60)
    // Read as of now, used as of then: what a context does an hour after it was made.
    var settings = TLSServerSettings(identities: [try TLSIdentity(certificateFile: folder.file("one.pem"))])
    settings.clockOffsetSeconds = 3_480
    #expect(try staple(TLSServerContext(settings), "one.test").contains("Cert Status: good"))
    settings.clockOffsetSeconds = 3_601
    #expect(try staple(TLSServerContext(settings), "one.test").contains("no response sent"))
  }

  @Test("one that is of no use is named, and the certificate is served without")
  func useless() throws {
    let folder = try folder()
    let file = folder.file("one.pem.ocsp")
    func warnings(clock: Int = 0) throws -> [String] {
      let context = try context(folder, clock: clock)
      #expect(try staple(context, "one.test").contains("no response sent"))
      return context.warnings
    }
    try answer(folder, "one", about: "two")
    #expect(try warnings() == ["OCSP file \(file): it is about another certificate, so none is stapled"])
    try answer(folder, "one", minutes: 1)
    #expect(try warnings(clock: 61) == ["OCSP file \(file): it has expired, so none is stapled"])
    try folder.write("nonsense", "one.pem.ocsp")
    #expect(try warnings() == ["OCSP file \(file): it is no OCSP response in DER, so none is stapled"])
    // "try later" (RFC 6960, 4.2.1) is a response without an answer.
    try Data([0x30, 0x03, 0x0A, 0x01, 0x03]).write(to: URL(fileURLWithPath: file))
    #expect(try warnings() == ["OCSP file \(file): the responder answered with an error, so none is stapled"])
  }
}
