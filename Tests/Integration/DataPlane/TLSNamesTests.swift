// Many certificates: which one a client gets by name and key type, and the forms of files that they come in.
import Foundation
import Glibc
import TLS
import TestSupport
import Testing

@Suite("TLS certificates by name")
struct TLSNamesTests {
  /// Which certificate `openssl s_client` gets for a name.
  private func subject(_ context: TLSServerContext, _ name: String?, _ more: [String] = []) throws -> String? {
    let seen = try tlsExchange(context, more, name: name)
    if let failure = seen.server.failure { throw TLSTestFailure(failure) }
    return tlsSubject(seen.output)
  }

  @Test("exact before wildcard, a wildcard is one label, and whoever is unknown gets the first")
  func names() throws {
    let folder = try TLSFolder()
    try folder.authority()
    let context = try TLSFiles([
      folder.signed("first", names: ["first.test"]), folder.signed("wild", names: ["*.example.test", "a*.odd.test"]),
      folder.signed("exact", names: ["www.example.test", "Mixed.Example.Test"]), folder.signed("named", names: []),
    ]).context()
    for (name, expected) in [
      ("first.test", "first"), ("www.example.test", "exact"), ("WWW.Example.TEST", "exact"),
      ("mixed.example.test", "exact"),
      ("www.example.test.", "exact"), ("other.example.test", "wild"), ("a.b.example.test", "first"),
      ("example.test", "first"), ("ab.odd.test", "first"), ("unknown.test", "first"), (".example.test", "first"),
      ("named", "named"),
    ] { #expect(try subject(context, name) == expected, "\(name)") }
    #expect(try subject(context, nil) == "first")
    // The chosen one is used by TLS 1.2 too.
    #expect(try subject(context, "www.example.test", ["-tls1_2"]) == "exact")
    #expect(try subject(context, "x.example.test", ["-tls1_2"]) == "wild")
    #expect(context.warnings.isEmpty)
  }

  @Test("a name may have a certificate of each key type, and each client gets the one that it can check")
  func keyTypes() throws {
    let folder = try TLSFolder()
    try folder.authority()
    let context = try TLSFiles([
      folder.signed("first", names: ["first.test"]),
      folder.signed("two-rsa", names: ["two.test"], kind: .rsa),
      folder.signed("two-ec", names: ["two.test", "one.test"]),
    ]).context()
    let ecdsa = ["-sigalgs", "ECDSA+SHA256"]
    let rsa = ["-sigalgs", "RSA-PSS+SHA256:RSA+SHA256"]
    for version in ["-tls1_2", "-tls1_3"] {
      #expect(try subject(context, "two.test", [version] + ecdsa) == "two-ec")
      #expect(try subject(context, "two.test", [version] + rsa) == "two-rsa")
      // Both can be checked: ECDSA costs the server a tenth.
      #expect(try subject(context, "two.test", [version]) == "two-ec")
    }
    #expect(try subject(context, "one.test") == "two-ec")
    let failed = try tlsExchange(context, rsa, name: "one.test")
    #expect(failed.server.failure?.contains("no suitable signature algorithm") == true)
  }

  @Test("clients without a name get both key types of the first certificate's name")
  func unnamed() throws {
    let folder = try TLSFolder()
    try folder.authority()
    let context = try TLSFiles([
      folder.signed("ec", names: ["one.test"]), folder.signed("rsa", names: ["one.test"], kind: .rsa),
    ]).context()
    #expect(try subject(context, nil, ["-sigalgs", "RSA-PSS+SHA256"]) == "rsa")
    #expect(try subject(context, nil, ["-sigalgs", "ECDSA+SHA256"]) == "ec")
  }

  @Test("certificates that no client can get are named")
  func unused() throws {
    let folder = try TLSFolder()
    try folder.authority()
    let context = try TLSFiles([
      folder.signed("a", names: ["one.test"]), folder.signed("b", names: ["one.test"]),
      folder.signed("c", names: [], subject: "/O=nameless"), folder.signed("d", names: ["d.test"], days: -1),
    ]).context()
    #expect(
      context.warnings == [
        "certificate file \(folder.file("d.pem")): it has expired",
        "certificate file \(folder.file("b.pem")): no client gets it, because a certificate before it has the same names "
          + "and the same type of key",
        "certificate file \(folder.file("c.pem")): no client gets it, because it has no DNS name and is not the first "
          + "certificate",
      ])
    #expect(
      context.ends.map(\.certificateFile).map { ($0 as NSString).lastPathComponent } == [
        "a.pem", "b.pem", "c.pem", "d.pem",
      ])
    let inDays = (context.ends[0].notAfter - Int(Date().timeIntervalSince1970) + 3_600) / 86_400
    #expect(inDays == 20)
  }

  @Test("the chain is sent, of the right certificate")
  func chain() throws {
    let folder = try TLSFolder()
    try folder.authority()
    try folder.signed("first", names: ["first.test"])
    let made = try openssl(
      ["req", "-x509", "-nodes", "-days", "30", "-subj", "/CN=middle", "-keyout", folder.file("middle.key")]
        + ["-CA", folder.file("ca.pem"), "-CAkey", folder.file("ca.key"), "-out", folder.file("middle.pem")]
        + TLSKeyKind.ecdsa.arguments)
    try #require(made.status == 0, "\(made.output)")
    try folder.signed("leaf", names: ["leaf.test"], by: "middle")
    try folder.write(try folder.read("leaf.pem") + folder.read("middle.pem"), "full.pem")
    let context = try TLSFiles([
      .init(certificate: folder.file("first.pem"), key: nil),
      .init(certificate: folder.file("full.pem"), key: folder.file("leaf.key")),
    ]).context()
    let check = ["-CAfile", folder.file("ca.pem"), "-verify_return_error"]
    let seen = try tlsExchange(context, check + ["-verify_hostname", "leaf.test"], name: "leaf.test")
    #expect(seen.server.failure == nil)
    #expect(seen.output.contains("Verify return code: 0 (ok)"))
    let first = try tlsExchange(context, check + ["-verify_hostname", "first.test"], name: "first.test")
    #expect(first.output.contains("Verify return code: 0 (ok)"))
  }

  @Test("a directory may hold pairs, combined files and keys beside them")
  func directory() throws {
    let folder = try TLSFolder()
    try folder.authority()
    for name in ["one", "two", "three", "four"] { try folder.signed(name, names: ["\(name).test"]) }
    let path = folder.file("certificates")
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: false)
    func put(_ text: String, _ name: String) throws {
      try text.write(toFile: path + "/" + name, atomically: true, encoding: .utf8)
    }
    try put(try folder.read("one.pem") + folder.read("one.key"), "1-combined.pem")
    try put(try folder.read("two.key") + folder.read("two.pem"), "2-key-first.pem")
    try put(try folder.read("three.pem"), "tls.crt")
    try put(try folder.read("three.key"), "tls.key")
    try put(try folder.read("four.pem"), "x.pem")
    try put(try folder.read("four.key"), "x.pem.key")
    try put("no certificate at all", "README")
    try put("no certificate at all", ".hidden.pem")
    // Only a key, as certbot's privkey.pem.
    try put(try folder.read("four.key"), "y.pem")
    var files = TLSFiles()
    files.directory = path
    let context = try files.context()
    #expect(context.ends.count == 4)
    for name in ["one", "two", "three", "four"] { #expect(try subject(context, "\(name).test") == name) }
    #expect(try subject(context, nil) == "one")

    try put(try folder.read("one.pem"), "z.cer")
    func message() -> String {
      do {
        _ = try files.context()
        return "accepted"
      } catch { return "\(error)" }
    }
    #expect(
      message() == "certificate file \(path)/z.cer: there is no private key in it, nor in \(path)/z.cer.key or "
        + "\(path)/z.key")
    try put(try folder.read("two.key"), "z.key")
    #expect(
      message() == "key file \(path)/z.key: this key does not belong to the certificate in \(path)/z.cer")
    try put("nothing", "z.cer")
    #expect(message() == "certificate file \(path)/z.cer: there is no PEM certificate in it")
    files.directory = folder.file("missing")
    #expect(message() == "certificate directory \(folder.file("missing")): No such file or directory")
    try FileManager.default.createDirectory(atPath: folder.file("empty"), withIntermediateDirectories: false)
    files.directory = folder.file("empty")
    #expect(
      message()
        == "certificate directory \(folder.file("empty")): there is no .pem, .crt or .cer file in it")
  }

  @Test("a combined file whose key is another's is refused")
  func combinedMismatch() throws {
    let folder = try TLSFolder()
    try folder.authority()
    try folder.signed("one", names: ["one.test"])
    try folder.signed("two", names: ["two.test"])
    try folder.write(try folder.read("one.pem") + folder.read("two.key"), "mixed.pem")
    let file = folder.file("mixed.pem")
    #expect {
      try TLSIdentity(certificateFile: file)
    } throws: {
      "\($0)" == "key file \(file): this key does not belong to the first certificate in it"
    }
    try folder.write(String(repeating: "x", count: 1 << 21), "large.pem")
    #expect {
      try TLSIdentity(certificateFile: folder.file("large.pem"))
    } throws: {
      "\($0)".contains("it is larger than 1048576 bytes")
    }
  }

  @Test("TLS 1.2 can be refused")
  func minimumVersion() throws {
    let folder = try TLSFolder()
    try folder.authority()
    var files = TLSFiles([try folder.signed("one", names: ["one.test"]), try folder.signed("two", names: ["two.test"])])
    files.minimumVersion = .v13
    let context = try files.context()
    for name in ["one.test", "two.test"] {
      #expect(try tlsExchange(context, ["-tls1_2"], name: name).server.failure == "unsupported protocol")
      #expect(try tlsExchange(context, name: name).server.version == "TLSv1.3")
    }
  }

  @Test("a thousand names are found")
  func thousand() throws {
    let folder = try TLSFolder()
    try folder.authority()
    let first = try folder.signed("first", names: ["first.test"])
    let many = try folder.signed("many", names: (0..<1_000).map { "n\($0 * 7919 % 1_000).many.test" })
    let context = try TLSFiles([first, many]).context()
    for name in [0, 1, 499, 500, 998, 999] { #expect(try subject(context, "n\(name).many.test") == "many") }
    #expect(try subject(context, "n1000.many.test") == "first")
  }
}
