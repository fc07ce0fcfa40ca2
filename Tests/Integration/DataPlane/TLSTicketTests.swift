// Session tickets: who takes whose, for how long, and that nothing of it holds when it must not.
import Foundation
import Glibc
import TLS
import TestSupport
import Testing

@Suite("TLS session tickets")
struct TLSTicketTests {
  private static let epoch = 7_200

  /// A context of a replica: its own object, certificate files and perhaps a clock of its own.
  private func replica(_ folder: TLSFolder, secret: TLSTicketSecret, clock: Int = 0, tickets: Int = 1) throws
    -> TLSServerContext
  {
    var settings = TLSServerSettings(
      identities: [
        try TLSIdentity(certificateFile: folder.file("one.pem")),
        try TLSIdentity(certificateFile: folder.file("two.pem")),
      ], ticketSecret: secret)
    settings.clockOffsetSeconds = clock
    settings.tickets = tickets
    return try TLSServerContext(settings)
  }

  private func folder() throws -> TLSFolder {
    let folder = try TLSFolder()
    try folder.authority()
    try folder.signed("one", names: ["one.test"])
    try folder.signed("two", names: ["two.test"])
    return folder
  }

  private func secret(_ folder: TLSFolder, _ text: String, _ name: String = "secret") throws -> TLSTicketSecret {
    try folder.write(text, name)
    return try TLSTicketSecret(file: folder.file(name))
  }

  @Test("replicas with one secret resume each other's sessions, others do not", arguments: ["-tls1_2", "-tls1_3"])
  func shared(version: String) throws {
    let folder = try folder()
    let text = "0123456789abcdef0123456789abcdef"
    let first = try replica(folder, secret: secret(folder, text))
    // White space around it does not count: an editor or `echo` added it.
    let second = try replica(folder, secret: secret(folder, text + "\n"))
    let stranger = try replica(folder, secret: secret(folder, text + "g"))
    let alone = try replica(folder, secret: .random())
    let ticket = folder.file("ticket")
    #expect(try !tlsResume(first, to: ticket, [version]))
    #expect(try tlsResume(second, from: ticket, [version]))
    #expect(try !tlsResume(stranger, from: ticket, [version]))
    #expect(try !tlsResume(alone, from: ticket, [version]))
    // And from a certificate that was chosen by name.
    #expect(try !tlsResume(first, to: ticket, [version], name: "two.test"))
    #expect(try tlsResume(second, from: ticket, [version], name: "two.test"))
    #expect(try !tlsResume(stranger, from: ticket, [version], name: "two.test"))
  }

  @Test("keys of the last, this and the next two hours are taken", arguments: ["-tls1_2", "-tls1_3"])
  func epochs(version: String) throws {
    let folder = try folder()
    let secret = try secret(folder, String(repeating: "s", count: 32))
    // In the middle of an epoch, whatever the time is.
    let start = Self.epoch / 2 - Int(Date().timeIntervalSince1970) % Self.epoch
    func at(_ epochs: Int) throws -> TLSServerContext {
      try replica(folder, secret: secret, clock: start + epochs * Self.epoch)
    }
    let ticket = folder.file("ticket")
    #expect(try !tlsResume(at(0), to: ticket, [version]))
    for (epochs, resumed) in [(-2, false), (-1, true), (0, true), (1, true), (2, false), (0, true)] {
      #expect(try tlsResume(at(epochs), from: ticket, [version]) == resumed, "\(epochs) epochs later")
    }
    // Whoever resumes with a key of the last epoch gets a ticket of this one. In TLS 1.3 everybody does.
    func tickets(_ epochs: Int) throws -> Int {
      let (listener, port) = try tlsListener()
      defer { close(listener) }
      let server = try tlsServe(at(epochs), listener, answer: [1])
      let seen = try tlsClient(port, ["-ign_eof", "-msg", "-sess_in", ticket, version], input: "hello\n")
      #expect(try server.value().resumed)
      return seen.output.components(separatedBy: "NewSessionTicket").count - 1
    }
    #expect(try tickets(1) == 1)
    #expect(try tickets(0) == (version == "-tls1_2" ? 0 : 1))
    guard version == "-tls1_3" else { return }
    let renewed = folder.file("renewed")
    #expect(try tlsResume(at(1), from: ticket, to: renewed, [version]))
    #expect(try tlsResume(at(2), from: renewed, [version]))
  }

  @Test("a changed ticket makes a full handshake, not an error")
  func changed() throws {
    let folder = try folder()
    let context = try replica(folder, secret: .random())
    let ticket = folder.file("ticket")
    for version in ["-tls1_2", "-tls1_3"] {
      #expect(try !tlsResume(context, to: ticket, [version]))
      var der = try sessionDER(ticket)
      // The end of the ticket is its MAC.
      let range = try #require(longestOctetString(der), "a session file holds a ticket")
      der[range.upperBound - 1] ^= 1
      try writeSession(der, folder.file("changed"))
      #expect(try !tlsResume(context, from: folder.file("changed"), [version]))
      der[range.upperBound - 1] ^= 1
      try writeSession(der, folder.file("changed"))
      #expect(try tlsResume(context, from: folder.file("changed"), [version]))
    }
  }

  @Test("the number of tickets is what was asked for, and 0 means no resumption")
  func number() throws {
    let folder = try folder()
    for tickets in [0, 1, 2] {
      let context = try replica(folder, secret: .random(), tickets: tickets)
      let (listener, port) = try tlsListener()
      defer { close(listener) }
      let server = tlsServe(context, listener, answer: [1])
      let seen = try tlsClient(port, ["-ign_eof", "-msg"], input: "hello\n")
      _ = try server.value()
      #expect(seen.output.components(separatedBy: "NewSessionTicket").count - 1 == tickets)
    }
    let none = try replica(folder, secret: .random(), tickets: 0)
    let seen = try tlsExchange(none, ["-tls1_2"])
    #expect(seen.server.failure == nil)
    #expect(!seen.output.contains("TLS session ticket:"))
    // Tickets from when there were some.
    let secret = try secret(folder, String(repeating: "s", count: 32))
    let ticket = folder.file("ticket")
    for version in ["-tls1_2", "-tls1_3"] {
      #expect(try !tlsResume(replica(folder, secret: secret), to: ticket, [version]))
      #expect(try !tlsResume(replica(folder, secret: secret, tickets: 0), from: ticket, [version]))
    }
  }

  @Test("a secret that could be guessed is refused, with the command that makes a good one")
  func weak() throws {
    let folder = try folder()
    for text in ["", "short", String(repeating: "x", count: 31), "\n" + String(repeating: "x", count: 31) + " \n"] {
      #expect {
        try secret(folder, text)
      } throws: {
        "\($0)".hasPrefix("ticket secret file \(folder.file("secret")): it has ")
          && "\($0)".hasSuffix("at least 32 are needed; make one with: openssl rand -base64 48")
      }
    }
    #expect {
      try TLSTicketSecret(file: folder.file("missing"))
    } throws: {
      "\($0)" == "ticket secret file \(folder.file("missing")): No such file or directory"
    }
    #expect(try secret(folder, String(repeating: "x", count: 32)) == secret(folder, String(repeating: "x", count: 32)))
    #expect(TLSTicketSecret.random() != TLSTicketSecret.random())
  }

  @Test("another process resumes: Python's ssl keeps the session and shows it again")
  func python() throws {
    let folder = try folder()
    let secret = try secret(folder, String(repeating: "p", count: 40))
    let (first, second) = (try replica(folder, secret: secret), try replica(folder, secret: secret))
    let (listener, port) = try tlsListener()
    defer { close(listener) }
    let script = """
      import socket, ssl, sys
      context = ssl.create_default_context(cafile=sys.argv[2])
      session = None
      for round in range(3):
          raw = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=60)
          with context.wrap_socket(raw, server_hostname="two.test", session=session) as tls:
              tls.sendall(b"hello\\n")
              assert tls.recv(1) == b"\\x01"
              print(tls.session_reused, flush=True)
              session = tls.session
      """
    try folder.write(script, "client.py")
    let server = TLSPeerThread { () -> [Bool] in
      try [first, second, first].map { try tlsServe($0, listener, answer: [1]).value().resumed }
    }
    let client = Process()
    client.executableURL = URL(fileURLWithPath: "/usr/bin/env")
    client.arguments = ["python3", folder.file("client.py"), String(port), folder.file("ca.pem")]
    let output = Pipe()
    client.standardOutput = output
    try client.run()
    let printed = try output.fileHandleForReading.readToEnd() ?? Data()
    client.waitUntilExit()
    #expect(client.terminationStatus == 0)
    #expect(String(decoding: printed, as: UTF8.self) == "False\nTrue\nTrue\n")
    #expect(try server.value() == [false, true, true])
  }

  // MARK: Session files

  private func sessionDER(_ file: String) throws -> [UInt8] {
    let lines = try String(contentsOfFile: file, encoding: .utf8).split(separator: "\n").filter {
      !$0.hasPrefix("-----")
    }
    guard let data = Data(base64Encoded: lines.joined()) else { throw TLSTestFailure("no session in \(file)") }
    return Array(data)
  }

  private func writeSession(_ der: [UInt8], _ file: String) throws {
    let text = Data(der).base64EncodedString(options: [.lineLength64Characters, .endLineWithLineFeed])
    try "-----BEGIN SSL SESSION PARAMETERS-----\n\(text)\n-----END SSL SESSION PARAMETERS-----\n"
      .write(toFile: file, atomically: true, encoding: .utf8)
  }

  /// OpenSSL writes the ticket as an octet string under the tag [10], longer than all others under that number by chance.
  private func longestOctetString(_ der: [UInt8]) -> Range<Int>? {
    var best: Range<Int>?
    for index in 0..<(der.count - 4) where der[index] == 0x04 {
      let range: Range<Int>
      switch der[index + 1] {
      case 0x81: range = index + 3..<index + 3 + Int(der[index + 2])
      case 0x82: range = index + 4..<index + 4 + Int(der[index + 2]) << 8 + Int(der[index + 3])
      default: continue
      }
      // Tag [10] stands right before: 0xAA and its own length.
      let tagged = [2, 3, 4].contains { index >= $0 && der[index - $0] == 0xAA }
      if tagged, range.upperBound <= der.count, range.count > (best?.count ?? 0) { best = range }
    }
    return best
  }
}
